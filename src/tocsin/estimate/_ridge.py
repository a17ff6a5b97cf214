"""Ridge autoregression, learnt reading by reading (recursive least squares), for one key of a keyed state.

What is forecast is the change over the horizon. It depends on the last readings, and how it does depends on the inputs
and the time of the season: each of (1, level, last changes) is multiplied with each of (1, inputs, their last changes,
season). So wind can blow away more where more is in the air. With all weights zero the forecast is the last reading.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tocsin.batch import Floats
from tocsin.kernels import inner, kernel

HARMONICS = 2
"""Sine and cosine of the season, and of half of it."""
EXTREME = 4.0
"""From so many standard deviations on, the level has a second weight: what is extreme falls back faster."""
INPUT_MAX = 20.0
"""No input counts for more standard deviations than this."""
STARTUP = 20
"""The first values teach no scale: what a sensor says while it starts is often no reading."""
CLIP, CLIP_FROM = 15.0, 20
"""While the scale is learnt, a value counts for no more standard deviations than this, from so many values on."""
PRIOR = 0.1
"""Variance of a weight before anything is learnt: as if ten readings had said that it is zero."""


class Scales(NamedTuple):
    """Counts, means and sums of squared deviations of the reading and each input; each shape (keys, 1 + inputs)."""

    counts: Floats
    means: Floats
    squares: Floats


class Ridge(NamedTuple):
    """What is learnt: shapes (keys, terms), (keys, terms x terms); and each pending window, (keys, horizon x terms)."""

    weights: Floats
    covariance: Floats
    windows: Floats


def terms(lags: int, inputs: int, season: bool) -> int:
    """Returns how many weights there are."""
    return (1 + lags) * (1 + 2 * inputs + 2 * HARMONICS * season) + 1


@kernel
def learn_scale(scales: Scales, slot: int, column: int, value: float, learn: int) -> None:
    """One value of a column, until ``learn`` of them are known (Welford 1962).

    The count begins at less `STARTUP`, and stays at one while a column has not changed (rain, before the first rain).
    """
    count, squares = scales.counts[slot, column], scales.squares[slot, column]
    off = value - scales.means[slot, column]
    if np.isnan(off) or count >= learn or (count == 1 and off == 0):
        return
    if count < 1:
        scales.counts[slot, column], scales.means[slot, column] = count + 1, value
        return
    if count >= CLIP_FROM and squares > 0:
        most = CLIP * np.sqrt(squares / count)
        off = min(max(off, -most), most)
    scales.counts[slot, column] = count + 1
    scales.means[slot, column] += off / (count + 1)
    scales.squares[slot, column] += off * off * count / (count + 1)


@inner
def scaled(scales: Scales, slot: int, column: int, learn: int) -> float:
    """Returns one over the standard deviation of a column; 0 while it is not known."""
    count, squares = scales.counts[slot, column], scales.squares[slot, column]
    return float(np.sqrt(count / squares)) if count >= learn else 0.0


@kernel
def fill_window(
    x: Floats, recent: Floats, inputs: Floats, before: Floats, phase: float, season: bool, scales: Scales, slot: int,
    learn: int,
) -> bool:  # fmt: skip
    """Fill ``x``, shape (terms,), from the last readings (newest first) and inputs; returns whether it is whole.

    ``before`` are the inputs one period earlier; ``phase`` is where in the season it is, from 0 to 1.
    """
    x[0] = 1.0
    others = 1
    for j in range(len(inputs)):
        per_unit = scaled(scales, slot, 1 + j, learn)
        level = (inputs[j] - scales.means[slot, 1 + j]) * per_unit
        change = (inputs[j] - before[j]) * per_unit
        if np.isnan(level) or np.isnan(change):
            return False
        x[others] = min(max(level, -INPUT_MAX), INPUT_MAX)
        x[others + 1] = min(max(change, -INPUT_MAX), INPUT_MAX)
        others += 2
    if season:
        for k in range(1, HARMONICS + 1):
            x[others] = np.sin(2 * np.pi * k * phase)
            x[others + 1] = np.cos(2 * np.pi * k * phase)
            others += 2
    per_unit = scaled(scales, slot, 0, learn)
    level = (recent[0] - scales.means[slot, 0]) * per_unit
    for lag in range(len(recent)):
        term = level if lag == 0 else (recent[lag - 1] - recent[lag]) * per_unit
        if np.isnan(term):
            return False
        for j in range(others):
            x[(1 + lag) * others + j] = term * x[j]
    x[len(x) - 1] = level - min(max(level, -EXTREME), EXTREME)
    return per_unit > 0


@inner
def predicted(x: Floats, weights: Floats) -> float:
    """Returns the change that is forecast."""
    total = 0.0
    for j in range(len(x)):
        total += weights[j] * x[j]
    return total


@kernel
def learn_window(x: Floats, error: float, weights: Floats, covariance: Floats, keep: float) -> None:
    """One step of recursive least squares: ``error`` is how far the forecast from window ``x`` was off.

    What is known is forgotten by the factor ``keep``, but no weight becomes more uncertain than it was at the start:
    an input that stays the same for months (rain, in winter) would else wind its uncertainty up without end
    (selective forgetting, Parkum, Poulsen & Holst 1992).
    """
    count = len(x)
    gain, stretch = np.zeros(count), np.empty(count)
    for i in range(count):
        for j in range(count):
            gain[j] += covariance[i * count + j] * x[i]
    leverage = 1.0
    for j in range(count):
        leverage += gain[j] * x[j]
    if not (leverage >= 1.0 and np.isfinite(leverage)):
        # Rounding has spoilt it: begin it anew, with the weights as they are.
        covariance[:] = 0.0
        for j in range(count):
            covariance[j * count + j] = PRIOR
        return
    share = 1.0 / leverage
    for j in range(count):
        weights[j] += gain[j] * share * error
        left = covariance[j * count + j] - gain[j] * gain[j] * share
        stretch[j] = np.sqrt(1.0 / keep) if left < keep * PRIOR else 1.0
    for i in range(count):
        for j in range(count):
            # In this order of brackets the matrix stays symmetric to the last digit.
            at = i * count + j
            covariance[at] = (covariance[at] - (gain[i] * gain[j]) * share) * (stretch[i] * stretch[j])
