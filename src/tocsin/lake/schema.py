"""Delta's schema: to and from Arrow, the names it can hold, partition values and statistics as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.errors import SchemaError

ORIGINAL = "tocsin.name"
"""Key in a column's metadata: its name before `physical_names` changed it."""

# Without column mapping, Delta's reference implementation refuses these in a column's name (as Parquet readers do).
_FORBIDDEN = re.compile(r"[ ,;{}()\n\t=]")

_TO_ARROW = {
    "string": pa.string(),
    "long": pa.int64(),
    "integer": pa.int32(),
    "short": pa.int16(),
    "byte": pa.int8(),
    "float": pa.float32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "timestamp_ntz": pa.timestamp("us"),
}
_FROM_ARROW = {arrow: name for name, arrow in _TO_ARROW.items() if name != "timestamp_ntz"} | {
    pa.large_string(): "string",
    pa.string_view(): "string",
    pa.large_binary(): "binary",
    pa.binary_view(): "binary",
    pa.uint8(): "short",
    pa.uint16(): "integer",
    pa.uint32(): "long",
    pa.date64(): "date",
    pa.null(): "string",
}


def delta_type(type: pa.DataType, column: str) -> Any:
    """The type as Delta writes it; `SchemaError` for one that it cannot hold."""
    if pt.is_dictionary(type):
        return delta_type(type.value_type, column)
    if type in _FROM_ARROW:
        return _FROM_ARROW[type]
    if pt.is_timestamp(type) and type.tz is not None:
        return "timestamp"
    if pt.is_duration(type):
        return "long"
    if pt.is_decimal(type):
        return f"decimal({type.precision},{type.scale})"
    if pt.is_list(type) or pt.is_large_list(type) or pt.is_fixed_size_list(type):
        return {"type": "array", "elementType": delta_type(type.value_type, column), "containsNull": True}
    if pt.is_map(type):
        return {
            "type": "map",
            "keyType": delta_type(type.key_type, column),
            "valueType": delta_type(type.item_type, column),
            "valueContainsNull": True,
        }
    if pt.is_struct(type):
        return {"type": "struct", "fields": [_field(f.name, f.type, {}) for f in type]}
    raise SchemaError(f"a Delta table cannot hold column '{column}' of type {type}; cast it first")


def arrow_type(type: Any) -> pa.DataType:
    """The reverse of `delta_type`."""
    if isinstance(type, str):
        if type in _TO_ARROW:
            return _TO_ARROW[type]
        if match := re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", type):
            return pa.decimal128(int(match[1]), int(match[2]))
    elif type["type"] == "array":
        return pa.list_(arrow_type(type["elementType"]))
    elif type["type"] == "map":
        return pa.map_(arrow_type(type["keyType"]), arrow_type(type["valueType"]))
    elif type["type"] == "struct":
        return pa.struct([pa.field(f["name"], arrow_type(f["type"]), f["nullable"]) for f in type["fields"]])
    raise SchemaError(f"the Delta type {type!r} is not known here")


def _field(name: str, type: pa.DataType, metadata: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "type": delta_type(type, name), "nullable": True, "metadata": dict(metadata)}


def physical_names(names: Iterable[str], fields: Sequence[Mapping[str, Any]] = ()) -> dict[str, str]:
    """The name that each column has in the table: its own, or a slug where Delta cannot hold it.

    ``fields`` are the table's: a column that has a place there keeps it.

    Examples
    --------
    >>> physical_names(["::[robot]Ax_J1.Position", "oil (C)", "Oil_(C)", ""])
    {'::[robot]Ax_J1.Position': '::[robot]Ax_J1.Position', 'oil (C)': 'oil__C_', 'Oil_(C)': 'Oil__C__2', '': 'column'}
    """
    known = {f["metadata"].get(ORIGINAL, f["name"]): str(f["name"]) for f in fields}
    taken = {name.lower() for name in known.values()}
    physical = {}
    for name in names:
        if name not in known:
            slug = base = _FORBIDDEN.sub("_", name) or "column"
            number = 2
            while slug.lower() in taken:
                slug, number = f"{base}_{number}", number + 1
            known[name] = slug
            taken.add(slug.lower())
        physical[name] = known[name]
    return physical


def original_names(fields: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The reverse of `physical_names`: each column of the table, and the name that it was given.

    Where two would only differ in case, which SQL does not tell apart, the later one goes by its name in the table.
    """
    originals: dict[str, str] = {}
    taken: set[str] = {f["name"].lower() for f in fields}
    for field in fields:
        held = str(field["name"])
        original = str(field["metadata"].get(ORIGINAL) or held)
        originals[held] = held if original.lower() in taken - {held.lower()} else original
        taken.add(originals[held].lower())
    return originals


def new_fields(schema: pa.Schema, fields: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """The table's fields, and at their end those of a schema that are not among them yet.

    `SchemaError` if a column is there with another type: that needs a table of its own.
    """
    names = physical_names(schema.names, fields)
    there = {f["name"]: f for f in fields}
    result = [dict(f) for f in fields]
    for field in schema:
        name = names[field.name]
        fresh = _field(name, field.type, {} if name == field.name else {ORIGINAL: field.name})
        if name not in there:
            result.append(fresh)
        elif there[name]["type"] != fresh["type"] and not (
            _nullable(there[name]["type"]) == _nullable(fresh["type"]) or pt.is_null(field.type)
        ):
            raise SchemaError(
                f"column '{field.name}' is {there[name]['type']} in the table and {fresh['type']} in what should be "
                "written; cast it, rename it, or write to a new table"
            )
    return result


def _nullable(type: Any) -> Any:
    """A type without what it says about nulls: we never write more of them than we are given."""
    if isinstance(type, dict):
        return {k: _nullable(v) for k, v in type.items() if k not in ("containsNull", "valueContainsNull", "nullable")}
    return [_nullable(v) for v in type] if isinstance(type, list) else type


def schema_string(fields: Sequence[Mapping[str, Any]]) -> str:
    """The fields as the log holds them."""
    return json.dumps({"type": "struct", "fields": list(fields)}, separators=(",", ":"), ensure_ascii=False)


def arrow_schema(fields: Sequence[Mapping[str, Any]]) -> pa.Schema:
    """The fields as an Arrow schema, under the names that they have in the table."""
    return pa.schema([pa.field(f["name"], arrow_type(f["type"])) for f in fields])


def partition_text(value: Any, type: pa.DataType) -> str | None:
    """A partition value as the log holds it. Delta does not tell an empty text from null."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")
    return value.isoformat() if isinstance(value, date) else str(value)


def partition_value(text: str | None, type: pa.DataType) -> pa.Scalar:
    """The reverse of `partition_text`."""
    if text is None or text == "":
        return pa.scalar(None, type)
    if pt.is_timestamp(type):
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return pa.scalar(time, type) if time.tzinfo else pa.scalar(time, pa.timestamp("us")).cast(type)
    return pa.scalar(text, pa.string()).cast(type)


def statistics(table: pa.Table) -> str:
    """Number of rows, and the span of each column of times: what lets a reader skip files."""
    least, most = {}, {}
    for field, column in zip(table.schema, table.columns, strict=True):
        if pt.is_timestamp(field.type) or pt.is_date(field.type):
            span = pc.min_max(column)
            if span["min"].is_valid:
                least[field.name], most[field.name] = (_stat_text(span[s].as_py()) for s in ("min", "max"))
    return json.dumps({"numRecords": table.num_rows, "minValues": least, "maxValues": most, "nullCount": {}})


def _stat_text(value: date) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if isinstance(value, datetime) else value.isoformat()
