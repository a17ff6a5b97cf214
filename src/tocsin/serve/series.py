"""The newest points of one signal, within bounds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tocsin.engine.wire import BAND
from tocsin.serve import messages

COLUMNS = ("time", "value", *BAND)
POINTS_MAX = 600
HOLE_MS_MIN = 5_000.0
"""A shorter time without points is no hole that anybody sees."""
_HOLE_STEPS, _STEPS = 20.0, 60
"""A hole is so many times as long as the usual time between points, which is that of so many."""

Points = npt.NDArray[np.float64]
"""Shape (columns, points): a row for each of `COLUMNS`; times in milliseconds."""


@dataclass(slots=True)
class SeriesBuffer:
    """The newest points of one signal of a machine in one stream, oldest first."""

    id: int
    machine: str
    signal: str
    stream: str
    newest: float = np.nan
    """Its newest reading, also while its points are not kept."""
    _began_ms: float = np.inf
    """When the first of the points that were heard was; those before it are from the lake."""
    _data: Points = field(default_factory=lambda: np.empty((len(COLUMNS), 0)))
    _start: int = 0
    _end: int = 0

    def add(self, points: Points) -> bool:
        """Add points; what comes late or again (after a recovery) is put in its place.

        Returns whether a hole lies before them: in a burst the engine leaves out what the page has no time for, so all
        before them is to be recalled from the lake.
        """
        known = self.points()
        has_hole = _is_hole(known, points)
        if not known.shape[1] or has_hole:
            self._began_ms = points[0].min()
        elif points[0, 0] <= known[0, -1]:
            if points[0].max() < known[0, 0]:
                known = known[:, :0]  # the past is being read anew
                self._began_ms = points[0].min()
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
        return has_hole

    def recall(self, past: Points, *, instead: bool = False) -> None:
        """Put these points before those that were heard, in the place of what was recalled before.

        ``instead``: also in the place of what was heard up to their end, for that has holes.
        """
        began_ms = np.nextafter(past[0, -1], np.inf) if instead and past.shape[1] else self._began_ms
        heard = self.points()[:, self.points()[0] >= began_ms]
        points = np.concatenate((past[:, past[0] < began_ms], heard), axis=1)[:, -POINTS_MAX:]
        self._data, self._start, self._end = points, 0, points.shape[1]

    def points(self) -> Points:
        """Returns all points."""
        return self._data[:, self._start : self._end]

    def forget(self) -> None:
        """Let go of all points."""
        self._data, self._start, self._end = np.empty((len(COLUMNS), 0)), 0, 0
        self._began_ms = np.inf

    def told(self, points: Points) -> messages.MachineSeries:
        """Returns points of it as the browser gets them."""
        return messages.MachineSeries(self.id, self.machine, self.signal, self.stream, points=pack(points))


def _is_hole(known: Points, points: Points) -> bool:
    """Whether far more time lies between known points and new ones than between the known ones."""
    times = known[0, -_STEPS:]
    if len(times) < 2:
        return False
    gap = float(points[0].min() - times[-1])
    return gap > HOLE_MS_MIN and gap > _HOLE_STEPS * float(np.median(np.diff(times)))


def pack(points: Points) -> messages.Points:
    """Returns points as the browser gets them; columns of the band without any value are left out."""
    columns = {
        name: [rounded(value) for value in column]
        for i, (name, column) in enumerate(zip(COLUMNS, points, strict=True))
        if i < 2 or not np.isnan(column).all()
    }
    return messages.Points(**columns)  # type: ignore[arg-type]


def unpack(points: messages.Points) -> Points:
    """Returns the reverse of `pack`; what a point that stands for several has beside their mean is left out."""
    columns = (getattr(points, name) or [None] * len(points.time) for name in COLUMNS)
    return np.array([*columns], np.float64)  # None becomes NaN


def rounded(value: float, digits: int = 7) -> float | None:
    """Returns so many digits as are enough for a screen; milliseconds since 1970 stay whole."""
    return None if np.isnan(value) else float(value) if abs(value) > 1e11 else float(f"{value:.{digits}g}")
