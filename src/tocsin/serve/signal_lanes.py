"""The signals of one machine by time as swim lanes: how bad each part of a range was, the worst signal first.

As `serve.lanes` has machines by time; which signal a score is about is what its stream says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tocsin.engine.wire import StreamColumns
from tocsin.pipeline.assets import owner
from tocsin.serve.lanes import Heard, mark, read_tables, worst_first
from tocsin.serve.live import Live
from tocsin.serve.messages import Lane, Lanes
from tocsin.serve.scores import Cells, Grid, cells_of, machine_of, ranks
from tocsin.serve.series import COLUMNS

SIGNALS_MAX = 64
"""So many have a lane, the worst."""
_QUERY_S = 4.0

Scored = tuple[str, npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""A signal, its scores, and when each was, in milliseconds since 1970."""


def heard_of(live: Live, machine: str) -> list[Scored]:
    """Returns the scores of the machine's signals that the page has heard."""
    view = live.machines.get(machine)
    if view is None:
        return []
    score = COLUMNS.index("score")
    points = ((signal, one.points()) for (_, signal), one in view.series.items())
    return [(signal, drawn[score], drawn[0]) for signal, drawn in points if np.isfinite(drawn[score]).any()]


def signal_lanes(
    lake_folder: Path | None,
    streams: Collection[StreamColumns],
    now: Heard,
    scored: Collection[Scored],
    machine: str,
    grid: Grid,
) -> Lanes:
    """Returns a lane for each signal of a machine that is judged or has rung, the worst first.

    ``now`` is what the page has heard of alarms, ``scored`` of scores. A table that cannot be read is named in a note.
    """
    known: dict[str, Cells] = {}

    def take(folder: Path, stream: StreamColumns) -> bool:
        for name, scores, times in _kept(folder, stream, machine, grid):
            _take(known, name, scores, times, grid)
        return True

    alarms, left_out = read_tables(lake_folder, streams, now, grid, take)
    for name, scores, times in scored:
        _take(known, name, scores, times, grid)
    for one in alarms.values():
        if owner(one.key, {machine}) == machine:
            mark(known, one.signal or one.key.removeprefix(f"{machine}/"), one, grid)
    order = worst_first(known)
    note = f"Table {', '.join(left_out)} could not be read in time." if left_out else ""
    return Lanes(
        begin_ms=grid.begin_ms,
        cell_ms=grid.cell_ms,
        lanes=[Lane(machine, known[name].tolist(), name) for name in order[:SIGNALS_MAX]],
        first=0,
        machines=len(order),
        note=note,
    )


def _take(
    known: dict[str, Cells], name: str, scores: npt.NDArray[np.float64], times: npt.NDArray[np.float64], grid: Grid
) -> None:
    """Take in the scores of a signal that lie in the range."""
    inside = np.isfinite(scores) & (times >= grid.begin_ms) & (times < grid.end_ms)
    if inside.any():
        places = ((times[inside] - grid.begin_ms) // grid.cell_ms).astype(np.int64)
        np.maximum.at(cells_of(known, name, grid), places, ranks(scores[inside]))


def _kept(lake_folder: Path, stream: StreamColumns, machine: str, grid: Grid) -> Iterator[Scored]:
    """Gives the highest score of each signal in each cell, from a table."""
    from tocsin.lake.read import query, quoted

    score = f"CAST({quoted(dict(stream.band)['score'])} AS DOUBLE)"
    sql = f"""
        SELECT {_signal(stream)} AS signal, $begin_ms + (epoch_ms(time) - $begin_ms) // $cell_ms * $cell_ms AS at_ms,
               max({score}) AS score
        FROM {quoted(stream.name)}
        WHERE time >= make_timestamptz($begin_us) AND time < make_timestamptz($end_us) AND isfinite({score})
          AND {machine_of(stream)} = $machine
        GROUP BY 1, 2 ORDER BY 1
    """  # noqa: S608
    given: Mapping[str, object] = {
        "machine": machine, "begin_ms": grid.begin_ms, "cell_ms": grid.cell_ms, "begin_us": grid.begin_ms * 1000,
        "end_us": grid.end_ms * 1000, "judged": stream.judged or "score",
    }  # fmt: skip
    rows = query(sql, lake_folder, parameters=given, timeout_s=_QUERY_S)
    names = np.array(rows["signal"].to_pylist(), dtype=object)
    scores, times = (rows[name].to_numpy().astype(np.float64) for name in ("score", "at_ms"))
    for name in dict.fromkeys(names.tolist()):
        mine = names == name
        yield str(name), scores[mine], times[mine]


def _signal(stream: StreamColumns) -> str:
    """Returns the signal that a row's score is about, as SQL; `$judged` is the column where all are about the same."""
    from tocsin.lake.read import quoted

    if named := stream.signal or stream.blamed:
        return f"coalesce(nullif(CAST({quoted(named)} AS VARCHAR), ''), $judged)"
    if stream.values == ("value",) and stream.machine != "machine":
        key = "CAST(key AS VARCHAR)"
        return f"CASE WHEN contains({key}, '/') THEN regexp_replace({key}, '(?s)^.*/', '') ELSE $judged END"
    return "CAST($judged AS VARCHAR)"
