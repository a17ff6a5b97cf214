"""Machines that wear and are maintained, many at once: what happens in a day, what is seen of it, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tocsin.batch import Floats

SIGNALS = ("reading", "rul", "rul_lower", "age", "idle_in")
"""What is seen of a machine each morning; see `Machines.observe`."""
LIFE_MAX_DAYS, READING_MAX = 365.0, 10.0
_SHAPE = 2.0
"""Of the gamma distribution of a day's wear: the larger, the more even the days."""
_LOWER = 1.2816
"""How many standard deviations a cautious life is shorter: the tenth percentile of the normal distribution."""


@dataclass(frozen=True)
class Plant:
    """What wears, how well it is seen, and what a stop costs (in units of a planned stop on a working day)."""

    days: int = 365
    """How long an episode is."""
    life_days: float = 25.0
    """After how many days a part fails whose wear is neither fast nor slow."""
    spread: float = 0.5
    """How unlike parts are: the standard deviation of the logarithm of their rate of wear."""
    noise: float = 0.15
    """The standard deviation of a reading; a part fails at a wear of 1."""
    idle_every: int = 7
    """Each so manieth day the line stands still anyway."""
    planned: float = 1.0
    """A planned stop on a working day."""
    idle: float = 0.4
    """A planned stop on a day on which the line stands still."""
    unplanned: float = 8.0
    """A failure: the repair, and what was not made meanwhile."""


class Machines:
    """Some machines, each by itself, and a forecast of the life that is left to each.

    Wear is a gamma process (van Noortwijk 2009) whose rate each new part draws from a lognormal distribution; neither
    is seen. The forecast is a Kalman filter (1960) of wear and rate over the noisy readings, which starts anew with
    each part from what parts are like on average.

    As many random numbers are drawn each day whatever is decided, so that with one seed all policies meet the same
    parts, days and noise.
    """

    def __init__(self, plant: Plant, count: int) -> None:
        self.plant, self.count = plant, count
        self._rate = np.exp(0.5 * plant.spread**2) / plant.life_days
        self._rate_variance = self._rate**2 * np.expm1(plant.spread**2)

    def reset(self, random: np.random.Generator) -> None:
        """Give each machine a new part, and start on some day of the week."""
        shape = self.count
        self.day = random.integers(self.plant.idle_every, size=shape)
        self._wear, self._speed = np.zeros(shape), self._new_speed(random)
        self._age, self._reading = np.zeros(shape), random.normal(0.0, self.plant.noise, shape)
        self._level, self._slope = np.zeros(shape), np.full(shape, self._rate)
        self._level_variance, self._covariance = np.zeros(shape), np.zeros(shape)
        self._slope_variance = np.full(shape, self._rate_variance)

    def step(self, maintain: npt.NDArray[np.bool_], random: np.random.Generator) -> Floats:
        """A day passes; those in ``maintain``, shape (machines,), get a new part in the morning; returns the costs.

        What fails during the day has a new part in the evening.
        """
        plant = self.plant
        planned = np.where(self.day % plant.idle_every == 0, plant.idle, plant.planned)
        self._renew(maintain, random)
        self._wear += self._speed * random.standard_gamma(_SHAPE, self.count) / _SHAPE
        self._age += 1
        self._predict()
        failed = self._wear >= 1
        self._renew(failed, random)
        self.day += 1
        self._reading = self._wear + random.normal(0.0, plant.noise, self.count)
        self._correct(~failed)
        return np.where(maintain, planned, 0.0) + np.where(failed, plant.unplanned, 0.0)

    def observe(self) -> npt.NDArray[np.float32]:
        """What is seen, shape (machines, 5), in the order of `SIGNALS`.

        The wear as it was measured; the days that are left, and how many of them with caution; days since the part
        was new; days until the line stands still (0: today).
        """
        slope = np.maximum(self._slope, 0.1 * self._rate)
        life = np.maximum(1 - self._level, 0) / slope
        variance = self._level_variance + life * (2 * self._covariance + life * self._slope_variance)
        deviation = np.sqrt(np.maximum(variance + life * slope**2 / _SHAPE, 0)) / slope
        lower = np.maximum(life - _LOWER * deviation, 0)
        idle_in = -self.day % self.plant.idle_every
        reading = np.clip(self._reading, -READING_MAX, READING_MAX)
        seen = (reading, np.minimum(life, LIFE_MAX_DAYS), np.minimum(lower, LIFE_MAX_DAYS), self._age, idle_in)
        return np.stack(seen, axis=1).astype(np.float32)

    def _new_speed(self, random: np.random.Generator) -> Floats:
        return np.exp(random.normal(0.0, self.plant.spread, self.count)) / self.plant.life_days

    def _renew(self, which: npt.NDArray[np.bool_], random: np.random.Generator) -> None:
        """A new part; what the filter knew was of the old one."""
        new = self._new_speed(random)
        self._speed = np.where(which, new, self._speed)
        for values in (self._wear, self._age, self._level, self._level_variance, self._covariance):
            values[which] = 0
        self._slope[which], self._slope_variance[which] = self._rate, self._rate_variance

    def _predict(self) -> None:
        self._level += self._slope
        self._level_variance += 2 * self._covariance + self._slope_variance + self._slope**2 / _SHAPE
        self._covariance += self._slope_variance

    def _correct(self, which: npt.NDArray[np.bool_]) -> None:
        """What the reading says of wear and rate; nothing of a part that is new."""
        gain = np.where(which, 1 / (self._level_variance + self.plant.noise**2), 0.0)
        level, slope, error = self._level_variance * gain, self._covariance * gain, self._reading - self._level
        self._level += level * error
        self._slope += slope * error
        self._slope_variance -= slope * self._covariance
        self._covariance -= level * self._covariance
        self._level_variance -= level * self._level_variance
