"""Every sink of a job, through crashes and processes that live on; one that is away; and what is delivered."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fake_flink import Attempt, run
from kafka_server import Kafka
from postgres_server import TRUSTED, Postgres
from servers import ObjectStore
from timed_readings import write_readings

from tocsin import Pipeline, read
from tocsin.engine import source_task
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.keyed import refusals
from tocsin.errors import Unavailable
from tocsin.flink import reading
from tocsin.flink.delivering import Delivering
from tocsin.lake.remote import RemoteTable
from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.mqtt.client import Client
from tocsin.pipeline.plan import Plan

SECONDS, MACHINES = 120, 6
Row = tuple[str, datetime, float]


def plan_of(folder: Path, data: Path, *sinks: Any, lag: str = "1GB") -> Plan:
    # One row a machine and window, so that rows are told apart by these.
    steps = [{"window": {"every": "5s", "compute": {"value": "max(value)"}}}, {"select": ["value"]}]
    return Pipeline.model_validate(
        {
            "name": "parts", "source": {"files": {"path": str(data)}}, "key": "m", "folder": str(folder), "lag": lag,
            "decode": {"json": {"columns": {"m": "category", "t": "timestamp", "value": "float"}}},
            "time": {"column": "t", "lateness": "2s"},
            "streams": {"most": {"steps": steps, "sinks": list(sinks)}},
        }
    ).plan()  # fmt: skip


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(source_task, "ROWS_MAX", 40)
    monkeypatch.setattr(reading, "ROWS_AT_ONCE", 40)
    return write_readings(tmp_path / "in.ndjson", SECONDS, MACHINES)


def rows_of(rows: Sequence[dict[str, Any]]) -> Iterator[Row]:
    for row in rows:
        time = row["time"]
        at = time if isinstance(time, datetime) else datetime.fromisoformat(time)
        yield row["key"], at.astimezone(UTC), row["value"]


def test_all_sinks_get_every_row_once(
    data: Path, tmp_path: Path, kafka: Kafka, postgres: Postgres, object_store: ObjectStore
) -> None:
    EmbeddedRunner(plan_of(tmp_path / "embedded", data, {"delta": "most"})).run()
    wanted = Counter(rows_of(read("most", tmp_path / "embedded").to_pylist()))
    assert wanted.total() == MACHINES * SECONDS // 5
    topic, schema, bucket = kafka.topic(), postgres.schema(), f"s3://plant/{tmp_path.name}"
    plan = plan_of(
        tmp_path / "flink", data, {"delta": "most"},
        {"delta": {"path": bucket, "storage": object_store.options}},
        {"kafka": {"brokers": kafka.address, "topic": topic}},
        {"postgres": {"url": postgres.url, "user": TRUSTED, "table": f"{schema}.most"}},
    )  # fmt: skip
    assert refusals(plan) == []
    happened = run(plan, random.Random(5))[1]
    assert happened["zombie first"] + happened["zombie last"] > 0, happened
    assert happened["fails"] + happened["crashes after"] > 0, happened
    there = {
        "delta": read("most", tmp_path / "flink").to_pylist(),
        "s3": RemoteTable(bucket, object_store.options).read().to_pylist(),
        "kafka": [json.loads(record.value()) for record in kafka.records(topic)],
        "postgres": [
            dict(zip(("key", "time", "value"), row, strict=True))
            for row in postgres.execute(f"select key, time, value from {schema}.most")
        ],
    }
    for sink, rows in there.items():
        given = Counter(rows_of(rows))
        assert (wanted - given, given - wanted) == (Counter(), Counter()), sink


def test_a_table_that_is_away_holds_up_no_other_and_is_told(data: Path, tmp_path: Path, postgres: Postgres) -> None:
    schema = postgres.schema()
    plan = plan_of(
        tmp_path / "flink", data, {"delta": "most"},
        {"postgres": {"url": postgres.url, "user": TRUSTED, "table": f"{schema}.most"}},
    )  # fmt: skip
    note = plan.state_folder / "flink" / "one" / "most.1.postgres.trouble"
    postgres.stop()
    try:
        attempt, number = Attempt(plan, None, random.Random(1)), 0
        while not (note.parent / "most.0.delta").exists():
            attempt.pass_on()
            number += 1
            attempt.barrier(number)
            attempt.publish(number)
        assert read("most", tmp_path / "flink").num_rows == MACHINES * SECONDS // 5
        assert str(postgres.port) in note.read_text()
        assert not attempt.whole()
    finally:
        postgres.start()
    last = attempt.barrier(number + 1)
    attempt.close()
    attempt = Attempt(plan, last, random.Random(2))
    attempt.publish(number + 1)
    assert postgres.execute(f"select count(*) from {schema}.most") == [(MACHINES * SECONDS // 5,)]
    assert (note.exists(), attempt.whole()) == (False, True)
    attempt.close()


def test_no_more_is_taken_than_may_wait(data: Path, tmp_path: Path) -> None:
    sink = {"postgres": {"url": "postgresql://127.0.0.1:1/plant", "table": "most"}}
    attempt = Attempt(plan_of(tmp_path / "flink", data, sink, lag="1kB"), None, random.Random(1))

    def go_on() -> None:
        for number in range(1, 100):
            attempt.pass_on()
            attempt.barrier(number)
            attempt.publish(number)

    with pytest.raises(Unavailable, match="lags behind by more than the pipeline's lag: allows"):
        go_on()
    attempt.close()


def test_messages_of_a_job_are_delivered_once_by_one_process(data: Path, tmp_path: Path) -> None:
    count = MACHINES * SECONDS // 5
    with Broker(BrokerConfiguration(state=tmp_path / "broker", port=0)) as broker:
        subscriber = Client(broker.url, filters=("out/#",))
        subscriber.connect()
        channel = {"mqtt": {"url": broker.url, "topic": "out/{key}", "columns": ["key", "time"]}}
        plan = plan_of(tmp_path / "flink", data, channel)
        assert refusals(plan) == []
        delivering = Delivering(plan)
        delivering.start()
        happened = run(plan, random.Random(5))[1]
        assert happened["crashes after"] + happened["is not told"] > 0, happened
        delivering.stop(whole=True)
        again = Delivering(plan)
        again.start()
        again.stop(whole=True)
        bodies: list[bytes] = []
        while (polled := subscriber.poll(1_000, 1.0)) is not None:
            bodies += polled.payloads.to_pylist()
        subscriber.close()
    assert len(bodies) == len(set(bodies)) == count
