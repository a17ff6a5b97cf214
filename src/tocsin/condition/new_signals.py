"""New signals: tell each signal that a machine has not had before, and let only so many of them through."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from pydantic import Field as Setting

from tocsin.bases import require
from tocsin.batch import KEY, NEW, REJECTED, REJECTED_SCHEMA, TIME, Batch, Codes, Ints, in_words, times_us, to_batch
from tocsin.condition._rejects import rejected
from tocsin.contracts import Operator
from tocsin.errors import SchemaError

NEW_SIGNALS = pa.schema(
    [KEY, TIME, pa.field("signal", pa.string(), nullable=False), pa.field("number", pa.int64(), nullable=False)]
)
"""Which machine has a new signal, the time of its first reading, and the how many of the machine it is."""

Names = dict[str, dict[str, None]]
"""By key: the names of its signals, in the order in which they came."""


class NewSignals(Operator):
    """Tell each signal that a machine has not had before by a row on port ``new``; rows pass as they are.

    Rows of signals beyond ``most`` of a machine are set aside (``signal_limit``), so that made-up names cannot fill
    memory and tables. It is put behind key and time by itself where a decoder has ``signals:``; use it in a stream
    behind any other source whose rows name their signal. What no stream takes from port ``new`` is kept in the table
    ``new_signals``.

    Examples
    --------
    >>> readings = rows({"signal": ["speed", "load", "speed", "heat"], "value": [1.0, 2.0, 3.0, 4.0]})
    >>> feed(NewSignals(most=2), readings)["signal"].to_pylist()
    ['speed', 'load', 'speed']
    >>> feed(NewSignals(most=2), readings, port="new").select(["key", "signal", "number"]).to_pylist()
    [{'key': 'machine', 'signal': 'speed', 'number': 1}, {'key': 'machine', 'signal': 'load', 'number': 2}]
    >>> feed(NewSignals(most=2), readings, port="rejected")["reason"].to_pylist()
    ['signal_limit']
    """

    SHORTHAND: ClassVar[str | None] = "of"
    KEEPS_STATE: ClassVar[Collection[str]] = ("most",)
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({"of": "text"}, {"of": "text", "most": 2})

    of: str = "signal"
    """The column that names the signal of a row."""
    most: int = Setting(1_000, ge=1)
    """How many signals a machine may have."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        kind = require(input, self.of, self.name()).type
        if not pt.is_string(kind.value_type if pt.is_dictionary(kind) else kind):
            raise SchemaError(f"{self.name()} needs names in column '{self.of}', which is {in_words(kind)}")
        return input

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {NEW: NEW_SIGNALS, REJECTED: REJECTED_SCHEMA}

    def initial(self) -> Names:
        return {}

    def counters(self, state: Names) -> Mapping[str, int]:
        return {"signals": sum(map(len, state.values()))}

    def dump(self, state: Names) -> pa.Table:
        names = pa.array(list(map(list, state.values())), pa.list_(pa.string()))
        return pa.table({"key": pa.array(list(state), pa.string()), "signals": names})

    def load(self, table: pa.Table) -> Names:
        return {row["key"]: dict.fromkeys(row["signals"]) for row in table.to_pylist()}

    def step(self, state: Names, batch: Batch) -> tuple[Names, Sequence[Batch]]:
        rows = batch.rows
        keys, signals = rows.column("key"), _coded(rows.column(self.of))
        told, refused = self._met(state, keys, signals, times_us(rows))
        left: list[Batch] = []
        if told:
            left.append(Batch(to_batch(told, NEW_SIGNALS), batch.watermark_us, NEW))
        if len(refused):
            names = signals.take(pa.array(refused)).to_pylist()
            details = [
                f"{str(name)[:100]!r} is beyond the {self.most} signals that a machine may have" for name in names
            ]
            aside = rejected(rows, refused, ["signal_limit"] * len(refused), details)
            left.append(Batch(aside, batch.watermark_us, REJECTED))
            kept = np.ones(rows.num_rows, bool)
            kept[refused] = False
            rows = rows.filter(pa.array(kept))
        return state, (*left, batch.with_rows(rows))

    def _met(
        self, state: Names, keys: pa.Array, signals: pa.Array, times: np.ndarray
    ) -> tuple[list[dict[str, Any]], Ints]:
        """Returns the rows that tell what is new, in the order in which it came; and the rows that are too many."""
        if not len(keys):
            return [], np.empty(0, np.int64)
        pairs = _codes(keys).astype(np.int64) * max(len(signals.dictionary), 1) + _codes(signals)
        pairs[_codes(signals) < 0] = -1
        once, first, which = np.unique(pairs, return_index=True, return_inverse=True)
        machines, names = keys.dictionary.to_pylist(), signals.dictionary.to_pylist()
        told, too_many = [], np.zeros(len(once), bool)
        for n in np.argsort(first).tolist():  # a pair of machine and signal each, not a row
            if once[n] < 0:
                continue  # a row that names no signal
            machine, name = machines[once[n] // len(names)], names[once[n] % len(names)]
            known = state.setdefault(machine, {})
            if name in known:
                continue
            if len(known) >= self.most:
                too_many[n] = True
                continue
            known[name] = None
            told.append({"key": machine, "time": int(times[first[n]]), "signal": name, "number": len(known)})
        return told, np.flatnonzero(too_many[which])


def _coded(column: pa.Array) -> pa.Array:
    return column if pt.is_dictionary(column.type) else column.dictionary_encode()


def _codes(column: pa.DictionaryArray) -> Codes:
    """The code of each row, -1 for null."""
    return np.asarray(pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False))


__all__ = ["NewSignals"]
