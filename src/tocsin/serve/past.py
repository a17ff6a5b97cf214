"""What the page shows of the time before it started: the newest rows of the lake's tables."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec
import pyarrow as pa

from tocsin.domain.alarms import COMMENTED, LABELLED
from tocsin.engine.wire import StreamColumns, describe
from tocsin.errors import TocsinError
from tocsin.serve.alarm_list import ALARMS_MAX

log = logging.getLogger(__name__)
_ROWS_MAX = 20_000
_TABLES_MAX = 32
_ALL_S_MAX = 30.0
"""A fraction of a second does on most machines; on one that is overloaded, a page that comes late is better than one
that lacks machines for good."""


def newest(lake_folder: Path, streams: Collection[StreamColumns] = ()) -> Iterator[tuple[StreamColumns, pa.Table]]:
    """Gives, table by table, the newest rows, oldest first; of alarms the newest row of each.

    The tables are those that `shown` gives. It takes half a minute at most.
    """
    from tocsin.lake.read import query, quoted

    ends = time.monotonic() + _ALL_S_MAX
    labels = ", ".join(f"'{event}'" for event in LABELLED)
    for name, stream in shown(lake_folder, streams):
        left_s = ends - time.monotonic()
        if left_s <= 0:
            log.warning("the page shows nothing from before of table %s: those before it took too long", name)
            continue
        try:
            # Remarks are rows beside that of the state, and go behind it: their time is that of a clock.
            kind = f"CASE WHEN event = '{COMMENTED}' THEN 2 WHEN event IN ({labels}) THEN 1 ELSE 0 END"
            newest_of_each = f"QUALIFY row_number() OVER (PARTITION BY id, {kind} ORDER BY number DESC) = 1"
            only = newest_of_each if stream.kind == "alarms" else ""
            limit = ALARMS_MAX if only else _ROWS_MAX
            columns = ", ".join(map(quoted, sorted(stream.columns() | {"key", "time"}))) if not only else "*"
            of_table = f"SELECT {columns} FROM {quoted(name)} {only} ORDER BY time DESC LIMIT {limit}"  # noqa: S608
            rows = query(
                f"SELECT * FROM ({of_table}) ORDER BY {f'{kind}, ' if only else ''}time",  # noqa: S608
                lake_folder,
                timeout_s=left_s,
            )
        except (TocsinError, OSError, pa.ArrowException) as error:
            log.warning("the page shows nothing from before of table %s: %s", name, error)
            continue
        yield stream, rows


def shown(lake_folder: Path, streams: Collection[StreamColumns] = ()) -> Iterator[tuple[str, StreamColumns]]:
    """Gives tables by name, each with what its rows are shown as.

    They are those named like one of these streams, or all if none is given. A stream that no table keeps is shown by
    the readings that it is made of, where these are kept and are not shown themselves: without its verdicts.
    """
    own = list(kept(lake_folder, streams))
    yield from ((stream.name, stream) for stream in own)
    names = {stream.name for stream in streams}
    unkept = [one for one in streams if one.kind == "readings" and one.values and one.name not in {s.name for s in own}]
    if not any(set(one.tables) - names for one in unkept):
        return
    tables = {stream.name: stream for stream in kept(lake_folder) if stream.name not in names}
    for one in unkept:
        for table in (tables[name] for name in one.tables if name in tables):
            is_by_name = one.signal or table.signal
            values = tuple(value for value in table.values if is_by_name or value in one.values)
            if table.kind == "readings" and values:
                yield table.name, msgspec.structs.replace(table, name=one.name, values=values)


def kept(lake_folder: Path, streams: Collection[StreamColumns] = ()) -> Iterator[StreamColumns]:
    """Gives what the rows of each table mean: of those named like one of these streams, or of all if none is given."""
    from tocsin.lake.read import schema, tables

    by_name: Mapping[str, StreamColumns] = {stream.name: stream for stream in streams}
    for name in list(tables(lake_folder))[:_TABLES_MAX]:
        if by_name and name not in by_name:
            continue
        try:
            columns = schema(name, lake_folder)
        except (TocsinError, OSError) as error:
            log.warning("the page shows nothing of table %s: %s", name, error)
            continue
        if {"key", "time"} <= set(columns.names):
            yield _with_verdict(describe(name, columns), by_name.get(name))


def _with_verdict(stream: StreamColumns, planned: StreamColumns | None) -> StreamColumns:
    """Returns what a table's rows mean; what a verdict is about is known from the plan, for a table does not say."""
    if planned is None or planned.judged not in stream.values:
        return stream
    # Where a forecast is of a column that is there, `y` is the same once more.
    values = tuple(name for name in stream.values if name != stream.judged or name in planned.values)
    return msgspec.structs.replace(stream, judged=planned.judged, values=values)
