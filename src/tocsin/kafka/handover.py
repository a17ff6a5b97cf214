"""What the thread that speaks to a group and those who read its partitions share: partitions, rows that wait, trouble.

Whoever polls waits for rows here, never for the cluster; the thread waits here for room, and for a partition to be read
from its right place or let go. All of it is under one lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

import pyarrow as pa

from tocsin.batch import Batch
from tocsin.contracts import Offset, Reader, Split
from tocsin.errors import Unavailable
from tocsin.kafka.partition import Partition
from tocsin.kafka.records import end_of
from tocsin.world import Clock

POLL_S = 0.1
"""How long the thread waits for anything before it looks at the cluster again."""
GATHER_S, GATHER_ROWS = 0.03, 16_384
"""Least time between two batches of a partition, unless so much waits: under load a batch is worth its cost, and the
first after a pause does not wait."""
ROWS_MAX, BYTES_MAX = 200_000, 64 * 2**20
"""So much waits for those who poll, in all partitions together."""


class Handover:
    """The partitions that are ours, and what waits in them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self.partitions: dict[str, Partition] = {}
        self.trouble: BaseException | None = None
        self.closing = False

    # the side of those who read

    def splits(self) -> Sequence[Split]:
        """Return the partitions that may be read."""
        with self._changed:
            self._raise_trouble()
            return [Split(name) for name, one in sorted(self.partitions.items()) if not one.revoked]

    def read(self, name: str, begin: Callable[[Partition], int]) -> GroupReader:
        """Read a partition from the record that ``begin`` says."""
        with self._changed:
            one = self.partitions[name]
            one.read_from(begin(one))
            self._changed.notify_all()
        return GroupReader(self, one)

    def take(self, one: Partition, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        """Return the next rows of a partition, and the position after them."""
        until_s = self._clock.monotonic_s() + timeout_s
        with self._changed:
            while True:
                self._raise_trouble(waiting=one.waiting.rows > 0)
                now_s = self._clock.monotonic_s()
                if one.waiting.rows >= GATHER_ROWS or (one.waiting.rows and now_s >= one.ready_s):
                    break
                if now_s >= until_s:
                    return None
                self._changed.wait(min(until_s, one.ready_s if one.waiting.rows else until_s) - now_s)
            rows = one.waiting.take(rows_max)
            one.next, one.ready_s = end_of(rows), now_s + GATHER_S
            self._changed.notify_all()
        return Batch(rows), {"next": one.next, "topic": one.topic_id}

    def acknowledge(self, one: Partition, offset: Offset) -> None:
        """Everything before is durable: the group is told soon."""
        with self._changed:
            one.durable = max(one.durable, int(offset["next"]))

    def let_go(self, one: Partition) -> None:
        """Nobody reads the partition any more."""
        with self._changed:
            one.open = False
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody reads anything any more."""
        with self._changed:
            self.closing = True
            self._changed.notify_all()

    def _raise_trouble(self, *, waiting: bool = False) -> None:
        """What may pass is told once all that was handed over is durable: until then nobody else may have it."""
        if isinstance(self.trouble, Unavailable) and (waiting or not self._is_settled()):
            return
        if self.trouble is not None:
            raise self.trouble

    def _is_settled(self) -> bool:
        return all(one.next is None or one.durable >= one.next for one in self.partitions.values())

    # the thread's side

    def put(self, runs: Iterable[tuple[str, int, pa.RecordBatch]]) -> None:
        """Hand rows over, each batch of one partition; what is no longer ours is dropped."""
        with self._changed:
            for topic, number, rows in runs:
                one = self.partitions.get(f"{topic}-{number}")
                if one is not None and not one.revoked:
                    one.waiting.put(rows)
            self._changed.notify_all()

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until less waits than may; returns False if that has not come about in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.closing or not self._holds(1.0), timeout_s)

    def is_half_full(self) -> bool:
        """Return whether at least half of what may wait does."""
        with self._changed:
            return self._holds(0.5)

    def _holds(self, part: float) -> bool:
        waiting = [one.waiting for one in self.partitions.values()]
        too_many = sum(one.rows for one in waiting) >= part * ROWS_MAX
        return too_many or sum(one.bytes for one in waiting) >= part * BYTES_MAX

    def give(self, some: Sequence[Partition]) -> None:
        """Offer partitions to be read, and wait until they are, or nobody will."""
        with self._changed:
            self.partitions |= {one.name: one for one in some}
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self.closing or self.trouble is not None or all(one.next is not None for one in some)
            )

    def revoke(self, names: Sequence[str]) -> Sequence[Partition]:
        """Have partitions read no further; returns those that were known."""
        with self._changed:
            some = [self.partitions[name] for name in names if name in self.partitions]
            for one in some:
                one.revoked = True
                one.waiting.clear()
            self._changed.notify_all()
        return some

    def are_let_go(self, some: Sequence[Partition]) -> bool:
        """Wait a moment until nobody reads these any more, and return whether it is so."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self.closing or self.trouble is not None or not any(one.open for one in some), POLL_S
            )

    def forget(self, names: Sequence[str]) -> None:
        """These partitions are no longer ours."""
        with self._changed:
            for name in names:
                self.partitions.pop(name, None)

    def to_tell(self, *, again: bool) -> Sequence[tuple[Partition, int]]:
        """Return how far each partition is durable that the group has not been told of, and take it for told.

        ``again``: also those it was told of, since it may not have heard it.
        """
        with self._changed:
            read = [one for one in self.partitions.values() if one.next is not None]
            moved = [one for one in read if again or one.durable != one.noted]
            for one in moved:
                one.noted = one.durable
            return [(one, one.durable) for one in moved]

    def was_not_told(self, names: Sequence[str]) -> None:
        """The group has not heard it: `to_tell` returns it once more."""
        with self._changed:
            for name in names:
                if (one := self.partitions.get(name)) is not None:
                    one.noted = None

    def fail(self, trouble: BaseException) -> None:
        """Have those who read raise this; the first counts."""
        with self._changed:
            if self.trouble is None:
                self.trouble = trouble
            self._changed.notify_all()

    def pause(self) -> None:
        """Wait a moment for anything."""
        with self._changed:
            self._changed.wait(POLL_S)


class GroupReader(Reader):
    """One partition being read."""

    def __init__(self, handover: Handover, partition: Partition) -> None:
        self._handover, self._partition = handover, partition

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        return self._handover.take(self._partition, rows_max, timeout_s)

    def acknowledge(self, offset: Offset) -> None:
        self._handover.acknowledge(self._partition, offset)

    def counters(self) -> Mapping[str, int]:
        return {"expired": self._partition.expired}

    def close(self) -> None:
        self._handover.let_go(self._partition)


__all__ = ["GroupReader", "Handover"]
