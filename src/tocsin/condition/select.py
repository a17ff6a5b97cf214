"""Select: pass on some columns, maybe under other names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import BeforeValidator

from tocsin.bases import Stateless, require
from tocsin.errors import SchemaError


def _renamed(value: Any) -> Any:
    """A list of names, some of them ``{new: old}``."""
    if not isinstance(value, str | list | tuple):
        return value
    named: dict[str, str] = {}
    for item in [value] if isinstance(value, str) else value:
        named |= item if isinstance(item, Mapping) else {str(item): str(item)}
    return named


class Select(Stateless):
    """Pass on the columns named, in that order; ``key`` and ``time`` always pass, first.

    Examples
    --------
    >>> reading = rows({"t": [21.5], "h": [40]})
    >>> feed(Select(columns=["h", {"celsius": "t"}]), reading).schema.names
    ['key', 'time', 'h', 'celsius']
    """

    SHORTHAND: ClassVar[str | None] = "columns"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"columns": ["text", {"celsius": "value"}]},
        {"columns": "values"},
    )

    columns: Annotated[
        Mapping[str, str], BeforeValidator(_renamed, json_schema_input_type=str | list[str] | dict[str, str])
    ]
    """Columns to pass on: a list of names, where ``{new: old}`` gives a column another name."""

    def _wanted(self) -> dict[str, str]:
        return {"key": "key", "time": "time"} | dict(self.columns)

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        fields = []
        for new, old in self._wanted().items():
            if new in ("key", "time") and new != old:
                raise SchemaError(f"{self.name()} cannot call a column '{new}'; rekey and event_time make key and time")
            fields.append(require(input, old, self.name()).with_name(new))
        return pa.schema(fields)

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        wanted = self._wanted()
        fields = [rows.schema.field(old).with_name(new) for new, old in wanted.items()]
        return pa.RecordBatch.from_arrays([rows.column(old) for old in wanted.values()], schema=pa.schema(fields))
