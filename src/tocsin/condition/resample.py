"""Resample: readings at even intervals, from readings at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field as Setting
from pydantic import model_validator

from tocsin.bases import promised, require
from tocsin.batch import END, KEY, START, TIME, Batch, Codes, Ints, as_times, empty, floats, times_us
from tocsin.condition._pending import Pending, Waiting
from tocsin.settings import Many
from tocsin.settings.quantities import Duration


class Resample(Waiting):
    """Give each key's readings on a regular grid of time (multiples of ``every`` since 1970).

    Between two readings not more than ``gap`` apart, each grid point gets the last value before it (``last``) or the
    straight line between them (``linear``). Over a longer gap, and behind the last reading, nothing is made up. A grid
    point leaves when the watermark has passed the reading after it.

    Examples
    --------
    >>> readings = rows({"time": [0.5, 2.5, 4.5, 60], "value": [1.0, 3.0, 4.0, 9.0]})
    >>> feed(Resample(every="1s", method="linear"), readings)["value"].to_pylist()
    [1.5, 2.5, 3.25, 3.75, 9.0]
    """

    SHORTHAND: ClassVar[str | None] = "every"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"every": "1s"},
        {"every": "700ms", "of": ["value", "count"], "method": "linear", "gap": "2s"},
    )

    every: Duration = Setting(gt=0)
    """Distance of the grid points."""
    of: Many[str] = ("value",)
    """Columns with numbers to take over; others are left out."""
    method: Literal["last", "linear"] = "last"
    """What stands between two readings."""
    gap: Duration | None = Setting(None, gt=0)
    """How far apart two readings may be for the points between them to be filled; ten times ``every`` if not set."""

    @model_validator(mode="after")
    def _not_too_many_points(self) -> Resample:
        if (self.gap or 0) > 100_000 * self.every:
            raise ValueError("gap is more than 100,000 times every: one late reading would make that many rows")
        return self

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        return rows.filter(pa.array(np.arange(rows.num_rows) % 50 < 40))

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for name in self.of:
            require(input, name, self.name(), number=True)
        return pa.schema([KEY, TIME, *(pa.field(name, pa.float64()) for name in self.of)])

    def kept(self) -> Sequence[str]:
        return self.of

    def step(self, state: Pending, batch: Batch) -> tuple[Pending, Sequence[Batch]]:
        schema = promised(self, batch.schema)
        rows, left = state.split_late(batch)
        if rows.num_rows:
            state.add(rows.column("key"), times_us(rows), rows.select(list(self.of)))
        before, state.watermark_us = state.watermark_us, max(state.watermark_us, batch.watermark_us)
        # Once a grid interval: the last reading of every key is looked at each time.
        due = state.watermark_us // self.every > before // self.every and state.times
        out = self._points(state, schema) if due else empty(schema)
        return state, (*(b.until(self._watermark(state)) for b in left), Batch(out, self._watermark(state)))

    def _watermark(self, state: Pending) -> int:
        """The points after the oldest reading that waits are still to come."""
        return min(state.watermark_us, state.oldest_us) if state.watermark_us > START else START

    def _points(self, state: Pending, schema: pa.Schema) -> pa.RecordBatch:
        slots, times, columns = state.merge()
        gap, watermark = self.gap or 10 * self.every, state.watermark_us
        final = np.flatnonzero(times < watermark) if watermark < END else np.arange(len(times))
        order = final[np.lexsort((times[final], slots[final]))]
        begin, slot = times[order], slots[order]
        has_next = np.append(slot[1:] == slot[:-1], False) if len(order) else np.zeros(0, bool)
        end = np.append(begin[1:], 0)[: len(begin)]
        # The last reading of a key waits for the next one, unless that would be too far away.
        given_up = ~has_next & (begin < watermark - gap)
        joined = has_next & (end - begin <= gap)
        end = np.where(joined, end, begin + 1)  # a grid point right at the reading counts in any case
        done = has_next | given_up
        first = -(-begin // self.every)
        counts = np.where(done, np.maximum(-(-end // self.every) - first, 0), 0)
        segment = np.repeat(np.arange(len(order)), counts)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        grid = (first[segment] + number) * self.every
        out = self._filled(schema, state, slot[segment], grid, columns, order, segment, joined[segment], begin, end)
        kept = np.ones(len(times), bool)
        kept[order[done]] = False
        state.keep(np.flatnonzero(kept))
        return out

    def _filled(
        self, schema: pa.Schema, state: Pending, slots: Codes, grid: Ints, columns: pa.RecordBatch,
        order: Ints, segment: Ints, joined: Any, begin: Ints, end: Ints,
    ) -> pa.RecordBatch:  # fmt: skip
        share = (
            (grid - begin[segment]) / np.maximum(end[segment] - begin[segment], 1) if self.method == "linear" else 0.0
        )
        arrays = [state.keys.keys(slots), as_times(grid)]
        following = order[np.minimum(segment + 1, max(len(order) - 1, 0))] if len(segment) else segment
        for name in self.of:
            numbers = floats(columns.column(name))
            numbers = np.where(np.isfinite(numbers), numbers, np.nan)
            here = numbers[order[segment]] if len(segment) else np.empty(0)
            values = here
            if self.method == "linear":
                rise = np.where(joined & (share > 0), numbers[following] - here, 0.0) if len(segment) else here
                values = here + share * rise
            arrays.append(pa.array(values, mask=np.isnan(values)))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)
