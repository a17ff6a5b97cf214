"""Files: lines, documents or Parquet rows; whole, or as they grow."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import field_validator, model_validator

from tocsin.acquire._gzip import Gzip
from tocsin.acquire._lanes import DONE, Finished, Lanes, Line, natural
from tocsin.acquire._lines import (
    BLANK,
    BLANK_CSV,
    HEAD_BYTES,
    WHOLE_BYTES,
    Block,
    Plain,
    Refused,
    digest,
    head_of,
    is_document,
)
from tocsin.acquire._pace import Pace
from tocsin.batch import END, HEADER, QUARANTINED_BYTES, RAW, REJECTED, START, Batch, as_times, empty, rejected, tick
from tocsin.contracts import Offset, Source
from tocsin.ends import OneSplit
from tocsin.errors import SourceError
from tocsin.settings.addresses import without_password
from tocsin.world import Clock, FirstTime, World

log = logging.getLogger(__name__)
SUFFIXES: Mapping[str, str] = {
    ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "json?", ".csv": "csv", ".tsv": "csv", ".xml": "xml",
    ".parquet": "parquet", ".txt": "text", ".log": "text",
}  # fmt: skip
FILES_MAX = 64
"""How many files without news a poll looks at."""
HELD_MAX = 256
"""How many files that may grow are kept open."""
MERGED_MAX = 16
"""How many files that do not grow are kept open between their turns; each keeps a block of lines."""
PEEKED = 16
"""How many rows of a file are looked at for the time of the next one."""
SETTLED_US = 1_000_000
"""A whole document is taken from a growing folder once nothing was written to it for so long."""
CUT_OFF_US = 60_000_000
"""A compressed file that ends before its data do counts as cut off once nothing was written to it for so long."""


class Files(Source):
    """Reads a file, the files that a pattern matches, or a folder; by lines, whole documents (XML), or Parquet rows.

    Where rows say when they happened, several files are read in the order of their rows' times, each judged by
    itself: one file for each machine loses nothing to ``late``, and time goes on with the file that is behind.
    Otherwise, and at the same time, they are read in natural order of their names (``log2`` before ``log10``). Those
    ending in ``.gz`` are unpacked; of a damaged one, all that can be unpacked, and the damage is a row in the
    quarantine. The topic of a file is its path below the folder that is read. With ``follow`` it
    waits for more: new files, and lines added to old ones; a line counts once it is complete. A file that is renamed
    goes on where it was; one that is truncated or replaced starts again. Links, pipes and devices are passed over
    with a warning. Not for files that are edited in the middle.

    Examples
    --------
    >>> Files(path="readings/*.ndjson").bounded()
    True
    >>> Files(path="log", follow=True, format="text").bounded()
    False
    """

    SHORTHAND: ClassVar[str | None] = "path"
    EXAMPLES: ClassVar[Any] = ({"path": "readings.ndjson"},)

    path: str
    """A file, a pattern (``data/**/*.csv``) or a folder; in a folder, files of known endings that do not start with
    ``.`` or ``_``."""
    format: Literal["ndjson", "json", "csv", "xml", "parquet", "text"] | None = None
    """What the files hold, if their endings do not say it: ``ndjson`` has a document in each line, ``json`` one that
    is the whole file. A file ``.json`` shows by its first lines which it is."""
    header: bool = True
    """Whether CSV files begin with a line of names, by which `csv` finds its columns; ``none`` if they have none."""
    follow: bool = False
    """Whether to wait for more at the end."""
    replay: float | None = None
    """How many times faster than real time to play the rows, as ``10x``; else as fast as can be."""
    time_column: str | None = None
    """The column (of CSV: named in the header) with the time to replay by."""

    _no_password = field_validator("path")(without_password)

    @field_validator("replay", mode="before", json_schema_input_type=float | str | None)
    @classmethod
    def _times(cls, value: Any) -> Any:
        return value.removesuffix("x") if isinstance(value, str) else value

    @field_validator("header", mode="before", json_schema_input_type=bool | Literal["none"])
    @classmethod
    def _none_is_no(cls, value: Any) -> Any:
        return False if value == "none" else value

    @model_validator(mode="after")
    def _replay_needs_a_time(self) -> Files:
        if self.replay is not None and (self.replay <= 0 or self.time_column is None):
            raise ValueError("replay must be above 0, and needs time_column")
        return self

    def bounded(self) -> bool:
        return not self.follow

    def output_schema(self) -> pa.Schema:
        first = next(iter(self.paths()), None)
        if (self.format or _format(first or Path(self.path))) == "parquet":
            import pyarrow.parquet as pq

            if first is None:
                raise SourceError(f"no file matches {self.path}; the columns come from the first Parquet file")
            return pq.read_schema(first).remove_metadata()
        return RAW

    def open(self, world: World) -> OneSplit:
        return OneSplit(lambda offset: FilesReader(self, offset, world.clock, world.first_time, world.idle_us))

    def base(self) -> Path:
        """Returns the folder that topics start from: the folder named, or what stands before the first pattern."""
        whole = Path(self.path)
        if whole.is_dir():
            return whole
        parts = list(whole.parent.parts)
        patterns = [i for i, part in enumerate(parts) if glob.has_magic(part)]
        return Path(*parts[: patterns[0]]) if patterns else whole.parent

    def paths(self) -> list[Path]:
        """The files there are now, in natural order."""
        whole = Path(self.path)
        if whole.is_dir():
            names = [p for p in whole.iterdir() if not p.name.startswith((".", "_"))]
            files = [p for p in names if not p.is_dir() and (self.format is not None or _format(p) is not None)]
        elif glob.has_magic(self.path):
            files = [p for p in map(Path, glob.iglob(self.path, recursive=True)) if not p.is_dir()]  # noqa: PTH207
        else:
            files = [whole] if whole.exists() or whole.is_symlink() else []
        return sorted(files, key=natural)


def _is_cut(file: _Open) -> bool:
    """Returns whether a compressed file is damaged inside its data, so that what is last may not be whole."""
    damage = file.stream.cut_off if isinstance(file.stream, Gzip) else None
    return damage is not None and damage.is_inside


def _format(path: Path) -> str | None:
    return SUFFIXES.get(Path(path.name.removesuffix(".gz")).suffix)


@dataclass(slots=True)
class Place:
    """How far a file is read. The hash of its beginning tells it from another of the same name."""

    head_bytes: int = 0
    head: str = ""
    position: int = 0
    """Bytes (unpacked); rows of a Parquet file."""
    cutting: bool = False
    """Whether this is in the middle of a line that was too long."""
    damaged: bool = False
    """Whether it was told that the file is damaged from here on."""


class _Open:
    """A file being read."""

    def __init__(self, path: Path, format: str) -> None:
        self.path, self.format = path, format
        self.stream: Plain = Gzip(path) if path.name.endswith(".gz") else Plain(path)
        self.identity = self._identity(os.fstat(self.stream.descriptor))
        self.block: Block | None = None
        self.batches: Iterator[pa.RecordBatch] | None = None
        self.batch: tuple[int, pa.RecordBatch] | None = None
        self.rotated = False

    @staticmethod
    def _identity(state: os.stat_result) -> tuple[int, int]:
        return state.st_dev, state.st_ino

    def close(self) -> None:
        if isinstance(self.batches, Generator):
            self.batches.close()
        self.stream.close()

    def is_still(self, path: Path) -> bool:
        """Whether the name still stands for this file."""
        try:
            return self._identity(os.lstat(path)) == self.identity
        except FileNotFoundError:
            return False


@dataclass(slots=True)
class _Some:
    """Rows that can be had, and the place after each of them."""

    rows: pa.RecordBatch
    after: Any


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
        self._held: dict[str, _Open] = {}
        self._now: _Open | None = None
        self._base = source.base()
        paths = source.paths()
        self._total = sum(os.lstat(path).st_size for path in paths)
        self._several = len(paths) > 1
        self._finished = Finished(paths, done, self._places)
        if source.bounded():
            if not paths:
                raise SourceError(f"no file matches {source.path}")
            paths = self._finished.left()
        self._listed = source.bounded()
        self._done = self._total - sum(os.lstat(path).st_size for path in paths)
        self._resumed = self._was_begun = bool(offset) or done is not None
        self._pace = None if source.replay is None else Pace(source.replay, source.time_column or "", clock)
        self._lanes = Lanes(clock, idle_us)
        self._first_time = first_time
        self._heads: dict[str, pa.RecordBatch] = {}
        """The first rows of CSV files, with their header."""
        self._line = Line()
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
            some = self._some(self._now, rows_max if self._pace is None else min(rows_max, 1_000))
            if some is None:
                if (damage := self._damage(self._now)) is not None:
                    return damage, self._offset()
                self._end(self._now)
                continue
            count = some.rows.num_rows
            if count == 0:  # blank lines, or the rest of one that was too long: others may have rows meanwhile
                self._advance(self._now, int(some.after[-1]))
                return tick(self._schema, START), self._offset()
            if self._pace is not None:
                count = self._pace.due(some.rows, self._now.format, self._now.stream, timeout_s)
                if count == 0:
                    return None
            self._advance(self._now, int(some.after[count - 1]))
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
        file, here = self._now, 0
        if file is not None and file.format != "parquet":
            here = file.stream.bytes_read(self._places[str(file.path)].position)
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
            rows = self._ahead(file)
            if rows is None:
                return START if self._source.bounded() else None
            us = self._time_of(file, rows) if len(rows) else START
            self._lanes.begin(name, us)
        return us

    def _ahead(self, file: _Open) -> pa.RecordBatch | None:
        """The next few rows of a file, which stays where it is."""
        name = str(file.path)
        before = replace(self._places[name])
        some = self._some(file, PEEKED)
        self._places[name] = before
        return None if some is None else some.rows

    def _has_grown(self, path: Path) -> bool:
        place, file = self._places.get(str(path)), self._held.get(str(path))
        if place is None or file is None or not file.is_still(path):
            return True
        return type(file.stream) is not Plain or file.stream.size() != place.position

    def _time_of(self, file: _Open, rows: pa.RecordBatch) -> int:
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
            self._heads[name] = self._ahead(file) or rows
            file.block, self._places[name] = block, place
        return self._first_time([self._heads[name], rows])

    def _stand_back(self, file: _Open) -> None:
        """Let the file whose next row is the oldest go on; often it is the same one."""
        self._now = None
        self._hold(file)
        self._line.join([file.path])

    def _hold(self, file: _Open) -> None:
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
            format = self._source.format or _format(path) or "text"
            try:
                file = _Open(path, format)
            except Refused as refused:
                if name not in self.skipped:
                    log.warning("%s", refused)
                self.skipped[name] = str(refused)
                self._finish(path)
                return
            if format == "json?":
                file.format = format = "json" if is_document(file.stream) else "ndjson"
            if (format == "parquet") != (not self._schema.equals(RAW)):
                file.close()
                raise SourceError(
                    f"{path}: Parquet files cannot be mixed with others; read them as a source of their own"
                )
        self._now = file
        place = self._places.get(name)
        if place is not None and not file.rotated and not is_known and not self._is_at(file, place):
            log.warning("%s was replaced or truncated; it is read from its start", path)
            self._places[f"{name} (before)"] = self._places.pop(name)
            place = None
        if place is None:
            place = self._renamed(file) or Place()
        self._places[name] = place
        self._was_begun = True
        if not self._source.bounded():
            file.block = None

    @staticmethod
    def _is_at(file: _Open, place: Place) -> bool:
        """Returns whether this is still the file that the place was noted in."""
        if place.head_bytes and head_of(file.stream, place.head_bytes) != place.head:
            return False
        return file.format == "parquet" or isinstance(file.stream, Gzip) or file.stream.size() >= place.position

    def _renamed(self, file: _Open) -> Place | None:
        """The place in a file that is known by another name, which no longer stands for it."""
        if self._source.bounded():
            return None
        for other, place in list(self._places.items()):
            if not place.head_bytes or other == str(file.path) or not self._is_at(file, place):
                continue
            try:
                there = _Open(Path(other), file.format)
            except Refused:
                return self._places.pop(other)
            moved = not self._is_at(there, place)
            there.close()
            if moved:
                return self._places.pop(other)
        return None

    def _end(self, file: _Open) -> None:
        """There is no more in a file for now."""
        self._now = None
        if file.rotated:
            self._places[f"{file.path} (before)"] = self._places.pop(str(file.path))
            file.close()
            self._begin(file.path)
        elif self._source.bounded():
            self._done += os.fstat(file.stream.descriptor).st_size
            self._places.pop(str(file.path))
            file.close()
            self._finish(file.path)
        else:
            self._lanes.rest(str(file.path), os.fstat(file.stream.descriptor).st_mtime_ns // 1_000)
            if file.format == "parquet":
                file.close()
            else:
                self._hold(file)

    def _finish(self, path: Path) -> None:
        """No more is read of a file."""
        self._heads.pop(str(path), None)
        self._lanes.end(str(path))
        self._finished.add(path)

    def _advance(self, file: _Open, position: int) -> None:
        place = self._places[str(file.path)]
        place.position = position
        length = HEAD_BYTES if file.format == "parquet" else min(position, HEAD_BYTES)
        if place.head_bytes < min(length, HEAD_BYTES):
            block = file.block
            if block is not None and block.position == 0:
                place.head = digest(block.buffer[:length].tobytes())
            else:
                length = min(length, file.stream.size())
                place.head = head_of(file.stream, length)
            place.head_bytes = length

    # ------------------------------------------------------------------------------------------------ within a file

    def _some(self, file: _Open, rows_max: int) -> _Some | None:
        """The next rows of a file; none if there are no more now."""
        place = self._places[str(file.path)]
        if file.format == "parquet":
            return self._some_rows(file, place.position, rows_max)
        if file.format in ("xml", "json"):
            return self._document(file, place)
        if file.block is None or place.position >= file.block.position + int(file.block.ends[-1]):
            if file.block is not None and file.block.at_end and self._source.bounded():
                return None
            file.block = self._next_block(file, place)
        block = file.block
        if place.cutting and not block.lines and block.size:  # all of it the rest of a line that was too long
            return _Some(empty(RAW), [place.position + block.size])
        first = int(np.searchsorted(block.ends, place.position - block.position))
        last = min(first + rows_max, block.lines)
        if last <= first:
            return None
        payloads, positions, after = block.payloads(first, last)
        is_blank = BLANK_CSV if file.format == "csv" else BLANK
        blank = block.blanks(first, last, is_blank)
        if blank.any():
            kept = np.flatnonzero(~blank)
            if not len(kept):
                first = block.text_from(last, is_blank)
                return _Some(empty(RAW), [block.position + int(block.ends[first])])
            payloads, positions, after = payloads.take(pa.array(kept)), positions[kept], after[kept]
        if place.position == 0 and file.format == "csv" and self._source.header:
            positions[0] = HEADER
        return _Some(self._records(file, payloads, positions), after)

    def _next_block(self, file: _Open, place: Place) -> Block:
        """Read on; leave out the rest of a line that was too long."""
        block = Block(file.stream, place.position)
        if place.cutting:
            if block.lines:
                place.position, place.cutting = block.position + int(block.ends[1]), False
        elif not block.lines and not block.at_end:
            block.finish()
            place.cutting = True
        elif block.at_end and self._source.bounded() and not _is_cut(file):
            block.finish()
        return block

    def _damage(self, file: _Open) -> Batch | None:
        """A row to be set aside where a compressed file is damaged: the reason, the position, and the cut line."""
        place = self._places[str(file.path)]
        if place.damaged or not isinstance(file.stream, Gzip):
            return None
        # What is cut off may still be being written, where more is waited for.
        damage = file.stream.cut_off if self._source.bounded() or self._is_settled(file) else file.stream.damage
        if damage is None:
            return None
        log.warning("%s is read only in part: %s", file.path, damage.detail)
        position, rest = place.position, b""
        if damage.is_inside:
            held = bytearray(QUARANTINED_BYTES)
            while count := file.stream.read_into(memoryview(held), place.position):
                rest = rest or bytes(held[:count])
                place.position += count
        self._advance(file, place.position)
        place.damaged, place.cutting = True, False
        self._damaged += 1
        row = rejected(
            pa.array([""]), as_times(np.array([self._clock.now_us()])), [damage.reason], [damage.detail], [rest],
            pa.array([self._topic(file)]), pa.array([position]),
        )  # fmt: skip
        return Batch(row, port=REJECTED)

    def _is_settled(self, file: _Open) -> bool:
        written_us = os.fstat(file.stream.descriptor).st_mtime_ns // 1_000
        return self._clock.now_us() - written_us >= CUT_OFF_US

    def _topic(self, file: _Open) -> str:
        return str(file.path.relative_to(self._base))

    def _records(self, file: _Open, payloads: pa.Array, positions: Any) -> pa.RecordBatch:
        count = len(payloads)
        topic = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([self._topic(file)]))
        received = as_times(np.full(count, self._clock.now_us()))
        return pa.RecordBatch.from_arrays([payloads, topic, pa.array(positions), received], schema=RAW)

    def _document(self, file: _Open, place: Place) -> _Some | None:
        """The whole file as one record, unless it was taken before or is still being written."""
        if place.position:
            return None
        if not self._source.bounded():
            written_us = os.fstat(file.stream.descriptor).st_mtime_ns // 1_000
            if self._clock.now_us() - written_us < SETTLED_US:
                return None
        data = bytearray(WHOLE_BYTES if isinstance(file.stream, Gzip) else min(file.stream.size(), WHOLE_BYTES))
        count = file.stream.read_into(memoryview(data), 0)
        if not count or _is_cut(file):
            return None
        payloads = pa.array([bytes(data[:count])], pa.binary())
        return _Some(self._records(file, payloads, np.zeros(1, np.int64)), [count])

    def _some_rows(self, file: _Open, position: int, rows_max: int) -> _Some | None:
        if file.batches is None:
            file.batches = self._parquet(file, position)
        if file.batch is None or position >= file.batch[0] + file.batch[1].num_rows:
            batch = next(file.batches, None)
            if batch is None:
                return None
            file.batch = position, batch
        begin, batch = file.batch
        rows = batch.slice(position - begin, rows_max)
        return _Some(rows, position + 1 + np.arange(rows.num_rows))

    def _parquet(self, file: _Open, position: int) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        with open(file.stream.descriptor, "rb", closefd=False) as opened:
            try:
                parquet = pq.ParquetFile(opened)
                if not parquet.schema_arrow.equals(self._schema):
                    raise SourceError(f"{file.path} has other columns than the first Parquet file")
                for batch in parquet.iter_batches(65_536):
                    if position < batch.num_rows:
                        yield batch.slice(position).replace_schema_metadata(None)
                    position = max(0, position - batch.num_rows)
            except (pa.ArrowException, OSError) as error:
                log.warning("%s is no readable Parquet file: %s", file.path, error)
                self.skipped[str(file.path)] = str(error)


__all__ = ["Files", "FilesReader"]
