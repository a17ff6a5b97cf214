"""The table of sink `redshift`: made, given new columns, and loaded: files in S3, COPY, staging table, merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.errors import SinkError
from tocsin.postgres.bookkeeping import added, created
from tocsin.postgres.types import ColumnFit
from tocsin.redshift.bookkeeping import RedshiftBookkeeping
from tocsin.redshift.encode import encoded, null_word, texts
from tocsin.redshift.files import LoadedFiles, LoadFiles
from tocsin.redshift.types import fit, sql_type, type_sql
from tocsin.world import Clock

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composable, Composed

PLACE = "place"
"""Column of the staging table: the row's place in what was put, by which those that are missing are known."""
ERRORS_MAX = 100_000
"""So many rows may be refused by one COPY, which is the most that it allows; with more it fails as a whole."""
DETAILS_S = 5.0
"""So long the reasons of refused rows are asked for; the system view may be behind."""


@dataclass(frozen=True, slots=True)
class LoadColumn:
    """A column of the rows, and how the table keeps it."""

    name: str
    kept_as: str
    type: str


def columns_for(schema: pa.Schema) -> list[LoadColumn]:
    """Return the columns that are written; those that hold nothing but nulls are not, until they have a type.

    Redshift folds letters of ASCII in names to lower case, quoted or not.

    Examples
    --------
    >>> [column.kept_as for column in columns_for(pa.schema({"Speed °C": pa.float64(), "unknown": pa.null()}))]
    ['speed °c']
    """
    types = {field.name: sql_type(field.type, field.name) for field in schema}
    return [LoadColumn(name, folded(name), type) for name, type in types.items() if type is not None]


def folded(name: str) -> str:
    """Return a name as Redshift keeps it.

    Examples
    --------
    >>> folded("Öl-Druck")
    'Öl-druck'
    """
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


class RedshiftTable:
    """One table, loaded over one connection at a time."""

    def __init__(
        self,
        books: RedshiftBookkeeping,
        columns: Sequence[LoadColumn],
        key: Sequence[str],
        staging: str,
        files: LoadFiles,
        copy_from: Composable,
        clock: Clock,
    ) -> None:
        """``copy_from`` says who reads the files: ``iam_role ...``, and the region where it is another one."""
        self._books, self._columns, self._files, self._copy_from = books, columns, files, copy_from
        self._key_names = list(key)
        self._key = [i for i, column in enumerate(columns) if column.name in key]
        self._staging, self._clock = staging, clock
        self._not_null: list[str] = []
        """Columns of the rows that the table takes no null in."""

    @property
    def name(self) -> str:
        return f"{self._books.schema}.{self._books.table}"

    def settle(self, connection: Connection) -> None:
        """Create the table or give it the columns that it lacks.

        Raises
        ------
        SinkError
            The table has a column of another type, or needs what does not come; the sentence says which.
        """
        from psycopg import sql

        there = self._books.columns(connection, self._books.table)
        if not there:
            parts = [sql.SQL("{} {}").format(sql.Identifier(c.kept_as), type_sql(c.type)) for c in self._columns]
            connection.execute(sql.SQL("create table {} ({})").format(self._identifier(), sql.SQL(", ").join(parts)))
            for column in self._columns:
                self._books.note(connection, created(column.kept_as))
        else:
            self._extend(connection, there)
        takes_null = {name: nullable for name, _, nullable, _ in there}
        self._not_null = [column.name for column in self._columns if not takes_null.get(column.kept_as, True)]

    def write(self, connection: Connection, rows: pa.Table) -> list[tuple[int, str]]:
        """Load all rows that the table takes, in the open transaction; return the place and reason of the others."""
        refused, columns = self._nulls(rows), []
        for column in self._columns:
            # The server would take a row with a NUL character for two.
            text, bad = encoded(_whole(rows[column.name]))
            columns.append(text)
            refused |= bad
        kept = np.ones(len(rows), bool)
        kept[list(refused)] = False
        good = np.flatnonzero(kept)
        if len(good):
            columns = [column.take(pa.array(good)) if refused else column for column in columns]
            columns.insert(0, texts(pa.array(np.arange(len(good)))))
            null = null_word(columns)
            files = self._files.put(columns, null)
            self._copy(connection, files, null)
            refused |= {int(good[at]): why for at, why in self._left_out(connection, files).items()}
            self._merge(connection)
        return sorted(refused.items())

    def delete_before(self, connection: Connection, column: str, us: int) -> int:
        """Delete rows whose time is before ``us``; return how many."""
        from datetime import UTC, datetime

        from psycopg import sql

        statement = sql.SQL("delete from {} where {} < %s").format(self._identifier(), sql.Identifier(column))
        return connection.execute(statement, (datetime.fromtimestamp(us / 1e6, UTC),)).rowcount

    def vacuum(self, connection: Connection) -> None:
        """Give the space of deleted rows back, and let the server look at what is left; outside of a transaction."""
        from psycopg import sql

        for statement in ("vacuum {}", "analyze {}"):
            connection.execute(sql.SQL(statement).format(self._identifier()))

    def _identifier(self) -> Composable:
        from psycopg import sql

        return sql.Identifier(self._books.schema, self._books.table)

    def _extend(self, connection: Connection, there: Sequence[tuple[str, str, bool, bool]]) -> None:
        from psycopg import sql

        known = {name: type for name, type, _, _ in there}
        for column in self._columns:
            if column.kept_as not in known:
                change = sql.SQL("alter table {} add column {} {}").format(
                    self._identifier(), sql.Identifier(column.kept_as), type_sql(column.type)
                )
                connection.execute(change)
                self._books.note(connection, added(column.kept_as))
            elif fit(column.type, known[column.kept_as]) is ColumnFit.NOT:
                raise SinkError(
                    f"{self.name} has column '{column.kept_as}' as {known[column.kept_as]}, what comes is "
                    f"{column.type}; cast it in a step, change the table's column, or set another table"
                )
        self._books.require(there, {column.kept_as for column in self._columns})

    def _nulls(self, rows: pa.Table) -> dict[int, str]:
        """Return the places of rows with a null where the table takes none, or where rows are told apart by it."""
        refused: dict[int, str] = {}
        for name in (*self._not_null, *self._key_names):
            why = "rows are told apart by it" if name in self._key_names else "the table takes none there"
            nulls = pc.indices_nonzero(_whole(rows[name]).is_null())
            refused |= {int(place): f"column '{name}' is null, but {why}" for place in nulls.to_pylist()}
        return refused

    def _copy(self, connection: Connection, files: LoadedFiles, null: str) -> None:
        """Load the files into a staging table, whose columns have the types of the table's."""
        from psycopg import sql

        fields = [sql.Identifier(f"c{i}") for i in range(len(self._columns))]
        kept = [
            sql.SQL("t.{} as {}").format(sql.Identifier(c.kept_as), field)
            for c, field in zip(self._columns, fields, strict=True)
        ]
        made = sql.SQL("create temp table {} as select cast(0 as bigint) as {}, {} from {} t where 1 = 0").format(
            sql.Identifier(self._staging), sql.Identifier(PLACE), sql.SQL(", ").join(kept), self._identifier()
        )
        connection.execute(made)
        copy = sql.SQL(
            "copy {} ({}) from {} {} format as csv null as {} gzip manifest dateformat 'auto' timeformat 'auto' "
            "maxerror {} compupdate off statupdate off"
        ).format(
            sql.Identifier(self._staging), sql.SQL(", ").join([sql.Identifier(PLACE), *fields]),
            sql.Literal(files.manifest), self._copy_from, sql.Literal(null), sql.Literal(ERRORS_MAX),
        )  # fmt: skip
        connection.execute(copy)

    def _left_out(self, connection: Connection, files: LoadedFiles) -> Mapping[int, str]:
        """Return the places of rows that COPY has refused, with the reason.

        Which ones they are is seen in the staging table; the system view is only asked why.
        """
        from psycopg import sql

        numbers = sql.SQL(
            "select {p}, next_place from (select {p}, lead({p}) over (order by {p}) as next_place from {staging}) s "
            "where next_place > {p} + 1 union all select -1, min({p}) from {staging} union all select max({p}), {end} "
            "from {staging}"
        ).format(p=sql.Identifier(PLACE), staging=sql.Identifier(self._staging), end=sql.Literal(files.ends[-1]))
        gaps = connection.execute(numbers).fetchall()
        if any(place is None or next_place is None for place, next_place in gaps):
            missing = list(range(files.ends[-1]))  # the staging table is empty
        else:
            missing = sorted(at for place, next_place in gaps for at in range(place + 1, next_place))
        return self._reasons(connection, files, missing) if missing else {}

    def _reasons(self, connection: Connection, files: LoadedFiles, missing: Sequence[int]) -> Mapping[int, str]:
        """Return for each missing row why it was refused.

        The view numbers lines, of which a row may have several; both it and we know their order in a file.
        """
        details = self._details(connection, files)
        reasons: dict[int, str] = {}
        for address, (begin, end) in zip(files.addresses, pairwise((0, *files.ends)), strict=True):
            places = [place for place in missing if begin <= place < end]
            told = details.get(address, [])
            if len(told) != len(places):
                said = "; ".join(sorted(set(told))[:5]) or "sys_load_error_detail does not say why"
                told = [f"COPY refused it, and maybe others beside it: {said}"] * len(places)
            reasons |= dict(zip(places, told, strict=True))
        return reasons

    def _details(self, connection: Connection, files: LoadedFiles) -> Mapping[str, list[str]]:
        """Return what the system view says of each file: one reason for each line, in the order of the lines."""
        folder = files.manifest.rpartition("/")[0]
        query = (
            "select trim(file_name), line_number, min(trim(column_name)), min(trim(error_message)) "
            "from sys_load_error_detail where left(file_name, %s) = %s group by 1, 2 order by 1, 2"
        )
        until_s = self._clock.monotonic_s() + DETAILS_S
        rows = connection.execute(query, (len(folder), folder)).fetchall()
        while not rows and self._clock.monotonic_s() < until_s:
            self._clock.sleep(0.5)
            rows = connection.execute(query, (len(folder), folder)).fetchall()
        details: dict[str, list[str]] = {}
        for address, _, column, message in rows:
            details.setdefault(str(address), []).append(f"column '{self._name_of(str(column))}': {message}")
        return details

    def _name_of(self, field: str) -> str:
        """Return what a column of the staging table is called in the table."""
        number = field.removeprefix("c")
        return self._columns[int(number)].kept_as if number.isdigit() else field

    def _merge(self, connection: Connection) -> None:
        """Put the rows of the staging table into the table, where they replace those of the same key."""
        from psycopg import sql

        staging, place = sql.Identifier(self._staging), sql.Identifier(PLACE)
        names = sql.SQL(", ").join(sql.Identifier(column.kept_as) for column in self._columns)
        fields = sql.SQL(", ").join(sql.Identifier(f"c{i}") for i in range(len(self._columns)))
        insert = sql.SQL("insert into {} ({}) select {} from {}").format(self._identifier(), names, fields, staging)
        if self._key:
            connection.execute(self._delete_replaced())
            key = sql.SQL(", ").join(sql.Identifier(f"c{i}") for i in self._key)
            insert += sql.SQL(" where {p} in (select max({p}) from {staging} group by {key})").format(
                p=place, staging=staging, key=key
            )
        connection.execute(insert)
        connection.execute(sql.SQL("drop table {}").format(staging))

    def _delete_replaced(self) -> Composed:
        from psycopg import sql

        same = [
            sql.SQL("{} = s.{}").format(
                sql.Identifier(self._books.table, self._columns[i].kept_as), sql.Identifier(f"c{i}")
            )
            for i in self._key
        ]
        return sql.SQL("delete from {} using {} s where {}").format(
            self._identifier(), sql.Identifier(self._staging), sql.SQL(" and ").join(same)
        )


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece."""
    whole = column.combine_chunks()
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
