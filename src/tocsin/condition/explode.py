"""Explode: make a row of each element of lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.bases import Stateless, promised, require
from tocsin.batch import TIME, empty, in_words
from tocsin.errors import SchemaError
from tocsin.settings import Many


class Explode(Stateless):
    """Make a row of each element of lists, all lists of a row side by side: the reverse of `window` with ``collect``.

    Where the times were collected (``times``), each row gets its own ``time`` back; else all keep the row's. Of lists
    of different length the shorter are filled up with null; a row without elements leaves none.

    Examples
    --------
    >>> from tocsin.condition.window import Window
    >>> windows = feed(Window(every="20s", collect=["time", "value"]), rows({"value": [1.0, 2.0]}))
    >>> again = feed(Explode(), windows.to_batches()[0])
    >>> [t.second for t in again["time"].to_pylist()], again["value"].to_pylist()
    ([0, 1], [1.0, 2.0])
    """

    SHORTHAND: ClassVar[str | None] = "columns"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({}, {"columns": ["values", "times"]})

    columns: Many[str] = ()
    """The list columns to take apart; all there are, if none is named."""

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        times = [[t] * (i % 3) for i, t in enumerate(rows.column("time").to_pylist())]
        return rows.append_column("times", pa.array(times, pa.list_(TIME.type)))

    def _lists(self, input: pa.Schema) -> list[str]:
        return list(self.columns) or [field.name for field in input if pt.is_list(field.type)]

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        lists = self._lists(input)
        if not lists:
            raise SchemaError(f"{self.name()} needs a column of lists; what reaches it is [{', '.join(input.names)}]")
        fields = []
        for name in lists:
            if not pt.is_list(kind := require(input, name, self.name()).type):
                raise SchemaError(f"{self.name()} needs lists in column '{name}', which is {in_words(kind)}")
        restored = self._restores(input, lists)
        for field in input:
            if field.name == "times" and restored:
                continue
            fields.append(pa.field(field.name, field.type.value_type) if field.name in lists else field)
        return pa.schema(fields)

    def _restores(self, input: pa.Schema, lists: Sequence[str]) -> bool:
        return "times" in lists and bool(input.field("times").type.value_type == TIME.type)

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        lists = self._lists(rows.schema)
        if not rows.num_rows:
            return empty(promised(self, rows.schema))
        sizes = [pc.fill_null(pc.list_value_length(rows.column(name)), 0).to_numpy() for name in lists]
        size = np.maximum.reduce(sizes)
        parents = pa.array(np.repeat(np.arange(rows.num_rows), size))
        elements = {
            name: rows.column(name).flatten() if np.array_equal(own, size) else _filled(rows.column(name), own, size)
            for name, own in zip(lists, sizes, strict=True)
        }
        schema = promised(self, rows.schema)
        if self._restores(rows.schema, lists):
            time = elements.pop("times")
            elements["time"] = time if not time.null_count else pc.coalesce(time, rows.column("time").take(parents))
        columns = [elements[f.name] if f.name in elements else rows.column(f.name).take(parents) for f in schema]
        return pa.RecordBatch.from_arrays(columns, schema=schema)


def _filled(lists: pa.Array, own: np.ndarray[Any, Any], size: np.ndarray[Any, Any]) -> pa.Array:
    """The elements, with nulls behind those of each list until it has ``size``."""
    place = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    begin = np.repeat(np.cumsum(own) - own, size)
    there = place < np.repeat(own, size)
    return lists.flatten().take(pa.array(np.where(there, begin + place, 0), mask=~there))
