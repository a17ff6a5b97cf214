"""What a machine's readings say of its wear: age, fast and slow means, the change since it was new; in each regime.

The same compiled loop makes the features that teach and those in the stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tocsin.batch import Codes, Floats
from tocsin.kernels import kernel

SPANS = (5.0, 20.0, 60.0)
"""Readings that a moving average looks back on."""
NEW = 40
"""How many readings of a machine's life say how it is when it is new."""
EXPLAINED_MIN = 0.2
"""Which share of the variance of its readings a setting must explain to make two regimes of one."""
REGIMES_MAX = 16
ROWS_MIN = 100
"""Rows of a regime; of fewer, a setting that says nothing explains a fifth by chance."""
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Regimes:
    """Ranges of the settings in which the readings have a mean and a deviation of their own.

    ``splits`` holds nodes: which setting, its limit, and where to go on at or below and above it: a later node, or
    minus one minus the regime.
    """

    splits: Sequence[tuple[int, float, int, int]]
    means: Floats
    deviations: Floats
    """Shape (regimes, sensors)."""

    @property
    def count(self) -> int:
        return len(self.means)

    def of(self, settings: Floats) -> Numbers:
        """Returns the regime of each row, shape (rows,)."""
        regimes = np.zeros(len(settings), np.int64)
        if self.splits:
            self._sort(settings, np.arange(len(settings)), 0, regimes)
        return regimes

    def _sort(self, settings: Floats, rows: Numbers, node: int, regimes: Numbers) -> None:
        setting, limit, below, above = self.splits[node]
        low = settings[rows, setting] <= limit
        for some, then in ((rows[low], below), (rows[~low], above)):
            if then < 0:
                regimes[some] = -1 - then
            else:
                self._sort(settings, some, then, regimes)

    def scaled(self, settings: Floats, sensors: Floats) -> Floats:
        """Returns the readings in deviations of their regime, shape (rows, sensors); 0 for those that never vary."""
        regimes = self.of(settings)
        deviations = self.deviations[regimes]
        steady = deviations <= 1e-6 * np.abs(self.means[regimes])
        scaled = (sensors - self.means[regimes]) / np.where(steady, 1.0, deviations)
        return np.where(steady & np.isfinite(scaled), 0.0, scaled)

    def to_json(self) -> Mapping[str, Any]:
        return {
            "splits": [list(split) for split in self.splits],
            "means": self.means.tolist(),
            "deviations": self.deviations.tolist(),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Regimes:
        splits = [(int(s), float(limit), int(below), int(above)) for s, limit, below, above in tree["splits"]]
        return cls(splits, np.array(tree["means"]), np.array(tree["deviations"]))


def find_regimes(settings: Floats, sensors: Floats) -> Regimes:
    """Return the regimes of some rows: a range of a setting is cut where that explains most of the readings' variance.

    Each cut must explain a fifth of it (`EXPLAINED_MIN`), so that settings that only tremble make no regimes: the first
    of several cuts, by a setting that is not the only one, may explain no more.
    """
    splits: list[tuple[int, float, int, int]] = []
    parts: list[Numbers] = []

    def grow(rows: Numbers) -> int:
        cut = _best_cut(settings[rows], sensors[rows]) if len(splits) + 1 < REGIMES_MAX else None
        if cut is None:
            parts.append(rows)
            return -len(parts)
        node = len(splits)
        splits.append((cut[0], cut[1], 0, 0))
        low = settings[rows, cut[0]] <= cut[1]
        below, above = grow(rows[low]), grow(rows[~low])
        splits[node] = (cut[0], cut[1], below, above)
        return node

    grow(np.arange(len(settings)))
    means = np.array([sensors[rows].mean(axis=0) for rows in parts])
    return Regimes(splits, means, np.array([sensors[rows].std(axis=0) for rows in parts]))


def _best_cut(settings: Floats, sensors: Floats) -> tuple[int, float] | None:
    """The setting and limit that explain most of the variance of the readings that vary; None if it is too little."""
    deviations = sensors.std(axis=0)
    varies = deviations > 1e-6 * np.abs(sensors.mean(axis=0))
    if len(settings) < 2 * ROWS_MIN or not varies.any():
        return None
    scaled = (sensors[:, varies] - sensors[:, varies].mean(axis=0)) / deviations[varies]
    best: tuple[float, int, float] = (EXPLAINED_MIN, -1, 0.0)
    for setting in range(settings.shape[1]):
        order = np.argsort(settings[:, setting], kind="stable")
        values = settings[order, setting]
        sums, counts = np.cumsum(scaled[order], axis=0)[:-1], np.arange(1, len(values))
        # Explained by two means, where the mean of all is 0.
        explained = np.mean(sums**2, axis=1) / counts / (len(values) - counts)
        allowed = (np.diff(values) > 0) & (counts >= ROWS_MIN) & (len(values) - counts >= ROWS_MIN)
        explained[~allowed] = 0
        at = int(np.argmax(explained))
        if explained[at] > best[0]:
            best = (float(explained[at]), setting, float(values[at] + values[at + 1]) / 2)
    return None if best[1] < 0 else (best[1], best[2])


def feature_count(sensors: int) -> int:
    """Returns how many features some sensors have."""
    return 1 + (len(SPANS) + 1) * sensors


def sensors_of(features: int) -> int:
    """Returns how many sensors so many features are of."""
    return (features - 1) // (len(SPANS) + 1)


def state_width(sensors: int) -> int:
    """Returns how many numbers are remembered of a machine: its means, how much each knows, what it was when new."""
    return (2 * len(SPANS) + 2) * sensors


@kernel
def wear_features(slots: Codes, scaled: Floats, ages: Floats, memory: Floats, features: Floats) -> None:
    """Write the features of each row, shape (rows, `feature_count`): NaN until each sensor has been seen once.

    ``ages`` (machines,) and ``memory`` (machines, `state_width`) are what is remembered; a missing reading (NaN)
    changes neither the means nor what is new.
    """
    sensors = scaled.shape[1]
    wide = len(SPANS) * sensors
    for i in range(len(slots)):
        s = slots[i]
        ages[s] += 1
        features[i, 0] = ages[s]
        kept = memory[s]
        for j in range(sensors):
            z, new, news = scaled[i, j], 2 * wide + j, 2 * wide + sensors + j
            for k in range(len(SPANS)):
                mean, known = k * sensors + j, wide + k * sensors + j
                if np.isfinite(z):
                    share = 2.0 / (SPANS[k] + 1.0)
                    kept[mean] += share * (z - kept[mean])
                    kept[known] += share * (1.0 - kept[known])
                features[i, 1 + mean] = kept[mean] / kept[known] if kept[known] > 0 else np.nan
            if np.isfinite(z) and kept[news] < NEW:
                kept[news] += 1
                kept[new] += z
            first = kept[new] / kept[news] if kept[news] > 0 else np.nan
            features[i, 1 + wide + j] = features[i, 1 + sensors + j] - first


@kernel
def recent_rows(slots: Codes, values: Floats, memory: Floats, windows: Floats) -> None:
    """Write the last rows of its machine beside each row, shape (rows, depth, columns), the newest last.

    ``memory`` (machines, depth * columns) is NaN for a machine that has had no whole row yet: before that it is as it
    was in it. Rows that are not whole are not given.
    """
    depth, columns = windows.shape[1], windows.shape[2]
    for i in range(len(slots)):
        kept = memory[slots[i]]
        fresh = np.isnan(kept[-1])
        for at in range(depth):
            for j in range(columns):
                if fresh or at == depth - 1:
                    kept[at * columns + j] = values[i, j]
                else:
                    kept[at * columns + j] = kept[(at + 1) * columns + j]
                windows[i, at, j] = kept[at * columns + j]
