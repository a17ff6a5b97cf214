"""Decodes the batches of a source before the epoch loop takes them, several at once, and keeps each split's order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from tocsin.batch import OUT, Batch
from tocsin.contracts import Offset, State
from tocsin.decode._base import Decoder, Traced

THREADS_MAX = 4
"""The steps take on one core what about so many decode."""
BYTES_FEW = 256 * 1024
"""A batch of fewer bytes is decoded sooner than it is handed to another thread, by the epoch loop: two threads that
take turns for the interpreter's lock cost an alarm 30 ms at the 99th percentile."""


class DecodePool:
    """Threads that decode, one for each core, and none on a machine of one core or where ``threads`` is false."""

    def __init__(self, decoder: Decoder | None, *, threads: bool) -> None:
        self.decoder = decoder
        cores = min(len(os.sched_getaffinity(0)), THREADS_MAX) if hasattr(os, "sched_getaffinity") else 1
        count = cores if threads and decoder is not None and cores > 1 else 0
        self.threads = [ThreadPoolExecutor(1, thread_name_prefix=f"decode {n}") for n in range(count)]

    def room(self, splits: int) -> int:
        """Returns how many batches a split may have in them, where so many splits are read."""
        return max(1, (len(self.threads) + 1) // splits)

    def close(self) -> None:
        for thread in self.threads:
            thread.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class _Pending:
    """A batch that was polled, and the position after it."""

    batch: Batch
    offset: Offset
    at_work: Future[Traced | None] | None
    """None: it is left to the epoch loop, unless the decoder may have to wait."""


class DecodeAhead:
    """The batches of one split that were polled and not handed over yet.

    A decoder's state saves time only (`Decoder.may_run_ahead`), so each thread has its own. A small batch is handed on
    as it came, and decoded by the epoch loop; but a decoder that asks another server (`Decoder.may_wait`) must not hold
    the loop up, and whoever takes the batch decodes it, with a state of its own.
    """

    def __init__(self, pool: DecodePool) -> None:
        self._pool, self._decoder = pool, pool.decoder
        self._pending: deque[_Pending] = deque()
        self._states: list[State] = []
        if self._decoder is not None:
            self._states = [self._decoder.initial() for _ in (*pool.threads, None)]
        self._turn = 0

    def __len__(self) -> int:
        return len(self._pending)

    def put(self, batch: Batch, offset: Offset) -> None:
        """Take in the batch that follows."""
        threads = self._pool.threads
        if not threads or batch.port != OUT or (not self._pending and batch.rows.nbytes < BYTES_FEW):
            self._pending.append(_Pending(batch, offset, None))
            return
        self._turn = (self._turn + 1) % len(threads)
        self._pending.append(_Pending(batch, offset, threads[self._turn].submit(self._decoded, self._turn, batch)))

    def take(self) -> tuple[Batch, Offset, Traced | None] | None:
        """Returns the oldest batch, the position after it and what the decoder made of it, if that is done.

        Raises what the decoder raises, and keeps the batch: it is decoded again by the next call.
        """
        if not self._pending:
            return None
        oldest = self._pending[0]
        if oldest.at_work is None:
            traced = self._decoded(-1, oldest.batch) if self._decoder is not None and self._decoder.may_wait() else None
        elif oldest.at_work.done():
            at_work, oldest.at_work = oldest.at_work, None
            traced = at_work.result()
        else:
            return None
        self._pending.popleft()
        return oldest.batch, oldest.offset, traced

    def at_work(self) -> Future[Traced | None] | None:
        """Returns the work on the oldest batch, where a thread of the pool does it."""
        return self._pending[0].at_work if self._pending else None

    def _decoded(self, thread: int, batch: Batch) -> Traced | None:
        if self._decoder is None or batch.port != OUT:
            return None
        traced = self._decoder.traced(self._states[thread], batch)
        self._states[thread] = traced[0]
        return traced


def wait_for_any(splits: Sequence[DecodeAhead], timeout_s: float) -> bool:
    """Wait until the oldest batch of some split is decoded. Returns False at once where none is being decoded."""
    at_work = [work for split in splits if (work := split.at_work()) is not None]
    if at_work:
        wait(at_work, timeout_s, FIRST_COMPLETED)
    return bool(at_work)
