"""Machines by time as swim lanes: how bad each part of a range of time was, from the tables and from what is live.

After Elastic's Anomaly Explorer. A cell is as bad as the worst alarm that was active in it, or the highest score: one
of 75 (where a detector's limit is) or more counts as the gravest band, one of 50 or more as the least.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tocsin.domain.alarms import ACTIVE, CASE_EVENTS, LABELLED, SEVERITIES, rank
from tocsin.engine.wire import StreamColumns
from tocsin.errors import TocsinError
from tocsin.serve.alarm_list import owner
from tocsin.serve.live import Live
from tocsin.serve.messages import Lane, Lanes
from tocsin.serve.past import kept

log = logging.getLogger(__name__)
CELLS_MAX = 200
LANES_MAX = 25
"""So many are asked for at once: what one can still read."""
CALM_BELOW, LIMIT = 50.0, SEVERITIES[-1].least
_UNKNOWN, _CALM = -1, 0
_QUERY_S = 5.0

Cells = npt.NDArray[np.int8]
"""Shape (cells,): -1 where nothing is known, 0 where all was calm, else a severity's rank."""


@dataclass(frozen=True)
class Grid:
    """A range of time, cut into cells; times in milliseconds since 1970."""

    begin_ms: int
    end_ms: int
    cells: int

    @property
    def cell_ms(self) -> float:
        return (self.end_ms - self.begin_ms) / self.cells


@dataclass(frozen=True)
class Lasting:
    """An alarm from its onset until it was over, or until now."""

    key: str
    severity: str
    begin_ms: float
    over_ms: float | None


@dataclass(frozen=True)
class Heard:
    """What the tables may not hold yet, as it was at one moment."""

    machines: Collection[str]
    scores: Mapping[str, Sequence[tuple[float, float]]]
    """By machine: scores and their times in milliseconds."""
    alarms: Mapping[str, Lasting]
    """By id."""


def heard(live: Live) -> Heard:
    """Returns what the page has heard: scores of the last minutes, and the alarms that are listed."""
    scores = {name: list(machine.worst.values()) for name, machine in live.machines.items() if machine.worst}
    alarms = {
        one.id: Lasting(
            one.machine, one.severity, _ms(one.started or one.time), None if one.state in ACTIVE else _ms(one.time)
        )
        for one in live.alarms.by_id.values()
        if one.time
    }
    return Heard(frozenset(live.machines), scores, alarms)


def lanes(
    lake_folder: Path | None, streams: Collection[StreamColumns], now: Heard, grid: Grid, first: int, count: int
) -> Lanes:
    """Returns ``count`` lanes from the ``first`` on, the worst machine first; an unknown one has none."""
    known: dict[str, Cells] = {}
    alarms: dict[str, Lasting] = {}
    left_out = []
    if lake_folder is not None and lake_folder.is_dir():
        for stream in kept(lake_folder, streams):
            try:
                if stream.kind == "alarms":
                    alarms |= _alarms(lake_folder, stream.name, grid)
                elif "score" in dict(stream.band):
                    _scores(lake_folder, stream, grid, known)
            except TocsinError as error:
                log.warning("the lanes show nothing of table %s: %s", stream.name, error)
                left_out.append(stream.name)
    for name, scored in now.scores.items():
        _take_heard(scored, name, grid, known)
    # Tables tell better when an alarm was over: the newest row may be of an acknowledgement since then.
    alarms |= {id: one for id, one in now.alarms.items() if id not in alarms or alarms[id].over_ms is None}
    machines = now.machines | known.keys()
    for one in alarms.values():
        _mark(known, owner(one.key, machines), one, grid)
    order = sorted(known, key=lambda name: (-int(known[name].max()), -int(known[name].clip(0).sum()), name))
    note = f"Left out, since they cannot be read now: {', '.join(left_out)}." if left_out else ""
    return Lanes(
        begin_ms=grid.begin_ms,
        cell_ms=grid.cell_ms,
        lanes=[Lane(name, known[name].tolist()) for name in order[first : first + count]],
        first=first,
        machines=len(order),
        note=note,
    )


def ranks(scores: npt.NDArray[np.float64]) -> Cells:
    """Returns how bad scores are; NaN is not known.

    Examples
    --------
    >>> ranks(np.array([np.nan, 20.0, 60.0, 75.0])).tolist()
    [-1, 0, 1, 4]
    """
    bad = np.where(scores >= LIMIT, len(SEVERITIES), np.where(scores >= CALM_BELOW, 1, _CALM))
    return np.where(np.isnan(scores), _UNKNOWN, bad).astype(np.int8)


def _cells(known: dict[str, Cells], machine: str, grid: Grid) -> Cells:
    if machine not in known:
        known[machine] = np.full(grid.cells, _UNKNOWN, np.int8)
    return known[machine]


def _mark(known: dict[str, Cells], machine: str, alarm: Lasting, grid: Grid) -> None:
    """Mark the cells in which an alarm was active."""
    begin = (alarm.begin_ms - grid.begin_ms) / grid.cell_ms
    over = grid.cells if alarm.over_ms is None else (alarm.over_ms - grid.begin_ms) / grid.cell_ms
    if begin >= grid.cells or over < 0:
        return
    part = slice(max(int(begin), 0), int(over) + 1)
    cells = _cells(known, machine, grid)
    cells[part] = np.maximum(cells[part], rank(alarm.severity))


def _scores(lake_folder: Path, stream: StreamColumns, grid: Grid, known: dict[str, Cells]) -> None:
    """Take in the highest score of each machine and cell that a table holds."""
    from tocsin.lake.read import query, quoted

    score = f"CAST({quoted(dict(stream.band)['score'])} AS DOUBLE)"
    sql = f"""
        SELECT {_machine(stream)} AS machine, CAST(floor((epoch_ms(time) - $begin_ms) / $cell_ms) AS BIGINT) AS cell,
               max({score}) AS score
        FROM {quoted(stream.name)}
        WHERE time >= make_timestamptz($begin_us) AND time < make_timestamptz($end_us) AND isfinite({score})
        GROUP BY 1, 2 ORDER BY 1
    """  # noqa: S608
    range_us = {"begin_us": grid.begin_ms * 1000, "end_us": grid.end_ms * 1000}
    given: Mapping[str, object] = {**range_us, "begin_ms": grid.begin_ms, "cell_ms": grid.cell_ms}
    rows = query(sql, lake_folder, parameters=given, timeout_s=_QUERY_S)
    _take(rows, grid, known)


def _take(rows: pa.Table, grid: Grid, known: dict[str, Cells]) -> None:
    """Take in rows of machine, cell and score, in the order of machines."""
    if not rows.num_rows:
        return
    names = rows["machine"].combine_chunks().dictionary_encode()
    codes, places = names.indices.to_numpy(), np.clip(rows["cell"].to_numpy(), 0, grid.cells - 1)
    worst = ranks(rows["score"].to_numpy())
    cuts = np.flatnonzero(np.diff(codes)) + 1
    for part in np.split(np.arange(len(codes)), cuts):  # a loop over machines, about 5 us each
        cells = _cells(known, names.dictionary[int(codes[part[0]])].as_py(), grid)
        cells[places[part]] = np.maximum(cells[places[part]], worst[part])


def _machine(stream: StreamColumns) -> str:
    """Returns the machine of a row as SQL, as `naming.placed` has it."""
    from tocsin.lake.read import quoted

    who = f"coalesce(CAST({quoted(stream.machine)} AS VARCHAR), CAST(key AS VARCHAR))"
    before = f"regexp_replace({who}, '(?s)/[^/]*$', '')"
    if stream.signal:
        signal = f"coalesce(CAST({quoted(stream.signal)} AS VARCHAR), 'value')"
        return f"CASE WHEN regexp_replace({who}, '(?s)^.*/', '') = {signal} THEN {before} ELSE {who} END"
    return before if stream.values == ("value",) and stream.machine != "machine" else who


def _alarms(lake_folder: Path, table: str, grid: Grid) -> Mapping[str, Lasting]:
    """Returns the alarms of a table that were active in the range, by id."""
    from tocsin.lake.read import query, quoted, schema

    onset = "coalesce(started, time)" if "started" in schema(table, lake_folder).names else "time"
    sql = f"""
        WITH told AS (
            SELECT id, CAST(min(key) AS VARCHAR) AS key, arg_max(severity, number) AS severity,
                   epoch_ms(min({onset})) AS begin_ms,
                   epoch_ms(min(time) FILTER (WHERE NOT list_contains($active, state))) AS over_ms
            FROM {quoted(table)} WHERE NOT list_contains($others, event) GROUP BY id)
        SELECT * FROM told WHERE begin_ms < $end_ms AND (over_ms IS NULL OR over_ms >= $begin_ms)
    """  # noqa: S608
    given = {
        "active": list(ACTIVE),
        "others": [*CASE_EVENTS, *LABELLED],
        "begin_ms": grid.begin_ms,
        "end_ms": grid.end_ms,
    }
    rows = query(sql, lake_folder, parameters=given, timeout_s=_QUERY_S).to_pylist()
    return {row["id"]: Lasting(row["key"], row["severity"], row["begin_ms"], row["over_ms"]) for row in rows}


def _take_heard(scored: Sequence[tuple[float, float]], machine: str, grid: Grid, known: dict[str, Cells]) -> None:
    """Take in scores of one machine with their times."""
    inside = [at for at in scored if grid.begin_ms <= at[1] < grid.end_ms]
    if inside:
        scores, times = np.array(inside).T
        places = np.minimum((times - grid.begin_ms) // grid.cell_ms, grid.cells - 1).astype(np.int64)
        np.maximum.at(_cells(known, machine, grid), places, ranks(scores))


def _ms(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp() * 1000
