"""Deadman: tell me when it stops reporting."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field as Setting

from tocsin.batch import END, KEY, START, TIME, TIME_TYPE, Batch, Codes, Ints, as_times, empty, times_us
from tocsin.contracts import Operator
from tocsin.kernels import kernel
from tocsin.settings.quantities import Duration
from tocsin.state import Columns, Field

SILENCE_SCHEMA = pa.schema(
    [
        KEY,
        TIME,
        pa.field("silent", pa.bool_(), nullable=False),
        pa.field("last", TIME_TYPE, nullable=False),
        pa.field("score", pa.float64(), nullable=False),
    ]
)


Silences = tuple[Codes, Ints, npt.NDArray[np.bool_], Ints]
"""Key, when it was known, whether it is silent now, last reading before it."""


class Deadman(Operator):
    """Give a row when a machine stops reporting, and another when it reports again; nothing else passes.

    Use it for devices that report regularly: ``deadman: 60s``. ``last`` is the last reading before the silence and
    ``score`` 100 while it is silent, else 0, so that an `alarm` behind it needs no condition:
    ``steps: [deadman: 60s, alarm: {rule: silent}]``. Silence is judged in event time: it is told as soon as the
    watermark is that far past the machine's newest reading, so somebody else must still be heard (or a source's
    ``idle_timeout`` pass). A machine that was never heard is not missed, and the end of a stream is not silence.

    Examples
    --------
    >>> heard = rows({"key": ["pump", "fan", "fan", "pump"], "time": [0, 0, 50, 90]})
    >>> feed(Deadman(after="60s"), heard).select(["key", "silent", "score"]).to_pylist()
    [{'key': 'pump', 'silent': True, 'score': 100.0}, {'key': 'pump', 'silent': False, 'score': 0.0}]
    """

    SHORTHAND: ClassVar[str | None] = "after"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({}, {"after": "1s"})
    KEEPS_STATE: ClassVar[Collection[str]] = ("after",)

    after: Duration = Setting(60_000_000, gt=0)
    """How long after its last reading a machine is missed."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        return SILENCE_SCHEMA

    @staticmethod
    def fields() -> Mapping[str, Field]:
        """The newest reading of each key, and whether its silence has been told."""
        return {"clock": Field(np.int64, START), "silent": Field(np.bool_, False)}

    def initial(self) -> Columns:
        return Columns(self.fields())

    def step(self, state: Columns, batch: Batch) -> tuple[Columns, Sequence[Batch]]:
        slots = state.slots(batch.rows.column("key"))
        told = [find_silences(slots, times_us(batch.rows), self.after, state["clock"], state["silent"])]
        count, to = len(state), batch.watermark_us
        if to not in (START, END):
            clock, silent = state["clock"][:count], state["silent"][:count]
            late = np.flatnonzero(~silent & (clock < to - self.after)).astype(np.int32)
            silent[late] = True
            told.append((late, clock[late] + self.after + 1, np.ones(len(late), np.bool_), clock[late]))
        return state, (Batch(self._rows(state, told), to),)

    @staticmethod
    def _rows(state: Columns, told: Sequence[Silences]) -> pa.RecordBatch:
        if not any(len(part[0]) for part in told):
            return empty(SILENCE_SCHEMA)
        slots, silent = np.concatenate([t[0] for t in told]), np.concatenate([t[2] for t in told])
        times, last = np.concatenate([t[1] for t in told]), np.concatenate([t[3] for t in told])
        order = np.argsort(times, kind="stable")
        slots, times, silent, last = slots[order], times[order], silent[order], last[order]
        columns = [
            state.keys.keys(slots), as_times(times), pa.array(silent), as_times(last), pa.array(100.0 * silent),
        ]  # fmt: skip
        return pa.RecordBatch.from_arrays(columns, schema=SILENCE_SCHEMA)

    def dump(self, state: Columns) -> pa.Table:
        return state.dump()

    def load(self, table: pa.Table) -> Columns:
        return Columns.load(self.fields(), table)


@kernel
def find_silences(slots: Codes, times: Ints, after: int, clock: Ints, silent: npt.NDArray[np.bool_]) -> Silences:
    """Silences that a reading shows or ends: key, when it was known, whether silent now, last reading before it."""
    slot, time = np.empty(2 * len(slots), np.int32), np.empty(2 * len(slots), np.int64)
    now, last = np.empty(2 * len(slots), np.bool_), np.empty(2 * len(slots), np.int64)
    n = 0
    for i in range(len(slots)):
        s, t = slots[i], times[i]
        if clock[s] != START and t > clock[s]:
            if not silent[s] and t - clock[s] > after:
                slot[n], time[n], now[n], last[n] = s, clock[s] + after + 1, True, clock[s]
                silent[s] = True
                n += 1
            if silent[s]:
                slot[n], time[n], now[n], last[n] = s, t, False, clock[s]
                silent[s] = False
                n += 1
        clock[s] = max(clock[s], t)
    return slot[:n], time[:n], now[:n], last[:n]
