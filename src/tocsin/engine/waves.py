"""Batches on their way through the steps, several at once: each step still takes them one by one, in their order.

A step's state, what leaves it and in which order are therefore the same for any number of workers, to the bit.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from tocsin.bases import Keyed
from tocsin.batch import Batch
from tocsin.engine.chain import Node
from tocsin.engine.shards import Sharded, why_whole
from tocsin.pipeline.plan import Step

ROWS_FEW = 1_024
"""Fewer rows are taken through all steps sooner than they are handed to another thread."""


class Wave:
    """What one batch of a source sets going: what waits before the steps, and what has left each part."""

    def __init__(self, before: Wave | None = None) -> None:
        self.rows = 0
        """How many rows came with it."""
        self.waiting: dict[int, list[tuple[int, Batch]]] = defaultdict(list)
        """By the step's number: the number of the input, and the batch."""
        self.left: list[tuple[str, Batch]] = []
        """By source or step, in order: what sinks, counters and the page are to be told."""
        self._before = before
        self._passed = 0
        self._has_thread = False
        self._is_lost = False
        self._moved = threading.Condition()

    def enter(self, step: int) -> None:
        """Wait until the wave before this one has left a step."""
        before = self._before
        if before is not None:
            before._wait(step)

    def leave(self, step: int) -> None:
        """Let the wave behind this one enter a step."""
        if not self._has_thread:
            return
        with self._moved:
            self._passed = step + 1
            self._moved.notify_all()

    def run(self, through: Callable[[Wave], None]) -> None:
        """Go through all steps, in a thread; whoever follows is stopped where this fails."""
        try:
            through(self)
        except BaseException:
            with self._moved:
                self._is_lost = True
                self._moved.notify_all()
            raise
        finally:
            self._before = None

    def _wait(self, step: int) -> None:
        with self._moved:
            self._moved.wait_for(lambda: self._passed > step or self._is_lost)
        if self._is_lost:
            raise Lost


class Lost(Exception):
    """The wave before has failed: its error is told in its turn."""


class Waves:
    """The waves on their way, oldest first, and the threads that take them through the steps; one worker: none.

    A thread takes a wave through all steps, one step behind the thread with the wave before: threads start waves in
    their order, so that one that waits only ever waits for one that is at work.
    """

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, "steps") if workers > 1 else None
        # Of its own: were shards to wait behind waves, which wait for shards, nothing would move.
        self._shards = ThreadPoolExecutor(workers - 1, "shards") if workers > 1 else None
        self._workers = workers
        self._under_way: deque[tuple[Wave, Future[None]]] = deque()

    def __len__(self) -> int:
        return len(self._under_way)

    def node(self, step: Step) -> Node:
        """Returns a step with its state, which takes its batches in shards where it can."""
        if self._shards is None or not isinstance(step.operator, Keyed) or why_whole(step.operator):
            return Node(step.id, step.operator)
        return Sharded(step.id, step.operator, self._workers, self._shards)

    def next(self) -> Wave:
        """Returns a wave to be filled, behind all others."""
        return Wave(self._under_way[-1][0] if self._under_way else None)

    def send(self, wave: Wave, through: Callable[[Wave], None]) -> Iterator[Wave]:
        """Take the newest wave through the steps; returns those, oldest first, that have come out at the end."""
        if self._pool is None or (not self._under_way and wave.rows < ROWS_FEW):
            through(wave)
            yield wave
            return
        wave._has_thread = True
        self._under_way.append((wave, self._pool.submit(wave.run, through)))
        # None is asked whether it is done: what is in an epoch would depend on who was faster.
        while len(self._under_way) > self._workers + 1:
            yield self._oldest()

    def settle(self) -> Iterator[Wave]:
        """Wait for all; returns them, oldest first."""
        while self._under_way:
            yield self._oldest()

    def _oldest(self) -> Wave:
        wave, at_work = self._under_way.popleft()
        at_work.result()
        return wave

    def close(self) -> None:
        """Let go of the threads, once they have done what they are at."""
        for pool in (self._pool, self._shards):
            if pool is not None:
                pool.shutdown(cancel_futures=True)


__all__ = ["Lost", "Wave", "Waves"]
