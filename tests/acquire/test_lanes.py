"""Files that overlap in time: each is a lane, none is late because another was read first, and none is read twice."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hand_clock import HandClock
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.acquire._lanes import DONE, FinishedFiles
from tocsin.acquire.files import Files, FilesReader
from tocsin.acquire.files import _reader as files_reader
from tocsin.batch import END, LATE, OUT, START, Batch, as_keys, as_times
from tocsin.condition.event_time import EventTime
from tocsin.pipeline.model import Pipeline
from tocsin.testing import BEGIN_US


def seconds(rows: pa.RecordBatch) -> list[int]:
    """What each line says: when it happened, in seconds."""
    return [int(payload.split(b" ")[0]) for payload in rows["payload"].to_pylist()]


def first_time(parts: Sequence[pa.RecordBatch]) -> int:
    return BEGIN_US + min(seconds(parts[-1])) * 1_000_000


class Line:
    """A reader with an event time behind it, which a checkpoint can hold and a crash can take."""

    def __init__(self, path: Path | str, held: tuple[Any, pa.Table] | None = None, **settings: Any) -> None:
        self.time = EventTime(column="ts", lateness="2s")
        self.clock = HandClock()
        self.offset, self.state = None, self.time.initial()
        if held is not None:
            self.offset, self.state = json.loads(json.dumps(held[0])), self.time.load(held[1])
        self.reader = FilesReader(Files(path=str(path), **settings), self.offset, self.clock, first_time)

    def held(self) -> tuple[Any, pa.Table]:
        return self.offset, self.time.dump(self.state)

    def poll(self, rows_max: int) -> list[Batch] | None:
        """What leaves for the next batch of lines; None if there was none."""
        polled = self.reader.poll(rows_max, 1.0)
        if polled is None:
            return None
        batch, self.offset = polled
        keys = as_keys(pa.array([p.decode().strip() for p in batch.rows["payload"].to_pylist()], pa.string()))
        stamps = as_times(BEGIN_US + np.array(seconds(batch.rows), np.int64) * 1_000_000)
        rows = pa.RecordBatch.from_arrays([keys, stamps], ["key", "ts"])
        self.state, left = self.time.step(self.state, Batch(rows, batch.watermark_us, lane=batch.lane))
        return list(left)


def write(path: Path, times: Sequence[int]) -> None:
    path.write_text("".join(f"{t} {path.name}-{i}\n" for i, t in enumerate(times)))


some_files = st.lists(st.lists(st.integers(0, 60), max_size=8).map(sorted), min_size=2, max_size=5)


@settings(deadline=None)
@given(some_files, st.integers(1, 4), st.integers(0, 25))
def test_every_row_comes_once_and_none_is_late_wherever_it_stops(
    tmp_path_factory: pytest.TempPathFactory, given_files: list[list[int]], rows_max: int, stop: int
) -> None:
    folder = tmp_path_factory.mktemp("machines")
    for i, times in enumerate(given_files):
        write(folder / f"m{i}.txt", times)
    wanted = sorted(f"{t} m{i}.txt-{n}" for i, times in enumerate(given_files) for n, t in enumerate(times))
    line, came, watermark = Line(folder), [], START
    for n in range(200):
        if n == stop:  # a crash right behind a checkpoint
            line = Line(folder, line.held())
        left = line.poll(rows_max)
        assert left is not None
        for batch in left:
            assert batch.port != LATE or not len(batch)
            times = batch.rows["time"].cast(pa.int64()).to_pylist() if batch.port == OUT else []
            assert all(t >= watermark for t in times), "a row lies before the watermark"
            came += batch.rows["key"].to_pylist()
        watermark = max(watermark, left[-1].watermark_us)
        if watermark == END:
            break
    assert sorted(came) == wanted
    assert line.offset == {DONE: [str(folder / f"m{len(given_files) - 1}.txt")]}, "what is done is not kept by name"


def test_files_that_follow_each_other_are_read_one_after_the_other(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", range(20, 40))  # by their times, not their names
    write(tmp_path / "b.txt", range(20))
    line, came = Line(tmp_path), []
    while (left := line.poll(7)) is not None and left[-1].watermark_us != END:
        came += [int(key.split()[0]) for key in left[-1].rows["key"].to_pylist()]
    assert came == list(range(40))


def test_thousands_of_files_are_not_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_reader, "MERGED_MAX", 4)
    for i in range(60):
        write(tmp_path / f"{i}.txt", range(i % 7, 30))
    before = len(os.listdir("/proc/self/fd"))
    line, rows, most = Line(tmp_path), 0, 0
    while (left := line.poll(5)) is not None and left[-1].watermark_us != END:
        rows += len(left[-1])
        most = max(most, len(os.listdir("/proc/self/fd")) - before)
    assert rows == sum(30 - i % 7 for i in range(60))
    assert most <= 5


def test_what_grew_while_nobody_read_is_caught_up_without_a_late_row(tmp_path: Path) -> None:
    for name in ("press1.txt", "press2.txt"):
        write(tmp_path / name, range(10))
    line = Line(tmp_path, follow=True)
    while line.poll(1000) is not None:
        pass
    for name in ("press1.txt", "press2.txt"):
        with (tmp_path / name).open("a") as file:
            file.writelines(f"{t} {name}\n" for t in range(10, 3610))
    line, rows = Line(tmp_path, line.held(), follow=True), 0
    while (left := line.poll(100)) is not None:
        assert [batch.port for batch in left] == [OUT]
        rows += len(left[-1])
    assert rows == 2 * 3600


def test_a_file_that_is_silent_for_long_no_longer_holds_time_back(tmp_path: Path) -> None:
    for name in ("live.txt", "silent.txt"):
        write(tmp_path / name, range(10))
        os.utime(tmp_path / name, (1_900_000_000, 1_900_000_000))
    line = Line(tmp_path, follow=True)
    while line.poll(1000) is not None:
        pass
    for wait_s, wanted_s in ((0, 9), (20, 70)):
        line.clock.sleep(wait_s)
        with (tmp_path / "live.txt").open("a") as file:
            file.write(f"{wanted_s} late\n")
        while line.poll(1000) is not None:
            pass
    assert set(line.state.lanes) == {str(tmp_path / "live.txt")}
    assert line.state.passed == BEGIN_US + 68_000_000


def test_an_offset_of_a_version_that_read_one_file_after_another_goes_on(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.txt" for i in range(1, 13)]
    done = FinishedFiles(paths, None, [str(paths[8])])
    assert done.left() == paths[8:]
    for i in (10, 8, 11):
        done.add(paths[i])
    assert done.told() == [str(paths[8]), str(paths[10]), str(paths[11])]
    assert FinishedFiles(paths, done.told(), []).left() == [paths[9]]


def test_a_state_of_a_version_without_lanes_is_understood() -> None:
    step = EventTime(column="ts", lateness="2s")
    state = step.load(pa.table({"key": [""], "newest_us": pa.array([10_000_000], pa.int64())}))
    assert (state.overall, state.passed, state.lanes) == (10_000_000, 8_000_000, {})


def test_an_archive_of_files_for_each_machine_loses_nothing_and_marks_what_is_late(tmp_path: Path) -> None:
    import tocsin
    from tocsin.engine.embedded import EmbeddedRunner

    for name in ("press1", "press2"):
        lines = [f"2026-01-01T{h:02d}:{m:02d}:00Z,{name},{m}" for h in range(3) for m in range(60)]
        if name == "press2":
            lines.append("2026-01-01T00:30:00Z,press2,99")
        (tmp_path / f"{name}.csv").write_text("\n".join(["ts,machine,v", *lines]) + "\n")
    plan = Pipeline(
        name="presses",
        folder=tmp_path / "data",
        checkpoint="1ms",
        source={"files": {"path": str(tmp_path / "*.csv")}},
        decode={"csv": {"columns": {"ts": "timestamp", "machine": "text", "v": "int"}}},
        key="machine",
        time={"column": "ts", "lateness": "10s"},
        streams={
            "readings": {"sinks": [{"delta": "readings"}]},
            "hours": {
                "steps": [{"window": {"every": "1h", "compute": {"n": "count(*)"}}}],
                "sinks": [{"delta": "hours"}],
            },
        },
    ).plan()
    EmbeddedRunner(plan).run()
    kept = tocsin.read("readings", tmp_path / "data").to_pylist()
    assert len(kept) == 361
    assert [row["v"] for row in kept if row["late"]] == [99]
    assert [row["n"] for row in tocsin.read("hours", tmp_path / "data").to_pylist()] == [60] * 6
