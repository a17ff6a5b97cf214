"""A real Flink cluster and real ends: sinks that have each row once though a TaskManager dies, a silent partition."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka_server import Kafka
from postgres_server import TRUSTED, Postgres
from real_flink import MARKS, STARTED_S, Machine, ended_well, started
from ruamel.yaml import YAML
from servers import ObjectStore
from timed_readings import write_readings

from tocsin import read
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.lake.remote import RemoteTable
from tocsin.pipeline.yamlfile import load

pytestmark = MARKS
SECONDS, MACHINES, EVERY_S = 600, 6, 5
DECODE = {"json": {"columns": {"m": "category", "t": "timestamp", "value": "float"}}}
WINDOWS = [{"window": {"every": f"{EVERY_S}s", "compute": {"value": "max(value)"}}}, {"select": ["value"]}]
PACED = {"replay": "15x", "time_column": "t"}
"""40 seconds of rows, so that there is time to disturb it."""
Row = tuple[str, datetime, float]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with started(tmp_path_factory.mktemp("flink")) as made:
        yield made


def written(file: Path, source: Mapping[str, Any], sinks: Sequence[Mapping[str, Any]], **more: Any) -> Path:
    described = {
        "name": file.stem, "folder": "nowhere", "source": source, "decode": DECODE, "key": "m", "checkpoint": "500ms",
        "time": {"column": "t", "lateness": "2s"}, "streams": {"most": {"steps": WINDOWS, "sinks": sinks}}, **more,
    }  # fmt: skip
    with file.open("w") as out:
        YAML().dump(described, out)
    return file


def embedded(data: Path, folder: Path) -> Counter[Row]:
    """Returns the rows of the same steps in one process."""
    file = written(folder / "embedded.yaml", {"files": {"path": str(data)}}, [{"delta": "most"}])
    EmbeddedRunner(load(file, {"folder": str(folder / "embedded")}).plan()).run()
    return in_delta(folder / "embedded")


def bag(rows: Sequence[Mapping[str, Any]]) -> Counter[Row]:
    times = [row["time"] for row in rows]
    at = [(time if isinstance(time, datetime) else datetime.fromisoformat(time)).astimezone(UTC) for time in times]
    return Counter((row["key"], time, row["value"]) for row, time in zip(rows, at, strict=True))


def in_delta(folder: Path) -> Counter[Row]:
    there = (folder / "most" / "_delta_log" / f"{0:020d}.json").exists()
    return bag(read("most", folder).to_pylist()) if there else Counter()


def eventually(what: Callable[[], bool], running: subprocess.Popen[str], message: str) -> None:
    until_s = time.monotonic() + STARTED_S
    while not what():
        assert running.poll() is None, f"it has ended too early: {running.communicate()[1]}"
        assert time.monotonic() < until_s, message
        time.sleep(0.1)


def test_each_sink_has_every_row_once_though_a_taskmanager_is_killed(
    machine: Machine, kafka: Kafka, postgres: Postgres, object_store: ObjectStore, tmp_path: Path
) -> None:
    data = write_readings(tmp_path / "in.ndjson", SECONDS, MACHINES)
    wanted = embedded(data, tmp_path)
    assert wanted.total() == MACHINES * SECONDS // EVERY_S
    topic, schema, address = kafka.topic(partitions=2), postgres.schema(), f"s3://plant/{tmp_path.name}"
    sinks = [
        {"delta": "most"},
        {"delta": {"path": address, "storage": object_store.options}},
        {"kafka": {"brokers": kafka.address, "topic": topic}},
        {"postgres": {"url": postgres.url, "user": TRUSTED, "table": f"{schema}.most"}},
    ]
    file = written(tmp_path / "ends.yaml", {"files": {"path": str(data), **PACED}}, sinks)
    running = machine.run(file, tmp_path / "flink")
    eventually(lambda: in_delta(tmp_path / "flink").total() > 0, running, "no rows come")
    machine.kill_taskmanager()
    before = in_delta(tmp_path / "flink").total()
    machine.flink("up")
    assert "going back to the last checkpoint" in ended_well(running)
    assert before < wanted.total(), "it was killed too late to prove anything"
    columns = ("key", "time", "value")
    given = {
        "delta": in_delta(tmp_path / "flink"),
        "s3": bag(RemoteTable(address, object_store.options).read().to_pylist()),
        "kafka": bag([json.loads(record.value()) for record in kafka.records(topic)]),
        "postgres": bag(
            [
                dict(zip(columns, row, strict=True))
                for row in postgres.execute(f"select key, time, value from {schema}.most")
            ]
        ),
    }
    for sink, rows in given.items():
        assert (wanted - rows, rows - wanted) == (Counter(), Counter()), sink


def test_partitions_that_never_speak_do_not_hold_the_time(machine: Machine, kafka: Kafka, tmp_path: Path) -> None:
    """All rows are in one of four partitions: their windows close though nothing ever comes by the others."""
    data = write_readings(tmp_path / "in.ndjson", SECONDS, MACHINES)
    wanted = embedded(data, tmp_path)
    topic = kafka.topic(partitions=4)
    kafka.send(topic, data.read_bytes().splitlines(), partition=2)
    source = {"kafka": {"brokers": kafka.address, "topics": topic}}
    file = written(tmp_path / "silent.yaml", source, [{"delta": "most"}], idle_timeout="3s")
    running = machine.run(file, tmp_path / "flink")
    # The last window of each machine is still open: its end has not come.
    eventually(
        lambda: in_delta(tmp_path / "flink").total() >= wanted.total() - MACHINES, running, "the windows stay open"
    )
    running.send_signal(signal.SIGINT)
    ended_well(running)
    given = in_delta(tmp_path / "flink")
    assert not given - wanted
    assert {row[1] for row in (wanted - given)} <= {max(row[1] for row in wanted)}
