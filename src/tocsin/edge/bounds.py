"""The bounds of forecasts on a device: what `models.conformal` does, for one machine, without compiled code."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

ERRORS_MIN, STARTUP, WILD_FROM, WILD, SPAN, TIMES = 30, 10, 15, 15.0, 23.0, (0.5, 100.0)
RATE, SIDE_RATE = 0.05, 0.01
"""As in `models.conformal`, which says why; a test holds the two to each other."""


class Bounds:
    """Learns from each error how wide bounds must be to hold the promised share."""

    def __init__(self, start: Sequence[float], coverage: float, horizon: int) -> None:
        self.count, self.scale, self.below, self.above = start
        self.coverage = coverage
        self.pending: deque[tuple[float, float, float]] = deque([(math.nan,) * 3] * horizon, horizon)
        """What was forecast for the next periods, with its bounds."""

    def settle(self, y: float) -> tuple[float, float, float]:
        """Returns what was forecast for this period, with its bounds, after learning from how far off it was."""
        made = self.pending[0]
        error = y - made[0]
        if not math.isnan(error):
            self._learn(error, made[1] - made[0], made[2] - made[0])
        return made

    def give(self, ahead: float) -> tuple[float, float, float]:
        """Returns a forecast with its bounds, and keeps it until its period comes."""
        given = (ahead, math.nan, math.nan)
        if self.count >= ERRORS_MIN:
            given = (ahead, ahead - self.below * self.scale, ahead + self.above * self.scale)
        self.pending.append(given)
        return given

    def skip(self, periods: int) -> None:
        """Let periods pass in which nothing was forecast."""
        for _ in range(min(periods, len(self.pending))):
            self.pending.append((math.nan,) * 3)

    def _learn(self, error: float, lower: float, upper: float) -> None:
        wild = self.count >= WILD_FROM and abs(error) > WILD * self.scale > 0
        size = WILD * self.scale if wild else abs(error)
        if not math.isnan(lower):
            beyond = (1.0 - self.coverage) / 2
            below, above = (error < lower) - beyond, (error > upper) - beyond
            both = RATE * (below + above)
            self.below = min(max(self.below * math.exp(both + SIDE_RATE * below), TIMES[0]), TIMES[1])
            self.above = min(max(self.above * math.exp(both + SIDE_RATE * above), TIMES[0]), TIMES[1])
        self.count += 1
        if self.count > STARTUP:
            span = SPAN + len(self.pending)
            self.scale += (size - self.scale) * max(1.0 / (self.count - STARTUP), 2.0 / (span + 1.0))
