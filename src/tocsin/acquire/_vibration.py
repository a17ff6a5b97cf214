"""What the accelerometer beside a simulated bearing gives: turning shaft, noise, and the impacts of a damaged race."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tocsin.batch import Floats
from tocsin.domain.bearings import BEARINGS

BEARING = "6205"
"""The motor's bearing, by its name in `domain.bearings`."""
GRAVITY = 9.80665
SHAFT_LINES = np.array([0.93, 0.3, 0.2])
"""Amplitudes of the shaft's speed, twice and three times it: imbalance and alignment."""
RESONANCE_HZ, RING_S = 3200.0, 0.001
"""At what frequency the housing rings when struck, and how fast that dies away."""
IMPACT_G = 2.5
"""How strong the impacts of a race that has failed are."""
NOISE_G = 0.04
SLIP = 0.005
"""By how much of their distance impacts come early or late, as rolling elements slip."""


@dataclass(frozen=True, slots=True)
class Motion:
    """How the machine turns and what is wrong with its bearing, while one waveform is taken."""

    shaft_hz: float
    velocity_rms: float
    """In mm/s."""
    outer_race: float
    """How damaged it is, 0 to 1."""
    inner_race: float


def acceleration(motion: Motion, samples: int, rate_hz: float, random: np.random.Generator) -> Floats:
    """Returns a waveform in g, shape (samples,)."""
    time_s = np.arange(samples) / rate_hz
    wave = random.normal(0, NOISE_G, samples)
    if motion.shaft_hz <= 0:
        return wave
    turn = 2 * np.pi * (random.random() + motion.shaft_hz * time_s)
    amplitudes = SHAFT_LINES / np.sqrt((SHAFT_LINES**2).sum() / 2) * motion.velocity_rms / 1000
    for number, amplitude in enumerate(amplitudes, 1):
        wave += amplitude * 2 * np.pi * number * motion.shaft_hz / GRAVITY * np.cos(number * turn)
    orders = BEARINGS[BEARING].orders()
    for severity, order, load in (
        (motion.outer_race, orders.bpfo, np.ones(samples)),
        (
            motion.inner_race,
            orders.bpfi,
            (1 + np.cos(turn)) / 2,
        ),  # a spot of the inner race turns in and out of the load
    ):
        wave += IMPACT_G * severity * _ringing(load, order * motion.shaft_hz, rate_hz, random)
    return wave


def _ringing(load: Floats, per_second: float, rate_hz: float, random: np.random.Generator) -> Floats:
    """Returns impacts as often as told, each as strong as the load where it comes, and what rings after them."""
    count = int(len(load) / rate_hz * per_second) + 1
    moments = np.arange(count) + random.random() + random.normal(0, SLIP, count)
    places = np.rint(moments * rate_hz / per_second).astype(np.int64)
    places = places[(places >= 0) & (places < len(load))]
    impacts = np.zeros(len(load))
    impacts[places] = load[places]
    ring_s = np.arange(int(6 * RING_S * rate_hz) + 1) / rate_hz
    return np.convolve(impacts, np.exp(-ring_s / RING_S) * np.sin(2 * np.pi * RESONANCE_HZ * ring_s))[: len(load)]
