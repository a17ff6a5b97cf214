"""How each part of the pipeline fares, from what the engine counts, and the last rows of those that are looked at."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from tocsin.engine.last_rows import PARTS_MAX
from tocsin.engine.wire import LOOK, Counted, LastRows, encode_looked_at, frame
from tocsin.serve.graph_messages import Inlet, Outline, PartOutline, PartRows, PartState, SetAside
from tocsin.serve.machine import SILENT_INTERVALS, SILENT_S_MIN

ODD_S = 60.0
"""So long after its last rejected row a part looks odd."""
LAG_EPOCHS_MAX = 10
"""A sink that is further behind is told of, even if nothing seems wrong with it."""
_RATE_S = 1.0
LOOKED_S = 6.0
"""So long after it was last asked for a part is looked at; who looks asks every second."""

State = tuple[str, str]


@dataclass(slots=True)
class _Seen:
    """What has been seen of a part's counter."""

    rows: float
    rate_from: tuple[float, float]
    """Since when, and from how many rows on, the present rate is measured."""
    moved_s: float
    """When it last rose."""
    per_s: float = 0.0
    interval_s: float = 0.0
    """How often it rises, smoothed; 0 until it has risen twice."""

    def rise(self, rows: float, now_s: float) -> None:
        """Note how many there are now."""
        if rows < self.rows:  # the engine has started anew
            self.rows, self.rate_from, self.per_s = rows, (now_s, rows), 0.0
            return
        if rows > self.rows:
            gap = now_s - self.moved_s
            usual = self.interval_s
            self.interval_s = 0.9 * usual + 0.1 * min(gap, 10 * usual) if usual else gap
            self.rows, self.moved_s = rows, now_s
        if (took_s := now_s - self.rate_from[0]) >= _RATE_S:
            rate = (rows - self.rate_from[1]) / took_s
            self.per_s = 0.5 * self.per_s + 0.5 * rate if self.per_s and rate else rate
            self.rate_from = now_s, rows


class Parts:
    """Takes the engine's counters in; tells how each part of an outline fares."""

    def __init__(self) -> None:
        self.counted = Counted()
        self._rows: dict[str, _Seen] = {}
        self._rejected: dict[str, _Seen] = {}

    def count(self, counted: Counted, now_s: float) -> None:
        """Take in the engine's counters: a few dozen numbers, twice a second."""
        self.counted = counted
        rows = {id: part.rows for id, part in counted.parts.items()} | counted.rows_in | counted.rows_into
        _rise(self._rows, rows, now_s)
        _rise(self._rejected, _by_part(counted), now_s)

    def told(self, outline: Outline, *, by_table: bool, now_s: float) -> list[PartState]:
        """Returns how all parts fare. With ``by_table`` nothing is known but the rows that came to each table."""
        late, rejected = self.counted.late, _by_part(self.counted)
        told = []
        for part in outline.parts:
            name = part.table if by_table else part.id
            seen = self._rows.get(name) if not by_table or part.table else None
            state, said = ("unknown", "") if seen is None else ("well", "")
            if not by_table:
                state, said = self._state(part, now_s)
            counted = self.counted.parts.get(part.id)
            told.append(
                PartState(
                    part.id, part.kind, part.name, part.stream, part.inputs, state, said,  # type: ignore[arg-type]
                    rows=None if seen is None else seen.rows,
                    rows_per_s=None if seen is None else round(seen.per_s, 1),
                    lag_s=None if counted is None or by_table else counted.lag_s,
                    late=late.get(part.id, 0),
                    rejected=rejected.get(part.id, 0),
                    rung=self.counted.rung.get(part.id, 0),
                )
            )  # fmt: skip
        return told

    def _state(self, part: PartOutline, now_s: float) -> State:
        if part.kind == "source":
            return self._source(part, now_s)
        if part.kind == "step":
            return self._step(part, now_s)
        if part.kind == "channel":
            outgoing = self.counted.channels.get(part.id)
            if outgoing is not None and outgoing.reason:
                return "bad", f"Nothing is delivered: {outgoing.reason}"
            return ("well" if part.id in self._rows or outgoing is not None else "unknown"), ""
        sink = self.counted.sinks.get(part.load or part.id)
        if sink is not None and (sink.reason or sink.lag_epochs > LAG_EPOCHS_MAX):
            behind = f"{sink.lag_epochs:,} {'epoch' if sink.lag_epochs == 1 else 'epochs'} behind"
            return "bad", f"{behind}: {sink.reason or 'it is slower than what comes'}"
        return ("well" if sink is not None or part.id in self._rows else "unknown"), ""

    def _source(self, part: PartOutline, now_s: float) -> State:
        source, seen = self.counted.sources.get(part.id), self._rows.get(part.id)
        if source is not None and source.reason:
            since = "" if source.silent_s is None else f" for {_for(source.silent_s)}"
            return "bad", f"Nothing has come{since}: {source.reason}"
        counted = self.counted.parts.get(part.id)
        if seen is not None and seen.rows and counted is not None and counted.lag_s is None and counted.rows:
            return "ended", "It has been read to its end"
        if (aside := self._aside(part, now_s))[0] == "bad":
            return aside
        silent_s = source.silent_s if source is not None and source.silent_s is not None else None
        if silent_s is not None and silent_s > SILENT_S_MIN:
            if seen is None or not seen.rows:
                return "bad", f"Nothing has come since it was opened, {_for(silent_s)} ago"
            if seen.interval_s and silent_s > SILENT_INTERVALS * seen.interval_s:
                return "bad", f"Silent for {_for(silent_s)}; usually something comes every {_for(seen.interval_s)}"
        if source is None and seen is None:
            return "unknown", ""
        return aside

    def _step(self, part: PartOutline, now_s: float) -> State:
        return self._aside(part, now_s) if part.id in self.counted.parts else ("unknown", "")

    def _aside(self, part: PartOutline, now_s: float) -> State:
        """Returns what rows that were set aside say of a source or step."""
        rejected, counted = self._rejected.get(part.id), self.counted.parts.get(part.id)
        if rejected is None or not rejected.rows:
            return "well", ""
        most = max((one for one in self.counted.rejected if one.source == part.id), key=lambda one: one.rows)
        why = f"{most.reason.replace('_', ' ')}{f' ({most.detail})' if most.detail else ''}"
        if counted is not None and not counted.rows:
            return "bad", f"Every row is set aside: {why}"
        if now_s - rejected.moved_s <= ODD_S:
            return "odd", f"Rows are set aside: {why}"
        return "well", ""

    def rows(self, part: PartOutline, ports: list[LastRows], note: str) -> PartRows:
        """Returns what changes while somebody looks at a part."""
        noticed: dict[str, int] = {}
        for one in self.counted.events:
            if one.source == part.id or one.source.startswith(f"{part.id}/"):
                noticed[one.event] = noticed.get(one.event, 0) + one.count
        aside = [SetAside(one.reason, one.rows, one.detail) for one in self.counted.rejected if one.source == part.id]
        return PartRows(part.id, sorted(aside, key=lambda one: -one.rows), noticed, ports, note)


class LookedAt:
    """The parts that somebody looks at, and their last rows, which engines send for as long as they are told to."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}
        """By part, until when it is looked at; the one that was asked for last stands last."""
        self._rows: dict[tuple[str, str], LastRows] = {}
        """By part and port."""
        self._told: frozenset[str] = frozenset()
        self._engines: set[Callable[[bytes], None]] = set()

    def connect(self, send: Callable[[bytes], None]) -> None:
        """Tell a further engine what is looked at."""
        self._engines.add(send)
        if self._told:
            send(frame(LOOK, encode_looked_at(self._told)))

    def disconnect(self, send: Callable[[bytes], None]) -> None:
        """Let go of an engine."""
        self._engines.discard(send)

    def look(self, part: str, now_s: float | None = None) -> None:
        """Somebody looks at a part."""
        now_s = time.monotonic() if now_s is None else now_s
        self._until_s.pop(part, None)
        self._until_s[part] = now_s + LOOKED_S
        while len(self._until_s) > PARTS_MAX:
            del self._until_s[next(iter(self._until_s))]

    def take(self, rows: LastRows) -> None:
        """Take in the last rows of a part, if somebody still looks at it."""
        if rows.part in self._until_s:
            self._rows[rows.part, rows.port] = rows

    def tell(self, now_s: float | None = None) -> None:
        """Forget what nobody looks at any more, and tell engines what has changed of it."""
        now_s = time.monotonic() if now_s is None else now_s
        self._until_s = {part: until_s for part, until_s in self._until_s.items() if until_s > now_s}
        self._rows = {port: rows for port, rows in self._rows.items() if port[0] in self._until_s}
        parts = frozenset(self._until_s)
        if parts != self._told:
            self._told = parts
            for send in self._engines:
                send(frame(LOOK, encode_looked_at(parts)))

    def rows(self, ports: Collection[Inlet]) -> list[LastRows]:
        """Returns the last rows of these ports."""
        return [rows for port in ports if (rows := self._rows.get((port.part, port.port))) is not None]

    def rows_of(self, part: str) -> list[LastRows]:
        """Returns the last rows of a part by each of its ports."""
        return [rows for (id, _), rows in sorted(self._rows.items()) if id == part]


def _rise(all_seen: dict[str, _Seen], rows: Mapping[str, int], now_s: float) -> None:
    for id, count in rows.items():
        seen = all_seen.get(id)
        if seen is None:
            all_seen[id] = _Seen(count, (now_s, count), now_s)
        else:
            seen.rise(count, now_s)


def _by_part(counted: Counted) -> dict[str, int]:
    rejected: dict[str, int] = {}
    for one in counted.rejected:
        rejected[one.source] = rejected.get(one.source, 0) + one.rows
    return rejected


def _for(seconds: float) -> str:
    """Returns a time span in words, as short as its size allows."""
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
