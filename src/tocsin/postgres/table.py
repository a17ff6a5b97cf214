"""The table of a sink: made, given new columns, and written to, row by row where the server refuses some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from tocsin.errors import SinkError
from tocsin.postgres.bookkeeping import Bookkeeping, added, created
from tocsin.postgres.encode import copy_text
from tocsin.postgres.trouble import is_of_a_row, reason
from tocsin.postgres.types import TEXT, ColumnFit, fit, sql_type, type_sql, widened

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composable, Composed

ROWS_MAX = 65_536
"""So many rows are sent at once."""
PARTS = 16
"""Into so many parts rows are cut of which one is refused, so that the bad ones are found after four cuts."""
PLACE = "place"
"""Column of the staging table: the row's place in what came, by which the last of several with one key is known."""


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of the rows, and where the table keeps it."""

    name: str
    """In the rows."""
    kept_as: str
    """In the table."""
    type: str
    """Of the rows, as PostgreSQL writes it."""
    is_surrogate: bool = False
    """Whether the table keeps a number, and another table the text that it stands for."""

    @property
    def table_type(self) -> str:
        return "integer" if self.is_surrogate else self.type


def columns_for(schema: pa.Schema, surrogates: Sequence[str]) -> list[TableColumn]:
    """Return the columns that are written; those that hold nothing but nulls are not, until they have a type."""
    columns = []
    for field in schema:
        type = sql_type(field.type, field.name)
        if type is not None:
            is_surrogate = field.name in surrogates
            columns.append(
                TableColumn(field.name, f"{field.name}_id" if is_surrogate else field.name, type, is_surrogate)
            )
    return columns


class Table:
    """One table, whose name may need a schema, written over one connection at a time."""

    def __init__(
        self, books: Bookkeeping, columns: Sequence[TableColumn], key: Sequence[str], staging: str
    ) -> None:  # fmt: skip
        self._staging = staging
        self._books, self._columns = books, columns
        self._key = [column.kept_as for name in key for column in columns if column.name == name]
        self._key_names = list(key)
        self._is_staged = bool(key) or any(column.is_surrogate for column in columns)
        self._has_staged = False
        """Whether the staging table may hold rows of before: the server empties it only when a transaction ends."""
        self._casts: dict[str, str] = {}
        """By column: the type to convert to, where the server does not do so by itself."""

    @property
    def name(self) -> str:
        return f"{self._books.schema}.{self._books.table}"

    def settle(self, connection: Connection) -> None:
        """Create the table or give it the columns that it lacks, and a staging table for this connection.

        Raises
        ------
        SinkError
            The table has a column of another type, or needs what does not come; the sentence says which.
        """
        there = self._books.columns(connection, self._books.table)
        if not there:
            self._create(connection)
        else:
            self._extend(connection, there)
            self._require_unique_key(connection)
        for column in self._surrogates():
            self._create_dimension(connection, column)
        if self._is_staged:
            self._create_staging(connection)

    def write(self, connection: Connection, rows: pa.Table) -> list[tuple[int, str]]:
        """Write all rows that the server takes, in the open transaction; return the place and reason of the others."""
        import psycopg

        connection.execute("set constraints all immediate")  # what is broken must not be told for all rows at the end
        self._has_staged = False
        refused, good = self._without_key(rows)
        waiting = [(begin, min(begin + ROWS_MAX, len(good))) for begin in range(0, len(good), ROWS_MAX)][::-1]
        while waiting:
            begin, end = waiting.pop()
            try:
                with connection.transaction():
                    self._put(connection, rows.take(good[begin:end]) if refused else rows.slice(begin, end - begin))
            except (psycopg.Error, ValueError, OverflowError) as error:
                if isinstance(error, psycopg.Error) and not is_of_a_row(error):
                    raise
                if end - begin == 1:
                    why = (
                        reason(error) if isinstance(error, psycopg.Error) else f"it cannot be written as text: {error}"
                    )
                    refused.append((int(good[begin].as_py()), why))
                else:
                    size = -(-(end - begin) // PARTS)
                    waiting += [(at, min(at + size, end)) for at in range(begin, end, size)][::-1]
        return sorted(refused)

    def delete_before(self, connection: Connection, column: str, us: int) -> int:
        """Delete rows whose time is before ``us``; return how many."""
        from psycopg import sql

        limit = sql.SQL("timestamptz 'epoch' + make_interval(secs => {})").format(sql.Literal(us / 1e6))
        where = sql.SQL("delete from {} where {} < ").format(self._identifier(), sql.Identifier(column))
        return connection.execute(where + limit).rowcount

    def vacuum(self, connection: Connection) -> None:
        """Give the space of deleted rows back, and let the server look at what is left; outside of a transaction."""
        from psycopg import sql

        connection.execute(sql.SQL("vacuum (analyze) {}").format(self._identifier()))

    def _identifier(self) -> Composable:
        from psycopg import sql

        return sql.Identifier(self._books.schema, self._books.table)

    def _surrogates(self) -> Iterator[TableColumn]:
        return (column for column in self._columns if column.is_surrogate)

    def _dimension(self, column: TableColumn) -> Composable:
        from psycopg import sql

        return sql.Identifier(self._books.schema, f"{self._books.table}_{column.name}")

    def _without_key(self, rows: pa.Table) -> tuple[list[tuple[int, str]], pa.Array]:
        """Return rows whose key holds a null, with the reason, and the places of all others."""
        import pyarrow.compute as pc

        places = pa.array(range(len(rows)), pa.int64())
        refused: list[tuple[int, str]] = []
        good = pa.repeat(True, len(rows))
        for name in self._key_names:
            null = rows[name].combine_chunks().is_null()
            new = places.filter(pc.and_(null, good)).to_pylist()
            refused += [(place, f"column '{name}' is null, but rows are told apart by it") for place in new]
            good = pc.and_(good, pc.invert(null))
        return refused, places.filter(good)

    # what the table looks like

    def _create(self, connection: Connection) -> None:
        from psycopg import sql

        parts = [sql.SQL("{} {}").format(sql.Identifier(c.kept_as), type_sql(c.table_type)) for c in self._columns]
        if self._key:
            parts.append(sql.SQL("primary key ({})").format(_names(self._key)))
        connection.execute(sql.SQL("create table {} ({})").format(self._identifier(), sql.SQL(", ").join(parts)))
        for column in self._columns:
            self._books.note(connection, created(column.kept_as))

    def _extend(self, connection: Connection, there: Sequence[tuple[str, str, bool, bool]]) -> None:
        from psycopg import sql

        known = {name: (type, is_enum) for name, type, is_enum, _ in there}
        for column in self._columns:
            if column.kept_as in known:
                self._reconcile(connection, column, *known[column.kept_as])
                continue
            change = sql.SQL("add column {} {}").format(sql.Identifier(column.kept_as), type_sql(column.table_type))
            self._alter(connection, change, added(column.kept_as))
        self._books.require(there, {column.kept_as for column in self._columns})

    def _reconcile(self, connection: Connection, column: TableColumn, type: str, is_enum: bool) -> None:
        """Make a column wider where it was made by us, leave it where its rows fit, refuse it where it is another."""
        from psycopg import sql

        fits = fit(column.table_type, type, is_enum=is_enum)
        wider = widened(column.table_type, type) if fits is not ColumnFit.WHOLE else None
        if wider is not None and self._books.has_made(connection, column.kept_as):
            change = sql.SQL("alter column {} type {}").format(sql.Identifier(column.kept_as), type_sql(wider))
            self._alter(connection, change, f"widened column {column.kept_as} from {type} to {wider}")
            return
        if fits is ColumnFit.NOT:
            raise SinkError(
                f"{self.name} has column '{column.kept_as}' as {type}, what comes is {column.table_type}; cast it in a "
                "step, change the table's column, or set another table"
            )
        if column.table_type == TEXT and (is_enum or type in ("uuid", "json", "jsonb")):
            self._casts[column.name] = type

    def _alter(self, connection: Connection, change: Composable, told: str) -> None:
        from psycopg import sql

        connection.execute(sql.SQL("alter table {} {}").format(self._identifier(), change))
        self._books.note(connection, told)

    def _require_unique_key(self, connection: Connection) -> None:
        if not self._key:
            return
        query = """
            select array_agg(a.attname::text) from pg_index i
            join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace
            join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey)
            where n.nspname = %s and c.relname = %s and i.indisunique and i.indisvalid and i.indimmediate
                and i.indpred is null and i.indexprs is null
            group by i.indexrelid
        """
        rows = connection.execute(query, (self._books.schema, self._books.table)).fetchall()
        if not any(set(names) == set(self._key) for (names,) in rows):
            from psycopg import sql

            remedy = sql.SQL("create unique index on {} ({})").format(self._identifier(), _names(self._key))
            raise SinkError(
                f"{self.name} has no unique index by which upsert can tell rows apart; make one: "
                f"{remedy.as_string(connection)}"
            )

    def _create_dimension(self, connection: Connection, column: TableColumn) -> None:
        from psycopg import sql

        name = f"{self._books.table}_{column.name}"
        if not self._books.columns(connection, name):
            columns = sql.SQL("id integer generated by default as identity primary key, value text not null unique")
            connection.execute(sql.SQL("create table {} ({})").format(self._dimension(column), columns))
            self._books.note(connection, f"created {self._books.schema}.{name} for column {column.kept_as}")

    def _create_staging(self, connection: Connection) -> None:
        from psycopg import sql

        types = [type_sql(column.type) for column in self._columns]
        parts = [sql.SQL("{} {}").format(sql.Identifier(f"c{i}"), type) for i, type in enumerate(types)]
        statement = sql.SQL("create temp table {} ({} bigint, {}) on commit delete rows")
        connection.execute(
            statement.format(sql.Identifier(self._staging), sql.Identifier(PLACE), sql.SQL(", ").join(parts))
        )  # fmt: skip

    # how rows get there

    def _put(self, connection: Connection, rows: pa.Table) -> None:
        """Send rows to the table; by a staging table where they replace others, or texts become numbers."""
        columns = [_whole(rows[column.name]) for column in self._columns]
        if not self._is_staged:
            _copy(connection, self._identifier(), [c.kept_as for c in self._columns], copy_text(columns))
            return
        if self._has_staged:
            connection.execute(_sql("truncate {}", self._staging))
        self._has_staged = True
        names = [PLACE, *(f"c{i}" for i in range(len(columns)))]
        places = pa.array(range(len(rows)), pa.int64())
        _copy(connection, _sql("{}", self._staging), names, copy_text([places, *columns]))
        for i, column in enumerate(self._columns):
            if column.is_surrogate:
                connection.execute(self._new_values(column, i))
        connection.execute(self._insert())

    def _new_values(self, column: TableColumn, i: int) -> Composed:
        from psycopg import sql

        statement = sql.SQL(
            "insert into {dimension} (value) select distinct {c} from {staging} where {c} is not null "
            "except select value from {dimension} on conflict do nothing"
        )
        return statement.format(
            dimension=self._dimension(column), c=sql.Identifier(f"c{i}"), staging=sql.Identifier(self._staging)
        )

    def _insert(self) -> Composed:
        from psycopg import sql

        names = [column.kept_as for column in self._columns]
        values = sql.SQL(", ").join(self._value(i, column) for i, column in enumerate(self._columns))
        insert = sql.SQL("insert into {} ({}) select {} from {} s").format(
            self._identifier(), _names(names), values, sql.Identifier(self._staging)
        )
        if not self._key:
            return insert + sql.SQL(" order by {}").format(sql.Identifier(PLACE))
        places = [sql.Identifier(f"c{i}") for i, column in enumerate(self._columns) if column.kept_as in self._key]
        last = sql.SQL(" where {p} in (select max({p}) from {staging} group by {key})").format(
            p=sql.Identifier(PLACE), staging=sql.Identifier(self._staging), key=sql.SQL(", ").join(places)
        )
        return insert + last + self._on_conflict([name for name in names if name not in self._key])

    def _on_conflict(self, others: Sequence[str]) -> Composed:
        from psycopg import sql

        conflict = sql.SQL(" on conflict ({}) do ").format(_names(self._key))
        if not others:
            return conflict + sql.SQL("nothing")
        updates = [sql.SQL("{c} = excluded.{c}").format(c=sql.Identifier(name)) for name in others]
        return conflict + sql.SQL("update set ") + sql.SQL(", ").join(updates)

    def _value(self, i: int, column: TableColumn) -> Composable:
        """Return what the table is given for a column of the staging table; a type to convert to is the catalogue's."""
        from psycopg import sql

        value: Composable = sql.Identifier("s", f"c{i}")
        if column.is_surrogate:
            return sql.SQL("(select d.id from {} d where d.value = {})").format(self._dimension(column), value)
        if column.name in self._casts:
            return sql.SQL("{}::{}").format(value, sql.SQL(self._casts[column.name]))
        return value


def _copy(connection: Connection, to: Composable, names: Sequence[str], rows: bytes) -> None:
    from psycopg import sql

    statement = sql.SQL("copy {} ({}) from stdin (format csv)").format(to, _names(names))
    with connection.cursor().copy(statement) as copy:
        copy.write(rows)


def _names(names: Sequence[str]) -> Composed:
    from psycopg import sql

    return sql.SQL(", ").join(map(sql.Identifier, names))


def _sql(statement: str, name: str) -> Composed:
    from psycopg import sql

    return sql.SQL(statement).format(sql.Identifier(name))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece."""
    whole = column.combine_chunks()
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole


__all__ = ["Table", "TableColumn", "columns_for"]
