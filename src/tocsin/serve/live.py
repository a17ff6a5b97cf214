"""What the page knows: machines, their series, alarms and counters, each within bounds.

What the columns of a stream mean comes with its rows (`engine.wire.Stream`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.engine.wire import Counted, StreamColumns
from tocsin.pipeline.plan import Asset
from tocsin.serve.alarm_list import TEXT_MAX, AlarmList
from tocsin.serve.condition import SPAN, surprise
from tocsin.serve.machine import MachineView
from tocsin.serve.messages import Changes, Figures, Glance, MachineSeries, NewPoints, Tile
from tocsin.serve.naming import named, placed
from tocsin.serve.parts import LAG_EPOCHS_MAX, LookedAt, Parts
from tocsin.serve.series import COLUMNS, Points, SeriesBuffer, unpack

MACHINES_MAX = 2000
SIGNALS_MAX = 64
"""Of one machine."""
SERIES_MAX = 4000
"""So many have their points kept: those of whole machines, of which the one looked at longest ago makes room."""
LEFT_OUT_MAX = 1000
"""So many signals of a machine are counted beyond those that are shown."""
NEVER_S = -np.inf
"""When a machine was heard that is only known from the lake."""
STALLED_S = 5.0
"""An engine that has said nothing for so long is not live; it counts aloud four times a second."""
HOLES_S = 600.0
"""So long after series took turns, what was heard may have holes, which the lake fills."""
TABLES_LAG_S = 15.0
"""What was heard so long ago is in the tables, unless a sink lags."""


class Live:
    """Takes rows in, gives what has changed since it was last asked, and everything to who comes anew."""

    def __init__(self, assets: Mapping[str, Asset] | None = None) -> None:
        self._assets = assets or {}
        """Where machines stand, by name."""
        self.machines: dict[str, MachineView] = {}
        self.alarms = AlarmList()
        self.counted = Counted()
        self.parts = Parts()
        self.looked_at = LookedAt()
        self.rows_per_s = 0.0
        self.engines = 0
        """How many are connected; while one makes way for the next it may be two."""
        self.heard_s = NEVER_S
        """When an engine was last heard."""
        self._by_id: list[MachineView] = []
        self._series_count = 0
        self._kept: dict[str, MachineView] = {}
        """Those whose points are kept; the one that was looked at last stands last."""
        self._kept_series = 0
        self._watched: Counter[str] = Counter()
        """How many look at a machine, by its name."""
        self._left_out: set[str] = set()
        self._in_turn: dict[str, tuple[int, float]] = {}
        """By stream: how many series take turns, and when that was told last."""
        self._rate_from: tuple[float, float] | None = None
        """Since when, and from how many rows on, the present rate is measured."""
        self._new_points: dict[str, dict[int, tuple[SeriesBuffer, list[Points]]]] = {}
        """By machine and series, of machines that somebody looks at."""

    def take(self, stream: StreamColumns, rows: pa.Table, in_turn: int = 0, now_s: float | None = None) -> None:
        """Take in rows of a stream. Where its series take turns, ``in_turn`` is how many there are."""
        now_s = time.monotonic() if now_s is None else now_s
        if in_turn:
            self._in_turn[stream.name] = in_turn, now_s
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
        elif (score := stream.score_of_several) is not None:  # the band is of another signal in each row
            is_about = pc.equal(rows.column(stream.blamed).cast(pa.string()), column).fill_null(False)
            points[COLUMNS.index("score")] = np.where(is_about.to_numpy(), _floats(rows.column(score)), np.nan)
        points[~np.isfinite(points)] = np.nan
        where, what = (names.combine_chunks().dictionary_encode() for names in (machines, signals))
        codes = where.indices.to_numpy().astype(np.int64) * len(what.dictionary) + what.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(codes[order])) + 1, len(order))
        last = order[ends - 1]
        states = rows.column(stream.state).take(pa.array(last)).to_pylist() if stream.state else [None] * len(last)
        is_judged = column == stream.judged and "score" in dict(stream.band)
        machine_names, signal_names = where.dictionary.to_pylist(), what.dictionary.to_pylist()
        begin = 0
        # A loop over series, not over rows: about 2 us each, 5 us where points are kept.
        for end, code, value, state in zip(
            ends.tolist(), codes[last].tolist(), points[1, last].tolist(), states, strict=True
        ):
            part, begin = order[begin:end], end
            name, signal = machine_names[code // len(signal_names)], signal_names[code % len(signal_names)]
            series = self._series(stream.name, name, signal, now_s)
            if series is None:
                continue
            machine = self.machines[series.machine]
            if value == value:  # not NaN
                series.newest = value
            if series is machine.first:
                machine.line.extend(zip(points[0, part].tolist(), points[1, part].tolist(), strict=True))
            if machine.kept_s is not None:
                self._keep_points(machine, series, points[:, part], now_s)
            if is_judged:
                scores = points[COLUMNS.index("score"), part]
                machine.condition.judge(stream.name, series.signal, scores)
                machine.score(scores, points[0, part])
            if stream.state:
                machine.say(stream.name, series.signal, state)

    def _keep_points(self, machine: MachineView, series: SeriesBuffer, points: Points, now_s: float) -> None:
        if series.add(points):
            machine.kept_s, machine.is_whole, machine.has_hole = now_s, False, True
        if machine.name in self._watched:
            of_machine = self._new_points.setdefault(machine.name, {})
            of_machine.setdefault(series.id, (series, []))[1].append(points)

    def _take_estimates(self, stream: StreamColumns, names: pa.ChunkedArray, rows: pa.Table) -> None:
        """Take in verdicts on several columns, forecasts and remaining lives: the newest few of each machine."""
        score = stream.score_of_several
        if not (score or stream.foretold or stream.life):
            return
        where = names.combine_chunks().dictionary_encode()
        codes = where.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            machine = self.machines.get(where[int(part[0])].as_py()[:TEXT_MAX])
            if machine is None:
                continue
            few = rows.take(pa.array(part[-SPAN:]))
            if score is not None:
                about = [str(name or "")[:TEXT_MAX] for name in few.column(stream.blamed).to_pylist()]
                scores = np.where(np.array(about) != "", _floats(few.column(score)), np.nan)
                machine.condition.judge(stream.name, "", scores, about)
                machine.score(scores, few.column("time").cast(pa.int64()).to_numpy() / 1000)
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
            machine = self.machines[name] = MachineView(
                len(self._by_id), name, self._assets.get(name) or Asset(name), now_s
            )
            self._by_id.append(machine)
            if self._kept_series < SERIES_MAX or name in self._watched:
                self._kept[name] = machine
                machine.kept_s, machine.is_whole = now_s, True
        return machine

    def _series(self, stream: str, name: str, signal: str, now_s: float) -> SeriesBuffer | None:
        machine = self._machine(name, now_s)
        if machine is None:
            return None
        if machine.first is None:
            machine.seen_s = now_s  # until now only states of it were known
        elif now_s > machine.seen_s:
            machine.hear(now_s)
        place = stream, signal[:TEXT_MAX]
        series = machine.series.get(place)
        if series is None:
            if len(machine.series) >= SIGNALS_MAX:
                if len(machine.left_out) < LEFT_OUT_MAX:
                    machine.left_out.add(place)
                return None
            series = machine.series[place] = SeriesBuffer(self._series_count, machine.name, place[1], stream)
            self._series_count += 1
            machine.first = machine.first or series
            if machine.kept_s is not None:
                self._kept_series += 1
                self._make_room(machine)
        return series

    def _make_room(self, machine: MachineView) -> None:
        """Let go of the points of other machines that nobody looks at, until there is room for this one's."""
        for name, other in list(self._kept.items()):
            if self._kept_series <= SERIES_MAX:
                return
            if name not in self._watched and other is not machine:
                self._kept_series -= len(other.series)
                other.forget()
                del self._kept[name]

    def keep(self, name: str, now_s: float | None = None) -> MachineView | None:
        """Keep the points of a machine's series from now on, and longer than those of others; None if it is unknown."""
        machine = self.machines.get(name)
        if machine is None:
            return None
        if machine.kept_s is None:
            machine.kept_s = time.monotonic() if now_s is None else now_s
            self._kept_series += len(machine.series)
        self._kept.pop(name, None)
        self._kept[name] = machine
        self._make_room(machine)
        return machine

    def in_turn(self, within_s: float, now_s: float | None = None) -> int:
        """Returns how many series take turns, if any did within the last seconds: not all are heard each time."""
        now_s = time.monotonic() if now_s is None else now_s
        return sum(series for series, told_s in self._in_turn.values() if now_s - told_s <= within_s)

    def recall(self, machine: MachineView, past: Sequence[MachineSeries], asked_s: float | None = None) -> None:
        """Put what the lake holds of a machine before what was heard of it, and in its place where series take turns.

        ``asked_s`` is when the lake was asked.
        """
        asked_s = time.monotonic() if asked_s is None else asked_s
        if machine.kept_s is None:
            return
        by_signal = {one.signal: one for one in machine.series.values()}
        for one in past:
            # Where only the readings are kept in tables, their stream is another one.
            series = machine.series.get((one.stream, one.signal)) or by_signal.get(one.signal)
            if series is not None:
                series.recall(unpack(one.points), instead=self.in_turn(HOLES_S, asked_s) > 0)
        machine.is_whole = asked_s - machine.kept_s >= TABLES_LAG_S

    @contextmanager
    def watched(self, name: str) -> Iterator[None]:
        """While this lasts, new points of a machine are told."""
        self._watched[name] += 1
        self.keep(name)
        try:
            yield
        finally:
            self._watched[name] -= 1
            self._watched += Counter()  # drops those that nobody looks at any more

    def hear(self, now_s: float | None = None) -> None:
        """Note that an engine has sent something."""
        self.heard_s = time.monotonic() if now_s is None else now_s

    def count(self, counted: Counted, now_s: float | None = None) -> None:
        """Take in the engine's counters."""
        now_s = time.monotonic() if now_s is None else now_s
        self.counted = counted
        self.parts.count(counted, now_s)
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
        return Changes(counters=self.figures(now_s), machines=tiles, alarms=self.alarms.changes())

    def new_points(self) -> Mapping[str, NewPoints]:
        """Returns what has come since the last call of the machines that somebody looks at."""
        new, self._new_points = self._new_points, {}
        return {
            name: NewPoints(
                name,
                [one.told(np.concatenate(parts, axis=1)) for one, parts in of_machine.values()],
                again_s=self._again_s(name),
            )
            for name, of_machine in new.items()
        }

    def _again_s(self, name: str) -> float:
        """Returns after how long the tables hold what was left out of a machine since it was last asked; 0: nothing."""
        machine = self.machines.get(name)
        if machine is None or not machine.has_hole:
            return 0.0
        machine.has_hole = False
        return TABLES_LAG_S

    def tiles(self) -> list[Tile]:
        """Returns the state of every machine."""
        worst, now_s = self.alarms.worst_open(self.machines), time.monotonic()
        return [machine.tile(worst.get(machine.name), now_s) for machine in self.machines.values()]

    def glances(self, ids: Collection[int]) -> list[Glance]:
        """Returns what the tiles of these machines show; those that are not known are left out."""
        return [self._by_id[id].glance() for id in ids if 0 <= id < len(self._by_id)]

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
            series_in_turn=self.in_turn(STALLED_S, now_s),
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
