"""EWMA: the distance of a reading from an average in which older readings count less and less."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field as Setting

from tocsin.bases import Detector, Judgement, Tells
from tocsin.batch import Codes, Floats, Ints
from tocsin.kernels import at_least, kernel, score_of
from tocsin.state import Columns, Field


class Ewma(Detector):
    """Judges a reading by the exponentially weighted mean and standard deviation of those before it.

    It follows values that drift slowly, and finds what jumps away from them. It costs next to nothing, so it is the
    one for very many or very fast series. A value that jumps to a new level and stays there becomes usual after about
    ``span`` readings. Values with a daily rhythm or with many outliers are `novelty`'s.

    A reading outside the band is learnt as if it lay on the band's edge, so that one spike does not hide the next.

    Roberts, "Control chart tests based on geometric moving averages", Technometrics 1 (1959); the variance after
    Finch, "Incremental calculation of weighted mean and variance" (2009).

    Examples
    --------
    >>> readings = rows({"value": [10.0, 11.0, 9.0, 10.0, 11.0, 9.0, 10.0, 30.0]})
    >>> [s and round(s) for s in feed(Ewma(learn=5), readings)["score"].to_pylist()]
    [None, None, None, None, None, 24, 0.0, 95]
    """

    SHORTHAND: ClassVar[str | None] = "of"
    TELLS: ClassVar[Tells] = "surprise"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({}, {"span": 20, "learn": 10, "direction": "above"})
    KEEPS_STATE: ClassVar[Collection[str]] = ("width",)

    span: float = Setting(100.0, gt=1)
    """How many readings the average looks back: the last ``span`` weigh 86 percent of it."""
    learn: int = Setting(30, ge=2)
    """How many readings of a key are learnt before one is judged."""
    width: float = Setting(5.0, gt=0)
    """Half the width of the usual band, in standard deviations; at its edge the score is 75."""

    def fields(self) -> Mapping[str, Field]:
        return {"count": Field(), "mean": Field(), "variance": Field()}

    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Judgement:
        out = np.empty((4, len(values)))
        gain = 2 / (self.span + 1)
        _judge(slots, values, state["count"], state["mean"], state["variance"], gain, self.learn, self.width, out)
        return out[0], out[1], out[2], out[3]


@kernel
def _judge(
    slots: Codes, values: Floats, count: Floats, mean: Floats, variance: Floats,
    gain: float, learn: int, width: float, out: Floats,
) -> None:  # fmt: skip
    for i in range(len(slots)):
        s, x = slots[i], values[i]
        if np.isnan(x):
            out[0, i] = out[1, i] = out[2, i] = out[3, i] = np.nan
            continue
        m = mean[s]
        if count[s] >= learn:
            reach = width * at_least(np.sqrt(variance[s]), m)
            share = np.abs(x - m) / reach
            out[0, i], out[1, i], out[2, i] = m, m - reach, m + reach
            out[3, i] = score_of(share)
            x = min(max(x, m - reach), m + reach)
            # From nothing, nothing grows: a series that was constant must be able to widen its band.
            if variance[s] == 0.0:
                x = values[i]
        else:
            out[0, i] = out[1, i] = out[2, i] = out[3, i] = np.nan
        count[s] += 1
        a = max(gain, 1 / count[s])  # a plain average at first
        delta = x - m
        mean[s] = m + a * delta
        variance[s] = (1 - a) * (variance[s] + a * delta * delta)
