"""Keep: let pass the rows for which a condition is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from tocsin.bases import Stateless
from tocsin.values.expressions import condition, expression


class Keep(Stateless):
    """Keep the rows for which an SQL condition is true; those for which it is false or unknown (null) leave.

    Rows that are wrong, rather than not wanted, belong into quarantine: that is the decoder's work.

    Examples
    --------
    >>> feed(Keep(where="abs(z) > 1.29"), rows({"z": [1.0, -2.0, None]}))["z"].to_pylist()
    [-2.0]
    """

    SHORTHAND: ClassVar[str | None] = "where"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({"where": "value > 20 and text <> 'fault'"}, {"where": "flag"})

    where: str
    """The condition, over the row's columns, as in SQL."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        condition(self.where, input)
        return input

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        return rows.filter(expression(self.where)(rows)) if rows.num_rows else rows
