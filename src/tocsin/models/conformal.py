"""Intervals that keep what they promise: online conformal prediction, scaled by how large the errors are just now.

The lower and the upper bound lie so many times the recent mean error from the forecast; both numbers grow when a
reading falls beyond either bound and shrink a little when it does not, so that in the long run the promised share does,
whatever the errors look like (Gibbs & Candès, "Adaptive conformal inference under distribution shift", 2021; the
quantile tracker of Angelopoulos, Candès & Tibshirani, "Conformal PID control", 2023). Slowly each of them also follows
its own side, so that as many readings fall below as above.

Forecasts of many periods ahead err together: one jump of the readings puts all of them beyond the same bound that were
made before it and are for later. What they owe is paid back by both sides, in half of the time that one would take.
"""

from __future__ import annotations

import numpy as np

from tocsin.batch import Codes, Floats, Ints
from tocsin.kernels import inner, kernel

ERRORS, SCALE, BELOW, ABOVE = range(4)
CONFORMAL = (0.0, 0.0, 2.0, 2.0)
"""What is kept of each key: number of errors, their recent mean, and how many times it the two bounds are away."""
STARTUP, WILD_FROM, ERRORS_MIN = 10, 15, 30
"""Errors that are not looked at (what a sensor says while it starts is often no reading); until one may be called wild;
until there is an interval."""
SPAN = 23.0
"""Over how many errors the scale looks back, beside as many as the forecast looks ahead, which overlap."""
RATE, SIDE_RATE = 0.05, 0.01
"""How fast both bounds move with any reading beyond them, and each of them with those beyond itself: chosen on two
years of hourly PM2.5 (docs/decisions/forecast.md)."""
TIMES_MIN, TIMES_MAX = 0.5, 100.0
"""Bounds stay within these many times the scale: a series that was constant is to widen again within some readings."""
WILD = 15.0
"""An error of so many times the recent mean is a spike: nothing is learnt from it, and it counts for no more."""


@inner
def is_wild(k: Floats, error: float) -> bool:
    """Returns whether an error is far beyond those before it."""
    return bool(k[ERRORS] >= WILD_FROM and np.abs(error) > WILD * k[SCALE] > 0)


@kernel
def learn_error(k: Floats, error: float, lower: float, upper: float, coverage: float, horizon: int) -> None:
    """One error (reading less forecast) of a forecast that was given with these bounds (NaN if with none)."""
    size = WILD * k[SCALE] if is_wild(k, error) else np.abs(error)
    if not np.isnan(lower):
        beyond = (1.0 - coverage) / 2
        below, above = (1.0 if error < lower else 0.0) - beyond, (1.0 if error > upper else 0.0) - beyond
        both = RATE * (below + above)
        k[BELOW] *= np.exp(both + SIDE_RATE * below)
        k[ABOVE] *= np.exp(both + SIDE_RATE * above)
        k[BELOW] = min(max(k[BELOW], TIMES_MIN), TIMES_MAX)
        k[ABOVE] = min(max(k[ABOVE], TIMES_MIN), TIMES_MAX)
    k[ERRORS] += 1
    if k[ERRORS] > STARTUP:
        k[SCALE] += (size - k[SCALE]) * max(1.0 / (k[ERRORS] - STARTUP), 2.0 / (SPAN + horizon + 1.0))


PENDING = 3
"""Numbers of a forecast whose reading has not come: itself and its bounds."""
GIVEN, GIVEN_LOWER, GIVEN_UPPER = range(PENDING)
YHAT, LOWER, UPPER, AHEAD, AHEAD_LOWER, AHEAD_UPPER = range(6)
OUTPUTS = 6


@kernel
def follow(
    slots: Codes, steps: Ints, values: Floats, ahead: Floats, horizon: int, coverage: float, periods: Ints,
    conformal: Floats, pending: Floats, out: Floats,
) -> None:  # fmt: skip
    """Put forecasts beside the readings that they were made for, learn how far off they were, and give them bounds.

    Row i is ``steps[i]`` periods after the row of its key before it (below 1: it begins no new one and is passed over);
    ``ahead[i]`` is what is forecast there for ``horizon`` periods later. ``out`` has the shape (`OUTPUTS`, rows).
    """
    for i in range(len(slots)):
        s = slots[i]
        if steps[i] < 1:
            continue
        for skipped in range(1, min(steps[i], horizon + 1)):
            at = (periods[s] + skipped) % horizon * PENDING
            pending[s, at : at + PENDING] = np.nan
        periods[s] += steps[i]
        k, at = conformal[s], periods[s] % horizon * PENDING
        made = pending[s, at : at + PENDING]
        out[YHAT, i], out[LOWER, i], out[UPPER, i] = made[GIVEN], made[GIVEN_LOWER], made[GIVEN_UPPER]
        error = values[i] - made[GIVEN]
        if not np.isnan(error):
            lower, upper = made[GIVEN_LOWER] - made[GIVEN], made[GIVEN_UPPER] - made[GIVEN]
            learn_error(k, error, lower, upper, coverage, horizon)
        made[GIVEN] = ahead[i]
        made[GIVEN_LOWER] = made[GIVEN_UPPER] = np.nan
        if k[ERRORS] >= ERRORS_MIN:
            made[GIVEN_LOWER] = ahead[i] - k[BELOW] * k[SCALE]
            made[GIVEN_UPPER] = ahead[i] + k[ABOVE] * k[SCALE]
        out[AHEAD, i], out[AHEAD_LOWER, i], out[AHEAD_UPPER, i] = made[GIVEN], made[GIVEN_LOWER], made[GIVEN_UPPER]
