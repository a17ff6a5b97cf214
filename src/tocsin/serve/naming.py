"""Which machine and which signal a row is of, by what its stream says of its columns; and what people call both.

A key that ends in the signal (``press-1/vibration``) belongs to the machine before it.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tocsin.engine.wire import StreamColumns
from tocsin.pipeline.plan import Plan
from tocsin.serve.messages import Plant, SignalLabel


def plant_of(plan: Plan) -> Plant:
    """Returns what a pipeline says of its plant: names, where machines stand, whose clocks count."""
    signals = {name: SignalLabel(one.name, one.unit) for name, one in plan.signals.items()}
    return Plant(dict(plan.machines), signals, plan.zone)


def named(rows: pa.Table, column: str) -> pa.ChunkedArray:
    """Returns what each row calls its machine; the key where the column is null."""
    return pc.coalesce(rows.column(column).cast(pa.string()), rows.column("key").cast(pa.string()))


def placed(
    stream: StreamColumns, rows: pa.Table, names: pa.ChunkedArray, column: str
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Returns machine and signal of each row's value in a column, given what the rows call their machines."""
    if stream.signal:
        signals = rows.column(stream.signal).cast(pa.string()).fill_null("value")
        return pc.if_else(pc.equal(_last(names), signals), _before(names), names), signals
    if stream.values == ("value",) and stream.machine != "machine":
        slash = pc.match_substring(names, "/")
        return pc.if_else(slash, _before(names), names), pc.if_else(slash, _last(names), "value")
    return names, pa.chunked_array([pa.array([column] * rows.num_rows, pa.string())])


def _before(names: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.replace_substring_regex(names, r"(?s)/[^/]*$", "")


def _last(names: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.replace_substring_regex(names, r"(?s)^.*/", "")
