"""OEE: availability, performance, quality, MTBF and MTTR of each machine and shift, from what `downtime` tells."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Self

import pyarrow as pa
from pydantic import BeforeValidator, model_validator
from pydantic import Field as Setting

from tocsin.bases import require
from tocsin.batch import END, KEY, START, TIME, TIME_TYPE, Batch, times_us, to_batch
from tocsin.contracts import Operator
from tocsin.domain.calendars import Period
from tocsin.domain.effectiveness import COUNTED_SCHEMA, WORK_UNIT_STATES, Span, factors, figures, windows
from tocsin.settings.quantities import Duration
from tocsin.state import Remembered

WINDOW_SCHEMA = pa.schema(
    [
        KEY,
        TIME,
        pa.field("window_end", TIME_TYPE, nullable=False),
        pa.field("shift", pa.string(), nullable=False),
        *(pa.field(f"{name}_s", pa.float64(), nullable=False) for name in WORK_UNIT_STATES),
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


_UNITS = Remembered("machine")


@dataclass(slots=True)
class WorkUnit:
    """What is known of one machine (ISO 22400 calls it a work unit)."""

    spans: dict[str, tuple[str, int, int | None]] = field(default_factory=dict)
    """Events that the windows still to come may need, by id: kind, start, end (None: it lasts)."""
    begin: int = 0
    """When the window that is open begins."""
    end: int = END
    """When it ends."""
    shift: str = ""
    """The name of its shift."""
    last: int = 0
    """The latest time that an event or a count has told of."""
    parts: dict[int, tuple[float, float | None]] = field(default_factory=dict)
    """Parts made, all and good ones (None: not known), by the end of their window."""


@dataclass(slots=True)
class OeeState:
    """All machines, and how far time has come."""

    units: dict[str, WorkUnit] = field(default_factory=dict)
    """By key."""
    watermark: int = START
    due: int = END
    """When the next window ends."""
    held: int = END
    """When the earliest window begins that is not complete."""


def _for_all(value: Any) -> Any:
    """Returns durations by key: one duration alone stands for all machines."""
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

    ONE_TIME: ClassVar[bool] = True
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
        """Returns events of machines that stop and go in the kit's rows."""
        made: list[dict[str, Any]] = []
        was: dict[str, tuple[int, str]] = {}
        moments = zip(rows.column("key").to_pylist(), times_us(rows).tolist(), strict=True)
        for i, (key, at) in enumerate(moments):
            kind = WORK_UNIT_STATES[i // 5 % 4]
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
            unit = state.units.get(key)
            if unit is None or min(state.watermark, state.held) <= start < unit.begin:
                unit = state.units[key] = self._next(unit or WorkUnit(), start)
                state.due, state.held = min(state.due, unit.end), min(state.held, unit.begin)
            unit.last = max(unit.last, start, end or start)
            if status == "counted":
                if total is not None:
                    self._count(unit, start, total, good)
            elif status == "withdrawn":
                unit.spans.pop(id, None)
            else:
                unit.spans[id] = (kind, start, end)
        state.watermark = max(state.watermark, batch.watermark_us)
        if state.watermark - self.grace >= state.due:
            for key, unit in state.units.items():
                self._close(key, unit, state.watermark, counted, out)
            self._look_ahead(state)
        watermark = END if state.watermark == END else min(state.watermark, state.held)
        return state, (Batch(to_batch(out, WINDOW_SCHEMA), watermark),)

    def _window(self, at: int) -> tuple[int, int, str]:
        """Returns begin, end and shift of the window that holds a moment, or else of the next one."""
        return next(windows(at, at + max(self.every, 8 * 86_400_000_000), self.shifts, self.every), (at, END, ""))

    def _next(self, unit: WorkUnit, at: int) -> WorkUnit:
        unit.begin, unit.end, unit.shift = self._window(at)
        return unit

    def _count(self, unit: WorkUnit, at: int, total: float, good: float | None) -> None:
        """Count parts in the window that holds their time; outside of shifts they are in none."""
        end = unit.end
        if not unit.begin <= at < end:
            begin, end, _ = self._window(at)
            if begin > at or end <= unit.begin:
                return
        if end == END:
            return
        before, fine = unit.parts.get(end, (0.0, 0.0))
        unit.parts[end] = before + total, None if good is None or fine is None else fine + good

    def _close(self, key: str, unit: WorkUnit, watermark: int, counted: bool, out: list[dict[str, Any]]) -> None:
        """Add up the windows that are complete."""
        while unit.end != END and unit.begin < unit.last if watermark == END else self._over(unit, watermark):
            end = min(unit.end, unit.last) if watermark == END else unit.end
            held = figures((Span(*span) for span in unit.spans.values()), unit.begin, end)
            total, good = unit.parts.pop(unit.end, (0.0, 0.0))
            cycle = self.ideal_cycle.get(key, self.ideal_cycle.get("*"))
            ideal_s = None if cycle is None or not counted else cycle / 1e6 * total
            out.append(
                {"key": key, "time": unit.begin, "window_end": end, "shift": unit.shift, **held}
                | {"total": total if counted else None, "good": good if counted else None}
                | factors(held, total, good, ideal_s)
            )
            self._next(unit, unit.end)
            unit.spans = {
                id: span for id, span in unit.spans.items() if span[2] is None or span[2] > unit.begin - self.grace
            }

    def _over(self, unit: WorkUnit, watermark: int) -> bool:
        return unit.end != END and unit.end <= watermark - self.grace

    @staticmethod
    def _look_ahead(state: OeeState) -> None:
        state.due = min((m.end for m in state.units.values()), default=END)
        state.held = min((m.begin for m in state.units.values() if m.end != END), default=END)

    def dump(self, state: OeeState) -> pa.Table:
        keys = pa.table({"key": pa.array(list(state.units), pa.string())})
        return _UNITS.dump(keys, [asdict(unit) for unit in state.units.values()], state.watermark)

    def load(self, table: pa.Table) -> OeeState:
        state = OeeState()
        units, state.watermark = _UNITS.load(table)
        for key, saved in zip(table.column("key").to_pylist(), units, strict=True):
            spans = {id: tuple(span) for id, span in saved.pop("spans").items()}
            parts = {int(end): tuple(made) for end, made in saved.pop("parts").items()}
            state.units[key] = WorkUnit(spans=spans, parts=parts, **saved)
        self._look_ahead(state)
        return state


def _us(rows: pa.RecordBatch, column: str) -> list[int | None]:
    moments: list[int | None] = rows.column(column).cast(pa.int64()).to_pylist()
    return moments


def _event(key: str, at: int, kind: str, start: int, end: int | None, revision: int) -> dict[str, Any]:
    """Returns an event as `downtime` tells it, for the kit."""
    return {
        "key": key, "time": at, "id": f"{key}{start}", "kind": kind, "status": "open" if end is None else "closed",
        "start": start, "end": end, "duration_s": None, "revision": revision, "reason": "", "shift": "",
        "total": None, "good": None,
    }  # fmt: skip
