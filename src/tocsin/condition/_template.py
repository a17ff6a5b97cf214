"""Template of a step: copy it to a file named as the step. One line saying what it is."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tocsin.bases import Stateless, require


class Template(Stateless):
    """Multiply a column. What it does; when to use it, and when not; the paper, where there is one.

    A step that remembers something for each key starts from `bases.Keyed`; a detector from `bases.Detector`.

    Examples
    --------
    >>> feed(Template(of="value", by=2.0), rows({"value": [1.5, None]}))["value"].to_pylist()
    [3.0, None]
    """

    of: str = "value"
    """The column; every setting has one sentence under it."""
    by: float = 1.0
    """The factor."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        """Required: the columns that leave; refuses by name what is missing."""
        require(input, self.of, self.name(), number=True)
        return input.set(input.get_field_index(self.of), pa.field(self.of, pa.float64()))

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Required of a `Stateless`: whole columns, no loop over rows."""
        product = pc.multiply(rows.column(self.of).cast(pa.float64()), self.by)
        at = rows.schema.get_field_index(self.of)
        columns = [product if i == at else column for i, column in enumerate(rows.columns)]
        return pa.RecordBatch.from_arrays(columns, schema=self.output_schema(rows.schema))
