"""What does the work in a Flink job, without Flink: barriers, crashes, and processes that live on after them."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from fake_flink import RUN, Attempt, run
from timed_readings import write_readings

from tocsin import Pipeline, read
from tocsin.batch import ipc_stream
from tocsin.engine import source_task
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.remembered import NO_CHANGE
from tocsin.errors import ForeignCommit
from tocsin.flink import reading
from tocsin.flink.places import open_reader, reader_names
from tocsin.pipeline.plan import Plan


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
    return write_readings(tmp_path / "in.ndjson", 400, 9, late_share=0.01)


def bag(table: str, folder: Path) -> Counter[str]:
    return Counter(str(sorted(row.items())) for row in read(table, folder).to_pylist())


def test_crashes_lose_and_double_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    EmbeddedRunner(plan_of(tmp_path / "embedded", data)).run()
    monkeypatch.setattr(source_task, "ROWS_MAX", 100)
    monkeypatch.setattr(reading, "ROWS_AT_ONCE", 100)
    happened: Counter[str] = Counter()
    for seed in range(4):
        happened += run(plan_of(tmp_path / f"flink{seed}", data), random.Random(seed))[1]
        for table in ("scored", "late_source"):
            wanted = bag(table, tmp_path / "embedded")
            assert wanted
            assert bag(table, tmp_path / f"flink{seed}") == wanted, table
    assert min(happened[fate] for fate in ("fails", "crashes after", "zombie first", "zombie last")) > 2, happened


def test_a_table_that_is_ahead_of_its_checkpoint_is_left_alone(data: Path, tmp_path: Path) -> None:
    plan, rng = plan_of(tmp_path / "flink", data), random.Random(1)
    attempt = Attempt(plan, None, rng)
    attempt.pass_on()
    first = attempt.barrier(1)
    attempt.publish(1)
    attempt.pass_on()
    attempt.sinks["scored.0.delta"].take(rows_of_table("scored", tmp_path / "flink"))
    attempt.barrier(2)
    attempt.publish(2)
    attempt.close()
    behind = Attempt(plan, first, rng)
    behind.close()
    with pytest.raises(ForeignCommit, match="stands at epoch 2"):
        behind.publish(1)


def rows_of_table(table: str, folder: Path) -> bytes:
    return ipc_stream(read(table, folder).to_batches())


def test_a_poll_gathers_while_more_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An element has its fixed cost in Flink and in every step: a reader that is behind fills it."""
    data = write_readings(tmp_path / "in.ndjson", 60, 50)
    monkeypatch.setattr(source_task, "ROWS_MAX", 500)
    monkeypatch.setattr(reading, "ROWS_MANY", 500)
    for constant in ("MORE_S", "AT_ONCE_S"):
        monkeypatch.setattr(reading, constant, 60.0)
    plan = plan_of(tmp_path / "flink", data)
    one = open_reader(reader_names(plan)[0], 0, plan, 1, RUN, NO_CHANGE, None)
    rows = []
    while not one.finished:
        polled = [pa.ipc.open_stream(element.data).read_all().num_rows for element in one.poll() if element.data]
        rows += [sum(polled)] if sum(polled) else []
    one.close()
    assert rows == [3_000]
