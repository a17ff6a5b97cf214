"""The page of a pipeline that runs elsewhere: what its tables get is shown, as what an engine sends would be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa

from tocsin.engine.wire import Counted, StreamColumns
from tocsin.errors import TocsinError
from tocsin.lake.following import Place, TableFollower
from tocsin.lake.log import Log
from tocsin.serve.live import Live
from tocsin.serve.past import shown
from tocsin.world import SystemDisk

log = logging.getLogger(__name__)
EVERY_S = 0.5
"""Between two looks at the tables."""
LIST_EVERY_S = 10.0
"""Between two looks for tables that are new."""
FILES_MAX = 32
"""Of each table at one look; what is beyond comes with the next."""


class LakeFollower:
    """All tables of a lake that the page shows, from now on."""

    def __init__(self, lake_folder: Path, streams: Collection[StreamColumns]) -> None:
        self._folder, self._streams = lake_folder, streams
        self._tables: dict[tuple[str, str], tuple[StreamColumns, TableFollower]] = {}
        """By table and the stream that it is shown as."""
        self._listed_s = -LIST_EVERY_S
        self._list(new=False)

    def take(self) -> Iterator[tuple[StreamColumns, pa.Table]]:
        """Gives what has come since the last call, table by table."""
        if time.monotonic() - self._listed_s > LIST_EVERY_S:
            self._list(new=True)
        for place, (stream, follower) in list(self._tables.items()):
            try:
                for _ in range(FILES_MAX):
                    if (rows := follower.take()) is None:
                        break
                    yield stream, rows
            except (TocsinError, OSError, pa.ArrowException) as error:
                log.warning("the page shows nothing new of table %s for a while: %s", place[0], error)
                del self._tables[place]  # it is found again, and goes on from then

    def _list(self, *, new: bool) -> None:
        """Find tables. Those that are ``new`` since the last time are shown whole, others from now on."""
        self._listed_s = time.monotonic()
        if not self._folder.is_dir():
            return
        from tocsin.lake.read import tables

        places = tables(self._folder)
        for name, stream in shown(self._folder, self._streams):
            if (name, stream.name) not in self._tables and name in places:
                folder, disk = places[name].absolute(), SystemDisk()
                version = Log(folder, disk).snapshot.version
                place = Place(0 if new and version < FILES_MAX else version + 1)
                self._tables[name, stream.name] = stream, TableFollower(folder, disk, place)


async def follow_tables(live: Live, follower: LakeFollower) -> None:
    """Show what comes to the tables, for ever."""
    live.engines += 1
    counts: Counter[str] = Counter()
    while True:
        for stream, rows in await asyncio.to_thread(lambda: list(follower.take())):
            counts[stream.name] += rows.num_rows
            live.take(stream, rows)
        live.count(Counted(rows_in=dict(counts)))
        live.hear()
        await asyncio.sleep(EVERY_S)
