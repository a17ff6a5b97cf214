"""Start and recovery are one path: from whatever a crash left behind to a session that goes on exactly there."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tocsin.batch import END
from tocsin.contracts import Channel, Checkpoint, CheckpointStore, Offset, Reader, Sink, Writer
from tocsin.engine.actions import ActionLog
from tocsin.engine.checkpoint import SqliteStore, delete_states, read_states, state_files
from tocsin.engine.counters import Counters
from tocsin.engine.fitting import fit, is_set_aside
from tocsin.engine.graph import Chain, Feed, Graph
from tocsin.engine.ingest_log import SEGMENT_BYTES, IngestLog, LoggedReader
from tocsin.engine.outbox import Courier
from tocsin.errors import ForeignCommit, StateMismatch
from tocsin.pipeline.plan import Inlet, Plan
from tocsin.world import Clock, Disk, SystemClock, SystemDisk

logger = logging.getLogger(__name__)

ACTIONS_PARTITION = "actions"


@dataclass(frozen=True, slots=True)
class Effects:
    """What the runner touches the world with; the simulation brings its own."""

    clock: Clock = field(default_factory=SystemClock)
    disk: Disk = field(default_factory=SystemDisk)
    open_store: Callable[[Path], CheckpointStore] = SqliteStore
    threads: bool = True
    """Whether couriers run beside the loop, and the fsyncs of an epoch beside each other."""
    segment_bytes: int = SEGMENT_BYTES
    """Of the ingest log."""


@dataclass(slots=True)
class Intake:
    """One partition being read."""

    chain: Chain
    reader: Reader
    offset: Offset
    last_rows_s: float
    ended: bool = False


@dataclass(slots=True)
class Session:
    """Everything in memory between two recoveries; after trouble all of it is dropped."""

    store: CheckpointStore
    graph: Graph
    last: Checkpoint
    writers: dict[str, Writer] = field(default_factory=dict)
    intakes: list[Intake] = field(default_factory=list)
    couriers: list[Courier] = field(default_factory=list)
    actions: ActionLog | None = None
    before: Checkpoint | None = None
    """The checkpoint before the last: its files are kept, too."""
    refitted: bool = False
    """Whether states were forgotten, set aside or brought back: the next checkpoint must say so, rows or not."""

    def events(self) -> Counter[tuple[str, str]]:
        """What readers, decoders and channels count themselves: sessions lost, fields unknown, messages refused ..."""
        parts: list[tuple[str, Any]] = [(i.chain.id, i.reader) for i in self.intakes]
        parts += [(i.chain.id, node.state) for i in self.intakes for node in i.chain.nodes]
        parts += [(courier.id, courier.delivery) for courier in self.couriers]
        found: Counter[tuple[str, str]] = Counter()
        for id, part in parts:
            for name, count in getattr(part, "events", dict)().items():
                found[id, name] += count
        return found

    def close(self, drain_s: float = 0.0) -> None:
        for intake in self.intakes:
            intake.reader.close()
        for courier in self.couriers:
            courier.stop(drain_s)
        for writer in self.writers.values():
            writer.close()
        if self.actions is not None:
            self.actions.close()
        self.store.close()


def start(
    plan: Plan, effects: Effects, counters: Counters, feed: Feed | None = None, forget: Collection[str] | str = ()
) -> Session:
    """Lock, finish the last epoch, load the states, seek the sources. Done twice it is the same as once."""
    effects.disk.make_folder(plan.state_folder)
    store = effects.open_store(plan.state_folder)
    session = Session(store, Graph(plan, counters, feed), Checkpoint(0, plan.fingerprint))
    try:
        last = store.last()
        if last is not None:
            session.last = _fitted(session, plan, last, forget)
        _finish(session, plan, effects.disk)
        _seek(session, plan, effects)
        known = {id: state for id, state in session.last.states.items() if not is_set_aside(id)}
        states = read_states(effects.disk, plan.state_folder, known)
        session.graph.restore(states, session.last.watermarks)
        for intake in session.intakes:
            intake.ended = intake.chain.watermark_us == END
        keep = state_files(session.last.states) | (state_files(last.states) if last is not None else set())
        delete_states(effects.disk, plan.state_folder, keep)
        for outlet in plan.outlets:
            if isinstance(outlet.part, Channel):
                session.couriers.append(Courier(outlet.id, outlet.part, store, plan.folder))
    except BaseException:
        session.close()
        raise
    return session


def _fitted(session: Session, plan: Plan, last: Checkpoint, forget: Collection[str] | str) -> Checkpoint:
    """Returns the last checkpoint as this plan goes on from it; `StateMismatch` where that would forget unasked."""
    fitted = fit(plan, last, forget)
    if (mismatch := fitted.mismatch(plan.state_folder)) is not None:
        raise StateMismatch(mismatch)
    for sentence in fitted.sentences():
        logger.warning("%s: %s", plan.name, sentence)
        session.refitted = True
    return fitted.checkpoint


def _finish(session: Session, plan: Plan, disk: Disk) -> None:
    """Bring each table to the last epoch, and delete what was staged for one that never came to be."""
    last = session.last
    for outlet in plan.outlets:
        if not isinstance(outlet.part, Sink):
            continue
        writer = outlet.part.open(f"{plan.name}/{outlet.id}", outlet.schema, plan.folder, disk)
        session.writers[outlet.id] = writer
        tokens = last.tokens.get(outlet.id, ())
        before = last.tables.get(outlet.id)
        found = writer.committed()
        if found != before and not (tokens and found == last.epoch):
            raise ForeignCommit(
                f"the table of '{outlet.id}' stands at epoch {found}, the state in {plan.state_folder} expects {before}"
                f"{f' or {last.epoch}' if tokens else ''}: one of the two was restored or removed, or another engine "
                "writes the table; restore both from the same time, or give the pipeline another name"
            )
        if tokens and found != last.epoch:
            writer.commit(last.epoch, tokens)
        writer.discard(tokens)


def _seek(session: Session, plan: Plan, effects: Effects) -> None:
    now_s = effects.clock.monotonic_s()
    for inlet in plan.inlets:
        for partition in inlet.source.partitions():
            chain = session.graph.add(inlet, partition)
            offset = session.last.offsets.get(chain.id)
            reader = _open(inlet, partition, offset, plan, effects)
            session.intakes.append(Intake(chain, reader, offset, now_s))
    if any(step.operator.ACCEPTS_ACTIONS for step in plan.steps):
        session.actions = ActionLog(plan.state_folder, session.last.offsets.get(ACTIONS_PARTITION, 0))


def _open(inlet: Inlet, partition: str, offset: Offset, plan: Plan, effects: Effects) -> Reader:
    if inlet.source.REPLAYABLE:
        return inlet.source.open(partition, offset)
    name = re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):x}_", partition)
    log = IngestLog(plan.state_folder / "ingest" / inlet.id / name, effects.disk, effects.segment_bytes)
    return LoggedReader(log, inlet.source, partition, offset, effects.clock)


def table_epochs(last: Checkpoint) -> Mapping[str, int]:
    """The last epoch that each table holds rows of, once the last checkpoint's have been made visible."""
    return {**last.tables, **{id: last.epoch for id, tokens in last.tokens.items() if tokens}}
