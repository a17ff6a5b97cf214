"""Window: figures of the readings of each machine over stretches of time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt
from pydantic import BeforeValidator, model_validator
from pydantic import Field as Setting

from tocsin.bases import promised, require
from tocsin.batch import END, KEY, START, TIME, Apart, Batch, Codes, Floats, Ints, as_times, empty, floats, times_us
from tocsin.condition._by_row import AFTER, Groups, Open, WindowFrame, close, take
from tocsin.condition._clock import HOUR_US, LocalWindows
from tocsin.condition._figures import OF_INTEGERS, figure, finite, first_or_last, integer_figure, is_number
from tocsin.condition._groups import group_order, leaving, sort_by_time
from tocsin.condition._pending import Waiting
from tocsin.errors import ConfigError, SchemaError, UnknownName
from tocsin.settings import Many
from tocsin.settings.quantities import Duration
from tocsin.state import Keys

WINDOW_END = pa.field("window_end", TIME.type, nullable=False)
FUNCTIONS = ("count", "sum", "min", "max", "mean", "median", "std", "std_pop", "first", "last", "p95")
_CALL = re.compile(r"\s*([a-z_]+|p\d+(?:\.\d+)?)\s*\(\s*(\*|[^()]+?)\s*\)\s*")
CELLS_MIN = 1 << 16
"""Up to so many groups of window and key are always sorted by counting."""


def _named(value: Any) -> Any:
    """``[mean(value), p95(value)]`` names its columns itself: ``value_mean``, ``value_p95``."""
    if isinstance(value, str | list | tuple):
        calls = [str(v) for v in ([value] if isinstance(value, str) else value)]
        return {_call_name(*_parsed(call)): call for call in calls}
    return value


def _call_name(function: str, column: str) -> str:
    return re.sub(r"\W", "_", function if column == "*" else f"{column}_{function}")


def _parsed(call: str) -> tuple[str, str]:
    """Function and column of ``mean(value)``."""
    parts = _CALL.fullmatch(call)
    if not parts:
        raise ValueError(f"'{call}' is no figure of a window; write it as mean(value), p95(value) or count(*)")
    function, column = parts[1], parts[2].strip('"')
    if function not in FUNCTIONS and not re.fullmatch(r"p\d+(\.\d+)?", function):
        raise ValueError(str(UnknownName("function of a window", function, FUNCTIONS)))
    if function[0] == "p" and float(function[1:]) > 100:
        raise ValueError(f"'{call}': a percentile is p0 to p100")
    if column == "*" and function != "count":
        raise ValueError(f"'{call}': only count takes *")
    return function, column


LATE_READINGS = pa.field("late_readings", pa.int64(), nullable=False)


class Window(Waiting):
    """Gather the readings of each key over stretches of time, and work out figures of each stretch.

    Tumbling windows by ``every`` alone (aligned to 1970, so that 20s windows begin at :00, :20, :40), or by the clock
    of a ``zone``, so that 1d is a local day; sliding ones with
    a longer ``size``; sessions by ``gap``: they end when nothing has come for so long. A window leaves once the
    watermark has passed its end: ``key``, ``time`` (its start), ``window_end`` and a column for each figure.

    ``collect`` keeps the readings themselves, in time order, as lists (their times as ``times``); `explode` makes rows
    of them again. ``compute`` takes count, sum, min, max, mean, median, std (of a sample), std_pop, first, last, and
    any percentile (p95, p99.9). A missing, NaN or infinite reading counts only in ``count(*)`` and in lists. Sums of
    integers are exact, or null if they need more than 64 bits; a median or percentile of integers is null where they
    are beyond 2^53. Readings for a window that has left go to port ``late``.

    With ``allowed_lateness`` a window is kept so much longer: whenever late readings come for it, it leaves again,
    with all its figures. ``late_readings`` says how many there were, so of the rows of a window the one with the most
    is right. With ``keys_apart`` under ``time:`` the windows of each machine close by its own time.

    Open windows are kept with all their readings: for an hour or more of fast readings, window twice.

    Examples
    --------
    >>> readings = rows({"value": [1.0, 3.0, 5.0, 9.0]}, every_s=10)
    >>> feed(Window(every="20s", compute=["mean(value)", "count(*)"]), readings).to_pydict()["value_mean"]
    [2.0, 7.0]
    >>> feed(Window(every="20s", collect="value"), readings)["value"].to_pylist()
    [[1.0, 3.0], [5.0, 9.0]]
    """

    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"every": "20s", "collect": ["time", "value", "text"]},
        {"every": "5s", "size": "15s", "compute": {"n": "count(*)", "mean": "mean(value)", "most": "p95(value)"}},
        {"every": "20s", "compute": ["first(text)", "last(count)", "sum(count)", "std(value)", "median(other)"]},
        {"gap": "2s", "compute": ["min(value)", "max(value)"]},
        {"every": "10s", "offset": "3s", "compute": ["count(*)", "last(value)"]},
        {"every": "10s", "allowed_lateness": "20s", "compute": ["count(*)", "sum(count)"]},
    )
    ONE_TIME: ClassVar[bool] = False

    every: Duration | None = Setting(None, gt=0)
    """How often a window begins; also its length, unless ``size`` says otherwise."""
    size: Duration | None = Setting(None, gt=0)
    """How long a sliding window is."""
    zone: str | None = None
    """Zone by whose clock windows begin, as ``Europe/Berlin``: a day may then have 23 or 25 hours."""
    offset: Duration = Setting(0, ge=0)
    """How long after midnight, or after the hour, windows begin: 6h for days from 06:00 on."""
    gap: Duration | None = Setting(None, gt=0)
    """For sessions instead: how long nothing must come for one to end."""
    allowed_lateness: Duration = Setting(0, ge=0)
    """How long after it left a window is corrected by late readings, as in Flink; for windows by ``every`` alone."""
    collect: Many[str] = ()
    """Columns whose readings are kept as lists."""
    compute: Annotated[
        Mapping[str, str], BeforeValidator(_named, json_schema_input_type=str | list[str] | dict[str, str])
    ] = {}
    """Figures by the name of their column, such as ``{hottest: max(celsius)}``; or a list of them."""

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        return rows.filter(pa.array(np.arange(rows.num_rows) % 60 < 45))

    @model_validator(mode="after")
    def _one_kind(self) -> Window:
        if (self.every is None) == (self.gap is None):
            raise ValueError("a window needs either every (and maybe size) or gap")
        if self.gap is not None and self.size is not None:
            raise ValueError("a session has no size; its gap says when it ends")
        if self.size is not None and self.size < (self.every or 0):
            raise ValueError("size is shorter than every: readings between the windows would be in none")
        if self.size is not None and self.size > 1000 * (self.every or 0):
            raise ValueError("a reading would be in more than 1,000 windows; take a longer every")
        if (self.zone is not None or self.offset) and (self.gap is not None or self.size is not None):
            raise ValueError("zone and offset are for windows by every alone")
        if self.allowed_lateness and (self.gap is not None or self.size is not None):
            raise ValueError("allowed_lateness is for windows by every alone; take out gap and size")
        if self.zone is not None:
            if self.every is not None and self.every < HOUR_US:
                raise ValueError("windows by the clock of a zone are an hour or longer; shorter ones need no zone")
            try:
                LocalWindows(self.zone, HOUR_US, 0)
            except SchemaError as error:
                raise ValueError(str(error)) from error
        if not self.collect and not self.compute:
            raise ValueError("a window needs collect or compute: what should be known of it?")
        for call in self.compute.values():
            _parsed(call)
        return self

    # ------------------------------------------------------------------------------------------------------- schemas

    def _lists(self) -> Mapping[str, str]:
        """Name of each list, and its column."""
        return {"times" if column == "time" else column: column for column in self.collect}

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        fields = [KEY, TIME, WINDOW_END]
        for name, column in self._lists().items():
            kind = require(input, column, self.name()).type
            fields.append(pa.field(name, pa.list_(kind.value_type if pt.is_dictionary(kind) else kind)))
        for name, call in self.compute.items():
            fields.append(pa.field(name, self._type(input, *_parsed(call))))
        if self.allowed_lateness:
            fields.append(LATE_READINGS)
        names = [f.name for f in fields]
        if twice := [n for n in names if names.count(n) > 1]:
            raise SchemaError(f"{self.name()} would make two columns '{twice[0]}'; name the figure otherwise")
        return pa.schema(fields)

    def _type(self, input: pa.Schema, function: str, column: str) -> pa.DataType:
        if function == "count":
            if column != "*":
                require(input, column, self.name())
            return pa.int64()
        kind = require(input, column, self.name(), number=function not in ("first", "last")).type
        if function in ("first", "last"):
            return kind.value_type if pt.is_dictionary(kind) else kind
        return pa.int64() if function in ("sum", "min", "max") and pt.is_integer(kind) else pa.float64()

    def kept(self) -> list[str]:
        columns = [*self._lists().values(), *(_parsed(call)[1] for call in self.compute.values())]
        return [c for c in dict.fromkeys(columns) if c not in ("*", "key", "time")]

    # --------------------------------------------------------------------------------------------------------- state

    def initial(self) -> Open:
        return Open()

    def load(self, table: pa.Table) -> Open:
        state = Open.load(table)
        if state.times:
            state.next_end_us = self._first_end(state.oldest_us)
        return state

    def _first_end(self, time_us: int) -> int:
        """The first end of a window that lies after a time."""
        if self.gap is not None:
            return time_us + self.gap
        if self._clock is not None:
            return self._clock.end(time_us)
        assert self.every is not None
        return self._first_start(time_us) + (self.size or self.every)

    @cached_property
    def _clock(self) -> LocalWindows | None:
        return None if self.zone is None and not self.offset else LocalWindows(self.zone, self.every or 1, self.offset)

    def _first_start(self, time_us: int) -> int:
        assert self.every is not None
        if self._clock is not None:
            return self._clock.start(time_us)
        return (time_us - (self.size or self.every)) // self.every * self.every + self.every

    def apart(self, input: Apart | None) -> Apart | None:
        if input is None:
            return None
        if self.gap is not None:
            raise ConfigError(
                "sessions go by one time of all machines; take keys_apart out of time:, or gap out of here"
            )
        longest = (self.size or self.every or 0) + (HOUR_US if self.zone is not None else 0)
        return Apart(0, input.most_us + longest)

    def step(self, state: Open, batch: Batch) -> tuple[Open, Sequence[Batch]]:
        if batch.apart is not None or self.allowed_lateness:
            return self._step_by_row(state, batch)
        before = state.watermark_us
        rows, left = state.split_late(batch)
        if rows.num_rows:
            times = times_us(rows)
            state.add(rows.column("key"), times, rows.select(self.kept()))
            state.next_end_us = min(state.next_end_us, self._first_end(int(times.min())))
        state.watermark_us = max(before, batch.watermark_us)
        due = state.next_end_us <= state.watermark_us and len(state.times) > 0
        schema = promised(self, batch.schema)
        out = self._close(state, before, schema) if due else empty(schema)
        watermark = self._watermark(state)
        return state, (*(b.until(watermark) for b in left), Batch(out, watermark))

    def takes_late(self) -> bool:
        return self.allowed_lateness > 0

    def _step_by_row(self, state: Open, batch: Batch) -> tuple[Open, Sequence[Batch]]:
        """The same, each key by its own time, or with an allowance."""
        left, before, now, new = take(state, batch, self._frame, self.kept())
        schema = promised(self, batch.schema)
        out = empty(schema)
        if state.times and (state.next_ends <= now).any():
            groups = close(state, self._frame, before, now, new)
            out = self._figures(schema, groups, state.keys, *state.merge())
            state.keep(np.flatnonzero(groups.keep))
        watermark = self._watermark(state)
        return state, (*(b.until(watermark) for b in left), Batch(out, watermark))

    @cached_property
    def _frame(self) -> WindowFrame:
        every, length = self.every or 1, self.size or self.every or 1
        number = self._clock.numbers if self._clock is not None else lambda times: times // every
        return WindowFrame(number, self._bounds, -(-length // every), self.allowed_lateness)

    def _watermark(self, state: Open) -> int:
        """No window that may still leave begins earlier."""
        if state.watermark_us in (START, END):
            return state.watermark_us
        if self.gap is not None:
            return min(state.watermark_us, state.oldest_us)
        return self._first_start(state.watermark_us - self.allowed_lateness)

    # ------------------------------------------------------------------------------------------------------- closing

    def _close(self, state: Open, before: int, schema: pa.Schema) -> pa.RecordBatch:
        """The windows that the watermark has passed; their readings leave the state, unless a later one needs them."""
        slots, times, columns = state.merge()
        find = self._windows if self.gap is None else self._sessions
        groups = find(slots, times, state.keys.count, before, state.watermark_us)
        out = self._figures(schema, groups, state.keys, slots, times, columns)
        state.keep(np.flatnonzero(groups.keep))
        state.next_end_us = groups.next_end_us
        return out

    def _windows(self, slots: Codes, times: Ints, key_count: int, before: int, watermark: int) -> Groups:
        """Windows by the clock, by their start and key."""
        every, length = self.every or 1, self.size or self.every or 1
        last, keep = np.empty(len(times), np.int64), np.empty(len(times), bool)
        real = times, watermark
        if self._clock is not None:
            times = self._clock.even(times)
            before, watermark = (int(self._clock.even(np.array([us]))[0]) for us in (before, watermark))
        total, low, high = leaving(times, every, length, before, watermark, last, keep)
        next_end = self._first_end(max(int(real[0][keep].min()), real[1])) if keep.any() else END
        cells = (high - low + 1) * key_count if total else 0
        if cells > 8 * total + CELLS_MIN:
            return self._few_among_many(slots, times, real[0], last, before, watermark, keep, next_end)
        ends, order = np.zeros(cells, np.int64), np.empty(total, np.int64)
        group_order(times, slots, last, every, length, before, watermark, low, key_count, ends, order)
        sizes = np.diff(ends, prepend=0)
        there = np.flatnonzero(sizes)
        starts = np.concatenate([[0], ends[there]])
        _sort_by_time(real[0], starts, order)
        begins, ends_us = self._bounds(low + there // max(key_count, 1))
        return Groups(order, starts, begins, ends_us, keep, next_end)

    def _bounds(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Where windows begin and end."""
        if self._clock is not None:
            return self._clock.starts(numbers), self._clock.starts(numbers + 1)
        begins = numbers * (self.every or 1)
        return begins, begins + (self.size or self.every or 1)

    def _few_among_many(
        self, slots: Codes, times: Ints, real: Ints, last: Ints, before: int, watermark: int,
        keep: npt.NDArray[np.bool_], next_end: int,
    ) -> Groups:  # fmt: skip
        """The same by sorting, where most windows of most keys are empty: no table of them all is made."""
        every, length = self.every or 1, self.size or self.every or 1
        rows, numbers = [], []
        for back in range(-(-length // every)):
            end = (last - back) * every + length
            leaves = np.flatnonzero((end > before) & (end <= watermark) & (end > times))
            rows.append(leaves)
            numbers.append(last[leaves] - back)
        row, number = np.concatenate(rows), np.concatenate(numbers)
        by = np.lexsort((row, slots[row], number))
        order, number = row[by], number[by]
        changes = np.flatnonzero((np.diff(number) != 0) | (np.diff(slots[order]) != 0)) + 1
        starts = np.concatenate([[0], changes, [len(order)]])
        _sort_by_time(real, starts, order)
        begins, ends_us = self._bounds(number[starts[:-1]])
        return Groups(order, starts, begins, ends_us, keep, next_end)

    def _sessions(self, slots: Codes, times: Ints, key_count: int, before: int, watermark: int) -> Groups:
        """Windows by the gaps between a key's readings, by key and start."""
        assert self.gap is not None
        order = np.lexsort((times, slots))
        sorted_times = times[order]
        gaps = (np.diff(sorted_times) >= self.gap) | (np.diff(slots[order]) != 0)
        starts = np.concatenate([[0], np.flatnonzero(gaps) + 1, [len(order)]])
        ends = sorted_times[starts[1:] - 1] + self.gap
        leaves = ends <= watermark
        sizes = np.diff(starts)
        in_leaving = np.repeat(leaves, sizes)
        keep = np.empty(len(times), bool)
        keep[order] = ~in_leaving
        next_end = int(ends[~leaves].min()) if not leaves.all() else END
        begins = sorted_times[starts[:-1]][leaves]
        left = np.concatenate([[0], np.cumsum(sizes[leaves])])
        return Groups(order[in_leaving], left, begins, ends[leaves], keep, next_end)

    def _figures(
        self, schema: pa.Schema, groups: Groups, keys: Keys, slots: Codes, times: Ints, columns: pa.RecordBatch
    ) -> pa.RecordBatch:
        order, starts = groups.order, groups.starts
        at = pa.array(order)
        gathered: dict[str, pa.Array] = {}

        def column(name: str) -> pa.Array:
            if name not in gathered:
                if name == "time":
                    values = as_times(times[order])
                elif name == "key":
                    values = keys.keys(slots[order]).dictionary_decode()
                else:
                    values = columns.column(name).take(at)
                gathered[name] = values.dictionary_decode() if pt.is_dictionary(values.type) else values
            return gathered[name]

        offsets = pa.array(starts.astype(np.int32))
        arrays = [keys.keys(slots[order[starts[:-1]]]), as_times(groups.begins_us), as_times(groups.ends_us)]
        arrays += [pa.ListArray.from_arrays(offsets, column(name)) for name in self._lists().values()]
        figures: dict[str, Floats] = {}
        for name, call in self.compute.items():
            function, of = _parsed(call)
            if of == "*":
                arrays.append(pa.array(np.diff(starts)))
            elif function in ("first", "last"):
                arrays.append(first_or_last(function, column(of), starts))
            elif function == "count" and not is_number(column(of).type):
                known = np.concatenate([[0], np.cumsum(column(of).is_valid().to_numpy(zero_copy_only=False))])
                arrays.append(pa.array(known[starts[1:]] - known[starts[:-1]]))
            elif function in OF_INTEGERS and pt.is_integer(column(of).type):
                arrays.append(integer_figure(function, column(of), starts))
            else:
                values, integers = finite(floats(column(of))), pt.is_integer(column(of).type)
                made = figure(function, values, starts, figures, of, integers=integers)
                arrays.append(made.cast(schema.field(name).type, safe=False))
        if self.allowed_lateness:
            after = np.concatenate([[0], np.cumsum(columns.column(AFTER).take(at).to_numpy(zero_copy_only=False))])
            arrays.append(pa.array(after[starts[1:]] - after[starts[:-1]], pa.int64()))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _sort_by_time(times: Ints, starts: Ints, order: Ints) -> None:
    """Bring the readings of each group into time order, equal times as they came."""
    unsorted = np.empty(len(starts) - 1, np.int64)
    for g in unsorted[: sort_by_time(times, starts, order, unsorted)]:
        part = order[starts[g] : starts[g + 1]]
        part.sort()
        part[:] = part[np.argsort(times[part], kind="stable")]
