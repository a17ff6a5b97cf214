"""A real Flink cluster: the tables of the embedded run, the same after a kill, and with a pipeline that has changed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from real_flink import MARKS, PYTHON, STARTED_S, Machine, ended_well, started

from tocsin import read
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.pipeline.yamlfile import load

pytestmark = MARKS
FILE = """
name: spread
folder: nowhere
source: {files: {path: "DATA"}}
decode: {json: {columns: {m: category, t: timestamp, value: float}}}
key: m
time: {column: t, lateness: 2s}
checkpoint: 500ms
streams:
  high:
    steps:
      - window: {every: 20s, collect: [time, value]}
      - zscore: {of: value}
      - explode
      - keep: abs(z) > 1.2
      - select: [value, z]
    sinks: [delta: high]
  alarms:
    steps:
      - derive: {hot: value > 60}
      - alarm: {rule: hot, when: hot}
      - select: [event, rule, id, value]
    sinks: [delta: alarms]
"""
PACED = ("source.files.replay=50x", "source.files.time_column=t")
"""40 seconds of rows, so that there is time to disturb it."""
TABLES = ("high", "alarms", "late_source", "quarantine")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with started(tmp_path_factory.mktemp("flink")) as made:
        yield made


def readings(path: Path, seconds: int, machines: int) -> None:
    rng = random.Random(7)
    with path.open("w") as lines:
        for second in range(seconds):
            for machine in range(machines):
                at = max(0, second - (30 if rng.random() < 0.001 else 0))  # some are late
                stamp = f"2026-01-01T{at // 3600:02}:{at // 60 % 60:02}:{at % 60:02}.{machine:03}Z"
                lines.write(json.dumps({"m": f"m{machine}", "t": stamp, "value": rng.gauss(50, 5)}) + "\n")
        lines.write('{"m": "m1", "t": "never", "value": 1.0}\n')


def pipeline_file(folder: Path) -> Path:
    data, file = folder / "in.ndjson", folder / "spread.yaml"
    readings(data, seconds=2_000, machines=20)
    file.write_text(FILE.replace("DATA", str(data)))
    EmbeddedRunner(load(file, {"folder": str(folder / "embedded")}).plan()).run()
    return file


def as_bag(table: str, folder: Path) -> Counter[str]:
    """All columns of all rows; but rejected rows bear the time of their arrival, which no two runs share."""
    rows: list[dict[str, Any]] = read(table, folder).to_pylist()
    kept = [{name: value for name, value in row.items() if "sha256" not in row or name != "time"} for row in rows]
    return Counter(str(sorted(row.items())) for row in kept)


def halves(table: str, folder: Path) -> set[tuple[Any, ...]]:
    """Key, time and half the value of all rows."""
    rows: list[dict[str, Any]] = read(table, folder).to_pylist()
    return {(row["key"], row["time"], row["half"] if "half" in row else row["value"] / 2) for row in rows}


def assert_same(one: Path, other: Path, tables: Sequence[str] = TABLES) -> None:
    for table in tables:
        wanted, given = as_bag(table, one), as_bag(table, other)
        assert wanted, f"{table} has no rows: it proves nothing"
        assert not wanted - given, f"{table}: lost"
        assert not given - wanted, f"{table}: doubled, or wrong"


def published(epochs: int, folder: Path, running: subprocess.Popen[str]) -> None:
    """Wait for so many more epochs than there are."""
    log = folder / "high" / "_delta_log"
    wanted = len(list(log.glob("*.json"))) + epochs
    until_s = time.monotonic() + STARTED_S
    while len(list(log.glob("*.json"))) < wanted:
        assert running.poll() is None, f"it has ended too early: {running.communicate()[1]}"
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_a_job_is_put_together_without_what_its_workers_need() -> None:
    """It would take a second more of CPU time at each submission."""
    assert PYTHON is not None
    code = "import sys, tocsin.flink.job; print(*sys.modules)"
    loaded = subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "tocsin.flink.job" in loaded
    assert not {"numba", "sqlglot", "pydantic", "deltalake", "tocsin.engine"} & set(loaded)


def test_every_table_is_that_of_the_embedded_run(machine: Machine, tmp_path: Path) -> None:
    file = pipeline_file(tmp_path)
    ended_well(machine.run(file, tmp_path / "flink"))
    assert_same(tmp_path / "embedded", tmp_path / "flink")


def test_a_killed_taskmanager_loses_and_doubles_nothing(machine: Machine, tmp_path: Path) -> None:
    file = pipeline_file(tmp_path)
    running = machine.run(file, tmp_path / "flink", *PACED)
    published(3, tmp_path / "flink", running)
    machine.kill_taskmanager()
    machine.flink("up")
    assert "going back to the last checkpoint" in ended_well(running)
    assert_same(tmp_path / "embedded", tmp_path / "flink")


def test_it_goes_on_at_another_parallelism(machine: Machine, tmp_path: Path) -> None:
    file = pipeline_file(tmp_path)
    for parallelism in (1, 2):
        running = machine.run(file, tmp_path / "flink", *PACED, parallelism=parallelism)
        published(3, tmp_path / "flink", running)
        running.send_signal(signal.SIGINT)
        ended_well(running)
    ended_well(machine.run(file, tmp_path / "flink"))
    assert_same(tmp_path / "embedded", tmp_path / "flink")


def test_it_goes_on_with_a_changed_pipeline(machine: Machine, tmp_path: Path) -> None:
    """A rule more, with a table of its own, and another one's limit: the windows and alarms go on as they were."""
    file = pipeline_file(tmp_path)
    running = machine.run(file, tmp_path / "flink", *PACED)
    published(3, tmp_path / "flink", running)
    running.send_signal(signal.SIGINT)
    ended_well(running)
    before = as_bag("high", tmp_path / "flink").total()
    text = file.read_text().replace("keep: abs(z) > 1.2", "keep: abs(z) >= 1.2")
    file.write_text(text + "  all:\n    steps: [derive: {half: value / 2}, select: [half]]\n    sinks: [delta: all]\n")
    ended_well(machine.run(file, tmp_path / "flink"))
    assert_same(tmp_path / "embedded", tmp_path / "flink", [name for name in TABLES if name != "late_source"])
    assert as_bag("high", tmp_path / "flink").total() > before > 0
    assert as_bag("all", tmp_path / "flink").total() > 1_000
    # A stream without windows keeps all rows: from the change on late ones are there, and not in a table of their own.
    before_it, since = (halves(table, tmp_path / "flink") for table in ("late_source", "all"))
    late = halves("late_source", tmp_path / "embedded")
    assert late == before_it | (late & since)
    assert late & since
    assert not before_it & since
