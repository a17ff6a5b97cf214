"""Difference: how much a reading has changed since the one before it; also rates, and counters that start again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt
from pydantic import Field as Setting
from pydantic import model_validator

from tocsin.bases import Keyed, added, promised, require
from tocsin.batch import Codes, Ints, floats, times_us
from tocsin.kernels import kernel
from tocsin.settings.quantities import Duration
from tocsin.state import Columns, Field

Numbers = Any
"""Readings, as int64 or float64: a difference of integers is exact."""
Flags = npt.NDArray[np.bool_]


class Difference(Keyed):
    """Adds the difference of a reading and the one before it of the same key, or its rate in a time.

    Use it for meters and counters: parts made, energy, operating hours. A ``counter`` never runs backwards: where it
    falls it was set to zero, and what it shows has been counted since; with ``wraps_at`` it has gone on from zero after
    that number instead. Null for the first reading of a key, for one that is missing, for one that is older than one
    before it, and where 64 bits do not hold the difference of integers. Differences may then be summed in a `window`.

    Examples
    --------
    >>> parts = rows({"parts": [65500, 65530, 14, 44]})
    >>> feed(Difference(of="parts", counter=True), parts)["parts_difference"].to_pylist()
    [None, 30, 14, 30]
    >>> feed(Difference(of="parts", wraps_at=65536), parts)["parts_difference"].to_pylist()
    [None, 30, 20, 30]
    """

    SHORTHAND: ClassVar[str | None] = "of"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {},
        {"of": "count", "counter": True, "name_as": "made"},
        {"of": "value", "per": "1s"},
        {"of": "count", "wraps_at": 100},
    )

    of: str = "value"
    """The column with the reading."""
    name_as: str | None = None
    """Name of the column to add; ``parts_difference`` or ``parts_rate`` if not set."""
    counter: bool = False
    """Whether the reading counts up, and a fall means that it was set to zero."""
    wraps_at: int | None = Setting(None, gt=0)
    """Where a counter goes on from zero: 65536 for one of 16 bits. Implies ``counter``."""
    per: Duration | None = Setting(None, gt=0)
    """To have a rate: the time that it is for, as ``1h``."""

    @model_validator(mode="after")
    def _wraps_within_64_bits(self) -> Difference:
        if self.wraps_at is not None and self.wraps_at >= 2**63:
            raise ValueError("wraps_at must fit 64 bits")
        return self

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        field = require(input, self.of, self.name(), number=True)
        name = self.name_as or f"{self.of}_{'difference' if self.per is None else 'rate'}"
        exact = _is_exact(field.type) and self.per is None
        return added(input, [pa.field(name, pa.int64() if exact else pa.float64())], self.name())

    def fields(self) -> Mapping[str, Field]:
        return {
            "known": Field(np.bool_, False), "time_us": Field(np.int64), "whole": Field(np.int64), "number": Field()
        }  # fmt: skip

    def update(self, state: Columns, rows: pa.RecordBatch, slots: Codes) -> pa.RecordBatch:
        column, schema = rows.column(self.of), promised(self, rows.schema)
        exact = _is_exact(column.type)
        if exact:
            values: Numbers = column.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
            there = column.is_valid().to_numpy(zero_copy_only=False)
        else:
            values = floats(column)
            there = np.isfinite(values)
        out, known = np.zeros(len(values), values.dtype), np.zeros(len(values), bool)
        elapsed = np.ones(len(values), np.int64)
        wraps_at = values.dtype.type(self.wraps_at or 0)
        is_counter = self.counter or self.wraps_at is not None
        before = state["whole" if exact else "number"]
        _differences(
            slots, times_us(rows), values, np.asarray(there, bool), state["known"], state["time_us"], before,
            is_counter, wraps_at, out, elapsed, known,
        )  # fmt: skip
        if self.per is None:
            return _appended(rows, schema, pa.array(out, mask=~known))
        known &= elapsed > 0
        rates = out.astype(np.float64) * (self.per / np.where(known, elapsed, 1))
        return _appended(rows, schema, pa.array(rates, mask=~known))


def _is_exact(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) and not pt.is_uint64(kind))


def _appended(rows: pa.RecordBatch, schema: pa.Schema, column: pa.Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([*rows.columns, column], schema=schema)


@kernel
def _differences(
    slots: Codes, times: Ints, values: Numbers, there: Flags, known: Flags, time_us: Ints, before: Numbers,
    is_counter: bool, wraps_at: Any, out: Numbers, elapsed: Ints, has: Flags,
) -> None:  # fmt: skip
    for i in range(len(slots)):
        s = slots[i]
        if not there[i] or (known[s] and times[i] < time_us[s]):
            continue
        if known[s]:
            a, b = values[i], before[s]
            difference = a - b
            fits = (difference >= 0) == (a >= b)
            if is_counter and a < b:
                difference = a
                if wraps_at > 0 and b <= wraps_at:
                    difference = a + (wraps_at - b)
                fits = difference >= 0
            out[i], has[i] = difference, fits
            elapsed[i] = times[i] - time_us[s]
        known[s], time_us[s], before[s] = True, times[i], values[i]


__all__ = ["Difference"]
