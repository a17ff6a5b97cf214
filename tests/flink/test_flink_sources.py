"""Sources that can be read again, each over its real server or file, in a job that crashes: every row once."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_flink import run
from kinesis_server import REGION, Kinesis
from mongo_server import Mongo
from servers import InfluxDb

from tocsin import Pipeline, read
from tocsin.engine import source_task
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.keyed import refusals
from tocsin.flink import reading
from tocsin.pipeline.plan import Plan

COUNT, MACHINES = 240, 5
PATIENCE_S = 120.0
JSON = {"json": {"columns": {"m": "category", "n": "int"}}}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_task, "ROWS_MAX", 20)
    monkeypatch.setattr(reading, "ROWS_AT_ONCE", 20)


def records() -> list[dict[str, Any]]:
    return [{"m": f"m{number % MACHINES}", "n": number} for number in range(COUNT)]


def plan_of(folder: Path, source: Mapping[str, Any], **more: Any) -> Plan:
    streams = {"kept": {"steps": [{"select": ["n"]}], "sinks": [{"delta": "kept"}]}}
    described = {
        "name": "sources",
        "source": source,
        "decode": JSON,
        "key": "m",
        "folder": str(folder),
        "streams": streams,
    }
    return Pipeline.model_validate({**described, **more}).plan()


def assert_each_comes_once(plan: Plan, polls: int = 4) -> None:
    assert refusals(plan) == []
    until_s = time.monotonic() + PATIENCE_S

    def all_there(number: int) -> bool:
        assert time.monotonic() < until_s, numbers(plan.folder)
        return number % 4 == 0 and numbers(plan.folder).total() >= COUNT

    happened = run(plan, random.Random(2), until=all_there, polls=polls)[1]
    assert happened.total() > happened["goes on"], happened
    assert numbers(plan.folder) == Counter({(f"m{n % MACHINES}", n): 1 for n in range(COUNT)})


def numbers(folder: Path) -> Counter[tuple[str, int]]:
    if not (folder / "kept" / "_delta_log").is_dir():
        return Counter()
    return Counter((row["key"], row["n"]) for row in read("kept", folder).to_pylist())


def test_a_table_of_another_pipeline(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_text("".join(f"{json.dumps(one)}\n" for one in records()))
    EmbeddedRunner(plan_of(tmp_path / "before", {"files": {"path": str(tmp_path / "in.ndjson")}})).run()
    source = {"delta": {"path": str(tmp_path / "before" / "kept")}}
    assert_each_comes_once(plan_of(tmp_path / "flink", source, decode=None, key=None))


def test_a_file_of_sqlite(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "plant.db")) as database:
        database.execute("create table readings (id integer primary key, m text, n integer)")
        database.executemany("insert into readings (m, n) values (?, ?)", [(one["m"], one["n"]) for one in records()])
        database.commit()
    source = {"sqlite": {"path": str(tmp_path / "plant.db"), "table": "readings", "cursor": "id"}}
    assert_each_comes_once(plan_of(tmp_path / "flink", source))


def test_a_measurement_of_influxdb(influxdb: InfluxDb, tmp_path: Path) -> None:
    influxdb.write([f"job,m={one['m']} n={one['n']}i {10**18 + one['n'] // 3}" for one in records()])
    place = {"url": influxdb.url, "database": "plant", "user": "tocsin", "password": InfluxDb.PASSWORD}
    source = {"influxdb": {**place, "measurement": "job", "delay": "0s"}}
    assert_each_comes_once(plan_of(tmp_path / "flink", source))


def test_a_collection_of_mongodb(mongo: Mongo, tmp_path: Path) -> None:
    database = mongo.database()
    mongo.insert(database, "readings", records())
    source = {"mongodb": {"url": f"{mongo.host}/{database}", "collections": ["readings"], "overlap": "0s"}}
    assert_each_comes_once(plan_of(tmp_path / "flink", source))


def test_a_stream_of_kinesis_whose_shard_is_split(kinesis: Kinesis, tmp_path: Path) -> None:
    stream = kinesis.stream()
    payloads = [json.dumps(one).encode() for one in records()]
    kinesis.send(stream, payloads[: COUNT // 2])
    kinesis.split(stream)
    kinesis.send(stream, payloads[COUNT // 2 :])
    source = {"kinesis": {"stream": stream, "region": REGION, "endpoint": kinesis.url}}
    assert_each_comes_once(plan_of(tmp_path / "flink", source), polls=80)
