"""Rows as the server's COPY reads them: CSV, in which only a null has no quotes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.postgres.types import JSON, sql_type

_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}


def copy_text(columns: Sequence[pa.Array]) -> bytes:
    """Return rows as CSV for ``COPY ... (FORMAT csv)``; any type that `types.sql_type` has an answer for.

    Examples
    --------
    >>> print(copy_text([pa.array([1.5, None]), pa.array(["no", ""])]).decode(), end="")
    "1.5","no"
    ,""
    """
    import pyarrow.csv as pa_csv

    table = pa.table([_text(column) for column in columns], [str(i) for i in range(len(columns))])
    out = io.BytesIO()
    pa_csv.write_csv(table, out, pa_csv.WriteOptions(include_header=False, quoting_style="all_valid"))
    return out.getvalue()


def _text(column: pa.Array) -> pa.Array:
    """Return a column as text that the server reads as `sql_type` of its type; nulls stay."""
    type = column.type
    if pt.is_dictionary(type):
        return _text(column.cast(type.value_type))
    kept_as = sql_type(type, "")
    if kept_as == JSON:
        return json_text(column)
    if kept_as is not None and kept_as.endswith("[]"):
        return _arrays(column)
    if kept_as == "bytea":
        return pa.array([None if v is None else "\\x" + v.hex() for v in column.to_pylist()], pa.string())
    return plain_text(column)


def json_text(column: pa.Array) -> pa.Array:
    """Return lists, structs or maps as JSON; nulls stay."""
    return pa.array([None if v is None else _json(v, column.type) for v in column.to_pylist()], pa.string())


def plain_text(column: pa.Array) -> pa.Array:
    """Return single values as text that needs no further sign of its type; nulls stay."""
    type = column.type
    if pt.is_duration(type):
        counts = column.cast(pa.int64()).cast(pa.string())
        return pc.binary_join_element_wise(counts, _UNITS[type.unit], " ")
    if pt.is_timestamp(type) and type.tz is not None:
        # Without its zone, which is UTC then, a column is written eight times as fast.
        naive = column.cast(pa.timestamp(type.unit, "UTC")).cast(pa.timestamp(type.unit))
        return pc.binary_join_element_wise(naive.cast(pa.string()), "Z", "")
    if pt.is_date64(type):
        column = column.cast(pa.date32())
    elif pt.is_float16(type):
        column = column.cast(pa.float32())
    return column.cast(pa.string())


def _arrays(column: pa.Array) -> pa.Array:
    """Return lists as ``{1.5,NULL}``."""
    if pt.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    values = _text(column.flatten())
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"')):
        values = pc.replace_substring(values, plain, escaped)
    values = pc.binary_join_element_wise('"', values, '"', "").fill_null("NULL")
    lengths = pc.list_value_length(column).fill_null(0)
    ends = pc.cumulative_sum(lengths.cast(pa.int32()))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, values), ",")
    whole = pc.binary_join_element_wise("{", joined, "}", "")
    return pc.if_else(column.is_valid(), whole, pa.scalar(None, pa.string()))


def _json(value: Any, type: pa.DataType) -> str:
    return msgspec.json.encode(_plain(value, type)).decode()


def _plain(value: Any, type: pa.DataType) -> Any:
    """Return a value as JSON can hold it: what is no number as text, maps as objects."""
    if value is None:
        return None
    if pt.is_struct(type):
        return {field.name: _plain(value[field.name], field.type) for field in type}
    if pt.is_map(type):
        return {key: _plain(item, type.item_type) for key, item in value}
    if isinstance(value, list):
        return [_plain(item, type.value_type) for item in value]
    if isinstance(value, float) and value - value != 0:  # not a number, or infinite
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value


def row_text(row: pa.RecordBatch | pa.Table) -> str:
    """Return a single row as JSON of plain ASCII, whatever it holds: also what the server cannot take."""
    values = {name: _readable(row.column(name).slice(0, 1)) for name in row.schema.names}
    return json.dumps(values, default=str)


def _readable(value: pa.Array | pa.ChunkedArray) -> Any:
    try:
        return value.to_pylist()[0]
    except (ValueError, OverflowError):  # bytes that are no UTF-8, a time beyond the calendar
        return f"{value.type} that cannot be shown"
