"""The runner without faults: rows pass, epochs happen, ends and stops are clean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from world import LINES, World

from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.graph import Feed
from tocsin.engine.recovery import Attempt, Effects
from tocsin.errors import AlreadyRunning, ForeignCommit
from tocsin.world import SystemClock


def test_rows_pass_and_the_end_is_clean(tmp_path: Path) -> None:
    world = World(tmp_path)
    runner = EmbeddedRunner(world.plan())
    runner.run()
    good = sum(line.count(b",") == 2 for lines in LINES.values() for line in lines)
    assert len(world.rows("sums")) == good
    assert len(world.rows("quarantine")) == 350 - good
    assert all(row["source"] == "in" for rows in world.tables["quarantine"].values() for row in rows)
    assert sum(row["value"] for rows in world.tables["windows"].values() for row in rows) == good
    odd = [row for rows in world.tables["windows"].values() for row in rows if row["value"] % 2]
    assert len(world.rung) == len(set(world.rung)) == len(odd) > 0
    counted = runner.snapshot()
    assert counted["rows_in"] == {"in": 350}
    assert counted["rejected"] == [{"source": "in", "reason": "json_syntax", "rows": 350 - good, "detail": ""}]


def test_epochs_and_cuts_change_nothing(tmp_path: Path) -> None:
    worlds = []
    for i, (cut, checkpoint_us) in enumerate([(1000, 10**9), (1, 1), (7, 2_000)]):
        world = World(tmp_path / str(i))
        EmbeddedRunner(world.plan(cut, checkpoint_us=checkpoint_us)).run()
        worlds.append(world)
    for world in worlds[1:]:
        for name in ("sums", "windows", "quarantine"):
            assert world.rows(name) == worlds[0].rows(name)
        assert sorted(world.rung) == sorted(worlds[0].rung)


def test_memory_limit_brings_the_checkpoint_forward(tmp_path: Path) -> None:
    world = World(tmp_path)
    runner = EmbeddedRunner(world.plan(checkpoint_us=10**12, memory_bytes=2_000, cut=5))
    runner.run()
    assert runner.counters.epochs > 5


def test_a_run_that_ended_has_nothing_more_to_do(tmp_path: Path) -> None:
    world = World(tmp_path)
    EmbeddedRunner(world.plan()).run()
    before = {name: dict(table) for name, table in world.tables.items()}
    EmbeddedRunner(world.plan()).run()
    assert world.tables == before


class ByTurns(SystemClock):
    """A clock that goes on when it is told to."""

    at_s = 0.0

    def monotonic_s(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds


class Timed(EmbeddedRunner):
    """Notes, for each epoch, when it began and ended, and since when an alarm had waited for it."""

    def __init__(self, plan: Any, clock: ByTurns) -> None:
        super().__init__(plan, Effects(clock=clock, threads=False))
        self.time, self.waiting_s = clock, -1.0
        self.noted: list[tuple[float, float, float]] = []

    def _take(self, attempt: Attempt) -> tuple[int, int]:
        self.time.at_s += 0.04
        taken = super()._take(attempt)
        if attempt.graph.urgent and self.waiting_s < 0:
            self.waiting_s = self.time.at_s
        return taken

    def _epoch(self, attempt: Attempt) -> None:
        began_s, waiting_s, self.waiting_s = self.time.at_s, self.waiting_s, -1.0
        super()._epoch(attempt)
        self.time.at_s += 0.03
        self.noted.append((began_s, self.time.at_s, waiting_s))


def test_an_alarm_waits_for_the_alarm_before_it_and_for_no_other_epoch(tmp_path: Path) -> None:
    world = World(tmp_path)
    runner = Timed(world.plan(2, checkpoint_us=100_000), ByTurns())
    runner.run()
    at_once = after_a_usual_one = held_back = 0
    urgent_end_s = last_end_s = -1.0
    for began_s, end_s, waiting_s in runner.noted[:-1]:
        if waiting_s >= 0:
            is_free = urgent_end_s < 0 or waiting_s >= urgent_end_s + 4 * 0.03
            at_once += is_free
            after_a_usual_one += is_free and last_end_s > urgent_end_s
            held_back += not is_free
            assert began_s == waiting_s if is_free else began_s - waiting_s <= 4 * 0.03 + 0.04
            urgent_end_s = end_s
        last_end_s = end_s
    assert min(after_a_usual_one, held_back) > 0, (at_once, after_a_usual_one, held_back)


class StopAfter(Feed):
    """A feed that stops the runner after some rows."""

    def __init__(self, rows: int) -> None:
        self.left = rows
        self.runner: EmbeddedRunner | None = None

    def offer(self, stream: str, batch: Any) -> None:
        self.left -= len(batch)
        if self.left <= 0:
            assert self.runner is not None
            self.runner.stop()

    def counters(self, snapshot: Any) -> None:
        pass


@pytest.mark.parametrize("rows", [1, 40, 200])
def test_goes_on_where_it_was_stopped(tmp_path: Path, rows: int) -> None:
    whole = World(tmp_path / "whole")
    EmbeddedRunner(whole.plan(1000)).run()
    world = World(tmp_path / "stopped")
    feed = StopAfter(rows)
    feed.runner = EmbeddedRunner(world.plan(), feed=feed)
    feed.runner.run()
    assert len(world.rows("sums")) < len(whole.rows("sums"))
    EmbeddedRunner(world.plan(11)).run()
    for name in ("sums", "windows", "quarantine"):
        assert world.rows(name) == whole.rows(name)
    assert sorted(world.rung) == sorted(whole.rung)


def test_refuses_a_restored_table(tmp_path: Path) -> None:
    world = World(tmp_path)
    EmbeddedRunner(world.plan()).run()
    table = world.tables["sums"]
    for epoch in sorted(table)[-2:]:
        del table[epoch]
    with pytest.raises(ForeignCommit, match="sums"):
        EmbeddedRunner(world.plan()).run()


def test_refuses_a_second_engine(tmp_path: Path) -> None:
    from tocsin.engine.checkpoint import SqliteStore

    store = SqliteStore(tmp_path / "state")
    with pytest.raises(AlreadyRunning, match="in use by process"):
        EmbeddedRunner(World(tmp_path).plan()).run()
    store.close()
