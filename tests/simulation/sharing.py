"""Schedules with two engines that share the partitions of a topic, which move, are added and are taken over.

What is looked at is only what has come out: every line stands in one of the two databases, and in one only. Lines that
a member has read for good before the group gave it up, and of which the group was not told, may come from both (that
is what source `kafka` promises).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any

import simulated_parts as parts
import simulation
from simulated_group import Group, Member, Over, SharedTopic, Turns
from simulated_wires import DatabaseTable
from simulated_world import Store, patched

from tocsin.batch import OUT, REJECTED, REJECTED_SCHEMA
from tocsin.contracts import Checkpoint
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.recovery import Attempt, Effects
from tocsin.engine.source_task import Revoked, SourceTask
from tocsin.pipeline.plan import Plan, SinkNode, SourceNode
from tocsin.testing.simulated import Broken

ENGINES = ("one", "two")
PARTITIONS, LINES = 4, 24


def lines() -> dict[str, list[bytes]]:
    """The partitions; each line is there once, and one in ten is no row."""
    return {
        f"p{p}": [b"bad p%d-%d" % (p, n) if n % 10 == 9 else b"p%d,0,%d" % (p, n) for n in range(LINES)]
        for p in range(PARTITIONS)
    }


def graph(member: Member) -> Plan:
    """Rows and what is rejected, each into a table of the engine's own database."""
    sides = {OUT: parts.ROWS, REJECTED: REJECTED_SCHEMA}
    tables = {name: DatabaseTable.model_construct(world=member, table=name) for name in ("rows", "quarantine")}
    return Plan(
        name="simulated",
        sources=(SourceNode("topic", SharedTopic.model_construct(world=member), (parts.Parse(),), sides, 10**15),),
        steps=(),
        sinks=(
            SinkNode("rows", (("topic", OUT),), tables["rows"], parts.ROWS),
            SinkNode("quarantine", (("topic", REJECTED),), tables["quarantine"], REJECTED_SCHEMA),
        ),
        streams={},
        folder=simulation.LAKE,
        state_folder=simulation.STATE,
        checkpoint_us=member.random.choice((500, 20_000, 2_000_000)),
        memory_bytes=member.random.choice((300, 3_000, 10**9)),
        lag_bytes=1 << 30,
    )


def simulate(seed: int) -> None:
    """One schedule; `Broken` if a line is lost, or doubled without an excuse."""
    turns = Turns(seed, ENGINES)
    group = Group(turns, lines())
    members = [Member(2 * seed + i, name, turns, group) for i, name in enumerate(ENGINES)]
    trace: list[str] = []
    with simulation.told(seed, trace):
        failures: list[BaseException] = []
        threads = [threading.Thread(target=_engine, args=(member, failures)) for member in members]
        for thread in threads:
            thread.start()
        turns.begin()
        for thread in threads:
            thread.join()
        trace += [f"{member.name}: {step}" for member in members for step in member.trace]
        if failures:
            raise failures[0]
        _compare(group, members)


def _engine(member: Member, failures: list[BaseException]) -> None:
    """Run an engine, again after each of its deaths, until all lines of all partitions have been read."""
    member.turns.enter(member.name)
    try:
        member.faults = member.random.choice((0, 1, 2, 3, 5, 8))
        plan = graph(member)
        effects = Effects(member, member.disk, lambda _: Store(member), False, 2_000)
        member.disk.make_folder(simulation.STATE)
        while not (simulation.life(member, plan, effects) and member.group.is_done and not _staged(member)):
            member.ended()
    except Over:
        return
    except BaseException as error:
        failures.append(error)
        member.turns.is_over = True
    finally:
        member.turns.leave(member.name)


def _staged(member: Member) -> bool:
    last = member.records.last()
    return last is not None and any(last.staged.values())


def _compare(group: Group, members: Sequence[Member]) -> None:
    here: Counter[tuple[str, int]] = Counter()
    for member in members:
        for row in member.database.tables.get("rows", ()):
            here[row["key"], row["value"]] += 1
        for row in member.database.tables.get("quarantine", ()):
            partition, _, number = row["payload"].decode().removeprefix("bad ").partition("-")
            here[partition, int(number)] += 1
    lost = [(id, n) for id, log in group.logs.items() for n in range(len(log.lines)) if not here[id, n]]
    doubled = [(id, n) for (id, n), count in here.items() if count > 1 + group.logs[id].excused[n]]
    if lost or doubled:
        raise Broken(f"lost {lost}, doubled {doubled}")


# The planted mistakes: tests of the tests


def _read_after_it_was_given_away() -> AbstractContextManager[None]:
    """A partition is let go of after a checkpoint, as it should be, and read on."""
    answer, acknowledge = SourceTask._answer, EmbeddedRunner._acknowledge

    def answered(self: SourceTask) -> None:
        kept = {name: self._open[name] for name in self._releases if name in self._open}
        answer(self)
        self._open |= kept

    def acknowledged(self: EmbeddedRunner, attempt: Attempt) -> None:
        kept = {id: (attempt.splits[id], attempt.graph.chains[id]) for id in attempt.revoked}
        acknowledge(self, attempt)
        for id, (split, chain) in kept.items():
            attempt.splits[id], attempt.graph.chains[id] = split, chain

    stack = ExitStack()
    stack.enter_context(patched(SourceTask, _answer=answered))
    stack.enter_context(patched(EmbeddedRunner, _acknowledge=acknowledged))
    return stack


def _given_away_before_a_checkpoint() -> AbstractContextManager[None]:
    """A partition is let go of at once, although what came of it is in no checkpoint yet."""
    real = SourceTask._put

    def put(self: SourceTask, event: Any) -> None:
        if isinstance(event, Revoked):
            self._open[event.split].reader.close()
        real(self, event)

    return patched(SourceTask, _put=put)


def _position_forgotten_too_early() -> AbstractContextManager[None]:
    """The checkpoint that a partition is given away after no longer says how far it was read."""
    real = EmbeddedRunner._checkpoint

    def checkpoint(self: EmbeddedRunner, attempt: Attempt, *given: Any) -> Checkpoint:
        made = real(self, attempt, *given)
        return replace(made, offsets={id: at for id, at in made.offsets.items() if id not in attempt.revoked})

    return patched(EmbeddedRunner, _checkpoint=checkpoint)


MUTANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "offset committed before the checkpoint": simulation._acknowledged_before_commit,
    "partition read after it was given away": _read_after_it_was_given_away,
    "partition given away before a checkpoint": _given_away_before_a_checkpoint,
    "position forgotten before the group knows it": _position_forgotten_too_early,
}


def caught(mutant: str, seeds: range) -> int | None:
    """The first seed that finds a planted mistake; None if none does."""
    with MUTANTS[mutant]():
        for seed in seeds:
            try:
                simulate(seed)
            except Broken:
                return seed
    return None
