"""Stuck: a reading that does not change any more."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field as Setting
from pydantic import model_validator

from tocsin.bases import Detector, Judgement, Tells
from tocsin.batch import Codes, Floats, Ints
from tocsin.kernels import kernel, score_of
from tocsin.settings.quantities import Duration
from tocsin.state import Columns, Field


class Stuck(Detector):
    """Scores a reading that has stayed the same for too long, as one does whose sensor hangs.

    Too long is ``after``, or ``times`` the longest time between two changes so far (which then counts a tenth less with
    each change, so that one long standstill is forgotten). Values that rest by nature (a switch, a set point) need
    ``after``, or have no use of this. A sensor that sends nothing at all is for `deadman`.

    The score is 75 when the limit is reached, and rises towards 100 from there. ``expected`` is the value it stays at.

    Examples
    --------
    >>> readings = rows({"value": [1.0, 2.0, 1.5, 1.5, 1.5, 1.5]})
    >>> [s and round(s) for s in feed(Stuck(after="2s"), readings)["score"].to_pylist()]
    [None, 0.0, 0.0, 38, 75, 83]
    """

    SHORTHAND: ClassVar[str | None] = "after"
    TELLS: ClassVar[Tells] = "standstill"
    FAULT: ClassVar[Literal["spike", "shift", "drift", "stuck", "none"]] = "stuck"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({}, {"after": "30s", "tolerance": 0.01})
    KEEPS_STATE: ClassVar[Collection[str]] = ("after", "times")

    after: Duration | None = Setting(None, gt=0)
    """How long a reading may stay the same."""
    times: float = Setting(10.0, gt=1)
    """If ``after`` is not set: how many times as long as usual a reading may stay the same."""
    learn: int = Setting(30, ge=1)
    """How many changes are learnt before one can be missing, if ``after`` is not set."""
    tolerance: float = Setting(0.0, ge=0)
    """How far a reading may lie from the one it stays at and still be the same."""

    @model_validator(mode="after")
    def _no_deviation(self) -> Stuck:
        limited = self.direction != "both" or self.deviation_min > 0 or self.deviation_min_percent > 0
        assert not limited, "stuck has no direction and no least deviation: what stays the same does not deviate"
        return self

    def fields(self) -> Mapping[str, Field]:
        return {
            "value": Field(initial=np.nan), "since_us": Field(np.int64), "usual_us": Field(), "changes": Field(np.int64)
        }  # fmt: skip

    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Judgement:
        out = np.empty((4, len(values)))
        _judge(
            slots, times, values, state["value"], state["since_us"], state["usual_us"], state["changes"],
            float(self.after or 0), self.times, self.learn, self.tolerance, out,
        )  # fmt: skip
        return out[0], out[1], out[2], out[3]


@kernel
def _judge(
    slots: Codes, times: Ints, values: Floats, value: Floats, since: Ints, usual: Floats, changes: Ints,
    after: float, factor: float, learn: int, tolerance: float, out: Floats,
) -> None:  # fmt: skip
    for i in range(len(slots)):
        s, x = slots[i], values[i]
        out[0, i] = out[1, i] = out[2, i] = out[3, i] = np.nan
        if np.isnan(x):
            continue
        known = not np.isnan(value[s])
        limit = after if after > 0 else factor * usual[s] if changes[s] >= learn else np.inf
        if known and limit < np.inf:
            out[0, i], out[1, i], out[2, i] = value[s], value[s] - tolerance, value[s] + tolerance
            out[3, i] = 0.0
        if known and np.abs(x - value[s]) <= tolerance:
            still = max(float(times[i] - since[s]), 0.0)
            if limit < np.inf and limit > 0:
                share = still / limit
                out[3, i] = score_of(share)
            continue
        if known:
            lasted = max(float(times[i] - since[s]), 0.0)
            usual[s] = max(lasted, 0.9 * usual[s])
            changes[s] += 1
        value[s] = x
        since[s] = times[i]
