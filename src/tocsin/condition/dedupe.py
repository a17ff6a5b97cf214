"""Dedupe: let each row pass once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt
from pydantic import Field as Setting

from tocsin.bases import require
from tocsin.batch import END, START, Batch, Codes, Ints, as_times, in_words, times_us
from tocsin.contracts import Operator
from tocsin.errors import SchemaError
from tocsin.kernels import hash_bytes, int64, kernel
from tocsin.settings import Many
from tocsin.settings.quantities import Duration
from tocsin.state import NO_STATE, Keys

Hashes = npt.NDArray[np.uint64]
_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93))
_NULL = np.uint64(0xA0761D6478BD642F)


@dataclass(slots=True)
class Seen:
    """Rows that passed not long ago: their key, time, and 128 bits that stand for their contents."""

    keys: Keys = field(default_factory=Keys)
    count: int = 0
    slots: Codes = field(default_factory=lambda: np.empty(0, np.int32))
    times: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    hashes: Hashes = field(default_factory=lambda: np.empty((0, 2), np.uint64))
    table: Codes = field(default_factory=lambda: np.full(16, -1, np.int32))
    watermark_us: int = START
    clear_at: int = 1024
    """How many rows there may be before those too old are forgotten."""

    def reserve(self, more: int) -> None:
        need = self.count + more
        if need > len(self.times):
            fresh = 2 * need
            self.slots = _copied(self.slots, np.empty(fresh, np.int32), self.count)
            self.times = _copied(self.times, np.empty(fresh, np.int64), self.count)
            self.hashes = _copied(self.hashes, np.empty((fresh, 2), np.uint64), self.count)
        if 2 * need > len(self.table):
            self.table = np.full(1 << (4 * need - 1).bit_length(), -1, np.int32)
            _rebuild(self.table, self.hashes, self.count)

    def forget(self, before_us: int) -> None:
        kept = np.flatnonzero(self.times[: self.count] >= before_us)
        self.count = len(kept)
        self.slots, self.times, self.hashes = self.slots[kept], self.times[kept], self.hashes[kept]
        self.table = np.full(1 << (4 * max(self.count, 4) - 1).bit_length(), -1, np.int32)
        _rebuild(self.table, self.hashes, self.count)
        self.clear_at = 2 * self.count + 1024


class Dedupe(Operator):
    """Let a row pass once: a gateway that sends again after a restart does not count twice.

    Rows are the same if key and ``by`` are: the columns that name a reading, such as a sequence number, or all columns
    if none is named. They are compared with those that passed within ``horizon`` of event time; what is remembered is
    48 bytes a row (with 128-bit hashes for the contents). What was sent twice is dropped.

    Examples
    --------
    >>> sent = rows({"time": [0, 1, 1, 0], "value": [5.0, 6.0, 6.0, 7.0]})
    >>> feed(Dedupe(), sent)["value"].to_pylist()
    [5.0, 6.0, 7.0]
    >>> feed(Dedupe(by="time"), sent)["value"].to_pylist()
    [5.0, 6.0]
    """

    SHORTHAND: ClassVar[str | None] = "by"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({}, {"by": ["text", "value"], "horizon": "8s"})

    by: Many[str] = ()
    """Columns that, with the key, name a reading."""
    horizon: Duration = Setting(600_000_000, gt=0)
    """How far apart in event time two rows may lie and still be one sent twice."""

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        twice = np.sort(np.concatenate([np.arange(rows.num_rows), np.arange(0, rows.num_rows, 4)]))
        return rows.drop_columns(["values"]).take(pa.array(twice))

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for name in self.by or input.names:
            if pt.is_nested(kind := require(input, name, self.name()).type):
                raise SchemaError(
                    f"{self.name()} cannot compare column '{name}', which is {in_words(kind)}; name others with by"
                )
        return input

    def initial(self) -> Seen:
        return Seen()

    def dump(self, state: Seen) -> pa.Table:
        state.forget(self._oldest(state))
        if not state.count:
            return NO_STATE
        names = state.keys.names().take(pa.array(state.slots))
        watermark = pa.repeat(pa.scalar(state.watermark_us, pa.int64()), state.count)
        first, second = (pa.array(np.ascontiguousarray(state.hashes[:, i])) for i in (0, 1))
        return pa.table(
            [names, as_times(state.times), first, second, watermark],
            names=["key", "time", "first", "second", "watermark_us"],
        )

    def load(self, table: pa.Table) -> Seen:
        state = Seen()
        if table.num_rows:
            rows = table.combine_chunks().to_batches()[0]
            state.slots, state.times = state.keys.slots(rows.column("key")), times_us(rows).copy()
            state.hashes = np.column_stack([rows.column("first").to_numpy(), rows.column("second").to_numpy()])
            state.count, state.watermark_us = rows.num_rows, rows.column("watermark_us")[0].as_py()
            state.forget(START)
        return state

    def _oldest(self, state: Seen) -> int:
        """Rows before it can be met no more: what comes is not older than the watermark."""
        return state.watermark_us - self.horizon if START < state.watermark_us < END else state.watermark_us

    def step(self, state: Seen, batch: Batch) -> tuple[Seen, Sequence[Batch]]:
        rows = batch.rows
        if len(batch):
            names = ["key", *(n for n in self.by or rows.schema.names if n != "key")]
            hashes = _hashes([rows.column(name) for name in names])
            slots = state.keys.slots(rows.column("key"))
            state.reserve(len(slots))
            new = np.empty(len(slots), bool)
            state.count = _mark_new(
                hashes, times_us(rows), slots, state.table, state.hashes, state.times, state.slots, state.count,
                self.horizon, new,
            )  # fmt: skip
            if not new.all():
                rows = rows.filter(pa.array(new))
        state.watermark_us = max(state.watermark_us, batch.watermark_us)
        if state.count > state.clear_at:
            state.forget(self._oldest(state))
        return state, (batch.with_rows(rows),)


def _hashes(columns: Sequence[pa.Array]) -> Hashes:
    """Two hashes of each row, shape (rows, 2)."""
    hashes = np.zeros((len(columns[0]), 2), np.uint64)
    for column in columns:
        bits = _bits(column)
        for i, factor in enumerate(_FACTORS):
            mixed = (hashes[:, i] ^ bits) * factor
            hashes[:, i] = (mixed ^ (mixed >> np.uint64(29))) * _FACTORS[1 - i] + np.uint64(1)
    folded: Hashes = hashes ^ (hashes >> np.uint64(32))
    return folded


def _bits(column: pa.Array) -> Hashes:
    """64 bits for each value: a number's own, a text's hash."""
    kind = column.type
    if pt.is_dictionary(kind) or pt.is_string(kind) or pt.is_binary(kind):
        encoded = column if pt.is_dictionary(kind) else column.dictionary_encode()
        words = _word_hashes(encoded.dictionary.cast(pa.binary()))
        codes = encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
        picked: Hashes = np.append(words, _NULL)[codes]
        return picked
    if pt.is_floating(kind):
        numbers = column.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False) + 0.0  # -0.0 is 0.0
        bits = numbers.view(np.uint64)
    elif pt.is_boolean(kind):
        bits = column.cast(pa.uint8()).fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint64)
    else:
        bits = column.cast(pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
    return np.where(column.is_null().to_numpy(zero_copy_only=False), _NULL, bits) if column.null_count else bits


def _word_hashes(words: pa.Array) -> Hashes:
    hashes = np.empty(len(words), np.uint64)
    if len(words):
        _, offsets, data = words.buffers()
        ends = np.frombuffer(offsets, np.int32)[words.offset : words.offset + len(words) + 1]
        _hash_words(np.frombuffer(data, np.uint8) if data else np.zeros(1, np.uint8), ends, hashes)
    return hashes


@kernel
def _hash_words(text: npt.NDArray[np.uint8], ends: Codes, hashes: Hashes) -> None:
    for i in range(len(hashes)):
        hashes[i] = hash_bytes(text, int64(ends[i]), int64(ends[i + 1]))


@kernel
def _mark_new(
    hashes: Hashes, times: Ints, slots: Codes, table: Codes, seen_hashes: Hashes, seen_times: Ints, seen_slots: Codes,
    count: int, horizon: int, new: npt.NDArray[np.bool_],
) -> int:  # fmt: skip
    """Which rows are new; they are remembered. Returns how many are remembered then."""
    mask = len(table) - 1
    for i in range(len(times)):
        at = np.int64(hashes[i, 0] & np.uint64(mask))
        while True:
            entry = table[at]
            if entry < 0:
                seen_hashes[count, 0], seen_hashes[count, 1] = hashes[i, 0], hashes[i, 1]
                seen_times[count], seen_slots[count] = times[i], slots[i]
                table[at] = count
                count += 1
                new[i] = True
                break
            if seen_hashes[entry, 0] == hashes[i, 0] and seen_hashes[entry, 1] == hashes[i, 1]:
                new[i] = abs(times[i] - seen_times[entry]) > horizon
                if new[i] and times[i] > seen_times[entry]:
                    seen_times[entry] = times[i]
                break
            at = (at + 1) & mask
    return count


@kernel
def _rebuild(table: Codes, hashes: Hashes, count: int) -> None:
    mask = len(table) - 1
    for entry in range(count):
        at = np.int64(hashes[entry, 0] & np.uint64(mask))
        while table[at] >= 0:
            at = (at + 1) & mask
        table[at] = entry


def _copied(old: Any, fresh: Any, count: int) -> Any:
    fresh[:count] = old[:count]
    return fresh
