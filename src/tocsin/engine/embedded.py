"""READ SECOND: the runner in one process. Poll, step, and every so often a checkpoint: rows arrive exactly once.

Nothing is visible before the commit point (step 5); after it everything can be redone, and is, by `recovery.start`:

    1 poll  2 step  3 stage rows  4 write states  5 COMMIT POINT  6 acknowledge  7 publish rows  8 deliver messages
"""

from __future__ import annotations

import errno
import gc
import logging
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any

import pyarrow as pa

from tocsin.batch import END
from tocsin.contracts import Channel, Checkpoint, Message, Runner, StepState, Token
from tocsin.engine.checkpoint import delete_states, state_files, write_states
from tocsin.engine.counters import Counters
from tocsin.engine.fitting import step_name
from tocsin.engine.graph import Feed
from tocsin.engine.ingest_log import LoggedReader
from tocsin.engine.recovery import ACTIONS_PARTITION, Effects, Session, start, table_epochs
from tocsin.errors import DurabilityError, ForeignCommit, SinkError, SourceError
from tocsin.pipeline.plan import Plan

logger = logging.getLogger(__name__)

ROWS_MAX = 65_536
"""In one batch: enough to make the fixed cost of a batch small, little enough to stay in the cache."""
ROWS_FEW = 1_000
PACE_S = 0.005
"""A live source that brings few rows at a time is asked no more often: a batch of one costs as much as one of 500."""
IDLE_WAIT_S = 0.002
URGENT_SPACING_S = (0.02, 0.2)
"""Least and greatest time between two epochs that an alarm brings forward; in between, four times an epoch's cost."""
ACTIONS_EVERY_S = 0.05
FEED_EVERY_S = 0.5
THREADS = 8
"""So many files of an epoch are synced at the same time."""
HOUSEKEEPING_EPOCHS = 16
"""After so many one table keeps house; they take turns, so that none stops the flow for long."""
DRAIN_S = 5.0
"""How long a clean stop waits for messages to be delivered."""
RETRIES = 5
RETRY_AFTER_S = (0.1, 0.5, 1.0, 2.0, 5.0)
DISK_FULL_RETRY_S = 1.0


class EmbeddedRunner(Runner):
    """Runs a plan until its sources end, or until `stop`.

    On trouble with a disk, source or sink it drops all memory and recovers from the last checkpoint, a few times; while
    the disk is full it waits for space. After a failed fsync it stops at once: retrying proves nothing.
    """

    def __init__(
        self,
        plan: Plan,
        effects: Effects | None = None,
        feed: Feed | None = None,
        forget: Collection[str] | str = (),
    ) -> None:
        self.plan = plan
        self._prints = plan.prints()
        self._forget = forget
        self.counters = Counters()
        self._effects = effects or Effects()
        self._clock = self._effects.clock
        self._feed = feed
        self._stopping = False
        self._failures = 0
        self._session: Session | None = None
        self._pool: ThreadPoolExecutor | None = None

    def run(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._stopped_by_signals())
            if self._effects.threads:
                self._pool = stack.enter_context(ThreadPoolExecutor(THREADS, "epoch"))
            while True:
                try:
                    self._run_session()
                    return
                except (DurabilityError, ForeignCommit):
                    raise
                except (OSError, SourceError, SinkError, sqlite3.OperationalError) as error:
                    self._wait_after(error)
                    if self._stopping:
                        return

    def stop(self) -> None:
        """Finish the epoch, then let `run` return. May be called from a signal handler or another thread."""
        self._stopping = True

    def snapshot(self) -> Mapping[str, Any]:
        """What has been counted, as JSON."""
        session = self._session
        watermarks, events = (session.graph.watermarks, session.events()) if session else ({}, Counter())
        return self.counters.snapshot(self.plan.streams, watermarks, events, self._clock.now_us())

    def progress(self) -> tuple[int, int] | None:
        """How much of all sources has been read, and how much there is (bytes); None where a source cannot tell."""
        intakes = self._session.intakes if self._session else []
        told = [getattr(intake.reader, "progress", lambda: None)() for intake in intakes]
        known = [found for found in told if found is not None]
        if not known or len(known) < len(told):
            return None
        return sum(done for done, _ in known), sum(total for _, total in known)

    def _run_session(self) -> None:
        if self._session is not None:
            self.counters.events.update(self._session.events())
            self._session = None
        session = self._session = start(self.plan, self._effects, self.counters, self._feed, self._forget)
        drain_s = 0.0
        try:
            if self._effects.threads:
                for courier in session.couriers:
                    courier.start()
            self._loop(session)
            drain_s = DRAIN_S
        finally:
            session.close(drain_s)

    def _loop(self, session: Session) -> None:
        """Poll and step; an epoch when it is due. Ends after a last epoch when the sources have, or when stopped."""
        last_epoch_s = last_actions_s = last_feed_s = self._clock.monotonic_s()
        spacing_s, dirty = 0.0, session.refitted
        live = not any(inlet.source.bounded() for inlet in self.plan.inlets)
        while True:
            began_s = self._clock.monotonic_s()
            rows = self._poll(session)
            moved = rows is not None
            now_s = self._clock.monotonic_s()
            if session.actions is not None and now_s - last_actions_s >= ACTIONS_EVERY_S:
                last_actions_s = now_s
                moved |= self._take_actions(session)
            moved |= self._fall_idle(session, now_s)
            dirty |= moved
            last = self._stopping or all(intake.ended for intake in session.intakes)
            due_s = spacing_s if session.graph.urgent else self.plan.checkpoint_us / 1e6
            if dirty and (last or now_s - last_epoch_s >= due_s or session.graph.bytes >= self.plan.memory_bytes):
                first = session.before is None
                self._epoch(session)
                if first:
                    gc.freeze()  # all that is loaded stays: looking through it again and again took 7 % of the time
                last_epoch_s, dirty = self._clock.monotonic_s(), False
                cost_s = last_epoch_s - now_s
                spacing_s = min(max(4 * cost_s, URGENT_SPACING_S[0]), URGENT_SPACING_S[1])
                self.counters.epoch(1e3 * cost_s)
                self.counters.trouble, self._failures = None, 0
            if self._feed is not None and (last or now_s - last_feed_s >= FEED_EVERY_S):
                last_feed_s = now_s
                self._feed.counters(self.snapshot())
            if last:
                return
            pause_s = IDLE_WAIT_S if rows is None else PACE_S if live and rows < ROWS_FEW else 0.0
            if pause_s and (left_s := began_s + pause_s - self._clock.monotonic_s()) > 0:
                self._clock.sleep(left_s)

    # 1 and 2: poll and step

    def _poll(self, session: Session) -> int | None:
        """One batch from each partition, through all steps. How many rows; None if there was no batch."""
        rows: int | None = None
        timeout_s = IDLE_WAIT_S if len(session.intakes) == 1 else 0.0
        for intake in session.intakes:
            if intake.ended or (polled := intake.reader.poll(ROWS_MAX, timeout_s)) is None:
                continue
            batch, intake.offset = polled
            intake.last_rows_s = self._clock.monotonic_s()
            intake.ended = batch.watermark_us == END
            session.graph.push(intake.chain, batch)
            rows = (rows or 0) + len(batch)
        self.counters.waiting_bytes = session.graph.bytes
        return rows

    def _fall_idle(self, session: Session, now_s: float) -> bool:
        moved = False
        for intake in session.intakes:
            silent_us = 1e6 * (now_s - intake.last_rows_s)
            if not intake.chain.idle and not intake.ended and silent_us >= intake.chain.inlet.idle_timeout_us:
                session.graph.fall_idle(intake.chain)
                moved = True
        return moved

    def _take_actions(self, session: Session) -> bool:
        assert session.actions is not None
        rows = session.actions.poll()
        if rows is not None:
            session.graph.act(rows)
        return rows is not None

    # 3 to 8: the epoch

    def _epoch(self, session: Session) -> None:
        epoch = session.last.epoch + 1
        offsets = self._settle(session)
        rows = session.graph.take()
        tokens, states = self._prepare(session, epoch, rows)
        checkpoint = Checkpoint(
            epoch=epoch,
            fingerprint=self.plan.fingerprint,
            watermarks=session.graph.all_watermarks(),
            offsets=offsets,
            states=states,
            tokens=tokens,
            tables=table_epochs(session.last),
        )
        self._commit_point(session, checkpoint, self._messages(rows))
        session.before, session.last, self._forget = session.last, checkpoint, ()
        self._acknowledge(session)
        self._publish(session)
        self._deliver(session)
        self._tidy(session)

    def _settle(self, session: Session) -> dict[str, Any]:
        """What came from sources that cannot be read twice is durable in the ingest log before a checkpoint says so."""
        for intake in session.intakes:
            if isinstance(intake.reader, LoggedReader):
                intake.reader.settle()
        offsets = {intake.chain.id: intake.offset for intake in session.intakes if intake.offset is not None}
        if session.actions is not None:
            offsets[ACTIONS_PARTITION] = session.actions.offset
        return {**session.last.offsets, **offsets}

    def _prepare(
        self, session: Session, epoch: int, rows: Mapping[str, Sequence[pa.RecordBatch]]
    ) -> tuple[dict[str, Sequence[Token]], dict[str, StepState]]:
        """Rows and states on disk, visible to nobody."""
        ids = [id for id in session.writers if id in rows]
        states: list[dict[str, StepState]] = []
        tokens: dict[str, Sequence[Token]] = {}

        def stage(id: str) -> None:
            tokens[id] = [session.writers[id].stage(epoch, rows[id])]

        jobs: list[Callable[[], None]] = [partial(stage, id) for id in ids]
        self._together([*jobs, lambda: states.append(self._write_states(session, epoch))])
        return {id: tokens[id] for id in ids}, states[0]

    def _write_states(self, session: Session, epoch: int) -> dict[str, StepState]:
        changed = session.graph.changed_states()
        some = {id: table for id, table in changed.items() if table.num_rows}
        same = {id: state for id, state in session.last.states.items() if id not in changed}
        written = write_states(self._effects.disk, self.plan.state_folder, epoch, some)
        for id, state in written.items():
            now = self._prints[step_name(id)]
            written[id] = state._replace(fingerprint=now.fingerprint, settings=now.settings)
        return {**same, **written}

    def _messages(self, rows: Mapping[str, Sequence[pa.RecordBatch]]) -> dict[str, list[Message]]:
        return {
            outlet.id: [message for batch in rows[outlet.id] for message in outlet.part.messages(batch)]
            for outlet in self.plan.outlets
            if isinstance(outlet.part, Channel) and outlet.id in rows
        }

    def _commit_point(self, session: Session, checkpoint: Checkpoint, outbox: Mapping[str, Sequence[Message]]) -> None:
        session.store.commit(checkpoint, outbox)

    def _acknowledge(self, session: Session) -> None:
        for intake in session.intakes:
            if intake.chain.id in session.last.offsets:
                intake.reader.commit(session.last.offsets[intake.chain.id])

    def _publish(self, session: Session) -> None:
        last = session.last
        self._together([partial(session.writers[id].commit, last.epoch, tokens) for id, tokens in last.tokens.items()])

    def _together(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Do all of these; the disk works on their fsyncs at the same time. A failed fsync outranks other errors."""
        if self._pool is None or len(jobs) < 2:
            for job in jobs:
                job()
            return
        running = [self._pool.submit(job) for job in jobs]
        errors = [error for done in running if (error := done.exception()) is not None]
        for error in sorted(errors, key=lambda error: not isinstance(error, DurabilityError)):
            raise error

    def _deliver(self, session: Session) -> None:
        for courier in session.couriers:
            courier.wake()

    def _tidy(self, session: Session) -> None:
        """Between epochs, when nothing is staged: delete old states; now and then a table keeps house."""
        assert session.before is not None
        keep = state_files(session.last.states) | state_files(session.before.states)
        delete_states(self._effects.disk, self.plan.state_folder, keep)
        turn, rest = divmod(session.last.epoch, HOUSEKEEPING_EPOCHS)
        if rest == 0 and session.writers:
            tuple(session.writers.values())[turn % len(session.writers)].housekeep()

    # trouble and signals

    def _wait_after(self, error: Exception) -> None:
        """Wait before the next try; the error itself after too many. A full disk is no failure: space will come."""
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        full |= isinstance(error, sqlite3.OperationalError) and "full" in str(error)
        if not full:
            if self._failures == RETRIES:
                raise error
            self._failures += 1
        wait_s = DISK_FULL_RETRY_S if full else RETRY_AFTER_S[self._failures - 1]
        self.counters.trouble = "the disk is full; waiting for space" if full else str(error)
        self.counters.recoveries += 1
        logger.warning("%s; going back to the last checkpoint in %.1f s", error, wait_s)
        until_s = self._clock.monotonic_s() + wait_s
        while not self._stopping and (left_s := until_s - self._clock.monotonic_s()) > 0:
            self._clock.sleep(min(left_s, 0.1))

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop cleanly, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            self.stop()

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
