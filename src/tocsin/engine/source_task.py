"""One source beside the epoch loop: polls its splits and hands their batches over, however slow its peer is."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tocsin.batch import END, REST, START, Batch
from tocsin.contracts import Connection, Offset, Reader, Reconnecting, Source, Split
from tocsin.decode._base import Decoder, Traced
from tocsin.engine.decode_ahead import DecodeAhead, DecodePool, wait_for_any
from tocsin.engine.held_time import HeldTime
from tocsin.engine.ingest_log import SEGMENT_BYTES, IngestLog, LoggedReader
from tocsin.errors import Unavailable
from tocsin.world import World

logger = logging.getLogger(__name__)

ROWS_MAX = 131_072
"""In one batch: the fewer there are, the less often the threads take turns for the interpreter's lock."""
ROWS_FEW = 1_000
PACE_S = 0.005
"""A live split that brings few rows at a time is asked no more often: a batch of one costs as much as one of 500."""
POLL_S = 0.05
"""How long a poll may wait where a source has one split; with several each is asked in turn, without waiting."""
IDLE_WAIT_S = 0.002
AHEAD = 2
"""So many batches of a split wait for the epoch loop before it is polled no further."""
SPLITS_EVERY_S = 1.0
BACKOFF_S = (0.1, 30.0)
"""Least and greatest time before a source that was away is opened again; it doubles after each try."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A split is read from now on."""

    split: str


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of a split, and the position after it."""

    split: str
    batch: Batch
    offset: Offset
    traced: Traced | None = None
    """The batch decoded, where that could be done ahead."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """A split has been given away: nothing of it follows; `SourceTask.release` once a checkpoint holds what came."""

    split: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Every split has ended."""


Event = Opened | Rows | Revoked | Finished


@dataclass(slots=True)
class _Open:
    """A split being read."""

    split: Split
    reader: Reader | LoggedReader
    offset: Offset
    """After what was handed over last."""
    ahead: DecodeAhead
    """Batches polled and not handed over yet."""
    waiting: int = 0
    """Batches handed over and not taken yet."""
    next_s: float = 0.0
    is_over: bool = False
    """Its last batch has been polled."""


class SourceTask:
    """Reads one source, in a thread of its own or, without threads, when `step` is called.

    It also decodes, so that this is done on other cores than the steps, unless the decoder remembers what a checkpoint
    must hold.

    The thread owns the connection and its readers. When the source is away (`Unavailable`), everything of it is closed
    and opened again, at the positions that were handed over last, for as long as it takes; any other error ends the
    thread and is raised by `take` in the epoch loop, which goes back to the last checkpoint.
    """

    def __init__(
        self,
        id: str,
        source: Source,
        world: World,
        offsets: Mapping[str, Offset],
        ended: Collection[str],
        segment_bytes: int = SEGMENT_BYTES,
        decoder: Decoder | None = None,
        share: int | None = None,
    ) -> None:
        self.id = id
        self.finished = False
        """Whether every split has ended, and all that came of them has been taken."""
        self.has_looked = False
        """Whether the splits have been listed since the start; what was opened is to be taken already."""
        self._done = False
        self._share = share
        self._source, self._segment_bytes = source, segment_bytes
        self._journals: dict[str, IngestLog] = {}
        self._world = replace(world, journal=self._journals.__getitem__)
        self._decoder = decoder
        self._pool = DecodePool(decoder, threads=False)
        self._offsets = dict(offsets)
        """Where each split is read on: after what was handed over last."""
        self._ended = set(ended)
        self._connection: Connection | None = None
        self._open: dict[str, _Open] = {}
        self._live = not source.bounded()
        self._splits_s = 0.0
        self._reason: str | None = None
        self._retry_s = 0.0
        self._backoff_s = 0.0
        self._counted: Counter[str] = Counter()
        """Of readers that are closed."""
        self._failure: BaseException | None = None
        self._held = HeldTime()
        """In which no split could be polled, since what had been read before was not taken yet."""
        self._lock = threading.Lock()
        """Around what both sides touch: events, acknowledgements, releases."""
        self._events: deque[Event] = deque()
        self._acknowledgements: dict[str, Offset] = {}
        self._releases: set[str] = set()
        self._clean = False
        self._stopping = threading.Event()
        self._taken = threading.Event()
        self._news: threading.Event | None = None
        self._thread: threading.Thread | None = None

    # the epoch loop's side

    def start(self, news: threading.Event) -> None:
        """Poll in a thread from now on; ``news`` is set whenever there is something to take."""
        self._news = news
        self._pool = DecodePool(self._decoder, threads=True)
        self._thread = threading.Thread(target=self._run, name=f"source {self.id}", daemon=True)
        self._thread.start()

    def take(self) -> Event | None:
        """Returns the next thing that happened, or None; raises what has broken the source."""
        if self._thread is None and not self._events:
            self.step()
        with self._lock:
            event = self._events.popleft() if self._events else None
            self.finished |= isinstance(event, Finished)
            if isinstance(event, Rows) and (one := self._open.get(event.split)) is not None:
                one.waiting = max(0, one.waiting - 1)
        if event is None and self._failure is not None:
            raise self._failure
        if event is not None:
            self._taken.set()
        return event

    def settle(self) -> None:
        """Make durable what was handed over, where the source cannot give it again."""
        for one in tuple(self._open.values()):
            if isinstance(one.reader, LoggedReader):
                one.reader.settle()

    def acknowledge(self, offsets: Mapping[str, Offset]) -> None:
        """A checkpoint at these positions, by split, is durable."""
        with self._lock:
            self._acknowledgements.update(offsets)
        if self._thread is None:
            self._answer()

    def release(self, split: str) -> None:
        """A checkpoint holds all that came from a revoked split: let the other side have it."""
        with self._lock:
            self._releases.add(split)
        if self._thread is None:
            self._answer()

    def counters(self) -> Counter[str]:
        """Returns what its readers count."""
        counted = Counter(self._counted)
        for one in tuple(self._open.values()):
            counted.update(one.reader.counters())
        return counted

    def progress(self) -> tuple[int, int] | None:
        """Returns how much has been read and how much there is, in bytes; None where a split cannot tell."""
        known = [one.reader.progress() for one in tuple(self._open.values())]
        told = [one for one in known if one is not None]
        if not told or len(told) < len(known):
            return None
        return sum(done for done, _ in told), sum(total for _, total in told)

    def snapshot(self) -> dict[str, Any]:
        """Returns why nothing comes right now (null where it is not the source's doing), as JSON.

        ``backpressure`` is the share of the last seconds in which it was not read: what came before was not taken.
        """
        readers = [one.reader for one in tuple(self._open.values())]
        reasons = (reader.away() for reader in readers if isinstance(reader, Reconnecting))
        share = self._held.share(self._world.clock.monotonic_s())
        reason = self._reason or next(filter(None, reasons), None)
        return {"reason": reason, "splits": len(readers), "backpressure": round(share, 3)}

    def close(self, *, clean: bool) -> None:
        """Stop; after a clean end what is durable is acknowledged first."""
        self._clean = clean
        self._stopping.set()
        self._taken.set()
        if self._thread is not None:
            self._thread.join(5.0)
            if self._thread.is_alive():
                logger.warning("%s does not answer; it is left behind", self.id)
                return
        self._pool.close()
        self._close()

    # the task's side

    def step(self) -> bool:
        """One round: answer the epoch loop, look for splits, poll each. Returns whether there is something to take."""
        is_waiting = self._world.clock.monotonic_s() < self._retry_s
        if self._done or (is_waiting and self._connection is None):
            return False
        try:
            if self._connection is None:
                self._connection = self._opened()
                self._splits_s = 0.0
            self._answer()
            if self._world.clock.monotonic_s() >= self._splits_s:
                self._look_for_splits()
            # A decoder that waits keeps neither an answer nor a split back.
            moved = not is_waiting and self._poll_each()
        except Unavailable as error:
            self._away(error)
            return False
        if moved:
            self._reason, self._backoff_s = None, 0.0
        return moved

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and not self._done:
                self._taken.clear()
                if not self.step():
                    self._rest()
            while not self._stopping.is_set():  # finished: what was handed over is still to be acknowledged
                self._answer()
                self._stopping.wait(POLL_S)
            self._answer()
        except BaseException as error:
            self._failure = error
            self._tell()

    def _rest(self) -> None:
        """Wait before the next round, where the poll itself has not."""
        left_s = self._retry_s - self._world.clock.monotonic_s()
        if left_s > 0:
            self._stopping.wait(min(left_s, 1.0))
        elif not any(self._may_be_polled(one) for one in self._open.values()):
            if self._open.keys() - self._ended:
                self._held.begin(self._world.clock.monotonic_s())
            if not wait_for_any(self._decoding(), POLL_S):
                self._taken.wait(POLL_S)
            self._held.end(self._world.clock.monotonic_s())
        elif wait_for_any(self._decoding(), IDLE_WAIT_S):
            return
        elif len(self._open) > 1:
            self._stopping.wait(IDLE_WAIT_S)

    def _decoding(self) -> list[DecodeAhead]:
        """Of each split that may hand over more."""
        return [one.ahead for one in self._open.values() if one.split.name not in self._ended and one.waiting < AHEAD]

    def _may_be_polled(self, one: _Open) -> bool:
        has_room = one.waiting < AHEAD and len(one.ahead) < self._pool.room(len(self._open))
        return has_room and not one.is_over and one.split.name not in self._ended

    def _poll_each(self) -> bool:
        """Poll each split that may be, and hand over what is decoded. Returns whether anything moved."""
        moved = False
        for one in tuple(self._open.values()):
            moved |= self._may_be_polled(one) and self._poll(one)
            try:
                while one.waiting < AHEAD and one.split.name not in self._ended and self._hand_over(one):
                    moved = True
            except Unavailable as error:  # what the decoder asks is away; the batch is kept, and the offset stays
                if one.is_over and not one.ahead:
                    raise  # it was not the decoder: see `_end`
                self._wait(error)
                return False
        return moved

    def _poll(self, one: _Open) -> bool:
        began_s = self._world.clock.monotonic_s()
        if self._live and began_s < one.next_s:
            if len(self._open) > 1:
                return False
            self._world.clock.sleep(one.next_s - began_s)
        timeout_s = POLL_S if self._thread is not None else IDLE_WAIT_S
        polled = one.reader.poll(ROWS_MAX, timeout_s if len(self._open) == 1 and not one.ahead else 0.0)
        if polled is None:
            return False
        batch, offset = polled
        one.is_over = batch.watermark_us in (END, REST)
        if batch.watermark_us == REST:  # time has not moved, and no window ends
            batch = batch.until(START)
        one.next_s = began_s + PACE_S if len(batch) < ROWS_FEW else 0.0
        one.ahead.put(batch, offset)
        return True

    def _hand_over(self, one: _Open) -> bool:
        """Hand the next batch of a split to the epoch loop, if it is decoded."""
        taken = one.ahead.take()
        if taken is None:
            return False
        batch, offset, traced = taken
        is_last = one.is_over and not one.ahead
        if is_last:
            self._end(one)
        one.offset = self._offsets[one.split.name] = offset
        with self._lock:
            one.waiting += 1
        self._put(Rows(one.split.name, batch, offset, traced))
        if is_last and all(split in self._ended for split in self._open):
            self._done = True
            self._put(Finished())
        return True

    def _end(self, one: _Open) -> None:
        """Open the splits that come after it: they hold the watermark before its end lets it go."""
        self._ended.add(one.split.name)
        try:
            self._look_for_splits()
        except Unavailable:
            self._ended.discard(one.split.name)  # nobody has heard of its end: it is read once more
            raise

    def _look_for_splits(self) -> None:
        """Open splits that are new and whose parents have ended; let go of those that are given away."""
        assert self._connection is not None
        self._splits_s = self._world.clock.monotonic_s() + SPLITS_EVERY_S
        listed = {split.name: split for split in self._connection.splits()}
        gone = [name for name in self._open if name not in listed and name not in self._ended]
        for name in [name for name in gone if not self._open[name].is_over]:  # else its last batch is on its way
            self._counted.update(self._open[name].reader.counters())
            self._ended.add(name)  # it is not polled again; its reader closes once a checkpoint holds what came
            self._put(Revoked(name))
        for name, split in listed.items():
            ready = all(parent in self._ended or parent not in listed for parent in split.after)
            if ready and name not in self._open and name not in self._ended:
                self._open[name] = _Open(
                    split, self._read(split), self._offsets.get(name), DecodeAhead(self._pool)
                )  # fmt: skip
                self._put(Opened(name))
        if not self._open and listed and all(name in self._ended for name in listed):
            self._done = True
            self._put(Finished())
        self.has_looked = True

    def _opened(self) -> Connection:
        source, world = self._source, self._world
        return source.open(world) if self._share is None else source.open_share(world, self._share)

    def _read(self, split: Split) -> Reader | LoggedReader:
        assert self._connection is not None
        connection, offset = self._connection, self._offsets.get(split.name)
        if self._source.REPLAYABLE:
            return connection.read(split, offset)
        folder = re.sub(r"[^A-Za-z0-9]", lambda match: f"_{ord(match[0]):x}_", split.name)
        log = IngestLog(self._world.scratch / folder, self._world.disk, self._segment_bytes, self._source.retains())
        self._journals[split.name] = log  # before the split is read: its reader looks there
        return LoggedReader(
            log, lambda inner: connection.read(split, inner), split.name, offset, self._world.clock
        )  # fmt: skip

    def _answer(self) -> None:
        """Do what the epoch loop has asked for."""
        with self._lock:
            acknowledgements, self._acknowledgements = self._acknowledgements, {}
            releases, self._releases = self._releases, set()
        for name, offset in acknowledgements.items():
            one = self._open.get(name)
            if one is None:
                continue
            if isinstance(one.reader, LoggedReader):
                one.reader.release(offset)
            else:
                one.reader.acknowledge(offset)
        for name in releases:
            if (one := self._open.pop(name, None)) is not None:
                one.reader.close()
            self._ended.discard(name)
            self._offsets.pop(name, None)

    def _away(self, error: Unavailable) -> None:
        self._wait(error)
        self._close()

    def _wait(self, error: Unavailable) -> None:
        self._backoff_s = min(max(2 * self._backoff_s, BACKOFF_S[0]), BACKOFF_S[1])
        wait_s = max(self._backoff_s, error.retry_after_s)
        if self._reason != str(error):
            logger.warning("%s: %s; trying again, the others go on", self.id, error)
        self._reason = str(error)
        self._retry_s = self._world.clock.monotonic_s() + wait_s

    def _close(self) -> None:
        for one in self._open.values():
            if isinstance(one.reader, LoggedReader) and self._clean and self._failure is None:
                one.reader.confirm()
            self._counted.update(one.reader.counters())
            one.reader.close()
        self._open = {}
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _put(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)
        self._tell()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
