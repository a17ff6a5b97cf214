"""Event time: say when a row happened, and how far time has come."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field as Setting
from pydantic import field_validator

from tocsin.bases import promised, require
from tocsin.batch import (
    END,
    LATE,
    REJECTED,
    REJECTED_SCHEMA,
    START,
    TIME,
    TIME_TYPE,
    Batch,
    Ints,
    as_times,
    empty,
    times_us,
)
from tocsin.condition._rejects import rejected
from tocsin.contracts import Operator
from tocsin.errors import SchemaError
from tocsin.settings.quantities import Duration, duration_text
from tocsin.values.times import END_US, parse_times


class EventTime(Operator):
    """Make the column ``time``: when a row happened, from one of its columns, or else when it arrived.

    Rows may come in any order within ``lateness`` of the newest one before them; older ones leave by port ``late``,
    whatever the batches are. A time that is missing, cannot be read, lies outside 1970 to 2199, or further in the
    future than ``slack`` after the arrival is ``rejected`` (``ts_missing``, ``ts_syntax``, ``ts_zone``, ``ts_range``,
    ``ts_future``, ``ts_past``) and never moves the watermark. The column ``received`` is not passed on.

    By arrival nothing is ever late: where the clock was set back, time stands still until it has caught up.

    Examples
    --------
    >>> readings = rows({"ts": ["2026-01-01T00:00:09Z", "2026-01-01T00:00:06Z", "2026-01-01T00:00:01Z"]})
    >>> readings = readings.drop_columns(["time"])
    >>> step = EventTime(column="ts", lateness="5s")
    >>> [t.second for t in feed(step, readings)["time"].to_pylist()]
    [9, 6]
    >>> [t.second for t in feed(step, readings, port="late")["time"].to_pylist()]
    [1]
    """

    SHORTHAND: ClassVar[str | None] = "column"
    ACROSS_KEYS: ClassVar[str] = "what is late is measured against the newest row of the whole partition"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {},
        {"column": "stamp", "lateness": "2s"},
        {"column": "sequence", "unit": "s", "past": "1h"},
    )
    KEEPS_STATE: ClassVar[Collection[str]] = ("lateness", "slack", "past")

    column: str | None = Setting(None, min_length=1)
    """The column that says when it happened; without one it is the arrival."""
    unit: Literal["s", "ms", "us", "ns", "auto"] | None = None
    """Unit of a time that is a number (since 1970); ``auto`` guesses by its size."""
    zone: str | None = None
    """Zone of times that name none, as ``Europe/Berlin``."""
    lateness: Duration = Setting(5_000_000, ge=0)
    """How much older than the newest row a row may be."""
    slack: Duration = Setting(300_000_000, ge=0)
    """How far after its arrival a time may lie: clocks differ."""
    past: Duration | None = Setting(None, ge=0)
    """How far before its arrival a time may lie; any time, if not set."""

    @field_validator("zone")
    @classmethod
    def _zone(cls, zone: str | None) -> str | None:
        try:
            return zone and ZoneInfo(zone).key
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone '{zone}'; write it as Europe/Berlin") from error

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        times = rows.column("time").cast(pa.int64()).to_numpy().copy()
        times[::7] -= 4_000_000
        times[50] += 3_600_000_000
        return rows.drop_columns(["time"]).append_column("stamp", as_times(times))

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        source = require(input, self.column or "received", self.name())
        if "time" in input.names and self.column != "time":
            raise SchemaError(f"{self.name()} makes the column 'time', but there is one already: name it, or rename it")
        parse_times(empty(pa.schema([source])).column(0), self.unit, self.zone)
        fields = [field for field in input if field.name not in ("received", self.column)]
        fields.insert(1 if "key" in input.names[:1] else 0, TIME)
        return pa.schema(fields)

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {LATE: self.output_schema(input), REJECTED: REJECTED_SCHEMA}

    def initial(self) -> int:
        """The newest time so far."""
        return START

    def dump(self, state: int) -> pa.Table:
        return pa.table({"key": [""], "newest_us": pa.array([state], pa.int64())})

    def load(self, table: pa.Table) -> int:
        return max(table["newest_us"].to_pylist(), default=START)

    def step(self, state: int, batch: Batch) -> tuple[int, Sequence[Batch]]:
        rows = batch.rows
        schema = promised(self, rows.schema)
        left: list[Batch] = []
        times, reasons = self._times(rows)
        if reasons is not None:
            at = np.flatnonzero(reasons != "")
            details = [self._detail(reason) for reason in reasons[at]]
            left.append(Batch(rejected(rows, at, list(reasons[at]), details), START, REJECTED))
            good = reasons == ""
            rows, times = rows.filter(pa.array(good)), times[good]
        late = None
        if len(times):
            newest = np.maximum(np.maximum.accumulate(times), state)
            if self.column is None:
                times = newest
            else:
                behind = times < newest - self.lateness
                late = behind if behind.any() else None
            state = int(newest[-1])
        columns = [rows.column(f.name) if f.name != "time" else as_times(times) for f in schema]
        out = pa.RecordBatch.from_arrays(columns, schema=schema)
        watermark = self._watermark(state, batch.watermark_us)
        if late is not None:
            left.append(Batch(out.filter(pa.array(late)), watermark, LATE))
            out = out.filter(pa.array(~late))
        left = [b.until(watermark) for b in left]
        return state, (*left, Batch(out, watermark))

    def _watermark(self, newest: int, given: int) -> int:
        if given == END or newest == START:
            return given if given == END else START
        return newest if self.column is None else newest - self.lateness

    def _times(self, rows: pa.RecordBatch) -> tuple[Ints, npt.NDArray[np.object_] | None]:
        """Times, and what is wrong with each (empty text: nothing); None if nothing is wrong with any."""
        column = rows.column(self.column or "received")
        if column.type == TIME_TYPE and not column.null_count:
            times = times_us(rows, self.column or "received")
            reasons = None
            if len(times) and (times.min() < 0 or times.max() >= END_US):
                reasons = np.where((times < 0) | (times >= END_US), "ts_range", "").astype(object)
        else:
            parsed, flags = parse_times(column, self.unit, self.zone)
            times = parsed.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            reasons = None
            if parsed.null_count:
                # A leap second, or an hour that happens twice, is flagged but has a time.
                said = np.array(flags.fill_null("").to_pylist(), object)
                reasons = np.where(parsed.is_null().to_numpy(zero_copy_only=False), said, "").astype(object)
        if self.column is None or "received" not in rows.schema.names or not len(times):
            return times, reasons
        if rows.column("received").null_count:
            arrived = rows.column("received").fill_null(as_times(np.array([END_US]))[0]).view(pa.int64()).to_numpy()
        else:
            arrived = times_us(rows, "received")
        ahead = times - arrived
        for reason, wrong in (
            ("ts_future", ahead > self.slack),
            ("ts_past", ahead < -self.past if self.past is not None else None),
        ):
            if wrong is not None and wrong.any():
                reasons = np.full(len(times), "", object) if reasons is None else reasons
                reasons[wrong & (reasons == "")] = reason
        return times, reasons

    def _detail(self, reason: str) -> str:
        match reason:
            case "ts_future":
                return f"{self.column} lies more than {duration_text(self.slack)} after the arrival"
            case "ts_past":
                return f"{self.column} lies more than {duration_text(self.past or 0)} before the arrival"
        return f"in {self.column or 'received'}"
