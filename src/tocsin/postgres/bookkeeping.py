"""The three tables that a sink keeps beside its own, in the same schema, written in the same transactions."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from tocsin.errors import SinkError

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

EPOCHS, HISTORY, REJECTED = "tocsin_epochs", "tocsin_history", "tocsin_rejected"
ROW_CHARACTERS_MAX = 64 * 1024
"""How much of a row that is set aside is kept."""


class Bookkeeping:
    """What one sink notes about one table: the epoch it has reached, what was changed, which rows were set aside."""

    def __init__(self, sink: str, schema: str, table: str) -> None:
        self.sink, self.schema, self.table = sink, schema, table

    def lock(self, connection: Connection) -> None:
        """Wait for an earlier transaction of this sink, whose connection was lost before it answered, to end."""
        self._lock(connection, f"sink {self.sink} {self.schema}.{self.table}")

    def epoch(self, connection: Connection) -> int | None:
        """Return the epoch of the last transaction under our name; None if there was none."""
        if not self._exists(connection, EPOCHS):
            return None
        query = self._sql("select epoch from {} where sink = %s and table_name = %s", EPOCHS)
        row = connection.execute(query, (self.sink, self.table)).fetchone()
        return None if row is None else int(row[0])

    def reach(self, connection: Connection, epoch: int) -> None:
        """Note, in the transaction of its rows, that the table reaches to an epoch."""
        statement = self._sql(
            "insert into {} (sink, table_name, epoch) values (%s, %s, %s) "
            "on conflict (sink, table_name) do update set epoch = excluded.epoch, written = now()",
            EPOCHS,
        )
        connection.execute(statement, (self.sink, self.table, epoch))

    def create(self, connection: Connection) -> None:
        """Create the schema and the three tables, where they are missing; others that do so at once have to wait."""
        from psycopg import sql

        self._lock(connection, f"schema {self.schema}")
        if connection.execute("select 1 from pg_namespace where nspname = %s", (self.schema,)).fetchone() is None:
            connection.execute(sql.SQL("create schema {}").format(sql.Identifier(self.schema)))
        for name, columns in (
            (EPOCHS, "sink text, table_name text, epoch bigint not null, written timestamptz not null default now(), "
             "primary key (sink, table_name)"),
            (HISTORY, "at timestamptz not null default now(), sink text, table_name text, change text not null"),
            (REJECTED, "at timestamptz not null default now(), sink text, table_name text, epoch bigint, "
             "reason text not null, contents text not null"),
        ):  # fmt: skip
            if not self._exists(connection, name):
                connection.execute(self._sql("create table {} (", name) + sql.SQL(columns) + sql.SQL(")"))

    def note(self, connection: Connection, change: str) -> None:
        """Note what has been changed about the table."""
        statement = self._sql("insert into {} (sink, table_name, change) values (%s, %s, %s)", HISTORY)
        connection.execute(statement, (self.sink, self.table, change))

    def has_made(self, connection: Connection, column: str) -> bool:
        """Return whether a column, or the table with it, was made by tocsin, and so may be made wider by it."""
        query = self._sql("select 1 from {} where table_name = %s and change in (%s, %s)", HISTORY)
        return connection.execute(query, (self.table, created(column), added(column))).fetchone() is not None

    def set_aside(self, connection: Connection, epoch: int, rows: Sequence[tuple[str, str]]) -> None:
        """Keep rows that the table cannot take, each as its reason and its contents."""
        statement = self._sql(
            "insert into {} (sink, table_name, epoch, reason, contents) values (%s, %s, %s, %s, %s)", REJECTED
        )
        values = [
            (self.sink, self.table, epoch, reason.replace("\0", "\\0"), contents[:ROW_CHARACTERS_MAX])
            for reason, contents in rows
        ]
        with connection.cursor() as cursor:
            cursor.executemany(statement, values)

    def forget(self, connection: Connection, before: datetime) -> None:
        """Delete rows that were set aside before a time."""
        statement = self._sql("delete from {} where sink = %s and table_name = %s and at < %s", REJECTED)
        connection.execute(statement, (self.sink, self.table, before))

    def columns(self, connection: Connection, table: str) -> list[tuple[str, str, bool, bool]]:
        """Return each column of a table of the schema: name, type, whether that is an enum, whether it must be given.

        None of them where there is no such table.

        Raises
        ------
        SinkError
            There is something of that name that rows cannot be written to.
        """
        query = """
            select a.attname, format_type(a.atttypid, a.atttypmod), t.typtype = 'e',
                a.attnotnull and not a.atthasdef and a.attidentity = '', c.relkind::text
            from pg_class c
            join pg_namespace n on n.oid = c.relnamespace
            join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            join pg_type t on t.oid = a.atttypid
            where n.nspname = %s and c.relname = %s
            order by a.attnum
        """
        rows = connection.execute(query, (self.schema, table)).fetchall()
        if rows and rows[0][4] not in ("r", "p", "f"):
            raise SinkError(f"{self.schema}.{table} is no table; name another in the setting table")
        return [(str(name), str(type), bool(is_enum), bool(needed)) for name, type, is_enum, needed, _ in rows]

    def require(self, there: Sequence[tuple[str, str, bool, bool]], written: Collection[str]) -> None:
        """Raise `SinkError` where the table needs a value in a column that is not written; ``there`` as `columns`."""
        needed = [name for name, _, _, is_needed in there if is_needed and name not in written]
        if needed:
            raise SinkError(
                f"{self.schema}.{self.table} needs a value in column '{needed[0]}', which does not come; give the "
                "column a default, or add it in a step"
            )

    def _exists(self, connection: Connection, name: str) -> bool:
        return self.columns(connection, name) != []

    def _sql(self, statement: str, name: str) -> Composed:
        from psycopg import sql

        return sql.SQL(statement).format(sql.Identifier(self.schema, name))

    def _lock(self, connection: Connection, name: str) -> None:
        number = int.from_bytes(hashlib.sha256(f"tocsin {name}".encode()).digest()[:8], signed=True)
        connection.execute("select pg_advisory_xact_lock(%s)", (number,))


def created(column: str) -> str:
    """Return how the history says that a column came with its table."""
    return f"created with column {column}"


def added(column: str) -> str:
    """Return how the history says that a column was added."""
    return f"added column {column}"
