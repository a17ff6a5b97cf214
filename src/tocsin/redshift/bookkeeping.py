"""What is noted beside a table of Redshift, without what only PostgreSQL knows: advisory locks, ON CONFLICT, text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tocsin.postgres.bookkeeping import EPOCHS, HISTORY, REJECTED, Bookkeeping

if TYPE_CHECKING:
    from psycopg import Connection

TEXT_BYTES_MAX = 65_535
_ROWS_AT_ONCE = 100
"""So many rows that were refused are written by one statement; each may have 64 KiB, and a statement 16 MB."""


class RedshiftBookkeeping(Bookkeeping):
    """The same three tables. Sinks whose tables share a schema write one after the other: they lock the same one."""

    def lock(self, connection: Connection) -> None:
        # The snapshot of a transaction is taken by its first statement on a table; LOCK is none, so what is read after
        # it is what the transaction before has left.
        if self._exists(connection, EPOCHS):
            connection.execute(self._sql("lock table {}", EPOCHS))

    def reach(self, connection: Connection, epoch: int) -> None:
        connection.execute(
            self._sql("delete from {} where sink = %s and table_name = %s", EPOCHS), (self.sink, self.table)
        )
        connection.execute(
            self._sql("insert into {} (sink, table_name, epoch) values (%s, %s, %s)", EPOCHS),
            (self.sink, self.table, epoch),
        )

    def create(self, connection: Connection) -> None:
        from psycopg import sql

        if connection.execute("select 1 from pg_namespace where nspname = %s", (self.schema,)).fetchone() is None:
            connection.execute(sql.SQL("create schema {}").format(sql.Identifier(self.schema)))
        written = "timestamp not null default getdate()"
        for name, columns in (
            (EPOCHS, f"sink varchar(1024), table_name varchar(127), epoch bigint not null, written {written}"),
            (HISTORY, f"at {written}, sink varchar(1024), table_name varchar(127), change varchar(1024) not null"),
            (REJECTED, f"at {written}, sink varchar(1024), table_name varchar(127), epoch bigint, "
             "reason varchar(65535) not null, contents varchar(65535) not null"),
        ):  # fmt: skip
            if not self._exists(connection, name):
                connection.execute(self._sql("create table {} (", name) + sql.SQL(columns) + sql.SQL(")"))

    def set_aside(self, connection: Connection, epoch: int, rows: Sequence[tuple[str, str]]) -> None:
        from psycopg import sql

        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            values = [
                sql.SQL("({})").format(
                    sql.SQL(", ").join(
                        map(sql.Literal, (self.sink, self.table, epoch, *map(_short, (reason, contents))))
                    )
                )
                for reason, contents in rows[begin : begin + _ROWS_AT_ONCE]
            ]
            statement = self._sql("insert into {} (sink, table_name, epoch, reason, contents) values ", REJECTED)
            connection.execute(statement + sql.SQL(", ").join(values))

    def columns(self, connection: Connection, table: str) -> list[tuple[str, str, bool, bool]]:
        """As for PostgreSQL, but for the third, which says whether the column takes nulls; there are no enums."""
        query = """
            select a.attname, format_type(a.atttypid, a.atttypmod), not a.attnotnull, a.attnotnull and not a.atthasdef
            from pg_class c, pg_namespace n, pg_attribute a
            where n.oid = c.relnamespace and a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                and n.nspname = %s and c.relname = %s and c.relkind = 'r'
            order by a.attnum
        """
        rows = connection.execute(query, (self.schema, table)).fetchall()
        return [(str(name), str(type), bool(nullable), bool(needed)) for name, type, nullable, needed in rows]


def _short(text: str) -> str:
    """Return what a column of text can take of a text."""
    return text.replace("\0", "\\0").encode("utf-8", "replace")[:TEXT_BYTES_MAX].decode("utf-8", "ignore")
