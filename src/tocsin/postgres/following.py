"""A query followed by its cursor, in a thread of its own: whoever polls never waits for the server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from tocsin.ends import Follower
from tocsin.errors import SourceError, Unavailable
from tocsin.postgres.reading import ReadColumn, read_csv
from tocsin.postgres.trouble import trouble

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composable, Composed

log = logging.getLogger(__name__)

PAGE_BYTES = 16 * 2**20
"""About so much is asked for at once."""
PAGE_ROWS = (1, 1_000, 65_536)
"""Least, first and greatest number of rows that are asked for at once."""
AHEAD = 2
LOOK_S = 0.05
"""How often it is looked whether transactions have ended."""

Position = Sequence[str]
"""The cursor's values, as the server writes them."""


@dataclass(frozen=True, slots=True)
class RowPage:
    """Rows in the cursor's order, and the position after each of them."""

    rows: pa.RecordBatch
    positions: pa.Table


@dataclass(frozen=True, slots=True)
class End:
    """There are no more rows, and none are waited for."""


class Cursor:
    """Asks for what comes after a position, page by page, over one connection.

    What has been asked for ends at a bound: the last row that was seen. A transaction that was running then may hold
    earlier rows that nobody can see yet, so its end is waited for before anything up to the bound is read.
    """

    def __init__(
        self, connection: Connection, query: Composable, columns: Sequence[ReadColumn], cursor: Sequence[str]
    ) -> None:  # fmt: skip
        from psycopg import sql

        self._connection, self._columns, self._cursor = connection, columns, cursor
        self._from = sql.SQL(" from {} as q where ").format(query)
        self._identifiers = [sql.Identifier("q", name) for name in cursor]
        self._texts = sql.SQL(", ").join(sql.SQL("{}::text").format(name) for name in self._identifiers)
        self._rows_max = PAGE_ROWS[1]

    def bound(self, after: Position | None) -> Position | None:
        """Return the last position that can be seen; None where nothing has come after ``after``."""
        from psycopg import sql

        order = sql.SQL(" order by {} limit 1").format(sql.SQL(", ").join(n + sql.SQL(" desc") for n in self._named()))
        row = self._connection.execute(sql.SQL("select ") + self._texts + self._where(after, None) + order).fetchone()
        return None if row is None else [str(value) for value in row]

    def running(self) -> dict[str, bool]:
        """Return the transactions of others in this database by name, and whether they have written yet."""
        rows = self._connection.execute("""
            select format('process %s (transaction %s)', l.pid, l.virtualxid), exists (
                select 1 from pg_locks w
                where w.pid = l.pid and w.locktype = 'transactionid' and w.mode = 'ExclusiveLock' and w.granted
            )
            from pg_locks l join pg_stat_activity a using (pid)
            where l.locktype = 'virtualxid' and l.pid <> pg_backend_pid() and a.usesysid is not null
                and a.datname = current_database()
            union all
            select format('prepared transaction %s', gid), true from pg_prepared_xacts
            where database = current_database()
        """).fetchall()
        return {str(name): bool(has_written) for name, has_written in rows}

    def page(self, after: Position | None, until: Position) -> tuple[RowPage, bool]:
        """Return the next rows up to ``until``, and whether more may follow."""
        from psycopg import sql

        values = [sql.SQL(c.expression).format(c=sql.Identifier("q", c.name)) for c in self._columns]
        select = sql.SQL("copy (select ") + sql.SQL(", ").join([*values, self._texts]) + self._where(after, until)
        # Rows that are equal in the cursor come together, so that they are seen to be equal.
        order = sql.SQL(" order by {} fetch first {} rows with ties) to stdout (format csv)").format(
            sql.SQL(", ").join(self._named()), sql.Literal(self._rows_max)
        )
        with self._connection.cursor().copy(select + order) as copy:
            data = b"".join(copy)
        rows, positions = read_csv(data, self._columns, len(self._cursor))
        self._require_distinct(positions)
        is_full = rows.num_rows >= self._rows_max
        if rows.num_rows:
            wanted = int(PAGE_BYTES / (len(data) / rows.num_rows))
            self._rows_max = min(max(wanted, PAGE_ROWS[0]), PAGE_ROWS[2])
        return RowPage(rows, positions), is_full

    def has_nulls(self) -> bool:
        """Return whether there are rows without a value in the cursor."""
        from psycopg import sql

        null = sql.SQL(" or ").join(sql.SQL("{} is null").format(name) for name in self._identifiers)
        return bool(self._connection.execute(sql.SQL("select 1") + self._from + null + sql.SQL(" limit 1")).fetchone())

    def _named(self) -> list[Composable]:
        return list(self._identifiers)

    def _where(self, after: Position | None, until: Position | None) -> Composed:
        """Return from where, and which rows: after one position, up to another; none of a null."""
        from psycopg import sql

        cursor = sql.SQL("({})").format(sql.SQL(", ").join(self._named()))
        parts: list[Composable] = [sql.SQL("{} is not null").format(name) for name in self._identifiers]
        for sign, position in ((" > ", after), (" <= ", until)):
            if position is not None:
                values = sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, position)))
                parts.append(cursor + sql.SQL(sign) + values)
        return self._from + sql.SQL(" and ").join(parts)

    def _require_distinct(self, positions: pa.Table) -> None:
        if positions.num_rows < 2:
            return
        same = None
        for column in positions.columns:
            equal = pc.equal(column.slice(1), column.slice(0, len(column) - 1))
            same = equal if same is None else pc.and_(same, equal)
        at = pc.index(same, True).as_py()
        if at >= 0:
            value = ", ".join(str(column[at].as_py()) for column in positions.columns)
            raise SourceError(
                f"two rows have the same ({', '.join(self._cursor)}) = ({value}), of which one could be lost; add a "
                "column that tells them apart to cursor, such as the primary key"
            )


class TableFollower(Follower[RowPage | End]):
    """Fetches pages of rows."""

    def __init__(
        self, open_cursor: Callable[[], tuple[Connection, Cursor]], url: str, after: Position | None,
        every_s: float | None, patience_s: float,
    ) -> None:  # fmt: skip
        super().__init__("postgres source", AHEAD)
        self._open_cursor, self._url, self._after = open_cursor, url, after
        self._every_s, self._patience_s = every_s, patience_s
        self._connection: Connection | None = None
        self._overtaken: set[str] = set()
        """Transactions without a write whose end was waited for in vain."""
        self.overtaken = 0
        """How many transactions were left open for longer than there was patience, without having written."""

    def close(self, patience_s: float = 2.0) -> None:
        """End the thread, and what it has asked the server for."""
        import psycopg

        self.stopping.set()
        connection = self._connection
        if connection is not None:
            try:
                connection.cancel_safe(timeout=1.0)
            except psycopg.Error as error:
                log.debug("%s: what was asked for could not be cancelled: %s", self._url, error)
        super().close(patience_s)

    def fetch(self) -> None:
        import psycopg

        try:
            self._connection, cursor = self._open_cursor()
            with self._connection:
                self._follow(cursor)
        except psycopg.Error as error:
            raise trouble(self._url, error, SourceError) from error

    def _follow(self, cursor: Cursor) -> None:
        if cursor.has_nulls():
            log.warning("%s has rows without a value in the cursor: they are passed over", self._url)
        while not self.stopping.is_set():
            until = cursor.bound(self._after)
            if until is not None:
                self._wait_for(cursor)
                self._fetch(cursor, until)
            if self._every_s is None:
                self.put(End())
                return
            self.stopping.wait(self._every_s)

    def _fetch(self, cursor: Cursor, until: Position) -> None:
        more = True
        while more and not self.stopping.is_set():
            page, more = cursor.page(self._after, until)
            if page.rows.num_rows:
                self._after = [str(column[-1].as_py()) for column in page.positions.columns]
                self.put(page)

    def _wait_for(self, cursor: Cursor) -> None:
        """Wait until the transactions that are running have ended; where they have written nothing, for a while only.

        Raises
        ------
        Unavailable
            One that has written goes on for longer: whoever reads past it may lose its rows.
        """
        waited_s = 0.0
        running = cursor.running()
        self._overtaken &= running.keys()
        awaited = {name for name, has_written in running.items() if has_written or name not in self._overtaken}
        while awaited and waited_s < self._patience_s and not self.stopping.wait(LOOK_S):
            waited_s += LOOK_S
            running = cursor.running()
            awaited &= running.keys()
        if not awaited or self.stopping.is_set():
            return
        if writing := sorted(name for name in awaited if running[name]):
            raise Unavailable(
                f"{self._url}: {writing[0]} has not committed what it wrote for {self._patience_s:g} s; what came "
                "after it is read once it ends"
            )
        self._overtaken |= awaited
        self.overtaken += len(awaited)
        log.warning("%s: %s is left open; what it still writes may be passed over", self._url, min(awaited))
