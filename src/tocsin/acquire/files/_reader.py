"""Reading several files as one partition: which one is next, which are done, and which were renamed meanwhile."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tocsin.acquire._lanes import DONE, FinishedFiles, Lanes, WaitingFiles
from tocsin.acquire._lines import FileRefused
from tocsin.acquire._pace import Pace
from tocsin.acquire.files._file import Ahead, Manner, OpenFile, Place, format_of
from tocsin.batch import END, RAW, REJECTED, START, Batch, empty, tick
from tocsin.contracts import Offset
from tocsin.errors import SourceError, SourceMissing
from tocsin.world import Clock, FirstTime

if TYPE_CHECKING:
    from tocsin.acquire.files import Files

log = logging.getLogger(__name__)
FILES_MAX = 64
"""How many files without news a poll looks at."""
HELD_MAX = 256
"""How many files that may grow are kept open."""
MERGED_MAX = 16
"""How many files that do not grow are kept open between their turns; each keeps a block of lines."""
PEEKED = 16
"""How many rows of a file are looked at for the time of the next one."""


class FilesReader:
    """The files as one partition, each a lane of it where they are read in the order of their times.

    An offset is the `Place` in each file that may still have news, by name. Where there is an end, files that are done
    are not kept by name: the entry `DONE` tells the name up to which all are, and those beyond it that are, too.
    """

    def __init__(
        self,
        source: Files,
        offset: Offset | None,
        clock: Clock,
        first_time: FirstTime | None = None,
        idle_us: int = 10_000_000,
    ) -> None:
        self.skipped: dict[str, str] = {}
        """Files passed over, and why."""
        self._damaged = 0
        self._source, self._clock = source, clock
        self._schema = source.output_schema()
        offset = dict(offset or {})
        done = offset.pop(DONE, None)
        self._places = {name: Place(*place) for name, place in offset.items()}
        self._held: dict[str, OpenFile] = {}
        self._now: OpenFile | None = None
        self._manner = Manner(source.base(), self._schema, source.bounded(), source.header, clock)
        paths = source.paths()
        self._total = sum(os.lstat(path).st_size for path in paths)
        self._several = len(paths) > 1
        self._finished = FinishedFiles(paths, done, self._places)
        if source.bounded():
            if not paths:
                where = "" if Path(source.path).is_absolute() else f" in {Path.cwd()}"
                raise SourceMissing(
                    f"no file matches {source.path}{where}; correct path:, or let it wait for one by follow: true"
                )
            paths = self._finished.left()
        self._listed = source.bounded()
        self._done = self._total - sum(os.lstat(path).st_size for path in paths)
        self._resumed = self._was_begun = bool(offset) or done is not None
        self._pace = None if source.replay is None else Pace(source.replay, source.time_column or "", clock)
        self._lanes = Lanes(clock, idle_us)
        self._first_time = first_time
        self._heads: dict[str, pa.RecordBatch] = {}
        """The first rows of CSV files, with their header."""
        self._line = WaitingFiles()
        self._line.join(paths)

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        until_s = self._clock.monotonic_s() + timeout_s
        for _ in range(FILES_MAX):
            if self._now is None:
                if not self._line.is_ordered:
                    if not self._put_in_order(until_s):
                        return None
                elif (path := self._line.next()) is not None:
                    self._begin(path)
                elif not self._listed:
                    self._list_again()
                    self._listed = True
                else:
                    return self._nothing_more(timeout_s)
                continue
            some = self._ahead(self._now, rows_max if self._pace is None else min(rows_max, 1_000))
            if some is None:
                if (damage := self._now.damage(self._places[str(self._now.path)])) is not None:
                    self._damaged += 1
                    return Batch(damage, port=REJECTED), self._offset()
                self._end(self._now)
                continue
            count = some.rows.num_rows
            if count == 0:  # blank lines, or the rest of one that was too long: others may have rows meanwhile
                self._now.advance(self._places[str(self._now.path)], int(some.after[-1]))
                return tick(self._schema, START), self._offset()
            if self._pace is not None:
                count = self._pace.due(some.rows, self._now.format, self._now.stream, timeout_s)
                if count == 0:
                    return None
            self._now.advance(self._places[str(self._now.path)], int(some.after[count - 1]))
            self._listed = self._source.bounded()
            lane = self._lanes.of(str(self._now.path)) if self._is_merged else None
            if self._is_merged and self._several:
                self._stand_back(self._now)
            return Batch(some.rows.slice(0, count), lane=lane), self._offset()
        return None

    def acknowledge(self, offset: Offset) -> None:
        """Files stay where they are."""

    def counters(self) -> Mapping[str, int]:
        return {"skipped_files": len(self.skipped), "damaged_files": self._damaged}

    def close(self) -> None:
        for file in {*self._held.values(), *([self._now] if self._now else [])}:
            file.close()
        self._held, self._now = {}, None

    def progress(self) -> tuple[int, int] | None:
        """Bytes read and bytes in all; None where there is no end."""
        if not self._source.bounded():
            return None
        here = 0 if self._now is None else self._now.bytes_read(self._places[str(self._now.path)])
        return min(self._done + here, self._total), self._total

    # -------------------------------------------------------------------------------------------- from file to file

    def _offset(self) -> Offset:
        places: dict[str, Any] = {name: list(astuple(place)) for name, place in self._places.items()}
        return {**places, DONE: self._finished.told()} if self._source.bounded() else places

    def _nothing_more(self, timeout_s: float) -> tuple[Batch, Offset] | None:
        if self._source.bounded():
            if self.skipped and not self._was_begun:
                raise SourceError(next(iter(self.skipped.values())))
            return tick(self._schema, END), self._offset()
        self._listed = False
        if self._lanes.have_news:
            return Batch(empty(self._schema), lane=self._lanes.of("")), self._offset()
        self._clock.sleep(min(timeout_s, 0.1))
        return None

    @property
    def _is_merged(self) -> bool:
        """Whether files are read in the order of their times, each as a lane."""
        return self._first_time is not None and (self._several or self._resumed or self._lanes.are_used)

    def _list_again(self) -> None:
        paths = self._source.paths()
        self._several = len(paths) > 1
        self._line.join(paths)

    def _put_in_order(self, until_s: float) -> bool:
        """Look into files that are to be read for the time of their next row; False where there are more left."""
        while (path := self._line.newcomer()) is not None:
            self._line.put(path, self._next_time(path) if self._is_merged else START)
            if self._is_merged and self._clock.monotonic_s() >= until_s and not self._line.is_ordered:
                return False
        return True

    def _next_time(self, path: Path) -> int | None:
        """The time of the next row of a file; None where there is none now, `START` where none can be told."""
        name = str(path)
        if not self._source.bounded() and self._lanes.is_open(name) and not self._has_grown(path):
            self._lanes.rest(name)
            return None
        self._begin(path)
        file, self._now = self._now, None
        if file is None:
            return None
        self._hold(file)
        us = START
        if not self._lanes.is_open(name) or self._source.bounded():
            rows = self._peeked(file)
            if rows is None:
                return START if self._source.bounded() else None
            us = self._time_of(file, rows) if len(rows) else START
            self._lanes.begin(name, us)
        return us

    def _peeked(self, file: OpenFile) -> pa.RecordBatch | None:
        """Returns the next few rows of a file, which stays where it is."""
        some = self._ahead(file, PEEKED, replace(self._places[str(file.path)]))
        return None if some is None else some.rows

    def _ahead(self, file: OpenFile, rows_max: int, place: Place | None = None) -> Ahead | None:
        some = file.next_rows(place or self._places[str(file.path)], rows_max)
        if file.unreadable:
            self.skipped[str(file.path)] = file.unreadable
        return some

    def _has_grown(self, path: Path) -> bool:
        place, file = self._places.get(str(path)), self._held.get(str(path))
        if place is None or file is None or not file.is_still(path):
            return True
        return file.has_grown(place)

    def _time_of(self, file: OpenFile, rows: pa.RecordBatch) -> int:
        assert self._first_time is not None
        if file.format != "csv" or not self._source.header:
            return self._first_time([rows])
        name = str(file.path)
        if self._places[name].position == 0:
            self._heads[name] = rows
            return self._first_time([rows])
        if name not in self._heads:
            block, place = file.block, self._places[name]
            file.block, self._places[name] = None, Place()
            self._heads[name] = self._peeked(file) or rows
            file.block, self._places[name] = block, place
        return self._first_time([self._heads[name], rows])

    def _stand_back(self, file: OpenFile) -> None:
        """Let the file whose next row is the oldest go on; often it is the same one."""
        self._now = None
        self._hold(file)
        self._line.join([file.path])

    def _hold(self, file: OpenFile) -> None:
        """Keep a file open, but not too many."""
        self._held.pop(str(file.path), None)
        self._held[str(file.path)] = file
        while len(self._held) > (MERGED_MAX if self._source.bounded() else HELD_MAX):
            self._held.pop(next(iter(self._held))).close()

    def _begin(self, path: Path) -> None:
        """Open the next file, or go on with it, where it was left."""
        name = str(path)
        file = self._held.pop(name, None)
        if file is not None and not file.is_still(path):
            file.rotated = True  # first what was written before it got another name
        is_known = file is not None and self._source.bounded()
        if file is None:
            try:
                file = OpenFile(path, self._source.format or format_of(path) or "text", self._manner)
            except FileRefused as refused:
                if name not in self.skipped:
                    log.warning("%s", refused)
                self.skipped[name] = str(refused)
                self._finish(path)
                return
            if (file.format == "parquet") != (not self._schema.equals(RAW)):
                file.close()
                raise SourceError(
                    f"{path}: Parquet files cannot be mixed with others; read them as a source of their own"
                )
        self._now = file
        place = self._places.get(name)
        if place is not None and not file.rotated and not is_known and not file.is_at(place):
            log.warning("%s was replaced or truncated; it is read from its start", path)
            self._places[f"{name} (before)"] = self._places.pop(name)
            place = None
        if place is None:
            place = self._renamed(file) or Place()
        self._places[name] = place
        self._was_begun = True
        if not self._source.bounded():
            file.block = None

    def _renamed(self, file: OpenFile) -> Place | None:
        """The place in a file that is known by another name, which no longer stands for it."""
        if self._source.bounded():
            return None
        for other, place in list(self._places.items()):
            if not place.head_bytes or other == str(file.path) or not file.is_at(place):
                continue
            try:
                there = OpenFile(Path(other), file.format, self._manner)
            except FileRefused:
                return self._places.pop(other)
            moved = not there.is_at(place)
            there.close()
            if moved:
                return self._places.pop(other)
        return None

    def _end(self, file: OpenFile) -> None:
        """There is no more in a file for now."""
        self._now = None
        if file.rotated:
            self._places[f"{file.path} (before)"] = self._places.pop(str(file.path))
            file.close()
            self._begin(file.path)
        elif self._source.bounded():
            self._done += file.disk_bytes()
            self._places.pop(str(file.path))
            file.close()
            self._finish(file.path)
        else:
            self._lanes.rest(str(file.path), file.written_us())
            if file.format == "parquet":
                file.close()
            else:
                self._hold(file)

    def _finish(self, path: Path) -> None:
        """No more is read of a file."""
        self._heads.pop(str(path), None)
        self._lanes.end(str(path))
        self._finished.add(path)
