"""Makes a source that cannot be read twice (MQTT, HTTP, this computer) replayable: what comes is logged, then acked.

A folder of segment files, each a row of frames::

    "TLOG" | length u32 | crc32 u32 | seq u64 | durable u64 | Arrow IPC stream of one record batch

``seq`` counts frames and is the offset that checkpoints hold; ``durable`` is the last frame that was known to be on
disk when this one was written. It tells a tail torn by a power cut, which nobody was promised, from a damaged log.
The reader's own offset travels in the frame (schema metadata), so that after a restart it can recognise what is sent
to it again.
"""

from __future__ import annotations

import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tocsin.batch import END, Batch, as_one
from tocsin.contracts import Offset, Reader, Reconnecting
from tocsin.errors import CorruptState, DurabilityError
from tocsin.world import Clock, Disk

SEGMENT_BYTES = 8 << 20
SYNC_BYTES = 256 << 10
SYNC_AFTER_S = 0.01
"""At most so long, and so many bytes, between what comes and its fsync: many messages share one."""

_MAGIC = b"TLOG"
_HEAD = struct.Struct("<4sIIQQ")
_NOTE = b"tocsin"


@dataclass(frozen=True, slots=True)
class Frame:
    seq: int
    durable: int
    data: bytes

    def content(self) -> tuple[Batch, Offset]:
        """The batch, and the reader's own offset after it."""
        table = pa.ipc.open_stream(self.data)
        note: Mapping[str, Any] = json.loads(table.schema.metadata[_NOTE])
        rows = table.read_next_batch()
        schema = rows.schema.with_metadata({k: v for k, v in rows.schema.metadata.items() if k != _NOTE} or None)
        return Batch(rows.replace_schema_metadata(schema.metadata), note["watermark_us"]), note["offset"]


class IngestLog:
    """The segments on disk. Opening it repairs the tail and makes it durable before anyone trusts it."""

    def __init__(self, folder: Path, disk: Disk, segment_bytes: int = SEGMENT_BYTES, retained_bytes: int = 0) -> None:
        self._folder = folder
        self._disk = disk
        self._segment_bytes, self._retained_bytes = segment_bytes, retained_bytes
        disk.make_folder(folder)
        self._segments = [int(name.removesuffix(".log")) for name in disk.names(folder) if name.endswith(".log")]
        self._bytes = 0
        self._fresh = False
        self._failed: DurabilityError | None = None
        self.seq = (self._segments[0] if self._segments else 1) - 1
        self.tail: Frame | None = None
        for first in self._segments:
            if first != self.seq + 1:
                raise CorruptState(f"{self._path(first)} does not follow frame {self.seq}: the ingest log has a hole")
            for frame in self._repaired(first):
                self.seq, self.tail = frame.seq, frame
        if self._segments:
            disk.sync(self._path(self._segments[-1]))
            disk.sync_folder(folder)
        self.durable = self.seq

    def append(self, batch: Batch, offset: Offset) -> int:
        """Write one frame, not yet durable; its seq."""
        if not self._segments or self._bytes >= self._segment_bytes:
            self.sync()
            self._segments.append(self.seq + 1)
            self._bytes, self._fresh = 0, True
        sink = pa.BufferOutputStream()
        note = json.dumps({"offset": offset, "watermark_us": batch.watermark_us}, separators=(",", ":"))
        schema = batch.schema.with_metadata({**(batch.schema.metadata or {}), _NOTE: note.encode()})
        with pa.ipc.new_stream(sink, schema) as stream:
            stream.write_batch(batch.rows)
        data = sink.getvalue().to_pybytes()
        frame = _pack(self.seq + 1, self.durable, data)
        self._disk.append(self._path(self._segments[-1]), frame)
        self.seq += 1
        self._bytes += len(frame)
        return self.seq

    def sync(self) -> None:
        """Make all frames durable. Once this has failed it always does.

        The system tells of a failure once: a second fsync, by whichever thread, would return 0 for what is lost.
        """
        if self._failed is not None:
            raise self._failed
        if self.durable == self.seq:
            return
        try:
            self._disk.sync(self._path(self._segments[-1]))
            if self._fresh:
                self._disk.sync_folder(self._folder)
                self._fresh = False
        except DurabilityError as error:
            self._failed = error
            raise
        self.durable = self.seq

    def after(self, seq: int) -> Iterator[Frame]:
        """The frames that follow ``seq``."""
        segments = tuple(self._segments)  # `forget` may be called before the last frame is taken
        for i, first in enumerate(segments):
            if i + 1 < len(segments) and segments[i + 1] <= seq + 1:
                continue
            for frame in _frames(self._disk.read(self._path(first)), first):
                if frame.seq > seq:
                    yield frame

    def segments(self) -> Sequence[int]:
        return tuple(self._segments)

    def frames(self, segment: int, at: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
        """See `world.Journal`; another thread may append or forget meanwhile."""
        try:
            data = self._disk.read(self._path(segment))
        except FileNotFoundError:
            return
        while (frame := _frame_at(data, at)) is not None:
            at += _HEAD.size + len(frame.data)
            yield at, pa.ipc.open_stream(frame.data).read_next_batch()

    def forget(self, seq: int) -> None:
        """Delete segments with nothing after ``seq``, but for as many bytes as are to be retained.

        The last two stay: the reader's own offset stands in there.
        """
        while len(self._segments) > 2 and self._segments[1] <= seq + 1 and self._may_lose_the_oldest():
            self._disk.unlink(self._path(self._segments.pop(0)))
            self._disk.sync_folder(self._folder)  # oldest first, also after a power cut: no holes

    def _may_lose_the_oldest(self) -> bool:
        """Whether enough is retained without the oldest segment; a segment is full, but for its last frame."""
        return (len(self._segments) - 2) * self._segment_bytes >= self._retained_bytes

    def _path(self, first: int) -> Path:
        return self._folder / f"{first:020d}.log"

    def _repaired(self, first: int) -> Iterator[Frame]:
        """A segment's frames; what follows the last good one is cut off, if it was never durable."""
        path = self._path(first)
        data = self._disk.read(path)
        good, seq = 0, first - 1
        for frame in _frames(data, first):
            good, seq = good + _HEAD.size + len(frame.data), frame.seq
            yield frame
        if good < len(data):
            at = data.find(_MAGIC, good + 1)
            while at >= 0:
                later = _frame_at(data, at)
                if later is not None and later.durable > seq:
                    raise CorruptState(
                        f"frame {seq + 1} in {path} is damaged although it was on disk; restore a backup"
                    )
                at = data.find(_MAGIC, at + 1)
            if first != self._segments[-1]:
                raise CorruptState(f"{path} is cut off after frame {seq} although more follow; restore a backup")
            self._disk.truncate(path, good)
        self._bytes = good


def _pack(seq: int, durable: int, data: bytes) -> bytes:
    crc = zlib.crc32(struct.pack("<QQ", seq, durable) + data)
    return _HEAD.pack(_MAGIC, len(data), crc, seq, durable) + data


def _frame_at(data: bytes, at: int) -> Frame | None:
    if at + _HEAD.size > len(data):
        return None
    magic, length, crc, seq, durable = _HEAD.unpack_from(data, at)
    body = data[at + _HEAD.size : at + _HEAD.size + length]
    if magic != _MAGIC or len(body) < length or zlib.crc32(struct.pack("<QQ", seq, durable) + body) != crc:
        return None
    return Frame(seq, durable, body)


def _frames(data: bytes, first: int) -> Iterator[Frame]:
    at, seq = 0, first
    while (frame := _frame_at(data, at)) is not None and frame.seq == seq:
        yield frame
        at, seq = at + _HEAD.size + len(frame.data), seq + 1


class LoggedReader:
    """Reads a split through its log: first what the log holds, then what comes. Its offsets are the log's seq.

    Rows are handed on at once. They are made durable within milliseconds, and before each commit point (`settle`, which
    the epoch loop may call while another thread polls); only then are they acknowledged to whoever sent them, by the
    thread that polls.
    """

    def __init__(
        self, log: IngestLog, read: Callable[[Offset | None], Reader], split: str, after: int | None, clock: Clock
    ) -> None:
        self._log = log
        self._clock = clock
        if after is not None and after > log.seq:
            raise CorruptState(f"the ingest log of '{split}' ends at {log.seq}, the checkpoint is at {after}")
        self._replay = log.after(after or 0)
        self._replaying = True
        self._ahead: Frame | None = None
        self._inner: Reader | None = None
        tail = log.tail.content() if log.tail is not None else None
        if tail is None or tail[0].watermark_us != END:
            self._inner = read(tail[1] if tail is not None else None)
        self._lock = threading.Lock()
        """Around the log: one thread appends, two make durable."""
        self._offset: Offset = None
        self._acknowledged = log.durable
        self._unsynced_bytes = 0
        self._unsynced_since_s = 0.0
        self._forget_next = 0

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        if self._replaying:
            if (replayed := self._replayed(rows_max)) is not None:
                return replayed
            self._replaying = False
        if self._inner is None:
            return None
        if self._log.durable > self._acknowledged:
            self.confirm()
        waiting = self._log.durable < self._log.seq
        polled = self._inner.poll(rows_max, min(timeout_s, SYNC_AFTER_S) if waiting else timeout_s)
        now_s = self._clock.monotonic_s()
        if polled is not None:
            batch, offset = polled
            with self._lock:
                if self._log.durable == self._log.seq:
                    self._unsynced_since_s, self._unsynced_bytes = now_s, 0
                self._log.append(batch, offset)
                self._offset = offset
                self._unsynced_bytes += int(batch.rows.nbytes)
        waited_s = now_s - self._unsynced_since_s
        if self._log.durable < self._log.seq and (waited_s >= SYNC_AFTER_S or self._unsynced_bytes >= SYNC_BYTES):
            self.settle()
            self.confirm()
        return (polled[0], self._log.seq) if polled is not None else None

    def _replayed(self, rows_max: int) -> tuple[Batch, Offset] | None:
        """Returns as many frames as make a batch, or those with one schema; None after the last."""
        batches: list[Batch] = []
        seq = rows_count = 0
        while rows_count < rows_max and (frame := self._ahead or next(self._replay, None)) is not None:
            batch = frame.content()[0]
            self._ahead = frame if batches and batch.schema != batches[0].schema else None
            if self._ahead is not None:
                break
            batches.append(batch)
            seq, rows_count = frame.seq, rows_count + len(batch)
        if len(batches) < 2:
            return (batches[0], seq) if batches else None
        return Batch(as_one([batch.rows for batch in batches]), batches[-1].watermark_us), seq

    def settle(self) -> None:
        """Make what has come durable."""
        with self._lock:
            self._log.sync()

    def confirm(self) -> None:
        """Tell the sender of all that is durable. Everything appended so far is: `poll` is the only one to append."""
        with self._lock:
            durable, offset = self._log.durable, self._offset
            whole = durable == self._log.seq
        if whole and offset is not None and self._inner is not None:
            self._inner.acknowledge(offset)
            self._acknowledged = durable

    def release(self, offset: Offset) -> None:
        """A checkpoint at this seq is durable; the log reaches back to the one before it, for people to look at."""
        with self._lock:
            self._log.forget(self._forget_next)
        self._forget_next = offset

    def counters(self) -> Mapping[str, int]:
        return self._inner.counters() if self._inner is not None else {}

    def away(self) -> str | None:
        return self._inner.away() if isinstance(self._inner, Reconnecting) else None

    def progress(self) -> tuple[int, int] | None:
        return self._inner.progress() if self._inner is not None else None

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()
