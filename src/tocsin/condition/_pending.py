"""Rows that wait for the watermark: in the order in which they came, in few pieces."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from tocsin.batch import END, LATE, START, Batch, Codes, Ints, as_times, times_us
from tocsin.contracts import Operator
from tocsin.state import NO_STATE, Keys

CHUNKS_MAX = 256
"""So many small batches may wait before they are put together."""


@dataclass(slots=True)
class Pending:
    """Rows with their key's slot and their time beside them, and how far the watermark had come."""

    keys: Keys = field(default_factory=Keys)
    slots: list[Codes] = field(default_factory=list)
    times: list[Ints] = field(default_factory=list)
    columns: list[pa.RecordBatch] = field(default_factory=list)
    oldest_us: int = END
    watermark_us: int = START

    def add(self, keys: pa.Array, times: Ints, columns: pa.RecordBatch) -> None:
        if not len(times):
            return
        self.slots.append(self.keys.slots(keys))
        self.times.append(times)
        self.columns.append(columns)
        self.oldest_us = min(self.oldest_us, int(times.min()))
        if len(self.times) > CHUNKS_MAX:
            self.merge()

    def split_late(self, batch: Batch) -> tuple[pa.RecordBatch, list[Batch]]:
        """The rows that are in time, and those that are behind the watermark as a batch on port ``late``."""
        if not len(batch):
            return batch.rows, []
        late = times_us(batch.rows) < self.watermark_us
        if not late.any():
            return batch.rows, []
        behind = Batch(batch.rows.filter(pa.array(late)), batch.watermark_us, LATE)
        return batch.rows.filter(pa.array(~late)), [behind]

    def merge(self) -> tuple[Codes, Ints, pa.RecordBatch]:
        """All in one piece."""
        if len(self.times) > 1:
            self.slots, self.times = [np.concatenate(self.slots)], [np.concatenate(self.times)]
            self.columns = [pa.Table.from_batches(self.columns).combine_chunks().to_batches()[0]]
        return self.slots[0], self.times[0], self.columns[0]

    def keep(self, kept: Ints) -> None:
        """Of all, in one piece, keep only the rows at these places."""
        slots, times, columns = self.merge()
        self.slots, self.times, self.columns, self.oldest_us = [], [], [], END
        if len(kept):
            self.slots, self.times, self.columns = [slots[kept]], [times[kept]], [columns.take(pa.array(kept))]
            self.oldest_us = int(self.times[0].min())

    def dump(self) -> pa.Table:
        if not self.times:
            return NO_STATE
        slots, times, columns = self.merge()
        names = self.keys.names().take(pa.array(slots))
        watermark = pa.repeat(pa.scalar(self.watermark_us, pa.int64()), len(slots))
        arrays = [names, as_times(times), watermark, *columns.columns]
        fields = [
            pa.field(name, array.type) for name, array in zip(("key", "time", "watermark_us"), arrays, strict=False)
        ]
        return pa.table(arrays, schema=pa.schema([*fields, *columns.schema]))  # not null stays not null

    @classmethod
    def load(cls, table: pa.Table) -> Self:
        state = cls()
        if table.num_rows:
            rows = table.combine_chunks().to_batches()[0]
            state.watermark_us = rows.column("watermark_us")[0].as_py()
            columns = rows.drop_columns(["key", "time", "watermark_us"])
            state.add(rows.column("key"), times_us(rows), columns)
        return state


class Waiting(Operator):
    """A step whose rows wait for the watermark; what comes behind it leaves by port ``late``."""

    ONE_TIME: ClassVar[bool] = True

    @abstractmethod
    def kept(self) -> Sequence[str]:
        """Returns the columns that waiting rows have."""

    def shape(self, input: pa.Schema) -> Mapping[str, Any]:
        types = {column: str(input.field(column).type) for column in self.kept() if column in input.names}
        return {**super().shape(input), "types": types}

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {LATE: input}

    def initial(self) -> Pending:
        return Pending()

    def dump(self, state: Pending) -> pa.Table:
        return state.dump()

    def load(self, table: pa.Table) -> Pending:
        return Pending.load(table)
