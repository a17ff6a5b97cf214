"""MAD: the distance of a reading from the median, in median absolute deviations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field as Setting

from tocsin.bases import Detector, Judgement, Tells
from tocsin.batch import Codes, Floats, Ints
from tocsin.kernels import at_least, kernel, score_of
from tocsin.state import Columns, Field


class Mad(Detector):
    """Judges a reading by the running median and median absolute deviation (MAD): outliers do not move the band.

    It is `ewma` for values with many outliers, and follows a drift about as fast: the two medians take a step towards
    each reading, up or down, whose size does not depend on how far away it lies. Values of which more than half are
    equal have a MAD of nothing: set ``deviation_min``.

    Hampel, "The influence curve and its role in robust estimation", JASA 69 (1974); the running median after Tierney,
    "A space-efficient recursive procedure for estimating a quantile of an unknown distribution", SIAM J. Sci. Stat.
    Comput. 4 (1983).

    Examples
    --------
    >>> readings = rows({"value": [10.0, 11.0, 9.0, 12.0, 8.0, 10.5, 9.5, 100.0, 10.0]})
    >>> [s and s > 75 for s in feed(Mad(learn=5), readings)["score"].to_pylist()]
    [None, None, None, None, None, False, False, True, False]
    """

    SHORTHAND: ClassVar[str | None] = "of"
    TELLS: ClassVar[Tells] = "surprise"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({}, {"span": 50, "learn": 10, "direction": "above"})
    KEEPS_STATE: ClassVar[Collection[str]] = ("width",)

    span: float = Setting(200.0, gt=1)
    """How many readings the medians look back, about."""
    learn: int = Setting(30, ge=2)
    """How many readings of a key are learnt before one is judged."""
    width: float = Setting(5.0, gt=0)
    """Half the width of the usual band, in standard deviations (1.4826 MAD each); at its edge the score is 75."""

    def fields(self) -> Mapping[str, Field]:
        return {"count": Field(), "median": Field(), "mad": Field()}

    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Judgement:
        out = np.empty((4, len(values)))
        gain, width = 2 / (self.span + 1), self.width * DEVIATION
        _judge(slots, values, state["count"], state["median"], state["mad"], gain, self.learn, width, out)
        return out[0], out[1], out[2], out[3]


DEVIATION = 1.4826
"""Standard deviation of a bell curve in MAD."""
MEDIAN_STEP = 1.858
"""Best step of the median, in MAD: 1 / (2 density at the median) on a bell curve."""
MAD_STEP = 1.167
"""Best step of the MAD, as a share of it, likewise."""


@kernel
def _judge(
    slots: Codes, values: Floats, count: Floats, median: Floats, mad: Floats,
    gain: float, learn: int, width: float, out: Floats,
) -> None:  # fmt: skip
    for i in range(len(slots)):
        s, x = slots[i], values[i]
        out[0, i] = out[1, i] = out[2, i] = out[3, i] = np.nan
        if np.isnan(x):
            continue
        m, d = median[s], mad[s]
        if count[s] >= learn:
            reach = at_least(width * d, m)
            share = np.abs(x - m) / reach
            out[0, i], out[1, i], out[2, i] = m, m - reach, m + reach
            out[3, i] = score_of(share)
        count[s] += 1
        g = max(gain, 1 / count[s])  # longer steps at first
        if count[s] == 1:
            median[s] = x
            continue
        off = np.abs(x - m)
        if d == 0.0:
            mad[s] = off * (1.0 if count[s] < learn else g)
            median[s] = m + g * (x - m)
            continue
        median[s] = m + g * MEDIAN_STEP * d * np.sign(x - m) if off > g * MEDIAN_STEP * d else x
        mad[s] = max(d * np.exp(g * MAD_STEP * np.sign(off - d)), 1e-300)
