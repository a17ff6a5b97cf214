"""Machines by time as swim lanes: how bad each part of a range of time was, from the tables and from what is live.

After Elastic's Anomaly Explorer. A cell is as bad as the worst alarm that was active in it, or the highest score.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from tocsin.domain.alarms import ACTIVE, CASE_EVENTS, REMARKS, rank
from tocsin.engine.wire import StreamColumns
from tocsin.errors import TocsinError
from tocsin.pipeline.assets import owner
from tocsin.serve.live import Live
from tocsin.serve.messages import Lane, Lanes
from tocsin.serve.past import kept
from tocsin.serve.scores import Cells, Grid, ScoreCells, cells_of, ranks

log = logging.getLogger(__name__)
LANES_MAX = 25
"""So many are asked for at once: what one can still read."""
_ALARMS_S = 5.0
_ALL_S = 4.0
"""So long scores are read for one answer; what is missing then comes with the next ones."""


@dataclass(frozen=True)
class Lasting:
    """An alarm from its onset until it was over, or until now."""

    key: str
    severity: str
    begin_ms: float
    over_ms: float | None
    signal: str = ""


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
            one.machine,
            one.severity,
            _ms(one.started or one.time),
            None if one.state in ACTIVE else _ms(one.time),
            one.signal,
        )
        for one in live.alarms.by_id.values()
        if one.time
    }
    return Heard(frozenset(live.machines), scores, alarms)


def lanes(
    lake_folder: Path | None,
    streams: Collection[StreamColumns],
    now: Heard,
    read: ScoreCells,
    grid: Grid,
    first: int,
    count: int,
    is_wanted: Callable[[str], bool] = lambda machine: True,
) -> Lanes:
    """Returns ``count`` lanes of wanted machines from the ``first`` on, the worst first; an unknown one has none."""
    known: dict[str, Cells] = {}
    ends_s = time.monotonic() + _ALL_S
    alarms, left_out = read_tables(
        lake_folder, streams, now, grid, lambda folder, stream: read.take(folder, stream, grid, known, ends_s)
    )
    for name, scored in now.scores.items():
        _take_heard(scored, name, grid, known)
    machines = now.machines | known.keys()
    for one in alarms.values():
        mark(known, owner(one.key, machines), one, grid)
    order = [name for name in worst_first(known) if is_wanted(name)]
    note = f"Not all of {', '.join(left_out)} has been read; more comes by itself." if left_out else ""
    return Lanes(
        begin_ms=grid.begin_ms,
        cell_ms=grid.cell_ms,
        lanes=[Lane(name, known[name].tolist()) for name in order[first : first + count]],
        first=first,
        machines=len(order),
        note=note,
    )


def read_tables(
    lake_folder: Path | None,
    streams: Collection[StreamColumns],
    now: Heard,
    grid: Grid,
    take: Callable[[Path, StreamColumns], bool],
) -> tuple[Mapping[str, Lasting], list[str]]:
    """Returns the alarms of a range, from the tables and from what the page has heard, and the tables left out.

    ``take`` takes in the scores of a table that has some, and says whether it has read it whole.
    """
    alarms: dict[str, Lasting] = {}
    left_out = []
    if lake_folder is not None and lake_folder.is_dir():
        for stream in _tables(lake_folder, streams):
            try:
                if stream.kind == "alarms":
                    alarms |= _alarms(lake_folder, stream.name, grid)
                elif "score" in dict(stream.band) and not take(lake_folder, stream):
                    left_out.append(stream.name)
            except TocsinError as error:
                log.warning("the lanes show nothing of table %s: %s", stream.name, error)
                left_out.append(stream.name)
    # Tables tell better when an alarm was over: the newest row may be of an acknowledgement since then.
    alarms |= {id: one for id, one in now.alarms.items() if id not in alarms or alarms[id].over_ms is None}
    return alarms, left_out


def worst_first(known: Mapping[str, Cells]) -> list[str]:
    """Returns who has a lane, the worst first."""
    return sorted(known, key=lambda name: (-int(known[name].max()), -int(known[name].clip(0).sum()), name))


def _tables(lake_folder: Path, streams: Collection[StreamColumns]) -> list[StreamColumns]:
    """The tables to read: those of the streams; if none of these has scores, others that have, as the anomalies."""
    shown = list(kept(lake_folder, streams))
    if not streams or any("score" in dict(stream.band) for stream in shown):
        return shown
    about = {stream.judged for stream in streams if stream.judged}
    judged = about.pop() if len(about) == 1 else ""
    others = [one for one in kept(lake_folder) if "score" in dict(one.band) and one not in shown]
    return shown + [replace(one, judged=judged) if judged in one.values else one for one in others]


def mark(known: dict[str, Cells], machine: str, alarm: Lasting, grid: Grid) -> None:
    """Mark the cells in which an alarm was active."""
    begin = (alarm.begin_ms - grid.begin_ms) / grid.cell_ms
    over = grid.cells if alarm.over_ms is None else (alarm.over_ms - grid.begin_ms) / grid.cell_ms
    if begin >= grid.cells or over < 0:
        return
    part = slice(max(int(begin), 0), int(over) + 1)
    cells = cells_of(known, machine, grid)
    cells[part] = np.maximum(cells[part], rank(alarm.severity))


def _alarms(lake_folder: Path, table: str, grid: Grid) -> Mapping[str, Lasting]:
    """Returns the alarms of a table that were active in the range, by id."""
    from tocsin.lake.read import query, quoted, schema

    names = schema(table, lake_folder).names
    onset = "coalesce(started, time)" if "started" in names else "time"
    signal = "coalesce(CAST(any_value(signal) AS VARCHAR), '')" if "signal" in names else "''"
    sql = f"""
        WITH told AS (
            SELECT id, CAST(min(key) AS VARCHAR) AS key, arg_max(severity, number) AS severity, {signal} AS signal,
                   epoch_ms(min({onset})) AS begin_ms,
                   epoch_ms(min(time) FILTER (WHERE NOT list_contains($active, state))) AS over_ms
            FROM {quoted(table)} WHERE NOT list_contains($others, event) GROUP BY id)
        SELECT * FROM told WHERE begin_ms < $end_ms AND (over_ms IS NULL OR over_ms >= $begin_ms)
    """  # noqa: S608
    given = {
        "active": list(ACTIVE),
        "others": [*CASE_EVENTS, *REMARKS],
        "begin_ms": grid.begin_ms,
        "end_ms": grid.end_ms,
    }
    rows = query(sql, lake_folder, parameters=given, timeout_s=_ALARMS_S).to_pylist()
    return {
        row["id"]: Lasting(row["key"], row["severity"], row["begin_ms"], row["over_ms"], row["signal"]) for row in rows
    }


def _take_heard(scored: Sequence[tuple[float, float]], machine: str, grid: Grid, known: dict[str, Cells]) -> None:
    """Take in scores of one machine with their times."""
    inside = [at for at in scored if grid.begin_ms <= at[1] < grid.end_ms]
    if inside:
        scores, times = np.array(inside).T
        places = np.minimum((times - grid.begin_ms) // grid.cell_ms, grid.cells - 1).astype(np.int64)
        np.maximum.at(cells_of(known, machine, grid), places, ranks(scores))


def _ms(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp() * 1000
