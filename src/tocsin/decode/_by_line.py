"""Text formats with one row a line: what the decoders of line protocol and of metrics share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tocsin.decode._base import Records
from tocsin.decode._builder import Builder, Decoded, utf8
from tocsin.decode._columns import Column
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects
from tocsin.decode._values import from_value

TIME = "@time"
"""The path of the time at the end of a line."""


def decoded_by_line(
    told: Mapping[str, Column],
    unit: str,
    records: Records,
    rejects: Rejects,
    is_comment: Callable[[str], bool],
    parts_of: Callable[[str], Mapping[str, Any]],
    value_of: Callable[[str, Column, Any], Any] = from_value,
) -> Decoded:
    """Returns a row for each line; a line that cannot be read is rejected alone.

    ``unit`` is that of the time where its column names none; ``parts_of`` gives what stands in a line, by name, or
    raises `Bad`; ``value_of`` makes one of them a value of its column.
    """
    columns = {
        name: column.model_copy(update={"unit": column.unit or unit}) if column.path == TIME else column
        for name, column in told.items()
    }
    builder = Builder(columns, rejects)
    for i, payload in enumerate(records.payloads.to_pylist()):
        row = records.row(i)
        try:
            lines = [line for line in utf8(payload).splitlines() if line.strip() and not is_comment(line)]
        except Bad as bad:
            rejects.add(row, bad)
            continue
        for line in lines:
            part = line.encode() if len(lines) > 1 else None
            try:
                parts = parts_of(line)
                values = [value_of(n, c, parts.get(c.path or n)) for n, c in columns.items()]
                builder.add(i, row, values, part)
            except Bad as bad:
                rejects.add(row, bad, part)
    return Decoded(*builder.finish())
