"""What does the work in a Flink job, without Flink: barriers, crashes, and processes that live on after them."""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tocsin import Pipeline, read
from tocsin.batch import ipc_stream
from tocsin.engine import source_task
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.keyed import KeyGroup
from tocsin.engine.recovery import Effects
from tocsin.errors import ForeignCommit
from tocsin.flink import reading
from tocsin.flink.elements import DONE
from tocsin.flink.keeping import Keeping
from tocsin.flink.reading import Reading
from tocsin.pipeline.plan import Plan, SinkNode

GROUPS = 3


def plan_of(folder: Path, data: Path) -> Plan:
    steps = [{"window": {"every": "20s", "collect": ["time", "value"]}}, {"zscore": {"of": "value"}}, "explode"]
    return Pipeline.model_validate(
        {
            "name": "parts", "source": {"files": {"path": str(data)}}, "key": "m", "folder": str(folder),
            "decode": {"json": {"columns": {"m": "category", "t": "timestamp", "value": "float"}}},
            "time": {"column": "t", "lateness": "2s"},
            "streams": {"scored": {"steps": [*steps, {"select": ["value", "z"]}], "sinks": [{"delta": "scored"}]}},
        }
    ).plan()  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng, path = random.Random(7), tmp_path / "in.ndjson"
    with path.open("w") as lines:
        for second in range(400):
            for machine in range(9):
                at = max(0, second - (30 if rng.random() < 0.01 else 0))  # some are late
                stamp = f"2026-01-01T00:{at // 60:02}:{at % 60:02}.{machine:03}Z"
                lines.write(json.dumps({"m": f"m{machine}", "t": stamp, "value": rng.gauss(50, 5)}) + "\n")
    return path


@dataclass
class Snapshot:
    number: int
    reading: bytes
    groups: list[bytes]
    sinks: list[bytes]


class Attempt:
    """All tasks of a job, from a checkpoint or from the beginning."""

    def __init__(self, plan: Plan, before: Snapshot | None) -> None:
        (origin,) = plan.sources
        world = Effects().world(plan, "ingest", origin.id)
        self.sinks_of = plan.sinks
        self.reading = Reading(0, origin, 0, world, GROUPS, "one", before.reading if before else None)
        states = before.groups if before else [None] * GROUPS
        self.groups = [KeyGroup(plan, state) for state in states]
        kept = before.sinks if before else [None] * len(plan.sinks)
        self.sinks = [self._keeping(plan, one, state) for one, state in zip(plan.sinks, kept, strict=True)]

    @staticmethod
    def _keeping(plan: Plan, target: SinkNode, state: bytes | None) -> Keeping:
        world = Effects().world(plan, "staged", target.id)
        return Keeping(target, world, GROUPS, plan.state_folder / "flink" / "one" / target.id, state)

    def pass_on(self) -> None:
        """One poll of the reader, through all groups, into the sinks."""
        numbers = {target.id: number for number, target in enumerate(self.sinks_of)}
        for element in self.reading.poll():
            if element.kind == DONE:
                for sink in self.sinks:
                    sink.hear(element.to)
                continue
            for id, batches in self.groups[element.to].take(element.data).items():
                self.sinks[numbers[id]].take(ipc_stream(batches))

    def barrier(self, number: int) -> Snapshot:
        for sink in self.sinks:
            sink.stage(number)
        groups, sinks = [one.dump() for one in self.groups], [one.dump() for one in self.sinks]
        return Snapshot(number, self.reading.dump(), groups, sinks)

    def publish(self, number: int) -> None:
        for sink in self.sinks:
            sink.publish(number)


def bag(table: str, folder: Path) -> Counter[str]:
    return Counter(str(sorted(row.items())) for row in read(table, folder).to_pylist())


def run(plan: Plan, rng: random.Random) -> Counter[str]:
    """Run with a crash at about every other barrier; returns what happened, and how often."""
    last: Snapshot | None = None
    attempt, happened, number = Attempt(plan, None), Counter[str](), 0
    while not all((plan.state_folder / "flink" / "one" / target.id).exists() for target in plan.sinks):
        for _ in range(rng.randrange(1, 4)):
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
        attempt.reading.close()
        zombie, attempt = attempt, Attempt(plan, last)
        if last is None:
            continue
        first = rng.random() < 0.5
        if fate == "is not told" and first:  # but it was on its way, and its process still lives
            zombie.publish(last.number)
            happened["zombie first"] += 1
        attempt.publish(last.number)
        if fate == "is not told" and not first:
            with suppress(ForeignCommit):
                zombie.publish(last.number)
            happened["zombie last"] += 1
    attempt.reading.close()
    return happened


def test_crashes_lose_and_double_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    EmbeddedRunner(plan_of(tmp_path / "embedded", data)).run()
    monkeypatch.setattr(source_task, "ROWS_MAX", 100)
    monkeypatch.setattr(reading, "ROWS_AT_ONCE", 100)
    happened: Counter[str] = Counter()
    for seed in range(4):
        happened += run(plan_of(tmp_path / f"flink{seed}", data), random.Random(seed))
        for table in ("scored", "late_source"):
            wanted = bag(table, tmp_path / "embedded")
            assert wanted
            assert bag(table, tmp_path / f"flink{seed}") == wanted, table
    assert min(happened[fate] for fate in ("fails", "crashes after", "zombie first", "zombie last")) > 2, happened


def test_a_table_that_is_ahead_of_its_checkpoint_is_left_alone(data: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "flink", data)
    attempt = Attempt(plan, None)
    attempt.pass_on()
    first = attempt.barrier(1)
    attempt.publish(1)
    attempt.pass_on()
    attempt.sinks[0].take(rows_of_table("scored", tmp_path / "flink"))
    attempt.barrier(2)
    attempt.publish(2)
    attempt.reading.close()
    behind = Attempt(plan, first)
    behind.reading.close()
    with pytest.raises(ForeignCommit, match="stands at epoch 2"):
        behind.publish(1)


def rows_of_table(table: str, folder: Path) -> bytes:
    return ipc_stream(read(table, folder).to_batches())
