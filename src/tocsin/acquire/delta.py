"""Source `delta`: the rows of a Delta table, and those that come after them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.types as pt

from tocsin.batch import KEY, REST, TIME, TIME_TYPE, Batch, empty, tick
from tocsin.contracts import Offset, Reader, Source
from tocsin.ends import Follower, OneSplit
from tocsin.errors import ConfigError
from tocsin.lake.following import Place, TableFollower, columns_of
from tocsin.objects.store import is_remote
from tocsin.settings.quantities import Duration
from tocsin.world import SystemDisk, World

_AHEAD = 2


class Delta(Source):
    """Read a Delta table in a folder, and go on with the rows that are added to it, by whomever.

    With it a pipeline takes up what another one has written: alarms that a job on many machines keeps in a table are
    delivered by a small process that reads it, and their page is there, too. Rows come in the order in which they came
    into the table, each exactly once; files that were only merged do not come again, and rows that are deleted are not
    taken back. The entries of the log after the last one that was read must still be there, so stop for no longer than
    the writer's ``retention``. Columns that the table gets later come with the next start.

    The table's own columns ``key`` and ``time`` are used unless ``key:`` and ``time:`` say otherwise. Windows need
    ``time: {column: time, lateness: 10s}``: a table is in no order of time.

    The Delta Lake protocol: https://github.com/delta-io/delta/blob/master/PROTOCOL.md (reader 1).

    Examples
    --------
    >>> import tempfile
    >>> from tocsin.output.delta import Delta as Table
    >>> from tocsin.testing import read_from, world
    >>> given, folder = rows({"value": [1.5, 2.5]}), tempfile.mkdtemp()
    >>> table = Table(path=folder).open(world(), given.schema)
    >>> table.publish(1, [table.stage(1, [given])])
    >>> batch, _ = read_from(Delta(path=folder)).poll(1000, timeout_s=10)
    >>> batch.rows["value"].to_pylist()
    [1.5, 2.5]
    """

    SHORTHAND: ClassVar[str | None] = "path"

    path: str
    """Folder of the table; a relative one starts at the working folder."""
    follow: bool = False
    """Whether to wait for more at the end."""
    every: Duration = 500_000
    """Time between two looks for new rows, with ``follow``."""

    def bounded(self) -> bool:
        return not self.follow

    def check(self, world: World) -> None:
        self._require_folder()

    def _require_folder(self) -> None:
        if is_remote(self.path):
            raise ConfigError(
                f"{self.path}: a table at an address is not followed; ask it with tocsin query, or let the pipeline "
                "that writes it write a table in a folder, too"
            )

    def output_schema(self) -> pa.Schema:
        return self._schema

    @cached_property
    def _schema(self) -> pa.Schema:
        self._require_folder()
        columns = columns_of(Path(self.path).absolute(), SystemDisk())
        if columns is None:
            raise ConfigError(f"there is no table at {self.path}; start the pipeline that writes it once")
        return pa.schema([_as_here(field) for field in columns])

    def open(self, world: World) -> OneSplit:
        self._require_folder()
        return OneSplit(lambda offset: DeltaReader(self, world, offset))


def _as_here(field: pa.Field) -> pa.Field:
    """A column as it flows: `key` and `time` have types and promises of their own."""
    if field.name == KEY.name and pt.is_string(field.type):
        return KEY
    return TIME if field.name == TIME.name and field.type == TIME_TYPE else field


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of one file, or none where entries had no rows."""

    before: Place
    rows: pa.RecordBatch
    after: Place


class _End:
    """There are no more rows, and none are waited for."""


class _Files(Follower[_Piece | _End]):
    """Reads a file ahead, so that whoever polls never waits for a disk."""

    def __init__(self, source: Delta, world: World, place: Place | None) -> None:
        super().__init__(f"delta {source.path}", _AHEAD)
        self._schema, self._clock = source.output_schema(), world.clock
        self._every_s = source.every / 1e6 if source.follow else None
        self._table = TableFollower(world.given.absolute() / source.path, world.disk, place)

    def fetch(self) -> None:
        while not self.stopping.is_set():
            before = self._table.place
            rows = self._table.take()
            after = self._table.place
            if after is not None and after != before:
                # Of the first file nobody knew before which version is read.
                first = before or (after if rows is None else after._replace(file=after.file - 1))
                if not self.put(_Piece(first, self._batch(rows), after)):
                    return
            if rows is None and self._every_s is None:
                self.put(_End())
                return
            if rows is None:
                self.stopping.wait(self._every_s)

    def _batch(self, rows: pa.Table | None) -> pa.RecordBatch:
        if rows is None or not rows.num_rows:
            return empty(self._schema)
        columns = []
        for field in self._schema:
            column = rows.column(field.name).combine_chunks()
            columns.append(column.dictionary_encode() if field.type == KEY.type else column.cast(field.type))
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)


class DeltaReader(Reader):
    """The table being read. An offset is the file that comes next, and how many of its rows have been given."""

    def __init__(self, source: Delta, world: World, offset: Offset | None) -> None:
        self._schema, self._offset = source.output_schema(), offset
        place = None if offset is None else Place(offset["version"], offset["file"], offset["whole"])
        self._given = 0 if offset is None else int(offset["row"])
        """Rows of the piece that have been given; or, before the first one, were given by a reader before."""
        self._files = _Files(source, world, place)
        self._piece: _Piece | None = None

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        self._files.start()
        if self._piece is None:
            taken = self._files.take(timeout_s)
            if taken is None:
                return None
            if isinstance(taken, _End):
                return tick(self._schema, REST), self._offset
            self._piece = taken
        piece = self._piece
        rows = piece.rows.slice(self._given, rows_max)
        self._given += rows.num_rows
        self._offset = {**piece.before._asdict(), "row": self._given}
        if self._given >= piece.rows.num_rows:
            self._piece, self._given, self._offset = None, 0, {**piece.after._asdict(), "row": 0}
        return Batch(rows), self._offset

    def close(self) -> None:
        self._files.close()


__all__ = ["Delta", "DeltaReader"]
