"""Derive: add columns worked out from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import field_validator

from tocsin.bases import Stateless
from tocsin.errors import ConfigError, SchemaError
from tocsin.values.expressions import expression


class Derive(Stateless):
    """Add columns, or replace them, by SQL expressions over the columns there are.

    Each expression may use those before it. ``total('axis_*')`` adds up all numeric columns whose name fits. Columns
    ``key`` and ``time`` stay as they are: see `rekey`.

    Examples
    --------
    >>> arm = rows({"axis_1": [1.0, 2.0], "axis_2": [10.0, None]})
    >>> left = feed(Derive(columns={"total": "total('axis_*')", "far": "total > 5"}), arm)
    >>> left["total"].to_pylist(), left["far"].to_pylist()
    ([11.0, 2.0], [True, False])
    """

    SHORTHAND: ClassVar[str | None] = "columns"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"columns": {"sum": "value + other", "half": "sum / 2", "hour": "extract(hour from time)"}},
        {"columns": {"value": "value * 2", "total": "total('[vo]*')", "all": "total('*')"}},
    )

    columns: Mapping[str, str]
    """Expressions by the name of their column."""

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        return rows.append_column("[vo]", rows.column("other"))

    @field_validator("columns")
    @classmethod
    def _not_the_key(cls, columns: Mapping[str, str]) -> Mapping[str, str]:
        if taken := {"key", "time"} & set(columns):
            raise ValueError(f"'{min(taken)}' cannot be derived; rekey and event_time make key and time")
        if not columns:
            raise ValueError("name at least one column")
        return columns

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for name, text in self.columns.items():
            try:
                new = pa.field(name, expression(text).type_in(input))
            except ConfigError as error:
                raise SchemaError(f"{name}: {error}") from error
            at = input.get_field_index(name)
            input = input.append(new) if at < 0 else input.set(at, new)
        return input

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        for name, text in self.columns.items():
            column = expression(text)(rows)
            new, at = pa.field(name, column.type), rows.schema.get_field_index(name)
            rows = rows.append_column(new, column) if at < 0 else rows.set_column(at, new, column)
        return rows
