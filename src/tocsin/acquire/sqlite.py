"""Source `sqlite`: the rows of a table in a file of SQLite, and those that come after them."""

from __future__ import annotations

import base64
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
from pydantic import model_validator

from tocsin.batch import END, RAW, Batch, as_times, tick
from tocsin.contracts import Offset, Reader, Source
from tocsin.ends import Follower, OneSplit
from tocsin.errors import ConfigError, SourceError, Unavailable
from tocsin.settings import Many
from tocsin.settings.quantities import Duration
from tocsin.world import World

if TYPE_CHECKING:
    from sqlglot.expressions import Select

log = logging.getLogger(__name__)

AHEAD = 2
PAGE_ROWS = 5_000
BUSY_S = 5.0
"""How long a lock of the program that writes is waited for."""


class Sqlite(Source):
    """Read a table of SQLite, or what a query gives, and go on with the rows that are new.

    Many small systems keep their history so: Home Assistant, Node-RED, data loggers. Each row is a JSON record with
    its columns, under the table's name as topic; binary data is base64. Since a column of SQLite may hold anything,
    decoder `json` says which types are wanted, and sets aside what is of another.

    Rows are new when they come after the last ones by ``cursor``: columns that only grow and are together different in
    each row. SQLite has one writer at a time, so what is seen is complete up to there, and each row comes exactly once.
    A row that was changed comes again if its cursor has grown; rows that were deleted, and rows without a value in the
    cursor, do not come. The ``rowid`` may start again at 1 once a table is emptied, unless its key is
    ``autoincrement``. An index on the cursor makes it quick.

    The file is opened to be read only. One in WAL mode that no program has open needs its folder to be writable.

    References: https://www.sqlite.org/rowvalue.html, https://www.sqlite.org/autoinc.html.

    Examples
    --------
    >>> source = Sqlite(path="plant.db", table="readings")
    >>> source.bounded(), Sqlite(path="plant.db", table="readings", cursor=["at", "id"], follow=True).bounded()
    (True, False)
    """

    path: Path
    """The file."""
    table: str | None = None
    """What to read: a table or view."""
    query: str | None = None
    """What to read instead of a table: one SELECT; what stands around it asks for the new rows only."""
    cursor: Many[str] = ("rowid",)
    """Columns by which rows are ordered and new ones known; all together they are different in each row."""
    follow: bool = False
    """Whether to wait for more at the end."""
    every: Duration = 1_000_000
    """Time between two looks for new rows, with ``follow``."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Sqlite:
        if (self.table is None) == (self.query is None):
            raise ConfigError("set either table or query: what to read")
        if not self.cursor or (self.query is not None and list(self.cursor) == ["rowid"]):
            raise ConfigError("cursor needs a column: by what new rows are known, such as cursor: id")
        return self

    def bounded(self) -> bool:
        return not self.follow

    def output_schema(self) -> pa.Schema:
        return RAW

    def check(self, world: World) -> None:
        try:
            with closing(self.connect(world.given)) as database:
                list(self.page(database, None, 0))
        except Unavailable as error:
            log.info("%s: not looked at yet", error)
        except SourceError as error:
            raise ConfigError(str(error)) from error

    def open(self, world: World) -> OneSplit:
        return OneSplit(lambda offset: SqliteReader(self, world, offset))

    @property
    def topic(self) -> str:
        return self.table or "query"

    def connect(self, folder: Path) -> sqlite3.Connection:
        """Open the file to be read, from a folder; `SourceError` if there is none."""
        path = (folder / self.path).absolute()
        if not path.is_file():
            raise SourceError(f"there is no file {path}; set path to the database")
        return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_S, check_same_thread=False)

    def page(
        self, database: sqlite3.Connection, after: Sequence[Any] | None, rows: int
    ) -> Iterator[tuple[Sequence[Any], bytes]]:
        """Yield the next rows: the values of the cursor, and the row as JSON.

        Raises
        ------
        Unavailable
            Another program holds the file for longer than is waited for.
        SourceError
            It is no database, or what is asked for is not in it.
        """
        statement = self._first if after is None else self._next
        try:
            given = database.execute(statement, [*(after or ()), rows])
            names = [column[0] for column in given.description][len(self.cursor) :]
            for name in self.cursor:
                if name not in (*names, "rowid"):  # SQLite takes it for a text, the same in each row
                    raise SourceError(f"there is no column '{name}' to follow by; there are [{', '.join(names)}]")
            for row in given:
                at, values = row[: len(self.cursor)], row[len(self.cursor) :]
                yield at, _encoded(dict(zip(names, values, strict=True)))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Unavailable(f"{self.path} is held by the program that writes it") from error
            raise SourceError(f"{self.path}: {error}{self._hint(database)}") from error
        except sqlite3.DatabaseError as error:
            raise SourceError(f"{self.path} cannot be read: {error}") from error

    def _hint(self, database: sqlite3.Connection) -> str:
        """Which tables there are, where that can be asked."""
        try:
            told = database.execute("select name from sqlite_master where type in ('table', 'view') order by name")
            return f"; its tables are [{', '.join(name for (name,) in told)}]"
        except sqlite3.DatabaseError:
            return ""

    @cached_property
    def _first(self) -> str:
        return self._select(after=False)

    @cached_property
    def _next(self) -> str:
        return self._select(after=True)

    def _select(self, after: bool) -> str:
        """The statement for a page; its parameters are the last position, if there is one, and how many rows."""
        from sqlglot import exp

        columns = [exp.column(name, quoted=name != "rowid") for name in self.cursor]
        asked = exp.select(*columns, "*").from_(self._asked())
        for column in columns:
            asked = asked.where(exp.Not(this=exp.Is(this=column.copy(), expression=exp.Null())))
        if after:
            marks = [exp.Placeholder() for _ in columns]
            here, there = exp.Tuple(expressions=[c.copy() for c in columns]), exp.Tuple(expressions=marks)
            asked = asked.where(exp.GT(this=here, expression=there))
        return str(asked.order_by(*(c.copy() for c in columns)).limit(exp.Placeholder()).sql("sqlite"))

    def _asked(self) -> Any:
        """The table or query, as it stands behind ``from``."""
        from sqlglot import exp, parse_one
        from sqlglot.errors import SqlglotError

        if self.table is not None:
            return exp.Table(this=exp.to_identifier(self.table, quoted=True))
        try:
            query: Select = parse_one(self.query or "", dialect="sqlite")
        except SqlglotError as error:
            raise ConfigError(f"query cannot be read: {str(error).splitlines()[0]}") from error
        if not isinstance(query, exp.Query):
            raise ConfigError("query is not a SELECT; write one statement that asks for rows")
        return query.subquery("asked")


def _encoded(row: Mapping[str, Any]) -> bytes:
    """A row as JSON; what is no number (NaN, infinite) is null."""
    return msgspec.json.encode(row, enc_hook=lambda value: base64.b64encode(value).decode())


@dataclass(frozen=True, slots=True)
class _Page:
    """Rows with the cursor's values in each."""

    rows: Sequence[tuple[Sequence[Any], bytes]]


class _End:
    """There are no more rows, and none are waited for."""


class _Rows(Follower[_Page | _End]):
    """Reads pages ahead, so that whoever polls never waits for a lock."""

    def __init__(self, source: Sqlite, folder: Path, after: Sequence[Any] | None) -> None:
        super().__init__(f"sqlite {source.path}", AHEAD)
        self._source, self._folder, self._after = source, folder, after

    def fetch(self) -> None:
        with closing(self._source.connect(self._folder)) as database:
            while not self.stopping.is_set():
                page = list(self._source.page(database, self._after, PAGE_ROWS))
                if page:
                    self._after = page[-1][0]
                    self.put(_Page(page))
                elif not self._source.follow:
                    self.put(_End())
                    return
                else:
                    self.stopping.wait(self._source.every / 1e6)


class SqliteReader(Reader):
    """The table being read. An offset is the cursor's values in the last row given, and how many were given."""

    def __init__(self, source: Sqlite, world: World, offset: Offset | None) -> None:
        self._clock, self._topic = world.clock, source.topic
        self._after: Sequence[Any] | None = None if offset is None else offset["after"]
        self._count = 0 if offset is None else int(offset["count"])
        self._rows = _Rows(source, world.given, self._after)
        self._left: Sequence[tuple[Sequence[Any], bytes]] = ()
        """Of the page that was taken last."""

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        self._rows.start()
        if not self._left:
            taken = self._rows.take(timeout_s)
            if isinstance(taken, _End):
                return tick(RAW, END), self._offset()
            if taken is None:
                return None
            self._left = taken.rows
        given, self._left = self._left[:rows_max], self._left[rows_max:]
        rows = self._raw([payload for _, payload in given])
        self._after, self._count = given[-1][0], self._count + len(given)
        return Batch(rows), self._offset()

    def _offset(self) -> Offset:
        return {"after": None if self._after is None else list(self._after), "count": self._count}

    def _raw(self, payloads: Sequence[bytes]) -> pa.RecordBatch:
        count = len(payloads)
        columns = [
            pa.array(payloads, pa.binary()),
            pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([self._topic])),
            pa.array(range(self._count, self._count + count), pa.int64()),
            as_times(np.full(count, self._clock.now_us())),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=RAW)

    def close(self) -> None:
        self._rows.close()


__all__ = ["Sqlite", "SqliteReader"]
