"""A keyed step in shards: the rows of a batch parted by key, each part judged in a thread of its own.

The shards share one state, in which each key has a place of its own, so that there is nothing to be brought together
for a checkpoint, and nothing to be parted after it.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise

import numpy as np
import pyarrow as pa

from tocsin.bases import Keyed
from tocsin.batch import Batch, Codes, Ints, as_one
from tocsin.contracts import Operator
from tocsin.engine.chain import Node

ROWS_FEW = 4_096
"""A batch of fewer rows is judged whole."""
HEAVY_NS = 250
"""A step is sharded if a row costs it so much: to part a row and put it back costs some 40 ns."""
TRIALS = 3
"""So many batches are judged whole first, to see what a row costs; the first one may have compiled a kernel."""


def why_whole(operator: Operator) -> str:
    """Returns why a step takes each batch whole; empty if its rows may be parted by key."""
    if operator.ACROSS_KEYS:
        return operator.ACROSS_KEYS
    if not isinstance(operator, Keyed):
        return "it does not answer row by row with what it knows of a key"
    if type(operator).step is not Keyed.step:
        return "it answers more than the rows that come"
    return operator.WHOLE


class Sharded(Node):
    """A step whose batches are parted, where that is worth while."""

    def __init__(self, id: str, operator: Keyed, count: int, threads: ThreadPoolExecutor) -> None:
        super().__init__(id, operator)
        self._keyed, self._count, self._threads = operator, count, threads
        self._trials = 0
        self._row_ns = np.inf

    def step(self, batch: Batch) -> list[Batch]:
        """Take one batch as `Node.step` does: the same rows leave in the same order, to the bit."""
        if len(batch) < ROWS_FEW:
            return super().step(batch)
        if self._trials < TRIALS or self._row_ns < HEAVY_NS:
            begin = time.thread_time_ns()
            left = super().step(batch)
            self._row_ns = min(self._row_ns, (time.thread_time_ns() - begin) / len(batch))
            self._trials += 1
            return left
        self.changed = True
        slots = self.state.slots(batch.rows.column("key"))
        return [batch.with_rows(self._judged(batch.rows, slots))]

    def _judged(self, rows: pa.RecordBatch, slots: Codes) -> pa.RecordBatch:
        order, edges = _parted(slots, self._count)
        parted, of = rows.take(pa.array(order)), slots[order]
        bounds = [(a, b) for a, b in pairwise(edges) if a < b]
        update, (first, last) = self._keyed.update, bounds[0]
        others = [self._threads.submit(update, self.state, parted.slice(a, b - a), of[a:b]) for a, b in bounds[1:]]
        try:
            own = update(self.state, parted.slice(first, last - first), of[first:last])
        finally:
            wait(others)
        answers = [own, *(other.result() for other in others)]
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        whole = as_one(answers)
        assert whole.num_rows == rows.num_rows, f"{self._keyed.name()} has not answered each row with one"
        return whole.take(pa.array(back))


def _parted(slots: Codes, count: int) -> tuple[Ints, list[int]]:
    """Rows by shard, those of a shard in their order: their places, and where each shard begins and ends."""
    shard = (slots % count).astype(np.uint8)
    order = np.argsort(shard, kind="stable")
    return order, [0, *np.cumsum(np.bincount(shard, minlength=count)).tolist()]


__all__ = ["Sharded", "why_whole"]
