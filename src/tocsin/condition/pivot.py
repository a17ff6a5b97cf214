"""Pivot: from one row for each signal to one row with all signals of an instant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from pydantic import BeforeValidator
from pydantic import Field as Setting

from tocsin.bases import promised, require
from tocsin.batch import END, KEY, TIME, Batch, as_times, empty, in_words, times_us
from tocsin.condition._pending import Pending, Waiting
from tocsin.errors import SchemaError


def _named(value: Any) -> Any:
    """A name, or a list of names, for columns that are called as their signals are."""
    names = [value] if isinstance(value, str) else value
    return {str(name): str(name) for name in names} if isinstance(names, list | tuple) else value


class Pivot(Waiting):
    """Turn long rows (one for each signal: its name in one column, its value in another) into wide ones.

    Rows of the same key and the same time become one, with a column for each signal named in ``columns``; where one did
    not come there is null, where it came twice the last counts; signals not named are left out. A wide row leaves when
    the watermark has passed its time: only then nothing can be added to it, and rows leave in time order.

    Examples
    --------
    >>> long = rows({"time": [0, 0, 1], "tag": ["x", "y", "x"], "value": [1.5, 2.5, 3.5]})
    >>> feed(Pivot(signal="tag", value="value", columns=["x", "y"]), long).select(["x", "y"]).to_pylist()
    [{'x': 1.5, 'y': 2.5}, {'x': 3.5, 'y': None}]
    """

    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"signal": "text", "value": "value", "columns": ["idle", "running"]},
        {"signal": "text", "value": "sequence", "columns": {"stopped": "fault", "never": "no such"}},
    )

    signal: str
    """The column with the signal's name."""
    value: str
    """The column with its value."""
    columns: Annotated[
        Mapping[str, str],
        BeforeValidator(_named, json_schema_input_type=str | list[str] | dict[str, str]),
        Setting(min_length=1),
    ]
    """The signals that become columns: a list of names, or ``{column: signal}`` to call them otherwise."""

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        times = as_times(times_us(rows) // 3_000_000 * 3_000_000)
        return rows.set_column(1, TIME, times).take(pc.sort_indices(times))

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        kind = require(input, self.signal, self.name()).type
        if not pt.is_string(kind.value_type if pt.is_dictionary(kind) else kind):
            raise SchemaError(f"{self.name()} needs names in column '{self.signal}', which is {in_words(kind)}")
        value = require(input, self.value, self.name()).type
        if taken := {"key", "time"} & set(self.columns):
            raise SchemaError(
                f"{self.name()} cannot make a column '{min(taken)}'; call it otherwise: {{column: signal}}"
            )
        return pa.schema([KEY, TIME, *(pa.field(name, value) for name in self.columns)])

    def kept(self) -> Sequence[str]:
        return (self.value,)

    def step(self, state: Pending, batch: Batch) -> tuple[Pending, Sequence[Batch]]:
        schema = promised(self, batch.schema)
        rows, left = state.split_late(batch)
        if rows.num_rows:
            numbers = pc.index_in(_words(rows.column(self.signal)), pa.array(list(self.columns.values())))
            known = rows.append_column("signal", numbers).filter(numbers.is_valid())
            state.add(known.column("key"), times_us(known), known.select(["signal", self.value]))
        state.watermark_us = max(state.watermark_us, batch.watermark_us)
        out = self._close(state, schema) if state.oldest_us < state.watermark_us and state.times else empty(schema)
        return state, (*left, Batch(out, state.watermark_us))

    def _close(self, state: Pending, schema: pa.Schema) -> pa.RecordBatch:
        slots, times, columns = state.merge()
        leaves = np.flatnonzero(times < state.watermark_us) if state.watermark_us < END else np.arange(len(times))
        order = leaves[np.lexsort((slots[leaves], times[leaves]))]
        changes = (np.diff(times[order]) != 0) | (np.diff(slots[order]) != 0)
        group = np.concatenate([[0], np.cumsum(changes)])
        first = order[np.concatenate([[True], changes])]
        cells = np.full((len(self.columns), len(first)), -1)
        # Where a cell is named twice, numpy leaves the last: the one that came last.
        cells[columns.column("signal").to_numpy(zero_copy_only=False)[order], group] = order
        values = columns.column(self.value)
        wide = [values.take(pa.array(cell, mask=cell < 0)) for cell in cells]
        out = pa.RecordBatch.from_arrays([state.keys.keys(slots[first]), as_times(times[first]), *wide], schema=schema)
        kept = np.ones(len(times), bool)
        kept[leaves] = False
        state.keep(np.flatnonzero(kept))
        return out


def _words(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pt.is_dictionary(column.type) else column
