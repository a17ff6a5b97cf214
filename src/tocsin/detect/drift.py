"""Drift: a slow change, far smaller than the noise, since when and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field as Setting

from tocsin.bases import Detector, Judgement, Tells
from tocsin.batch import TIME_TYPE, Codes, Floats, Ints
from tocsin.kernels import at_least, kernel, score_of
from tocsin.state import Columns, Field

SINGLES = (
    "readings", "total", "began", "count", "mean", "squares", "waiting", "waiting_mean", "waiting_squares", "recent",
    "above", "below", "above_since", "below_since", "over", "share", "averages", "last", "steps",
)  # fmt: skip
(
    READINGS, TOTAL, BEGAN, COUNT, MEAN, SQUARES, WAITING, WAITING_MEAN, WAITING_SQUARES, RECENT, ABOVE, BELOW,
    ABOVE_SINCE, BELOW_SINCE, OVER, SHARE, AVERAGES, LAST, STEPS,
) = range(len(SINGLES))  # fmt: skip
CLIP = 4.0
"""One average counts for no more deviations than this: a single freak is no drift."""
ALIKE_MAX = 0.95
"""Most that two averages in succession are taken to have in common."""
MOST = 1.5
"""How far beyond the limit a sum may rise: so a value that is back is soon seen to be."""
UNSURE = 2.0
"""Standard errors of the reference that are added to the slack: it may be off by that much itself."""
RECENT_GAIN = 1 / 3
"""How fast the recent level follows the averages: over the last five or so."""


class Drift(Detector):
    """Says that a value has slowly left its reference: ``drifted``, ``since`` when, and ``by`` how much.

    Readings are averaged, ``over`` so many at a time, and the deviations of the averages from the reference are added
    up, so a drift shows long before it stands out of the noise. The reference is the mean of all averages before, but
    for those since the sums last left zero: a drift does not teach itself. Use it for calibration, fouling and wear;
    let ``over`` be a whole day (or shift) of readings where values have a rhythm. For a sudden change take
    `changepoint`, for a shift to be seen at once `cusum`.

    The score is 75 when a sum reaches the limit and stays over it while the value is away, at most for ``hold``
    KEEPS_STATE: ClassVar[Collection[str]] = ("limit", "hold")

    averages: then what there is becomes the reference. ``lower`` and ``upper`` are the averages that would reach it.

    Page, "Continuous inspection schemes", Biometrika 41 (1954), and Hinkley, "Inference about the change-point from
    cumulative sum tests", Biometrika 58 (1971), for when it began.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.random.default_rng(1).normal(20, 1, 3000)
    >>> values[2000:] += np.linspace(0, 1, 1000)      # one standard deviation in 1000 readings
    >>> left = feed(Drift(), rows({"value": values})).to_pylist()
    >>> first = [row["drifted"] for row in left].index(True)
    >>> first < 2600, str(left[first]["since"])[:16], left[first]["by"] > 0, round(left[-1]["by"])
    (True, '2026-01-01 00:37', True, 1)
    """

    SHORTHAND: ClassVar[str | None] = "of"
    LIMITS_ITSELF: ClassVar[bool] = True
    TELLS: ClassVar[Tells] = "lasting"
    FAULT: ClassVar[Literal["spike", "shift", "drift", "stuck", "none"]] = "drift"
    EXTRA: ClassVar[Sequence[pa.Field]] = (
        pa.field("drifted", pa.bool_()),
        pa.field("since", TIME_TYPE),
        pa.field("by", pa.float64()),
    )
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({}, {"over": 5, "learn": 10, "limit": 8, "direction": "above"})

    over: int = Setting(20, ge=1)
    """How many readings make an average."""
    slack: float = Setting(0.5, ge=0)
    """How far an average may lie from the reference without adding to the sum, in the averages' standard deviations."""
    limit: float = Setting(12.0, gt=0)
    """The sum that is too much, in the averages' standard deviations."""
    learn: int = Setting(30, ge=2)
    """How many averages of a key are learnt before one is judged."""
    hold: int = Setting(1000, ge=1)
    """After how many averages over the limit the reference is learnt anew."""

    def fields(self) -> Mapping[str, Field]:
        return {"singles": Field(width=len(SINGLES))}

    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Judgement:
        out, since = np.empty((5, len(values))), np.empty(len(values), np.int64)
        _judge(
            slots, times, values, state["singles"], self.over, self.slack, self.limit, self.learn, self.hold,
            self.direction != "below", self.direction != "above", out, since,
        )  # fmt: skip
        expected, lower, upper, score, by = out
        score = self.limited(expected + by, expected, score)
        unknown, drifted = np.isnan(score), score >= 75
        return (
            expected, lower, upper, score, pa.array(drifted, mask=unknown),
            pa.array(since, pa.int64(), mask=~drifted).view(TIME_TYPE), pa.array(by, mask=unknown | (score == 0)),
        )  # fmt: skip


@kernel
def _judge(
    slots: Codes, times: Ints, values: Floats, singles: Floats, over: int, slack: float, limit: float, learn: int,
    hold: int, upwards: bool, downwards: bool, out: Floats, since: Ints,
) -> None:  # fmt: skip
    for i in range(len(slots)):
        k, x = singles[slots[i]], values[i]
        out[0, i] = out[1, i] = out[2, i] = out[3, i] = out[4, i] = np.nan
        since[i] = 0
        if np.isnan(x):
            continue
        mean = k[MEAN]
        judged = k[COUNT] >= learn
        if judged:
            deviation = at_least(np.sqrt(_variance(k)), mean)
            spare = slack + UNSURE / np.sqrt(k[COUNT])
            out[0, i] = mean
            out[1, i] = mean - deviation * max(limit + spare - k[BELOW], 0.0)
            out[2, i] = mean + deviation * max(limit + spare - k[ABOVE], 0.0)
        if k[READINGS] == 0:
            k[BEGAN] = times[i]
        k[READINGS] += 1
        k[TOTAL] += x
        if k[READINGS] >= over:
            average = k[TOTAL] / k[READINGS]
            k[READINGS] = k[TOTAL] = 0.0
            if k[AVERAGES]:
                k[STEPS] += (average - k[LAST]) ** 2
            k[AVERAGES] += 1
            k[LAST] = average
            k[RECENT] = average if k[COUNT] == 0 else k[RECENT] + RECENT_GAIN * (average - k[RECENT])
            if judged:
                z = min(max((average - mean) / deviation, -CLIP), CLIP)
                above = k[ABOVE] + z - spare if upwards else 0.0
                below = k[BELOW] - z - spare if downwards else 0.0
                if k[ABOVE] == 0.0:
                    k[ABOVE_SINCE] = k[BEGAN]
                if k[BELOW] == 0.0:
                    k[BELOW_SINCE] = k[BEGAN]
                k[ABOVE], k[BELOW] = min(max(above, 0.0), MOST * limit), min(max(below, 0.0), MOST * limit)
                k[SHARE] = max(k[ABOVE], k[BELOW]) / limit
                k[OVER] = k[OVER] + 1 if k[SHARE] >= 1 else 0.0
            _learn(k, WAITING, average)
            if not judged or (k[ABOVE] == 0.0 and k[BELOW] == 0.0):
                _settle(k)
        if judged:
            out[3, i] = score_of(k[SHARE])
            out[4, i] = k[RECENT] - mean
            since[i] = np.int64(k[ABOVE_SINCE] if k[ABOVE] >= k[BELOW] else k[BELOW_SINCE])
            if k[OVER] >= hold:
                k[COUNT:] = 0.0


@kernel
def _variance(k: Floats) -> float:
    """Of the averages; more where neighbours resemble each other, since their sums then wander further.

    How much they do so says the mean square successive difference (von Neumann 1941), which a drift hardly touches.
    """
    variance = k[SQUARES] / k[COUNT]
    if variance <= 0.0 or k[AVERAGES] < 2:
        return 0.0
    alike = min(max(1 - k[STEPS] / (2 * (k[AVERAGES] - 1) * variance), 0.0), ALIKE_MAX)
    return float(variance * (1 + alike) / (1 - alike))


@kernel
def _learn(k: Floats, at: int, x: float) -> None:
    """One average into the count, mean and sum of squares that begin at ``at``."""
    k[at] += 1
    delta = x - k[at + 1]
    k[at + 1] += delta / k[at]
    k[at + 2] += delta * (x - k[at + 1])


@kernel
def _settle(k: Floats) -> None:
    """The averages that were waiting were no drift: into the reference with them (Chan et al. 1979)."""
    count = k[COUNT] + k[WAITING]
    delta = k[WAITING_MEAN] - k[MEAN]
    k[SQUARES] += k[WAITING_SQUARES] + delta * delta * k[COUNT] * k[WAITING] / count
    k[MEAN] += delta * k[WAITING] / count
    k[COUNT] = count
    k[WAITING] = k[WAITING_MEAN] = k[WAITING_SQUARES] = 0.0
