"""The writer of one table: rows and epoch in one transaction; and of the tables of a load, all in the same one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pyarrow as pa
from pydantic import field_validator

from tocsin.contracts import Sink, Token
from tocsin.ends import Spooled
from tocsin.errors import ConfigError, SchemaError, SinkError, Unavailable
from tocsin.postgres.bookkeeping import EPOCHS, HISTORY, REJECTED, Bookkeeping
from tocsin.postgres.encode import row_text
from tocsin.postgres.settings import ServerSettings, address
from tocsin.postgres.trouble import trouble
from tocsin.settings import Many
from tocsin.settings.quantities import Duration
from tocsin.world import World

if TYPE_CHECKING:
    from psycopg import Connection

_HOUR_US = 3_600_000_000
_COLUMNS_MAX = 1_500
_SYSTEM_COLUMNS = {"ctid", "tableoid", "xmin", "xmax", "cmin", "cmax"}
STAGING = "tocsin_staging"
"""Name of the table, seen by one connection only, that rows pass through."""


class WrittenTable(Protocol):
    """A table that rows are written to, in the transaction that is open."""

    def settle(self, connection: Connection) -> None:
        """Create the table, or give it the columns that it lacks."""

    def write(self, connection: Connection, rows: pa.Table) -> Sequence[tuple[int, str]]:
        """Write all rows that the server takes; return the place and reason of the others."""

    def delete_before(self, connection: Connection, column: str, us: int) -> int:
        """Delete rows whose time is before ``us``; return how many."""

    def vacuum(self, connection: Connection) -> None:
        """Give the space of deleted rows back; outside of a transaction."""


class TableSink(ServerSettings, Sink):
    """A sink for one table of a server that speaks PostgreSQL's protocol, whose transactions hold rows and epoch."""

    NAME_BYTES_MAX: ClassVar[int]
    """How long names may be there."""

    table: str
    """Where to write: ``schema.table``, or ``table`` in schema ``public``; PostgreSQL tells upper from lower case."""
    upsert: Many[str] = ()
    """Columns that tell rows apart: a row that equals an older one in all of them replaces it; without them every row
    is added."""
    retention: Duration | None = None
    """How long rows are kept, by their column ``time``; without it for ever."""
    load: str | None = None
    """Name of a load: sinks with the same one write their tables in one transaction, all or none. Where the sources
    end, that is the whole run; where they go on, each checkpoint."""

    @field_validator("table")
    @classmethod
    def _table(cls, table: str) -> str:
        schema, name = parts(table)
        if not schema or not name or "." in name or name in (EPOCHS, HISTORY, REJECTED):
            raise ConfigError(f"{table!r} is not a table to write to; write schema.table, as plant.readings")
        for part in (schema, name):
            cls.require_name(part, "table or schema")
        return table

    @abstractmethod
    def target(self, world: World, schema: pa.Schema, staging: str) -> tuple[Bookkeeping, WrittenTable]:
        """Return the table for rows of a schema, which may be empty, and what is noted beside it."""

    def writer(self, world: World, schema: pa.Schema, staging: str) -> TableWriter:
        return TableWriter(self, world, schema, *self.target(world, schema, staging))

    def place(self) -> Mapping[str, Any]:
        return {"server": list(address(self.url, self.PORT)), "table": list(parts(self.table))}

    def tend(self, job: str, world: World) -> str | None:
        if job == "compact" or (job == "retain" and self.retention is None):
            return None
        import psycopg

        (books, table), count = self.target(world, pa.schema([]), STAGING), 0
        with self.connect(world.given, SinkError) as connection:
            try:
                if not books.columns(connection, books.table):
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
    def open_joined(cls, members: Mapping[str, tuple[Sink, World, pa.Schema]]) -> JoinedTables:
        opened = {}
        for i, (id, (sink, world, schema)) in enumerate(members.items()):
            assert isinstance(sink, TableSink)
            sink.accepts(schema)
            opened[id] = sink.writer(world, schema, f"{STAGING}_{i}")
        return JoinedTables(opened)

    def check(self, world: World) -> None:
        self.require(world.given)

    def open(self, world: World, schema: pa.Schema) -> TableWriter:
        self.require(world.given)
        self.accepts(schema)
        return self.writer(world, schema, STAGING)

    def require_kept(self, schema: pa.Schema, kept: Sequence[str], typed: Collection[str]) -> None:
        """Raise `SchemaError` where columns cannot be kept under these names, or those that settings name are missing.

        ``typed`` are the columns that hold more than nulls.
        """
        for name in self.upsert:
            if name not in schema.names:
                raise SchemaError(
                    f"{self.name()} needs column '{name}'; what reaches it is [{', '.join(schema.names)}]"
                )
        for name in kept:
            self.require_name(name, "column")
        twice = {name for name in kept if kept.count(name) > 1}
        if twice:
            raise SchemaError(f"two columns would be kept as '{min(twice)}'; rename one of them")
        if not kept or len(kept) > _COLUMNS_MAX:
            raise SchemaError(f"a table of {self.SERVER} has 1 to {_COLUMNS_MAX} columns, not {len(kept)}")
        untyped = set(self.upsert) - set(typed)
        if untyped:
            raise SchemaError(f"upsert needs column '{min(untyped)}' to have a type; cast it first")
        if self.retention is not None and not pa.types.is_timestamp(_type_of(schema, "time")):
            raise SchemaError("retention needs a column 'time' with the time of each row; keep it, or unset retention")

    @classmethod
    def require_name(cls, name: str, what: str) -> None:
        is_too_long = len(name.encode("utf-8", "replace")) > cls.NAME_BYTES_MAX
        forbidden = _SYSTEM_COLUMNS if what == "column" else ()
        if is_too_long or not name or "\0" in name or name in forbidden or (what != "column" and "%" in name):
            raise SchemaError(
                f"{cls.SERVER} cannot name a {what} '{name}'; rename it: 1 to {cls.NAME_BYTES_MAX} bytes, and none of "
                f"the names that the server has for itself ({', '.join(sorted(_SYSTEM_COLUMNS))})"
            )


def parts(table: str) -> tuple[str, str]:
    """Return schema and name.

    Examples
    --------
    >>> parts("plant.readings"), parts("readings")
    (('plant', 'readings'), ('public', 'readings'))
    """
    schema, dot, name = table.partition(".")
    return (schema, name) if dot else ("public", schema)


def _type_of(schema: pa.Schema, column: str) -> pa.DataType:
    return schema.field(column).type if column in schema.names else pa.null()


class TableWriter(Spooled):
    """The table. Connects when it publishes, or is asked how far the table reaches."""

    def __init__(
        self, settings: TableSink, world: World, schema: pa.Schema, books: Bookkeeping, table: WrittenTable
    ) -> None:  # fmt: skip
        super().__init__(world, schema)
        self._settings, self._books, self._table = settings, books, table
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


class JoinedTables:
    """The tables of a load, written over one connection: each transaction brings all of them to the same epoch."""

    def __init__(self, writers: Mapping[str, TableWriter]) -> None:
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


__all__ = ["JoinedTables", "TableSink", "TableWriter", "WrittenTable", "parts"]
