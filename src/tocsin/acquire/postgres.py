"""Source `postgres`: the rows of a table or a query, and those that come after them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import model_validator

from tocsin.batch import END, Batch, tick
from tocsin.contracts import Offset, Reader, Source
from tocsin.ends import OneSplit
from tocsin.errors import ConfigError, SourceError
from tocsin.postgres.following import Cursor, End, Position, RowPage, TableFollower
from tocsin.postgres.reading import ReadColumn, describe, schema_of
from tocsin.postgres.settings import ServerSettings
from tocsin.postgres.trouble import trouble
from tocsin.settings import Many
from tocsin.settings.quantities import Duration
from tocsin.world import World

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composable


class Postgres(ServerSettings, Source):
    """Read a table of PostgreSQL, or what a query gives, and go on with the rows that are new.

    Rows are new when they come after the last ones by ``cursor``: columns that only grow, such as an identity, or a
    time of change together with the primary key. The position is kept with each checkpoint, so each row comes exactly
    once; a row that was changed comes again if its cursor has grown. Rows that were deleted, and rows without a value
    in the cursor, do not come. An index on the cursor makes it quick.

    A transaction that is still open may hold rows that belong before others which can be seen already, so its end is
    waited for; one that has written nothing yet only for ``patience``. A replica cannot tell which transactions are
    open: read from the primary. If the cursor is given by the writers' own clocks, leave a margin in the query
    (``where changed < now() - interval '5 s'``).

    Columns have the types that the server gives them. A ``numeric`` without a precision is text, since no number holds
    all of it (``select value::float8`` makes it one); arrays are JSON; times that are infinite are null. PostgreSQL 15
    or later.

    References: https://www.postgresql.org/docs/current/explicit-locking.html, view-pg-locks.html.

    Examples
    --------
    >>> source = Postgres(url="postgresql://db/plant", table="plant.events", cursor=["changed", "id"])
    >>> source.bounded(), Postgres(url="postgresql://db/plant", table="t", cursor="id", follow=True).bounded()
    (True, False)
    """

    table: str | None = None
    """What to read: ``schema.table``, or ``table`` in schema ``public``; a view too."""
    query: str | None = None
    """What to read instead of a table: one SELECT; what stands around it asks for the new rows only."""
    cursor: Many[str]
    """Columns by which rows are ordered and new ones known; all together they are different in each row."""
    follow: bool = False
    """Whether to wait for more at the end."""
    every: Duration = 1_000_000
    """Time between two looks for new rows, with ``follow``."""
    patience: Duration = 60_000_000
    """How long a transaction may be open before it is told that rows wait for it, or, if it has written nothing, before
    it is waited for no longer."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Postgres:
        if (self.table is None) == (self.query is None):
            raise ConfigError("set either table or query: what to read")
        if not self.cursor:
            raise ConfigError("cursor needs a column: by what new rows are known, such as cursor: id")
        if self.table is not None and self.table.count(".") > 1:
            raise ConfigError(f"{self.table!r} is not a table; write schema.table, as plant.events")
        return self

    def bounded(self) -> bool:
        return not self.follow

    def output_schema(self) -> pa.Schema:
        return schema_of(self.columns)

    def check(self, world: World) -> None:
        self.require(world.given)

    def open(self, world: World) -> OneSplit:
        self.require(world.given)
        return OneSplit(lambda offset: PostgresReader(self, world, offset))

    @cached_property
    def columns(self) -> list[ReadColumn]:
        """The columns of the table or query; asked of the server once."""
        with self.connect(Path(), SourceError) as connection:
            return self.described(connection)

    def described(self, connection: Connection) -> list[ReadColumn]:
        """Return the columns, as the server describes them over a connection."""
        import psycopg

        try:
            columns = describe(connection, self.asked())
        except psycopg.Error as error:
            raise trouble(self.url, error, SourceError) from error
        names = [column.name for column in columns]
        for name in self.cursor:
            if name not in names:
                raise ConfigError(f"there is no column '{name}' to follow by; there are [{', '.join(names)}]")
        return columns

    def asked(self) -> Composable:
        """Return the table or query, as it stands behind ``from``."""
        from psycopg import sql

        if self.query is not None:
            return sql.SQL("({})").format(sql.SQL(self.query.strip().rstrip(";")))
        schema, dot, name = (self.table or "").partition(".")
        return sql.Identifier(schema, name) if dot else sql.Identifier("public", schema)


class PostgresReader(Reader):
    """The table or query being read. An offset is the cursor's values in the last row that was given."""

    def __init__(self, source: Postgres, world: World, offset: Offset | None) -> None:
        self._source, self._files = source, world.given
        self._position: Position | None = None if offset is None else offset["after"]
        self._page: RowPage | None = None
        self._given = 0
        """So many rows of the page have been given."""
        every_s = source.every / 1e6 if source.follow else None
        self._follower = TableFollower(self._open, source.url, self._position, every_s, source.patience / 1e6)

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        self._follower.start()
        if self._page is None:
            taken = self._follower.take(timeout_s)
            if isinstance(taken, End):
                return tick(self._source.output_schema(), END), {"after": self._position}
            if taken is None:
                return None
            self._page, self._given = taken, 0
        page = self._page
        rows = page.rows.slice(self._given, rows_max)
        self._given += rows.num_rows
        self._position = [str(column[self._given - 1].as_py()) for column in page.positions.columns]
        if self._given == page.rows.num_rows:
            self._page = None
        return Batch(rows), {"after": self._position}

    def counters(self) -> Mapping[str, int]:
        return {"overtaken": self._follower.overtaken}

    def close(self) -> None:
        self._follower.close()

    def _open(self) -> tuple[Connection, Cursor]:
        """Connect, for the follower."""
        source = self._source
        connection = source.connect(self._files, SourceError)
        try:
            connection.execute("set session characteristics as transaction read only")
            columns = source.__dict__.get("columns") or source.described(connection)
            return connection, Cursor(connection, source.asked(), columns, source.cursor)
        except BaseException:
            connection.close()
            raise


__all__ = ["Postgres", "PostgresReader"]
