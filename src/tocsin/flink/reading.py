"""A source as a reader of the job: what its splits give is decoded, and spread over the groups of keys.

It is `engine.source_task` with another loop around it: positions, decoders and event time are part of the state that
Flink keeps, together with the elements that came of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from tocsin.batch import END, OUT, START, as_one, empty
from tocsin.contracts import Offset
from tocsin.engine.chain import Chain, first_time
from tocsin.engine.keyed import By, Passage, element, spread
from tocsin.engine.recovery import decoder_ahead
from tocsin.engine.remembered import Remembered
from tocsin.engine.source_task import Opened, Rows, SourceTask
from tocsin.flink.elements import DONE, ROWS, Element
from tocsin.pipeline.plan import SourceNode
from tocsin.world import World

ROWS_AT_ONCE = 1_048_576
"""Of one poll: each group's part of it should be worth the cost of an element, about 5 ms with its ways."""
BYTES_AT_ONCE = 32 << 20
"""Of one poll, where rows are wide: what is on its way between two tasks is held in memory."""
AT_ONCE_S = 1.0
"""So long a poll goes on at the most while more comes; barriers wait for it."""
FIRST_S = 0.02
"""So long a poll waits for something to come, and for the next of what comes bit by bit."""
ROWS_MANY = 8_192
"""After a batch of so many there is more to come: the reader is behind, and a larger poll helps it to catch up."""
MORE_S = 0.25
"""So long a poll waits for more then."""


@dataclass(slots=True)
class _Split:
    chain: Chain
    offset: Offset
    last_rows_s: float
    told_us: int = START
    """The watermark that all groups have heard."""


class Reading:
    """One source of a plan being read; its state is bytes, whole between any two polls."""

    def __init__(
        self, number: int, origin: SourceNode, share: int, world: World, groups: int, by: By, run: str,
        remembered: Remembered, gather_s: float,
    ) -> None:  # fmt: skip
        """``by``: what keys are spread by; ``gather_s``: so long rows may wait for others, where more come for ever."""
        self._number, self._origin, self._groups, self._by, self._run = number, origin, groups, by, run
        shares = origin.source.SHARES
        self._stand_ins = [f"share {one}" for one in range(shares)] if shares > 1 else []
        """For splits of other shares that are not known yet, so that none is overtaken: idle once its share is."""
        self._unsaid = self._stand_ins[share : share + 1]
        self._clock = world.clock
        self._is_live = not origin.source.bounded()
        self._gather_s = gather_s if self._is_live else AT_ONCE_S
        self.behind = False
        """Whether the last poll has ended though more was there, so that the next one is due at once."""
        self._splits: dict[str, _Split] = {}
        self._remembered = remembered
        begin = f"{origin.id}/"
        self._offsets: dict[str, Offset] = {id.removeprefix(begin): one for id, one in remembered.offsets.items()}
        self._watermarks: dict[str, int] = {id.removeprefix(begin): us for id, us in remembered.watermarks.items()}
        self._done_in: str | None = remembered.rest.get("done_in")
        ended = [name for name, us in self._watermarks.items() if us == END]
        self._news = threading.Event()
        self._task = SourceTask(
            origin.id,
            origin.source,
            replace(world, first_time=first_time(origin), idle_us=origin.idle_timeout_us),
            self._offsets,
            ended,
            decoder=decoder_ahead(origin),
            share=share if shares > 1 else None,
        )
        self._task.start(self._news)

    def poll(self) -> Iterator[Element]:
        """Take what has come, for a while: elements for the groups, in order."""
        has_looked = self._task.has_looked  # then what it had opened is taken here
        for batches, passage in self._gathered():
            yield from self._spread(as_one(batches), passage)
        yield from self._idle()
        if self._unsaid and has_looked:
            yield from self._say(self._unsaid.pop())
        if self._task.finished and not self.finished:
            self._done_in = self._run
            yield from (Element(group, DONE, self._number) for group in range(self._groups))

    def _gathered(self) -> list[tuple[list[pa.RecordBatch], Passage]]:
        """What has come, through the chains: one entry for each run of batches of one split and port."""
        waiting: list[tuple[list[pa.RecordBatch], Passage]] = []
        until_s, rows, size, wait_s = self._clock.monotonic_s() + self._gather_s, 0, 0, FIRST_S
        self.behind = True
        while rows < ROWS_AT_ONCE and size < BYTES_AT_ONCE and not self._task.finished:
            self._news.clear()
            event = self._task.take()
            if isinstance(event, Opened):
                self._open(event.split)
            elif isinstance(event, Rows):
                rows += len(event.batch)
                size += self._take(event, waiting)
                wait_s = FIRST_S if self._is_live and len(event.batch) < ROWS_MANY else MORE_S
            elif event is None and not self._news.wait(wait_s):
                self.behind = False
                break
            if self._clock.monotonic_s() >= until_s:
                break
        return waiting

    @property
    def finished(self) -> bool:
        """Whether nothing more comes in this run, and every group has been told so."""
        return self._done_in == self._run

    def dump(self) -> bytes:
        """Returns all that is remembered."""
        for name, split in self._splits.items():
            self._offsets[name] = split.offset
            self._watermarks[name] = split.chain.watermark_us
            for node in split.chain.nodes:
                if node.changed:
                    node.changed = False
                    self._remembered.put(node.id, node.operator.dump(node.state))
        begin = f"{self._origin.id}/"
        return self._remembered.dump(
            {f"{begin}{name}": us for name, us in self._watermarks.items()},
            {f"{begin}{name}": offset for name, offset in self._offsets.items()},
            done_in=self._done_in,
        )

    def close(self) -> None:
        self._task.close(clean=False)

    def _open(self, name: str) -> None:
        chain = Chain(self._origin, name)
        for node in chain.nodes:
            if (state := self._remembered.get(node.id)) is not None:
                node.state = node.operator.load(state)
        chain.watermark_us = self._watermarks.get(name, START)
        self._splits[name] = _Split(chain, self._offsets.get(name), self._clock.monotonic_s(), chain.watermark_us)

    def _take(self, event: Rows, waiting: list[tuple[list[pa.RecordBatch], Passage]]) -> int:
        """Bring a batch through the chain; what leaves waits with what left before by the same split and port.

        The end stays a batch of its own: what is due before it happens by the watermark before. Returns the bytes that
        left.
        """
        size = 0
        split = self._splits[event.split]
        split.offset, split.last_rows_s = event.offset, self._clock.monotonic_s()
        split.chain.idle = False
        for out in split.chain.through(event.batch, event.traced):
            if out.port == OUT:
                split.chain.watermark_us = max(split.chain.watermark_us, out.watermark_us)
            size += int(out.rows.nbytes)
            passage = self._passage(event.split, out.port)
            last = waiting[-1][1] if waiting else None
            same = last is not None and (last.split, last.port) == (passage.split, passage.port)
            if same and passage.watermark_us != END:
                waiting[-1][0].append(out.rows)
                waiting[-1] = waiting[-1][0], passage
            else:
                waiting.append(([out.rows], passage))
        return size

    def _passage(self, name: str, port: str = OUT, *, idle: bool = False) -> Passage:
        return Passage(self._origin.id, name, self._known(), self._splits[name].chain.watermark_us, port, idle)

    def _known(self) -> tuple[str, ...]:
        return (*self._stand_ins, *sorted(self._splits.keys() | self._watermarks.keys()))

    def _say(self, stand_in: str) -> Iterator[Element]:
        """Tell the groups that they have heard of all splits of this share."""
        passage = Passage(self._origin.id, stand_in, self._known(), START, OUT, idle=True)
        data = element(empty(self._origin.schemas[OUT]), passage)
        yield from (Element(group, ROWS, self._number, data) for group in range(self._groups))

    def _spread(self, rows: pa.RecordBatch, passage: Passage) -> Iterator[Element]:
        split = self._splits[passage.split]
        moved = passage.idle or (passage.port == OUT and passage.watermark_us > split.told_us)
        if not moved and not rows.num_rows:
            return
        if moved:
            split.told_us = passage.watermark_us
        for group, some in spread(rows, self._groups, self._by):
            if moved or some.num_rows:
                yield Element(group, ROWS, self._number, element(some, passage))

    def _idle(self) -> Iterator[Element]:
        """Tell the groups of splits that have been silent for too long: time goes on without them."""
        now_s = self._clock.monotonic_s()
        for name, split in self._splits.items():
            chain = split.chain
            silent = now_s - split.last_rows_s >= self._origin.idle_timeout_us / 1e6
            if silent and not chain.idle and chain.watermark_us != END:
                chain.idle = True
                yield from self._spread(empty(self._origin.schemas[OUT]), self._passage(name, idle=True))
