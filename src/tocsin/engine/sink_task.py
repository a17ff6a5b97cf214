"""One sink beside the epoch loop: what is committed waits here until its table has it, however long that takes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

from tocsin.batch import ipc_stream
from tocsin.contracts import JoinedWriter, Sink, Staged, Token, Writer
from tocsin.errors import (
    DurabilityError,
    ForeignCommit,
    SchemaError,
    SinkError,
    StateMismatch,
    Unavailable,
    Unwritten,
)
from tocsin.pipeline.plan import SinkNode
from tocsin.world import World

logger = logging.getLogger(__name__)

EPOCHS_MAX = 100
"""So many epochs are published at once, when a sink that was away catches up."""
GATHERED_BYTES = 16 << 20
"""What waits to be published together is published when it is so much."""
AT_ONCE = 4
"""So many epochs are published at once all the same, after a quiet time: an alarm does not wait for others."""
HOUSEKEEPING_EPOCHS = 16
"""After so many a table keeps house."""
HELD_S = 3_600.0
"""So long a load waits for its end before it is looked at again."""
BACKOFF_S = (0.05, 30.0)
"""Least and greatest time between two tries; it doubles after each."""


class SinkTask:
    """Publishes one sink's epochs in order, in a thread of its own or, without threads, when `step` is called.

    A failure is this sink's alone: it is told in `reason`, and tried again for ever, after opening the writer anew and
    asking the table itself how far it has come. Only what makes all durable writing doubtful (a failed fsync), a table
    that somebody else has changed, and a defect end the engine: `check` raises it in the epoch loop.
    """

    def __init__(self, id: str, sink: Sink, schema: pa.Schema, world: World, held_bytes: int = 0) -> None:
        self.id = id
        self._sink, self._schema, self._world, self._held_bytes = sink, schema, world, held_bytes
        try:
            self._writer: Writer = self._opened()
        except SchemaError as error:
            raise SchemaError(f"'{id}': {error}") from error
        self._staging = threading.Lock()
        self._news = threading.Condition()
        self._waiting: list[Staged] = []
        """Committed and not published, oldest first; changed under the lock only."""
        self._bytes = 0
        """Of those that wait."""
        self._published: int | None = None
        self._moved_at: int | None = None
        self._verified = False
        """Whether the table's own position is known since the writer was opened."""
        self._failure: Exception | None = None
        self._reason: str | None = None
        self._refusal: SinkError | None = None
        self._retry_s = 0.0
        self._backoff_s = 0.0
        self._since_housekeeping = 0
        self.is_whole = False
        """Whether nothing is published before the sources have ended, and then all at once."""
        self._gathers_s = sink.gathers_s()
        self._credits, self._credited_s = float(AT_ONCE), world.clock.monotonic_s()
        """How many publications it may make now; one more comes each ``_gathers_s``."""
        self._draining = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    # the epoch loop's side

    def recover(self, staged: Sequence[Staged], published: int | None, moved_at: int | None = None) -> None:
        """Take over what the last checkpoint left, publish it if the table can be reached, and tidy up behind it.

        ``published`` is the epoch that the table had reached when the checkpoint was written. ``moved_at`` is the
        checkpoint's epoch where the settings may have named another table then: whatever is in this one, the rows of
        later epochs go there.
        """
        self._waiting, self._published, self._moved_at = list(staged), published, moved_at
        tokens = [one.token for one in staged if not one.rows]
        try:
            self._settle()
            while self._waiting and not self.is_whole:
                self._publish()
            self._writer.discard(tokens)
        except Unavailable as error:
            self._failed(error)

    def start(self) -> None:
        """Publish in a thread from now on."""
        self._thread = threading.Thread(target=self._run, name=f"sink {self.id}", daemon=True)
        self._thread.start()

    def stage(self, epoch: int, rows: Sequence[pa.RecordBatch]) -> Staged:
        """Make an epoch's rows durable, or leave that to the checkpoint; they are published only after `commit`.

        The checkpoint holds few rows: an alarm waits for one fsync then, and the sink gets the rows of many epochs at
        once. Where the sink lags behind it is the sink that stages them, for the checkpoints are kept in memory.
        """
        size = sum(int(batch.nbytes) for batch in rows)
        keeps_up = self._reason is None and len(self._waiting) < EPOCHS_MAX
        if keeps_up and size <= self._held_bytes and len({batch.schema for batch in rows}) == 1:
            return Staged(epoch, {}, size, ipc_stream(rows))
        with self._staging:
            writer = self._writer  # the thread may put another one in its place, which finds what this one staged
            return Staged(epoch, writer.stage(epoch, rows), size)

    def commit(self, staged: Staged) -> None:
        """The epoch is committed: its rows are to be published."""
        with self._news:
            self._waiting.append(staged)
            self._bytes += staged.bytes
            self._news.notify()

    def check(self, *, patient: bool = True) -> None:
        """Raises what has broken the task for good; without patience also a refusal that waiting may not mend."""
        if self._failure is not None:
            raise self._failure
        if not patient and self._refusal is not None:
            raise self._refusal
        if not patient and self.is_whole:
            raise Unwritten(
                f"'{self.id}' waits for its end, and is larger than the pipeline's lag allows; set lag: to more than "
                "the whole load takes on disk, and run it again: it goes on from here"
            )

    def staged(self) -> Sequence[Staged]:
        """Returns what is committed and not known to be published, oldest first."""
        with self._news:
            return tuple(self._waiting)

    @property
    def published(self) -> int | None:
        """The epoch that the table is known to have reached."""
        return self._published

    @property
    def bytes(self) -> int:
        """About how much of the disk the waiting epochs take; the loop asks at every turn."""
        return self._bytes

    def snapshot(self) -> dict[str, Any]:
        """Returns how far the sink lags behind, and why (null where it does not), as JSON."""
        with self._news:
            late = self._reason is not None or len(self._waiting) > EPOCHS_MAX or self._due_in_s() <= 0
            waiting, size = (len(self._waiting), self._bytes) if late else (0, 0)
            return {"lag_epochs": waiting, "lag_bytes": size, "reason": self._reason}

    @property
    def reason(self) -> str | None:
        """Why nothing is published right now."""
        return self._reason

    def counters(self) -> dict[str, int]:
        return dict(self._writer.counters())

    def drain(self, timeout_s: float) -> None:
        """Wait until all is published, or until the sink has been failing for so long; nothing more is gathered."""
        clock = self._world.clock
        with self._news:
            self._draining = True
            self._news.notify()
        until_s = clock.monotonic_s() + timeout_s
        while self._failure is None and (self._waiting or self._reason):
            if self._reason is None:
                until_s = clock.monotonic_s() + timeout_s
            elif clock.monotonic_s() >= until_s or not self._waiting:
                return
            if self._thread is None:
                self.step()
            clock.sleep(0.001)

    def close(self) -> None:
        with self._news:
            self._stopping = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join(5.0)
        if self._thread is None or not self._thread.is_alive():
            self._writer.close()

    # the task's side

    def step(self) -> bool:
        """Publish what waits, unless it is too early after a failure. Returns whether anything was published."""
        if self._failure is not None or not self._waiting or self._world.clock.monotonic_s() < self._retry_s:
            return False
        if self._due_in_s() > 0:
            return False
        try:
            if not self._verified:
                self._reopen()
            if self._waiting:
                self._publish()
            self._housekeep()
        except (DurabilityError, ForeignCommit) as error:
            self._failure = error
            return False
        except (OSError, SinkError) as error:
            self._failed(error)
            return False
        self._reason, self._refusal, self._backoff_s = None, None, 0.0
        return True

    def _run(self) -> None:
        while True:
            with self._news:
                if not self._waiting or self._failure is not None or self._is_held():
                    if self._stopping:
                        return
                    self._news.wait()
                    continue
                if self._stopping and self._reason is not None:
                    return
                left_s = max(self._retry_s - self._world.clock.monotonic_s(), self._due_in_s())
                if left_s > 0:
                    self._news.wait(left_s)
                    continue
            try:
                self.step()
            except Exception as error:  # a defect of the sink: the epoch loop raises it, see `check`
                self._failure = error

    def _is_held(self) -> bool:
        return self.is_whole and not self._draining

    def _due_in_s(self) -> float:
        """Returns how long what waits may go on gathering; 0 or less: it is to be published now."""
        if self._is_held():
            return HELD_S
        if not self._gathers_s or self._draining or self._stopping:
            return 0.0
        if self._bytes >= GATHERED_BYTES or len(self._waiting) >= EPOCHS_MAX:
            return 0.0
        now_s = self._world.clock.monotonic_s()
        self._credits = min(self._credits + (now_s - self._credited_s) / self._gathers_s, AT_ONCE)
        self._credited_s = now_s
        return (1.0 - self._credits) * self._gathers_s

    def _reopen(self) -> None:
        """Open the writer anew, and go on from where the table itself stands."""
        self._writer.close()
        self._writer = self._opened()
        self._settle()

    def _opened(self) -> Writer:
        return self._sink.open(self._world, self._schema)

    def _settle(self) -> None:
        """Ask the table how far it has come, and drop what it has already."""
        stands = self._writer.published()
        epochs = [one.epoch for one in self._waiting]
        fits = stands == self._published or stands in epochs
        if not fits and self._moved_at is not None and (stands is None or stands <= self._moved_at):
            if epochs:
                raise StateMismatch(
                    f"'{self.id}' goes to another table from now on, but rows of {len(epochs)} epochs still wait for "
                    "the one before; undo the change, run until they are written, then make the change again"
                )
            fits, self._published = True, stands
        self._moved_at = None
        if not fits:
            raise ForeignCommit(
                f"the table of '{self.id}' stands at epoch {stands}, the checkpoint expects {self._published}"
                f"{f' or {epochs[0]} to {epochs[-1]}' if epochs else ''}: one of the two was restored or removed, or "
                "another engine writes the table; restore both from the same time, or give the pipeline another name"
            )
        self._verified = True
        self._reach(stands)

    def _publish(self) -> None:
        some = self._waiting if self.is_whole else self._waiting[:EPOCHS_MAX]
        self._credits = max(self._credits - 1.0, 0.0)
        self._verified = False  # until it has come back, nobody knows what the table has
        self._writer.publish(some[-1].epoch, [one.token for one in self._handed_over(some)])
        self._verified = True
        self._since_housekeeping += len(some)
        self._reach(some[-1].epoch)

    def _handed_over(self, some: Sequence[Staged]) -> Sequence[Staged]:
        """Let the writer stage what the checkpoint holds; returns all that waits as it staged it."""
        staged: list[Staged] = []
        for schema, epochs in groupby(((one, *_held(one)) for one in some), lambda held: held[1]):
            run = list(epochs)
            if schema is None:
                staged += [one for one, *_ in run]
                continue
            for together in ([held] for held in run) if self._sink.NAMES_EPOCHS else (run,):
                epoch = together[-1][0].epoch
                token = self._staged_now(epoch, schema, [batch for _, _, rows in together for batch in rows])
                staged.append(Staged(epoch, token, sum(one.bytes for one, *_ in together)))
        with self._news:
            self._waiting[: len(some)] = staged  # it is not handed over again, however often publishing fails
        return staged

    def _staged_now(self, epoch: int, schema: pa.Schema, rows: Sequence[pa.RecordBatch]) -> Token:
        with self._staging:
            if schema.names == self._schema.names:
                return self._writer.stage(epoch, rows)
            before = self._sink.open(self._world, schema)  # the pipeline was changed since
            try:
                return before.stage(epoch, rows)
            finally:
                before.close()

    def _reach(self, epoch: int | None) -> None:
        with self._news:
            self._published = epoch
            if epoch is not None:
                self._waiting = [one for one in self._waiting if one.epoch > epoch]
            self._bytes = sum(one.bytes for one in self._waiting)

    def _housekeep(self) -> None:
        if self._since_housekeeping >= HOUSEKEEPING_EPOCHS:
            self._since_housekeeping = 0
            self._writer.housekeep()

    def _failed(self, error: Exception) -> None:
        self._verified = False  # also after housekeeping: the writer may not be where its table is
        self._backoff_s = min(max(2 * self._backoff_s, BACKOFF_S[0]), BACKOFF_S[1])
        wait_s = max(self._backoff_s, error.retry_after_s if isinstance(error, Unavailable) else 0.0)
        self._retry_s = self._world.clock.monotonic_s() + wait_s
        if self._reason != str(error):
            logger.warning("%s: %s; its rows wait on disk, the others go on", self.id, error)
        self._reason = str(error)
        self._refusal = error if isinstance(error, SinkError) and not isinstance(error, Unavailable) else None


class JoinedTask(SinkTask):
    """Publishes several sinks as one: each transaction holds the rows of all of them, or it does not come to be."""

    def __init__(self, id: str, members: Sequence[SinkNode], worlds: Mapping[str, World], *, is_whole: bool) -> None:
        self._members = {one.id: (_sink(one), worlds[one.id], one.schema) for one in members}
        first = members[0]
        super().__init__(id, _sink(first), first.schema, worlds[first.id])
        self.is_whole = is_whole

    def stage_joined(self, epoch: int, rows: Mapping[str, Sequence[pa.RecordBatch]]) -> Staged:
        """Make an epoch's rows of some of the sinks durable, by their ids."""
        writer: Any = self._writer
        token: Token = writer.stage(epoch, rows)
        return Staged(epoch, token, sum(int(batch.nbytes) for some in rows.values() for batch in some))

    def _opened(self) -> Any:
        writer: JoinedWriter = self._sink.open_joined(self._members)
        return writer


def _sink(node: SinkNode) -> Sink:
    assert isinstance(node.part, Sink)
    return node.part


def _held(one: Staged) -> tuple[pa.Schema | None, Sequence[pa.RecordBatch]]:
    """Returns the rows that the checkpoint holds, with their schema; None where the sink has staged them itself."""
    if not one.rows:
        return None, ()
    stream = pa.ipc.open_stream(one.rows)
    return stream.schema, list(stream)
