"""Quantile: a reading beyond Tukey's fences, whatever the shape of the distribution."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field as Setting
from pydantic import model_validator

from tocsin.bases import Detector, Judgement, Tells
from tocsin.batch import Codes, Floats, Ints
from tocsin.kernels import kernel, score_of
from tocsin.state import Columns, Field

MARKERS = 9
"""Heights kept for each key: smallest, largest, the three quantiles, and one between each two of these."""


class Quantile(Detector):
    """Judges a reading by two quantiles of all readings before it: beyond them by ``factor`` times their distance.

    The two fences need not lie at the same distance from the median, so it suits lopsided values (waiting times,
    currents, vibration), for which a band of standard deviations is too narrow on one side and too wide on the other.
    The quantiles are kept by the P2 algorithm, nine numbers for each key, and no reading is ever forgotten: for values
    that drift take `mad` or `ewma`.

    Jain and Chlamtac, "The P2 algorithm for dynamic calculation of quantiles and histograms without storing
    observations", Comm. ACM 28 (1985), for several quantiles after Raatikainen, "Simultaneous estimation of several
    percentiles", Simulation 49 (1987); the fences after Tukey, "Exploratory Data Analysis" (1977).

    Examples
    --------
    >>> readings = rows({"value": [1.0, 2.0, 3.0, 4.0, 5.0] * 4 + [6.0, 30.0]})
    >>> left = feed(Quantile(learn=20), readings).to_pylist()
    >>> [(round(row["upper"]), row["score"] > 75) for row in left[20:]]
    [(10, False), (10, True)]
    """

    SHORTHAND: ClassVar[str | None] = "of"
    TELLS: ClassVar[Tells] = "surprise"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({}, {"low": 0.1, "high": 0.9, "factor": 1.5, "learn": 20})
    KEEPS_STATE: ClassVar[Collection[str]] = ("factor",)

    low: float = Setting(0.25, gt=0, lt=0.5)
    """The lower quantile."""
    high: float = Setting(0.75, gt=0.5, lt=1)
    """The upper quantile."""
    factor: float = Setting(3.0, gt=0)
    """How far beyond a quantile its fence lies, in distances between the two; at a fence the score is 75."""
    learn: int = Setting(30, ge=MARKERS)
    """How many readings of a key are learnt before one is judged."""

    @model_validator(mode="after")
    def _ordered(self) -> Quantile:
        assert self.low < self.high
        return self

    def fields(self) -> Mapping[str, Field]:
        return {"count": Field(), "heights": Field(width=MARKERS), "ranks": Field(width=MARKERS)}

    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Judgement:
        out = np.empty((4, len(values)))
        low, high = self.low, self.high
        shares = np.array([0, low / 2, low, (low + 0.5) / 2, 0.5, (0.5 + high) / 2, high, (high + 1) / 2, 1.0])
        _judge(slots, values, state["count"], state["heights"], state["ranks"], shares, self.factor, self.learn, out)
        return out[0], out[1], out[2], out[3]


@kernel
def _judge(
    slots: Codes, values: Floats, count: Floats, heights: Floats, ranks: Floats, shares: Floats,
    factor: float, learn: int, out: Floats,
) -> None:  # fmt: skip
    for i in range(len(slots)):
        s, x = slots[i], values[i]
        out[0, i] = out[1, i] = out[2, i] = out[3, i] = np.nan
        if np.isnan(x):
            continue
        h, n = heights[s], ranks[s]
        if count[s] >= learn:
            m = h[4]
            least = max(1e-9 * np.abs(m), 1e-300)
            out[0, i] = m
            out[1, i] = min(h[2] - factor * (h[6] - h[2]), m - least)
            out[2, i] = max(h[6] + factor * (h[6] - h[2]), m + least)
            share = (x - m) / (out[2, i] - m) if x >= m else (m - x) / (m - out[1, i])
            out[3, i] = score_of(share)
        count[s] += 1
        _learn(x, h, n, shares, count[s])


@kernel
def _learn(x: float, h: Floats, n: Floats, shares: Floats, count: float) -> None:
    """One reading into the markers: heights ``h`` in ascending order, and their ranks ``n`` among all readings."""
    last = len(h) - 1
    if count <= last + 1:
        at = int(count) - 1
        while at > 0 and h[at - 1] > x:
            h[at] = h[at - 1]
            at -= 1
        h[at] = x
        n[int(count) - 1] = count
        return
    if x < h[0]:
        h[0] = x
    elif x > h[last]:
        h[last] = x
    for j in range(1, last + 1):
        if x < h[j] or j == last:
            n[j] += 1
    for j in range(1, last):
        off = 1 + (count - 1) * shares[j] - n[j]
        if (off >= 1 and n[j + 1] - n[j] > 1) or (off <= -1 and n[j - 1] - n[j] < -1):
            d = 1.0 if off > 0 else -1.0
            # A parabola through the marker and its neighbours, or a line where that would pass one of them.
            up, down = n[j + 1] - n[j], n[j] - n[j - 1]
            rise, fall = (h[j + 1] - h[j]) / up, (h[j] - h[j - 1]) / down
            better = h[j] + d / (up + down) * ((down + d) * rise + (up - d) * fall)
            if not h[j - 1] < better < h[j + 1]:
                better = h[j] + (rise if d > 0 else -fall)
            h[j] = better
            n[j] += d
