"""Schedules with shards that split and merge, senders that push, and a sink whose transaction is the other side's.

What is looked at is only what has come out: every line of the stream and of every sender that was answered with
success stands in the database once, in a sum that depends on the order of its key's lines.
"""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import simulated_parts as parts
import simulation
from simulated_wires import DatabaseTable, Pushed, Senders, SimulatedStream, Stream, Wires
from simulated_world import Store, patched

from tocsin.batch import END, OUT, REJECTED, REJECTED_SCHEMA
from tocsin.contracts import Sink, Source
from tocsin.engine.checkpoint import read_states
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.recovery import Effects
from tocsin.engine.source_task import SourceTask
from tocsin.pipeline.plan import Plan, SinkNode, SourceNode, Step
from tocsin.testing.simulated import Broken

INPUTS = 8
TABLES = ("sums", "windows", "quarantine")
STEPS = ("sum",)
KEYS = ("a1", "a2", "b1", "b2")


def graph(stream: Source, pushed: Source, tables: Mapping[str, Sink], checkpoint_us: int, memory_bytes: int) -> Plan:
    """Running sums of all, windows of the stream, and what is rejected of both."""
    sides = {OUT: parts.ROWS, REJECTED: REJECTED_SCHEMA}
    both = (("stream", OUT), ("pushed", OUT))
    refused = (("stream", REJECTED), ("pushed", REJECTED))
    return Plan(
        name="simulated",
        sources=tuple(
            SourceNode(id, source, (parts.Parse(),), sides, 10**15)
            for id, source in (("stream", stream), ("pushed", pushed))
        ),
        steps=(
            Step("sum", parts.Sum(), both, parts.ROWS, {OUT: parts.SUMS}),
            Step("every", parts.Every(), both[:1], parts.ROWS, {OUT: parts.ROWS}),
        ),
        sinks=(
            SinkNode("sums", (("sum", OUT),), tables["sums"], parts.SUMS),
            SinkNode("windows", (("every", OUT),), tables["windows"], parts.ROWS),
            SinkNode("quarantine", refused, tables["quarantine"], REJECTED_SCHEMA),
        ),
        streams={},
        folder=simulation.LAKE,
        state_folder=simulation.STATE,
        checkpoint_us=checkpoint_us,
        memory_bytes=memory_bytes,
        lag_bytes=1 << 30,
    )


@functools.cache
def streamed(number: int) -> tuple[bytes, ...]:
    """What is written to the stream: lines of four keys, the later ones further on in time."""
    rows = 12 + 4 * (number % 4)
    both = [parts.payloads(10 * number + i, rows, KEYS[2 * i : 2 * i + 2]) for i in range(2)]
    return tuple(line for line in chain.from_iterable(zip_longest(*both)) if line)


@functools.cache
def posts(number: int) -> dict[str, list[tuple[bytes, ...]]]:
    """What two senders push: lines of a key of their own, up to three in a post."""
    lines = {name: parts.payloads(10 * number + i, 14, [name]) for i, name in enumerate(("m1", "m2"), 5)}
    return {name: [some[at : at + 1 + at % 3] for at in _steps(len(some))] for name, some in lines.items()}


def _steps(count: int) -> Sequence[int]:
    at, begins = 0, []
    while at < count:
        begins.append(at)
        at += 1 + at % 3
    return begins


@functools.cache
def oracle(number: int) -> tuple[dict[str, Counter[str]], dict[str, pa.Table]]:
    """Tables and states of a run without faults, over plain lists."""
    kept: dict[str, dict[int, list[dict[str, Any]]]] = {name: {} for name in TABLES}
    pushed = {name: tuple(chain.from_iterable(some)) for name, some in posts(number).items()}
    with tempfile.TemporaryDirectory() as folder:
        plan = graph(
            parts.Lines(lines={"0": streamed(number)}, cut=10**6),
            parts.Lines(lines=pushed, cut=10**6),
            {name: parts.Kept.model_construct(table=kept[name]) for name in TABLES},
            10**12,
            10**12,
        )
        plan = replace(plan, state_folder=Path(folder))
        EmbeddedRunner(plan).run()
        states = simulation.last_states(plan.state_folder)
    tables = {name: Counter(simulation._text(row) for rows in kept[name].values() for row in rows) for name in TABLES}
    return tables, {id: states[id].combine_chunks() for id in STEPS}


def simulate(seed: int, mutant: str = "") -> None:
    """One schedule; `Broken` if something is lost, doubled or out of order."""
    world = Wires(seed, mutant)
    with simulation.told(seed, world.trace):
        _simulate(world)


def _simulate(world: Wires) -> None:
    random = world.random
    number, world.faults = random.randrange(INPUTS), random.choice((1, 2, 3, 5, 8, 13))
    world.stream = Stream(world, streamed(number), KEYS)
    world.senders = Senders(world, posts(number))
    plan = graph(
        SimulatedStream.model_construct(world=world),
        Pushed.model_construct(world=world),
        {name: DatabaseTable.model_construct(world=world, table=name) for name in TABLES},
        random.choice((500, 1_000, 3_000, 20_000)),
        random.choice((300, 3_000, 10**9)),
    )
    segment_bytes, held_bytes = random.choice((1, 600, 2_000)), random.choice((0, 3_000, 2**20))
    effects = Effects(world, world.disk, lambda _: Store(world), False, segment_bytes, held_bytes)
    world.disk.make_folder(simulation.STATE)
    while not (simulation.life(world, plan, effects) and _has_ended(world)):
        pass
    _compare(world, number)


def _has_ended(world: Wires) -> bool:
    last = world.records.last()
    splits = [f"stream/{shard.name}" for shard in world.stream.shards] + ["pushed/0"]
    return last is not None and all(last.watermarks.get(id) == END for id in splits) and not any(last.staged.values())


def _compare(world: Wires, number: int) -> None:
    tables, expected = oracle(number)
    for name in TABLES:
        here = Counter(map(simulation._text, world.database.tables.get(name, ())))
        if here != tables[name]:
            lost, doubled = tables[name] - here, here - tables[name]
            raise Broken(f"{name}: lost {dict(lost)}, doubled or wrong {dict(doubled)}")
    last = world.records.last()
    assert last is not None
    world.faults = 0
    world.boot()
    states = read_states(world.disk, simulation.STATE, {id: last.states[id] for id in STEPS})
    if differ := [id for id in STEPS if not expected[id].equals(states[id].combine_chunks())]:
        raise Broken(f"states differ: {differ}")


# The planted mistakes: tests of the tests


def _child_before_parent() -> AbstractContextManager[None]:
    """A shard is read as soon as it is listed."""
    real = SourceTask._look_for_splits

    def look(self: SourceTask) -> None:
        listed = self._connection.splits  # type: ignore[union-attr]
        self._connection.splits = lambda: [replace(split, after=()) for split in listed()]  # type: ignore
        try:
            real(self)
        finally:
            self._connection.splits = listed  # type: ignore

    return patched(SourceTask, _look_for_splits=look)


MUTANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "200 before the fsync": simulation._log_acked_before_sync,
    "epoch outside the sink's transaction": nullcontext,
    "late transaction not looked for": nullcontext,
    "child read before its parents": _child_before_parent,
}


def caught(mutant: str, seeds: range) -> int | None:
    """The first seed that finds a planted mistake; None if none does."""
    with MUTANTS[mutant]():
        for seed in seeds:
            try:
                simulate(seed, mutant)
            except Broken:
                return seed
    return None
