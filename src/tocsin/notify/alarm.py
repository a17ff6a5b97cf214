"""Alarm: turn readings or scores into few, clear alarms that people acknowledge (ISA-18.2, OPC UA Part 9)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
from pydantic import Field as Setting
from pydantic import field_validator, model_validator

from tocsin.bases import CONTRIBUTIONS, explanation, judged, require
from tocsin.batch import ACTIONS, END, START, Batch, Codes, floats, times_us, to_batch
from tocsin.contracts import Operator
from tocsin.domain.alarm_rows import ALARM_SCHEMA
from tocsin.domain.alarms import REMARKS, SEVERITIES, operator_action
from tocsin.domain.calendars import Period, as_us
from tocsin.domain.contributions import in_words
from tocsin.notify._conditions import (
    ConditionRows,
    Conditions,
    Counting,
    Level,
    Outcome,
    as_conditions,
    find_changes,
    memory_fields,
    memory_of,
)
from tocsin.notify._lifecycle import AlarmEvent, Emit, Point, Policy
from tocsin.notify._rows import MESSAGE, NUMBER_PLACES, TEXT_PLACES, AlarmRows
from tocsin.settings.quantities import Duration
from tocsin.state import Columns, Field, Remembered

EVIDENCE = ("expected", "lower", "upper", "score")
"""Columns of a detector that go into the evidence where they are there."""
EXPLAINED = ("since", "depth", "why")
"""The same of a detector that tells episodes: the onset, how far the level has gone, and a sentence."""


_POINTS = Remembered("point")


@dataclass(slots=True)
class AlarmState:
    """What the compiled loop remembers of every key, and the alarms of those that ever had one."""

    columns: Columns
    points: dict[int, Point] = field(default_factory=dict)
    watermark: int = START


class Alarm(Operator):
    """Raise, clear and keep alarms: one for each key, with one row for every transition and every action on it.

    Use it at the end of a stream of readings (with limits) or of scores (``score``), and give its rows to a table and
    to channels. One alarm has several levels, worst first: passing from ``high`` to ``high_high`` escalates it. Its
    states are those of ISA-18.2: ACTIVE_UNACK, ACTIVE_ACK, CLEARED_UNACK, CLEARED_ACK, and with ``latching``
    LATCHED_UNACK and LATCHED_ACK. Delays elapse in event time: when the key's own next change, or the watermark,
    passes them. A reading older than the key's newest counts as if it came with the newest. A missing reading changes
    nothing. What people do counts at the time of their clock, and a shelving ends when event time has reached its end.
    Not for grouping the alarms of several machines: put `cases` behind it.

    ISA-18.2-2016; OPC UA Part 9 (Alarms and Conditions) 1.05; EEMUA 191 for the meaning of chattering.

    Examples
    --------
    >>> hot = rows({"value": [20.0, 81.0, 96.0, 79.0, 70.0]})
    >>> table = feed(Alarm(rule="hot", high=80, high_high=95, deadband=5), hot)
    >>> table.select(["event", "state", "level", "severity", "value"]).to_pylist()
    [{'event': 'raised', 'state': 'ACTIVE_UNACK', 'level': 'high', 'severity': 'major', 'value': 81.0},
     {'event': 'escalated', 'state': 'ACTIVE_UNACK', 'level': 'high_high', 'severity': 'critical', 'value': 96.0},
     {'event': 'eased', 'state': 'ACTIVE_UNACK', 'level': 'high', 'severity': 'major', 'value': 79.0},
     {'event': 'cleared', 'state': 'CLEARED_UNACK', 'level': 'high', 'severity': 'major', 'value': 70.0}]
    """

    ACCEPTS_ACTIONS: ClassVar[bool] = True
    EXAMPLES: ClassVar[Sequence[Mapping[str, object]]] = (
        {"rule": "hot", "high": 50, "deadband": 2},
        {"rule": "slow", "high": 20.5, "low": 19.5, "on_delay": "2s", "off_delay": "3s", "chatter_max": 2},
        {"rule": "fault", "when": "flag", "suppressed_when": "flag", "latching": True},
        {"rule": "often", "rate_of_change": 0.3, "count": 2, "of_last": 5},
        {"rule": "often", "high": 20, "count": 3, "within": "10s"},
    )

    KEEPS_STATE: ClassVar[Collection[str]] = (
        "rule", "high_high", "high", "low", "low_low", "rate_of_change", "score", "deadband", "on_delay", "off_delay",
        "priority", "latching", "realarm", "realarm_max", "suppressed_when", "chatter_max", "chatter_within",
        "maintenance", "message", "advice", "unit",
    )  # fmt: skip

    rule: str = "alarm"
    """Name of the rule, unique in the plant: it is part of every alarm's id."""
    version: int = 1
    """Raise it when the rule changes its meaning: its alarms get new ids."""
    of: str = "value"
    """Column with the reading that the limits are for."""
    high_high: float | None = None
    """Above this it is critical."""
    high: float | None = None
    """Above this it is an alarm."""
    low: float | None = None
    """Below this it is an alarm."""
    low_low: float | None = None
    """Below this it is critical."""
    rate_of_change: float | None = None
    """An alarm if the reading changes faster than this, up or down, in its unit per second."""
    score: float | None = None
    """An alarm from this score of a detector on, more severe from 25, 50 and 75 on; 75 if no other condition is set."""
    score_column: str = "score"
    """Column with the detector's score."""
    when: str | None = None
    """A true-or-false column: an alarm while it is true."""
    deadband: float = Setting(0.0, ge=0)
    """How far a number must be back inside its limit before the alarm clears."""
    count: int = Setting(1, ge=1, le=64)
    """How many readings must break a limit: this many of the last ``of_last``, or ``within`` a time."""
    of_last: int | None = Setting(None, ge=1, le=64)
    """Of how many of the last readings ``count`` is."""
    within: Duration | None = None
    """In how much time ``count`` readings must break a limit."""
    on_delay: Duration = Setting(0, ge=0)
    """How long the condition must last before the alarm is raised."""
    off_delay: Duration = Setting(0, ge=0)
    """How long it must be over before the alarm clears."""
    priority: int = Setting(60, ge=0, le=100)
    """Priority, 0 to 100, of high, low, rate_of_change and when; a score is its own, high_high and low_low have 90."""
    latching: bool = False
    """Whether a cleared alarm stays until somebody resets it."""
    realarm: Duration | None = None
    """After how long an alarm that is still active rings again, acknowledged or not."""
    realarm_max: int = Setting(10, ge=0)
    """How often it rings again at most."""
    suppressed_when: str | None = None
    """A true-or-false column: while it is true the alarm is suppressed by design (the machine is idle, say)."""
    chatter_max: int = Setting(3, ge=0)
    """An alarm raised more often than this in ``chatter_within`` does not ring until that long after; 0: it does."""
    chatter_within: Duration = Setting(60_000_000, ge=0)
    """The time in which ``chatter_max`` counts."""
    maintenance: tuple[Period, ...] = ()
    """Times in which the alarm does not ring; if still active and not acknowledged, it rings when they are over."""
    message: str = MESSAGE
    """Text of the message: {key} {rule} {level} {signal} {value} {unit} {limit} {score} {severity} {state} {event}, and
    {why} {since} {depth} of a detector that tells them, {contributions} of a verdict that has some. As it ships, a
    detector's sentence stands after the rule, and contributions stand at the end."""
    advice: str = ""
    """What to do about it, for whoever reads the alarm."""
    unit: str = ""
    """The unit of the reading, such as mm/s; shown beside its numbers."""

    @field_validator("message")
    @classmethod
    def _fits(cls, template: str) -> str:
        try:
            template.format(**dict.fromkeys(TEXT_PLACES, "x"), **dict.fromkeys(NUMBER_PLACES, math.nan))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            known = ", ".join((*TEXT_PLACES, *NUMBER_PLACES))
            raise ValueError(f"the message cannot be filled in ({error!r}); it may name {known}") from error
        return template

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.of_last is not None and self.within is not None:
            raise ValueError("give either of_last or within, not both")
        if self.count > 1 and self.of_last is None and self.within is None:
            raise ValueError("count needs of_last (readings) or within (time)")
        if self.of_last is not None and self.of_last < self.count:
            raise ValueError(f"count {self.count} of the last {self.of_last} readings can never be")
        return self

    @cached_property
    def levels(self) -> Sequence[Level]:
        """The conditions, worst first."""
        levels = [
            Level(name, self.of, sign, limit, self.deadband, priority)
            for name, sign, limit, priority in (
                ("high_high", 1.0, self.high_high, 90),
                ("low_low", -1.0, self.low_low, 90),
                ("high", 1.0, self.high, self.priority),
                ("low", -1.0, self.low, self.priority),
                ("rate_of_change", 1.0, self.rate_of_change, self.priority),
            )
            if limit is not None
        ]
        if self.when is not None:
            levels.append(Level("when", self.when, 1.0, 0.5, 0.0, self.priority))
        score = SEVERITIES[-1].least if self.score is None and not levels else self.score
        if score is not None:
            # A score of the limit itself is an alarm; the other limits must be passed.
            levels += [
                Level("score", self.score_column, 1.0, float(np.nextafter(s, -np.inf)), self.deadband, int(s))
                for s in (score, *(band.least for band in SEVERITIES if band.least > max(score, 0.0)))
            ]
        return sorted(levels, key=lambda level: -level.priority)

    @cached_property
    def _columns(self) -> Sequence[str]:
        return sorted({level.column for level in self.levels})

    @cached_property
    def _conditions(self) -> Conditions:
        return as_conditions(self.levels, self._columns)

    @cached_property
    def _counting(self) -> Counting:
        return Counting(self.count, self.of_last or 0, self.within or 0)

    @cached_property
    def policy(self) -> Policy:
        """How its alarms behave over time."""
        return Policy(
            self.on_delay, self.off_delay, self.latching, self.realarm or 0, self.realarm_max,
            self.chatter_max, self.chatter_within, self.maintenance,
        )  # fmt: skip

    @cached_property
    def _rows(self) -> AlarmRows:
        return AlarmRows(
            self.rule, self.version, self.levels, self.policy, self.of, self.score_column,
            self.message, self.advice, self.unit,
        )  # fmt: skip

    def shape(self, input: pa.Schema) -> Mapping[str, object]:
        """A limit may move; which limits there are may not, since each key's state holds a bit for each."""
        return {**super().shape(input), "levels": list(dict.fromkeys(level.name for level in self.levels))}

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for level in self.levels:
            require(input, level.column, self.name(), number=True)
        if self.suppressed_when is not None:
            require(input, self.suppressed_when, self.name(), number=True)
        return ALARM_SCHEMA

    def fields(self) -> Mapping[str, Field]:
        """Returns what is remembered of each key, and when the next timer of its alarm elapses."""
        return memory_fields(self.count if self.within is not None else 1) | {"due": Field(np.int64, END)}

    def initial(self) -> AlarmState:
        return AlarmState(Columns(self.fields()))

    def step(self, state: AlarmState, batch: Batch) -> tuple[AlarmState, Sequence[Batch]]:
        out: list[dict[str, object]] = []
        if batch.port == ACTIONS:
            for action in batch.rows.to_pylist():
                self._act(state, action, out)
        else:
            if len(batch):
                self._judge(state, batch.rows, out)
            state.watermark = max(state.watermark, batch.watermark_us)
            due = state.columns["due"][: len(state.columns)]
            for slot in np.flatnonzero((due <= state.watermark) & (due != END)).tolist():
                self._advance(state, slot, state.watermark, out)
        return state, (Batch(to_batch(out, ALARM_SCHEMA), state.watermark),)

    def _judge(self, state: AlarmState, rows: pa.RecordBatch, out: list[dict[str, object]]) -> None:
        """Find, in a compiled loop, the rows where a condition changes, and take only those to the state machine."""
        slots, outcome = self._outcome(state, rows)
        judged_column = self._judged(rows.schema)
        named = (*EVIDENCE, *EXPLAINED, self.of, self.score_column, judged_column, *self._columns)
        keep = [name for name in dict.fromkeys(named) if name in rows.schema.names]
        # A loop over the few rows where something changes: about 20 µs each.
        for row in np.flatnonzero(outcome.changed).tolist():
            slot, at, level = int(slots[row]), int(outcome.time[row]), int(outcome.level[row])
            point = state.points.setdefault(slot, Point())
            emit = self._emitter(self._key(state, slot), out)
            hide_now = bool(outcome.hidden[row])
            # Suppression comes before an alarm of the same reading, and goes after the alarm has cleared.
            if hide_now and not point.by_design:
                point.suppress_by_design(at, True, self.policy, emit)
            if point.level != level:
                point.advance(at, self.policy, emit)
                if level:
                    signal = _signal(rows, row)
                    point.column = self._about(self.levels[level - 1], judged_column, signal, rows.schema)
                    point.signal = signal or point.column
                read = [*keep, point.column] if point.column in rows.schema.names else keep
                point.reading = {name: _plain(rows.column(name)[row].as_py()) for name in read}
                if level and (words := _contributions(rows, row, self.levels[level - 1].column)):
                    point.reading[CONTRIBUTIONS.name] = words
                point.condition(at, level, self.policy, emit)
            if not hide_now and point.by_design:
                point.suppress_by_design(at, False, self.policy, emit)
            state.columns["due"][slot] = point.due()

    def _outcome(self, state: AlarmState, rows: pa.RecordBatch) -> tuple[Codes, Outcome]:
        """Returns each row's slot, and what it leads to."""
        slots = state.columns.slots(rows.column("key"))
        signals = np.ascontiguousarray([floats(rows.column(name)) for name in self._columns])
        hide = np.zeros(len(slots)) if self.suppressed_when is None else floats(rows.column(self.suppressed_when))
        readings = ConditionRows(slots, times_us(rows), signals, hide)
        return slots, find_changes(readings, self._conditions, self._counting, memory_of(state.columns))

    def _judged(self, schema: pa.Schema) -> str:
        """Returns the column that a score is about: what the detector says, else the column with the reading."""
        known = judged(schema, self.score_column) if self.score_column in schema.names else None
        return known or (self.of if self.of in schema.names else "")

    def _about(self, level: Level, judged_column: str, signal: str, schema: pa.Schema) -> str:
        """Returns the column with the reading that a condition is about; of several judged ones that which is named."""
        if level.name != "score":
            return level.column
        return signal if signal in schema.names else judged_column

    def _advance(self, state: AlarmState, slot: int, to: int, out: list[dict[str, object]]) -> None:
        point = state.points[slot]
        point.advance(to, self.policy, self._emitter(self._key(state, slot), out))
        state.columns["due"][slot] = point.due()

    def _act(self, state: AlarmState, action: Mapping[str, object], out: list[dict[str, object]]) -> None:
        """Apply what a person did to the alarm it names; an alarm of another rule is not ours to answer for."""
        known, name, occurrence = operator_action(str(action["action"])), str(action["alarm"]), ""
        if known is not None and known.remarks:
            name, _, occurrence = name.rpartition("#")
        slot = self._find(state, name)
        if slot is None:
            return
        point, emit = state.points.setdefault(slot, Point()), self._emitter(self._key(state, slot), out, occurrence)
        point.advance(int(state.columns["clock"][slot]), self.policy, emit)
        until = action["until"]
        point.act(
            max(_as_us(action["time"]), state.watermark if state.watermark != END else START),
            str(action["action"]).replace("-", "_"),
            str(action["by"]),
            str(action["reason"]),
            None if until is None else _as_us(until),
            str(action["assignee"]),
            self.policy,
            emit,
        )
        state.columns["due"][slot] = point.due()

    def _find(self, state: AlarmState, alarm: str) -> int | None:
        """Returns the slot of an alarm, named by the id of its occurrence or as ``rule:key``; None if not ours."""
        if alarm.startswith(f"{self.rule}:"):
            return int(state.columns.slots(pa.array([alarm.removeprefix(f"{self.rule}:")]))[0])
        for slot, point in state.points.items():
            key = self._key(state, slot)
            if alarm in (self._rows.id(key, point), self._rows.id(key, Point())):
                return slot
        return None

    @staticmethod
    def _key(state: AlarmState, slot: int) -> str:
        return state.columns.keys.name(slot)

    def _emitter(self, key: str, out: list[dict[str, object]], occurrence: str = "") -> Emit:
        """Returns what writes down the events of a key's alarm; a remark may be of an earlier occurrence."""
        rows = self._rows

        def emit(point: Point, event: AlarmEvent) -> None:
            row = rows.row(key, point, event)
            is_past = event.name in REMARKS and occurrence not in ("", row["id"])
            out.append(rows.of_past(row, occurrence) if is_past else row)

        return emit

    def dump(self, state: AlarmState) -> pa.Table:
        points = [state.points[slot].to_json() if slot in state.points else None for slot in range(len(state.columns))]
        return _POINTS.dump(state.columns.dump(), points, state.watermark)

    def load(self, table: pa.Table) -> AlarmState:
        state = AlarmState(Columns.load(self.fields(), table))
        most = len(self.levels)  # a higher score to alarm from means fewer levels than when this was written
        for name in ("level", "worst"):
            np.minimum(state.columns[name], most, out=state.columns[name])
        state.columns["bits"][:] &= (1 << most) - 1
        points, state.watermark = _POINTS.load(table)
        slots = state.columns.slots(table.column("key").combine_chunks())
        for slot, saved in zip(slots.tolist(), points, strict=True):
            if saved is not None:
                point = state.points[slot] = Point.from_json(saved)
                point.level, point.announced = min(point.level, most), min(point.announced, most)
        return state


def _plain(value: object) -> float | str | None:
    """Returns a number, a moment or a text for JSON: None for null, NaN and infinity."""
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str) else None


def _signal(rows: pa.RecordBatch, row: int) -> str:
    """Returns what a row's column ``signal`` says; an empty text if there is none."""
    return str(rows.column("signal")[row].as_py() or "") if "signal" in rows.schema.names else ""


def _contributions(rows: pa.RecordBatch, row: int, verdict: str) -> str:
    """Returns in words what has contributed to what is in a column; an empty text if nobody says it."""
    known = explanation(rows.schema, verdict)
    numbers = rows.column(known[0])[row].as_py() if known is not None else None
    return "" if known is None or numbers is None else in_words(known[1], numbers)


def _as_us(moment: object) -> int:
    assert isinstance(moment, datetime)
    return as_us(moment)
