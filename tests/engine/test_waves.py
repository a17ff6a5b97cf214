"""Several workers: the same rows, states and counts as one, to the bit; and they do work beside each other."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import simulated_parts as parts
from click.testing import CliRunner

from tocsin import Pipeline
from tocsin.batch import END, OUT, RAW, Batch, empty
from tocsin.cli import main
from tocsin.condition.keep import Keep
from tocsin.contracts import Operator
from tocsin.detect.ewma import Ewma
from tocsin.detect.health import Health
from tocsin.engine import shards, waves
from tocsin.engine.counters import Counters
from tocsin.engine.graph import Feed, Graph
from tocsin.engine.shards import why_whole
from tocsin.errors import SinkError
from tocsin.pipeline.plan import Plan, SinkNode, Step

WAIT_S = 20.0
"""So long a thread waits for another one before the test has failed."""


@pytest.fixture(autouse=True)
def _small_batches_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of some rows are handed to threads, and parted, as large ones are."""
    monkeypatch.setattr(waves, "ROWS_FEW", 0)
    monkeypatch.setattr(shards, "ROWS_FEW", 1)
    monkeypatch.setattr(shards, "TRIALS", 1)
    monkeypatch.setattr(shards, "HEAVY_NS", 0)


def plant(folder: Path) -> Plan:
    """Windows, detectors in a row, alarms, late rows, a union: streams that part and come together again."""
    streams: dict[str, Any] = {
        "minutes": {
            "steps": [{"window": {"every": "10s", "collect": ["time", "value"]}}, "zscore", "explode",
                      {"select": ["value", "z"]}],
            "sinks": [{"delta": "minutes"}],
        },
        "doubled": {"steps": [{"derive": {"twice": "value * value"}}]},
        "together": {"from": "doubled", "steps": [{"multivariate": {"of": ["value", "twice"], "learn": 20}}]},
        "odd": {"from": "together", "steps": [{"keep": "score > 10"}], "sinks": [{"delta": "odd"}]},
        "scored": {"steps": [{"zscore": {"learn": 5}}, {"select": ["value", "z"]}]},
        "alarms": {"steps": ["ewma", {"alarm": {"rule": "spike", "score": 60}}], "sinks": [{"delta": "alarms"}]},
        "all": {"from": ["minutes", "scored"], "sinks": [{"delta": "all"}]},
        "behind": {"from": "source.late", "steps": [{"keep": "value > 50"}], "sinks": [{"delta": "behind"}]},
    }  # fmt: skip
    return Pipeline.model_validate(
        {
            "name": "plant", "source": {"files": {"path": str(folder / "none.ndjson")}}, "key": "machine",
            "decode": {"json": {"columns": {"machine": "category", "ts": "timestamp", "value": "float"}}},
            "time": {"column": "ts", "lateness": "2s"}, "streams": streams, "folder": str(folder),
        }
    ).plan()  # fmt: skip


def readings(count: int = 700) -> list[bytes]:
    """Five machines out of order, some rows late, some no rows, some spikes."""
    random, lines = np.random.default_rng(5), []
    for i in range(count):
        second = max(0.0, i / 10 - random.integers(0, 2) - (20 if random.random() < 0.02 else 0))
        stamp = f"1970-01-01T00:{int(second) // 60:02}:{second % 60:06.3f}Z"
        value = float(random.normal(50, 5)) + (40 if random.random() < 0.01 else 0)
        line = {"machine": f"m{random.integers(5)}", "ts": stamp, "value": value}
        lines.append(b"no row" if random.random() < 0.01 else json.dumps(line).encode())
    return lines


class Looker(Feed):
    """Writes down what the page would be shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def offer(self, stream: str, batch: Batch) -> None:
        self.seen.append((stream, str(batch.rows.to_pylist())))

    def counters(self, snapshot: object) -> None:
        """Nothing is made of it."""


def everything(plan: Plan, workers: int) -> list[Any]:
    """All that leaves a graph: rows by sink, states, watermarks and counts at each epoch, and what was looked at."""
    counters, looker, random = Counters(), Looker(), np.random.default_rng(9)
    graph, lines, told, at = Graph(plan, counters, looker, workers), readings(), [], 0
    chain = graph.add(plan.sources[0], "0")

    def epoch() -> None:
        rows = {id: [(str(b.schema), str(b.to_pylist())) for b in taken] for id, taken in graph.take().items()}
        states = {id: str(table.to_pydict()) for id, table in graph.changed_states().items()}
        told.append((rows, states, graph.all_watermarks(), counters.snapshot({}, {}, counters.events, 0)))

    while at < len(lines):
        size = int(random.integers(1, 60))
        graph.push(chain, Batch(parts.raw(lines[at : at + size], at)))
        at += size
        if random.random() < 0.1:
            epoch()
    graph.push(chain, Batch(empty(RAW), END))
    epoch()
    graph.close()
    return [*told, looker.seen]


def test_rows_states_and_counts_are_those_of_one_worker(tmp_path: Path) -> None:
    plan = plant(tmp_path)
    alone = everything(plan, 1)
    last = alone[-2][3]
    assert all(last["rows_into"][f"{name}.0.delta"] for name in ("minutes", "odd", "alarms", "all", "behind"))
    assert last["rejected"]
    for workers in (2, 4):
        for number, (one, other) in enumerate(zip(alone, everything(plan, workers), strict=True)):
            assert one == other, f"{workers} workers differ from one at place {number}"


class Meets(Operator):
    """Lets a batch pass once another thread, or another batch, has come to its counterpart."""

    said: Any
    awaits: Any

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        return input

    def initial(self) -> int:
        return 0

    def step(self, state: int, batch: Batch) -> tuple[int, Sequence[Batch]]:
        if len(batch):
            self.said(state)
            self.awaits(state)
        return state + bool(len(batch)), [batch]

    def dump(self, state: int) -> pa.Table:
        return pa.table({"key": [""], "count": [state]})

    def load(self, table: pa.Table) -> int:
        return int(table["count"][0].as_py())


def two_steps(folder: Path, first: Meets, second: Meets) -> Plan:
    plan = parts.plan(folder, parts.Lines(lines={}), lambda _: parts.Kept(table={}), parts.Bell(rung=[]))
    steps = (
        Step("first", first, (("in", OUT),), parts.ROWS, {OUT: parts.ROWS}),
        Step("second", second, (("first", OUT),), parts.ROWS, {OUT: parts.ROWS}),
    )
    kept = SinkNode("kept", (("second", OUT),), parts.Kept(table={}), parts.ROWS)
    return replace(plan, steps=steps, sinks=(kept,), streams={})


def pushed(graph: Graph, count: int) -> None:
    chain = graph.add(graph.plan.sources[0], "0")
    for i in range(count):
        graph.push(chain, Batch(parts.raw([b"a,%d,%d" % (10 * i, i)], i)))


def nothing(number: int) -> None:
    pass


def test_a_step_takes_the_next_batch_while_the_step_behind_it_has_the_one_before(tmp_path: Path) -> None:
    reached = [threading.Event() for _ in range(3)]

    def wait_for_next(number: int) -> None:
        if number < 2:
            assert reached[number + 1].wait(WAIT_S), "the next batch did not come to the first step meanwhile"

    first = Meets.model_construct(said=lambda number: reached[number].set(), awaits=nothing)
    second = Meets.model_construct(said=nothing, awaits=wait_for_next)
    graph = Graph(two_steps(tmp_path, first, second), Counters(), workers=2)
    pushed(graph, 3)
    assert [value for rows in graph.take()["kept"] for value in rows["value"].to_pylist()] == [0, 1, 2]
    graph.close()


def test_the_first_error_is_told_and_nothing_of_its_batch_or_later_is_kept(tmp_path: Path) -> None:
    def refuse(number: int) -> None:
        if number == 2:
            raise SinkError("no more")

    steps = [Meets.model_construct(said=said, awaits=nothing) for said in (nothing, refuse)]
    graph = Graph(two_steps(tmp_path, *steps), Counters(), workers=4)
    with pytest.raises(SinkError, match="no more"):
        pushed(graph, 8)
    graph.close()
    assert graph.counters.rows_into["kept"] == 2


class Barred(Ewma):
    """Judges a part only once another thread judges another part."""

    barrier: Any = None

    def judge(self, *rest: Any) -> Any:
        if self.barrier is not None:
            self.barrier.wait(WAIT_S)
        return super().judge(*rest)


def test_the_parts_of_a_batch_are_judged_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "TRIALS", 0)
    monkeypatch.setattr(shards, "HEAVY_NS", -1)
    plan = plant(tmp_path)
    barred = Barred.model_construct(**Ewma().model_dump(), barrier=threading.Barrier(2))
    plan = replace(plan, steps=tuple(replace(s, operator=barred) if s.id == "alarms.0.ewma" else s for s in plan.steps))
    graph = Graph(plan, Counters(), workers=2)
    graph.push(graph.add(plan.sources[0], "0"), Batch(parts.raw(readings(60))))
    assert graph.take()
    graph.close()


def test_check_names_what_takes_each_batch_whole(tmp_path: Path) -> None:
    file = tmp_path / "plant.yaml"
    file.write_text(
        'name: x\nsource: {simulate: {}}\nstreams: {s: {steps: [ewma, {keep: "score > 3"}], sinks: [{delta: a}]}}\n'
    )
    alone = CliRunner().invoke(main, ["check", str(file), "--set", f"folder={tmp_path}"])
    assert alone.exit_code == 0
    assert "whole" not in alone.output
    told = CliRunner().invoke(main, ["check", str(file), "--set", f"folder={tmp_path}", "--set", "workers=3"])
    assert "up to 3 batches are in the steps at once" in told.output
    assert "s.0.ewma: where costly, the rows of a batch are shared out by key" in told.output
    assert "s.1.keep: takes each batch whole: it does not answer row by row" in told.output
    refused = CliRunner().invoke(main, ["check", str(file), "--set", "workers=0"])
    assert refused.exit_code != 0


def test_what_cannot_be_parted_by_key_says_why() -> None:
    assert why_whole(Ewma()) == ""
    assert "row by row" in why_whole(Keep(where="value > 1"))
    assert "more than the rows" in why_whole(Health())
