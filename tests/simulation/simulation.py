"""Crash schedules from seeds, on the real runner, recovery and ingest log; and the mistakes that they must find.

Invariants (RELIABILITY): I1 each offset in one epoch's rows or in quarantine · I2 a table is at the last epoch or one
behind · I3 tables equal those of a run without faults · I4 so do states, bit by bit · I5 delivered ids are those of
the outbox, all of them at the end · I6 no acknowledgement before it is durable · I7 every start ends, and starting
twice is starting once · I8 nothing referenced is deleted · I9 a second engine is refused · I10 cuts and epochs change
nothing · I11 a full disk loses nothing and is survived.
"""

from __future__ import annotations

import functools
import itertools
import logging
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import simulated_parts as parts
from simulated_world import (
    LOAD,
    Mqtt,
    Plant,
    SimulatedBell,
    SmallLoadWriter,
    SmallTable,
    SmallTableWriter,
    Store,
    Topic,
    patched,
)

from tocsin.batch import END, OUT, REJECTED, REJECTED_SCHEMA
from tocsin.contracts import Sink
from tocsin.engine import embedded, waves
from tocsin.engine.checkpoint import read_states
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.graph import Graph
from tocsin.engine.ingest_log import LoggedReader
from tocsin.engine.outbox import Relay
from tocsin.engine.recovery import Attempt, Effects
from tocsin.engine.sink_task import SinkTask
from tocsin.engine.source_task import SourceTask
from tocsin.errors import (
    AlreadyRunning,
    DiskTrouble,
    DurabilityError,
    SourceError,
    StateError,
    TocsinError,
    Undelivered,
    Unwritten,
)
from tocsin.lake.log import Log
from tocsin.output.delta import Delta, DeltaWriter
from tocsin.pipeline.plan import Plan, SinkNode, SourceNode, Step
from tocsin.testing.simulated import Broken, Crash, PowerCut, SimulatedDisk

INPUTS = 12
TABLES = ("sums", "windows", "quarantine")
LAKE, STATE = Path("/lake"), Path("/state")
INGEST = STATE / "ingest" / "mqtt" / "0"


@dataclass(frozen=True)
class Result:
    """What a run leaves behind."""

    tables: Mapping[str, Counter[str]]
    states: Mapping[str, pa.Table]
    alerts: frozenset[str]


@functools.cache
def lines(number: int) -> dict[str, tuple[bytes, ...]]:
    """One of the inputs: two partitions of the topic, and what the broker sends."""
    rows = 15 + 5 * (number % 4)
    return {name: parts.payloads(10 * number + i, rows, [name + "1", name + "2"]) for i, name in enumerate("abm")}


def graph(topic: Any, mqtt: Any, tables: Mapping[str, Sink], bell: Any, checkpoint_us: int, memory_bytes: int) -> Plan:
    """Both sources united: running sums, windows, alerts; rejected rows of both kept."""
    sides = {OUT: parts.ROWS, REJECTED: REJECTED_SCHEMA}
    both = (("topic", OUT), ("mqtt", OUT))
    sources = (("topic", topic), ("mqtt", mqtt))
    return Plan(
        name="simulated",
        sources=tuple(SourceNode(id, source, (parts.Parse(),), sides, 10**15) for id, source in sources),
        steps=(
            Step("sum", parts.Sum(), both, parts.ROWS, {OUT: parts.SUMS}),
            Step("every", parts.Every(), both, parts.ROWS, {OUT: parts.ROWS}),
            Step("odd", parts.Odd(), (("every", OUT),), parts.ROWS, {OUT: parts.ROWS}),
        ),
        sinks=(
            SinkNode("sums", (("sum", OUT),), tables["sums"], parts.SUMS),
            SinkNode("windows", (("every", OUT),), tables["windows"], parts.ROWS),
            SinkNode("quarantine", (("topic", REJECTED), ("mqtt", REJECTED)), tables["quarantine"], REJECTED_SCHEMA),
            SinkNode("bell", (("odd", OUT),), bell, parts.ROWS),
        ),
        streams={},
        folder=LAKE,
        state_folder=STATE,
        checkpoint_us=checkpoint_us,
        memory_bytes=memory_bytes,
        lag_bytes=1 << 30,
    )  # fmt: skip


def last_states(folder: Path) -> Mapping[str, pa.Table]:
    """The states of the newest checkpoint on a real disk, by step."""
    from tocsin.engine.checkpoint import SqliteStore
    from tocsin.world import SystemDisk

    store = SqliteStore(folder)
    last = store.last()
    store.close()
    assert last is not None
    return read_states(SystemDisk(), folder, last.states)


@functools.cache
def oracle(number: int) -> Result:
    """A run of the same input without faults, in one batch and one epoch, over plain tables."""
    given, rung = lines(number), []  # type: ignore[var-annotated]
    kept: dict[str, dict[int, list[dict[str, Any]]]] = {name: {} for name in TABLES}
    with tempfile.TemporaryDirectory() as folder:
        plan = graph(
            parts.Lines(lines={"a": given["a"], "b": given["b"]}, cut=10**6),
            parts.Lines(lines={"0": given["m"]}, cut=10**6),
            {name: parts.Kept.model_construct(table=kept[name]) for name in TABLES},
            parts.Bell.model_construct(rung=rung),
            10**12,
            10**12,
        )
        plan = replace(plan, state_folder=Path(folder))
        EmbeddedRunner(plan).run()
        states = last_states(plan.state_folder)
    tables = {name: Counter(_text(row) for rows in kept[name].values() for row in rows) for name in TABLES}
    return Result(tables, _states(states), frozenset(rung))


def _text(row: Mapping[str, Any]) -> str:
    values = {k: v.decode() if isinstance(v, bytes) else str(v) for k, v in row.items() if k != "position"}
    values["payload"] = values.get("payload", "").removeprefix("b'").removesuffix("'")
    values["time"] = values["time"].replace("+00:00", "").partition(".")[0] + values["time"].partition(".")[2]
    return str(sorted(values.items()))


def _states(states: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    return {id: table.combine_chunks() for id, table in sorted(states.items())}


class Watched(EmbeddedRunner):
    """The runner, with a look at the tables after each recovery (but for those that are away)."""

    def _loop(self, attempt: Attempt) -> None:
        for id, task in attempt.sinks.items():
            staged = attempt.last.staged.get(id, ())
            expected = staged[-1].epoch if staged else attempt.last.published.get(id)
            if task.is_whole and task.published == attempt.last.published.get(id):
                continue  # it waits for its end
            if task.reason is None and task.published != expected:
                raise Broken(f"I2: after recovery {id} is at {task.published}, not {expected}")
        super()._loop(attempt)


def simulate(seed: int, mutant: str = "", tables: str = "") -> None:
    """One schedule; `Broken` with the invariant and the schedule if the run differs from the oracle's."""
    world = Plant(seed, faults=0, mutant=mutant)
    with told(seed, world.trace):
        _simulate(world, seed, tables)


@contextmanager
def told(seed: int, trace: Sequence[str]) -> Iterator[None]:
    """What goes wrong in a schedule is `Broken`, with the seed and all faults that there were."""
    try:
        yield
    except (
        Broken,
        TocsinError,
        OSError,
        sqlite3.Error,
        AssertionError,
        LookupError,
        ValueError,
        pa.ArrowException,
    ) as e:
        text = e if isinstance(e, Broken) else f"{type(e).__name__}: {e}"
        raise Broken(f"seed {seed}: {text}\nschedule: {'; '.join(trace)}") from e


def _simulate(world: Plant, seed: int, tables: str) -> None:
    random = world.random
    number, world.faults = random.randrange(INPUTS), random.choice((1, 2, 3, 5, 8, 13))
    given = lines(number)
    world.broker.lines = given["m"]
    tables = tables or ("delta" if seed % 16 == 0 else {4: "load", 12: "load by load"}.get(seed % 16, "small"))
    load = "load" if tables.startswith("load") else None
    sinks: dict[str, Sink] = {
        name: Delta(path=name, gather=random.choice((0, 10_000, 10_000_000)))
        if tables == "delta"
        else SmallTable(world=world, path=name, load=load)
        for name in TABLES
    }
    plan = graph(
        Topic.model_construct(world=world, lines={"a": given["a"], "b": given["b"]}),
        Mqtt.model_construct(world=world, log=INGEST),
        sinks,
        SimulatedBell.model_construct(world=world),
        random.choice((500, 1_000, 3_000, 20_000)),
        random.choice((300, 3_000, 10**9)),
    )
    effects = Effects(
        world,
        world.disk,
        lambda _: Store(world),
        False,
        random.choice((1, 600, 2_000)),
        random.choice((0, 3_000, 2**20)),
    )
    world.disk.make_folder(STATE)
    # Sources that end make a load whole; for the other kind these are taken as if they went on. One, two or three
    # workers, in each life another number, take each batch, however small.
    with patched(Plan, is_bounded=lambda self: tables == "load"), patched(waves, ROWS_FEW=0):
        for lives in itertools.count():
            if _process(world, replace(plan, workers=1 + (seed + lives) % 3), effects):
                break
    if tables == "load" and len(SmallLoadWriter.published_entries(world.disk, LAKE / LOAD)) != 1:
        raise Broken("I1: a load was published in parts")
    _compare(world, number, tables)


def _process(world: Plant, plan: Plan, effects: Effects) -> bool:
    """One life of the process; whether it came to the end of the input."""
    if not life(world, plan, effects):
        return False
    last = world.records.last()
    ended = last is not None and all(last.watermarks.get(id) == END for id in ("topic/a", "topic/b", "mqtt/0"))
    pending = [i for i in world.records.outbox.get("bell", {}) if ("bell", i) not in world.records.done]
    waits = plan.is_bounded() and last is not None and any(last.staged.values())  # a load, stopped at its very end
    return ended and not pending and not waits


def life(world: Plant, plan: Plan, effects: Effects) -> bool:
    """One life of the process; whether it ended by itself, and well."""
    world.boot()
    runner = Watched(plan, effects)

    def second() -> None:
        """I9: an engine that finds another one running must not start."""
        if not world.records.locked:
            return
        world.on_stop = None
        try:
            Watched(plan, effects).run()
        except AlreadyRunning:
            return
        finally:
            world.on_stop = runner.stop
        raise Broken("I9: a second engine has run beside the first")

    world.on_stop, world.on_second = runner.stop, second
    try:
        runner.run()
    except PowerCut:
        world.disk.power_cut()
        return False
    except Crash:
        return False
    except DurabilityError:
        world.disk.power_cut()  # nobody knows what the system's cache says now: the machine is started anew
        return False
    except DiskTrouble:
        return False  # gave up after some retries: started again by hand
    except StateError:
        raise
    except (OSError, sqlite3.OperationalError, SourceError, Unwritten, Undelivered):
        return False  # gave up after some retries: started again by hand
    return True


def _compare(world: Plant, number: int, tables: str) -> None:
    expected = oracle(number)
    read = _delta_rows if tables == "delta" else SmallLoadWriter.rows if "load" in tables else SmallTable_rows
    for name in TABLES:
        found = Counter(map(_text, read(world.disk, LAKE / name)))
        if found != expected.tables[name]:
            lost, doubled = expected.tables[name] - found, found - expected.tables[name]
            raise Broken(f"I1 I3 I10 I11: {name}: lost {dict(lost)}, doubled or wrong {dict(doubled)}")
    last = world.records.last()
    assert last is not None
    world.faults = 0
    world.boot()
    states = _states(read_states(world.disk, STATE, last.states))
    same = {id for id, table in expected.states.items() if not id.startswith("mqtt/") and table.equals(states.get(id))}
    differ = {id for id in expected.states if id not in same and not id.startswith("mqtt/")}
    if differ or set(states) != set(expected.states):
        raise Broken(f"I4: states differ: {differ or set(states) ^ set(expected.states)}")
    if set(world.delivered) != expected.alerts:
        missing, invented = expected.alerts - set(world.delivered), set(world.delivered) - expected.alerts
        raise Broken(f"I5: alerts missing {missing}, invented {invented}")
    if last.offsets["topic/a"] != len(lines(number)["a"]) or last.offsets["topic/b"] != len(lines(number)["b"]):
        raise Broken("I1: the sources were not read to their end")


SmallTable_rows = SmallTableWriter.rows


def _delta_rows(disk: SimulatedDisk, folder: Path) -> Any:
    """A Delta table read from its log by hand, without the code that wrote it."""
    import json

    live: dict[str, None] = {}
    log = disk.folders[folder / "_delta_log"]
    for name in sorted(name for name in log if name.endswith(".json")):
        for line in log[name].data.splitlines():
            action = json.loads(line)
            if "add" in action:
                live[action["add"]["path"]] = None
            if "remove" in action:
                live.pop(action["remove"]["path"], None)
    for path in live:
        yield from pq.read_table(pa.BufferReader(disk.folders[folder][path].data)).to_pylist()


# The planted mistakes: tests of the tests


def _no_sync(suffix: str) -> AbstractContextManager[None]:
    real = SimulatedDisk.sync

    def sync(self: SimulatedDisk, path: Path) -> None:
        if not str(path).endswith(suffix):
            real(self, path)

    return patched(SimulatedDisk, sync=sync)


def _no_folder_sync() -> AbstractContextManager[None]:
    return patched(SimulatedDisk, sync_folder=lambda self, path: None)


def _log_acked_before_sync() -> AbstractContextManager[None]:
    real = LoggedReader.settle

    def settle(self: LoggedReader) -> None:
        if self._log.durable < self._log.seq and self._inner is not None:
            self._inner.acknowledge(self._offset)
        real(self)

    return patched(LoggedReader, settle=settle)


def _acknowledged_before_commit() -> AbstractContextManager[None]:
    real = EmbeddedRunner._commit_point

    def commit_point(self: EmbeddedRunner, attempt: Attempt, checkpoint: Any, outbox: Any) -> None:
        for source in attempt.sources.values():
            for name, one in source._open.items():
                if one.offset is not None:
                    source.acknowledge({name: one.offset})
        real(self, attempt, checkpoint, outbox)

    return patched(EmbeddedRunner, _commit_point=commit_point)


def _sinks_before_checkpoint() -> AbstractContextManager[None]:
    real = EmbeddedRunner._commit_point

    def commit_point(self: EmbeddedRunner, attempt: Attempt, checkpoint: Any, outbox: Any) -> None:
        for id, waiting in checkpoint.staged.items():
            if waiting:
                task = attempt.sinks[id]
                task._writer.publish(checkpoint.epoch, [one.token for one in task._handed_over(waiting)])
        real(self, attempt, checkpoint, outbox)

    return patched(EmbeddedRunner, _commit_point=commit_point)


def _offsets_before_state() -> AbstractContextManager[None]:
    real = EmbeddedRunner._commit_point

    def commit_point(self: EmbeddedRunner, attempt: Attempt, checkpoint: Any, outbox: Any) -> None:
        if attempt.last.epoch:
            attempt.store.commit(replace(attempt.last, offsets=checkpoint.offsets), {})
        real(self, attempt, checkpoint, outbox)

    return patched(EmbeddedRunner, _commit_point=commit_point)


def _outbox_outside() -> AbstractContextManager[None]:
    real = EmbeddedRunner._commit_point

    def commit_point(self: EmbeddedRunner, attempt: Attempt, checkpoint: Any, outbox: Any) -> None:
        real(self, attempt, checkpoint, {})
        real(self, attempt, checkpoint, outbox)

    return patched(EmbeddedRunner, _commit_point=commit_point)


def _log_forgotten_too_early() -> AbstractContextManager[None]:
    real = LoggedReader.settle

    def settle(self: LoggedReader) -> None:
        real(self)
        self._log.forget(self._log.durable)

    return patched(LoggedReader, settle=settle)


def _marked_before_delivery() -> AbstractContextManager[None]:
    real = Relay.round

    def round(self: Relay) -> bool:
        store, messages = self._store, self._store.pending(self.id, 100)
        if messages:
            store.delivered(self.id, [m.id for m in messages])
            if self.delivery is None:
                self.delivery = self._channel.open(self._world)
            self.delivery.deliver(messages)
        return bool(messages) and real(self)

    return patched(Relay, round=round)


def _old_states_deleted_early() -> AbstractContextManager[None]:
    real = EmbeddedRunner._write_states

    def write_states(self: EmbeddedRunner, attempt: Attempt, epoch: int) -> Any:
        embedded.delete_states(self._effects.disk, self.plan.state_folder, ())
        return real(self, attempt, epoch)

    return patched(EmbeddedRunner, _write_states=write_states)


def _log_tail_not_synced() -> AbstractContextManager[None]:
    from tocsin.engine.ingest_log import IngestLog

    real = IngestLog.__init__

    def init(self: Any, *given: Any) -> None:
        with patched(SimulatedDisk, sync=lambda *_: None, sync_folder=lambda *_: None):
            real(self, *given)

    return patched(IngestLog, __init__=init)


def _lagging_epochs_forgotten() -> AbstractContextManager[None]:
    """A checkpoint holds only what the last epoch staged."""
    return patched(SinkTask, staged=lambda self: ())


def _table_not_asked_again() -> AbstractContextManager[None]:
    """After a failure it goes on as if nothing had been published."""
    real = SinkTask._failed

    def failed(self: SinkTask, error: Exception) -> None:
        real(self, error)
        self._verified = True

    def publish(self: SmallTableWriter, epoch: int, tokens: Any) -> None:
        with patched(SmallTableWriter, _epoch=lambda _: None):
            published(self, epoch, tokens)

    published = SmallTableWriter.publish
    stack = ExitStack()
    stack.enter_context(patched(SinkTask, _failed=failed))
    stack.enter_context(patched(SmallTableWriter, publish=publish))
    return stack


def _reopened_too_far() -> AbstractContextManager[None]:
    """A source that was away is read on after a row that never came."""
    real = SourceTask._away

    def away(self: SourceTask, error: Any) -> None:
        for name, offset in self._offsets.items():
            if isinstance(offset, int):
                self._offsets[name] = offset + 1
        real(self, error)

    return patched(SourceTask, _away=away)


def _epoch_before_the_steps_are_done() -> AbstractContextManager[None]:
    """A checkpoint does not wait for the batches that are on their way through the steps."""
    return patched(Graph, settle=lambda self: False)


MUTANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "epoch before the steps are done": _epoch_before_the_steps_are_done,
    "log entry not fsynced": lambda: _no_sync(".tmp"),
    "data files not fsynced": lambda: _no_sync(".json"),
    "state file not fsynced": lambda: _no_sync(".state"),
    "no folder fsync": _no_folder_sync,
    "tail not fsynced on recovery": nullcontext,
    "no transaction check": nullcontext,
    "no lock": nullcontext,
    "epochs of a lagging table forgotten": _lagging_epochs_forgotten,
    "table not asked after an unknown outcome": _table_not_asked_again,
    "source opened again too far on": _reopened_too_far,
    "acknowledged before the commit point": _acknowledged_before_commit,
    "ingest log acknowledged before its fsync": _log_acked_before_sync,
    "ingest log's tail not fsynced when opened": _log_tail_not_synced,
    "ingest log forgotten too early": _log_forgotten_too_early,
    "sinks committed before the checkpoint": _sinks_before_checkpoint,
    "offsets saved before the states": _offsets_before_state,
    "outbox outside of the transaction": _outbox_outside,
    "message marked before it is delivered": _marked_before_delivery,
    "old states deleted before the commit point": _old_states_deleted_early,
}


def _delta_trusts_its_tail() -> AbstractContextManager[None]:
    return patched(Log, sync_tail=lambda self: None)


def _gathered_files_deleted_early() -> AbstractContextManager[None]:
    """What was gathered is deleted before the file that holds it all is in the log."""
    real = DeltaWriter._together

    def together(self: DeltaWriter, staged: Any) -> Any:
        adds = real(self, staged)
        for add in staged:
            if add not in adds:
                self._disk.unlink(self.log.folder / add["path"])
        return adds

    return patched(DeltaWriter, _together=together)


def _one_epoch_left_out() -> AbstractContextManager[None]:
    """Of what was gathered the first epoch is forgotten."""
    real = DeltaWriter._together
    return patched(DeltaWriter, _together=lambda self, staged: real(self, staged[1:] if len(staged) > 2 else staged))


DELTA_MUTANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "Delta: log entry not fsynced": lambda: _no_sync(".tmp"),
    "Delta: data files not fsynced": lambda: _no_sync(".parquet"),
    "Delta: no folder fsync": _no_folder_sync,
    "Delta: tail not fsynced on recovery": _delta_trusts_its_tail,
    "Delta: sinks committed before the checkpoint": _sinks_before_checkpoint,
    "Delta: what was gathered deleted too early": _gathered_files_deleted_early,
    "Delta: an epoch left out of what was gathered": _one_epoch_left_out,
}


def _load_published_early() -> AbstractContextManager[None]:
    """What has been staged is published although more is to come."""
    return patched(SinkTask, _is_held=lambda self: False)


def _load_published_when_stopped() -> AbstractContextManager[None]:
    """A clean stop in the middle publishes what there is."""
    real = SinkTask.close

    def close(self: SinkTask) -> None:
        if self.is_whole and self._reason is None and self._failure is None and self._waiting:
            self._draining = True
            self.step()
        real(self)

    return patched(SinkTask, close=close)


LOAD_MUTANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "Load: published before its end": _load_published_early,
    "Load: published when it is stopped": _load_published_when_stopped,
    "Load: waiting epochs forgotten": _lagging_epochs_forgotten,
    "Load: sinks committed before the checkpoint": _sinks_before_checkpoint,
}


def caught(mutant: str, seeds: range) -> int | None:
    """The first seed that finds a planted mistake; None if none does."""
    tables = "delta" if mutant in DELTA_MUTANTS else "load" if mutant in LOAD_MUTANTS else "small"
    with (MUTANTS | DELTA_MUTANTS | LOAD_MUTANTS)[mutant]():
        for seed in seeds:
            try:
                simulate(seed, mutant, tables)
            except Broken:
                return seed
    return None


def quiet() -> None:
    """The runner's warnings about simulated trouble are no news."""
    logging.getLogger("tocsin").setLevel(logging.ERROR)
