"""Fields of a document in the columns of a batch: ``process.name`` as a column, in a struct, or in a column of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

Mask = npt.NDArray[np.bool_]
SUBFIELDS = (".keyword", ".raw", ".text")
"""Multi-fields of an index, which documents do not have: the field itself is meant."""


def find(rows: pa.RecordBatch, name: str) -> pa.Array | None:
    """The column of a field, decoded; None if the rows have none."""
    names = rows.schema.names
    if name in names:
        return _plain(rows.column(name))
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        outer = ".".join(parts[:cut])
        if outer in names:
            inner = _inside(_plain(rows.column(outer)), parts[cut:])
            if inner is not None:
                return inner
    for suffix in SUBFIELDS:
        if name.endswith(suffix):
            return find(rows, name.removesuffix(suffix))
    flat = name.replace(".", "_")
    if flat in names and flat != name:
        return _plain(rows.column(flat))
    if name == "@timestamp" and "time" in names:
        return rows.column("time")
    return None


def has(schema: pa.Schema, name: str) -> bool:
    """Whether rows of a schema can have a field; what is JSON text is only known row by row."""
    nothing = pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema], names=schema.names)
    return find(nothing, name) is not None


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pt.is_dictionary(column.type) else column


def _inside(column: pa.Array, path: list[str]) -> pa.Array | None:
    if pt.is_struct(column.type):
        for cut in range(len(path), 0, -1):
            here = ".".join(path[:cut])
            if column.type.get_field_index(here) >= 0:
                inner = _plain(pc.struct_field(column, here))
                return inner if cut == len(path) else _inside(inner, path[cut:])
        return None
    if pt.is_string(column.type) or pt.is_large_string(column.type):
        # A Python loop, about 1 µs a row: for sources that give whole documents as text.
        said = column.to_pylist()
        if said and not any(text and text[0] == "{" for text in said):
            return None
        values = [_dig(text, path) for text in said]
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return pa.array([None if v is None else str(v) for v in values], pa.string())
    return None


def _dig(text: str | None, path: list[str]) -> Any:
    if not text or text[0] != "{":
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    for cut, name in enumerate(path):
        if not isinstance(value, dict):
            return None
        whole = ".".join(path[cut:])
        if whole in value:
            return value[whole]
        value = value.get(name)
    return value


def numbers(column: pa.Array) -> npt.NDArray[np.float64]:
    """A field as float64; NaN where there is no (finite) number. Text that is a number counts, as in Elasticsearch."""
    column = first(column)
    if pt.is_string(column.type) or pt.is_large_string(column.type):
        values = np.array([_number(text) for text in column.to_pylist()], np.float64)
    elif pt.is_timestamp(column.type):
        values = column.cast(pa.timestamp("us", tz=column.type.tz)).cast(pa.int64()).to_numpy(False) / 1e6
    elif pt.is_integer(column.type) or pt.is_floating(column.type) or pt.is_boolean(column.type):
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    else:
        values = np.full(len(column), np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def _number(text: str | None) -> float:
    try:
        return float(text) if text is not None else np.nan
    except ValueError:
        return float(np.nan)


def first(column: pa.Array) -> pa.Array:
    """Of a list its first item."""
    if pt.is_list(column.type) or pt.is_large_list(column.type) or pt.is_fixed_size_list(column.type):
        filled = pc.if_else(pc.greater(pc.fill_null(pc.list_value_length(column), 0), 0), column, None)
        return (
            _plain(pc.list_element(filled, 0))
            if len(filled) != filled.null_count
            else pa.nulls(len(column), column.type.value_type)
        )
    return column


def texts(column: pa.Array) -> pa.Array:
    """A field as the text that names an entity: 443, not 443.0; empty text stays, what is no scalar is null."""
    column = first(column)
    if pt.is_string(column.type):
        return column
    if pt.is_floating(column.type):
        named = [None if v is None or v != v else str(int(v)) if v == int(v or 0) and abs(v) < 2**53 else repr(v)
                 for v in (x if x is None or abs(x) != np.inf else None for x in column.to_pylist())]  # fmt: skip
        return pa.array(named, pa.string())
    if pt.is_null(column.type) or pt.is_struct(column.type) or pt.is_nested(column.type):
        return pa.nulls(len(column), pa.string())
    if pt.is_binary(column.type):
        return pa.array([None if v is None else v.decode("utf-8", "replace") for v in column.to_pylist()], pa.string())
    return column.cast(pa.string())


def any_of(column: pa.Array, test: Callable[[pa.Array], Mask]) -> Mask:
    """Rows of which some value passes: of a list any item, as for a field with several values in a document."""
    if pt.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    if not (pt.is_list(column.type) or pt.is_large_list(column.type)):
        return test(column)
    hit = np.zeros(len(column), bool)
    parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    hit[parents[test(_plain(pc.list_flatten(column)))]] = True
    return hit


def mask(column: pa.Array) -> Mask:
    """True-or-false as numpy; null is false."""
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), bool)
