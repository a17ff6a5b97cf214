"""A machine's readings over a range of time, from the lake, as many points as a screen has room for.

Each point stands for a part of the range: its mean, least and most value, the mean of what was expected and the highest
score. A part in which nothing was read has no point; where readings are rarer than parts, each reading is a point.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.engine.wire import StreamColumns
from tocsin.errors import TocsinError
from tocsin.serve.messages import MachineSeries, Points
from tocsin.serve.naming import named, placed
from tocsin.serve.past import kept
from tocsin.serve.series import rounded

log = logging.getLogger(__name__)
PARTS_MAX = 2000
_SERIES_MAX = 256
_QUERY_S = 15.0


def history(
    lake_folder: Path, streams: Collection[StreamColumns], machine: str, begin_ms: int, end_ms: int, parts: int
) -> list[MachineSeries]:
    """Returns all series of a machine from ``begin_ms`` up to before ``end_ms`` (since 1970).

    They come from the tables of these streams, or from all tables if those hold nothing of it, as where only the
    readings are kept and the page shows the judged ones. Each has at most ``parts`` points. Their ids count down
    from -1: they are not those of the live series. A table that cannot be read is left out.
    """
    series = _all(lake_folder, kept(lake_folder, streams), machine, begin_ms, end_ms, parts)
    if not series and streams:
        series = _all(lake_folder, kept(lake_folder), machine, begin_ms, end_ms, parts)
    return series


def _all(
    lake_folder: Path, streams: Iterable[StreamColumns], machine: str, begin_ms: int, end_ms: int, parts: int
) -> list[MachineSeries]:
    series: list[MachineSeries] = []
    for stream in streams:
        if stream.kind == "alarms" or not stream.values:
            continue
        try:
            rows = _parts(lake_folder, stream, machine, begin_ms, end_ms, parts)
        except TocsinError as error:
            log.warning("the page shows nothing of table %s: %s", stream.name, error)
            continue
        for signal, points in _series(stream, machine, rows):
            series.append(MachineSeries(-1 - len(series), machine, signal, stream.name, points=points))
            if len(series) == _SERIES_MAX:
                return series
    return series


def _parts(lake_folder: Path, stream: StreamColumns, machine: str, begin_ms: int, end_ms: int, parts: int) -> pa.Table:
    """Returns a row for each part of the range and each name that could be the machine's."""
    from tocsin.lake.read import query, quoted

    who = f"coalesce(CAST({quoted(stream.machine)} AS VARCHAR), CAST(key AS VARCHAR))"
    names = [f"{who} AS {quoted('key')}", *([quoted(stream.signal)] if stream.signal else [])]
    figures = ["epoch_ms(min(time)) AS first_ms"]
    for i, column in enumerate(stream.values):
        value = _finite(column)
        figures += [f"avg({value}) AS mean{i}", f"min({value}) AS least{i}", f"max({value}) AS most{i}"]
    figures += [
        f"{'max' if name == 'score' else 'avg'}({_finite(judgement)}) AS {name}_" for name, judgement in stream.band
    ]
    if (score := stream.score_of_several) is not None:
        of_it = f"FILTER (WHERE CAST({quoted(stream.blamed)} AS VARCHAR) = $signal"
        figures += [f"max({_finite(score)}) {of_it}{i}) AS score{i}" for i in range(len(stream.values))]
    sql = f"""
        SELECT {", ".join(names)}, {", ".join(figures)} FROM {quoted(stream.name)}
        WHERE time >= make_timestamptz($begin_us) AND time < make_timestamptz($end_us)
          AND ({who} = $machine OR starts_with({who}, $below))
        GROUP BY {", ".join(str(i + 1) for i in range(len(names)))}, (epoch_ms(time) - $begin_ms) // $part_ms
        ORDER BY first_ms
    """  # noqa: S608
    given: dict[str, object] = {
        "begin_us": begin_ms * 1000,
        "end_us": end_ms * 1000,
        "begin_ms": begin_ms,
        "part_ms": max(1, -(-(end_ms - begin_ms) // parts)),
        "machine": machine,
        "below": f"{machine}/",
    }
    if score is not None:
        given |= {f"signal{i}": column for i, column in enumerate(stream.values)}
    return query(sql, lake_folder, parameters=given, timeout_s=_QUERY_S)


def _finite(column: str) -> str:
    """Returns a column as SQL, null where it holds no number that can be drawn."""
    from tocsin.lake.read import quoted

    number = f"CAST({quoted(column)} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def _series(stream: StreamColumns, machine: str, rows: pa.Table) -> Iterator[tuple[str, Points]]:
    """The signals of the machine, with their points, by name."""
    names = named(rows, "key")
    for i, column in enumerate(stream.values):
        machines, signals = placed(stream, rows, names, column)
        mine = pc.equal(machines, machine)
        for signal in sorted(pc.unique(signals.filter(mine)).to_pylist()):
            part = rows.filter(pc.and_(mine, pc.equal(signals, signal)))
            part = part.filter(pc.is_valid(part[f"mean{i}"]))
            if part.num_rows:
                band = {name: _numbers(part, f"{name}_") for name, _ in stream.band} if column == stream.judged else {}
                if stream.score_of_several is not None:
                    band = {"score": _numbers(part, f"score{i}")}
                yield (
                    signal,
                    Points(
                        time=part["first_ms"].cast(pa.float64()).to_pylist(),
                        value=_numbers(part, f"mean{i}"),
                        least=_numbers(part, f"least{i}"),
                        most=_numbers(part, f"most{i}"),
                        **{name: column for name, column in band.items() if any(v is not None for v in column)},
                    ),
                )


def _numbers(rows: pa.Table, column: str) -> list[float | None]:
    return [rounded(value) for value in np.asarray(rows[column].to_numpy(), np.float64)]
