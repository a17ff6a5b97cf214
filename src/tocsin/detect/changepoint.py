"""Changepoint: the moment at which level or spread became another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field as Setting

from tocsin.bases import Detector, Judgement, Tells
from tocsin.batch import TIME_TYPE, Codes, Floats, Ints
from tocsin.kernels import kernel, score_of
from tocsin.state import Columns, Field

LEVELS = 8
SETTLE = 8
"""A change is looked for between 8 and 2,047 readings back, at one place in each octave: 8 to 15, 16 to 31 ..."""
N, ORIGIN, TOTAL, SQUARES, RAW, LAST, STEPS, FOURTH = range(8)
EVIDENCE = 8  # of each level
SINGLES = EVIDENCE + LEVELS
MARK = 5
"""What is kept of a place: count, total, squares and raw total before it, and its time."""
RING = 16
"""Readings kept to find the very one that a change began with."""
QUIETEST = 0.02
"""Smallest variance believed of a few readings, as a share of that before: rounded ones may happen to be equal."""
CLIP = 4.0
"""A reading counts for no more deviations than this: a single freak is no change."""


class Changepoint(Detector):
    """Says at which reading level or spread became another: ``changed``, ``since`` when, and the new ``level``.

    The readings since the last change are parted in two, at eight places from 8 to 2,047 readings back, and the score
    says how much likelier two bell curves are than one (75 at ``limit``). ``changed`` is true for one reading, the
    first for which it is; then all is learnt anew. Use it for set points, batches, load steps, a machine that is
    switched over. A change must last 8 readings; single readings are for `novelty` or `mad`, a slow change for `drift`.

    Neighbours that resemble each other (a slow sensor, read often) count for accordingly fewer readings.

    Hawkins and Zamba, "Statistical process control for shifts in mean or variance using a changepoint formulation",
    Technometrics 47 (2005); so few places after Lai, "Sequential changepoint detection in quality control and
    dynamical systems", JRSS B 57 (1995), and Datar et al., "Maintaining stream statistics over sliding windows" (2002).

    Examples
    --------
    >>> import numpy as np
    >>> values = np.random.default_rng(1).normal(20, 1, 1000)
    >>> values[500:] += 3
    >>> left = feed(Changepoint(), rows({"value": values})).to_pylist()
    >>> [(i, str(row["since"])[14:19], round(row["level"])) for i, row in enumerate(left) if row["changed"]]
    [(507, '08:20', 23)]
    """

    SHORTHAND: ClassVar[str | None] = "of"
    LIMITS_ITSELF: ClassVar[bool] = True
    TELLS: ClassVar[Tells] = "surprise"
    FAULT: ClassVar[Literal["spike", "shift", "drift", "stuck", "none"]] = "shift"
    EXTRA: ClassVar[Sequence[pa.Field]] = (
        pa.field("changed", pa.bool_()),
        pa.field("since", TIME_TYPE),
        pa.field("level", pa.float64()),
    )
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({}, {"learn": 15, "limit": 20, "deviation_min": 0.5})
    KEEPS_STATE: ClassVar[Collection[str]] = ("limit",)

    limit: float = Setting(35.0, gt=0)
    """From which evidence on it is a change: twice the logarithm of how much likelier it is."""
    learn: int = Setting(30, ge=10)
    """How many readings are learnt, at first and after a change, before one is looked for."""

    def fields(self) -> Mapping[str, Field]:
        return {
            "singles": Field(width=SINGLES), "marks": Field(width=LEVELS * 2 * MARK),
            "ring": Field(width=RING), "ring_us": Field(np.int64, width=RING),
        }  # fmt: skip

    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Judgement:
        out, since = np.empty((5, len(values))), np.empty(len(values), np.int64)
        _judge(
            slots, times, values, state["singles"], state["marks"].reshape(-1, LEVELS, 2, MARK), state["ring"],
            state["ring_us"], self.limit, self.learn, out, since,
        )  # fmt: skip
        expected, lower, upper, score, level = out
        score = self.limited(level, expected, score)
        changed = score >= 75
        return (
            expected, lower, upper, score, pa.array(changed, mask=np.isnan(score)),
            pa.array(since, pa.int64(), mask=~changed).view(TIME_TYPE), pa.array(level, mask=~changed),
        )  # fmt: skip


@kernel
def _judge(
    slots: Codes, times: Ints, values: Floats, singles: Floats, marks: Floats, ring: Floats, ring_us: Ints,
    limit: float, learn: int, out: Floats, since: Ints,
) -> None:  # fmt: skip
    for i in range(len(slots)):
        s, x = slots[i], values[i]
        k = singles[s]
        out[0, i] = out[1, i] = out[2, i] = out[3, i] = out[4, i] = np.nan
        since[i] = 0
        if np.isnan(x):
            continue
        if k[N] == 0:
            k[ORIGIN] = x
        # Relative to the first reading: sums of squares of large values lose their digits.
        x -= k[ORIGIN]
        clipped, judged = x, k[N] >= learn
        if judged:
            mean = k[TOTAL] / k[N]
            deviation = np.sqrt(max(k[SQUARES] / k[N] - mean * mean, 0.0))
            out[0, i] = k[ORIGIN] + mean
            out[1, i], out[2, i] = out[0, i] - 3 * deviation, out[0, i] + 3 * deviation
            reach = CLIP * max(deviation, 1e-9 * np.abs(out[0, i]), 1e-150)
            clipped = min(max(x, mean - reach), mean + reach)
            k[FOURTH] += (CLIP * (clipped - mean) / reach) ** 4
        n = int(k[N])
        if n % SETTLE == 0:
            _mark(k, marks[s], n, times[i])
        ring[s, n % RING], ring_us[s, n % RING] = x, times[i]
        if n:
            k[STEPS] += (clipped - k[LAST]) ** 2
        n += 1
        k[N], k[LAST] = n, clipped
        k[TOTAL] += clipped
        k[SQUARES] += clipped * clipped
        k[RAW] += x
        if not judged:
            continue
        best, likeliest = 0.0, -1
        for level in range(LEVELS):
            if n % (1 << level) == 0:  # the further back, the less often
                k[EVIDENCE + level] = _evidence(k, _place(marks[s], level, n), learn)
            if k[EVIDENCE + level] > best:
                best, likeliest = k[EVIDENCE + level], level
        share = best / limit
        out[3, i] = score_of(share)
        out[4, i] = out[0, i]
        if likeliest >= 0:
            mark = _place(marks[s], likeliest, n)
            out[4, i] = k[ORIGIN] + (k[RAW] - mark[3]) / (n - mark[0])
            since[i] = np.int64(mark[4])
            if likeliest == 0 and share >= 1:
                first, raw = _split(ring[s], n)
                out[4, i], since[i] = k[ORIGIN] + raw, ring_us[s, first % RING]
        if share >= 1:
            k[:] = 0.0
            marks[s] = 0.0


@kernel
def _mark(k: Floats, marks: Floats, n: int, time: int) -> None:
    """Note the sums before this reading at every level that it is a multiple of; each keeps two of them."""
    for level in range(LEVELS):
        size = SETTLE << level
        if n % size:
            break
        mark = marks[level, (n // size) & 1]
        mark[0], mark[1], mark[2], mark[3], mark[4] = n, k[TOTAL], k[SQUARES], k[RAW], time


@kernel
def _place(marks: Floats, level: int, n: int) -> Floats:
    """The older of the two marks of a level: 1 to 2 times its size back."""
    mark: Floats = marks[level, (((n - 1) // (SETTLE << level)) & 1) ^ 1]
    return mark


@kernel
def _split(ring: Floats, n: int) -> tuple[int, float]:
    """The reading among the last 16 that parts them best into two levels, and the later of these."""
    begin = n - RING
    before, after = 0.0, ring.sum()
    best, first, level = -1.0, begin, after / RING
    for j in range(begin, n - 1):
        before += ring[j % RING]
        after -= ring[j % RING]
        left, right = j + 1 - begin, n - 1 - j
        off = after / right - before / left
        if left * right * off * off > best:
            best, first, level = left * right * off * off, j + 1, after / right
    return first, level


@kernel
def _evidence(k: Floats, mark: Floats, learn: int) -> float:
    """Twice the logarithm of the likelihood ratio of two bell curves, before and after the mark, to one."""
    n, before = k[N], mark[0]
    after = n - before
    if before < learn:
        return 0.0
    mean = k[TOTAL] / n
    least = max(1e-9 * np.abs(k[ORIGIN] + mean), 1e-150) ** 2
    whole = max(k[SQUARES] / n - mean * mean, least)
    mean_before, mean_after = mark[1] / before, (k[TOTAL] - mark[1]) / after
    first = max(mark[2] / before - mean_before * mean_before, least)
    second = max((k[SQUARES] - mark[2]) / after - mean_after * mean_after, least)
    second = max(second, QUIETEST * first)
    within = (before * first + after * second) / n
    # Another spread (Bartlett's test) counts for less where the tails are heavy (Box 1953).
    tails = (k[FOURTH] + 3.0 * learn) / n
    spread = (n * np.log(within) - before * np.log(first) - after * np.log(second)) * min(2 / (tails - 1), 1.0)
    # Mean square successive difference (von Neumann 1941): how much neighbours resemble each other, whatever the level.
    alike = max(1 - k[STEPS] / (2 * (n - 1) * within), 0.0)
    ratio = (n * np.log(max(whole / within, 1.0)) + spread) * (1 - alike) / (1 + alike)
    return float(ratio / (1 + 11 / 12 * (1 / before + 1 / after - 1 / n)))
