"""What the page knows: machines, their series, alarms and counters, each within bounds.

A machine is the column ``machine``, ``device`` or ``asset`` if there is one, else the key. A series is one signal of a
machine in one stream: the column ``signal`` with ``value``, or each column with numbers. A key that ends in the signal
(``press-1/vibration``) belongs to the machine before it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.domain.alarms import ACTIVE, CLOSED
from tocsin.engine.feed import ALARM_COLUMNS

BAND = ("expected", "lower", "upper", "score")
POINT = ("time", "value", *BAND)
_NOT_SIGNALS = {*BAND, "window_end", "received", "position", "key", "time"}
_MACHINE_COLUMNS = ("machine", "device", "asset")

MACHINES_MAX = 2000
SIGNALS_MAX = 64
"""Of one machine."""
SERIES_MAX = 4000
POINTS_MAX = 600
ALARMS_MAX = 500
TEXT_MAX = 400
_SILENT_S_MIN = 10.0
_SILENT_INTERVALS = 5.0

Points = npt.NDArray[np.float64]


@dataclass(slots=True)
class Series:
    """The newest points of one signal, oldest first; times in milliseconds."""

    id: int
    machine: str
    signal: str
    stream: str
    data: Points = field(default_factory=lambda: np.full((len(POINT), 64), np.nan))
    start: int = 0
    end: int = 0

    def add(self, points: Points) -> None:
        """Add points; what comes late or again (after a recovery) is put in its place."""
        known = self.points()
        if known.shape[1] and points[0, 0] <= known[0, -1]:
            if points[0].max() < known[0, 0]:
                known = known[:, :0]  # the past is being read anew
            points = np.concatenate((known, points), axis=1)
            points = points[:, np.argsort(points[0], kind="stable")]
            points = points[:, np.append(np.diff(points[0]) != 0, True)]
            self.start = self.end = 0
        points = points[:, -POINTS_MAX:]
        new = points.shape[1]
        if self.end + new > self.data.shape[1]:
            keep = self.points()[:, -(POINTS_MAX - new) :] if new < POINTS_MAX else self.points()[:, :0]
            grown = np.empty((len(POINT), min(2 * (keep.shape[1] + new), 2 * POINTS_MAX)))
            grown[:, : keep.shape[1]] = keep
            self.data, self.start, self.end = grown, 0, keep.shape[1]
        self.data[:, self.end : self.end + new] = points
        self.end += new
        self.start = max(self.start, self.end - POINTS_MAX)

    def points(self) -> Points:
        return self.data[:, self.start : self.end]


@dataclass(slots=True)
class Machine:
    """One tile."""

    name: str
    seen_s: float
    interval_s: float = 0.0
    state: str = ""
    """What the machine says of itself (running, idle ...), if anything."""
    series: dict[tuple[str, str], Series] = field(default_factory=dict)
    shown: tuple[Any, ...] = ()

    def hear(self, now_s: float) -> None:
        gap = now_s - self.seen_s
        if not self.interval_s and np.isfinite(gap):
            self.interval_s = gap
        else:
            self.interval_s = 0.9 * self.interval_s + 0.1 * min(gap, 10 * self.interval_s)
        self.seen_s = now_s

    def silent(self, now_s: float) -> bool:
        return now_s - self.seen_s > max(_SILENT_S_MIN, _SILENT_INTERVALS * self.interval_s)


class Live:
    """Takes rows in, gives what has changed since it was last asked, and everything to who comes anew."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self.series: dict[int, Series] = {}
        self.alarms: dict[str, dict[str, Any]] = {}
        self.counters: dict[str, Any] = {}
        self.rows_per_s = 0.0
        self.engines = 0
        """How many are connected; while one makes way for the next it may be two."""
        self._next_id = 0
        self._left_out: set[str] = set()
        self._counted: tuple[float, float] | None = None
        self._judged: dict[str, str | None] = {}
        self._points: dict[int, list[Points]] = {}
        self._new_series: list[Series] = []
        self._new_alarms: dict[str, dict[str, Any]] = {}

    @property
    def engine(self) -> bool:
        """Whether an engine is connected."""
        return self.engines > 0

    def take(self, stream: str, rows: pa.Table, now_s: float | None = None) -> None:
        """Take in rows of a stream; what cannot be shown is passed over."""
        now_s = time.monotonic() if now_s is None else now_s
        if not rows.num_rows or not {"key", "time"} <= set(rows.column_names):
            return
        if set(rows.column_names) >= ALARM_COLUMNS:
            self._take_alarms(rows)
            return
        names = _machines(rows)
        if "signal" in rows.column_names and "value" in rows.column_names and _numeric(rows.schema.field("value").type):
            signals = rows.column("signal").cast(pa.string()).fill_null("value")
            self._take_values(stream, _without_signal(names, signals), signals, rows, "value", now_s)
        else:
            columns = [f.name for f in rows.schema if f.name not in _NOT_SIGNALS and _numeric(f.type)][:SIGNALS_MAX]
            judged = self._judged.get(stream) or self._judged.setdefault(stream, _judged(rows, columns))
            if judged is None:
                del self._judged[stream]
            for column in columns:
                signals = pa.chunked_array([pa.array([column] * rows.num_rows, pa.string())])
                machines = names
                if columns == ["value"] and "machine" not in rows.column_names:
                    machines, signals = _split(names)
                self._take_values(stream, machines, signals, rows, column, now_s, band=column == judged)
        if "state" in rows.column_names and pt.is_string(rows.schema.field("state").type):
            states = dict(zip(names.to_pylist(), rows.column("state").to_pylist(), strict=True))
            for name, state in states.items():
                if (machine := self._machine(name, now_s)) is not None:
                    machine.state = str(state or "")[:TEXT_MAX]

    def _take_values(
        self, stream: str, machines: pa.ChunkedArray, signals: pa.ChunkedArray, rows: pa.Table, column: str,
        now_s: float, *, band: bool = True,
    ) -> None:  # fmt: skip
        points = np.full((len(POINT), rows.num_rows), np.nan)
        points[0] = rows.column("time").cast(pa.int64()).to_numpy() / 1000
        points[1] = _floats(rows.column(column))
        for i, name in enumerate(BAND, 2):
            if band and name in rows.column_names and _numeric(rows.schema.field(name).type):
                points[i] = _floats(rows.column(name))
        points[~np.isfinite(points)] = np.nan
        where = machines.combine_chunks().dictionary_encode()
        what = signals.combine_chunks().dictionary_encode()
        codes = where.indices.to_numpy().astype(np.int64) * len(what.dictionary) + what.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        cuts = np.flatnonzero(np.diff(codes[order])) + 1
        # A loop over series, not over rows: about 5 us each.
        for part in np.split(order, cuts):
            name = where[int(part[0])].as_py()
            series = self._series(stream, name, what[int(part[0])].as_py(), now_s)
            if series is not None:
                series.add(points[:, part])
                self._points.setdefault(series.id, []).append(points[:, part])

    def _machine(self, name: str, now_s: float) -> Machine | None:
        name = name[:TEXT_MAX]
        machine = self.machines.get(name)
        if machine is None:
            if len(self.machines) >= MACHINES_MAX:
                if len(self._left_out) < 100_000:
                    self._left_out.add(name)
                return None
            machine = self.machines[name] = Machine(name, now_s)
        return machine

    def _series(self, stream: str, name: str, signal: str, now_s: float) -> Series | None:
        machine = self._machine(name, now_s)
        if machine is None:
            return None
        if now_s > machine.seen_s:
            machine.hear(now_s)
        signal = signal[:TEXT_MAX]
        series = machine.series.get((stream, signal))
        if series is None:
            if len(machine.series) >= SIGNALS_MAX or len(self.series) >= SERIES_MAX:
                return None
            series = Series(self._next_id, machine.name, signal, stream)
            self._next_id += 1
            self.series[series.id] = machine.series[(stream, signal)] = series
            self._new_series.append(series)
        return series

    def _take_alarms(self, rows: pa.Table) -> None:
        for row in rows.to_pylist():  # alarms are few: some tens of microseconds each
            if str(row.get("event", "")).startswith("case_"):
                continue  # a case gathers alarms that are shown themselves
            alarm = {name: _plain(value) for name, value in row.items()}
            alarm["machine"] = alarm.pop("key")
            self.put_alarm(alarm)

    def put_alarm(self, alarm: dict[str, Any]) -> None:
        """The newest row of an alarm takes the place of older ones."""
        self.alarms.pop(alarm["id"], None)
        self.alarms[alarm["id"]] = self._new_alarms[alarm["id"]] = alarm
        if len(self.alarms) > ALARMS_MAX:
            over = [known for known, old in self.alarms.items() if old["state"] in CLOSED] or list(self.alarms)
            del self.alarms[over[0]]

    def count(self, values: Mapping[str, Any], now_s: float | None = None) -> None:
        """Take in the engine's counters (`run.counters.Counters.snapshot`)."""
        now_s = time.monotonic() if now_s is None else now_s
        self.counters = dict(values)
        read = total(values.get("rows_in"))
        if self._counted is None or read < self._counted[1]:
            self._counted = (now_s, read)
        elif now_s - self._counted[0] >= 1.0:
            rate = (read - self._counted[1]) / (now_s - self._counted[0])
            self.rows_per_s = 0.5 * self.rows_per_s + 0.5 * rate if self.rows_per_s and rate else rate
            self._counted = (now_s, read)

    def changes(self, now_s: float | None = None) -> dict[str, Any]:
        """What has changed since the last call."""
        now_s = time.monotonic() if now_s is None else now_s
        severities = self._severities()
        machines = []
        for machine in self.machines.values():
            shown = self._status(machine, severities, now_s)
            if shown != machine.shown:
                machine.shown = shown
                machines.append(_tile(machine))
        changes: dict[str, Any] = {
            "machines": machines,
            "series": [_describe(series) for series in self._new_series],
            "points": {str(one): pack(np.concatenate(parts, axis=1)) for one, parts in self._points.items()},
            "alarms": list(self._new_alarms.values()),
            "counters": self.status(),
        }
        self._points, self._new_series, self._new_alarms = {}, [], {}
        return {name: value for name, value in changes.items() if value}

    def snapshot(self) -> list[dict[str, Any]]:
        """All machines with their series and newest values."""
        severities, now_s = self._severities(), time.monotonic()
        for machine in self.machines.values():
            machine.shown = machine.shown or self._status(machine, severities, now_s)
        return [
            _tile(machine)
            | {
                "series": [
                    _describe(series) | {"recent": [_round(v) for v in series.points()[1, -60:]]}
                    for series in machine.series.values()
                ]
            }
            for machine in self.machines.values()
        ]

    def status(self) -> dict[str, Any]:
        """The figures at the top of the page."""
        bad: dict[str, float] = {}
        for entry in self.counters.get("rejected", ()):
            bad[entry["reason"]] = bad.get(entry["reason"], 0) + entry["rows"]
        lags = [lag for lag in self.counters.get("lag_s", {}).values() if lag is not None]
        return {
            "engine": self.engine,
            "trouble": self.counters.get("trouble"),
            "rows_per_s": round(self.rows_per_s, 1) if self.engine else 0.0,
            # The least of the streams' lags: a window's own length is no lag of the engine.
            "lag_s": round(min(lags), 3) if lags else None,
            "rows_in": total(self.counters.get("rows_in")),
            "late": total(self.counters.get("late")),
            "bad": sum(bad.values()),
            "bad_by_reason": bad,
            "machines_left_out": len(self._left_out),
        }

    def active(self) -> dict[str, int]:
        """How many alarms are active, by severity."""
        found: dict[str, int] = {}
        for alarm in self.alarms.values():
            if alarm["state"] in ACTIVE:
                severity = str(alarm.get("severity") or "warning")
                found[severity] = found.get(severity, 0) + 1
        return found

    def _severities(self) -> dict[str, str]:
        """The worst active severity by machine."""
        worst: dict[str, str] = {}
        for alarm in self.alarms.values():
            if alarm["state"] in ACTIVE:
                name = _owner(str(alarm["machine"]), self.machines)
                severity = str(alarm.get("severity") or "warning")
                if rank(severity) > rank(worst.get(name, "")):
                    worst[name] = severity
        return worst

    def _status(self, machine: Machine, severities: Mapping[str, str], now_s: float) -> tuple[str, str, str]:
        silent = machine.silent(now_s)
        if severity := severities.get(machine.name):
            return "alarm", severity, "silent" if silent else machine.state
        return ("silent", "", machine.state) if silent else ("running", "", machine.state)


NEVER_S = -np.inf
"""When a machine was heard that is only known from the lake."""
SEVERITIES = ("warning", "minor", "major", "critical")


def rank(severity: str) -> int:
    """0 for none, up to 4 for critical."""
    return SEVERITIES.index(severity) + 1 if severity in SEVERITIES else int(bool(severity))


def pack(points: Points) -> list[list[float | None]]:
    """Columns of `POINT`; band columns without any value are left empty."""
    return [
        [] if i > 1 and np.isnan(column).all() else [_round(value) for value in column]
        for i, column in enumerate(points)
    ]  # fmt: skip


def total(value: Any) -> float:
    """A counter, summed over its labels."""
    return sum(map(total, value.values())) if isinstance(value, Mapping) else _number(value) or 0.0


def _tile(machine: Machine) -> dict[str, Any]:
    status, severity, state = machine.shown
    return {"name": machine.name, "status": status, "severity": severity, "state": state}


def _describe(series: Series) -> dict[str, Any]:
    return {"id": series.id, "machine": series.machine, "signal": series.signal, "stream": series.stream}


def _owner(key: str, machines: Mapping[str, Machine]) -> str:
    """The machine that an alarm's key belongs to: itself, or what stands before a slash."""
    while key not in machines and "/" in key:
        key = key.rpartition("/")[0]
    return key


def _machines(rows: pa.Table) -> pa.ChunkedArray:
    column = next((name for name in _MACHINE_COLUMNS if name in rows.column_names), "key")
    return pc.coalesce(rows.column(column).cast(pa.string()), rows.column("key").cast(pa.string()))


def _without_signal(names: pa.ChunkedArray, signals: pa.ChunkedArray) -> pa.ChunkedArray:
    """Names without the signal at their end."""
    return pc.if_else(pc.equal(_last(names), signals), _before(names), names)


def _split(names: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Machine and signal of ``press-1/vibration``; the signal is ``value`` where there is no slash."""
    slash = pc.match_substring(names, "/")
    return pc.if_else(slash, _before(names), names), pc.if_else(slash, _last(names), "value")


def _before(names: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.replace_substring_regex(names, r"(?s)/[^/]*$", "")


def _last(names: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.replace_substring_regex(names, r"(?s)^.*/", "")


def _judged(rows: pa.Table, columns: Iterable[str]) -> str | None:
    """The column that the verdict is about: ``value``, else the one nearest to what was expected."""
    names = list(columns)
    if "expected" not in rows.column_names or not _numeric(rows.schema.field("expected").type):
        return "value"
    if not names or "value" in names:
        return "value"
    expected = _floats(rows.column("expected"))
    if np.isnan(expected).all():
        return None
    return min(names, key=lambda name: _distance(_floats(rows.column(name)), expected))


def _distance(values: Points, expected: Points) -> float:
    off = np.abs(values - expected)
    return float(np.nanmean(off)) if not np.isnan(off).all() else np.inf


def _numeric(type: pa.DataType) -> bool:
    return bool(pt.is_integer(type) or pt.is_floating(type) or pt.is_boolean(type))


def _floats(column: pa.ChunkedArray) -> Points:
    if pt.is_boolean(column.type):
        column = column.cast(pa.int8())
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)


def _round(value: float) -> float | None:
    """Seven digits, enough for a screen; milliseconds since 1970 stay whole."""
    return None if np.isnan(value) else float(value) if abs(value) > 1e11 else float(f"{value:.7g}")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _plain(value: Any) -> Any:
    """A cell as JSON."""
    if isinstance(value, str):
        return value[: 4 * TEXT_MAX]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value.isoformat() if hasattr(value, "isoformat") else value
