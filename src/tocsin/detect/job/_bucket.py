"""One bucket's rows: which columns are kept of a batch, and how they part into groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.batch import Floats, Ints, times_us
from tocsin.detect.job import _fields as fields
from tocsin.detect.job._definition import JobDetector

Words = npt.NDArray[np.object_]
TIME, WEIGHT, NUMBER, TEXT = "time", "weight", "number ", "text "
Group = tuple[str | None, str | None, str | None]
"""Values of the partition, the by and the over field."""


def projected(
    rows: pa.RecordBatch, numbers: Sequence[tuple[str, str]], texts: Sequence[tuple[str, str]], weight: str | None
) -> pa.RecordBatch:
    """Of a batch what the job needs: names and the fields behind them, as numbers and as texts."""
    columns: dict[str, Any] = {TIME: times_us(rows)}
    held = fields.find(rows, weight) if weight else None
    columns[WEIGHT] = np.ones(rows.num_rows) if held is None else np.nan_to_num(fields.numbers(held))
    for name, source in numbers:
        column = fields.find(rows, source)
        columns[NUMBER + name] = np.full(rows.num_rows, np.nan) if column is None else fields.numbers(column)
    for name, source in texts:
        column = fields.find(rows, source)
        columns[TEXT + name] = pa.nulls(rows.num_rows, pa.string()) if column is None else _named(column)
    return pa.record_batch(columns)


def _named(column: pa.Array) -> pa.Array:
    if pt.is_struct(column.type) and {"lat", "lon"} <= {f.name for f in column.type}:
        parts = [pc.struct_field(column, name).cast(pa.string()) for name in ("lat", "lon")]
        return pc.binary_join_element_wise(*parts, ",")
    if pt.is_list(column.type) and (pt.is_floating(column.type.value_type)):
        # A pair of numbers is a place, written longitude first.
        pairs = column.to_pylist()
        return pa.array([f"{p[1]},{p[0]}" if p and len(p) == 2 else None for p in pairs], pa.string())
    return fields.texts(column)


class Bucket:
    """The rows of one bucket."""

    def __init__(self, rows: pa.RecordBatch, begin_us: int, span_us: int, partial: bool) -> None:
        self.rows, self.begin_us, self.span_us, self.partial = rows, begin_us, span_us, partial
        self.weight: Floats = rows.column(WEIGHT).to_numpy(zero_copy_only=False)
        self._codes: dict[str, tuple[Ints, Words]] = {}

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def begin_s(self) -> float:
        return self.begin_us / 1e6

    def seconds(self) -> Floats:
        """When each row happened, in seconds since 1970."""
        return np.asarray(self.rows.column(TIME).to_numpy(zero_copy_only=False)) / 1e6

    def numbers(self, name: str) -> Floats:
        return np.asarray(self.rows.column(NUMBER + name).to_numpy(zero_copy_only=False))

    def codes(self, name: str) -> tuple[Ints, Words]:
        """A text field as codes (-1: null) and the texts they stand for."""
        if name not in self._codes:
            coded = self.rows.column(TEXT + name).dictionary_encode()
            codes = np.asarray(coded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
            self._codes[name] = codes, np.array(coded.dictionary.to_pylist(), object)
        return self._codes[name]

    def groups(self, detector: JobDetector) -> tuple[Ints, list[Group]]:
        """The group of each row (-1: none, for a field that splits is null), and what the groups are."""
        roles = (detector.partition_field_name, detector.by_field_name, detector.over_field_name)
        split = np.zeros(len(self), np.int64)
        valid = np.ones(len(self), bool)
        sizes, tables = [], []
        for name in roles:
            if name is None:
                continue
            codes, words = self.codes(name)
            null = codes < 0
            if detector.use_null and name != detector.over_field_name:
                codes, words = np.where(null, len(words), codes), np.append(words, "")
            else:
                valid &= ~null
            sizes.append(max(len(words), 1))
            tables.append(words)
            split = split * sizes[-1] + np.maximum(codes, 0)
        groups = np.full(len(self), -1, np.int64)
        present, groups[valid] = np.unique(split[valid], return_inverse=True)
        values: list[Sequence[str | None]] = []
        rest = present
        for size, words in zip(reversed(sizes), reversed(tables), strict=True):
            values.insert(0, [str(w) for w in words[rest % size]])
            rest = rest // size
        columns = iter(values)
        nothing: Sequence[str | None] = [None] * len(present)
        return groups, list(zip(*(nothing if name is None else next(columns) for name in roles), strict=True))
