"""A real Flink cluster, out of pip's distribution: the tables of the embedded run, and the same after a kill.

It needs Flink's environment, which is one of its own: TOCSIN_FLINK_PYTHON names its interpreter.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tocsin import read
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.pipeline.yamlfile import load

PYTHON = os.environ.get("TOCSIN_FLINK_PYTHON")
pytestmark = [
    pytest.mark.skipif(PYTHON is None, reason="TOCSIN_FLINK_PYTHON does not name a Python with tocsin[flink]"),
    pytest.mark.timeout(900),
]
STARTED_S, ENDED_S = 180.0, 600.0
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


class Machine:
    """The command line in Flink's environment, and a cluster that it has started."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder

    def command(self, *arguments: str) -> list[str]:
        assert PYTHON is not None
        return [PYTHON, "-m", "tocsin.cli", *arguments]

    def flink(self, what: str, *more: str) -> None:
        place = ["--folder", str(self.folder / "cluster"), "--port", str(self.port)]
        subprocess.run(self.command("flink", what, *place, *more), check=True, timeout=STARTED_S)

    def run(self, file: Path, folder: Path, *settings: str, parallelism: int = 1) -> subprocess.Popen[str]:
        self.flink("up")  # the end of a job may have taken the TaskManager with it, see docs/scale.md
        given = [word for one in (f"folder={folder}", *settings) for word in ("--set", one)]
        command = self.command("run", str(file), *given, "--on", "flink", "--parallelism", str(parallelism))
        return subprocess.Popen([*command, "--jobmanager", f"127.0.0.1:{self.port}"], stderr=subprocess.PIPE, text=True)

    def kill_taskmanager(self) -> None:
        pid, _ = (self.folder / "cluster" / "pids" / "taskmanager-0").read_text().split()
        os.kill(int(pid), signal.SIGKILL)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("flink"))
    made.flink("up")
    try:
        yield made
    finally:
        made.flink("down")


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


def assert_same(one: Path, other: Path) -> None:
    for table in TABLES:
        wanted, given = as_bag(table, one), as_bag(table, other)
        assert wanted, f"{table} has no rows: it proves nothing"
        assert not wanted - given, f"{table}: lost"
        assert not given - wanted, f"{table}: doubled, or wrong"


def ended_well(running: subprocess.Popen[str]) -> str:
    told = running.communicate(timeout=ENDED_S)[1]
    assert running.returncode == 0, told
    return told


def published(epochs: int, folder: Path, running: subprocess.Popen[str]) -> None:
    """Wait for so many more epochs than there are."""
    log = folder / "high" / "_delta_log"
    wanted = len(list(log.glob("*.json"))) + epochs
    until_s = time.monotonic() + STARTED_S
    while len(list(log.glob("*.json"))) < wanted:
        assert running.poll() is None, f"it has ended too early: {running.communicate()[1]}"
        assert time.monotonic() < until_s
        time.sleep(0.05)


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
