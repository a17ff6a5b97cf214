"""What does the work in a Flink job, without Flink: bundles in any order, barriers, crashes, processes that live on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tocsin.batch import ipc_stream
from tocsin.engine.keyed import KeyGroup
from tocsin.engine.recovery import Effects
from tocsin.engine.remembered import NO_CHANGE, Change
from tocsin.errors import SinkError
from tocsin.flink.acting import Acting
from tocsin.flink.elements import ACT, DONE, Element
from tocsin.flink.keeping import Keeping
from tocsin.flink.outbox import with_outboxes
from tocsin.flink.places import marker, open_reader, reader_names
from tocsin.flink.reading import Reading
from tocsin.pipeline.plan import Plan, SinkNode

GROUPS, RUN = 3, "one"


@dataclass
class Snapshot:
    """A checkpoint: bytes of all that remembers, by name."""

    number: int
    run: str
    readings: dict[str, bytes]
    groups: list[bytes]
    heard: list[set[int]]
    """By group: readers that have read all there is."""
    sinks: dict[str, bytes]


class Attempt:
    """A job between two failures, from its states or from the beginning."""

    def __init__(
        self, plan: Plan, before: Snapshot | None, rng: random.Random, change: Change = NO_CHANGE, run: str = RUN
    ) -> None:
        self.plan, self.rng, self.run = with_outboxes(plan), rng, run
        self._change = change
        self._names = reader_names(self.plan)
        readings, sinks = (before.readings, before.sinks) if before else ({}, {})
        self.readings = {name: self._reading(name, readings.get(name)) for name in self._names}
        groups = before.groups if before else [None] * GROUPS
        self.groups = [KeyGroup(self.plan, state, change) for state in groups]
        same_run = before is not None and before.run == run
        self.heard = [set(before.heard[group]) if before and same_run else set[int]() for group in range(GROUPS)]
        self.sinks = {target.id: self._keeping(target, sinks.get(target.id)) for target in self.plan.sinks}

    def _reading(self, name: str, state: bytes | None) -> Reading | Acting:
        return open_reader(name, self._names.index(name), self.plan, GROUPS, self.run, self._change, state)

    def _keeping(self, target: SinkNode, state: bytes | None) -> Keeping:
        world = Effects().world(self.plan, "staged", target.id)
        place = marker(self.plan, self.run, target.id)
        return Keeping(target, world, range(GROUPS), place, self.plan.lag_bytes, state)

    def pass_on(self) -> None:
        """One poll of each reader, through all groups, into the sinks: what Flink promises no order for has none."""
        queues: dict[tuple[str, int], list[Element]] = {}
        for name in self.rng.sample(self._names, len(self._names)):
            for element in self.readings[name].poll():
                queues.setdefault((name, element.to), []).append(element)
        while queues:
            place = self.rng.choice(sorted(queues))
            element = queues[place].pop(0)
            if not queues[place]:
                del queues[place]
            self._take(element)

    def _take(self, element: Element) -> None:
        if element.kind == DONE:
            self.heard[element.to].add(element.number)
            if len(self.heard[element.to]) == len(self._names):
                for sink in self.sinks.values():
                    sink.hear(element.to)
            return
        group = self.groups[element.to]
        taken = group.act(element.data) if element.kind == ACT else group.take(element.data)
        for id, batches in taken.items():
            if batches:
                self.sinks[id].take(ipc_stream(batches))

    def barrier(self, number: int) -> Snapshot:
        for sink in self.sinks.values():
            sink.stage(number)
        return Snapshot(
            number,
            self.run,
            {name: one.dump() for name, one in self.readings.items()},
            [one.dump() for one in self.groups],
            [set(some) for some in self.heard],
            {id: one.dump() for id, one in self.sinks.items()},
        )

    def publish(self, number: int) -> None:
        for sink in self.sinks.values():
            sink.publish(number)

    def whole(self) -> bool:
        return all(marker(self.plan, self.run, target.id).exists() for target in self.plan.sinks)

    def crash(self) -> None:
        """It reads nothing more; but it may still publish."""
        for reading in self.readings.values():
            reading.close()

    def close(self) -> None:
        self.crash()
        for sink in self.sinks.values():
            sink.close()


def run(
    plan: Plan, rng: random.Random, before: Snapshot | None = None, change: Change = NO_CHANGE, name: str = RUN,
    until: Callable[[int], bool] = lambda number: False, polls: int = 4,
) -> tuple[Snapshot | None, Counter[str]]:  # fmt: skip
    """Run to the end, or ``until`` it is so far, with a crash at about every other barrier.

    Between two barriers there are fewer than ``polls`` of each reader: more, where a server takes its time to answer.
    Returns the last checkpoint, and what happened, and how often.
    """
    last, happened = before, Counter[str]()
    number = 0 if before is None else before.number
    attempt = Attempt(plan, last, rng, change, name)
    if last is not None:
        attempt.publish(last.number)
    while not attempt.whole() and not until(number):
        for _ in range(rng.randrange(1, polls)):
            attempt.pass_on()
        number += 1
        made = attempt.barrier(number)
        fate = rng.choice(["goes on", "goes on", "goes on", "fails", "is not told", "crashes after"])
        happened[fate] += 1
        if fate != "fails":
            last = made
        if fate in ("goes on", "crashes after"):
            attempt.publish(number)
        if fate == "goes on":
            continue
        attempt.crash()
        zombie, attempt = attempt, Attempt(plan, last, rng, change, name)
        if last is None:
            zombie.close()
            continue
        first = rng.random() < 0.5
        if fate == "is not told" and first:  # but it was on its way, and its process still lives
            zombie.publish(last.number)
            happened["zombie first"] += 1
        attempt.publish(last.number)
        if fate == "is not told" and not first:
            with suppress(SinkError):
                zombie.publish(last.number)
            happened["zombie last"] += 1
        zombie.close()
    attempt.close()
    return last, happened
