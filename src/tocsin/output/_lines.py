"""Rows as lines of the Influx line protocol, a column at a time.

InfluxData, "Line protocol" (version 2).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.batch import times_us
from tocsin.errors import SchemaError

_TIME = "time"


def require_lines(schema: pa.Schema, tags: Collection[str], part: str) -> None:
    """Raises `SchemaError`, naming the column, for rows that cannot be written as lines."""
    if _TIME not in schema.names:
        raise SchemaError(f"{part} needs a column 'time'; what reaches it is [{', '.join(schema.names)}]")
    if missing := [tag for tag in tags if tag not in schema.names]:
        raise SchemaError(f"{part}: there is no column '{missing[0]}' to make a tag of; there are {schema.names}")
    for field in schema:
        if field.name != _TIME and not _can_be_written(field.type):
            raise SchemaError(
                f"{part} cannot keep column '{field.name}' of type {field.type}; cast it to text or a number, explode "
                "it, or leave it out with select"
            )
    if not [name for name in schema.names if name != _TIME and name not in tags]:
        raise SchemaError(f"{part} needs a column beside the tags and the time: a point has at least one field")


def _can_be_written(kind: pa.DataType) -> bool:
    if pt.is_dictionary(kind):
        return _can_be_written(kind.value_type)
    simple = pt.is_boolean(kind) or pt.is_floating(kind) or pt.is_string(kind) or pt.is_large_string(kind)
    return bool(simple or (pt.is_integer(kind) and kind != pa.uint64()) or pt.is_timestamp(kind))


def to_lines(rows: pa.Table, measurement: str, tags: Sequence[str]) -> list[str]:
    """Returns a line for each row with a value in at least one field; times are in nanoseconds.

    ``tags`` are the columns that name the series; all others but ``time`` are fields. What is null, NaN or infinite is
    left out: the protocol has no word for it.
    """
    rows = rows.combine_chunks()
    count = rows.num_rows
    if not count:
        return []
    batch = rows.to_batches()[0]
    head: list[pa.Array] = [pa.repeat(escaped_word(measurement, ", "), count)]
    for tag in tags:
        text = _tag_values(batch.column(tag))
        head.append(pc.binary_join_element_wise(f",{escaped_word(tag)}=", text, "", null_handling="emit_null"))
    series = pc.binary_join_element_wise(*head, "", null_handling="skip")
    fields = []
    for name in batch.schema.names:
        if name != _TIME and name not in tags:
            text = _field_values(batch.column(name))
            fields.append(pc.binary_join_element_wise(f"{escaped_word(name)}=", text, "", null_handling="emit_null"))
    # Arrow drops nulls where it is to join a single array.
    values = fields[0] if len(fields) == 1 else pc.binary_join_element_wise(*fields, ",", null_handling="skip")
    times = pc.cast(pc.multiply(pa.array(times_us(batch)), 1000), pa.string())
    lines = pc.binary_join_element_wise(series, values, times, " ")
    return list(lines.filter(pc.greater(pc.binary_length(values), 0)).to_pylist())


def escaped_word(text: str, marks: str = ",= ") -> str:
    for mark in marks:
        text = text.replace(mark, f"\\{mark}")
    return text


def _tag_values(column: pa.Array) -> pa.Array:
    """Escaped text, null where there is none: a tag cannot be empty, nor hold a line end, nor end with a backslash."""
    if pt.is_dictionary(column.type):
        return _tag_values(column.dictionary).take(column.indices)
    text = pc.cast(column, pa.string())
    text = pc.replace_substring_regex(text, pattern=r"[\r\n]", replacement=" ")
    text = pc.replace_substring_regex(text, pattern=r"\\+$", replacement="/")
    text = pc.replace_substring_regex(text, pattern=r"([,= ])", replacement=r"\\\1")
    return pc.if_else(pc.equal(text, ""), None, text)


def _field_values(column: pa.Array) -> pa.Array:
    """Values as the protocol writes them, null where it has no word for one."""
    kind = column.type
    if pt.is_dictionary(kind):
        return _field_values(column.dictionary).take(column.indices)
    if pt.is_boolean(kind):
        return pc.if_else(column, "true", "false")
    if pt.is_floating(kind):
        wide = pc.cast(column, pa.float64())
        return pc.cast(pc.if_else(pc.is_finite(wide), wide, None), pa.string())
    if pt.is_integer(kind) or pt.is_timestamp(kind):
        whole = pc.cast(column, pa.timestamp("us", kind.tz)) if pt.is_timestamp(kind) else column
        return pc.binary_join_element_wise(pc.cast(pc.cast(whole, pa.int64()), pa.string()), "i", "")
    text = pc.replace_substring_regex(pc.cast(column, pa.string()), pattern=r'(["\\])', replacement=r"\\\1")
    return pc.binary_join_element_wise('"', text, '"', "")
