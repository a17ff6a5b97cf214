"""Trouble with disks, sources and sinks: back to the last checkpoint, a few times; a full disk is waited out."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import simulated_parts as parts
from world import World

from tocsin.engine.embedded import RETRIES, EmbeddedRunner
from tocsin.engine.recovery import Effects
from tocsin.errors import CorruptState, DiskTrouble, DurabilityError, SourceError
from tocsin.world import SystemDisk


class FastClock:
    """Waiting takes no time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def now_us(self) -> int:
        return int(self.now_s * 1e6)

    def monotonic_s(self) -> float:
        self.now_s += 0.001
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Failing(SystemDisk):
    """Writes of state files fail for a while."""

    def __init__(self, failures: int, number: int) -> None:
        super().__init__()
        self.failures, self.number, self.calls = failures, number, Counter[str]()

    def write(self, path: Path, data: bytes | memoryview) -> None:
        self.calls["write"] += 1
        if self.calls["write"] > 2 and self.failures:
            self.failures -= 1
            raise OSError(self.number, "simulated", str(path))
        super().write(path, data)


def run(world: World, disk: SystemDisk, **settings: Any) -> EmbeddedRunner:
    runner = EmbeddedRunner(world.plan(**settings), Effects(FastClock(), disk, held_bytes=0))
    runner.run()
    return runner


@pytest.fixture
def whole(tmp_path: Path) -> World:
    world = World(tmp_path / "whole")
    EmbeddedRunner(world.plan(1000)).run()
    return world


def same(world: World, whole: World) -> None:
    for name in ("sums", "windows", "quarantine"):
        assert world.rows(name) == whole.rows(name)
    assert sorted(world.rung) == sorted(whole.rung)


def test_a_few_errors_are_survived(tmp_path: Path, whole: World) -> None:
    world = World(tmp_path / "world")
    runner = run(world, Failing(3, errno.EIO))
    assert runner.counters.recoveries == 3
    same(world, whole)


def test_many_errors_are_told_and_a_start_on_a_sound_disk_goes_on(tmp_path: Path, whole: World) -> None:
    world = World(tmp_path / "world")
    with pytest.raises(
        DiskTrouble, match="simulated; nothing committed is lost: look after the disk, then start again"
    ):
        run(world, Failing(RETRIES + 1, errno.EIO))
    run(world, Failing(0, errno.EIO))
    same(world, whole)


def test_a_full_disk_is_waited_out_however_long_it_takes(tmp_path: Path, whole: World) -> None:
    """I11."""
    world = World(tmp_path / "world")
    runner = run(world, Failing(20 * RETRIES, errno.ENOSPC))
    assert runner.counters.recoveries == 20 * RETRIES
    assert runner.counters.trouble is None
    same(world, whole)


def test_stopping_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    world = World(tmp_path)

    class Stopping(Failing):
        def write(self, path: Path, data: bytes | memoryview) -> None:
            if self.calls["write"] == 10:
                runner.stop()
            super().write(path, data)

    runner = EmbeddedRunner(world.plan(), Effects(FastClock(), Stopping(10**9, errno.ENOSPC), held_bytes=0))
    runner.run()
    assert "full" in str(runner.counters.trouble)


def test_a_failed_fsync_stops_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)

    class Refusing(SystemDisk):
        calls = 0

        def sync(self, path: Path) -> None:
            self.calls += 1
            raise DurabilityError("simulated")

    disk = Refusing()
    with pytest.raises(DurabilityError):
        run(world, disk)
    assert disk.calls == 1


def test_a_source_that_is_gone_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)

    class Gone(parts.Lines):
        def open(self, world: Any) -> Any:
            raise SourceError("the broker refuses")

    from dataclasses import replace

    plan = world.plan()
    plan = replace(plan, sources=(replace(plan.sources[0], source=Gone(lines={"0": ()})),))
    with pytest.raises(SourceError, match="refuses"):
        EmbeddedRunner(plan, Effects(FastClock())).run()


def test_corrupt_state_is_named_and_nothing_is_touched(tmp_path: Path) -> None:
    world = World(tmp_path)
    EmbeddedRunner(world.plan(), Effects(held_bytes=0)).run()
    tables = {name: dict(table) for name, table in world.tables.items()}
    damaged = sorted((tmp_path / "state").glob("*.state"))
    for path in damaged:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(CorruptState, match="does not match its checksum"):
        EmbeddedRunner(world.plan(), Effects(held_bytes=0)).run()
    assert world.tables == tables
    assert sorted((tmp_path / "state").glob("*.state")) == damaged
