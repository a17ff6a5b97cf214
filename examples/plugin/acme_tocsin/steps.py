"""A step: rows in, rows out."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from tocsin.bases import Stateless, require


class Celsius(Stateless):
    """Turn degrees Fahrenheit into degrees Celsius.

    Examples
    --------
    >>> feed(Celsius(), rows({"value": [32.0, 212.0]}))["value"].to_pylist()
    [0.0, 100.0]
    """

    SHORTHAND: ClassVar[str | None] = "of"

    of: str = "value"
    """The column with the temperature."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        at = input.get_field_index(require(input, self.of, self.name(), number=True).name)
        return input.set(at, pa.field(self.of, pa.float64()))

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        celsius = pc.divide(pc.subtract(rows.column(self.of).cast(pa.float64()), 32.0), 1.8)
        at = rows.schema.get_field_index(self.of)
        return rows.set_column(at, pa.field(self.of, pa.float64()), celsius)
