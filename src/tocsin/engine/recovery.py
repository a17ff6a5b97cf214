"""Start and recovery are one path: from whatever a crash left behind to a attempt that goes on exactly there."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tocsin.batch import END
from tocsin.contracts import Channel, Checkpoint, CheckpointStore, Offset, Sink, Source
from tocsin.decode._base import Decoder
from tocsin.ends import ONLY
from tocsin.engine.actions import Actions
from tocsin.engine.checkpoint import SqliteStore, delete_states, read_states, state_files
from tocsin.engine.counters import Counters
from tocsin.engine.fitting import fit, is_set_aside
from tocsin.engine.graph import Chain, Feed, Graph, first_time
from tocsin.engine.ingest_log import SEGMENT_BYTES
from tocsin.engine.outbox import Relay
from tocsin.engine.sink_task import JoinedTask, SinkTask
from tocsin.engine.source_task import SourceTask
from tocsin.errors import ConfigError, SchemaError, StateMismatch
from tocsin.pipeline.plan import Plan, SourceNode
from tocsin.world import Clock, Disk, SystemClock, SystemDisk, World

logger = logging.getLogger(__name__)

ACTIONS_SPLIT = "actions"
HELD_BYTES = 128 * 1024
"""With three tables at 1,000 readings a second an alarm's epoch takes one fsync so, and nine where all have files."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What the runner touches the world with; the simulation brings its own."""

    clock: Clock = field(default_factory=SystemClock)
    disk: Disk = field(default_factory=SystemDisk)
    open_store: Callable[[Path], CheckpointStore] = SqliteStore
    threads: bool = True
    """Whether sources, sinks and relays run beside the loop, and the fsyncs of an epoch beside each other."""
    segment_bytes: int = SEGMENT_BYTES
    """Of the ingest log."""
    held_bytes: int = HELD_BYTES
    """An epoch's rows for a sink, and its states, that take no more are kept in the checkpoint itself."""

    def world(self, plan: Plan, kind: str, id: str) -> World:
        """Returns the world of one end of the plan."""
        return World(self.clock, self.disk, plan.folder, plan.state_folder / kind / id, f"{plan.name}/{id}")


@dataclass(slots=True)
class SplitState:
    """How far the epoch loop is with one split."""

    chain: Chain
    offset: Offset
    last_rows_s: float


@dataclass(slots=True)
class Attempt:
    """Everything in memory between two recoveries; after trouble all of it is dropped."""

    store: CheckpointStore
    graph: Graph
    last: Checkpoint
    sources: dict[str, SourceTask] = field(default_factory=dict)
    sinks: dict[str, SinkTask] = field(default_factory=dict)
    """By sink, or by the id of the load that several are published as."""
    loads: dict[str, str] = field(default_factory=dict)
    """By sink: the load that it is part of."""
    splits: dict[str, SplitState] = field(default_factory=dict)
    """By ``source/split``."""
    revoked: list[str] = field(default_factory=list)
    """Splits to be let go once a checkpoint holds what came of them."""
    relays: list[Relay] = field(default_factory=list)
    actions: SourceTask | None = None
    actions_offset: Offset = None
    before: Checkpoint | None = None
    """The checkpoint before the last: its files are kept, too."""
    refitted: bool = False
    """Whether states were forgotten, set aside or brought back: the next checkpoint must say so, rows or not."""
    news: threading.Event = field(default_factory=threading.Event)
    """Set by the sources' threads when there is something to take."""

    def events(self) -> Counter[tuple[str, str]]:
        """Returns what readers, decoders, writers and channels count: sessions lost, fields unknown, refusals ..."""
        counted: Counter[tuple[str, str]] = Counter()
        parts: list[tuple[str, Mapping[str, int]]] = [(task.id, task.counters()) for task in self.sources.values()]
        parts += [(sink.id, sink.counters()) for sink in self.sinks.values()]
        parts += [(state.chain.id, state.chain.counters()) for state in self.splits.values()]
        parts += [(relay.id, relay.counters()) for relay in self.relays]
        for id, counters in parts:
            for name, count in counters.items():
                counted[id, name] += count
        return counted

    def tasks(self) -> list[SourceTask]:
        """All that is polled, what operators do included."""
        return [*self.sources.values(), *([self.actions] if self.actions is not None else [])]

    def close(self, drain_s: float = 0.0) -> None:
        for source in self.tasks():
            source.close(clean=drain_s > 0)
        for relay in self.relays:
            relay.stop(drain_s)
        for sink in self.sinks.values():
            sink.close()
        self.store.close()


def check_ends(plan: Plan, effects: Effects) -> None:
    """Ask every end whether it can work at all, before anything is opened or written.

    Raises
    ------
    ConfigError
        Names the end, and what it lacks: a certificate that is not there, a path that leaves the data folder.
    """
    ends: list[tuple[str, str, Source | Sink | Channel]] = [
        (origin.id, "ingest", origin.source) for origin in plan.sources
    ]
    ends += [(end.id, "channels" if isinstance(end.part, Channel) else "staged", end.part) for end in plan.sinks]
    for id, kind, part in ends:
        try:
            part.check(effects.world(plan, kind, id))
        except ConfigError as error:
            raise ConfigError(f"{id}: {error}") from error


def check_tables(plan: Plan, effects: Effects) -> None:
    """Ask every sink whether the table that is there takes what the plan would write; a start asks the same.

    Raises
    ------
    SchemaError
        Names the sink and the column.
    """
    for end in plan.sinks:
        if isinstance(end.part, Sink):
            try:
                end.part.fits(effects.world(plan, "staged", end.id), end.schema)
            except SchemaError as error:
                raise SchemaError(f"'{end.id}': {error}") from error


def start(
    plan: Plan, effects: Effects, counters: Counters, feed: Feed | None = None, forget: Collection[str] | str = ()
) -> Attempt:
    """Lock, finish what was committed, load the states, seek the sources. Done twice it is the same as once."""
    check_ends(plan, effects)
    effects.disk.make_folder(plan.state_folder)
    store = effects.open_store(plan.state_folder)
    attempt = Attempt(store, Graph(plan, counters, feed), Checkpoint(0))
    try:
        last = store.last()
        if last is not None:
            attempt.last = _fitted(attempt, plan, last, forget)
        _finish(attempt, plan, effects)
        known = {id: state for id, state in attempt.last.states.items() if not is_set_aside(id)}
        states = read_states(effects.disk, plan.state_folder, known)
        attempt.graph.restore(states, attempt.last.watermarks)
        _seek(attempt, plan, effects)
        keep = state_files(attempt.last.states) | (state_files(last.states) if last is not None else set())
        delete_states(effects.disk, plan.state_folder, keep)
        for target in plan.sinks:
            if isinstance(target.part, Channel):
                attempt.relays.append(Relay(target.id, target.part, store, effects.world(plan, "channels", target.id)))
    except BaseException:
        attempt.close()
        raise
    return attempt


def _fitted(attempt: Attempt, plan: Plan, last: Checkpoint, forget: Collection[str] | str) -> Checkpoint:
    """Returns the last checkpoint as this plan goes on from it; `StateMismatch` where that would forget unasked."""
    fitted = fit(plan, last, forget)
    if (mismatch := fitted.mismatch(plan.state_folder)) is not None:
        raise StateMismatch(mismatch)
    for sentence in fitted.sentences():
        logger.warning("%s: %s", plan.name, sentence)
        attempt.refitted = True
    return fitted.checkpoint


def _finish(attempt: Attempt, plan: Plan, effects: Effects) -> None:
    """Bring each table to the last epoch, and delete what was staged for one that never came to be."""
    last = attempt.last
    tables = plan.tables()
    _open_tables(attempt, plan, effects)
    for id, task in attempt.sinks.items():
        known = last.tables.get(id, None if isinstance(task, JoinedTask) else tables[id])
        since = last.epoch if known != tables[id] else None
        task.recover(last.staged.get(id, ()), last.published.get(id), since)
    for id in last.staged.keys() - attempt.sinks.keys():
        if last.staged[id]:
            logger.warning(
                "'%s' is no longer in the pipeline: %d epochs that were staged for it are not written",
                id, len(last.staged[id]),
            )  # fmt: skip


def _open_tables(attempt: Attempt, plan: Plan, effects: Effects) -> None:
    """Make a task for each sink, and one for all sinks of a load."""
    for id, members in plan.loads().items():
        worlds = {one.id: effects.world(plan, "staged", one.id) for one in members}
        attempt.sinks[id] = JoinedTask(id, members, worlds, is_whole=plan.is_bounded())
        attempt.loads |= {one.id: id for one in members}
    for target in plan.sinks:
        if isinstance(target.part, Sink) and target.id not in attempt.loads:
            world = effects.world(plan, "staged", target.id)
            task = SinkTask(target.id, target.part, target.schema, world, effects.held_bytes)
            attempt.sinks[target.id] = task
        elif attempt.last.staged.get(target.id):
            raise StateMismatch(
                f"'{target.id}' is part of '{attempt.loads[target.id]}' from now on, but rows wait for it alone; undo "
                "the change, run until they are written, then make the change again"
            )


def _seek(attempt: Attempt, plan: Plan, effects: Effects) -> None:
    """Make each source ready to be read on from where the checkpoint is."""
    last = attempt.last
    for origin in plan.sources:
        prefix = f"{origin.id}/"
        names = [id.removeprefix(prefix) for id in last.offsets if id.startswith(prefix)]
        offsets = {name: last.offsets[prefix + name] for name in names}
        ended = {name for name in names if last.watermarks.get(prefix + name) == END}
        if ONLY in ended and not origin.source.bounded():
            raise StateMismatch(
                f"'{origin.id}' was read to its end before, and what was closed there is not opened again, so that it "
                "cannot be followed from now on; to read all anew and follow it, name another folder: in the file"
            )
        attempt.sources[origin.id] = SourceTask(
            origin.id,
            origin.source,
            replace(
                effects.world(plan, "ingest", origin.id),
                first_time=first_time(origin),
                idle_us=origin.idle_timeout_us,
            ),
            offsets,
            ended,
            effects.segment_bytes,
            decoder_ahead(origin),
        )
        for name in ended:
            open_split(attempt, origin, name, offsets[name], effects.clock)
    if any(step.operator.ACCEPTS_ACTIONS for step in plan.steps):
        attempt.actions_offset = last.offsets.get(ACTIONS_SPLIT, 0)
        world = effects.world(plan, "ingest", ACTIONS_SPLIT)
        actions = Actions(state_folder=plan.state_folder)
        attempt.actions = SourceTask(ACTIONS_SPLIT, actions, world, {"0": attempt.actions_offset}, ())


def decoder_ahead(origin: SourceNode) -> Decoder | None:
    """Returns the decoder that the source's task may run."""
    first = next(iter(origin.chain), None)
    return first if isinstance(first, Decoder) and first.may_run_ahead() else None


def open_split(attempt: Attempt, origin: SourceNode, name: str, offset: Offset, clock: Clock) -> None:
    """Let a split take part, unless it does already."""
    if f"{origin.id}/{name}" not in attempt.splits:
        chain = attempt.graph.add(origin, name)
        attempt.splits[chain.id] = SplitState(chain, offset, clock.monotonic_s())
