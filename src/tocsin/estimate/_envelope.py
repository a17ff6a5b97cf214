"""Envelope spectra: in which band impacts ring, how often they come, and which part of a bearing is struck so often.

A damaged spot gives an impact each time it is rolled over; each rings at the machine's resonances, some kHz. The
squared envelope of that band repeats with the impacts, and its spectrum has lines at the fault frequency and its
harmonics.

Randall and Antoni, Rolling element bearing diagnostics - a tutorial, Mechanical Systems and Signal Processing 25
(2011); Antoni, Fast computation of the kurtogram for the detection of transient faults, ibid. 21 (2007).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tocsin.batch import Floats, Ints
from tocsin.domain.bearings import FaultOrders
from tocsin.estimate._waveform import Complexes
from tocsin.kernels import inlined, kernel

FAULTS = ("outer race", "inner race", "rolling element", "cage")
ELEMENT, CAGE = 2, 3
HARMONICS = 5
"""How many harmonics of a fault frequency are looked at."""
HARMONICS_MIN = np.array([2, 2, 2, 3])
"""How many of them must be seen. A sound cage turns too: its speed shows where the load varies with it."""
LINE_MIN = 3.0
"""What stands that much above the noise floor is a line: in noise one line of 8,000 does."""
BINS_APART = 1.5
"""Lines less far apart cannot be told from each other."""
FLOOR_ORDERS, FLOOR_BINS_MIN = 1.5, 16
"""The noise floor is taken from lines so far to both sides, in orders of the shaft, and so many at least."""
LOG_MEAN_OF_NOISE = 0.5772156649015329
"""Euler's constant: by how much the mean logarithm of the lines of noise lies below the logarithm of their mean."""
IN_CACHE = 4
"""So many blocks at once go back to time: with more, the memory that it takes is given back and asked for each time."""
RATIO, FREQUENCY, LINES, SIDEBANDS, SCORE = range(5)
"""What `evidence` tells of each fault."""


def kurtosis_bands(samples: int) -> list[tuple[int, int]]:
    """Returns the bands, as lines from and up to, of which spectral kurtosis chooses: halves that overlap.

    Quarters beside them found no weaker impacts in trials, and no quarter holds a resonance that lies at its edge.
    """
    quarter = samples // 8
    return [(i * quarter, (i + 2) * quarter) for i in range(3)]


def most_impulsive(spectra: Complexes, samples: int) -> Ints:
    """Returns the number of the band of `kurtosis_bands` whose envelope is the most impulsive, shape (blocks,).

    It is the kurtosis of the band's analytic signal: high for impacts, lower for noise and lowest for a tone.
    """
    best = np.empty(len(spectra), np.int64)
    bands = kurtosis_bands(samples)
    for begin in range(0, len(spectra), IN_CACHE):
        part = slice(begin, begin + IN_CACHE)
        best[part] = _kurtosis(np.fft.ifft(np.stack([spectra[part, low:high] for low, high in bands], axis=1))).argmax(
            axis=1
        )
    return best


def _kurtosis(analytic: Complexes) -> Floats:
    squares = analytic.real**2 + analytic.imag**2
    with np.errstate(invalid="ignore", divide="ignore"):
        kurtosis = np.einsum("...i,...i->...", squares, squares) / squares.sum(axis=-1) ** 2
    return np.where(np.isfinite(kurtosis), kurtosis, 0.0)


@lru_cache(maxsize=32)
def _hann(length: int) -> Floats:
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length))


def envelope_powers(spectra: Complexes, low: int, high: int, count: int) -> Floats:
    """Returns the power of the first lines (up to ``count``) of the squared envelope of a band, shape (blocks, lines).

    The band is that of the lines from ``low`` up to ``high``. Only these go back to time, as an analytic signal of
    twice their number: a Hilbert transform that costs as little as the band is narrow.
    """
    length = _length(high - low)
    powers = np.empty((len(spectra), min(count, high - low)))
    for begin in range(0, len(spectra), IN_CACHE):
        part = slice(begin, begin + IN_CACHE)
        analytic = np.fft.ifft(spectra[part, low:high], length)
        squared = analytic.real**2 + analytic.imag**2
        squared -= squared.mean(axis=1, keepdims=True)
        squared *= _hann(length)
        lines = np.fft.rfft(squared)[:, : powers.shape[1]]
        powers[part] = lines.real**2 + lines.imag**2
    return powers


def amplitudes(powers: Floats, samples: int, width: int) -> Floats:
    """Returns the amplitude of each line of `envelope_powers` in (m/s²)², of the same shape.

    The band had ``width`` lines of the spectra of blocks of ``samples``. A sine that is modulated, A (1 + m cos) sin,
    has a line of 2 m A² at the modulation's frequency.
    """
    length = _length(width)
    return np.sqrt(powers) * (2 * length / samples) ** 2 * (4 / length)


def _length(width: int) -> int:
    """Returns how many samples the envelope of so many lines has: twice as many or more, of a fast length."""
    power = 1 << int(2 * width - 1).bit_length()
    return power // 4 * 3 if power // 4 * 3 >= 2 * width else power


def lines_needed(shaft_hz: float, orders: Floats, tolerance: float, resolution_hz: float) -> int:
    """Returns how many lines of the envelope's spectrum `evidence` looks at."""
    highest = HARMONICS * float(orders.max()) * (1 + tolerance) + FLOOR_ORDERS
    return int(highest * shaft_hz / resolution_hz) + 2 * FLOOR_BINS_MIN


def struck(orders: FaultOrders) -> Floats:
    """Returns how often each part of `FAULTS` is struck in a turn: a spot of a rolling element twice in a spin."""
    return np.array([orders.bpfo, orders.bpfi, 2 * orders.bsf, orders.ftf])


@inlined
def _highest(logs: Floats, count: int, at: float) -> float:
    """The higher of the two lines beside a place."""
    k = int(at)
    return float(max(logs[k], logs[k + 1])) if 2 <= k < count - 1 else 0.0


@inlined
def _is_of_shaft(at: float, shaft: float, order: float) -> bool:
    """Whether a line would be taken for a harmonic of the shaft, with or without slip."""
    apart = min(abs(at - np.rint(at / shaft) * shaft), abs(order - np.rint(order)) * shaft)
    return bool(apart < BINS_APART)


@inlined
def _height(logs: Floats, count: int, at: float, shaft: float, order: float) -> float:
    return 0.0 if _is_of_shaft(at, shaft, order) else _highest(logs, count, at)


@kernel
def evidence(
    powers: Floats, resolution_hz: float, shaft_hz: Floats, orders: Floats, tolerance: float, told: Floats
) -> None:
    """What stands at each fault's frequency in the spectra of envelopes of shape (blocks, lines).

    ``told`` is of shape (blocks, faults, 5): amplitude of the line at the frequency by that of the noise around it,
    the frequency in Hz, how many harmonics (the first included) and how many sidebands are seen, and the mean
    logarithm of the harmonics' ratios. The frequency is the one within ``tolerance`` of what is expected, for slip,
    at which that mean is greatest. Harmonics that coincide with one of the shaft's do not count.
    """
    count = powers.shape[1]
    logs, total = np.empty(count), np.empty(count + 1)
    for b in range(powers.shape[0]):
        shaft = shaft_hz[b] / resolution_hz  # in lines
        width = max(FLOOR_BINS_MIN, int(FLOOR_ORDERS * shaft))
        total[0] = total[1] = total[2] = 0.0
        for k in range(2, count):
            logs[k] = np.log(powers[b, k] + 1e-300)
            total[k + 1] = total[k] + logs[k]
        for k in range(2, count):
            begin, end = max(2, k - width), min(count, k + width + 1)
            floor = (total[end] - total[begin]) / (end - begin) + LOG_MEAN_OF_NOISE
            logs[k] = max(0.0, (logs[k] - floor) / 2)
        for f in range(len(orders)):
            line = orders[f] * shaft
            if line >= count:  # beyond what the envelope holds, or a speed that cannot be
                told[b, f] = np.nan
                continue
            steps = int(np.ceil(2 * HARMONICS * line * tolerance))
            best, best_score = line, -1.0
            for i in range(-steps, steps + 1):
                at = line * (1 + tolerance * i / max(steps, 1))
                score = 0.0
                for h in range(1, HARMONICS + 1):
                    score += _height(logs, count, h * at, shaft, h * orders[f])
                if score > best_score:
                    best, best_score = at, score
            seen, visible = 0, 0
            for h in range(1, HARMONICS + 1):
                if h * best + 1 < count and not _is_of_shaft(h * best, shaft, h * orders[f]):
                    visible += 1
                    seen += _height(logs, count, h * best, shaft, h * orders[f]) >= np.log(LINE_MIN)
            apart = orders[CAGE] * shaft if f == ELEMENT else shaft
            sidebands = 0
            for side in (-2, -1, 1, 2):
                sidebands += f != CAGE and _highest(logs, count, best + side * apart) >= np.log(LINE_MIN)
            told[b, f, RATIO] = np.exp(_height(logs, count, best, shaft, orders[f]))
            told[b, f, FREQUENCY] = best * resolution_hz
            told[b, f, LINES] = seen
            told[b, f, SIDEBANDS] = sidebands
            told[b, f, SCORE] = best_score / max(visible, 1)


def named(told: Floats, ratio_min: float) -> Ints:
    """Returns the place in `FAULTS` of what is damaged by `evidence`, shape (blocks,); -1 for nothing."""
    proven = (told[:, :, RATIO] >= ratio_min) & (told[:, :, LINES] >= HARMONICS_MIN)
    scores = np.where(proven, told[:, :, SCORE], -1.0)
    return np.where(proven.any(axis=1), scores.argmax(axis=1), -1)
