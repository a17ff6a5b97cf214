"""OEE: availability, performance, quality, MTBF and MTTR of each machine and shift, from what `downtime` tells."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator, model_validator
from pydantic import Field as Setting

from tocsin.bases import require
from tocsin.batch import END, KEY, START, TIME, TIME_TYPE, Batch, times_us
from tocsin.contracts import Operator
from tocsin.domain.alarms import to_batch
from tocsin.domain.calendars import Period
from tocsin.domain.effectiveness import COUNTED_SCHEMA, STATES, Span, factors, figures, windows
from tocsin.settings.quantities import Duration

WINDOW_SCHEMA = pa.schema(
    [
        KEY,
        TIME,
        pa.field("window_end", TIME_TYPE, nullable=False),
        pa.field("shift", pa.string(), nullable=False),
        *(pa.field(f"{name}_s", pa.float64(), nullable=False) for name in STATES),
        pa.field("stops", pa.int64(), nullable=False),
        pa.field("availability", pa.float64()),
        pa.field("mtbf_s", pa.float64()),
        pa.field("mttr_s", pa.float64()),
        pa.field("total", pa.float64()),
        pa.field("good", pa.float64()),
        pa.field("performance", pa.float64()),
        pa.field("quality", pa.float64()),
        pa.field("oee", pa.float64()),
    ]
)


@dataclass(slots=True)
class Machine:
    """Events that the windows still to come may need, by id; the window that is open, and the last event."""

    spans: dict[str, tuple[str, int, int | None]] = field(default_factory=dict)
    begin: int = 0
    end: int = END
    shift: str = ""
    last: int = 0
    parts: dict[int, tuple[float, float | None]] = field(default_factory=dict)
    """Parts made, all and good ones (None: not known), by the end of their window."""


@dataclass(slots=True)
class OeeState:
    """By key; how far time has come; when the next window is complete, and the earliest one that is not."""

    machines: dict[str, Machine] = field(default_factory=dict)
    watermark: int = START
    due: int = END
    held: int = END


def _for_all(value: Any) -> Any:
    """One duration stands for all machines."""
    return value if isinstance(value, Mapping) else {"*": value}


class Oee(Operator):
    """Add up, for each machine and shift (or each ``every``), how long it was in which state, as the shift ends.

    Put it behind `downtime`. A row leaves when the watermark has passed the window's end by ``grace``, so that a
    silence found late still counts: take heartbeat times missed. ``availability`` is running (with microstops) by the
    time that was neither a planned stop nor unknown; ``mtbf_s`` running time by unplanned stops, ``mttr_s`` the time
    they took by their number.

    With the parts that `downtime` counts (``from: [downtime, downtime.counts]``) there are also ``total`` and ``good``
    of the window, ``quality`` (good by total), ``performance`` (what the parts would have taken at ``ideal_cycle``, by
    running time) and ``oee``, the product of the three; what is not known is null. `domain.effectiveness` makes the
    Pareto of reasons and adds up lines, over the tables. The last window of a stream that ends is only as long as what
    is known: up to the machine's last event or part.

    ISO 22400-2:2014, key performance indicators for manufacturing operations.

    Examples
    --------
    >>> from tocsin.estimate.downtime import Downtime
    >>> press = rows({"state": ["running", "stopped", "running", "running"]}, every_s=900)
    >>> told = feed(Downtime(state="state"), press).combine_chunks().to_batches()[0]
    >>> feed(Oee(every="1h"), told).select(["running_s", "unplanned_stop_s", "availability"]).to_pylist()
    [{'running_s': 900.0, 'unplanned_stop_s': 900.0, 'availability': 0.5}]
    """

    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"every": "20s"},
        {
            "shifts": [{"name": "early", "begins": "00:00", "ends": "00:01", "days": "mon-sun"}],
            "grace": "5s",
            "ideal_cycle": {"*": "1s", "pump": "500ms"},
        },
    )

    KEEPS_STATE: ClassVar[Collection[str]] = ("grace", "ideal_cycle")

    every: Duration = Setting(0, ge=0)
    """Length of a window, if there are no shifts."""
    shifts: tuple[Period, ...] = ()
    """The shifts; time outside them is not added up."""
    grace: Duration = Setting(0, ge=0)
    """How long after a window's end its events may still change."""
    ideal_cycle: Annotated[
        Mapping[str, Duration], BeforeValidator(_for_all, json_schema_input_type=Duration | dict[str, Duration])
    ] = {}
    """The shortest time that a part takes; or by key, where ``*`` stands for all others."""

    @model_validator(mode="after")
    def _one_kind_of_window(self) -> Self:
        if bool(self.every) == bool(self.shifts):
            raise ValueError("give either every or shifts")
        return self

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Events of machines that stop and go in the kit's rows."""
        made: list[dict[str, Any]] = []
        was: dict[str, tuple[int, str]] = {}
        moments = zip(rows.column("key").to_pylist(), times_us(rows).tolist(), strict=True)
        for i, (key, at) in enumerate(moments):
            kind = STATES[i // 5 % 4]
            if key in was and was[key][1] != kind:
                made.append(_event(key, at, was[key][1], was[key][0], at, 1))
            if key not in was or was[key][1] != kind:
                made.append(_event(key, at, kind, at, None, 0))
                was[key] = (at, kind)
            if i % 4 == 1:
                part = {"id": "", "kind": "", "status": "counted", "end": at, "total": 2.0, "good": 1.0}
                made.append(_event(key, at, "", at, at, 0) | part)
        return to_batch(made, COUNTED_SCHEMA)

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for column in ("id", "kind", "status", "start", "end"):
            require(input, column, self.name())
        for column in ("total", "good") if {"total", "good"} & set(input.names) else ():
            require(input, column, self.name(), number=True)
        return WINDOW_SCHEMA

    def initial(self) -> OeeState:
        return OeeState()

    def step(self, state: OeeState, batch: Batch) -> tuple[OeeState, Sequence[Batch]]:
        out: list[dict[str, Any]] = []
        names = ("key", "id", "kind", "status")
        counted = "total" in batch.schema.names
        columns = [*(batch.rows.column(n).to_pylist() for n in names), _us(batch.rows, "start"), _us(batch.rows, "end")]
        columns += [batch.rows.column(n).to_pylist() if counted else [None] * len(batch) for n in ("total", "good")]
        # A loop over events, which are few, and over counts: 5 µs each.
        for key, id, kind, status, start, end, total, good in zip(*columns, strict=True):
            machine = state.machines.get(key)
            if machine is None or min(state.watermark, state.held) <= start < machine.begin:
                machine = state.machines[key] = self._next(machine or Machine(), start)
                state.due, state.held = min(state.due, machine.end), min(state.held, machine.begin)
            machine.last = max(machine.last, start, end or start)
            if status == "counted":
                if total is not None:
                    self._count(machine, start, total, good)
            elif status == "withdrawn":
                machine.spans.pop(id, None)
            else:
                machine.spans[id] = (kind, start, end)
        state.watermark = max(state.watermark, batch.watermark_us)
        if state.watermark - self.grace >= state.due:
            for key, machine in state.machines.items():
                self._close(key, machine, state.watermark, counted, out)
            self._look_ahead(state)
        watermark = END if state.watermark == END else min(state.watermark, state.held)
        return state, (Batch(to_batch(out, WINDOW_SCHEMA), watermark),)

    def _window(self, at: int) -> tuple[int, int, str]:
        """The window that holds a moment, from there on; or else the next one."""
        return next(windows(at, at + max(self.every, 8 * 86_400_000_000), self.shifts, self.every), (at, END, ""))

    def _next(self, machine: Machine, at: int) -> Machine:
        machine.begin, machine.end, machine.shift = self._window(at)
        return machine

    def _count(self, machine: Machine, at: int, total: float, good: float | None) -> None:
        """Parts belong to the window that holds their time; outside of shifts to none."""
        end = machine.end
        if not machine.begin <= at < end:
            begin, end, _ = self._window(at)
            if begin > at or end <= machine.begin:
                return
        if end == END:
            return
        before, fine = machine.parts.get(end, (0.0, 0.0))
        machine.parts[end] = before + total, None if good is None or fine is None else fine + good

    def _close(self, key: str, machine: Machine, watermark: int, counted: bool, out: list[dict[str, Any]]) -> None:
        """Add up the windows that are complete."""
        while (
            machine.end != END and machine.begin < machine.last if watermark == END else self._over(machine, watermark)
        ):
            end = min(machine.end, machine.last) if watermark == END else machine.end
            held = figures((Span(*span) for span in machine.spans.values()), machine.begin, end)
            total, good = machine.parts.pop(machine.end, (0.0, 0.0))
            cycle = self.ideal_cycle.get(key, self.ideal_cycle.get("*"))
            ideal_s = None if cycle is None or not counted else cycle / 1e6 * total
            out.append(
                {"key": key, "time": machine.begin, "window_end": end, "shift": machine.shift, **held}
                | {"total": total if counted else None, "good": good if counted else None}
                | factors(held, total, good, ideal_s)
            )
            self._next(machine, machine.end)
            machine.spans = {
                id: span
                for id, span in machine.spans.items()
                if span[2] is None or span[2] > machine.begin - self.grace
            }

    def _over(self, machine: Machine, watermark: int) -> bool:
        return machine.end != END and machine.end <= watermark - self.grace

    @staticmethod
    def _look_ahead(state: OeeState) -> None:
        state.due = min((m.end for m in state.machines.values()), default=END)
        state.held = min((m.begin for m in state.machines.values() if m.end != END), default=END)

    def dump(self, state: OeeState) -> pa.Table:
        names = list(state.machines)
        return pa.table(
            {
                "key": pa.array(names, pa.string()),
                "machine": pa.array([json.dumps(asdict(state.machines[n])) for n in names], pa.string()),
                "watermark": pa.array(np.full(len(names), state.watermark, np.int64)),
            }
        )

    def load(self, table: pa.Table) -> OeeState:
        state = OeeState()
        for key, text, watermark in zip(*(table.column(i).to_pylist() for i in range(3)), strict=True):
            saved = json.loads(text)
            spans = {id: tuple(span) for id, span in saved.pop("spans").items()}
            parts = {int(end): tuple(made) for end, made in saved.pop("parts").items()}
            state.machines[key] = Machine(spans=spans, parts=parts, **saved)
            state.watermark = max(state.watermark, watermark)
        self._look_ahead(state)
        return state


def _us(rows: pa.RecordBatch, column: str) -> list[int | None]:
    found: list[int | None] = rows.column(column).cast(pa.int64()).to_pylist()
    return found


def _event(key: str, at: int, kind: str, start: int, end: int | None, revision: int) -> dict[str, Any]:
    """An event as `downtime` tells it, for the kit."""
    return {
        "key": key, "time": at, "id": f"{key}{start}", "kind": kind, "status": "open" if end is None else "closed",
        "start": start, "end": end, "duration_s": None, "revision": revision, "reason": "", "shift": "",
        "total": None, "good": None,
    }  # fmt: skip
