"""What the page knows: machines, their series, alarms and counters, each within bounds.

What the columns of a stream mean comes with its rows (`engine.wire.Stream`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.domain.alarms import ACTIVE
from tocsin.engine.wire import Counted, StreamColumns
from tocsin.serve.alarm_list import TEXT_MAX, AlarmList
from tocsin.serve.condition import SPAN, Condition, surprise
from tocsin.serve.messages import Changes, Figures, RecentSeries, ShownAlarm, ShownMachine, Tile
from tocsin.serve.naming import named, placed
from tocsin.serve.series import COLUMNS, Points, SeriesBuffer, pack

MACHINES_MAX = 2000
SIGNALS_MAX = 64
"""Of one machine."""
SERIES_MAX = 4000
RECENT_POINTS = 60
"""For the small line in a tile."""
NEVER_S = -np.inf
"""When a machine was heard that is only known from the lake."""
LAG_EPOCHS_MAX = 10
"""A sink that is further behind is told of, even if nothing seems wrong with it."""
STALLED_S = 5.0
"""An engine that has said nothing for so long is not live; it counts aloud four times a second."""
GRAVEST_FIRST = ("abnormal", "warming")
"""Verdicts that stand for a machine while one of its signals has them; of all other states the newest stands."""
_SILENT_S_MIN = 10.0
_SILENT_INTERVALS = 5.0


@dataclass(slots=True)
class MachineView:
    """What is known of one machine."""

    name: str
    seen_s: float
    """When it was last heard, on the monotonic clock."""
    interval_s: float = 0.0
    """How often it is heard, smoothed."""
    states: dict[tuple[str, str], str] = field(default_factory=dict)
    """What is said of it, by stream and signal (the signal is empty where the stream has none); the newest last."""
    series: dict[tuple[str, str], SeriesBuffer] = field(default_factory=dict)
    """By stream and signal."""
    condition: Condition = field(default_factory=Condition)
    told: Tile | None = None
    """What browsers were last told of it."""

    def hear(self, now_s: float) -> None:
        """Note that something has come."""
        gap = now_s - self.seen_s
        if not self.interval_s and np.isfinite(gap):
            self.interval_s = gap
        else:
            self.interval_s = 0.9 * self.interval_s + 0.1 * min(gap, 10 * self.interval_s)
        self.seen_s = now_s

    def say(self, stream: str, signal: str, state: str | None) -> None:
        """Note what a stream says of it, or of one of its signals."""
        self.states.pop((stream, signal), None)
        self.states[stream, signal] = str(state or "")[:TEXT_MAX]

    @property
    def state(self) -> str:
        """What the machine, or a verdict, says of it (running, idle, abnormal ...), if anything."""
        said = list(self.states.values())
        return next((state for state in GRAVEST_FIRST if state in said), said[-1] if said else "")

    def silent(self, now_s: float) -> bool:
        """Returns whether no reading has come for much longer than usual.

        Of what has no readings (a stream of changes only) silence says nothing.
        """
        return bool(self.series) and now_s - self.seen_s > max(_SILENT_S_MIN, _SILENT_INTERVALS * self.interval_s)

    def tile(self, worst: ShownAlarm | None, now_s: float) -> Tile:
        """Returns it at a glance, given its worst open alarm."""
        silent = self.silent(now_s)
        health, pulled_by, life = self.condition.told()
        return Tile(
            name=self.name,
            status="alarm" if worst is not None else "silent" if silent else "running",
            severity="" if worst is None else worst.severity,
            active=worst is not None and worst.state in ACTIVE,
            silent=silent,
            state=self.state,
            health=health,
            pulled_by=pulled_by,
            life=life,
        )


class Live:
    """Takes rows in, gives what has changed since it was last asked, and everything to who comes anew."""

    def __init__(self) -> None:
        self.machines: dict[str, MachineView] = {}
        self.series: dict[int, SeriesBuffer] = {}
        self.alarms = AlarmList()
        self.counted = Counted()
        self.rows_per_s = 0.0
        self.engines = 0
        """How many are connected; while one makes way for the next it may be two."""
        self.heard_s = NEVER_S
        """When an engine was last heard."""
        self._next_id = 0
        self._left_out: set[str] = set()
        self._rate_from: tuple[float, float] | None = None
        """Since when, and from how many rows on, the present rate is measured."""
        self._new_points: dict[int, list[Points]] = {}
        self._new_series: list[SeriesBuffer] = []

    def take(self, stream: StreamColumns, rows: pa.Table, now_s: float | None = None) -> None:
        """Take in rows of a stream."""
        now_s = time.monotonic() if now_s is None else now_s
        if not rows.num_rows:
            return
        if stream.kind == "alarms":
            self.alarms.take(rows)
            return
        if stream.signal:
            rows = rows.filter(_of_a_signal(rows, stream))
            if not rows.num_rows:
                return
        names = named(rows, stream.machine)
        for column in stream.values[:SIGNALS_MAX]:
            self._take_values(stream, *placed(stream, rows, names, column), rows, column, now_s)
        self._take_estimates(stream, names, rows)
        if stream.state and not stream.values:
            states = dict(zip(names.to_pylist(), rows.column(stream.state).to_pylist(), strict=True))
            for name, state in states.items():
                if (machine := self._machine(name, now_s)) is not None:
                    machine.say(stream.name, "", state)

    def _take_values(
        self, stream: StreamColumns, machines: pa.ChunkedArray, signals: pa.ChunkedArray, rows: pa.Table, column: str,
        now_s: float,
    ) -> None:  # fmt: skip
        points = np.full((len(COLUMNS), rows.num_rows), np.nan)
        points[0] = rows.column("time").cast(pa.int64()).to_numpy() / 1000
        points[1] = _floats(rows.column(column))
        if column == stream.judged:
            for name, judgement in stream.band:
                points[COLUMNS.index(name)] = _floats(rows.column(judgement))
        points[~np.isfinite(points)] = np.nan
        where = machines.combine_chunks().dictionary_encode()
        what = signals.combine_chunks().dictionary_encode()
        codes = where.indices.to_numpy().astype(np.int64) * len(what.dictionary) + what.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        cuts = np.flatnonzero(np.diff(codes[order])) + 1
        states = rows.column(stream.state) if stream.state else None
        # A loop over series, not over rows: about 5 us each.
        for part in np.split(order, cuts):
            name = where[int(part[0])].as_py()
            series = self._series(stream.name, name, what[int(part[0])].as_py(), now_s)
            if series is not None:
                series.add(points[:, part])
                self._new_points.setdefault(series.id, []).append(points[:, part])
                if column == stream.judged and "score" in dict(stream.band):
                    scores = points[COLUMNS.index("score"), part]
                    self.machines[series.machine].condition.judge(stream.name, series.signal, scores)
                if states is not None:
                    self.machines[series.machine].say(stream.name, series.signal, states[int(part[-1])].as_py())

    def _take_estimates(self, stream: StreamColumns, names: pa.ChunkedArray, rows: pa.Table) -> None:
        """Take in verdicts on several columns, forecasts and remaining lives: the newest few of each machine."""
        is_of_several = bool(stream.blamed) and not stream.judged
        if not (is_of_several or stream.foretold or stream.life):
            return
        where = names.combine_chunks().dictionary_encode()
        codes = where.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            machine = self.machines.get(where[int(part[0])].as_py()[:TEXT_MAX])
            if machine is None:
                continue
            few = rows.take(pa.array(part[-SPAN:]))
            if is_of_several:
                about = [str(name or "")[:TEXT_MAX] for name in few.column(stream.blamed).to_pylist()]
                scores = np.where(np.array(about) != "", _floats(few.column("score")), np.nan)
                machine.condition.judge(stream.name, "", scores, about)
            if stream.foretold:
                scores = surprise(*(_floats(few.column(name)) for name in stream.foretold))
                machine.condition.judge(stream.name, "forecast", scores)
            if stream.life:
                all_of_it = rows.take(pa.array(part))  # the longest life counts, too
                lives = np.stack([_floats(all_of_it.column(name)) for name in stream.life], axis=1)
                times = all_of_it.column("time").cast(pa.int64()).to_numpy() / 1000
                machine.condition.foresee(stream.name, times, lives)

    def _machine(self, name: str, now_s: float) -> MachineView | None:
        name = name[:TEXT_MAX]
        machine = self.machines.get(name)
        if machine is None:
            if len(self.machines) >= MACHINES_MAX:
                if len(self._left_out) < 100_000:
                    self._left_out.add(name)
                return None
            machine = self.machines[name] = MachineView(name, now_s)
        return machine

    def _series(self, stream: str, name: str, signal: str, now_s: float) -> SeriesBuffer | None:
        machine = self._machine(name, now_s)
        if machine is None:
            return None
        if not machine.series:
            machine.seen_s = now_s  # until now only states of it were known
        elif now_s > machine.seen_s:
            machine.hear(now_s)
        signal = signal[:TEXT_MAX]
        series = machine.series.get((stream, signal))
        if series is None:
            if len(machine.series) >= SIGNALS_MAX or len(self.series) >= SERIES_MAX:
                return None
            series = SeriesBuffer(self._next_id, machine.name, signal, stream)
            self._next_id += 1
            self.series[series.id] = machine.series[(stream, signal)] = series
            self._new_series.append(series)
        return series

    def hear(self, now_s: float | None = None) -> None:
        """Note that an engine has sent something."""
        self.heard_s = time.monotonic() if now_s is None else now_s

    def count(self, counted: Counted, now_s: float | None = None) -> None:
        """Take in the engine's counters."""
        now_s = time.monotonic() if now_s is None else now_s
        self.counted = counted
        read = float(sum(counted.rows_in.values()))
        if self._rate_from is None or read < self._rate_from[1]:
            self._rate_from = (now_s, read)
        elif now_s - self._rate_from[0] >= 1.0:
            rate = (read - self._rate_from[1]) / (now_s - self._rate_from[0])
            self.rows_per_s = 0.5 * self.rows_per_s + 0.5 * rate if self.rows_per_s and rate else rate
            self._rate_from = (now_s, read)

    def changes(self, now_s: float | None = None) -> Changes:
        """Returns what has changed since the last call."""
        now_s = time.monotonic() if now_s is None else now_s
        worst = self.alarms.worst_open(self.machines)
        tiles = []
        for machine in self.machines.values():
            tile = machine.tile(worst.get(machine.name), now_s)
            if tile != machine.told:
                machine.told = tile
                tiles.append(tile)
        changes = Changes(
            counters=self.figures(now_s),
            machines=tiles,
            series=[series.described() for series in self._new_series],
            points={str(id): pack(np.concatenate(parts, axis=1)) for id, parts in self._new_points.items()},
            alarms=self.alarms.changes(),
        )
        self._new_points, self._new_series = {}, []
        return changes

    def snapshot(self) -> list[ShownMachine]:
        """Returns all machines with their series and newest values."""
        worst, now_s = self.alarms.worst_open(self.machines), time.monotonic()
        return [
            ShownMachine(
                **msgspec.structs.asdict(machine.tile(worst.get(machine.name), now_s)),
                series=[
                    RecentSeries(one.id, one.machine, one.signal, one.stream, recent=one.recent(RECENT_POINTS))
                    for one in machine.series.values()
                ],
            )
            for machine in self.machines.values()
        ]

    def figures(self, now_s: float | None = None) -> Figures:
        """Returns the figures at the top of the page."""
        now_s = time.monotonic() if now_s is None else now_s
        counted, silent_s = self.counted, now_s - self.heard_s
        bad: dict[str, float] = {}
        for entry in counted.rejected:
            bad[entry.reason] = bad.get(entry.reason, 0) + entry.rows
        lags = [lag for lag in counted.lag_s.values() if lag is not None]
        live = self.engines > 0 and silent_s <= STALLED_S
        return Figures(
            engine="live" if live else "stalled" if self.engines else "gone",
            engine_silent_s=round(silent_s, 1) if np.isfinite(silent_s) else 0.0,
            trouble=counted.trouble,
            rows_per_s=round(self.rows_per_s, 1) if live else 0.0,
            # The least of the streams' lags: a window's own length is no lag of the engine.
            lag_s=round(min(lags), 3) if lags else None,
            rows_in=sum(counted.rows_in.values()),
            late=sum(counted.late.values()),
            bad=sum(bad.values()),
            bad_by_reason=bad,
            machines_left_out=len(self._left_out),
            sinks={id: sink for id, sink in counted.sinks.items() if sink.reason or sink.lag_epochs > LAG_EPOCHS_MAX},
            sources={id: source for id, source in counted.sources.items() if source.reason},
        )


def _floats(column: pa.ChunkedArray) -> Points:
    if pt.is_boolean(column.type):
        column = column.cast(pa.int8())
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)


def _of_a_signal(rows: pa.Table, stream: StreamColumns) -> pa.ChunkedArray:
    """Whether each row has a signal, or a value: that a machine is silent has neither, and shows by its alarm."""
    has = rows.column(stream.signal).is_valid()
    for name in stream.values:
        has = pc.or_(has, rows.column(name).is_valid())
    return has
