"""A source beside the loop: splits that appear, end, have parents and are given away; a peer that is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import simulated_parts as parts
from world import World

from tocsin.batch import END, RAW, Batch, empty
from tocsin.contracts import Offset, Source, Split
from tocsin.decode._base import Traced
from tocsin.decode.json import Json
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.graph import Feed
from tocsin.engine.recovery import Effects
from tocsin.engine.source_task import Finished, Opened, Revoked, Rows, SourceTask
from tocsin.errors import SourceError, Unavailable
from tocsin.testing import world


class Shards(Source):
    """Shards as a service has them: lines by shard, what each comes after, and who owns it now."""

    state: Any

    def bounded(self) -> bool:
        return bool(self.state.get("bounded", True))

    def open(self, world: Any) -> Shards:
        self.state["opened"] = self.state.get("opened", 0) + 1
        if trouble := self.state.get("away"):
            raise trouble
        return self

    def splits(self) -> Sequence[Split]:
        if self.state.get("list_trouble"):
            raise self.state["list_trouble"].pop()
        return [Split(name, tuple(self.state["after"].get(name, ()))) for name in self.state["listed"]]

    def read(self, split: Split, offset: Offset | None) -> Any:
        self.state.setdefault("read", []).append((split.name, offset))
        return ShardReader(self.state, split.name, offset or 0)

    def close(self) -> None:
        pass


class ShardReader:
    def __init__(self, state: Any, name: str, at: int) -> None:
        self.state, self.name, self.at = state, name, at

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        if trouble := self.state.get("trouble", {}).pop(self.name, None):
            raise trouble
        lines = self.state["lines"][self.name]
        if self.at == len(lines):
            if self.name in self.state.get("endless", ()):
                return None
            if self.name in self.state.get("parents", ()):
                self.state["listed"] = [*self.state["listed"], *self.state["parents"].pop(self.name)]
            return Batch(empty(RAW), END), self.at
        self.at += 1
        return Batch(parts.raw(lines[self.at - 1 : self.at], self.at - 1)), self.at

    def acknowledge(self, offset: Offset) -> None:
        self.state.setdefault("acknowledged", []).append((self.name, offset))

    def counters(self) -> Mapping[str, int]:
        return {"polled": self.at}

    def progress(self) -> None:
        return None

    def close(self) -> None:
        self.state.setdefault("closed", []).append(self.name)


def state(lines: Mapping[str, Sequence[bytes]], **more: Any) -> dict[str, Any]:
    return {"lines": lines, "listed": list(lines), "after": {}, **more}


def task(given: dict[str, Any], folder: Path, offsets: Any = None, ended: Any = ()) -> SourceTask:
    return SourceTask("in", Shards.model_construct(state=given), world(folder), offsets or {}, ended)


def everything(source: SourceTask, rounds: int = 200) -> list[Any]:
    return [event for _ in range(rounds) if (event := source.take()) is not None]


def lines_of(events: Sequence[Any], split: str) -> list[bytes]:
    return [
        line
        for event in events
        if isinstance(event, Rows) and event.split == split
        for line in event.batch.rows["payload"].to_pylist()
    ]


def test_each_split_in_its_order_and_then_the_end(tmp_path: Path) -> None:
    source = task(state({"a": [b"1", b"2"], "b": [b"3"]}), tmp_path)
    events = everything(source)
    assert events[:2] == [Opened("a"), Opened("b")]
    assert lines_of(events, "a") == [b"1", b"2"]
    assert lines_of(events, "b") == [b"3"]
    assert isinstance(events[-1], Finished)
    assert source.finished


def test_what_may_have_to_wait_is_decoded_by_the_thread_that_reads(tmp_path: Path) -> None:
    where: list[threading.Thread] = []

    class Told(Json):
        def may_wait(self) -> bool:
            return True

        def traced(self, state: Any, batch: Batch) -> Traced:
            where.append(threading.current_thread())
            return super().traced(state, batch)

    lines = [b'{"n": 1}', b"{", b'{"n": 3}']
    shards = Shards.model_construct(state=state({"a": lines}))
    source = SourceTask("in", shards, world(tmp_path), {}, (), decoder=Told(columns={"n": "int"}))
    news = threading.Event()
    source.start(news)
    decoded: list[Any] = []
    while not source.finished:
        news.wait(1.0)
        while (event := source.take()) is not None:
            if isinstance(event, Rows) and event.traced is not None and len(event.batch):
                decoded += [row.get("n", row.get("reason")) for out in event.traced[1] for row in out.rows.to_pylist()]
    source.close(clean=True)
    assert decoded == [1, "json_syntax", 3]
    assert threading.main_thread() not in where


def test_a_source_whose_rows_nobody_takes_is_held_up(tmp_path: Path) -> None:
    source = task(state({"a": [b"%d" % i for i in range(20)]}), tmp_path)
    assert source.snapshot()["backpressure"] == 0.0
    source.start(threading.Event())
    until_s = time.monotonic() + 30
    while source.snapshot()["backpressure"] < 0.5:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    while not source.finished:
        source.take()
    ended = source._held._ended_s
    source.close(clean=True)
    assert source._held._since_s is None
    assert source._held._ended_s == ended  # a source that has ended is not held up by anybody


def test_what_a_decoder_cannot_take_yet_is_kept(tmp_path: Path) -> None:
    away = [True]

    class Asking(Json):
        def may_wait(self) -> bool:
            return True

        def traced(self, state: Any, batch: Batch) -> Traced:
            if away and len(batch):
                raise Unavailable("the registry is away")
            return super().traced(state, batch)

    given = state({"a": [b'{"n": 1}', b'{"n": 2}']})
    shards = Shards.model_construct(state=given)
    source = SourceTask("in", shards, world(tmp_path), {}, (), decoder=Asking(columns={"n": "int"}))
    assert everything(source, 3) == [Opened("a")]
    assert source.snapshot()["reason"] == "the registry is away"
    source._retry_s = 0.0
    assert everything(source, 3) == []
    away.clear()
    source._retry_s = 0.0
    events = everything(source)
    assert lines_of(events, "a") == [b'{"n": 1}', b'{"n": 2}']
    assert given["read"] == [("a", None)]


def test_a_decoder_that_waits_keeps_neither_an_acknowledgement_nor_a_revoked_split_back(tmp_path: Path) -> None:
    class Away(Json):
        def may_wait(self) -> bool:
            return True

        def traced(self, state: Any, batch: Batch) -> Traced:
            if b"2" in batch.rows["payload"].to_pylist()[0]:
                raise Unavailable("the registry is away", retry_after_s=600.0)
            return super().traced(state, batch)

    given = state({"a": [b'{"n": 1}', b'{"n": 2}']}, bounded=False, endless={"a"})
    shards = Shards.model_construct(state=given)
    source = SourceTask("in", shards, world(tmp_path), {}, (), decoder=Away(columns={"n": "int"}))
    news = threading.Event()
    source.start(news)
    try:
        events = until(source, news, lambda events: any(isinstance(event, Rows) for event in events))
        source.acknowledge({"a": 1})
        until(source, news, lambda _: source.snapshot()["reason"] is not None)
        until(source, news, lambda _: ("a", 1) in given.get("acknowledged", ()))
        given["listed"] = []
        events += until(source, news, lambda events: Revoked("a") in events)
        source.release("a")
        until(source, news, lambda _: given.get("closed") == ["a"])
        assert sum(isinstance(event, Rows) for event in events) == 1  # what could not be decoded is the next owner's
    finally:
        source.close(clean=False)


def until(source: SourceTask, news: threading.Event, holds: Callable[[list[Any]], bool]) -> list[Any]:
    """What is taken until it holds, which it must within 20 s."""
    events: list[Any] = []
    deadline_s = time.monotonic() + 20.0
    while not holds(events):
        assert time.monotonic() < deadline_s, events
        news.wait(0.02)
        news.clear()
        while (event := source.take()) is not None:
            events.append(event)
    return events


def test_a_decoder_whose_memory_a_checkpoint_holds_does_not_run_ahead() -> None:
    class Remembering(Json):
        def dump(self, state: Any) -> pa.Table:
            return pa.table({"key": pa.array(["births"])})

    assert Json.may_run_ahead()
    assert not Remembering.may_run_ahead()


def test_children_are_read_after_all_their_parents(tmp_path: Path) -> None:
    given = state({"a": [b"1"], "b": [b"2"], "c": [b"3"]}, parents={"a": ["c"]})
    given["listed"] = ["a", "b"]
    given["after"] = {"c": ("a", "b", "gone long ago")}
    events = everything(task(given, tmp_path))
    ends = [i for i, e in enumerate(events) if isinstance(e, Rows) and e.batch.watermark_us == END]
    opened = events.index(Opened("c"))
    assert opened < ends[1], "it holds the watermark before the last parent's end would let it go"
    assert [events[i].split for i in ends] == ["a", "b", "c"]
    assert lines_of(events, "c") == [b"3"]


def test_a_split_whose_children_cannot_be_asked_for_ends_once_more(tmp_path: Path) -> None:
    given = state({"a": [b"1"], "c": [b"3"]})
    given["listed"], given["after"] = ["a"], {"c": ("a",)}
    source = task(given, tmp_path)
    assert [type(event) for event in everything(source, 2)] == [Opened, Rows]
    given["listed"], given["list_trouble"] = ["a", "c"], [Unavailable("busy")]
    assert everything(source, 3) == []
    source._retry_s = 0.0
    events = everything(source)
    ended = [event.split for event in events if isinstance(event, Rows) and event.batch.watermark_us == END]
    assert ended == ["a", "c"]
    assert lines_of(events, "c") == [b"3"]


def test_what_has_ended_is_not_read_again(tmp_path: Path) -> None:
    given = state({"a": [b"1"], "b": [b"2", b"3"]})
    source = task(given, tmp_path, {"a": 1, "b": 1}, {"a"})
    events = everything(source)
    assert given["read"] == [("b", 1)]
    assert lines_of(events, "b") == [b"3"]
    assert isinstance(events[-1], Finished)


def test_a_peer_that_is_away_is_opened_again_where_it_was(tmp_path: Path) -> None:
    given = state({"a": [b"1", b"2", b"3"]}, trouble={})
    source = task(given, tmp_path)
    assert source.take() == Opened("a")
    assert lines_of([source.take()], "a") == [b"1"]
    given["trouble"]["a"] = Unavailable("the service is away")
    given["away"] = Unavailable("still away")
    assert everything(source, 3) == []
    assert source.snapshot()["reason"] == "the service is away"
    source._retry_s = 0.0
    assert everything(source, 3) == []
    assert source.snapshot()["reason"] == "still away"
    del given["away"]
    source._retry_s = 0.0
    events = everything(source)
    assert lines_of(events, "a") == [b"2", b"3"]
    assert given["read"] == [("a", None), ("a", 1)]
    assert source.snapshot()["reason"] is None
    assert source.counters() == {"polled": 4}, "what closed readers counted stays counted"


def test_the_runner_lets_a_revoked_split_go_only_after_a_checkpoint(tmp_path: Path) -> None:
    whole = World(tmp_path / "whole")
    EmbeddedRunner(whole.plan(1000, lines={"0": parts.payloads(1, 40, ["a"]), "1": parts.payloads(2, 40, ["b"])})).run()
    revoked = World(tmp_path / "revoked")
    given = state({"0": parts.payloads(1, 40, ["a"]), "1": parts.payloads(2, 40, ["b"])}, endless={"0"}, bounded=False)
    plan = revoked.plan()
    plan = replace(plan, sources=(replace(plan.sources[0], source=Shards.model_construct(state=given)),))
    seen: list[tuple[str, Any]] = []

    class Watching(EmbeddedRunner):
        def _acknowledge(self, attempt: Any) -> None:
            given["offsets"] = dict(attempt.last.offsets)
            seen.extend(("checkpoint", dict(attempt.last.offsets)) for _ in [0])
            super()._acknowledge(attempt)

        def _on(self, attempt: Any, task: Any, event: Any) -> None:
            super()._on(attempt, task, event)
            if isinstance(event, Rows) and event.split == "0" and event.offset == 40 and "0" in given["listed"]:
                given["listed"] = ["1"]
                task._splits_s = 0.0
            if isinstance(event, Revoked):
                assert "closed" not in given, "not before a checkpoint holds what came"

    Watching(plan, Effects(threads=False)).run()
    assert given["closed"][0] == "0"
    assert ("0", 40) in given["acknowledged"]
    assert any(offsets.get("in/1") for _, offsets in seen)
    assert seen[-1][1]["in/0"] == 40, "until the other side knows how far it was read, only the checkpoint does"
    assert sorted(revoked.rows("sums")) == sorted(whole.rows("sums"))


def test_a_source_that_never_answers_takes_nothing_from_the_others(tmp_path: Path) -> None:
    release = threading.Event()

    class Blocking(parts.Lines):
        def open(self, world: Any) -> Any:
            release.wait(30)
            raise SourceError("too late")

    plan = World(tmp_path).plan()
    blocked = replace(plan.sources[0], id="blocked", source=Blocking(lines={"0": ()}))
    plan = replace(plan, sources=(plan.sources[0], blocked))
    runner = EmbeddedRunner(plan)

    class Look(Feed):
        rows = 0

        def offer(self, stream: str, batch: Batch) -> None:
            if stream == "sums":
                self.rows += len(batch)

        def counters(self, snapshot: Any) -> None:
            if self.rows > 300:
                release.set()

    runner._feed = Look()
    with pytest.raises(SourceError, match="too late"):
        runner.run()
    assert runner._feed.rows > 300
