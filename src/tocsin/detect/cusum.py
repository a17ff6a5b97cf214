"""CUSUM: a small shift that stays, found by adding up the deviations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field as Setting

from tocsin.bases import Detector, Judgement, Tells
from tocsin.batch import Codes, Floats, Ints
from tocsin.kernels import at_least, kernel, score_of
from tocsin.state import Columns, Field


class Cusum(Detector):
    """Adds up how far readings lie above (and below) their mean, and scores the sum: finds shifts of one deviation.

    It sees a level that moved a little and stays there, long before any single reading stands out; for single readings
    take `zscore` or `mad`. Mean and standard deviation are those of all readings before. When the sum has been over the
    limit for ``learn`` readings, the new level is taken for usual: all is learnt anew. Values that drift or have a
    daily rhythm shift all the time; they are `novelty`'s.

    The score is 75 when a sum reaches the limit; the least deviation and the direction are those of the shift, not of
    single readings. ``lower`` and ``upper`` are the readings with which it would.

    Page, "Continuous inspection schemes", Biometrika 41 (1954); self-starting after Hawkins, "Self-starting CUSUM
    charts for location and scale", The Statistician 36 (1987).

    Examples
    --------
    >>> readings = rows({"value": [1.0, 3.0, 1.0, 3.0] * 10 + [4.0] * 8})
    >>> [round(s) for s in feed(Cusum(learn=40), readings)["score"].to_pylist()[40:]]
    [9, 18, 26, 34, 41, 47, 54, 60]
    """

    SHORTHAND: ClassVar[str | None] = "of"
    LIMITS_ITSELF: ClassVar[bool] = True
    TELLS: ClassVar[Tells] = "surprise"
    FAULT: ClassVar[Literal["spike", "shift", "drift", "stuck", "none"]] = "shift"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({}, {"learn": 10, "limit": 6, "direction": "above"})
    KEEPS_STATE: ClassVar[Collection[str]] = ("limit",)

    slack: float = Setting(0.5, ge=0)
    """How far a reading may lie from the mean without adding to the sum, in standard deviations."""
    limit: float = Setting(12.0, gt=0)
    """The sum that is too much, in standard deviations; on a bell curve 12 comes once in some 500,000 readings."""
    learn: int = Setting(30, ge=2)
    """How many readings of a key are learnt before one is judged."""

    def fields(self) -> Mapping[str, Field]:
        names = ("count", "mean", "squares", "above", "below", "above_for", "below_for", "over")
        return {name: Field() for name in names}

    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Judgement:
        out = np.empty((5, len(values)))
        _judge(
            slots, values, state["count"], state["mean"], state["squares"], state["above"], state["below"],
            state["above_for"], state["below_for"], state["over"], self.slack, self.limit, self.learn,
            self.direction != "below", self.direction != "above", out,
        )  # fmt: skip
        expected, lower, upper, score, shift = out
        return expected, lower, upper, self.limited(expected + shift, expected, score)


@kernel
def _judge(
    slots: Codes, values: Floats, count: Floats, mean: Floats, squares: Floats, above: Floats, below: Floats,
    above_for: Floats, below_for: Floats, over: Floats, slack: float, limit: float, learn: int, upwards: bool,
    downwards: bool, out: Floats,
) -> None:  # fmt: skip
    for i in range(len(slots)):
        s, x = slots[i], values[i]
        out[0, i] = out[1, i] = out[2, i] = out[3, i] = out[4, i] = np.nan
        if np.isnan(x):
            continue
        if count[s] >= learn:
            m = mean[s]
            deviation = at_least(np.sqrt(squares[s] / count[s]), m)
            out[0, i] = m
            out[1, i] = m - deviation * max(limit + slack - below[s], 0.0)
            out[2, i] = m + deviation * max(limit + slack - above[s], 0.0)
            z = min(max((x - m) / deviation, -1e6), 1e6)
            above[s] = max(0.0, above[s] + z - slack) if upwards else 0.0
            below[s] = max(0.0, below[s] - z - slack) if downwards else 0.0
            above_for[s] = above_for[s] + 1 if above[s] > 0 else 0.0
            below_for[s] = below_for[s] + 1 if below[s] > 0 else 0.0
            # The usual estimate of where the mean has gone since the sum left zero (Montgomery).
            if above[s] >= below[s]:
                out[4, i] = deviation * (slack + above[s] / above_for[s]) if above[s] > 0 else 0.0
            else:
                out[4, i] = -deviation * (slack + below[s] / below_for[s])
            share = max(above[s], below[s]) / limit
            out[3, i] = score_of(share)
            over[s] = over[s] + 1 if share >= 1 else 0.0
            if over[s] >= learn:
                count[s] = mean[s] = squares[s] = above[s] = below[s] = over[s] = 0.0
                above_for[s] = below_for[s] = 0.0
        if over[s] == 0:
            count[s] += 1
            delta = x - mean[s]
            mean[s] += delta / count[s]
            squares[s] += delta * (x - mean[s])
