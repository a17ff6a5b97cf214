"""Cast: make columns of other types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.bases import require
from tocsin.batch import REJECTED, REJECTED_SCHEMA, Batch, empty
from tocsin.condition._rejects import rejected
from tocsin.contracts import Operator
from tocsin.state import NO_STATE
from tocsin.values.conversion import TYPES, convert


class Cast(Operator):
    """Make columns of other types: ``int``, ``float``, ``text``, ``bool`` or ``timestamp``.

    A number becomes an int by rounding, a time from text or from a number since 1970 (its unit guessed by its size).
    A row with a value that cannot be converted goes to ``rejected`` with reason ``type``; to have null instead, use
    `derive` with ``cast(... as ...)``. The decoders already give typed columns: this is for what comes after.

    Examples
    --------
    >>> sent = rows({"count": ["1", " 2 ", "many", None]})
    >>> feed(Cast(columns={"count": "int"}), sent)["count"].to_pylist()
    [1, 2, None]
    >>> feed(Cast(columns={"count": "int"}), sent, port="rejected")["detail"].to_pylist()
    ["count: 'many' is no int"]
    """

    SHORTHAND: ClassVar[str | None] = "columns"
    TIMELESS: ClassVar[bool] = True
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"columns": {"value": "int", "count": "float", "flag": "text"}},
        {"columns": {"text": "float", "sequence": "timestamp"}},
    )

    columns: Mapping[str, Literal["int", "float", "text", "bool", "timestamp"]]
    """New types by the name of their column."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for name, kind in self.columns.items():
            field = require(input, name, self.name())
            convert(empty(pa.schema([field])).column(0), TYPES[kind])
            input = input.set(input.get_field_index(name), pa.field(name, TYPES[kind], field.nullable))
        return input

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {REJECTED: REJECTED_SCHEMA}

    def initial(self) -> None:
        return None

    def dump(self, state: None) -> pa.Table:
        return NO_STATE

    def load(self, table: pa.Table) -> None:
        return None

    def step(self, state: None, batch: Batch) -> tuple[None, Sequence[Batch]]:
        rows, came = batch.rows, batch.rows
        details: dict[int, str] = {}
        for name, kind in self.columns.items():
            at = rows.schema.get_field_index(name)
            old = rows.column(at)
            new = convert(old, TYPES[kind])
            if new.null_count > old.null_count:
                for i in np.flatnonzero(pc.and_not(new.is_null(), old.is_null()).to_numpy(zero_copy_only=False)):
                    details.setdefault(int(i), f"{name}: {old[i].as_py()!r:.100} is no {kind}")
            rows = rows.set_column(at, pa.field(name, TYPES[kind], rows.schema.field(at).nullable), new)
        if not details:
            return None, (batch.with_rows(rows),)
        places = np.array(sorted(details))
        bad = rejected(came, places, ["type"] * len(places), [details[int(i)] for i in places])
        good = np.ones(len(batch), bool)
        good[places] = False
        return None, (Batch(bad, batch.watermark_us, REJECTED), batch.with_rows(rows.filter(pa.array(good))))
