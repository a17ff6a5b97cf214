"""Event time: say when a row happened, and how far time has come."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from pydantic import Field as Setting
from pydantic import field_validator, model_validator

from tocsin.bases import promised, require
from tocsin.batch import (
    END,
    LATE,
    REJECTED,
    REJECTED_SCHEMA,
    START,
    TIME,
    TIME_TYPE,
    Apart,
    Batch,
    Codes,
    Ints,
    Lane,
    as_keys,
    as_times,
    empty,
    floats,
    times_us,
)
from tocsin.condition._rejects import rejected
from tocsin.contracts import Operator
from tocsin.errors import SchemaError
from tocsin.kernels import kernel
from tocsin.settings import Many
from tocsin.settings.quantities import Duration, duration_text
from tocsin.state import Columns, Field
from tocsin.values.time_forms import advice, format_pattern
from tocsin.values.times import END_US, parse_times

Bools = npt.NDArray[np.bool_]
ColumnName = Annotated[str, Setting(min_length=1)]
_PASSED, _LANE, _SAMPLES, _KEY = "passed", "/", "#", "@"
OF_KEYS = {"newest": Field(np.int64, START)}
RECORDINGS_MAX = 1_024
"""Of how many recordings the samples are counted at the same time; those without new ones the longest go first."""


@dataclass(slots=True)
class Newest:
    """How far time has come, in microseconds."""

    overall: int = START
    """The newest time of all."""
    passed: int = START
    """The watermark that was given out last: rows before it are late."""
    lanes: dict[str, int] = field(default_factory=dict)
    """The newest time of each lane that has begun and not ended (`batch.Lane`)."""
    keys: Columns = field(default_factory=lambda: Columns(OF_KEYS))
    """The newest time of each key, if each is judged by itself."""
    samples: dict[str, int] = field(default_factory=dict)
    """How many samples of each recording have come, by its time and key."""

    def begin(self, lane: Lane | None) -> None:
        if lane is None:
            return
        before, self.lanes = self.lanes, {} if lane.only else self.lanes
        for name, us in lane.begun.items():
            self.lanes[name] = max(us, before.get(name, START))

    def newest(self, lane: Lane | None) -> int:
        """Returns what rows of a lane are measured against; of a lane that was not begun, nothing."""
        return self.overall if lane is None else self.lanes.get(lane.name, START)

    def reach(self, us: int, lane: Lane | None) -> None:
        self.overall = max(self.overall, us)
        if lane is not None:
            self.lanes[lane.name] = us

    def end(self, lane: Lane | None) -> None:
        for name in lane.ended if lane is not None else ():
            self.lanes.pop(name, None)


class EventTime(Operator):
    """Make the column ``time``: when a row happened, from one of its columns, or else when it arrived.

    Rows may come in any order within ``lateness`` of the newest one before them; older ones leave by port ``late``,
    whatever the batches are. With ``keys_apart`` each machine is judged by itself, and its windows close by its own
    time. Files of one source are judged each by itself: time goes on with the one that is behind.
    A time that is missing, cannot be read, lies outside 1970 to 2199, or further in the future than ``slack`` after
    the arrival is ``rejected`` (``ts_missing``, ``ts_syntax``, ``ts_zone``, ``ts_range``, ``ts_future``, ``ts_past``)
    and never moves the watermark. The column ``received`` is not passed on.

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
    KEEPS_STATE: ClassVar[Collection[str]] = ("lateness", "keys_apart", "slack", "past", "mark")

    column: Annotated[Many[ColumnName], Setting(min_length=1)] | None = None
    """The column that says when it happened, or several whose texts are put together, as ``[date, time]``; without one
    it is the arrival."""
    format: str | None = None
    """How it is written, as ``%d.%m.%Y %H:%M:%S``, if it is text in none of the forms that are known."""
    unit: Literal["s", "ms", "us", "ns", "auto"] | None = None
    """Unit of a time that is a number since 1970; ``auto`` guesses it by the number's size."""
    offset: ColumnName | None = None
    """A column with the time since the one in ``column``, to be added to it; it is kept."""
    offset_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of the offset."""
    rate: float | None = Setting(None, gt=0, allow_inf_nan=False)
    """Samples per second, where ``column`` says only when a recording began (often its file's name): the rows of a
    machine with the same time are its samples in order, the first one at that time. Without ``column`` all rows of a
    machine are samples of one recording that began at 1970-01-01: for files in which nothing has a time."""
    zone: str | None = None
    """Zone of times that name none, as ``Europe/Berlin``."""
    lateness: Duration = Setting(5_000_000, ge=0)
    """How much older than the newest row a row may be."""
    keys_apart: Duration | None = Setting(None, ge=0)
    """How far machines may be apart, where each is to have a time of its own (gateways that send a buffer, files sorted
    by machine): a row is late if it is older than its machine's newest one by more than ``lateness``, or older than the
    newest one of all by so much more."""
    slack: Duration = Setting(300_000_000, ge=0)
    """How far after its arrival a time may lie: clocks differ."""
    past: Duration | None = Setting(None, ge=0)
    """How far before its arrival a time may lie; any time, if not set."""
    mark: str | None = None
    """Name of a column to add that says what is odd about a time: ``ts_fold`` in an hour that happens twice (the first
    is taken), ``ts_gap`` in one that the clock skipped (its end is taken), ``ts_leap`` in a leap
    second."""

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, format: str | None) -> str | None:
        if format is not None:
            format_pattern(format)
        return format

    @model_validator(mode="after")
    def _what_is_added_needs_a_base(self) -> EventTime:
        if self.column is None and self.offset is not None:
            raise ValueError("an offset is added to a time: name its column, as column: start")
        return self

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
        for name in self._columns:
            require(input, name, self.name())
        if self.offset is not None:
            require(input, self.offset, self.name())
            if not (pt.is_integer(kind := input.field(self.offset).type) or pt.is_floating(kind)):
                raise SchemaError(f"the offset '{self.offset}' is {kind}, but must be a number; decode it as float")
        if "time" in input.names and "time" not in self._columns:
            raise SchemaError(
                f"{self.name()} makes the column 'time', but there is one already. Name its column under the source's "
                "time:, where steps: before key: and time: may make it; or write column: time to take it anew"
            )
        self._parsed(empty(input))
        fields = [field for field in input if field.name not in ("received", *self._columns)]
        fields.insert(1 if "key" in input.names[:1] else 0, TIME)
        if self.mark is not None:
            if self.mark in [field.name for field in fields]:
                raise SchemaError(f"{self.name()} would make a second column '{self.mark}'; name the mark otherwise")
            fields.append(pa.field(self.mark, pa.string()))
        return pa.schema(fields)

    @property
    def _by_arrival(self) -> bool:
        """Whether nothing but the arrival says when a row happened."""
        return self.column is None and self.rate is None

    @property
    def _columns(self) -> tuple[str, ...]:
        return self.column or ("received",)

    def _parsed(self, rows: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
        """Times, and what is wrong with or odd about each."""
        return parse_times(self._said(rows), self.unit, self.zone, self.format)

    def _said(self, rows: pa.RecordBatch) -> pa.Array:
        """What the columns say, put together if they are several."""
        columns = [rows.column(name) for name in self._columns]
        if len(columns) == 1:
            return columns[0]
        texts = [(c.dictionary_decode() if pt.is_dictionary(c.type) else c).cast(pa.string()) for c in columns]
        return pc.binary_join_element_wise(*texts, " ")

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {LATE: self.output_schema(input), REJECTED: REJECTED_SCHEMA}

    def initial(self) -> Newest:
        return Newest()

    def tells_late(self) -> bool:
        return self.column is not None

    def apart(self, input: Apart | None) -> Apart | None:
        if self.column is None or self.keys_apart is None:
            return input
        return Apart(self.lateness, self.keys_apart)

    def dump(self, state: Newest) -> pa.Table:
        """Whole, left behind, lanes (their names after a ``/``), samples (after a ``#``), keys (after a ``@``)."""
        keys = ["", _PASSED, *(_LANE + name for name in state.lanes), *(_SAMPLES + name for name in state.samples)]
        times = [state.overall, state.passed, *state.lanes.values(), *state.samples.values()]
        held = state.keys.dump()
        keys += [_KEY + name for name in held["key"].to_pylist()]
        times += held["newest"].to_pylist()
        return pa.table({"key": pa.array(keys, pa.string()), "newest_us": pa.array(times, pa.int64())})

    def load(self, table: pa.Table) -> Newest:
        held = dict(zip(table["key"].to_pylist(), table["newest_us"].to_pylist(), strict=True))
        overall = held.pop("", START)
        passed = held.pop(_PASSED, START if overall == START else overall - self.lateness)
        lanes, samples, keys = (
            {key.removeprefix(mark): number for key, number in held.items() if key.startswith(mark)}
            for mark in (_LANE, _SAMPLES, _KEY)
        )
        of_keys = pa.table({"key": pa.array(keys, pa.string()), "newest": pa.array(keys.values(), pa.int64())})
        return Newest(overall, passed, lanes, Columns.load(OF_KEYS, of_keys), samples)

    def step(self, state: Newest, batch: Batch) -> tuple[Newest, Sequence[Batch]]:
        rows = batch.rows
        schema = promised(self, rows.schema)
        left: list[Batch] = []
        times, reasons, marks = self._times(rows, state)
        if reasons is not None:
            at = np.flatnonzero(reasons != "")
            said = self._said(rows).take(pa.array(at)).to_pylist()
            details = [self._detail(reason, value) for reason, value in zip(reasons[at], said, strict=True)]
            left.append(Batch(rejected(rows, at, list(reasons[at]), details), START, REJECTED))
            good = reasons == ""
            rows, times = rows.filter(pa.array(good)), times[good]
            marks = None if marks is None else marks.filter(pa.array(good))
        late = None
        lane = None if self._by_arrival else batch.lane
        state.begin(lane)
        if len(times):
            newest = np.maximum(np.maximum.accumulate(times), state.newest(lane))
            if self._by_arrival:
                times = newest
            else:
                behind = self._behind(state, rows, times, newest, lane)
                late = behind if behind.any() else None
            state.reach(int(newest[-1]), lane)
        state.end(lane)
        made = {"time": as_times(times)}
        if self.mark is not None:
            made[self.mark] = pa.nulls(len(times), pa.string()) if marks is None else marks
        columns = [made[f.name] if f.name in made else rows.column(f.name) for f in schema]
        out = pa.RecordBatch.from_arrays(columns, schema=schema)
        watermark = self._watermark(state, batch.watermark_us)
        if late is not None:
            left.append(Batch(out.filter(pa.array(late)), watermark, LATE))
            out = out.filter(pa.array(~late))
        left = [b.until(watermark) for b in left]
        return state, (*left, Batch(out, watermark))

    def _behind(self, state: Newest, rows: pa.RecordBatch, times: Ints, newest: Ints, lane: Lane | None) -> Bools:
        """Which rows are late: measured against the newest row before them, of all or of their key."""
        if self.keys_apart is not None:
            before = np.empty(len(times), np.int64)
            newest_of_keys(state.keys.slots(rows.column("key")), times, state.keys["newest"], before)
            overall = np.maximum(np.maximum.accumulate(times), state.overall)
            return (times < before - self.lateness) | (times < overall - self.lateness - self.keys_apart)
        behind: Bools = times < newest - self.lateness
        if lane is not None:
            behind |= times < state.passed
        return behind

    def _watermark(self, state: Newest, given: int) -> int:
        if given == END:
            return END
        newest = min(state.lanes.values(), default=state.overall)
        if newest != START:
            state.passed = max(state.passed, newest if self._by_arrival else newest - self.lateness)
        return state.passed

    def _times(
        self, rows: pa.RecordBatch, state: Newest
    ) -> tuple[Ints, npt.NDArray[np.object_] | None, pa.Array | None]:
        """Times, what is wrong with each (empty text: nothing), and what is odd; None if nothing is with any."""
        said, marks = self._said(rows), None
        if self.column is None and self.rate is not None:
            said = as_times(np.zeros(len(rows), np.int64))
        if said.type == TIME_TYPE and not said.null_count:
            times = said.view(pa.int64()).to_numpy(zero_copy_only=False)
            reasons = None
            if len(times) and (times.min() < 0 or times.max() >= END_US):
                reasons = np.where((times < 0) | (times >= END_US), "ts_range", "").astype(object)
        else:
            parsed, marks = parse_times(said, self.unit, self.zone, self.format)
            times = parsed.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            reasons = None
            if parsed.null_count:
                # A leap second, or an hour that happens twice, is flagged but has a time.
                flags = np.array(marks.fill_null("").to_pylist(), object)
                reasons = np.where(parsed.is_null().to_numpy(zero_copy_only=False), flags, "").astype(object)
        if self.offset is not None:
            times, reasons = self._with_offset(rows, times, reasons)
        if self.rate is not None:
            times = times + np.rint(self._samples(rows, times, state) * (1e6 / self.rate)).astype(np.int64)
        if self.column is None or "received" not in rows.schema.names or not len(times):
            return times, reasons, marks
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
        return times, reasons, marks

    def _with_offset(
        self, rows: pa.RecordBatch, times: Ints, reasons: npt.NDArray[np.object_] | None
    ) -> tuple[Ints, npt.NDArray[np.object_] | None]:
        """Times with what the column says added; one that says nothing, or leads out of range, is wrong."""
        assert self.offset is not None
        column = rows.column(self.offset)
        per_second = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[self.offset_unit]
        if pt.is_integer(column.type):
            numbers = column.cast(pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)
            most = END_US * per_second // 1_000_000
            is_far = (numbers > most) | (numbers < -most)
            numbers = np.where(is_far, 0, numbers)
            us = numbers * (1_000_000 // per_second) if per_second <= 1_000_000 else numbers // 1_000
        else:
            values = floats(column) * (1e6 / per_second)
            is_far = ~(np.abs(values) <= END_US)
            us = np.rint(np.where(is_far, 0.0, values)).astype(np.int64)
        is_missing = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        times = times + us
        for reason, wrong in (("ts_missing", is_missing), ("ts_range", is_far | (times < 0) | (times >= END_US))):
            if wrong.any():
                reasons = np.full(len(times), "", object) if reasons is None else reasons
                reasons[wrong & (reasons == "")] = reason
        return times, reasons

    @staticmethod
    def _samples(rows: pa.RecordBatch, times: Ints, state: Newest) -> Ints:
        """Which sample of its recording each row is, from 0: those of a key with the same time, in order."""
        key = rows.column("key") if "key" in rows.schema.names else as_keys(pa.repeat("", len(rows)))
        pairs = np.stack([key.indices.to_numpy(zero_copy_only=False).astype(np.int64), times], axis=1)
        recordings, of = np.unique(pairs, axis=0, return_inverse=True)
        numbers = np.zeros(len(times), np.int64)
        for i, (code, us) in enumerate(recordings.tolist()):
            at = np.flatnonzero(of.ravel() == i)
            name = f"{us}/{key.dictionary[code].as_py()}"
            begin = state.samples.pop(name, 0)
            numbers[at] = begin + np.arange(len(at))
            state.samples[name] = begin + len(at)
        while len(state.samples) > RECORDINGS_MAX:
            del state.samples[next(iter(state.samples))]
        return numbers

    def _detail(self, reason: str, said: Any) -> str:
        name = " and ".join(self._columns)
        match reason:
            case "ts_future":
                return f"{name} lies more than {duration_text(self.slack)} after the arrival"
            case "ts_past":
                return f"{name} lies more than {duration_text(self.past or 0)} before the arrival"
            case "ts_missing":
                return f"nothing in {name}"
        return f"{name}: {str(said)[:100]!r} {advice(str(said), reason, self.format)}".rstrip()


@kernel
def newest_of_keys(slots: Codes, times: Ints, newest: Ints, before: Ints) -> None:
    """Note how far each key has come, and how far it had with each row (the row itself counts)."""
    for i in range(len(slots)):
        if times[i] > newest[slots[i]]:
            newest[slots[i]] = times[i]
        before[i] = newest[slots[i]]
