"""Series of samples in time, and what they are at the points of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tocsin.batch import Floats, Ints

NAME = "__name__"
Labels = Mapping[str, str]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Samples:
    """What a metric was: times in milliseconds, ascending, and values, both of shape (samples,)."""

    labels: Labels
    times_ms: Ints
    values: Floats


@dataclass(frozen=True)
class Line:
    """Values at the points of a grid, shape (points,); where it is not present there is none."""

    labels: Labels
    values: Floats
    present: Bools

    def with_values(self, values: Floats, present: Bools | None = None, *, keep_name: bool = False) -> Line:
        """Returns a line of other values; without its name, as it is no longer that metric."""
        labels = self.labels if keep_name else {name: v for name, v in self.labels.items() if name != NAME}
        return Line(labels, values, self.present if present is None else present)


def at_points(samples: Samples, grid_ms: Ints, lookback_ms: int) -> Line:
    """Returns the newest sample at each point, no older than the lookback."""
    at = np.searchsorted(samples.times_ms, grid_ms, side="right") - 1
    known = np.maximum(at, 0)
    present = (at >= 0) & (samples.times_ms[known] > grid_ms - lookback_ms) if len(samples.times_ms) else at >= 0
    values = samples.values[known] if len(samples.values) else np.zeros(len(grid_ms))
    return Line(samples.labels, np.where(present, values, np.nan), present)


def windows(samples: Samples, grid_ms: Ints, range_ms: int) -> tuple[Ints, Ints]:
    """Returns, for each point, which samples lie in the range that ends there: from the first up to the second."""
    first = np.searchsorted(samples.times_ms, grid_ms - range_ms, side="right")
    last = np.searchsorted(samples.times_ms, grid_ms, side="right")
    return first.astype(np.int64), last.astype(np.int64)
