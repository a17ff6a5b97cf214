"""Sink `postgres`: rows into a table of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from pydantic import field_validator, model_validator

from tocsin.contracts import Sink, Token
from tocsin.ends import Spooled
from tocsin.errors import ConfigError, SchemaError, SinkError, Unavailable
from tocsin.postgres.bookkeeping import EPOCHS, HISTORY, REJECTED, Bookkeeping, columns_of
from tocsin.postgres.encode import row_text
from tocsin.postgres.settings import ServerSettings, address
from tocsin.postgres.table import STAGING, Table, columns_for
from tocsin.postgres.trouble import trouble
from tocsin.postgres.types import TEXT
from tocsin.settings import Many
from tocsin.settings.quantities import Duration
from tocsin.world import World

if TYPE_CHECKING:
    from psycopg import Connection

_HOUR_US = 3_600_000_000
_NAME_BYTES_MAX = 63
_COLUMNS_MAX = 1_500
_SYSTEM_COLUMNS = {"ctid", "tableoid", "xmin", "xmax", "cmin", "cmax"}


class Postgres(ServerSettings, Sink):
    """Keep rows in a table of PostgreSQL, each row exactly once: rows and epoch are written in one transaction.

    Use it where other programs read by SQL and expect a server; for what only tocsin and notebooks ask about, `delta`
    needs no server. A schema or table that is missing is made, and a column that is new is added. A column whose type
    has changed is made wider where it was made here and nothing is lost by it (``integer`` to ``bigint``); otherwise it
    is refused by name. While the server is away rows wait on disk, and are written once it is back.

    A row that the server refuses (a text too long for a ``varchar``, a NUL character, a number out of range, a broken
    constraint) is put into the table ``tocsin_rejected`` of the same schema with the reason, and counted as
    ``rejected``; the rows beside it are kept. ``tocsin_epochs`` there holds how far the table reaches, and
    ``tocsin_history`` what was made and changed.

    Lists become arrays, structs and maps ``jsonb``, in which what is no number is a text (``"NaN"``). PostgreSQL 15 or
    later.

    References: https://www.postgresql.org/docs/current/sql-copy.html, sql-insert.html (ON CONFLICT).

    Examples
    --------
    >>> sink = Postgres(url="postgresql://db/plant", table="plant.readings", upsert=["key", "time"])
    >>> sink.accepts(rows({"value": [1.5]}).schema)
    >>> sink.place()
    {'server': ['db', 5432, 'plant'], 'table': ['plant', 'readings']}
    """

    FENCED: ClassVar[bool] = True

    table: str
    """Where to write: ``schema.table``, or ``table`` in schema ``public``; upper and lower case count."""
    upsert: Many[str] = ()
    """Columns that tell rows apart: a row that equals an older one in all of them replaces it; without them every row
    is added."""
    surrogates: Many[str] = ()
    """Columns of text to keep as numbers: the table has ``<column>_id``, and the texts stand once in
    ``<table>_<column>``."""
    retention: Duration | None = None
    """How long rows are kept, by their column ``time``; without it for ever."""
    load: str | None = None
    """Name of a load: sinks with the same one write their tables in one transaction, all or none. Where the sources
    end, that is the whole run; where they go on, each checkpoint."""

    @field_validator("table")
    @classmethod
    def _table(cls, table: str) -> str:
        schema, name = _parts(table)
        if not schema or not name or "." in name or name in (EPOCHS, HISTORY, REJECTED):
            raise ConfigError(f"{table!r} is not a table to write to; write schema.table, as plant.readings")
        for part in (schema, name):
            _require_name(part, "table or schema")
        return table

    @model_validator(mode="after")
    def _dimensions(self) -> Postgres:
        for column in self.surrogates:
            _require_name(f"{_parts(self.table)[1]}_{column}", "table")
        return self

    def place(self) -> Mapping[str, Any]:
        return {"server": list(address(self.url)), "table": list(_parts(self.table))}

    def tend(self, job: str, world: World) -> str | None:
        if job == "compact" or (job == "retain" and self.retention is None):
            return None
        import psycopg

        books = Bookkeeping(world.name, *_parts(self.table))
        table, count = Table(books, (), ()), 0
        with self.connect(world.given, SinkError) as connection:
            try:
                if not columns_of(connection, books.schema, books.table):
                    return None
                if job == "retain" and self.retention is not None:
                    before_us = world.clock.now_us() - self.retention
                    with connection.transaction():
                        count = table.delete_before(connection, "time", before_us)
                        books.forget(connection, datetime.fromtimestamp(before_us / 1e6, UTC))
                else:
                    table.vacuum(connection)
            except psycopg.Error as error:
                raise trouble(self.url, error, SinkError) from error
        return f"{count} old rows deleted" if job == "retain" else "vacuumed and analyzed"

    def joins(self) -> str | None:
        return self.load

    @classmethod
    def open_joined(cls, members: Mapping[str, tuple[Sink, World, pa.Schema]]) -> PostgresLoad:
        opened = {}
        for i, (id, (sink, world, schema)) in enumerate(members.items()):
            assert isinstance(sink, Postgres)
            sink.accepts(schema)
            opened[id] = PostgresWriter(sink, world, schema, f"{STAGING}_{i}")
        return PostgresLoad(opened)

    def accepts(self, schema: pa.Schema) -> None:
        for name in (*self.upsert, *self.surrogates):
            if name not in schema.names:
                raise SchemaError(f"postgres needs column '{name}'; what reaches it is [{', '.join(schema.names)}]")
        columns = columns_for(schema, self.surrogates)
        for column in columns:
            _require_name(column.kept_as, "column")
            if column.is_surrogate and column.type != TEXT:
                raise SchemaError(f"surrogates takes columns of text, '{column.name}' is {column.type}")
        kept = [column.kept_as for column in columns]
        twice = {name for name in kept if kept.count(name) > 1}
        if twice:
            raise SchemaError(f"two columns would be kept as '{min(twice)}'; rename one of them")
        if not kept or len(kept) > _COLUMNS_MAX:
            raise SchemaError(f"a table of PostgreSQL has 1 to {_COLUMNS_MAX} columns, not {len(kept)}")
        untyped = set(self.upsert) - {column.name for column in columns}
        if untyped:
            raise SchemaError(f"upsert needs column '{min(untyped)}' to have a type; cast it first")
        if self.retention is not None and not pa.types.is_timestamp(_type_of(schema, "time")):
            raise SchemaError("retention needs a column 'time' with the time of each row; keep it, or unset retention")

    def check(self, world: World) -> None:
        self.require(world.given)

    def open(self, world: World, schema: pa.Schema) -> PostgresWriter:
        self.require(world.given)
        self.accepts(schema)
        return PostgresWriter(self, world, schema)


def _parts(table: str) -> tuple[str, str]:
    """Return schema and name."""
    schema, dot, name = table.partition(".")
    return (schema, name) if dot else ("public", schema)


def _require_name(name: str, what: str) -> None:
    is_too_long = len(name.encode("utf-8", "replace")) > _NAME_BYTES_MAX
    forbidden = _SYSTEM_COLUMNS if what == "column" else ()
    if is_too_long or not name or "\0" in name or name in forbidden or (what != "column" and "%" in name):
        raise SchemaError(
            f"PostgreSQL cannot name a {what} '{name}'; rename it: 1 to {_NAME_BYTES_MAX} bytes, and none of the names "
            f"that the server has for itself ({', '.join(sorted(_SYSTEM_COLUMNS))})"
        )


def _type_of(schema: pa.Schema, column: str) -> pa.DataType:
    return schema.field(column).type if column in schema.names else pa.null()


class PostgresWriter(Spooled):
    """The table. Connects when it publishes, or is asked how far the table reaches."""

    def __init__(self, settings: Postgres, world: World, schema: pa.Schema, staging: str = STAGING) -> None:
        super().__init__(world, schema)
        self._settings = settings
        self._books = Bookkeeping(world.name, *_parts(settings.table))
        self._table = Table(self._books, columns_for(schema, settings.surrogates), settings.upsert, staging)
        self._connection: Connection | None = None
        self._is_settled = False
        """Whether the table is known to have our columns, over this connection."""
        self._stands: int | None = None
        self._is_known = False
        """Whether the table was asked how far it reaches."""
        self._rejected = 0
        self._next_tidy_us = 0

    def published(self) -> int | None:
        self._stands, self._is_known = self.applied(), True
        return self._stands

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        if not self._is_known:
            self.published()
        super().publish(epoch, tokens)

    def applied(self) -> int | None:
        with self.connected() as connection, connection.transaction():
            return self._books.epoch(connection)

    def apply(self, epoch: int, rows: pa.Table) -> None:
        with self.connected() as connection, connection.transaction():
            refused = self.write(connection, epoch, rows)
        self.wrote(epoch, refused)

    def write(self, connection: Connection, epoch: int, rows: pa.Table) -> int:
        """Write rows and epoch in the open transaction; return how many rows were set aside."""
        self._books.lock(connection)
        stands = self._books.epoch(connection)
        if stands != self._stands:
            # Which rows it has brought is known to whoever asks the table again.
            raise Unavailable(
                f"{self._settings.url}: a transaction whose connection was lost has reached epoch {stands} of "
                f"{self._settings.table} after all"
            )
        if not self._is_settled:
            self._books.create(connection)
            self._table.settle(connection)
        refused = self._table.write(connection, rows)
        self._books.set_aside(connection, epoch, [(why, row_text(rows.slice(at, 1))) for at, why in refused])
        self._books.reach(connection, epoch)
        return len(refused)

    def wrote(self, epoch: int, refused: int) -> None:
        """The transaction of `write` is durable."""
        self._is_settled, self._stands = True, epoch
        self._rejected += refused

    def share(self, connection: Connection) -> None:
        """Write over this connection, which belongs to another table of the load."""
        if self._connection is not connection:
            self._connection, self._is_settled = connection, False

    def ask(self, connection: Connection) -> int | None:
        """Return the epoch that the table reaches to, and remember it."""
        self._stands, self._is_known = self._books.epoch(connection), True
        return self._stands

    def staged(self, name: str) -> pa.Table:
        """Return the rows of a staged file."""
        return self._staged(name)

    def housekeep(self) -> None:
        """Delete what is older than the retention, once an hour."""
        now_us = self.world.clock.now_us()
        if self._settings.retention is None or now_us < self._next_tidy_us or not self._is_settled:
            return
        before_us = now_us - self._settings.retention
        with self.connected() as connection:
            with connection.transaction():
                count = self._table.delete_before(connection, "time", before_us)
                self._books.forget(connection, datetime.fromtimestamp(before_us / 1e6, UTC))
            if count:
                self._table.vacuum(connection)
        self._next_tidy_us = now_us + _HOUR_US

    def counters(self) -> Mapping[str, int]:
        return {"rejected": self._rejected}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Give the connection; what goes wrong on it is told as `Unavailable` or `SinkError`."""
        if self._connection is None:
            self._connection, self._is_settled = self._settings.connect(self.world.given, SinkError), False
        import psycopg

        try:
            yield self._connection
        except psycopg.Error as error:
            self.close()
            raise trouble(self._settings.url, error, SinkError) from error


class PostgresLoad:
    """The tables of a load, written over one connection: each transaction brings all of them to the same epoch."""

    def __init__(self, writers: Mapping[str, PostgresWriter]) -> None:
        self._writers = writers
        self._first = next(iter(writers.values()))

    def stage(self, epoch: int, rows: Mapping[str, Sequence[pa.RecordBatch]]) -> Token:
        return {id: self._writers[id].stage(epoch, some) for id, some in rows.items()}

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        with self._shared() as connection, connection.transaction():
            refused = {}
            for id, writer in self._writers.items():
                files = [str(token[id]["file"]) for token in tokens if id in token]
                tables = [writer.schema.empty_table(), *map(writer.staged, files)]
                refused[id] = writer.write(connection, epoch, pa.concat_tables(tables))
        for id, writer in self._writers.items():
            writer.wrote(epoch, refused[id])
        for token in tokens:
            for id, one in token.items():
                writer = self._writers[id]
                writer.world.disk.unlink(writer.world.scratch / str(one["file"]))

    def published(self) -> int | None:
        with self._shared() as connection, connection.transaction():
            epochs = [writer.ask(connection) for writer in self._writers.values()]
        # A table that is new in the load has none yet; one that was put back behind the others must show.
        return min((epoch for epoch in epochs if epoch is not None), default=None)

    def discard(self, keep: Sequence[Token]) -> None:
        for id, writer in self._writers.items():
            writer.discard([token[id] for token in keep if id in token])

    def housekeep(self) -> None:
        for writer in self._writers.values():
            writer.housekeep()

    def counters(self) -> Mapping[str, int]:
        return {"rejected": sum(writer.counters()["rejected"] for writer in self._writers.values())}

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    @contextmanager
    def _shared(self) -> Iterator[Connection]:
        with self._first.connected() as connection:
            for writer in self._writers.values():
                writer.share(connection)
            yield connection


__all__ = ["Postgres", "PostgresLoad", "PostgresWriter"]
