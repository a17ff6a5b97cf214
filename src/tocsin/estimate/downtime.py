"""Downtime: what each machine is doing, from status fields, sensor levels and heartbeats, as events with a duration."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt
from pydantic import Field as Setting
from pydantic import model_validator

from tocsin.bases import require
from tocsin.batch import (
    END,
    REJECTED,
    REJECTED_SCHEMA,
    START,
    Batch,
    Codes,
    Floats,
    Ints,
    as_keys,
    floats,
    in_words,
    short_id,
    times_us,
    to_batch,
)
from tocsin.contracts import Operator
from tocsin.domain.calendars import Period, find, next_change
from tocsin.domain.effectiveness import COUNTED_SCHEMA, DOWNTIME_SCHEMA
from tocsin.errors import SchemaError
from tocsin.estimate._counting import COUNTS, parts_made, rejected
from tocsin.estimate._downtime import (
    ALIVE,
    NOTHING,
    SILENT,
    UNSURE,
    DowntimeState,
    Timeline,
    ToldEvent,
    find_changes,
    trace,
)
from tocsin.settings.quantities import Duration
from tocsin.state import Columns, Field, Remembered

Kind = Literal["running", "idle", "planned_stop", "unplanned_stop", "unknown"]
KINDS: Sequence[Kind] = ("running", "idle", "planned_stop", "unplanned_stop", "unknown")
RUNNING, IDLE, _, STOPPED, _ = range(5)

_LINES = Remembered("line")

NOTES_MAX = 50
"""Reasons kept for one machine's events that may still change."""


class Downtime(Operator):
    """Say what each machine is doing: running, idle, planned stop, unplanned stop, microstop or unknown.

    Use it with a status field (``state``), a level (``of`` and ``running_above``) or only heartbeats; silence longer
    than ``missed`` heartbeats ends what is known. An event opens at once with a row ``open`` and closes with a row
    ``closed``; a reading that comes out of order, but before the watermark has passed it, corrects what was said by
    rows with a higher ``revision`` (and ``withdrawn`` where there was no such event). The newest revision of each
    ``id`` is the truth. ``time`` is when it was known, ``start`` and ``end`` when it was. Readings that come after the
    watermark are on the source's port ``late``; states that no setting knows are on port ``rejected``.

    With ``total`` the parts made leave by port ``counts``, for `oee` to take beside the events
    (``from: [downtime, downtime.counts]``). Counts that cannot be are on port ``rejected``.

    Not for telling what is abnormal: it only reads what the machine says.

    ISO 22400-2 (states of work units).

    Examples
    --------
    >>> press = rows({"state": ["running", "stopped", "stopped", "running"]}, every_s=60)
    >>> told = feed(Downtime(state="state", microstop="5m"), press)
    >>> told.select(["kind", "status", "duration_s", "revision"]).to_pylist()
    [{'kind': 'running', 'status': 'open', 'duration_s': None, 'revision': 0},
     {'kind': 'running', 'status': 'closed', 'duration_s': 60.0, 'revision': 1},
     {'kind': 'unplanned_stop', 'status': 'open', 'duration_s': None, 'revision': 0},
     {'kind': 'microstop', 'status': 'closed', 'duration_s': 120.0, 'revision': 1},
     {'kind': 'running', 'status': 'open', 'duration_s': None, 'revision': 0}]
    """

    ONE_TIME: ClassVar[bool] = True
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"state": "text", "states": {"fault": "unplanned_stop"}, "heartbeat": "4s", "microstop": "20s"},
        {"of": "value", "running_above": 20.2, "idle_above": 19.5, "reason": "text"},
        {"heartbeat": "10s", "planned": [{"name": "break", "begins": "00:00:20", "ends": "00:00:40"}]},
        {"state": "text", "states": {"fault": "unplanned_stop"}, "total": "count", "good": "flag"},
    )

    KEEPS_STATE: ClassVar[Collection[str]] = (
        "rule", "states", "running_above", "idle_above", "heartbeat", "missed", "silent", "microstop", "planned",
        "shifts",
    )  # fmt: skip

    rule: str = "downtime"
    """Name of the rule, unique in the plant: it is part of every event's id."""
    state: str | None = None
    """Column with the status."""
    states: Mapping[str, Kind] = {}
    """What other values of the status mean, beside running, idle, planned_stop, unplanned_stop, unknown and stopped."""
    of: str | None = None
    """Column with a number that says whether the machine runs (speed, current, flow)."""
    running_above: float | None = None
    """Above this the machine runs."""
    idle_above: float | None = None
    """Above this, and not above ``running_above``, it idles; at or below this it has stopped."""
    heartbeat: Duration = Setting(0, ge=0)
    """How often a reading comes when all is well; 0 if readings come only when something changes."""
    missed: int = Setting(3, ge=1)
    """After how many heartbeats without a reading the state is no longer known."""
    silent: Kind = "unknown"
    """What a silent machine is said to be doing."""
    microstop: Duration = Setting(0, ge=0)
    """An unplanned stop that was shorter than this is a microstop."""
    planned: tuple[Period, ...] = ()
    """Times in which the machine is not meant to run: what is not running then is a planned stop."""
    shifts: tuple[Period, ...] = ()
    """Shifts: an event has the name of the one in which it starts."""
    reason: str | None = None
    """Column with a reason code; an event has the latest that was given while it lasted."""
    total: str | None = None
    """Column with the number of parts made since the machine's reading before."""
    good: str | None = None
    """Column with how many of them were good."""

    @model_validator(mode="after")
    def _one_way_to_know(self) -> Self:
        if self.state is not None and self.of is not None:
            raise ValueError("give either state or of, not both")
        if (self.of is None) != (self.running_above is None):
            raise ValueError("a level needs both of and running_above")
        if self.state is None and self.of is None and not self.heartbeat:
            raise ValueError("give state, of (with running_above) or heartbeat: how else is a stop to be seen?")
        if self.good is not None and self.total is None:
            raise ValueError("good needs total: the number of all parts made, good or not")
        if self.idle_above is not None and (self.running_above is None or self.idle_above >= self.running_above):
            raise ValueError("idle_above must be less than running_above")
        return self

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for column in (self.of, self.total, self.good):
            if column is not None:
                require(input, column, self.name(), number=True)
        for column in (self.state, self.reason):
            if column is not None:
                kind = require(input, column, self.name()).type
                value = kind.value_type if pt.is_dictionary(kind) else kind
                if not (pt.is_string(value) or pt.is_integer(value) or pt.is_boolean(value)):
                    raise SchemaError(
                        f"downtime needs text or an integer in column '{column}', which is {in_words(kind)}"
                    )
        return self._schema

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {REJECTED: REJECTED_SCHEMA} | ({} if self.total is None else {COUNTS: COUNTED_SCHEMA})

    @property
    def _schema(self) -> pa.Schema:
        return DOWNTIME_SCHEMA if self.total is None else COUNTED_SCHEMA

    @property
    def timeout(self) -> int:
        """Silence longer than this ends what is known; 0 for never."""
        return self.heartbeat * self.missed

    def fields(self) -> Mapping[str, Field]:
        """Returns settled state (start, code, last reading before the watermark), and the newest reading's."""
        return {
            "start": Field(np.int64),
            "code": Field(np.int64, NOTHING),
            "last": Field(np.int64),
            "clock": Field(np.int64, START),
            "head_start": Field(np.int64),
            "head_code": Field(np.int64, NOTHING),
            "calendar_due": Field(np.int64, END),
        }

    def initial(self) -> DowntimeState:
        return DowntimeState(Columns(self.fields()))

    def step(self, state: DowntimeState, batch: Batch) -> tuple[DowntimeState, Sequence[Batch]]:
        out: list[dict[str, Any]] = []
        side: list[Batch] = []
        if len(batch):
            codes, unknown = self._codes(batch.rows)
            if unknown.any():
                assert self.state is not None
                said = f"{self.state} has a value that is not in states"
                unusable = batch.rows.filter(pa.array(unknown))
                side.append(rejected(unusable, "state_unknown", said, self.state))
            if self.total is not None:
                side += parts_made(batch.rows, self.total, self.good)
            self._read(state, batch.rows, codes, out)
        state.watermark = max(state.watermark, batch.watermark_us)
        self._let_time_pass(state, out)
        return state, (*side, Batch(to_batch(out, self._schema), state.watermark))

    # ------------------------------------------------------------------------------------------------- readings

    def _codes(self, rows: pa.RecordBatch) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Returns what each reading says, and which of them say something that no setting knows."""
        count = rows.num_rows
        if self.of is not None and self.running_above is not None:
            values: Floats = floats(rows.column(self.of))
            low = self.running_above if self.idle_above is None else self.idle_above
            codes = np.where(values > self.running_above, RUNNING, np.where(values > low, IDLE, STOPPED))
            return np.where(np.isfinite(values), codes, ALIVE).astype(np.int64), np.zeros(count, bool)
        if self.state is None:
            return np.full(count, RUNNING, np.int64), np.zeros(count, bool)
        column = as_keys(rows.column(self.state))
        known = {kind: i for i, kind in enumerate(KINDS)} | {"stopped": STOPPED}
        known |= {value: KINDS.index(kind) for value, kind in self.states.items()}
        meaning = np.array([known.get(text, NOTHING) for text in column.dictionary.to_pylist()] + [ALIVE], np.int64)
        says = meaning[column.indices.fill_null(len(meaning) - 1).to_numpy(zero_copy_only=False)]
        return np.where(says == NOTHING, ALIVE, says), says == NOTHING

    def _read(self, state: DowntimeState, rows: pa.RecordBatch, codes: Ints, out: list[dict[str, Any]]) -> None:
        """Find, in a compiled loop, the readings that may change something, and look closely only at those."""
        columns, times = state.columns, times_us(rows)
        slots = columns.slots(rows.column("key"))
        notes = self._notes(state, rows, slots)
        before = len(state.readings.slots)
        state.readings.add(slots, times, codes)
        matters = find_changes(
            slots, times, codes, self.timeout, columns["clock"], columns["head_start"], columns["head_code"]
        )
        matters[list(notes)] = True
        # A loop over the few readings where something changes: about 0.2 ms each.
        looked_at = np.flatnonzero(matters)
        for row in looked_at.tolist():
            slot, at, line = int(slots[row]), int(times[row]), self._line(state, int(slots[row]))
            last = self._advance(state, slot, at, before + row, out)
            if row in notes:
                line.notes = sorted([*line.notes, (at, notes[row])], key=lambda note: note[0])[-NOTES_MAX:]
            self._tell(state, slot, max(at, last), at, before + row + 1, out)
        for slot in np.unique(slots[looked_at]).tolist():
            starts, kinds, _ = self._trace(state, slot, before + len(slots))
            if len(starts):
                columns["head_start"][slot], columns["head_code"][slot] = starts[-1], kinds[-1]

    def _notes(self, state: DowntimeState, rows: pa.RecordBatch, slots: Codes) -> Mapping[int, str]:
        """Returns the rows that give another reason than the one before, and the reason."""
        if self.reason is None:
            return {}
        column = as_keys(rows.column(self.reason))
        given = np.flatnonzero(np.asarray(column.is_valid().to_numpy(zero_copy_only=False), bool))
        order = given[np.argsort(slots[given], kind="stable")]
        code = np.asarray(column.indices.fill_null(-1).to_numpy(zero_copy_only=False))[order]
        first = np.append(True, slots[order[1:]] != slots[order[:-1]])[: len(order)]
        changes = first | np.append(True, code[1:] != code[:-1])[: len(order)]
        reasons = {}
        for row, is_first in zip(order[changes].tolist(), first[changes].tolist(), strict=True):
            line, text = state.lines.get(int(slots[row])), str(column[row].as_py())
            if not is_first or line is None or not line.notes or line.notes[-1][1] != text:
                reasons[row] = text
        return reasons

    def _let_time_pass(self, state: DowntimeState, out: list[dict[str, Any]]) -> None:
        """Tell what silence and calendars have changed up to the watermark, and settle the readings before it."""
        count, columns, to = len(state.columns), state.columns, state.watermark
        # The end of the stream is not silence: what was known last stays so.
        if START < to < END:
            due = columns["calendar_due"][:count] <= to
            if self.timeout:
                head = columns["head_code"][:count]
                due |= (columns["clock"][:count] < to - self.timeout) & (head != SILENT) & (head != NOTHING)
            for slot in np.flatnonzero(due).tolist():
                self._advance(state, slot, to, len(state.readings.slots), out)
                columns["head_start"][slot], columns["head_code"][slot] = columns["clock"][slot], UNSURE
                if self._line(state, slot).silent_since == columns["clock"][slot]:
                    columns["head_code"][slot] = SILENT
        state.readings.settle(to, self.timeout, columns)

    # --------------------------------------------------------------------------------------------------- events

    @staticmethod
    def _line(state: DowntimeState, slot: int) -> Timeline:
        """Returns what was told of a machine, without what is settled.

        It is done here, for one machine: to look at all of them would cost 1 µs each in every batch.
        """
        line = state.lines.setdefault(slot, Timeline())
        begin = int(state.columns["start"][slot])
        if len(line.spans) > 1 and state.columns["code"][slot] != NOTHING:
            line.spans = {start: span for start, span in line.spans.items() if start >= begin}
        if len(line.notes) > 1:
            line.notes = [note for note in line.notes if note[0] >= begin] or line.notes[-1:]
        return line

    def _trace(self, state: DowntimeState, slot: int, count: int) -> tuple[Ints, Ints, int]:
        """Returns start and code of each state from the settled one on, by the first ``count`` readings.

        The third value is when the last reading was.
        """
        times, codes = state.readings.of(slot, count)
        settled = (int(state.columns[name][slot]) for name in ("start", "code", "last"))
        return trace(times, codes, self.timeout, *settled)

    def _advance(self, state: DowntimeState, slot: int, to: int, count: int, out: list[dict[str, Any]]) -> int:
        """Tell what silence and the calendar have changed until then. Returns when the machine's last reading was."""
        line = self._line(state, slot)
        while True:
            _, codes, last = self._trace(state, slot, count)
            awake = self.timeout and len(codes) and codes[-1] != SILENT and line.silent_since != last
            at = min(last + self.timeout + 1 if awake else END, int(state.columns["calendar_due"][slot]))
            if at > to:
                return last
            self._tell(state, slot, at, at, count, out)

    def _tell(self, state: DowntimeState, slot: int, now: int, at: int, count: int, out: list[dict[str, Any]]) -> None:
        """Tell what differs, by the first ``count`` readings, from what was told before."""
        line = self._line(state, slot)
        starts, codes, last = self._trace(state, slot, count)
        # What a reading says touches the state before it and the few that it may bring about, none before those.
        first = max(0, int(np.searchsorted(starts, at, "right")) - 5)
        since = int(starts[first]) if first else START
        states = list(zip(starts[first:].tolist(), codes[first:].tolist(), strict=True))
        if self.timeout and states and states[-1][1] != SILENT and now - last > self.timeout:
            line.silent_since = last
            states.append((last, SILENT))
        spans: dict[int, ToldEvent] = {}
        ends = [*[start for start, _ in states[1:]], None]
        for (start, code), end in zip(states, ends[: len(states)], strict=True):
            for span in self._cut(start, end, code, now):
                said = [text for when, text in line.notes if start <= when and (end is None or when < end)]
                span.reason = span.reason or (said[-1] if said else "")
                spans[span.start] = span
        key = state.columns.keys.name(slot)
        gone = {begin: old for begin, old in line.spans.items() if begin >= since and begin not in spans}
        for begin, old in sorted(gone.items(), key=lambda item: item[0]):
            if not old.withdrawn:
                gone[begin] = replace(old, revision=old.revision + 1, withdrawn=True)
                out.append(self._row(key, gone[begin], "withdrawn", at))
        for begin, span in spans.items():
            if (was := line.spans.get(begin)) is not None:
                span.revision = was.revision
                if span == was:
                    continue
                span.revision += 1
            out.append(self._row(key, span, "open" if span.end is None else "closed", at))
        line.spans |= spans | gone
        waiting = self.planned and states and states[-1][1] != RUNNING
        change = next_change(self.planned, max(now, states[-1][0])) if waiting else None
        state.columns["calendar_due"][slot] = END if change is None else change

    def _cut(self, start: int, end: int | None, code: int, now: int) -> Iterator[ToldEvent]:
        """Returns one state as events: what is not running is cut where a planned stop begins or ends."""
        kind = self.silent if code == SILENT else KINDS[code]
        while True:
            period = find(self.planned, start) if kind != "running" else None
            change = next_change(self.planned, start) if kind != "running" and self.planned else None
            until = end if change is None or change > now or (end is not None and change >= end) else change
            shown: str = "planned_stop" if period else kind
            if shown == "unplanned_stop" and until is not None and until - start < self.microstop:
                shown = "microstop"
            yield ToldEvent(start, shown, until, period[0].name if period else "")
            if until == end:
                return
            assert until is not None
            start = until

    def _row(self, key: str, span: ToldEvent, status: str, at: int) -> dict[str, Any]:
        shift = find(self.shifts, span.start)
        return {
            "key": key,
            "time": at,
            "id": short_id(self.rule, key, span.start),
            "kind": span.kind,
            "status": status,
            "start": span.start,
            "end": span.end,
            "duration_s": None if span.end is None else (span.end - span.start) / 1e6,
            "revision": span.revision,
            "reason": span.reason,
            "shift": shift[0].name if shift else "",
            "total": None,
            "good": None,
        }

    def dump(self, state: DowntimeState) -> pa.Table:
        table, readings = state.columns.dump(), state.readings
        count = len(state.columns)
        lines = [asdict(state.lines[slot]) if slot in state.lines else None for slot in range(count)]
        table = _LINES.dump(table, lines, state.watermark)
        order = np.argsort(readings.slots, kind="stable")
        ends = np.searchsorted(readings.slots[order], np.arange(count + 1)).astype(np.int32)
        for name, array in (("times", readings.times), ("codes", readings.codes)):
            table = table.append_column(name, pa.ListArray.from_arrays(pa.array(ends), pa.array(array[order])))
        return table

    def load(self, table: pa.Table) -> DowntimeState:
        state = DowntimeState(Columns.load(self.fields(), table))
        if table.num_rows == 0:
            return state
        table = table.combine_chunks()
        slots = state.columns.slots(table.column("key").combine_chunks())
        lines, state.watermark = _LINES.load(table)
        for slot, saved in zip(slots.tolist(), lines, strict=True):
            if saved is not None:
                spans = {span["start"]: ToldEvent(**span) for span in saved["spans"].values()}
                state.lines[slot] = Timeline(spans, [(at, note) for at, note in saved["notes"]], saved["silent_since"])
        times, codes = (table.column(name).combine_chunks() for name in ("times", "codes"))
        owners = np.repeat(slots, times.value_lengths().to_numpy(zero_copy_only=False))
        state.readings.add(owners, times.flatten().to_numpy(), codes.flatten().to_numpy())
        return state
