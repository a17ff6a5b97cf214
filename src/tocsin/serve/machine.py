"""What is known of one machine: its state, its newest readings, and, while there is room, the points of its series."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from tocsin.domain.alarms import ACTIVE
from tocsin.pipeline.plan import Asset
from tocsin.serve.alarm_list import TEXT_MAX
from tocsin.serve.condition import Condition
from tocsin.serve.messages import Glance, ShownAlarm, SignalValue, Tile
from tocsin.serve.series import POINTS_MAX, Points, SeriesBuffer, rounded

MINUTES_MAX = 20
"""So long scores are known here; the tables hold them by then."""
RECENT_POINTS = 60
"""For the small line in a tile."""
VALUES_MAX = 3
"""So many signals have their newest reading in a tile."""
GRAVEST_FIRST = ("abnormal", "warming")
"""Verdicts that stand for a machine while one of its signals has them; of all other states the newest stands."""
SILENT_S_MIN = 10.0
SILENT_INTERVALS = 5.0
"""Nothing has come for so many times the usual interval, and for `SILENT_S_MIN` at least: that is silent."""
ILL_HEALTH, ILL_PERCENT = 50, 25
"""A signal is ill that has so much of a share in what pulls a health down, which is so low."""
_COMMON_MIN = 4
"""What the names of all signals begin with is left out if it is at least so long."""


@dataclass(slots=True)
class MachineView:
    """What is known of one machine."""

    id: int
    name: str
    asset: Asset
    seen_s: float
    """When it was last heard, on the monotonic clock."""
    interval_s: float = 0.0
    """How often it is heard, smoothed."""
    series: dict[tuple[str, str], SeriesBuffer] = field(default_factory=dict)
    """By stream and signal."""
    first: SeriesBuffer | None = None
    """The series that a tile has on top, with a small line: the one that came first, or the first that is ill."""
    left_out: set[tuple[str, str]] = field(default_factory=set)
    """The series beyond those that are shown."""
    kept_s: float | None = None
    """Since when the points of its series are kept, on the monotonic clock; None while they are not."""
    is_whole: bool = False
    """Whether no points lie in the lake alone: all have been kept from the first on, or have been recalled."""
    has_hole: bool = False
    """Whether points were left out that nobody who looks at it has been told of."""
    condition: Condition = field(default_factory=Condition)
    told: Tile | None = None
    """What browsers were last told of it."""
    line: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=RECENT_POINTS))
    """The newest readings of its first series, with their time in milliseconds."""
    worst: dict[int, tuple[float, float]] = field(default_factory=dict)
    """The highest score of each of the last minutes, and when it was, in milliseconds; by minute since 1970."""
    _states: dict[tuple[str, str], str] = field(default_factory=dict)
    """What is said of it, by stream and signal (the signal is empty where the stream has none); the newest last."""
    _state: str = ""
    _rings: str = ""
    """The signal of its worst open alarm."""

    def hear(self, now_s: float) -> None:
        """Note that something has come."""
        gap = now_s - self.seen_s
        if not self.interval_s and np.isfinite(gap):
            self.interval_s = gap
        else:
            self.interval_s = 0.9 * self.interval_s + 0.1 * min(gap, 10 * self.interval_s)
        self.seen_s = now_s

    def score(self, scores: Points, times_ms: Points) -> None:
        """Note the highest of these scores (NaN for none)."""
        known = np.flatnonzero(np.isfinite(scores))
        if not len(known):
            return
        at = known[np.argmax(scores[known])]
        score, time_ms = float(scores[at]), float(times_ms[at])
        minute = int(time_ms // 60_000)
        if score >= self.worst.get(minute, (-1.0, 0.0))[0]:
            self.worst[minute] = score, time_ms
        if len(self.worst) > MINUTES_MAX:
            del self.worst[min(self.worst)]

    def say(self, stream: str, signal: str, state: str | None) -> None:
        """Note what a stream says of it, or of one of its signals."""
        self._states.pop((stream, signal), None)
        self._states[stream, signal] = str(state or "")[:TEXT_MAX]
        said = list(self._states.values())
        self._state = next((grave for grave in GRAVEST_FIRST if grave in said), said[-1])

    def silent(self, now_s: float) -> bool:
        """Returns whether no reading has come for much longer than usual.

        Of what has no readings (a stream of changes only) silence says nothing.
        """
        return bool(self.series) and now_s - self.seen_s > max(SILENT_S_MIN, SILENT_INTERVALS * self.interval_s)

    def tile(self, worst: ShownAlarm | None, now_s: float) -> Tile:
        """Returns its state, given its worst open alarm."""
        silent = self.silent(now_s)
        self._rings = "" if worst is None else worst.signal
        return Tile(
            id=self.id,
            name=self.name,
            status="alarm" if worst is not None else "silent" if silent else "running",
            severity="" if worst is None else worst.severity,
            active=worst is not None and worst.state in ACTIVE,
            silent=silent,
            state=self._state,
            label=self.asset.name,
            area=self.asset.area,
            line=self.asset.line,
        )

    def glance(self) -> Glance:
        """Returns what its tile shows beside the state: signals that ring or are ill, then the others as they came.

        Of streams with the same signal the first counts.
        """
        health, pulled_by, life = self.condition.told()
        is_ill = health is not None and health <= ILL_HEALTH
        ill = {one.signal for one in pulled_by if is_ill and one.percent >= ILL_PERCENT}
        first: dict[str, SeriesBuffer] = {}
        for (_, signal), one in sorted(
            self.series.items(), key=lambda item: (item[0][1] != self._rings, item[0][1] not in ill)
        ):
            first.setdefault(signal, one)
        self._lead(next(iter(first.values()), None))
        start = _common_start(list(first))
        return Glance(
            id=self.id,
            health=health,
            pulled_by=pulled_by,
            life=life,
            signals=len(first) + len(self.left_out),
            values=[
                SignalValue(signal, signal[start:] or signal, rounded(one.newest))
                for signal, one in list(first.items())[:VALUES_MAX]
            ],
            recent=[rounded(value, digits=4) for _, value in self.line],
        )

    def _lead(self, series: SeriesBuffer | None) -> None:
        """Draw the small line of this series from now on, from its points where they are kept."""
        if series is self.first:
            return
        self.first = series
        self.line.clear()
        if series is not None:
            self.line.extend(zip(*series.points()[:2, -RECENT_POINTS:].tolist(), strict=True))

    def forget(self) -> None:
        """Let go of the points of its series."""
        self.kept_s, self.is_whole = None, False
        for one in self.series.values():
            one.forget()

    def recent_ms(self) -> tuple[int, int] | None:
        """Returns from when until when its newest points are, as many as a series keeps; None before the first."""
        if not self.line:
            return None
        times = np.array([time for time, _ in self.line])
        apart = np.diff(np.sort(times))
        step = float(np.median(apart[apart > 0])) if (apart > 0).any() else 60_000.0
        return max(int(times.max() - POINTS_MAX * max(step, 1000.0)), 0), int(times.max()) + 1


def _common_start(names: list[str]) -> int:
    """Returns how many characters all names begin with, up to a mark that ends a word; 0 if it is not worth it."""
    if len(names) < 2:
        return 0
    first, last = min(names), max(names)
    end = next((i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    while end and first[end - 1].isalnum():
        end -= 1
    return end if end >= _COMMON_MIN else 0
