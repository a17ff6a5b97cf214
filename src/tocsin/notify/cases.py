"""Cases: one open case per asset with its evidence, first-out, and quiet in an alarm flood."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field as Setting

from tocsin.bases import added
from tocsin.batch import END, START, STEP, Batch, short_id, times_us, to_batch
from tocsin.contracts import Operator
from tocsin.domain.alarm_rows import ALARM_SCHEMA
from tocsin.domain.alarms import (
    ACTIVE,
    ACTIVE_UNACK,
    CASE_CLOSED,
    CASE_OPENED,
    CASE_WORSE,
    CLEARED_ACK,
    CLOSED,
    FLOOD_BEGINS,
    FLOOD_OVER,
    NORMAL,
    RAISING,
    SEVERITIES,
    severity,
)
from tocsin.domain.calendars import as_us
from tocsin.errors import SchemaError
from tocsin.settings.quantities import Duration
from tocsin.state import Remembered

CASE_FIELDS = (
    pa.field("asset", pa.string(), nullable=False),
    pa.field("first_out", pa.bool_(), nullable=False),
)
MEMBER = ("rule", "key", "signal", "time", "level", "value", "message", "severity")
"""What the evidence of a case says of each alarm."""
MEMBERS_MAX = 100
"""Alarms that the evidence of one case names."""
_CASES = Remembered("case")
Row = dict[str, Any]


@dataclass(slots=True)
class Case:
    """What is known of an asset: its open case, if any, the alarms in it, and its latest alarms (for floods)."""

    id: str = ""
    """The open case; an empty text if there is none."""
    started: int = 0
    """When it was opened."""
    first_out: str = ""
    """The id of its first alarm."""
    priority: int = -1
    """The highest priority that it has rung with; -1 before it has rung."""
    members: dict[str, Row] = field(default_factory=dict)
    """What the evidence says of each alarm in it, by the alarm's id."""
    open: dict[str, str] = field(default_factory=dict)
    """The alarms in it that are not closed, by id, and their state."""
    raises: list[int] = field(default_factory=list)
    """When alarms of the asset were raised lately; for floods."""
    flood: bool = False
    """Whether there is a flood of alarms."""
    told: int = 0
    """How many rows there are of the asset's cases; the next row has this number plus one."""
    close_due: int = END
    """When the case closes, if nothing happens before."""
    flood_due: int = END
    """When the flood is over, or the latest alarms no longer count, if nothing happens before."""


@dataclass(slots=True)
class CasesState:
    """Cases by asset, and the rows that wait for the watermark."""

    ONE_TIME: ClassVar[bool] = True
    KEEPS_STATE: ClassVar[Collection[str]] = ("quiet", "flood_max", "flood_within")

    cases: dict[str, Case] = field(default_factory=dict)
    waiting: list[Row] = field(default_factory=list)
    watermark: int = START


class Cases(Operator):
    """Gather the alarms of an asset into one open case, so that people are called once and see what came first.

    Put it behind `alarm` (the streams of several alarms may flow into one). All alarm rows pass, with the case they
    belong to, the asset, and whether the alarm was the first out; between them stand the case's own rows:
    ``case_opened``, ``case_worse`` (a more severe alarm has joined) and ``case_closed``, whose evidence names every
    alarm in order. Only ``case_opened`` and ``case_worse`` ring, and re-alarms; while more than ``flood_max`` alarms
    come in ``flood_within``, only critical ones. A case closes when all its alarms have been closed for ``quiet``.

    Alarms of different keys are put in order of their time first, so rows leave when the watermark has passed them.
    An asset is the first ``depth`` steps of the key's path: its rows must reach the same copy of this step.

    ISA-18.2-2016 (alarm floods, first-out); EEMUA 191 (ten alarms in ten minutes).

    Examples
    --------
    >>> from tocsin.notify.alarm import Alarm
    >>> readings = rows({"key": ["a/pump", "a/motor", "a/pump"], "value": [81.0, 82.0, 20.0]})
    >>> hot = feed(Alarm(rule="hot", high=80), readings).combine_chunks().to_batches()[0]
    >>> feed(Cases(depth=1), hot).select(["event", "key", "asset", "first_out", "ring"]).to_pylist()
    [{'event': 'case_opened', 'key': 'a', 'asset': 'a', 'first_out': False, 'ring': True},
     {'event': 'raised', 'key': 'a/pump', 'asset': 'a', 'first_out': True, 'ring': False},
     {'event': 'raised', 'key': 'a/motor', 'asset': 'a', 'first_out': False, 'ring': False},
     {'event': 'cleared', 'key': 'a/pump', 'asset': 'a', 'first_out': True, 'ring': False}]
    """

    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {},
        {"depth": 1, "quiet": "5s", "flood_max": 2, "flood_within": "20s"},
    )

    depth: int = Setting(0, ge=0)
    """How many steps of the key's path name the asset (``site/line/machine``); 0 for the whole key."""
    separator: str = Setting(STEP, min_length=1)
    """What stands between the steps of a key's path."""
    quiet: Duration = Setting(0, ge=0)
    """How long all alarms must have been closed before their case closes."""
    flood_max: int = Setting(10, ge=1)
    """More alarms of an asset than this in ``flood_within`` are a flood; it is over at half of them."""
    flood_within: Duration = Setting(600_000_000, gt=0)
    """The time in which alarms count as a flood."""

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Returns alarms that come and go in the kit's rows."""
        value, made = rows.column("value").to_pylist(), []
        moments = zip(rows.column("key").to_pylist(), times_us(rows).tolist(), strict=True)
        for i, (machine, at) in enumerate(moments):
            key, on = f"{'south' if machine == 'motor' else 'north'}/{machine}", i % 5 < 3
            made.append(
                dict.fromkeys(ALARM_SCHEMA.names, "")
                | {"key": key, "time": at, "id": f"{key}-{i // 15}", "version": 1, "priority": 60 + i % 40}
                | {"state": ACTIVE_UNACK if on else CLEARED_ACK, "event": "raised" if on else "cleared"}
                | {
                    "ring": on,
                    "value": value[i],
                    "expected": None,
                    "limit": None,
                    "score": None,
                    "started": at,
                    "evidence": "{}",
                    "number": i,
                }
            )
        return to_batch(made, ALARM_SCHEMA)

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for wanted in ALARM_SCHEMA:
            if wanted.name not in input.names or input.field(wanted.name).type != wanted.type:
                raise SchemaError(
                    f"cases needs the rows of an alarm, with column '{wanted.name}' ({wanted.type}); "
                    f"what reaches it is [{', '.join(input.names)}]"
                )
        return added(ALARM_SCHEMA, CASE_FIELDS, self.name())

    def initial(self) -> CasesState:
        return CasesState()

    def step(self, state: CasesState, batch: Batch) -> tuple[CasesState, Sequence[Batch]]:
        out: list[Row] = []
        state.waiting += [_in_us(row) for row in batch.rows.select(ALARM_SCHEMA.names).to_pylist()]
        state.watermark = max(state.watermark, batch.watermark_us)
        ready = [row for row in state.waiting if row["time"] < state.watermark]
        state.waiting = [row for row in state.waiting if row["time"] >= state.watermark]
        # The sort is stable: rows of one alarm keep their order. Alarm rows are few: about 10 µs each.
        for row in sorted(ready, key=lambda row: (row["time"], row["key"], row["rule"])):
            asset = self.asset(row["key"])
            case = state.cases.setdefault(asset, Case())
            self._advance(asset, case, row["time"], out)
            self._take(asset, case, row, out)
        for asset, case in state.cases.items():
            self._advance(asset, case, state.watermark - 1, out)
        # What is known of an asset without a case and without late alarms is nothing: it need not be kept.
        state.cases = {a: c for a, c in state.cases.items() if c.id or c.raises or c.flood}
        return state, (Batch(to_batch(out, added(ALARM_SCHEMA, CASE_FIELDS, self.name())), state.watermark),)

    def shard(self, keys: pa.Array) -> pa.Array:
        """The asset: the alarms of all its keys make one case."""
        return pa.array([self.asset(key) for key in keys.to_pylist()], pa.string()) if self.depth else keys

    def meets(self) -> Literal["key", "path", "all"]:
        if not self.depth:
            return "key"
        return "path" if self.separator == STEP else "all"

    def asset(self, key: str) -> str:
        """Returns the asset that a key belongs to."""
        return self.separator.join(key.split(self.separator)[: self.depth]) if self.depth else key

    def _take(self, asset: str, case: Case, row: Row, out: list[Row]) -> None:
        at, id = row["time"], row["id"]
        rings = row["ring"] and row["event"] not in (*RAISING, "escalated")
        if row["event"] in RAISING:
            recent = [t for t in case.raises if t > at - self.flood_within]
            case.raises = [*recent[-self.flood_max :], at]
            if len(case.raises) > self.flood_max and not case.flood:
                case.flood = True
                self._say(asset, case, row, at, FLOOD_BEGINS, True, out)
            case.flood_due = self._flood_over(case) if case.flood else case.raises[-1] + self.flood_within
        hidden = case.flood and row["priority"] < SEVERITIES[-1].least
        if row["state"] not in CLOSED:
            case.close_due = END
            case.open[id] = row["state"]
            fresh = not case.id
            if fresh:
                case.id, case.started, case.first_out = short_id("case", asset, row["started"] or at, id), at, id
            if len(case.members) < MEMBERS_MAX or id in case.members:
                case.members[id] = {name: row[name] for name in MEMBER}
            if row["state"] in ACTIVE and row["ring"] and row["priority"] > case.priority:
                worse = CASE_OPENED if case.priority < 0 else CASE_WORSE
                case.priority = row["priority"]
                self._say(asset, case, row, at, worse, not hidden, out)
        else:
            case.open.pop(id, None)
        out.append(
            row
            | {"case": case.id, "asset": asset, "first_out": id == case.first_out}
            | {"ring": rings and not hidden, "mode": "flood" if row["ring"] and hidden else row["mode"]}
        )
        if case.id and not case.open:
            case.close_due = at + self.quiet

    def _flood_over(self, case: Case) -> int:
        """Returns when half as many alarms are left in the time that counts."""
        return case.raises[-(self.flood_max // 2 + 1) :][0] + self.flood_within

    def _advance(self, asset: str, case: Case, to: int, out: list[Row]) -> None:
        """Let the timers elapse that are due."""
        while (at := min(case.close_due, case.flood_due)) <= to and at != END:
            if case.flood_due == at:
                case.flood_due = END
                if case.flood:
                    case.flood = False
                    self._say(asset, case, None, at, FLOOD_OVER, False, out)
                    case.flood_due = case.raises[-1] + self.flood_within
                else:
                    case.raises = []
            else:
                self._say(asset, case, None, at, CASE_CLOSED, False, out)
                case.id, case.first_out, case.priority, case.close_due = "", "", -1, END
                case.members, case.open = {}, {}

    def _say(self, asset: str, case: Case, row: Row | None, at: int, event: str, ring: bool, out: list[Row]) -> None:
        priority = max(case.priority, 0) if row is None else row["priority"]
        first = case.members.get(case.first_out)
        count = len(case.members)
        case.told += 1
        text = first["message"] if first else ""
        evidence = {"first_out": case.first_out, "alarms": [{"id": i} | m for i, m in case.members.items()]}
        out.append(
            dict.fromkeys(("value", "expected", "limit", "score"))
            | {
                "key": asset, "time": at, "id": case.id or short_id("asset", asset), "case": case.id, "rule": "case",
                "version": 1, "priority": priority, "severity": severity(priority),
                "state": CLEARED_ACK if event in (CASE_CLOSED, FLOOD_OVER) else ACTIVE_UNACK,
                "previous": NORMAL if event == CASE_OPENED else ACTIVE_UNACK, "mode": "", "event": event,
                "ring": ring, "level": row["level"] if row else "", "signal": row["signal"] if row else "",
                "unit": "", "advice": row["advice"] if row else "", "started": case.started or None,
                "message": f"{asset}: {event.replace('_', ' ')}, {count} alarm{'s' * (count != 1)}, first: {text}",
                "assignee": "", "by": "", "reason": "", "evidence": json.dumps(evidence), "number": case.told,
                "asset": asset, "first_out": False,
            }
        )  # fmt: skip

    def dump(self, state: CasesState) -> pa.Table:
        waiting: dict[str, list[Row]] = {}
        for row in state.waiting:
            waiting.setdefault(self.asset(row["key"]), []).append(row)
        assets = sorted(state.cases.keys() | waiting.keys())
        saved = [[asdict(state.cases.get(asset, Case())), waiting.get(asset, [])] for asset in assets]
        return _CASES.dump(pa.table({"key": pa.array(assets, pa.string())}), saved, state.watermark)

    def load(self, table: pa.Table) -> CasesState:
        state = CasesState()
        saved, state.watermark = _CASES.load(table)
        for asset, (case, waiting) in zip(table.column("key").to_pylist(), saved, strict=True):
            state.cases[asset] = Case(**case)
            state.waiting += ({"assignee": ""} | row for row in waiting)  # rows from before there was one lack it
        return state


def _in_us(row: Row) -> Row:
    return {name: as_us(value) if isinstance(value, datetime) else value for name, value in row.items()}
