"""State of a keyed step: a struct of arrays, row i of every array belongs to key i.

It dumps to an Arrow table whose first column is the key, and any subset of its rows is a valid state: checkpoints,
re-sharding and key groups need no more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tocsin.batch import KEY, START, Codes, as_keys
from tocsin.kernels import intern_codes, rebuild_table

NO_STATE = pa.table({"key": pa.array([], pa.string())})
"""What a step without state dumps."""


class Keys:
    """Names interned to slots 0, 1, 2 ... in order of first appearance (a compiled hash table, no Python objects)."""

    def __init__(self) -> None:
        self.count = 0
        self._hashes = np.empty(64, np.uint64)
        self._table = np.full(128, -1, np.int32)
        self._arena = np.empty(1024, np.uint8)
        self._ends = np.zeros(65, np.int64)

    def slots(self, column: pa.Array) -> Codes:
        """The slot of each row's key, shape (rows,); keys never seen before get the next slots."""
        column = as_keys(column)
        words = column.dictionary
        codes = np.asarray(column.indices.to_numpy(zero_copy_only=False))
        slots = np.empty(len(codes), np.int32)
        if not len(codes):
            return slots
        _, offsets, data = words.buffers()
        ends = np.frombuffer(offsets, np.int32)[words.offset : words.offset + len(words) + 1]
        text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        self._reserve(min(len(words), len(codes)), int(ends[-1] - ends[0]))
        self.count = intern_codes(
            codes, text, ends, self._table, self._hashes, self._arena, self._ends, self.count,
            np.full(len(words), -1, np.int32), slots,
        )  # fmt: skip
        return slots

    def _reserve(self, more: int, text_bytes: int) -> None:
        need = self.count + more
        if need > len(self._hashes):
            capacity = max(need, 2 * len(self._hashes))
            self._hashes = _grown(self._hashes, capacity)
            self._ends = _grown(self._ends, capacity + 1)
        if 2 * need > len(self._table):
            self._table = np.full(1 << (4 * need - 1).bit_length(), -1, np.int32)
            rebuild_table(self._table, self._hashes, self.count)
        used = int(self._ends[self.count])
        if used + text_bytes > len(self._arena):
            self._arena = _grown(self._arena, max(used + text_bytes, 2 * len(self._arena)))

    def names(self) -> pa.Array:
        """All names, in slot order, as an Arrow string array."""
        ends = self._ends[: self.count + 1].astype(np.int32)
        text = self._arena[: ends[-1]].tobytes()
        return pa.StringArray.from_buffers(self.count, pa.py_buffer(ends.tobytes()), pa.py_buffer(text))

    def name(self, slot: int) -> str:
        """The name of one slot."""
        return self._arena[self._ends[slot] : self._ends[slot + 1]].tobytes().decode()

    def keys(self, slots: Codes) -> pa.Array:
        """The reverse of `slots`: a key column."""
        return pa.DictionaryArray.from_arrays(pa.array(slots, pa.int32()), self.names())


@dataclass(frozen=True, slots=True)
class Field:
    """One array of a keyed state: its type, what a new key starts with, and how many numbers each key has."""

    dtype: npt.DTypeLike = np.float64
    initial: Any = 0
    width: int = 1


class Columns:
    """A keyed state: `keys`, and one array of shape (capacity,) or (capacity, width) for each field.

    Examples
    --------
    >>> state = Columns({"n": Field(np.int64), "last": Field(initial=np.nan)})
    >>> slots = state.slots(pa.array(["pump", "fan", "pump"]))
    >>> slots.tolist()
    [0, 1, 0]
    >>> state["n"][slots[0]] += 2
    >>> state.dump().to_pydict()
    {'key': ['pump', 'fan'], 'n': [2, 0], 'last': [nan, nan]}
    """

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self.fields = dict(fields)
        self.keys = Keys()
        self.arrays: dict[str, npt.NDArray[Any]] = {name: self._fresh(f, 16) for name, f in self.fields.items()}

    @staticmethod
    def _fresh(field: Field, rows: int) -> npt.NDArray[Any]:
        shape = (rows,) if field.width == 1 else (rows, field.width)
        return np.full(shape, field.initial, field.dtype)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.arrays[name]

    def __len__(self) -> int:
        return self.keys.count

    def slots(self, column: pa.Array) -> Codes:
        """The slot of each row's key; arrays grow (by doubling) for keys never seen before."""
        slots = self.keys.slots(column)
        for name, array in self.arrays.items():
            if self.keys.count > len(array):
                fresh = self._fresh(self.fields[name], max(self.keys.count, 2 * len(array)))
                fresh[: len(array)] = array
                self.arrays[name] = fresh
        return slots

    def dump(self) -> pa.Table:
        """All keys with their values; a field of width w > 1 as a fixed-size list."""
        columns: dict[str, pa.Array] = {"key": self.keys.names()}
        for name, field in self.fields.items():
            live = np.ascontiguousarray(self.arrays[name][: len(self)])
            flat = pa.array(live.reshape(-1))
            columns[name] = flat if field.width == 1 else pa.FixedSizeListArray.from_arrays(flat, field.width)
        return pa.table(columns)

    @classmethod
    def load(cls, fields: Mapping[str, Field], table: pa.Table) -> Columns:
        """The reverse of `dump`, for any subset of its rows in any order.

        A field that the table does not have, since a version before wrote it, starts with its initial value.
        """
        state = cls(fields)
        table = table.combine_chunks()
        if table.num_rows == 0:
            return state
        slots = state.slots(table.column("key").combine_chunks())
        for name, field in state.fields.items():
            if name not in table.schema.names:
                continue
            column = table.column(name).combine_chunks()
            if field.width > 1:
                values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, field.width)
            else:
                values = column.to_numpy(zero_copy_only=False)
            state.arrays[name][slots] = values
        return state


@dataclass(frozen=True, slots=True)
class Remembered:
    """Something of each key that is no fixed number of values, kept as JSON, with the watermark beside it.

    Examples
    --------
    >>> cases = Remembered("case")
    >>> table = cases.dump(pa.table({"key": ["pump", "fan"]}), [{"id": "c1"}, None], 7)
    >>> cases.load(table)
    ([{'id': 'c1'}, None], 7)
    """

    column: str
    """The column that holds the JSON."""

    def dump(self, keys: pa.Table, values: Sequence[Any], watermark_us: int) -> pa.Table:
        """Returns the table of keys with what is remembered of each (None for nothing) and the watermark."""
        texts = pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
        times = pa.array(np.full(len(values), watermark_us, np.int64))
        return keys.append_column(self.column, texts).append_column("watermark", times)

    def load(self, table: pa.Table) -> tuple[list[Any], int]:
        """Returns what is remembered of each row's key, and the watermark: the highest, if the rows differ."""
        values = [None if text is None else json.loads(text) for text in table.column(self.column).to_pylist()]
        return values, max(table.column("watermark").to_pylist(), default=START)


def _grown(array: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    fresh = np.zeros(capacity, array.dtype)
    fresh[: len(array)] = array
    return fresh


__all__ = ["KEY", "NO_STATE", "Columns", "Field", "Keys", "Remembered"]
