"""Backup and restore: with the engine running, with kills in between, and what is restored goes on."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from tocsin.cli import main
from tocsin.engine.audit import newest, verify
from tocsin.engine.checkpoint import peek
from tocsin.errors import CorruptState
from tocsin.lake.read import query, tables
from tocsin.serve.accounts import Accounts

pytestmark = pytest.mark.timeout(120)
FILE = """
name: plant
folder: {folder}
checkpoint: 300ms
source: {{files: {{path: {readings}, follow: {follow}}}}}
decode: {{json: {{columns: {{machine: category, ts: {{type: timestamp, unit: s}}, n: int}}}}}}
key: machine
time: ts
streams:
  readings: {{sinks: [delta: readings]}}
  sums: {{from: readings, steps: [window: {{every: 10s, compute: {{s: sum(n)}}}}], sinks: [delta: sums]}}
"""
TOCSIN = [sys.executable, "-m", "tocsin.cli"]


def lines(begin: int, end: int) -> str:
    return "".join(
        json.dumps({"machine": f"m{n % 3}", "ts": 1_750_000_000 + n // 3, "n": n}) + "\n" for n in range(begin, end)
    )


def counted(folder: Path) -> tuple[int, int]:
    (row,) = query("select count(*) as c, count(distinct n) as d from readings", folder).to_pylist()
    return row["c"], row["d"]


def tocsin(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def wait_for(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def epoch(folder: Path) -> int:
    try:
        last = peek(folder / ".state")
    except CorruptState:  # it is being made
        return 0
    return 0 if last is None else last.epoch


def file_of(folder: Path, readings: Path, follow: bool = False) -> Path:
    """A pipeline that reads these lines into this folder."""
    file = folder.with_suffix(".yaml")
    file.write_text(FILE.format(folder=folder, readings=readings, follow=str(follow).lower()))
    return file


@contextmanager
def going_on(folder: Path, readings: Path) -> Iterator[None]:
    """A pipeline that goes on reading there; it is ended by ``kill -9``."""
    process = subprocess.Popen([*TOCSIN, "run", str(file_of(folder, readings, follow=True))])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def has(folder: Path, rows: int) -> bool:
    """Whether a table has come to so many rows; fails where one of them is there twice."""
    if "readings" not in tables(folder):
        return False
    count, different = counted(folder)
    assert count == different <= rows
    return count == rows


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The folder of a pipeline that has read 300 lines to the end."""
    (tmp_path / "in.ndjson").write_text(lines(0, 300))
    tocsin("run", file_of(tmp_path / "data", tmp_path / "in.ndjson"))
    return tmp_path


def test_a_running_pipeline_is_backed_up_and_what_is_restored_goes_on(tmp_path: Path) -> None:
    data, copy, restored, readings = (tmp_path / name for name in ("data", "copy", "restored", "in.ndjson"))
    told = 300
    readings.write_text(lines(0, told))

    def tell() -> None:
        nonlocal told
        with readings.open("a") as file:
            file.write(lines(told, told + 300))
        told += 300

    back_up = [*TOCSIN, "backup", str(copy), "--folder", str(data)]
    with going_on(data, readings):
        wait_for(lambda: has(data, told))
        Accounts(data / ".state").add_token("grafana", "viewer", time.time_ns())
        killed = subprocess.Popen(back_up)
        wait_for(lambda: (tmp_path / "copy.partial").exists() or killed.poll() is not None)
        killed.kill()
        if killed.wait() == 0:  # it was faster than we
            copy.rename(tmp_path / "faster")
        assert not copy.exists(), "whole, or not at all"
        copying = subprocess.Popen(back_up)
        while copying.poll() is None:  # the engine commits while the copy is made
            tell()
            time.sleep(0.1)
        assert copying.returncode == 0
        assert not (tmp_path / "copy.partial").exists()
        tell()
        wait_for(lambda: has(data, told))
        assert epoch(copy) < epoch(data)
    tocsin("restore", copy, "--folder", restored)
    assert epoch(restored) == epoch(copy)
    before, _ = counted(restored)
    assert 300 <= before < told
    with going_on(restored, readings):
        tell()
        wait_for(lambda: has(restored, told))  # nothing is lost, nothing is doubled
    assert [row.what for row in newest(restored / ".state", 2)] == ["restored", "backup"]
    assert not verify(restored / ".state").fault
    assert stat.S_IMODE((restored / ".state" / "access.db").stat().st_mode) == 0o600
    assert [row[0] for row in Accounts(restored / ".state").listed()] == ["grafana"]


def test_what_does_not_fit_is_refused_in_a_sentence(whole: Path) -> None:
    copy, data = whole / "copy", whole / "data"
    assert "no pipeline's folder" in tocsin("backup", copy, "--folder", whole / "none", code=2)
    assert "lies in" in tocsin("backup", data / "copy", "--folder", data, code=2)
    tocsin("backup", copy, "--folder", data)
    assert "is there already" in tocsin("backup", copy, "--folder", data, code=2)
    assert "is there already" in tocsin("restore", copy, "--folder", data, code=2)
    assert "is no backup" in tocsin("restore", data, "--folder", whole / "other", code=2)
    (changed,) = (copy / "readings").glob("*.parquet")
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    assert "is not what was backed up" in tocsin("restore", copy, "--folder", whole / "other", code=1)
    assert not (whole / "other").exists()
    manifest = json.loads((copy / "backup.json").read_text())
    manifest["files"]["../outside"] = [1, "0"]
    (copy / "backup.json").write_text(json.dumps(manifest))
    assert "outside" in tocsin("restore", copy, "--folder", whole / "other", code=1)
    next(iter((data / "readings").glob("*.parquet"))).unlink()
    assert "has lost data files" in tocsin("backup", whole / "second", "--folder", data, code=1)
    assert not (whole / "second").exists()


def test_a_restore_that_is_killed_leaves_nothing_half(whole: Path) -> None:
    tocsin("backup", whole / "copy", "--folder", whole / "data")
    process = subprocess.Popen([*TOCSIN, "restore", str(whole / "copy"), "--folder", str(whole / "other")])
    wait_for(lambda: (whole / "other.partial").exists() or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    if process.wait() == 0 or (whole / "other").exists():  # it was faster than we
        assert counted(whole / "other") == (300, 300)
        (whole / "other").rename(whole / "faster")
    assert not (whole / "other").exists()
    tocsin("restore", whole / "copy", "--folder", whole / "other")
    assert counted(whole / "other") == (300, 300)
