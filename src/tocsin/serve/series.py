"""The newest points of one signal, within bounds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tocsin.engine.wire import BAND
from tocsin.serve import messages

COLUMNS = ("time", "value", *BAND)
POINTS_MAX = 600

Points = npt.NDArray[np.float64]
"""Shape (columns, points): a row for each of `COLUMNS`; times in milliseconds."""


@dataclass(slots=True)
class SeriesBuffer:
    """The newest points of one signal of a machine in one stream, oldest first."""

    id: int
    machine: str
    signal: str
    stream: str
    _data: Points = field(default_factory=lambda: np.full((len(COLUMNS), 64), np.nan))
    _start: int = 0
    _end: int = 0

    def add(self, points: Points) -> None:
        """Add points; what comes late or again (after a recovery) is put in its place."""
        known = self.points()
        if known.shape[1] and points[0, 0] <= known[0, -1]:
            if points[0].max() < known[0, 0]:
                known = known[:, :0]  # the past is being read anew
            points = np.concatenate((known, points), axis=1)
            points = points[:, np.argsort(points[0], kind="stable")]
            points = points[:, np.append(np.diff(points[0]) != 0, True)]
            self._start = self._end = 0
        points = points[:, -POINTS_MAX:]
        new = points.shape[1]
        if self._end + new > self._data.shape[1]:
            keep = self.points()[:, -(POINTS_MAX - new) :] if new < POINTS_MAX else self.points()[:, :0]
            grown = np.empty((len(COLUMNS), min(2 * (keep.shape[1] + new), 2 * POINTS_MAX)))
            grown[:, : keep.shape[1]] = keep
            self._data, self._start, self._end = grown, 0, keep.shape[1]
        self._data[:, self._end : self._end + new] = points
        self._end += new
        self._start = max(self._start, self._end - POINTS_MAX)

    def points(self) -> Points:
        """Returns all points."""
        return self._data[:, self._start : self._end]

    def described(self) -> messages.Series:
        """Returns what it is, without its points."""
        return messages.Series(self.id, self.machine, self.signal, self.stream)

    def recent(self, count: int) -> list[float | None]:
        """Returns the newest values."""
        return [rounded(value) for value in self.points()[1, -count:]]


def pack(points: Points) -> messages.Points:
    """Returns points as the browser gets them; columns of the band without any value are left out."""
    columns = {
        name: [rounded(value) for value in column]
        for i, (name, column) in enumerate(zip(COLUMNS, points, strict=True))
        if i < 2 or not np.isnan(column).all()
    }
    return messages.Points(**columns)  # type: ignore[arg-type]


def rounded(value: float) -> float | None:
    """Returns seven digits, enough for a screen; milliseconds since 1970 stay whole."""
    return None if np.isnan(value) else float(value) if abs(value) > 1e11 else float(f"{value:.7g}")
