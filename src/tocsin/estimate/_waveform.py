"""Figures of blocks of vibration: level, peak, shape, and the velocity of vibration by bands and by the shaft's orders.

Blocks are arrays of shape (blocks, samples) in m/s². Spectra are those of a block under a Hann window, which is
applied to the spectrum: the window's own spectrum has three lines, so one FFT serves windowed and unwindowed figures
alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tocsin.batch import Floats

Complexes = npt.NDArray[np.complex128]
HANN_POWER = 3 / 8
"""Mean square of a Hann window."""
VELOCITY_BAND_HZ = (10.0, 1000.0)
"""The band whose RMS velocity ISO 20816-3 judges."""
LINE_BINS = 2
"""A spectral line reaches as far to each side of its bin; below it is what is left of the block's mean and trend."""


@dataclass(frozen=True, slots=True)
class Shape:
    """RMS and peak in m/s², crest factor and kurtosis (3 for noise) of each block; NaN where it does not vibrate."""

    rms: Floats
    peak: Floats
    crest: Floats
    kurtosis: Floats


def centred(blocks: Floats, scale: float) -> Floats:
    """Returns the blocks, times a scale, without their mean, which is the sensor's offset."""
    centred: Floats = blocks * scale
    centred -= centred.mean(axis=1, keepdims=True)
    return centred


def shape_of(blocks: Floats) -> Shape:
    """Returns level and shape of blocks without a mean."""
    squares = blocks * blocks
    mean_square = squares.mean(axis=1)
    peak = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    fourth = np.einsum("ij,ij->i", squares, squares) / blocks.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        rms = np.sqrt(mean_square)
        return Shape(rms, peak, peak / rms, fourth / mean_square**2)


def line_powers(spectra: Complexes, samples: int, count: int) -> Floats:
    """Returns the mean square of the first ``count`` lines under a Hann window, shape (blocks, count).

    ``spectra`` are those of blocks of ``samples`` without a window. All lines together are the mean square of the block
    as the window weighs it, exactly so for a sine with a whole number of periods.
    """
    padded = np.zeros((len(spectra), count + 1), np.complex128)
    known = min(count + 1, spectra.shape[1])
    padded[:, :known] = spectra[:, :known]
    windowed = padded[:, 1:-1] / 2 - (padded[:, :-2] + padded[:, 2:]) / 4
    powers = np.zeros((len(spectra), count))
    powers[:, 1:] = (windowed.real**2 + windowed.imag**2) * (2 / (samples**2 * HANN_POWER))
    return powers


def line_amplitudes(powers: Floats) -> Floats:
    """Returns the RMS of a sine at each line of `line_powers`, of the same shape.

    Of a sine at a line, the window leaves that line 4/6 of its power; between two lines up to 15 % less is told.
    """
    return np.sqrt(1.5 * powers)


@lru_cache(maxsize=32)
def _integration(resolution_hz: float, count: int) -> Floats:
    """Returns what turns the mean square of each line of acceleration into that of velocity, (mm/s)² by (m/s²)².

    It would be (1000 / 2 pi f)², but a window spreads a line over its neighbours (1/6, 4/6, 1/6 of its power), where
    that is more or less. So the weights are those that, spread likewise, give it: then the velocity of a sine is
    exact.
    """
    lines = np.maximum(np.arange(count + 2), 1) * resolution_hz
    wanted = (1000 / (2 * np.pi * lines)) ** 2
    weights = wanted.copy()
    for _ in range(60):  # each round leaves at most two thirds of the error
        weights[1:-1] += wanted[1:-1] - (weights[:-2] + 4 * weights[1:-1] + weights[2:]) / 6
    weights[:LINE_BINS] = 0
    weights.setflags(write=False)
    return weights[:count]


def velocity_lines(samples: int, rate_hz: float) -> tuple[int, int]:
    """Returns the first line of the band from 10 Hz to 1 kHz and the one behind its last, a line's flanks included."""
    resolution = rate_hz / samples
    first = max(LINE_BINS, int(np.ceil(VELOCITY_BAND_HZ[0] / resolution)) - 1)
    last = min(samples // 2, int(VELOCITY_BAND_HZ[1] / resolution) + 2)
    return first, max(first, last)


def velocity_rms(powers: Floats, samples: int, rate_hz: float) -> Floats:
    """Returns the RMS velocity from 10 Hz to 1 kHz in mm/s, shape (blocks,)."""
    first, last = velocity_lines(samples, rate_hz)
    return np.sqrt(powers[:, first:last] @ _integration(rate_hz / samples, last)[first:last])


def band_rms(powers: Floats, samples: int, rate_hz: float, low_hz: float, high_hz: float) -> Floats:
    """Returns the RMS acceleration in a band in m/s², shape (blocks,); NaN if it begins beyond half the rate."""
    if low_hz >= rate_hz / 2:
        return np.full(len(powers), np.nan)
    first, last = (int(np.ceil(edge * samples / rate_hz)) for edge in (low_hz, high_hz))
    rms: Floats = np.sqrt(powers[:, max(LINE_BINS, first) : last].sum(axis=1))
    return rms


def order_rms(powers: Floats, resolution_hz: float, shaft_hz: Floats, step: float, count: int) -> Floats:
    """Returns the RMS velocity in mm/s around ``step``, 2 ``step`` ... times the shaft's speed, shape (blocks, count).

    An order holds what lies up to half a step away from it. NaN where the speed is not known or the machine stands,
    and for orders beyond the lines given.
    """
    total = np.zeros((len(powers), powers.shape[1] + 1))
    np.cumsum(powers * _integration(resolution_hz, powers.shape[1]), axis=1, out=total[:, 1:])
    edges: Any = np.ceil((np.arange(count + 1) + 0.5) * step * shaft_hz[:, None] / resolution_hz)
    seen = edges <= powers.shape[1]
    below = np.take_along_axis(total, np.where(seen, edges, 0).astype(np.int64), axis=1)
    return np.where(seen[:, 1:], np.sqrt(np.maximum(np.diff(below, axis=1), 0)), np.nan)
