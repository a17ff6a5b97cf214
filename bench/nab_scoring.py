"""The scoring of the Numenta Anomaly Benchmark (Lavin & Ahmad 2015), from its paper and its published scorer.

A detection inside a window counts by how early it is, one outside costs by how far it is past the last window, a
missed window costs a whole detection. One threshold for all series, chosen for each profile. 0 is a detector that
never rings, 100 a perfect one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PROFILES = {"standard": (0.11, 1.0), "reward_low_fp": (0.22, 1.0), "reward_low_fn": (0.11, 2.0)}
"""Weights of a false positive and of a missed window; a detection weighs 1."""


@dataclass(frozen=True)
class Series:
    """One file: its stamps as text, its values, its windows as (first, last) row."""

    name: str
    stamps: Sequence[str]
    values: Floats
    windows: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def probation(self) -> int:
        """Rows at the start in which a detector may learn."""
        return min(int(0.15 * len(self.values)), 750)


def read(folder: Path) -> list[Series]:
    """All series of a folder with its ``windows.json`` (or NAB's own ``combined_windows.json``)."""
    listed = next(p for p in (folder / "windows.json", folder / "combined_windows.json") if p.exists())
    found = []
    for name, windows in sorted(json.loads(listed.read_text()).items()):
        path = folder / name
        if not path.exists():
            continue
        rows = [line.split(",") for line in path.read_text().splitlines()[1:] if line]
        stamps = [row[0] for row in rows]
        at = {stamp: i for i, stamp in reversed(list(enumerate(stamps)))}
        limits = [(at[a.partition(".")[0]], at[b.partition(".")[0]]) for a, b in windows]
        found.append(Series(name, stamps, np.array([float(row[1]) for row in rows]), limits))
    return found


def thinned(series: Series, out: npt.NDArray[np.bool_]) -> Series:
    """Returns the series without the rows that are ``out``; windows begin and end at what is left."""
    kept = np.flatnonzero(~out)
    stamps = [series.stamps[row] for row in kept]
    firsts, lasts = np.array(series.windows, np.int64).reshape(-1, 2).T
    limits = zip(np.searchsorted(kept, firsts), np.searchsorted(kept, lasts, "right") - 1, strict=True)
    return Series(series.name, stamps, series.values[kept], [(int(first), int(last)) for first, last in limits])


def _sigmoid(x: Floats) -> Floats:
    return np.where(x > 3.0, -1.0, 2.0 / (1.0 + np.exp(5.0 * np.minimum(x, 3.0))) - 1.0)


def weights(series: Series) -> tuple[Floats, npt.NDArray[np.int64]]:
    """For each row what a detection there is worth (before the profile), and its window (-1 outside)."""
    n = len(series.values)
    worth, window = np.full(n, -1.0), np.full(n, -1)
    for i, (first, last) in enumerate(series.windows):
        width = last - first + 1
        rows = np.arange(first, last + 1)
        worth[rows] = _sigmoid(-(last - rows + 1) / width) / _sigmoid(np.array(-1.0))
        window[rows] = i
        end = series.windows[i + 1][0] if i + 1 < len(series.windows) else n
        after = np.arange(last + 1, end)
        worth[after] = _sigmoid((after - last) / (width - 1.0))
    return worth, window


def sweep(series: Sequence[Series], scores: Mapping[str, Floats], profile: str) -> tuple[Floats, Floats]:
    """All thresholds (falling), and the normalised score of the whole corpus at each."""
    fp_weight, fn_weight = PROFILES[profile]
    points, worths, windows = [], [], []
    count = 0
    for one in series:
        worth, window = weights(one)
        rows = slice(one.probation, None)
        points.append(np.asarray(scores[one.name], float)[rows])
        worths.append(worth[rows])
        windows.append(np.where(window[rows] >= 0, window[rows] + count, -1))
        count += len(one.windows)
    point, worth, window = map(np.concatenate, (points, worths, windows))
    order = np.argsort(-point, kind="stable")
    point, worth, window = point[order], worth[order], window[order]
    best = np.full(count, -fn_weight)
    total, gains = -fn_weight * count, np.empty(len(point))
    for i in range(len(point)):
        w = window[i]
        if w < 0:
            total += worth[i] * fp_weight
        elif worth[i] > best[w]:
            total += worth[i] - best[w]
            best[w] = worth[i]
        gains[i] = total
    last = np.append(point[1:] != point[:-1], True)
    raw = gains[last]
    return point[last], 100.0 * (raw + fn_weight * count) / (count * (1.0 + fn_weight))


def best_and_at(
    series: Sequence[Series], scores: Mapping[str, Floats], profile: str, threshold: float
) -> tuple[float, float]:
    """The best score over all thresholds (one that never rings gives 0), and the score at one: rows that reach it."""
    thresholds, normalised = sweep(series, scores, profile)
    reached = np.flatnonzero(thresholds >= threshold)
    return max(float(normalised.max()), 0.0), float(normalised[reached[-1]]) if len(reached) else 0.0
