"""What the page shows of the time before it started: the newest rows of the lake's tables."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa

from tocsin.engine.feed import ALARM_COLUMNS
from tocsin.errors import TocsinError
from tocsin.serve.live import ALARMS_MAX

log = logging.getLogger(__name__)
_ROWS_MAX = 20_000
_TABLES_MAX = 32
_ALL_S_MAX = 5.0


def newest(lake_folder: Path, streams: Collection[str] = ()) -> Iterator[tuple[str, pa.Table]]:
    """Table by table, the newest rows, oldest first; of alarms the newest row of each. Takes a few seconds at most."""
    from tocsin.lake.read import query, tables

    ends = time.monotonic() + _ALL_S_MAX
    for name in list(tables(lake_folder))[:_TABLES_MAX]:
        left_s = ends - time.monotonic()
        if left_s <= 0:
            return
        if streams and name not in streams:
            continue
        quoted = '"' + name.replace('"', '""') + '"'
        try:
            columns = set(query(f"SELECT * FROM {quoted} LIMIT 0", lake_folder, timeout_s=left_s).column_names)  # noqa: S608
            if not {"key", "time"} <= columns:
                continue
            only = (
                "QUALIFY row_number() OVER (PARTITION BY id ORDER BY time DESC) = 1" if columns >= ALARM_COLUMNS else ""
            )
            limit = ALARMS_MAX if only else _ROWS_MAX
            rows = query(
                f"SELECT * FROM (SELECT * FROM {quoted} {only} ORDER BY time DESC LIMIT {limit}) ORDER BY time",  # noqa: S608
                lake_folder,
                timeout_s=left_s,
            )
        except (TocsinError, OSError, pa.ArrowException) as error:
            log.warning("the page shows nothing from before of table %s: %s", name, error)
            continue
        yield name, rows
