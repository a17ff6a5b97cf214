"""Source `simulate`: a small plant that is not there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa
from pydantic import AwareDatetime, BeforeValidator, Field, model_validator

from tocsin.acquire._plant import CHUNK, SCARA_TAGS, SIGNALS, STATES, SimulatedMachine
from tocsin.batch import END, KEY, TIME, Batch, Floats, Ints, as_times
from tocsin.contracts import Offset, Reader, Source
from tocsin.ends import OneSplit
from tocsin.errors import UnknownName
from tocsin.settings import Settings
from tocsin.settings.quantities import Duration
from tocsin.world import Clock, SystemClock, World

SCHEMA = pa.schema(
    [
        KEY,
        TIME,
        pa.field("signal", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("state", pa.string(), nullable=False),
    ]
)
WAVEFORMS = pa.schema(
    [
        KEY,
        TIME,
        pa.field("waveform", pa.list_(pa.float32()), nullable=False),
        pa.field("rate", pa.float64(), nullable=False),
        pa.field("speed", pa.float64(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
    ]
)
"""What motors send with ``waveforms``: acceleration in g, samples a second, and the shaft's speed in rpm."""
Kind = Literal["pump", "motor", "compressor", "scara"]
Rate = Annotated[
    float,
    BeforeValidator(
        lambda v: float(v[:-1]) if isinstance(v, str) and v.endswith("x") else v, json_schema_input_type=float | str
    ),
    Field(ge=0),
]


class Fault(Settings):
    """Something that goes wrong with one machine for a time."""

    name: Literal[
        "bearing_wear", "outer_race", "inner_race", "blocked_valve", "leak", "stuck_sensor", "dropout", "stop"
    ]
    """What goes wrong; bearings wear at the outer race."""
    machine: str
    """Which machine it goes wrong with."""
    start: Duration
    """When, from the start of the simulation."""
    duration: Duration | None = None
    """How long; for ever if empty."""
    growth: Duration = 10_000_000
    """How long wear, a blockage or a leak takes to grow to its full size."""
    signal: str = ""
    """Which signal sticks or drops out; all of the machine's if empty."""


class AccelerometerSettings(Settings):
    """How the accelerometers of motors take waveforms."""

    samples: int = Field(4096, ge=256, le=65_536)
    """How many samples a waveform has."""
    rate: float = Field(12_000.0, gt=7_000, le=200_000)
    """Samples a second; the housing rings at 3,200 Hz, which needs more than twice as many."""


class Simulate(Source):
    """Make up the readings of a small plant: a pump, a motor with its bearing, a compressor and a SCARA robot.

    Use it to try a pipeline, to demonstrate, and to test a detector against what is known to be true: the column
    ``state`` says whether the machine was ``running``, ``idle`` or ``stopped``, whatever its sensors say. Load
    follows the day, heat follows the load with a lag, bearings wear, sensors are noisy, and faults come when they are
    told to. The same settings give the same readings, however they are read.

    With ``waveforms`` it is the accelerometers of motors that send, a waveform each time (columns ``waveform`` in g,
    ``rate`` in Hz, ``speed`` in rpm), from beside a 6205 bearing, for `spectrum`.

    Examples
    --------
    >>> plant = Simulate(machines={"p1": "pump"}, duration="3s", rate=0, start="2026-01-01T00:00:00Z")
    >>> from tocsin.testing import read_from
    >>> batch, offset = read_from(plant).poll(1000, timeout_s=0)
    >>> batch.rows.num_rows, batch.rows["signal"][0].as_py(), offset["tick"]
    (12, 'flow', 3)
    """

    seed: int = 1
    """What chance depends on."""
    machines: Mapping[str, Kind] = {"pump": "pump", "motor": "motor", "compressor": "compressor", "scara": "scara"}
    """The machines by name, and what kind each is of."""
    every: Duration = 1_000_000
    """Time between two readings of a signal."""
    rate: Rate = 1.0
    """How fast time passes: 1x is real time, 60x a minute a second, 0 as fast as it is read."""
    start: AwareDatetime | None = None
    """When the first reading is; ``history`` before now if empty."""
    history: Duration = 0
    """How long it has been running when it is first read, if it has no ``start``; all that comes at once."""
    duration: Duration | None = None
    """After how much simulated time it ends; never if empty."""
    stands_still: bool = False
    """Whether it stands still while nobody reads it and goes on from there, by its own day; else all comes later."""
    stops_per_day: float = Field(2.0, ge=0, le=144)
    """How often each machine stops by chance, for some minutes (and idles twice as often)."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong, with which machine, and when."""
    waveforms: AccelerometerSettings | None = None
    """To have waveforms of vibration instead of readings; then all machines are motors."""

    @model_validator(mode="after")
    def _machines_exist(self) -> Simulate:
        for fault in self.faults:
            if fault.machine not in self.machines:
                raise ValueError(str(UnknownName("machine", fault.machine, self.machines)))
        others = [name for name, kind in self.machines.items() if kind != "motor"]
        if self.waveforms is not None and others:
            raise ValueError(f"only motors send waveforms; make '{others[0]}' a motor, or leave it out of machines")
        return self

    def output_schema(self) -> pa.Schema:
        return SCHEMA if self.waveforms is None else WAVEFORMS

    def bounded(self) -> bool:
        return self.duration is not None

    def open(self, world: World) -> OneSplit:
        return OneSplit(lambda offset: Plant(self, offset, world.clock))


class Plant(Reader):
    """The open plant. Its offset: how many ticks have been read, when the first one was, and how long it has stood."""

    def __init__(self, settings: Simulate, offset: Offset | None, clock: Clock) -> None:
        self._clock = clock
        now_us = clock.now_us()
        if offset is not None:
            self.tick, start_us = int(offset["tick"]), int(offset["start_us"])
            self._stood_us = int(offset.get("stood_us", 0))  # 0.1.0 knew of no standing still
        else:
            self.tick, start_us, self._stood_us = 0, _start_us(settings, now_us), 0
        self._settings, self._start_us = settings, start_us
        if settings.stands_still and offset is not None:
            self._stood_us += max(0, (now_us - self._time_us(self.tick)) // settings.every * settings.every)
        self._machines = [
            SimulatedMachine(
                name, kind, settings.seed, start_us, settings.every, settings.stops_per_day,
                tuple(f for f in settings.faults if f.machine == name),
            )
            for name, kind in settings.machines.items()
        ]  # fmt: skip
        self._columns = sum(len(m.signals) for m in self._machines)
        self._rows_a_tick = self._columns if settings.waveforms is None else len(self._machines)
        # Without a start of its own the plant goes on while nobody reads it, as a device that buffers would.
        self._paced_from = (start_us + self._stood_us, 0) if settings.start is None else (now_us, self.tick)
        self._chunk: tuple[int, Floats, Ints] = (-1, np.zeros((0, 0)), np.zeros(0, np.int64))

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        if self._ready() <= 0:
            self._clock.sleep(min(self._wait_s(), timeout_s))
        last = self._last()
        if last is not None and self.tick >= last:
            return Batch(self._rows(0), END), self._offset()
        count = min(self._ready(), max(1, rows_max // max(1, self._rows_a_tick)), CHUNK - self.tick % CHUNK)
        if count <= 0:
            return None
        rows = self._rows(count)
        self.tick += count
        ended = last is not None and self.tick >= last
        return Batch(rows, END if ended else self._time_us(self.tick)), self._offset()

    def close(self) -> None:
        pass

    def _offset(self) -> dict[str, int]:
        return {"tick": self.tick, "start_us": self._start_us, "stood_us": self._stood_us}

    def _time_us(self, tick: int) -> int:
        return self._start_us + self._stood_us + tick * self._settings.every

    def _last(self) -> int | None:
        return None if self._settings.duration is None else -(-self._settings.duration // self._settings.every)

    def _ready(self) -> int:
        """How many ticks may be read now."""
        ready = 2**31
        if self._settings.rate:
            from_us, from_tick = self._paced_from
            passed_us = (self._clock.now_us() - from_us) * self._settings.rate
            ready = int(passed_us // self._settings.every) + 1 + from_tick - self.tick
        last = self._last()
        return ready if last is None else min(ready, last - self.tick)

    def _wait_s(self) -> float:
        """How long until the next tick."""
        last = self._last()
        if not self._settings.rate or (last is not None and self.tick >= last):
            return 0.0
        from_us, from_tick = self._paced_from
        due_us = from_us + (self.tick - from_tick) * self._settings.every / self._settings.rate
        return max(0.0, (due_us - self._clock.now_us()) / 1e6)

    def _next(self, count: int) -> tuple[Floats, Ints]:
        """Values and states of the next ticks, all in one chunk, shape (ticks, signals of all machines)."""
        number, first = divmod(self.tick, CHUNK)
        if self._chunk[0] != number:
            chunks = [machine.chunk(number) for machine in self._machines]
            states = np.column_stack([np.repeat(s[:, None], v.shape[1], axis=1) for v, s in chunks])
            self._chunk = (number, np.column_stack([v for v, _ in chunks]), states)
        return self._chunk[1][first : first + count], self._chunk[2][first : first + count]

    def _rows(self, count: int) -> pa.RecordBatch:
        """The next ticks: by time, then machine, then signal."""
        waveforms = self._settings.waveforms
        return self._readings(count) if waveforms is None else self._waveforms(count, waveforms)

    def _waveforms(self, count: int, sensor: AccelerometerSettings) -> pa.RecordBatch:
        values, states = self._next(count)
        signals = len(SIGNALS["motor"])
        speed_at, rms_at = (SIGNALS["motor"].index(name) for name in ("speed", "vibration.rms"))
        rows = []
        for tick in range(count):
            for number, machine in enumerate(self._machines):
                speed, rms = values[tick, number * signals + speed_at], values[tick, number * signals + rms_at]
                if not np.isnan(speed):
                    wave = machine.waveform(self.tick + tick, speed, rms, sensor.samples, sensor.rate)
                    time_us = self._time_us(self.tick + tick)
                    rows.append((number, time_us, wave, max(speed, 0.0), STATES[states[tick, number * signals]]))
        owners, times, waves, speeds, words = zip(*rows, strict=True) if rows else ((),) * 5
        flat = np.concatenate(waves).astype(np.float32) if rows else np.zeros(0, np.float32)
        ends = np.arange(len(rows) + 1, dtype=np.int32) * sensor.samples
        names = pa.array([machine.name for machine in self._machines], pa.string())
        return pa.record_batch(
            [
                pa.DictionaryArray.from_arrays(pa.array(owners, pa.int32()), names),
                as_times(np.array(times, np.int64)),
                pa.ListArray.from_arrays(pa.array(ends), pa.array(flat)),
                pa.repeat(pa.scalar(sensor.rate, pa.float64()), len(rows)),
                pa.array(speeds, pa.float64()),
                pa.array(words, pa.string()),
            ],
            schema=WAVEFORMS,
        )

    def _readings(self, count: int) -> pa.RecordBatch:
        values, states = (part.reshape(-1) for part in self._next(count))
        sent = np.flatnonzero(~np.isnan(values))
        tick, column = np.divmod(sent, max(1, self._columns))
        names = [signal for machine in self._machines for signal in machine.signals]
        owner = np.repeat(np.arange(len(self._machines)), [len(m.signals) for m in self._machines])
        return pa.record_batch(
            [
                pa.DictionaryArray.from_arrays(
                    pa.array(owner[column], pa.int32()), pa.array([m.name for m in self._machines], pa.string())
                ),
                as_times(self._time_us(self.tick) + tick * self._settings.every),
                pa.array(names, pa.string()).take(pa.array(column)),
                pa.array(values[sent]),
                pa.array(STATES).take(pa.array(states[sent])),
            ],
            schema=SCHEMA,
        )


def _start_us(settings: Simulate, now_us: int) -> int:
    if settings.start is None:
        return (now_us - settings.history) // settings.every * settings.every
    return int(settings.start.timestamp()) * 1_000_000 + settings.start.microsecond


def write_scara_xml(
    folder: Path | str, seconds: int, seed: int = 1, start: datetime | None = None, rate: float = 0.0,
    faults: tuple[Fault, ...] = (),
) -> int:  # fmt: skip
    """Write what the SCARA robot writes: one XML file each second with an element for each tag; how many files.

    A file appears whole, under its name, so that a folder that grows can be read while it does.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    settings = Simulate(
        machines={"scara": "scara"}, seed=seed, rate=rate, start=start or datetime.now(UTC).replace(microsecond=0),
        duration=seconds * 1_000_000, stops_per_day=0, faults=faults,
    )  # fmt: skip
    plant = Plant(settings, None, SystemClock())
    written = 0
    while plant.tick < seconds:
        polled = plant.poll(len(SCARA_TAGS), 1.0)
        if polled is None or not len(polled[0]):
            continue
        path = target / f"scara_{plant.tick - 1:08d}.xml"
        temporary = path.with_suffix(".part")
        temporary.write_text(_xml(polled[0].rows), encoding="utf-8")
        temporary.replace(path)
        written += 1
    return written


def _xml(rows: pa.RecordBatch) -> str:
    columns = [rows.column(name).to_pylist() for name in ("time", "signal", "value")]
    elements = [
        f"  <HistoricalTextData>\n    <TagName>{escape(tag)}</TagName>\n    <TagValue>{value!r}</TagValue>\n"
        f"    <Status>Good</Status>\n    <TimeStamp>{time.isoformat(timespec='milliseconds')}</TimeStamp>\n"
        "  </HistoricalTextData>\n"
        for time, tag, value in zip(*columns, strict=True)
    ]
    head = '<?xml version="1.0" encoding="utf-8"?>\n<ArrayOfHistoricalTextData>\n'
    return head + "".join(elements) + "</ArrayOfHistoricalTextData>\n"
