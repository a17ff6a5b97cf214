"""One file being read: its next rows from a place on, be they lines, a whole document or those of a Parquet file."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.acquire._gzip import Gzip
from tocsin.acquire._lines import (
    BLANK,
    BLANK_CSV,
    HEAD_BYTES,
    WHOLE_BYTES,
    LineBlock,
    Plain,
    digest,
    head_of,
    is_document,
)
from tocsin.batch import HEADER, QUARANTINED_BYTES, RAW, as_times, empty, rejected
from tocsin.errors import SourceError
from tocsin.world import Clock

log = logging.getLogger(__name__)
SUFFIXES: Mapping[str, str] = {
    ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "json?", ".csv": "csv", ".tsv": "csv", ".xml": "xml",
    ".parquet": "parquet", ".txt": "text", ".log": "text",
}  # fmt: skip
SETTLED_US = 1_000_000
"""A whole document is taken from a growing folder once nothing was written to it for so long."""
CUT_OFF_US = 60_000_000
"""A compressed file that ends before its data do counts as cut off once nothing was written to it for so long."""


def format_of(path: Path) -> str | None:
    """Returns what a file's ending says that it holds; None where that is unknown."""
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


@dataclass(slots=True)
class Ahead:
    """Rows that can be had, and the place after each of them."""

    rows: pa.RecordBatch
    after: Any


@dataclass(frozen=True, slots=True)
class Manner:
    """How the files of a source are read: what holds for all of them."""

    base: Path
    """The folder that topics start from."""
    schema: pa.Schema
    bounded: bool
    header: bool
    clock: Clock


class OpenFile:
    """A file being read; where it is read on stands in a `Place`, which its reader keeps.

    Raises
    ------
    Refused
        The file is not read: a link, a pipe, a device, or gone.
    """

    def __init__(self, path: Path, format: str, manner: Manner) -> None:
        self.path, self._manner = path, manner
        self.stream: Plain = Gzip(path) if path.name.endswith(".gz") else Plain(path)
        self.format = format
        if format == "json?":
            self.format = "json" if is_document(self.stream) else "ndjson"
        self._identity = self._identity_of(os.fstat(self.stream.descriptor))
        self.block: LineBlock | None = None
        """Lines that are read and not handed on yet."""
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._batch: tuple[int, pa.RecordBatch] | None = None
        self.rotated = False
        self.unreadable = ""
        """Why this is no Parquet file, once that is known."""

    @staticmethod
    def _identity_of(state: os.stat_result) -> tuple[int, int]:
        return state.st_dev, state.st_ino

    def close(self) -> None:
        if isinstance(self._batches, Generator):
            self._batches.close()
        self.stream.close()

    # ------------------------------------------------------------------------------------------- is it still the same

    def is_still(self, path: Path) -> bool:
        """Returns whether the name still stands for this file."""
        try:
            return self._identity_of(os.lstat(path)) == self._identity
        except FileNotFoundError:
            return False

    def is_at(self, place: Place) -> bool:
        """Returns whether this is still the file that the place was noted in."""
        if place.head_bytes and head_of(self.stream, place.head_bytes) != place.head:
            return False
        return self.format == "parquet" or isinstance(self.stream, Gzip) or self.stream.size() >= place.position

    def has_grown(self, place: Place) -> bool:
        """Returns whether there may be more behind the place."""
        return type(self.stream) is not Plain or self.stream.size() != place.position

    def disk_bytes(self) -> int:
        return os.fstat(self.stream.descriptor).st_size

    def written_us(self) -> int:
        """Returns when something was last written to it."""
        return os.fstat(self.stream.descriptor).st_mtime_ns // 1_000

    def bytes_read(self, place: Place) -> int:
        """Returns how far it is read, in bytes on the disk; 0 for Parquet, of which nobody knows."""
        return 0 if self.format == "parquet" else self.stream.bytes_read(place.position)

    # ------------------------------------------------------------------------------------------------ from row to row

    def next_rows(self, place: Place, rows_max: int) -> Ahead | None:
        """Returns the next rows; None if there are no more now. The place stays, but for the rest of a cut line."""
        if self.format == "parquet":
            return self._table_rows(place.position, rows_max)
        if self.format in ("xml", "json"):
            return self._document(place)
        return self._lines(place, rows_max)

    def advance(self, place: Place, position: int) -> None:
        """Move the place on, and note the file's beginning as far as it is read."""
        place.position = position
        length = HEAD_BYTES if self.format == "parquet" else min(position, HEAD_BYTES)
        if place.head_bytes < min(length, HEAD_BYTES):
            if self.block is not None and self.block.position == 0:
                place.head = digest(self.block.buffer[:length].tobytes())
            else:
                length = min(length, self.stream.size())
                place.head = head_of(self.stream, length)
            place.head_bytes = length

    def damage(self, place: Place) -> pa.RecordBatch | None:
        """Returns a row to be set aside where a compressed file is damaged: the reason, the position, the cut line.

        The place moves behind it, so that it is told once.
        """
        if place.damaged or not isinstance(self.stream, Gzip):
            return None
        # What is cut off may still be being written, where more is waited for.
        is_final = self._manner.bounded or self._is_silent_for(CUT_OFF_US)
        damage = self.stream.cut_off if is_final else self.stream.damage
        if damage is None:
            return None
        log.warning("%s is read only in part: %s", self.path, damage.detail)
        position, rest = place.position, b""
        if damage.is_inside:
            held = bytearray(QUARANTINED_BYTES)
            while count := self.stream.read_into(memoryview(held), place.position):
                rest = rest or bytes(held[:count])
                place.position += count
        self.advance(place, place.position)
        place.damaged, place.cutting = True, False
        return rejected(
            pa.array([""]), as_times(np.array([self._manner.clock.now_us()])), [damage.reason], [damage.detail], [rest],
            pa.array([self._topic()]), pa.array([position]),
        )  # fmt: skip

    def _is_silent_for(self, us: int) -> bool:
        return self._manner.clock.now_us() - self.written_us() >= us

    def _is_cut(self) -> bool:
        """Returns whether a compressed file is damaged inside its data, so that what is last may not be whole."""
        damage = self.stream.cut_off if isinstance(self.stream, Gzip) else None
        return damage is not None and damage.is_inside

    def _topic(self) -> str:
        return str(self.path.relative_to(self._manner.base))

    def _records(self, payloads: pa.Array, positions: Any) -> pa.RecordBatch:
        count = len(payloads)
        topic = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([self._topic()]))
        received = as_times(np.full(count, self._manner.clock.now_us()))
        return pa.RecordBatch.from_arrays([payloads, topic, pa.array(positions), received], schema=RAW)

    # lines

    def _lines(self, place: Place, rows_max: int) -> Ahead | None:
        if self.block is None or place.position >= self.block.position + int(self.block.ends[-1]):
            if self.block is not None and self.block.at_end and self._manner.bounded:
                return None
            self.block = self._next_block(place)
        block = self.block
        if place.cutting and not block.lines and block.size:  # all of it the rest of a line that was too long
            return Ahead(empty(RAW), [place.position + block.size])
        first = int(np.searchsorted(block.ends, place.position - block.position))
        last = min(first + rows_max, block.lines)
        if last <= first:
            return None
        payloads, positions, after = block.payloads(first, last)
        is_blank = BLANK_CSV if self.format == "csv" else BLANK
        blank = block.blanks(first, last, is_blank)
        if blank.any():
            kept = np.flatnonzero(~blank)
            if not len(kept):
                first = block.text_from(last, is_blank)
                return Ahead(empty(RAW), [block.position + int(block.ends[first])])
            payloads, positions, after = payloads.take(pa.array(kept)), positions[kept], after[kept]
        if place.position == 0 and self.format == "csv" and self._manner.header:
            positions[0] = HEADER
        return Ahead(self._records(payloads, positions), after)

    def _next_block(self, place: Place) -> LineBlock:
        """Read on; leave out the rest of a line that was too long."""
        block = LineBlock(self.stream, place.position)
        if place.cutting:
            if block.lines:
                place.position, place.cutting = block.position + int(block.ends[1]), False
        elif not block.lines and not block.at_end:
            block.finish()
            place.cutting = True
        elif block.at_end and self._manner.bounded and not self._is_cut():
            block.finish()
        return block

    # documents

    def _document(self, place: Place) -> Ahead | None:
        """Returns the whole file as one record, unless it was taken before or is still being written."""
        if place.position or not (self._manner.bounded or self._is_silent_for(SETTLED_US)):
            return None
        data = bytearray(WHOLE_BYTES if isinstance(self.stream, Gzip) else min(self.stream.size(), WHOLE_BYTES))
        count = self.stream.read_into(memoryview(data), 0)
        if not count or self._is_cut():
            return None
        payloads = pa.array([bytes(data[:count])], pa.binary())
        return Ahead(self._records(payloads, np.zeros(1, np.int64)), [count])

    # Parquet

    def _table_rows(self, position: int, rows_max: int) -> Ahead | None:
        if self._batches is None:
            self._batches = self._read_table(position)
        if self._batch is None or position >= self._batch[0] + self._batch[1].num_rows:
            batch = next(self._batches, None)
            if batch is None:
                return None
            self._batch = position, batch
        begin, batch = self._batch
        rows = batch.slice(position - begin, rows_max)
        return Ahead(rows, position + 1 + np.arange(rows.num_rows))

    def _read_table(self, position: int) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        with open(self.stream.descriptor, "rb", closefd=False) as opened:
            try:
                parquet = pq.ParquetFile(opened)
                if not parquet.schema_arrow.equals(self._manner.schema):
                    raise SourceError(f"{self.path} has other columns than the first Parquet file")
                for batch in parquet.iter_batches(65_536):
                    if position < batch.num_rows:
                        yield batch.slice(position).replace_schema_metadata(None)
                    position = max(0, position - batch.num_rows)
            except (pa.ArrowException, OSError) as error:
                log.warning("%s is no readable Parquet file: %s", self.path, error)
                self.unreadable = str(error)
