"""A sink beside the loop: it may be away, refuse or be changed by others; what is committed gets there once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import Field
from world import World

from tocsin.contracts import Sink, Staged, Token
from tocsin.ends import Spooled
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.recovery import Effects
from tocsin.engine.sink_task import AT_ONCE, EPOCHS_MAX, HOUSEKEEPING_EPOCHS, SinkTask
from tocsin.errors import ForeignCommit, SinkError, Unavailable, Unwritten
from tocsin.testing import rows, world
from tocsin.world import World as PartWorld

ROWS = rows({"value": [1, 2]})


class Remote(Sink):
    """A table on another machine, which is away or refuses while it is told to."""

    table: Any = Field(exclude=True)

    def gathers_s(self) -> float:
        return float(self.table.get("gathers_s", 0.0))

    def open(self, world: PartWorld, schema: pa.Schema) -> RemoteWriter:
        self.table["opened"] = self.table.get("opened", 0) + 1
        return RemoteWriter(self.table, world, schema)


class RemoteWriter(Spooled):
    def __init__(self, table: dict[str, Any], world: PartWorld, schema: pa.Schema) -> None:
        super().__init__(world, schema)
        self.table = table

    def housekeep(self) -> None:
        if trouble := self.table.pop("housekeeping", None):
            raise trouble

    def applied(self) -> int | None:
        if self.table.get("trouble"):
            raise self.table["trouble"]
        epoch: int | None = self.table.get("epoch")
        return epoch

    def apply(self, epoch: int, rows: pa.Table) -> None:
        self.table["epoch"] = epoch
        self.table.setdefault("transactions", []).append(rows.num_rows)
        if self.table.pop("silent after", None):
            raise Unavailable("no answer")


class Hand:
    """A clock that is set by hand."""

    now_s = 0.0

    def now_us(self) -> int:
        return int(self.now_s * 1e6)

    def monotonic_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Hold:
    """How many bytes of an epoch's rows the checkpoint holds."""

    bytes = 0


@pytest.fixture(params=[0, 1 << 20], ids=["staged", "held"], autouse=True)
def held_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(Hold, "bytes", request.param)
    return int(request.param)


def task(folder: Path, table: dict[str, Any], schema: pa.Schema = ROWS.schema) -> tuple[SinkTask, Hand]:
    clock = Hand()
    given = world(folder)
    given = PartWorld(clock, given.disk, given.folder, given.scratch, given.name)
    return SinkTask("db", Remote.model_construct(table=table), schema, given, Hold.bytes), clock


def commit(sink: SinkTask, epoch: int) -> None:
    sink.commit(sink.stage(epoch, [ROWS]))


def test_what_waits_is_published_in_order_and_in_few_transactions(tmp_path: Path) -> None:
    table: dict[str, Any] = {}
    sink, clock = task(tmp_path, table)
    sink.recover([], None)
    table["trouble"] = Unavailable("the database is away")
    for epoch in range(1, EPOCHS_MAX + 51):
        commit(sink, epoch)
        sink.step()
    snapshot = sink.snapshot()
    assert snapshot["lag_epochs"] == EPOCHS_MAX + 50
    assert snapshot["reason"] == "the database is away"
    assert [one.epoch for one in sink.staged()] == list(range(1, EPOCHS_MAX + 51))
    del table["trouble"]
    clock.sleep(60)
    while sink.step():
        pass
    assert table["transactions"] == [2 * EPOCHS_MAX, 100]
    assert table["epoch"] == sink.published == EPOCHS_MAX + 50
    assert sink.snapshot() == {"lag_epochs": 0, "lag_bytes": 0, "reason": None}
    assert list((tmp_path / ".state").rglob("*.arrow")) == []


def test_a_table_that_grows_all_the_time_gets_its_epochs_together(tmp_path: Path) -> None:
    table: dict[str, Any] = {"gathers_s": 10.0}
    sink, clock = task(tmp_path, table)
    sink.recover([], None)
    for epoch in range(1, 61):  # one a second
        clock.sleep(1)
        commit(sink, epoch)
        sink.step()
    assert table["transactions"][:AT_ONCE] == [2] * AT_ONCE, "after a quiet time nothing waits"
    assert set(table["transactions"][AT_ONCE + 1 :]) <= {18, 20, 22}
    assert 4 <= len(table["transactions"][AT_ONCE:]) <= 6
    assert sink.staged()
    assert sink.snapshot() == {"lag_epochs": 0, "lag_bytes": 0, "reason": None}
    sink.drain(1.0)
    assert (sink.published, sink.staged()) == (60, ())
    clock.sleep(3_600)
    sink._draining = False
    before = len(table["transactions"])
    for epoch in range(61, 61 + AT_ONCE + 3):
        commit(sink, epoch)
        sink.step()
    assert len(table["transactions"]) == before + AT_ONCE


def test_what_is_gathered_is_published_when_it_is_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.engine.sink_task.GATHERED_BYTES", 10 * ROWS.nbytes)
    table: dict[str, Any] = {"gathers_s": 1e6}
    sink, _ = task(tmp_path, table)
    sink.recover([], None)
    for epoch in range(1, AT_ONCE + 22):
        commit(sink, epoch)
        sink.step()
    assert table["transactions"] == [2] * AT_ONCE + [20, 20]


def test_after_trouble_in_housekeeping_the_writer_is_opened_anew(tmp_path: Path) -> None:
    table: dict[str, Any] = {"housekeeping": OSError("disk trouble")}
    sink, clock = task(tmp_path, table)
    sink.recover([], None)
    for epoch in range(1, HOUSEKEEPING_EPOCHS + 1):
        commit(sink, epoch)
        sink.step()
    assert sink.snapshot()["reason"] == "disk trouble"
    assert table["opened"] == 1
    clock.sleep(60)
    commit(sink, HOUSEKEEPING_EPOCHS + 1)
    assert sink.step()
    assert table["opened"] == 2
    assert sum(table["transactions"]) == 2 * (HOUSEKEEPING_EPOCHS + 1)


def test_an_answer_that_was_lost_doubles_nothing(tmp_path: Path) -> None:
    table: dict[str, Any] = {"silent after": True}
    sink, clock = task(tmp_path, table)
    sink.recover([], None)
    commit(sink, 1)
    assert not sink.step()
    commit(sink, 2)  # would be one transaction with epoch 1, if nobody asked the table first
    clock.sleep(60)
    assert sink.step()
    assert table["transactions"] == [2, 2]


def test_it_waits_longer_after_each_failure_and_as_long_as_it_is_asked_to(tmp_path: Path) -> None:
    table: dict[str, Any] = {"trouble": Unavailable("busy", retry_after_s=7.0)}
    sink, clock = task(tmp_path, table)
    sink.recover([], None)
    commit(sink, 1)
    del table["trouble"]
    clock.sleep(6.9)
    assert not sink.step()
    clock.sleep(0.2)
    assert sink.step()


def test_a_start_publishes_what_the_checkpoint_left_and_forgets_what_it_did_not(tmp_path: Path) -> None:
    table: dict[str, Any] = {}
    first, _ = task(tmp_path, table)
    staged = [first.stage(epoch, [ROWS]) for epoch in (1, 2, 3)]
    again, _ = task(tmp_path, table)
    again.recover(staged[:2], None)
    assert (table["epoch"], table["transactions"]) == (2, [4])
    assert list((tmp_path / ".state").rglob("*.arrow")) == []


def test_a_start_does_not_wait_for_a_sink_that_is_away(tmp_path: Path) -> None:
    table: dict[str, Any] = {}
    first, _ = task(tmp_path, table)
    staged = [first.stage(1, [ROWS])]
    table["trouble"] = Unavailable("away")
    again, clock = task(tmp_path, table)
    again.recover(staged, None)
    assert again.snapshot()["reason"] == "away"
    del table["trouble"]
    clock.sleep(60)
    assert again.step()
    assert table["epoch"] == 1


def test_few_rows_stay_with_the_checkpoint_until_they_are_published(tmp_path: Path, held_bytes: int) -> None:
    table: dict[str, Any] = {"gathers_s": 10.0}
    sink, clock = task(tmp_path, table)
    sink.recover([], None)
    for epoch in range(1, AT_ONCE + 4):
        commit(sink, epoch)
        sink.step()
    assert len(list((tmp_path / ".state").rglob("*.arrow"))) == (0 if held_bytes else 3)
    table["trouble"] = Unavailable("away")
    clock.sleep(60)
    for epoch in range(AT_ONCE + 4, AT_ONCE + 7):  # what comes while it is away does not fill the memory
        sink.step()
        commit(sink, epoch)
    assert len(list((tmp_path / ".state").rglob("*.arrow"))) == (4 if held_bytes else 6)
    again, _ = task(tmp_path, table)
    again.recover(sink.staged(), AT_ONCE)
    del table["trouble"]
    again._retry_s = 0.0
    assert again.step()
    assert table["transactions"] == [2] * AT_ONCE + [12]
    assert list((tmp_path / ".state").rglob("*.arrow")) == []


def test_rows_that_wait_are_written_as_they_are_after_a_column_was_added(tmp_path: Path) -> None:
    table: dict[str, Any] = {}
    before, _ = task(tmp_path, table)
    staged = [before.stage(1, [ROWS])]
    wider = ROWS.schema.append(pa.field("unit", pa.string()))
    after, _ = task(tmp_path, table, wider)
    after.recover(staged, None)
    assert (table["epoch"], table["transactions"]) == (1, [2])
    after.commit(after.stage(2, [ROWS.append_column("unit", pa.array(["C", "K"]))]))
    assert after.step()
    assert table["transactions"] == [2, 2]


@pytest.mark.parametrize("found", [None, 2, 9])
def test_a_table_that_somebody_else_changed_is_refused(tmp_path: Path, found: int | None) -> None:
    table: dict[str, Any] = {"epoch": found}
    sink, _ = task(tmp_path, table)
    with pytest.raises(ForeignCommit, match="stands at epoch"):
        sink.recover([Staged(5, {"file": "x"}, 0)], 4)


class World2(World):
    """The plan of the tests, with one more sink for its sums."""

    def with_remote(self, table: dict[str, Any], **settings: Any) -> Any:
        from dataclasses import replace

        from tocsin.pipeline.plan import SinkNode

        plan = self.plan(**settings)
        sums = next(target for target in plan.sinks if target.id == "sums")
        remote = SinkNode("remote", sums.inputs, Remote.model_construct(table=table), sums.schema)
        return replace(plan, sinks=(*plan.sinks, remote))


def test_a_sink_that_is_away_stops_no_other_and_a_bounded_run_says_what_is_missing(tmp_path: Path) -> None:
    whole = World(tmp_path / "whole")
    EmbeddedRunner(whole.plan(1000)).run()
    lagging = World2(tmp_path / "lagging")
    table: dict[str, Any] = {"trouble": Unavailable("the database is away")}
    with pytest.raises(Unwritten, match=r"'remote' lacks \d+ epochs: the database is away.*run the pipeline again"):
        EmbeddedRunner(lagging.with_remote(table), Effects(Hand(), threads=False)).run()
    assert lagging.rows("sums") == whole.rows("sums")
    assert "epoch" not in table
    del table["trouble"]
    EmbeddedRunner(lagging.with_remote(table), Effects(threads=False)).run()
    assert sum(table["transactions"]) == len(whole.rows("sums"))


def test_a_sink_that_refuses_ends_the_engine_only_when_it_lags_too_far(tmp_path: Path) -> None:
    from dataclasses import replace

    lagging = World2(tmp_path)
    plan = lagging.with_remote({"trouble": SinkError("there is no such table")})
    with pytest.raises(SinkError, match="no such table"):
        EmbeddedRunner(replace(plan, lag_bytes=100), Effects(Hand(), threads=False)).run()


def test_nothing_more_is_read_while_a_sink_lags_too_far(tmp_path: Path) -> None:
    from dataclasses import replace

    lagging = World2(tmp_path)
    table: dict[str, Any] = {"trouble": Unavailable("away")}
    plan = replace(lagging.with_remote(table), lag_bytes=100)
    troubles: set[str] = set()

    class Returning(Hand):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if runner.counters.trouble:
                troubles.add(runner.counters.trouble)
            if self.now_s > 60:
                table.pop("trouble", None)

    runner = EmbeddedRunner(plan, Effects(Returning(), threads=False))
    runner.run()
    assert any(text.startswith("'remote' lags behind by") and text.endswith("away") for text in troubles)
    assert table["epoch"] > 0


class Plain(Sink):
    """A sink that counts."""

    def open(self, world: PartWorld, schema: pa.Schema) -> Any:
        return PlainWriter()


class PlainWriter:
    def stage(self, epoch: int, rows: Sequence[pa.RecordBatch]) -> Token:
        return {}

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        raise KeyError("a defect")

    def published(self) -> int | None:
        return None

    def discard(self, keep: Sequence[Token]) -> None: ...

    def housekeep(self) -> None: ...

    def counters(self) -> Mapping[str, int]:
        return {"refused": 3}

    def close(self) -> None: ...


def test_a_defect_is_raised_in_the_loop(tmp_path: Path) -> None:
    sink = SinkTask("plain", Plain(), ROWS.schema, world(tmp_path))
    sink.recover([], None)
    assert sink.counters() == {"refused": 3}
    sink.start()
    commit(sink, 1)
    assert sink._thread is not None
    for _ in range(1000):
        if sink._failure is not None:
            break
        sink._world.clock.sleep(0.01)
    with pytest.raises(KeyError, match="a defect"):
        sink.check()
    sink.close()
