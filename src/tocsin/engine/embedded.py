"""READ SECOND: the runner in one process. Take, step, and every so often a checkpoint: rows arrive exactly once.

Nothing reaches a table before the commit point (step 5); after it all can be redone, and is, by `recovery.start`:

    1 take  2 step  3 stage rows  4 write states  5 COMMIT POINT  6 acknowledge  7 publish rows  8 deliver messages

Sources (1, 6), sinks (7) and channels (8) have threads of their own: one that is silent, slow or away stops no other.
A page that looks on sees rows as they leave a step, before the commit point.
"""

from __future__ import annotations

import errno
import gc
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from tocsin.batch import END
from tocsin.contracts import Channel, Checkpoint, Message, Runner, Staged, StepState
from tocsin.engine.checkpoint import HELD, delete_states, state_files, write_states
from tocsin.engine.counters import Counters
from tocsin.engine.fitting import step_name
from tocsin.engine.graph import Feed
from tocsin.engine.recovery import ACTIONS_SPLIT, Attempt, Effects, open_split, start
from tocsin.engine.signals import stopped_by_signals
from tocsin.engine.sink_task import JoinedTask
from tocsin.engine.source_task import Event, Finished, Opened, Revoked, Rows, SourceTask
from tocsin.engine.telling import keep_assets, told
from tocsin.engine.trouble import disk_trouble, waiting_is_vain
from tocsin.errors import DurabilityError, ForeignCommit, SinkError, SourceError, Undelivered, Unwritten
from tocsin.pipeline.plan import Plan

logger = logging.getLogger(__name__)

IDLE_WAIT_S = 0.05
"""How long the loop sleeps where nothing wakes it."""
URGENT_SPACING_S = (0.02, 0.2)
"""Least and greatest time between two epochs that an alarm brings forward; in between, four times an epoch's cost."""
FEED_EVERY_S = 0.5
THREADS = 8
"""So many files of an epoch are synced at the same time."""
DRAIN_S = 5.0
"""How long a clean stop waits for a sink or a channel that is away."""
RETRIES = 5
RETRY_AFTER_S = (0.1, 0.5, 1.0, 2.0, 5.0)
DISK_FULL_RETRY_S = 1.0
DISK_FULL = "the disk is full; waiting for space"


class EmbeddedRunner(Runner):
    """Runs a plan until its sources end, or until `stop`.

    A source or sink that is away is waited for, and stops no other. On trouble with the disk, or a source that cannot
    be read, it drops all memory and recovers from the last checkpoint, a few times; while the disk is full it waits
    for space. After a failed fsync it stops at once: retrying proves nothing.
    """

    def __init__(
        self,
        plan: Plan,
        effects: Effects | None = None,
        feed: Feed | None = None,
        forget: Collection[str] | str = (),
    ) -> None:
        self.plan = plan
        self._prints, self._tables = plan.prints(), plan.tables()
        self._forget = forget
        self.counters = Counters()
        self._effects = effects or Effects()
        self._clock = self._effects.clock
        self._feed = feed
        self._stopping = False
        self._failures = 0
        self._attempt: Attempt | None = None
        self._pool: ThreadPoolExecutor | None = None

    def run(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(stopped_by_signals(self.stop))
            if self._effects.threads:
                self._pool = stack.enter_context(ThreadPoolExecutor(THREADS, "epoch"))
            while True:
                try:
                    keep_assets(self.plan, self._effects)
                    self._run_attempt()
                    return
                except (DurabilityError, ForeignCommit, Unwritten):
                    raise
                except (OSError, SourceError, SinkError, sqlite3.OperationalError) as error:
                    self._wait_after(error)
                    if self._stopping:
                        return

    def stop(self) -> None:
        """Finish the epoch, then let `run` return. May be called from a signal handler or another thread."""
        self._stopping = True

    def snapshot(self) -> Mapping[str, Any]:
        """Returns what has been counted, as JSON."""
        attempt = self._attempt
        if attempt is None:
            counted = self.counters.snapshot(self.plan.streams, {}, Counter(), self._clock.now_us())
            return {**counted, "sources": {}, "sinks": {}, "channels": {}}
        counted = self.counters.snapshot(
            self.plan.streams, attempt.graph.watermarks, attempt.events(), self._clock.now_us()
        )
        now_s = self._clock.monotonic_s()
        silent = {
            id: min((now_s - s.last_rows_s for s in attempt.splits.values() if s.chain.origin.id == id), default=None)
            for id in attempt.sources
        }
        sources = {id: {**task.snapshot(), "silent_s": silent[id]} for id, task in attempt.sources.items()}
        sinks = {id: task.snapshot() for id, task in attempt.sinks.items()}
        channels = {relay.id: relay.snapshot() for relay in attempt.relays}
        inferences = attempt.graph.inferences()
        return {**counted, "sources": sources, "sinks": sinks, "channels": channels, "inferences": inferences}

    def progress(self) -> tuple[int, int] | None:
        """Returns how much of all sources has been read, and how much there is (bytes); None where one cannot tell."""
        told = [task.progress() for task in self._attempt.sources.values()] if self._attempt else []
        known = [one for one in told if one is not None]
        if not known or len(known) < len(told):
            return None
        return sum(done for done, _ in known), sum(total for _, total in known)

    def _run_attempt(self) -> None:
        if self._attempt is not None:
            self.counters.events.update(self._attempt.events())
            self._attempt = None
        attempt = self._attempt = start(self.plan, self._effects, self.counters, self._feed, self._forget)
        drain_s = 0.0
        try:
            if self._effects.threads:
                for task in attempt.tasks():
                    task.start(attempt.news)
                for sink in attempt.sinks.values():
                    sink.start()
                for relay in attempt.relays:
                    relay.start()
            self._loop(attempt)
            drain_s = DRAIN_S
            self._drain(attempt)
            self._note_published(attempt)
        finally:
            attempt.close(drain_s)

    def _loop(self, attempt: Attempt) -> None:
        """Take and step; an epoch when it is due. Ends after a last epoch when the sources have, or when stopped."""
        last_epoch_s = last_feed_s = self._clock.monotonic_s()
        urgent_from_s, dirty = last_epoch_s, attempt.refitted
        while True:
            attempt.news.clear()
            events, batches = (0, 0) if self._held(attempt) else self._take(attempt)
            now_s = self._clock.monotonic_s()
            idle = self._fall_idle(attempt, now_s)
            dirty |= batches > 0 or idle or bool(attempt.revoked)
            last = self._stopping or all(task.finished for task in attempt.sources.values())
            due_s = last_epoch_s + self.plan.checkpoint_us / 1e6
            urgent = attempt.graph.urgent
            if urgent:
                due_s = min(due_s, urgent_from_s)
            full = attempt.graph.bytes >= self.plan.memory_bytes
            if dirty and (last or attempt.revoked or full or now_s >= due_s):
                first = attempt.before is None
                self._epoch(attempt)
                if first:
                    gc.freeze()  # all that is loaded stays: looking through it again and again took 7 % of the time
                last_epoch_s, dirty = self._clock.monotonic_s(), False
                cost_s = last_epoch_s - now_s
                if urgent:  # one that was due anyway lets the next alarm wait for nothing
                    spacing_s = min(max(4 * cost_s, URGENT_SPACING_S[0]), URGENT_SPACING_S[1])
                    urgent_from_s = last_epoch_s + spacing_s
                self.counters.epoch(1e3 * cost_s)
                if self.counters.trouble == DISK_FULL:
                    logger.warning("there is space again; it goes on")
                self.counters.trouble, self._failures = None, 0
            if self._feed is not None and (last or now_s - last_feed_s >= FEED_EVERY_S):
                last_feed_s = now_s
                self._feed.counters(self.snapshot())
            if last:
                return
            if not events and not idle and not attempt.graph.settle():
                self._rest(attempt, due_s - now_s if dirty else IDLE_WAIT_S)

    def _rest(self, attempt: Attempt, wait_s: float) -> None:
        """Sleep until a source has something, but no longer than until something else is due."""
        wait_s = min(max(wait_s, 0.0), IDLE_WAIT_S)
        if self._effects.threads:
            attempt.news.wait(wait_s)
        else:
            for sink in attempt.sinks.values():
                sink.step()
            self._clock.sleep(wait_s)

    # 1 and 2: take and step

    def _take(self, attempt: Attempt) -> tuple[int, int]:
        """Take at most one batch of each source through all steps. Returns how many events and batches came."""
        events = batches = 0
        for task in attempt.tasks():
            while (event := task.take()) is not None:
                events += 1
                self._on(attempt, task, event)
                if isinstance(event, Rows | Finished):
                    batches += isinstance(event, Rows)
                    break
        self.counters.waiting_bytes = attempt.graph.bytes
        return events, batches

    def _on(self, attempt: Attempt, task: SourceTask, event: Event) -> None:
        if task is attempt.actions:
            if isinstance(event, Rows):
                attempt.actions_offset = event.offset
                attempt.graph.act(event.batch.rows)
            return
        match event:
            case Opened(name):
                (origin,) = (origin for origin in self.plan.sources if origin.id == task.id)
                open_split(attempt, origin, name, None, self._clock)
            case Rows(name, batch, offset, traced):
                split = attempt.splits[f"{task.id}/{name}"]
                split.offset, split.last_rows_s = offset, self._clock.monotonic_s()
                attempt.graph.push(split.chain, batch, traced)
            case Revoked(name):
                attempt.revoked.append(f"{task.id}/{name}")
            case Finished():
                pass

    def _fall_idle(self, attempt: Attempt, now_s: float) -> bool:
        moved = False
        for split in attempt.splits.values():
            chain, silent_us = split.chain, 1e6 * (now_s - split.last_rows_s)
            if not chain.idle and chain.watermark_us != END and silent_us >= chain.origin.idle_timeout_us:
                attempt.graph.fall_idle(chain)
                moved = True
        return moved

    def _held(self, attempt: Attempt) -> bool:
        """Returns whether a sink lags so far behind that nothing more is read; raises what has broken one for good."""
        held = False
        for task in attempt.sinks.values():
            task.check()
            if task.bytes > self.plan.lag_bytes:
                task.check(patient=False)
                held = True
                self.counters.trouble = (
                    f"'{task.id}' lags behind by {task.bytes:,} bytes: {task.reason or 'it is slow'}"
                )
        return held

    # 3 to 8: the epoch

    def _epoch(self, attempt: Attempt) -> None:
        epoch = attempt.last.epoch + 1
        for source in attempt.sources.values():
            source.settle()  # what cannot be read twice is durable before a checkpoint says so
        rows = attempt.graph.take()
        staged, states = self._prepare(attempt, epoch, rows)
        checkpoint = self._checkpoint(attempt, epoch, staged, states)
        self._commit_point(attempt, checkpoint, self._messages(rows))
        attempt.before, attempt.last, self._forget = attempt.last, checkpoint, ()
        self._acknowledge(attempt)
        self._publish(attempt, staged)
        self._deliver(attempt)
        self._tidy(attempt)

    def _checkpoint(
        self, attempt: Attempt, epoch: int, staged: Mapping[str, Staged], states: Mapping[str, StepState]
    ) -> Checkpoint:
        gone = set(attempt.revoked)
        offsets = {id: split.offset for id, split in attempt.splits.items() if split.offset is not None}
        if attempt.actions is not None:
            offsets[ACTIONS_SPLIT] = attempt.actions_offset
        offsets = {**attempt.last.offsets, **offsets}
        watermarks = {**attempt.last.watermarks, **attempt.graph.all_watermarks()}
        return Checkpoint(
            epoch=epoch,
            watermarks={id: us for id, us in watermarks.items() if id not in gone},
            offsets=offsets,  # also of splits given away: until the other side knows how far they were read, only we do
            states={id: place for id, place in states.items() if id.rpartition("/")[0] not in gone},
            staged={
                id: (*task.staged(), *([staged[id]] if id in staged else ())) for id, task in attempt.sinks.items()
            },
            published={id: task.published for id, task in attempt.sinks.items() if task.published is not None},
            tables=self._tables,
        )

    def _prepare(
        self, attempt: Attempt, epoch: int, rows: Mapping[str, Sequence[pa.RecordBatch]]
    ) -> tuple[dict[str, Staged], dict[str, StepState]]:
        """Rows and states on disk, visible to nobody."""
        tasks = {attempt.loads.get(id, id) for id in rows}
        ids = [id for id in attempt.sinks if id in tasks]
        states: list[dict[str, StepState]] = []
        staged: dict[str, Staged] = {}

        def stage(id: str) -> None:
            task = attempt.sinks[id]
            if isinstance(task, JoinedTask):
                of_load = {one: rows[one] for one, load in attempt.loads.items() if load == id and one in rows}
                staged[id] = task.stage_joined(epoch, of_load)
            else:
                staged[id] = task.stage(epoch, rows[id])

        jobs: list[Callable[[], None]] = [partial(stage, id) for id in ids]
        self._together([*jobs, lambda: states.append(self._write_states(attempt, epoch))])
        return {id: staged[id] for id in ids}, states[0]

    def _write_states(self, attempt: Attempt, epoch: int) -> dict[str, StepState]:
        changed = attempt.graph.changed_states()
        some = {id: table for id, table in changed.items() if table.num_rows}
        same = {id: state for id, state in attempt.last.states.items() if id not in changed}
        room = self._effects.held_bytes - sum(len(s.place) for s in same.values() if s.place.startswith(HELD))
        written = write_states(self._effects.disk, self.plan.state_folder, epoch, some, room)
        for id, state in written.items():
            now = self._prints[step_name(id)]
            written[id] = state._replace(fingerprint=now.fingerprint, settings=now.settings)
        return {**same, **written}

    def _messages(self, rows: Mapping[str, Sequence[pa.RecordBatch]]) -> dict[str, list[Message]]:
        return {
            target.id: [
                message for batch in rows[target.id] for message in target.part.messages(told(self.plan, batch))
            ]
            for target in self.plan.sinks
            if isinstance(target.part, Channel) and target.id in rows
        }

    def _commit_point(self, attempt: Attempt, checkpoint: Checkpoint, outbox: Mapping[str, Sequence[Message]]) -> None:
        attempt.store.commit(checkpoint, outbox)

    def _acknowledge(self, attempt: Attempt) -> None:
        """Tell each source what is durable now, where it has moved; let go of the splits that were given away."""
        before = attempt.before.offsets if attempt.before is not None else {}
        for task in attempt.sources.values():
            prefix = f"{task.id}/"
            moved = {
                id.removeprefix(prefix): split.offset
                for id, split in attempt.splits.items()
                if id.startswith(prefix) and split.offset is not None and split.offset != before.get(id)
            }
            task.acknowledge(moved)
        for id in attempt.revoked:
            source, _, name = id.partition("/")
            attempt.graph.remove(id)
            del attempt.splits[id]
            attempt.sources[source].release(name)
        attempt.revoked.clear()

    def _publish(self, attempt: Attempt, staged: Mapping[str, Staged]) -> None:
        for id, one in staged.items():
            attempt.sinks[id].commit(one)
            if not self._effects.threads:
                attempt.sinks[id].step()
                attempt.sinks[id].check()

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

    def _deliver(self, attempt: Attempt) -> None:
        for relay in attempt.relays:
            relay.wake()

    def _tidy(self, attempt: Attempt) -> None:
        """Delete the states that no checkpoint needs any more."""
        assert attempt.before is not None
        keep = state_files(attempt.last.states) | state_files(attempt.before.states)
        delete_states(self._effects.disk, self.plan.state_folder, keep)

    def _drain(self, attempt: Attempt) -> None:
        """Wait for the tables to have all that was committed; `SinkError` where one of them is away at the end."""
        has_ended = all(source.finished for source in attempt.sources.values())
        for task in attempt.sinks.values():
            if has_ended or not task.is_whole:
                task.drain(DRAIN_S)
            task.check()
        undelivered = {relay: relay.drain(DRAIN_S) for relay in attempt.relays}
        left = {task.id: task for task in attempt.sinks.values() if task.staged()}
        for task in left.values():
            when = "once the load has ended" if task.is_whole and not has_ended else "after the next start"
            logger.warning("'%s' lacks %d epochs; they are written %s", task.id, len(task.staged()), when)
        if left and not self._stopping:
            task = next(iter(left.values()))
            raise Unwritten(
                f"'{task.id}' lacks {len(task.staged())} epochs: {task.reason}; they wait in {self.plan.state_folder}, "
                "run the pipeline again to write them"
            )
        for relay, count in undelivered.items():
            if count and not self._stopping:
                raise Undelivered(
                    f"'{relay.id}' has not taken {count} messages: {relay.reason}; they wait in the outbox in "
                    f"{self.plan.state_folder}, run the pipeline again to send them"
                )

    def _note_published(self, attempt: Attempt) -> None:
        """Let a last checkpoint say that every table has its rows: the next start may send further ones elsewhere."""
        last = attempt.last
        if any(last.staged.values()) and not any(task.staged() for task in attempt.sinks.values()):
            published = {id: task.published for id, task in attempt.sinks.items() if task.published is not None}
            noted = replace(last, epoch=last.epoch + 1, staged={}, published=published)
            self._commit_point(attempt, noted, {})

    # trouble and signals

    def _wait_after(self, error: Exception) -> None:
        """Wait before the next try; the error itself after too many. A full disk is no failure: space will come."""
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        full |= isinstance(error, sqlite3.OperationalError) and "full" in str(error)
        if not full:
            if self._failures == RETRIES or waiting_is_vain(error):
                if isinstance(error, OSError | sqlite3.Error):
                    raise disk_trouble(error, self.plan.state_folder) from error
                raise error
            self._failures += 1
        wait_s = DISK_FULL_RETRY_S if full else RETRY_AFTER_S[self._failures - 1]
        if not full:
            logger.warning("%s; going back to the last checkpoint in %.1f s", error, wait_s)
        elif self.counters.trouble != DISK_FULL:
            place = getattr(error, "filename", None) or self.plan.state_folder
            logger.warning("no space is left for %s; make room: nothing is lost, and it goes on by itself", place)
        self.counters.trouble = DISK_FULL if full else str(error)
        self.counters.recoveries += 1
        until_s = self._clock.monotonic_s() + wait_s
        while not self._stopping and (left_s := until_s - self._clock.monotonic_s()) > 0:
            self._clock.sleep(min(left_s, 0.1))
