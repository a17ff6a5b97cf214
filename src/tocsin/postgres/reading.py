"""What a query gives, as columns of Arrow: the server writes CSV by COPY, whole columns are read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tocsin.batch import TIME_TYPE
from tocsin.errors import SourceError

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composable

_DECIMAL_DIGITS_MAX = 38
# How the server writes a type, and as what that is read: a time as microseconds since 1970, a day as days.
_INSTANT = "case when {c} > '-infinity' and {c} < '294000-01-01' then (extract(epoch from {c}) * 1000000)::bigint end"
_DAY = "case when isfinite({c}) then {c} - date '1970-01-01' end"
_CLOCK = "case when {c} < '24:00' then (extract(epoch from {c}) * 1000000)::bigint end"
_TYPES: dict[str, tuple[pa.DataType, pa.DataType, str]] = {
    "bool": (pa.bool_(), pa.bool_(), "{c}"),
    "int2": (pa.int16(), pa.int16(), "{c}"),
    "int4": (pa.int32(), pa.int32(), "{c}"),
    "int8": (pa.int64(), pa.int64(), "{c}"),
    "oid": (pa.int64(), pa.int64(), "{c}"),
    "float4": (pa.float32(), pa.float32(), "{c}"),
    "float8": (pa.float64(), pa.float64(), "{c}"),
    "date": (pa.date32(), pa.int32(), _DAY),
    "time": (pa.time64("us"), pa.int64(), _CLOCK),
    "timestamp": (pa.timestamp("us"), pa.int64(), _INSTANT),
    "timestamptz": (TIME_TYPE, pa.int64(), _INSTANT),
    "bytea": (pa.binary(), pa.string(), "{c}"),
}
"""By PostgreSQL's name: the type of the column, the type to read it as, and what is asked for."""


@dataclass(frozen=True, slots=True)
class ReadColumn:
    """A column of a query."""

    name: str
    type: pa.DataType
    read_as: pa.DataType
    expression: str
    """What is asked for; ``{c}`` is the column."""


def describe(connection: Connection, query: Composable) -> list[ReadColumn]:
    """Return the columns of a query, typed as the server types them; it is not run."""
    from psycopg import sql

    description = connection.execute(sql.SQL("select * from {} as q limit 0").format(query)).description or ()
    return [_column(c.name, _type_name(c.type_code), c.precision, c.scale) for c in description]


def _type_name(oid: int) -> str:
    """Return PostgreSQL's short name of a type; empty where it is none of the server's own, ``[]`` for an array."""
    import psycopg

    known = psycopg.adapters.types.get(oid)
    return "" if known is None else "[]" if known.array_oid == oid else known.name


def _column(name: str, type: str, precision: int | None, scale: int | None) -> ReadColumn:
    if type in _TYPES:
        return ReadColumn(name, *_TYPES[type])
    digits, scale = precision or 0, scale or 0
    if type == "numeric" and 0 <= scale <= digits <= _DECIMAL_DIGITS_MAX and digits:
        decimal = pa.decimal128(digits, scale)
        return ReadColumn(name, decimal, decimal, "nullif({c}, 'NaN')")
    return ReadColumn(name, pa.string(), pa.string(), "array_to_json({c})" if type == "[]" else "{c}")


def read_csv(data: bytes, columns: Sequence[ReadColumn], more: int) -> tuple[pa.RecordBatch, pa.Table]:
    """Return rows as the server wrote them, and the ``more`` columns of text that follow them.

    Raises
    ------
    SourceError
        A column no longer has the type that it had.
    """
    import pyarrow.csv as pa_csv

    names = [str(i) for i in range(len(columns) + more)]
    types = {names[i]: column.read_as for i, column in enumerate(columns)}
    types |= {name: pa.string() for name in names[len(columns) :]}
    if not data:
        table = pa.schema(types.items()).empty_table()
    else:
        read = pa_csv.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False)
        convert = pa_csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
            true_values=["t"], false_values=["f"],
        )  # fmt: skip
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(data), read, pa_csv.ParseOptions(newlines_in_values=True), convert
            )  # fmt: skip
        except pa.ArrowInvalid as error:
            raise SourceError(f"the columns are no longer what they were; start again ({error})") from error
    arrays = [_typed(table[names[i]].combine_chunks(), column.type) for i, column in enumerate(columns)]
    rows = pa.RecordBatch.from_arrays(arrays, schema=schema_of(columns))
    return rows, table.select(names[len(columns) :])


def schema_of(columns: Sequence[ReadColumn]) -> pa.Schema:
    return pa.schema([(column.name, column.type) for column in columns])


def _typed(column: Any, type: pa.DataType) -> pa.Array:
    """Return a column as read, in its own type."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if type == pa.binary():
        return pa.array([None if v is None else bytes.fromhex(v[2:]) for v in array.to_pylist()], pa.binary())
    return array.cast(type)
