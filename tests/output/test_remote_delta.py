"""Delta tables in an object store: each row once through kills, read by name and by SQL, clear refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from cut_network import CutNetwork
from deltalake import DeltaTable
from servers import ObjectStore, free_port

import tocsin
from tocsin.cli import main
from tocsin.errors import ConfigError, ForeignCommit, SinkError, Unavailable
from tocsin.output.delta import Delta
from tocsin.testing import rows, world

ROWS = 3_000
PIPELINE = """
name: remote
folder: {folder}
source: {{files: {{path: {folder}/in.ndjson, follow: true}}}}
decode: {{json: {{columns: {{machine: category, n: int}}}}}}
key: machine
time: {{lateness: 0s}}
checkpoint: 200ms
streams:
  readings: {{sinks: [{{delta: {{path: "s3://plant/kills", storage: {storage}}}}}]}}
"""


@pytest.fixture
def sink(object_store: ObjectStore, request: pytest.FixtureRequest) -> Delta:
    return Delta.model_validate({"path": f"s3://plant/{request.node.name}", "storage": object_store.options})


@pytest.fixture
def environment(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in object_store.options.items():
        monkeypatch.setenv(name.upper(), value)


def publish(sink: Delta, batch: pa.RecordBatch, epoch: int = 1, place: Any = None) -> None:
    with closing(sink.open(place or world(), batch.schema)) as writer:
        writer.publish(epoch, [writer.stage(epoch, [batch])])


def test_read_and_asked_by_their_original_names(sink: Delta, environment: None, tmp_path: Path) -> None:
    place = world()
    publish(sink, rows({"oil (C)": [20.5, 21.5]}), place=place)
    publish(sink, rows({"oil (C)": [22.5], "More": ["a"]}), 2, place)
    table = tocsin.read(sink.path)
    assert table.column_names == ["key", "time", "oil (C)", "More"]
    assert sorted(table["oil (C)"].to_pylist()) == [20.5, 21.5, 22.5]
    asked = ["query", 'select max("oil (C)") as m from oven', "--folder", str(tmp_path), "--format", "json"]
    answer = CliRunner().invoke(main, [*asked, "--table", f"oven={sink.path}"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.output) == {"m": 22.5} or json.loads(answer.output) == [{"m": 22.5}]


def test_partitioned_by_the_day(sink: Delta, object_store: ObjectStore) -> None:
    by_day = sink.model_copy(update={"partition_by": ("date",)})
    publish(by_day, rows({"value": [1.0, 2.0], "time": [0.0, 86_400.0]}))
    table = DeltaTable(sink.path, storage_options=object_store.options)
    assert table.metadata().partition_columns == ["date"]
    assert sorted(str(one["date"]) for one in table.partitions()) == ["2026-01-01", "2026-01-02"]
    with pytest.raises(SinkError, match="is partitioned by"):
        publish(sink, rows({"value": [1.0]}), 2, world(name="other/part"))


def test_a_column_of_another_type_is_refused(sink: Delta) -> None:
    place = world()
    publish(sink, rows({"value": [1.0]}), place=place)
    with pytest.raises(SinkError, match="column 'value' is double in the table"):
        publish(sink, rows({"value": ["a"]}), 2, place)


def test_another_engine_under_our_name_is_noticed(sink: Delta) -> None:
    place, batch = world(), rows({"value": [1.0]})
    publish(sink, batch, place=place)
    with closing(sink.open(place, batch.schema)) as late:
        late.publish(2, [late.stage(2, [batch])])
        token = late.stage(3, [batch])
        publish(sink, batch, 3, world())
        with pytest.raises(ForeignCommit, match="another engine writes this table under our name"):
            late.apply(3, pa.Table.from_batches([batch]))
        late.discard([token])
    publish(sink, batch, 1, world(name="another/name"))
    publish(sink, batch, 4, place)  # the other one is stopped


@pytest.mark.parametrize("trouble", ["half-close", "drop"])
def test_a_commit_whose_answer_is_lost_is_known_for_our_own(object_store: ObjectStore, trouble: str) -> None:
    name, batch = f"lost-{trouble}", rows({"value": [1.0]})
    with closing(CutNetwork(object_store.port)) as between:
        storage = {**object_store.options, "aws_endpoint_url": f"http://127.0.0.1:{between.port}", "timeout": "2s"}
        delta = Delta.model_validate({"path": f"s3://plant/{name}", "storage": storage})
        with closing(delta.open(world(), batch.schema)) as writer:
            writer.publish(1, [writer.stage(1, [batch])])
            token = writer.stage(2, [batch])
            between.trouble_at_answer(trouble, f"PUT /plant/{name}/_delta_log/".encode())
            with suppress(Unavailable):  # the library gives up on a reset; what was closed it tries again
                writer.publish(2, [token])
            writer.publish(2, [token])
            assert writer.published() == 2
            assert between.cut > 0
    table = DeltaTable(delta.path, storage_options=object_store.options)
    assert len(table.to_pyarrow_table()) == 2


def test_housekeeping_merges_files(sink: Delta, object_store: ObjectStore) -> None:
    place = world()
    for epoch in range(1, 6):
        publish(sink, rows({"value": [float(epoch)]}), epoch, place)
    with closing(sink.open(place, rows({"value": [1.0]}).schema)) as writer:
        writer._epochs = 10_000
        writer.housekeep()
        assert writer.published() == 5
    table = DeltaTable(sink.path, storage_options=object_store.options)
    assert len(table.file_uris()) == 1
    assert sorted(table.to_pyarrow_table()["value"].to_pylist()) == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_store_that_is_away_is_waited_for(sink: Delta) -> None:
    away = {**sink.storage, "aws_endpoint_url": f"http://127.0.0.1:{free_port()}", "max_retries": "0"}
    with pytest.raises(Unavailable, match="s3://plant/") as told:
        publish(Delta.model_validate({"path": sink.path, "storage": away}), rows({"value": [1.0]}))
    assert "\x1b" not in str(told.value)


def test_places_that_are_none_are_named() -> None:
    with pytest.raises(ConfigError, match="ftp:// is no place"):
        Delta(path="ftp://host/table").check(world())
    with pytest.raises(ConfigError, match="8020"):
        Delta(path="hdfs://namenode:9870/table").check(world())
    with pytest.raises(SinkError, match="nowhere"):
        publish(Delta(path="s3://nowhere-at-all/t", storage={"aws_access_key_id": "x"}), rows({"value": [1.0]}))


@pytest.mark.timeout(240)
def test_each_row_is_there_once_through_kills(object_store: ObjectStore, tmp_path: Path) -> None:
    file, source = tmp_path / "remote.yaml", tmp_path / "in.ndjson"
    file.write_text(PIPELINE.format(folder=tmp_path, storage=json.dumps(object_store.options)))
    source.touch()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "tocsin.cli", "run", str(file)], env=dict(os.environ))

    def kept() -> list[int]:
        try:
            table = DeltaTable("s3://plant/kills", storage_options=object_store.options)
        except Exception:  # not made yet
            return []
        return list(table.to_pyarrow_table(columns=["n"])["n"].to_pylist())

    def wait(count: int) -> None:
        until = time.monotonic() + 90
        while len(kept()) < count:
            assert time.monotonic() < until, f"{len(kept())} of {count} rows"
            time.sleep(0.1)

    process = start()
    try:
        for part in range(3):
            with source.open("a") as lines:
                for n in range(part * ROWS // 3, (part + 1) * ROWS // 3):
                    lines.write(json.dumps({"machine": f"m{n % 3}", "n": n}) + "\n")
            wait(part * ROWS // 3 + 1)
            if part < 2:
                process.kill()
                process.wait(10)
                process = start()
        wait(ROWS)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(10)
    assert Counter(kept()) == Counter(range(ROWS))
