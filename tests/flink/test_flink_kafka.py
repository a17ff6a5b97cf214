"""Kafka in a Flink job, without Flink: shares of the partitions, crashes, one event time over all of them."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pyarrow as pa
from kafka_server import Kafka

from tocsin import Pipeline
from tocsin.engine.keyed import KeyGroup, refusals
from tocsin.engine.recovery import Effects
from tocsin.engine.remembered import Remembered
from tocsin.flink.elements import ROWS
from tocsin.flink.reading import Reading
from tocsin.pipeline.plan import Plan
from tocsin.testing import world

GROUPS, SECONDS, WAIT_S = 2, 600, 60.0


def plan_of(kafka: Kafka, topic: str, folder: Path, idle_timeout: str = "10s") -> Plan:
    counted = {"window": {"every": "10s", "compute": {"n": "count(value)"}}}
    return Pipeline.model_validate(
        {
            "name": "kafka", "source": {"kafka": {"brokers": kafka.address, "topics": topic}}, "folder": str(folder),
            "decode": {"json": {"columns": {"m": "category", "t": "timestamp", "value": "float"}}}, "key": "m",
            "time": {"column": "t", "lateness": "2s"}, "idle_timeout": idle_timeout,
            "streams": {"counted": {"steps": [counted], "sinks": [{"delta": "counted"}]}},
        }
    ).plan()  # fmt: skip


def send(kafka: Kafka, topic: str, partition: int, begin: int, end: int) -> None:
    stamps = [f"2026-01-01T00:{second // 60:02}:{second % 60:02}Z" for second in range(begin, end)]
    rows = [json.dumps({"m": f"m{partition}", "t": stamp, "value": 1.0}).encode() for stamp in stamps]
    kafka.send(topic, rows, partition=partition)


class Job:
    """All shares and groups, from their states or from the beginning."""

    def __init__(self, plan: Plan, readings: list[bytes | None], groups: list[bytes | None]) -> None:
        (origin,) = plan.sources
        shares = enumerate(readings)
        world = Effects().world(plan, "ingest", origin.id)
        self.readings = []
        for share, state in shares:
            remembered = Remembered(plan)
            if state is not None:
                remembered.load(state)
            self.readings.append(Reading(share, origin, share, world, GROUPS, "key", "one", remembered, 0.1))
        self.groups = [KeyGroup(plan, state) for state in groups]
        self.out: Counter[str] = Counter()

    def until(self, count: int) -> None:
        """Poll in turn until so many windows have left in all."""
        until_s = time.monotonic() + WAIT_S
        while self.out.total() < count:
            assert time.monotonic() < until_s, self.out
            self.poll()

    def poll(self) -> int:
        """Poll each reader once; returns how many rows were read."""
        read = 0
        for reading in self.readings:
            for element in reading.poll():
                assert element.kind == ROWS
                read += pa.ipc.open_stream(element.data).read_all().num_rows
                for id, batches in self.groups[element.to].take(element.data).items():
                    assert id == "counted.0.delta", f"rows in {id}"
                    rows = [row for batch in batches for row in batch.to_pylist()]
                    self.out.update(f"{row['key']} {row['time']:%H:%M:%S} {row['n']}" for row in rows)
        return read

    def crash(self, plan: Plan) -> Job:
        """A job that goes on from a checkpoint of this one; what this one reads later is lost."""
        states = [one.dump() for one in self.readings], [one.dump() for one in self.groups]
        for reading in self.readings:
            list(reading.poll())
            reading.close()
        made = Job(plan, *map(list, states))
        made.out = self.out
        return made


def test_shares_make_one_stream(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic(partitions=5)
    plan = plan_of(kafka, topic, tmp_path)
    assert refusals(plan) == []
    source = plan.sources[0].source
    job = Job(plan, [None] * source.SHARES, [None] * GROUPS)
    for partition in range(5):
        send(kafka, topic, partition, 0, SECONDS // 2)
    job.until(5 * (SECONDS // 20 - 1))
    job = job.crash(plan)
    for partition in reversed(range(5)):
        send(kafka, topic, partition, SECONDS // 2, SECONDS)
    job.until(5 * (SECONDS // 10 - 1))
    for reading in job.readings:
        reading.close()
    assert set(job.out.values()) == {1}
    assert {window.rpartition(" ")[2] for window in job.out} == {"10"}


def test_a_partition_that_never_speaks_does_not_hold_the_time(kafka: Kafka, tmp_path: Path) -> None:
    """Windows of the one that speaks close once the others have been silent for long enough, and not before."""
    topic = kafka.topic(partitions=5)
    send(kafka, topic, 2, 0, SECONDS)
    patient = plan_of(kafka, topic, tmp_path, "1h")
    job, read = Job(patient, [None] * patient.sources[0].source.SHARES, [None] * GROUPS), 0
    until_s = time.monotonic() + WAIT_S
    while read < SECONDS:
        assert time.monotonic() < until_s
        read += job.poll()
    assert job.out.total() == 0
    job = job.crash(plan_of(kafka, topic, tmp_path, "300ms"))
    job.until(SECONDS // 10 - 1)
    for reading in job.readings:
        reading.close()
    assert set(job.out.values()) == {1}


def test_each_partition_is_of_one_share(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic(partitions=6)
    source = plan_of(kafka, topic, tmp_path).sources[0].source
    names: list[str] = []
    for share in range(source.SHARES):
        with closing(source.open_share(world(), share)) as connection:
            names += [split.name for split in connection.splits()]
    assert sorted(names) == [f"{topic}-{number}" for number in range(6)]
