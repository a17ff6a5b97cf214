"""The machines of the simulated plant: their signals as functions of (seed, tick), whole columns at a time.

Everything is computed in chunks of `CHUNK` ticks that start at multiples of it, from nothing but the seed and the
chunk's number, so that how the stream is cut changes nothing. What has a memory (heat) looks back over the chunk
before.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tocsin.acquire._vibration import Motion, acceleration
from tocsin.batch import Floats, Ints

CHUNK = 1024
STATES = ("running", "idle", "stopped")
RUNNING, IDLE, STOPPED = range(3)
_DAY_S = 86_400.0
_SLOT_S = 600.0
_WEAR_LIFE_S = 60 * _DAY_S

AXES = ("J1", "J2", "J3", "J6")
AXIS_TAGS = (
    "PositionCommand", "ActualPosition", "PositionError", "VelocityCommand", "ActualVelocity", "TorqueCommand",
    "TorqueFeedback",
)  # fmt: skip
SCARA_TAGS = (
    *(f"::[scararobot]Ax_{axis}.{tag}" for axis in AXES for tag in AXIS_TAGS),
    "::[scararobot]ScanTimeAverage",
)

SIGNALS: Mapping[str, tuple[str, ...]] = {
    "pump": ("flow", "pressure", "power", "temperature"),
    "motor": ("speed", "current", "temperature", "vibration.rms", "vibration.kurtosis", "vibration.bpfo"),
    "compressor": ("load", "pressure", "power", "temperature"),
    "scara": SCARA_TAGS,
}
"""What each kind of machine reports."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The ticks to compute, and what is true of the machine at each: arrays of one length."""

    time_s: Floats
    """Since the start of the simulation."""
    day_s: Floats
    """Since midnight."""
    every_s: float
    activity: Floats
    """1 running, 0.25 idle, 0 stopped."""
    load: Floats
    """How much is asked of it: daily rhythm, the work at hand, chance."""
    faults: Mapping[str, Floats]
    """How bad each fault is, 0 to 1."""

    def fault(self, name: str) -> Floats:
        return self.faults.get(name, np.zeros(len(self.time_s)))

    def lagged(self, values: Floats, time_constant_s: float) -> Floats:
        """Values through a first-order lag: what heat does."""
        taps = int(min(len(values) // 2, max(1, 5 * time_constant_s / self.every_s)))
        weights = np.exp(-np.arange(taps) * self.every_s / time_constant_s)
        padded = np.concatenate([np.full(taps - 1, values[0]), values])
        return np.convolve(padded, weights / weights.sum(), "valid")

    @property
    def ambient(self) -> Floats:
        """Air temperature in °C, warmest at three in the afternoon."""
        return 21 + 4 * np.cos(2 * np.pi * (self.day_s - 15 * 3600) / _DAY_S)

    @property
    def wear(self) -> Floats:
        """How worn the bearings are, 0 new to 1 failed: slowly by itself, fast by fault."""
        by_fault = self.fault("bearing_wear") + self.fault("outer_race") + self.fault("inner_race")
        return np.clip(self.time_s / _WEAR_LIFE_S, 0, 1) + by_fault


def pump(m: Moment) -> tuple[list[Floats], list[float]]:
    """A centrifugal pump by its affinity laws against a static head and a valve; m³/h, bar, kW, °C."""
    speed = (0.6 + 0.4 * m.load) * m.activity
    valve = np.clip(1 - 0.93 * m.fault("blocked_valve"), 0.05, 1)
    # Head 60 n² - 0.006 q² of the pump meets 12 + 0.008 q² / v² of the pipe; a leak is a second way out.
    leak = 1 + 1.5 * m.fault("leak")
    through = np.sqrt(np.maximum(60 * speed**2 - 12, 0) / (0.006 + 0.008 / (valve * leak) ** 2))
    head = np.maximum(60 * speed**2 - 0.006 * through**2, 0)
    flow = through / leak
    best = np.where(speed > 0, through / np.maximum(62 * speed, 1), 0)
    efficiency = np.clip(0.78 - 0.5 * (best - 1) ** 2, 0.25, None)
    power = (through * head * 0.002725 / efficiency + 1.2 * speed**3) * (1 + 0.15 * m.wear)
    heat = 4.0 * power * (1 - efficiency) + 9 * m.wear
    return [flow, head * 0.0981, power, m.ambient + 8 * m.activity + m.lagged(heat, 90)], [0.4, 0.03, 0.08, 0.15]


def motor(m: Moment) -> tuple[list[Floats], list[float]]:
    """An induction motor with a bearing that wears; rpm, A, °C, mm/s, -, g.

    Impacts of a young defect raise the kurtosis before the energy; a spread one raises the energy and is no longer
    impulsive. ``vibration.bpfo`` is the envelope's amplitude at the outer race's defect frequency.
    """
    wear, on = m.wear, m.activity
    torque = (0.2 + 0.8 * m.load) * on
    speed = np.where(on > 0, 1500 - 45 * torque, 0) * np.minimum(on * 4, 1)
    current = np.where(on > 0, np.hypot(4.5, 11 * torque), 0)
    temperature = m.ambient + m.lagged(0.32 * current**2 + 14 * wear * on, 180)
    turning = (speed / 1500) ** 2
    rms = turning * (1.4 + 0.5 * m.load + 5.5 * wear**1.5)
    kurtosis = 3 + turning * 18 * wear * np.exp(-1.4 * wear)
    return [speed, current, temperature, rms, kurtosis, turning * (0.05 + 1.3 * wear)], [
        1.5,
        0.12,
        0.2,
        0.07,
        0.12,
        0.01,
    ]


def compressor(m: Moment) -> tuple[list[Floats], list[float]]:
    """A screw compressor that loads at 6.5 and unloads at 7.5 bar; 0 or 1, bar, kW, °C."""
    # The cycle's phase in closed form: a rate that swings with the day, integrated.
    swing = 2 * np.pi / _DAY_S
    phase = (m.time_s / 48 + 0.2 * np.sin(swing * m.time_s) / (48 * swing)) % 1
    duty = np.clip(0.35 + 0.25 * m.load + 0.4 * m.fault("leak"), 0, 1)
    loaded = (phase < duty) & (m.activity == 1)
    sawtooth = np.where(phase < duty, phase / np.maximum(duty, 0.01), (1 - phase) / np.maximum(1 - duty, 0.01))
    air = m.lagged(np.minimum(m.activity, 1.0), 20)
    pressure = (6.5 + sawtooth - 1.1 * m.fault("leak")) * air
    valve = m.fault("blocked_valve")
    power = np.where(loaded, 22 + 9 * valve, 6.5) * np.minimum(m.activity * 2, 1) * (1 + 0.1 * m.wear)
    temperature = m.ambient + m.lagged(2.3 * power + 25 * valve * m.activity, 120)
    return [loaded.astype(float), pressure, power, temperature], [0, 0.01, 0.15, 0.2]


def scara(m: Moment) -> tuple[list[Floats], list[float]]:
    """A SCARA arm that picks and places in 4.3 s; degrees (J3: mm), their rates, and torque in percent of rated."""
    columns: list[Floats] = []
    noises: list[float] = []
    moving = (m.activity == 1).astype(float)
    wear = m.wear
    for number, (pick, place, inertia) in enumerate(
        ((-20.0, 55.0, 0.06), (50.0, -15.0, 0.05), (0.0, 40.0, 0.08), (0.0, 45.0, 0.03))
    ):
        phase = (m.time_s / 4.3 + 0.04 * number) % 1
        there = np.clip(phase / 0.4, 0, 1) - np.clip((phase - 0.5) / 0.4, 0, 1)
        outbound = np.where(phase < 0.5, 1.0, -1.0) * ((there > 0) & (there < 1))
        # Quintic: no jerk at the ends. Velocity and acceleration are its derivatives over the 1.72 s of a move.
        shape = there**3 * (10 - 15 * there + 6 * there**2)
        rate = 30 * there**2 * (1 - there) ** 2 / 1.72 * outbound
        push = 60 * there * (1 - 3 * there + 2 * there**2) / 1.72**2
        span = place - pick
        command = np.where(moving > 0, pick + span * shape, pick)
        velocity = span * rate * moving
        hold = 6.0 if number == 2 else 0.0
        torque = (inertia * span * push * moving + 0.03 * velocity) * (1 + 0.2 * m.load) + hold
        torque = torque * (1 + 2.5 * wear) + 25 * m.fault("blocked_valve") * moving
        error = 0.004 * velocity * (1 + 12 * wear)
        columns += [command, command - error, error, velocity, velocity * (1 - 0.01 * wear), torque, torque * 1.02]
        noises += [0, 0.02, 0.01, 0, 0.15, 0, 0.35]
    columns.append(np.full(len(moving), 2.1))
    return columns, [*noises, 0.05]


KINDS = {"pump": pump, "motor": motor, "compressor": compressor, "scara": scara}


@dataclass(frozen=True, slots=True)
class SimulatedMachine:
    """One machine of the plant."""

    name: str
    kind: str
    seed: int
    start_us: int
    every_us: int
    stops_per_day: float
    faults: tuple[Any, ...]
    """Those of `simulate.Fault` that are this machine's."""

    @property
    def signals(self) -> tuple[str, ...]:
        return SIGNALS[self.kind]

    def chunk(self, number: int) -> tuple[Floats, Ints]:
        """Values of shape (CHUNK, signals), NaN where nothing is sent; and the states, shape (CHUNK,)."""
        values, states = self._sound(number)
        ticks = np.arange(number * CHUNK, (number + 1) * CHUNK)
        for fault in self.faults:
            on = self._active(fault, ticks)
            columns = [i for i, name in enumerate(self.signals) if fault.signal in ("", name)]
            if not on.any():
                continue
            if fault.name == "dropout":
                values[np.ix_(on, columns)] = np.nan
            elif fault.name == "stuck_sensor":
                first = max(0, -(-fault.start // self.every_us))
                held = values if first // CHUNK == number else self._sound(first // CHUNK)[0]
                values[np.ix_(on, columns)] = held[first % CHUNK, columns]
        return values, states

    def waveform(self, tick: int, speed_rpm: float, rms_mm_s: float, samples: int, rate_hz: float) -> Floats:
        """Returns what a motor's accelerometer gives at a tick, in g, shape (samples,): wear is of the outer race."""
        severity = {name: float(grown[0]) for name, grown in self._severities(np.array([tick])).items()}
        inner = severity.get("inner_race", 0.0)
        worn = min(max(tick, 0) * self.every_us / 1e6 / _WEAR_LIFE_S, 1.0)
        outer = worn + severity.get("bearing_wear", 0.0) + severity.get("outer_race", 0.0)
        motion = Motion(max(speed_rpm, 0.0) / 60, max(rms_mm_s, 0.0), outer, inner)
        return acceleration(motion, samples, rate_hz, self._random(tick, 4))

    def _sound(self, number: int) -> tuple[Floats, Ints]:
        """The chunk as the sensors would give it if they and the network were whole."""
        ticks = np.arange((number - 1) * CHUNK, (number + 1) * CHUNK)
        time_s: Floats = ticks.astype(np.float64) * (self.every_us / 1e6)
        states = self._states(ticks)
        day_s: Floats = time_s + self.start_us / 1e6 % _DAY_S
        chance = np.concatenate([self._random(n, 1).normal(0, 1, CHUNK) for n in (number - 1, number)])
        every_s = self.every_us / 1e6
        activity = np.array([1.0, 0.25, 0.0])[states]
        moment = Moment(time_s, day_s, every_s, activity, np.zeros(0), self._severities(ticks))
        rhythm = 0.62 + 0.2 * np.cos(2 * np.pi * (day_s - 13 * 3600) / _DAY_S) + 0.03 * np.sin(2 * np.pi * time_s / 97)
        load = np.clip(rhythm + 0.15 * moment.lagged(chance, 15), 0.1, 1)
        moment = Moment(time_s, day_s, every_s, activity, load, moment.faults)
        columns, noises = KINDS[self.kind](moment)
        values = np.column_stack(columns)[CHUNK:]
        values = values + self._random(number, 2).normal(0, 1, values.shape) * np.array(noises)
        return np.round(values, 4), states[CHUNK:]

    def _random(self, number: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), number & 0xFFFFFFFF, stream])

    def _states(self, ticks: Ints) -> Ints:
        """The true state at each tick: running but for breaks by chance, and stops by fault."""
        states = np.zeros(len(ticks), np.int64)
        time_s = ticks * (self.every_us / 1e6)
        by_chance = self.stops_per_day * _SLOT_S / _DAY_S
        for slot in range(max(0, int(time_s[0] // _SLOT_S) - 1), int(time_s[-1] // _SLOT_S) + 1):
            random = self._random(slot, 3)
            stops, idles = random.random(2) < (by_chance, 2 * by_chance)
            begin, length = slot * _SLOT_S + random.uniform(60, 300), random.uniform(20, 240)
            if stops or idles:
                states[(time_s >= begin) & (time_s < begin + length)] = STOPPED if stops else IDLE
        for fault in self.faults:
            if fault.name == "stop":
                states[self._active(fault, ticks)] = STOPPED
        return states

    def _active(self, fault: Any, ticks: Ints) -> Any:
        since = ticks * self.every_us - fault.start
        return (since >= 0) & (since < (fault.duration if fault.duration is not None else np.inf))

    def _severities(self, ticks: Ints) -> dict[str, Floats]:
        """How bad each fault is: it grows from its start, and is gone at its end."""
        severities: dict[str, Floats] = {}
        for fault in self.faults:
            since = ticks * self.every_us - fault.start
            grown = np.clip((since + self.every_us) / max(fault.growth, self.every_us), 0, 1)
            severities[fault.name] = np.maximum(
                severities.get(fault.name, 0.0), np.where(self._active(fault, ticks), grown, 0.0)
            )
        return severities
