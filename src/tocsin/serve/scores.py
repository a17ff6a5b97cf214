"""The highest scores of machines in parts of time, from the tables: what is over is read once.

A score of 75 (where a detector's limit is) or more counts as the gravest band, one of 50 or more as the least.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tocsin.domain.alarms import SEVERITIES
from tocsin.engine.wire import StreamColumns
from tocsin.errors import TocsinError

log = logging.getLogger(__name__)
CELLS_MAX = 200
CALM_BELOW, LIMIT = 50.0, SEVERITIES[-1].least
UNKNOWN, CALM = -1, 0
_KEPT_MAX = 2000
"""So many cells are kept: of 2,000 machines about 10 KB each."""
_KEPT_S = 600.0
"""So long they are: a reading may come late."""
_OPEN_S = 20.0
"""What has happened since then may not be in the tables yet: it is read anew each time."""
_QUERY_S_MIN = 0.5
"""With less time left none is begun."""
_AT_ONCE = 6
"""So many cells are read by one query, which a large plant can answer in time."""

Cells = npt.NDArray[np.int8]
"""Shape (cells,): -1 where nothing is known, 0 where all was calm, else a severity's rank."""


@dataclass(frozen=True)
class Grid:
    """Parts of time of the same length, the first of which begins at a multiple of it; in milliseconds since 1970."""

    begin_ms: int
    cell_ms: int
    cells: int

    @classmethod
    def over(cls, begin_ms: int, end_ms: int, cells: int) -> Grid:
        """Returns a range of time cut into about so many cells: there is one more if it does not begin with a cell."""
        cell_ms = -(-(end_ms - begin_ms) // cells)
        first = begin_ms // cell_ms
        return cls(first * cell_ms, cell_ms, -(-end_ms // cell_ms) - first)

    @property
    def end_ms(self) -> int:
        return self.begin_ms + self.cells * self.cell_ms


def ranks(scores: npt.NDArray[np.float64]) -> Cells:
    """Returns how bad scores are; NaN is not known.

    Examples
    --------
    >>> ranks(np.array([np.nan, 20.0, 60.0, 75.0])).tolist()
    [-1, 0, 1, 4]
    """
    bad = np.where(scores >= LIMIT, len(SEVERITIES), np.where(scores >= CALM_BELOW, 1, CALM))
    return np.where(np.isnan(scores), UNKNOWN, bad).astype(np.int8)


def cells_of(known: dict[str, Cells], machine: str, grid: Grid) -> Cells:
    """Returns the cells of a machine, which are unknown at first."""
    if machine not in known:
        known[machine] = np.full(grid.cells, UNKNOWN, np.int8)
    return known[machine]


@dataclass(frozen=True)
class _Read:
    """What a table holds of one cell."""

    machines: npt.NDArray[np.int32]
    """Their places among all that are known."""
    ranks: Cells
    at_s: float
    """When it was read, on the monotonic clock."""


class ScoreCells:
    """What has been read of tables, by table, length and number of a cell; one for all viewers, used by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, int] = {}
        """The places of machines, in their order."""
        self._read: OrderedDict[tuple[str, int, int], _Read] = OrderedDict()

    def take(
        self, lake_folder: Path, stream: StreamColumns, grid: Grid, known: dict[str, Cells], ends_s: float
    ) -> bool:
        """Put what a table holds into ``known``; returns whether all of it could be read by then (monotonic clock)."""
        if not self._lock.acquire(timeout=max(ends_s - time.monotonic(), 0.0)):
            return False
        try:
            is_whole = self._read_missing(lake_folder, stream, grid, ends_s)
            first, names = grid.begin_ms // grid.cell_ms, list(self._names)
            worst = np.full((len(names), grid.cells), UNKNOWN, np.int8)
            for cell in range(grid.cells):
                one = self._read.get((stream.name, grid.cell_ms, first + cell))
                if one is not None:
                    worst[one.machines, cell] = one.ranks
        finally:
            self._lock.release()
        for place in np.flatnonzero((worst > UNKNOWN).any(axis=1)).tolist():
            cells = cells_of(known, names[place], grid)
            np.maximum(cells, worst[place], out=cells)
        return is_whole

    def _read_missing(self, lake_folder: Path, stream: StreamColumns, grid: Grid, ends_s: float) -> bool:
        now_s, now_ms = time.monotonic(), time.time() * 1000
        for place in [place for place, one in self._read.items() if now_s - one.at_s > _KEPT_S]:
            del self._read[place]
        first = grid.begin_ms // grid.cell_ms
        missing = []
        for number in range(first, first + grid.cells):
            is_open = (number + 1) * grid.cell_ms > now_ms - 1000 * _OPEN_S
            if (is_open and number * grid.cell_ms <= now_ms) or (stream.name, grid.cell_ms, number) not in self._read:
                missing.append(number)
        while missing:  # the newest first
            part = [number for number in missing[-_AT_ONCE:] if number > missing[-1] - _AT_ONCE]
            left_s = ends_s - time.monotonic()
            if left_s < _QUERY_S_MIN:
                return False
            try:
                self._query(lake_folder, stream, grid.cell_ms, part, left_s)
            except TocsinError as error:
                log.warning("scores of table %s are not shown: %s", stream.name, error)
                return False
            del missing[-len(part) :]
        return True

    def _query(
        self, lake_folder: Path, stream: StreamColumns, cell_ms: int, numbers: Sequence[int], timeout_s: float
    ) -> None:
        """Read the cells with these numbers, of which the first and the last are the least and the greatest."""
        from tocsin.lake.read import query, quoted

        score = f"CAST({quoted(dict(stream.band)['score'])} AS DOUBLE)"
        sql = f"""
            SELECT {machine_of(stream)} AS machine, epoch_ms(time) // $cell_ms AS cell, max({score}) AS score
            FROM {quoted(stream.name)}
            WHERE time >= make_timestamptz($begin_us) AND time < make_timestamptz($end_us) AND isfinite({score})
            GROUP BY 1, 2
        """  # noqa: S608
        begin, end = numbers[0] * cell_ms, (numbers[-1] + 1) * cell_ms
        given = {"cell_ms": cell_ms, "begin_us": begin * 1000, "end_us": end * 1000}
        rows = query(sql, lake_folder, parameters=given, timeout_s=timeout_s)
        places = [self._names.setdefault(name, len(self._names)) for name in rows["machine"].to_pylist()]
        machines, cells = np.array(places, np.int32), rows["cell"].to_numpy()
        worst, at_s = ranks(rows["score"].to_numpy()), time.monotonic()
        for number in numbers:
            mine = cells == number
            self._read[stream.name, cell_ms, number] = _Read(machines[mine], worst[mine], at_s)
        while len(self._read) > _KEPT_MAX:
            self._read.popitem(last=False)


def machine_of(stream: StreamColumns) -> str:
    """Returns the machine of a row as SQL, as `naming.placed` has it."""
    from tocsin.lake.read import quoted

    who = f"coalesce(CAST({quoted(stream.machine)} AS VARCHAR), CAST(key AS VARCHAR))"
    before = f"regexp_replace({who}, '(?s)/[^/]*$', '')"
    if stream.signal:
        signal = f"coalesce(CAST({quoted(stream.signal)} AS VARCHAR), 'value')"
        return f"CASE WHEN regexp_replace({who}, '(?s)^.*/', '') = {signal} THEN {before} ELSE {who} END"
    return before if stream.values == ("value",) and stream.machine != "machine" else who
