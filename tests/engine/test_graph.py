"""Watermarks through the graph: partitions, idle ones, unions, side ports, and what is left of them in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import simulated_parts as parts

from tocsin.batch import END, LATE, OUT, REJECTED, START, Batch, empty
from tocsin.contracts import Operator
from tocsin.engine.counters import Counters
from tocsin.engine.graph import Graph
from tocsin.pipeline.plan import Plan, SinkNode, Step


class Seen(Operator):
    """Passes rows on and writes down what comes."""

    log: list[tuple[list[int], int]]

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        return input

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {LATE: input}

    def initial(self) -> None:
        return None

    def step(self, state: None, batch: Batch) -> tuple[None, Sequence[Batch]]:
        values = batch.rows["value"].to_pylist() if "value" in batch.schema.names else [None] * len(batch)
        self.log.append((values, batch.watermark_us))
        return None, [batch]

    def dump(self, state: None) -> pa.Table:
        return pa.table({"key": pa.array([], pa.string())})

    def load(self, table: pa.Table) -> None:
        return None


def seen() -> Seen:
    return Seen.model_construct(log=[])


def plan(folder: Path, steps: Sequence[Step], sinks: Sequence[SinkNode] = (), sources: int = 1) -> Plan:
    base = parts.plan(
        folder, parts.Lines(lines={"0": (), "1": ()}), lambda _: parts.Kept(table={}), parts.Bell(rung=[])
    )
    origin = replace(base.sources[0], chain=(parts.Parse(lateness_us=0),))
    return replace(
        base,
        sources=tuple(replace(origin, id=f"in{i}" if i else "in") for i in range(sources)),
        steps=tuple(steps),
        sinks=tuple(sinks),
        streams={},
    )


def push(graph: Graph, chain: str, *lines: bytes, watermark_us: int = START) -> None:
    rows = parts.raw(lines) if lines else empty(parts.raw([b""]).schema)
    graph.push(graph.chains[chain], Batch(rows, watermark_us))


def test_least_of_the_partitions_and_idle_ones_do_not_count(tmp_path: Path) -> None:
    spy = seen()
    late = SinkNode("late", (("in", LATE),), parts.Kept(table={}), parts.ROWS)
    graph = Graph(plan(tmp_path, [Step("spy", spy, (("in", OUT),), parts.ROWS, {OUT: parts.ROWS})], [late]), Counters())
    first, second = (graph.add(graph.plan.sources[0], p) for p in "01")
    push(graph, first.id, b"a,10,1")
    assert spy.log == [([1], START)]
    push(graph, second.id, b"b,7,2")
    assert spy.log[1:] == [([2], 7)]
    graph.fall_idle(second)
    assert spy.log[2:] == [([], 10)], "time goes on without the silent one"
    push(graph, first.id, b"a,20,3")
    push(graph, second.id, b"b,15,4", b"b,21,5")
    assert spy.log[3:] == [([3], 20), ([5], 20)], "what the others have overtaken is late"
    assert graph.take()["late"][0]["value"].to_pylist() == [4]
    push(graph, first.id, watermark_us=END)
    push(graph, second.id, watermark_us=END)
    assert spy.log[-1] == ([], END)


def test_all_idle_lets_the_foremost_lead(tmp_path: Path) -> None:
    spy = seen()
    graph = Graph(plan(tmp_path, [Step("spy", spy, (("in", OUT),), parts.ROWS, {OUT: parts.ROWS})]), Counters())
    first, second = (graph.add(graph.plan.sources[0], p) for p in "01")
    push(graph, first.id, b"a,10,1")
    graph.fall_idle(first)
    graph.fall_idle(second)
    assert spy.log[-1] == ([], 10)


def test_one_that_has_ended_does_not_lead_while_the_others_are_idle(tmp_path: Path) -> None:
    spy = seen()
    late = SinkNode("late", (("in", LATE),), parts.Kept(table={}), parts.ROWS)
    graph = Graph(plan(tmp_path, [Step("spy", spy, (("in", OUT),), parts.ROWS, {OUT: parts.ROWS})], [late]), Counters())
    first, second = (graph.add(graph.plan.sources[0], p) for p in "01")
    push(graph, first.id, b"a,10,1")
    push(graph, second.id, b"b,9,2")
    push(graph, first.id, watermark_us=END)
    graph.fall_idle(second)
    push(graph, second.id, b"b,11,3")
    assert spy.log[-1] == ([3], 11)
    again = Graph(graph.plan, Counters())
    again.restore({}, graph.all_watermarks())
    first, second = (again.add(again.plan.sources[0], p) for p in "01")
    again.fall_idle(second)
    push(again, second.id, b"b,12,4")
    assert spy.log[-1] == ([4], 12)
    assert [graph.take(), again.take()] == [{}, {}], "nothing is late"


def test_an_input_that_has_ended_does_not_lead_while_the_other_is_idle(tmp_path: Path) -> None:
    spy = seen()
    both = (("in", OUT), ("in1", OUT))
    graph = Graph(plan(tmp_path, [Step("spy", spy, both, parts.ROWS, {OUT: parts.ROWS})], sources=2), Counters())
    one, two = (graph.add(origin, "0") for origin in graph.plan.sources)
    push(graph, two.id, b"b,4,1")
    graph.fall_idle(two)
    push(graph, one.id, watermark_us=END)
    assert spy.log[-1] == ([], 4), "not to the end: the other may go on"
    push(graph, two.id, b"b,5,2")
    assert spy.log[-1] == ([2], 5)
    push(graph, two.id, watermark_us=END)
    assert spy.log[-1] == ([], END)


def test_an_end_does_not_let_time_go_on_without_a_source_that_is_not_open_yet(tmp_path: Path) -> None:
    spy = seen()
    both = (("in", OUT), ("in1", OUT))
    graph = Graph(plan(tmp_path, [Step("spy", spy, both, parts.ROWS, {OUT: parts.ROWS})], sources=2), Counters())
    one = graph.add(graph.plan.sources[0], "0")
    push(graph, one.id, b"a,10,1")
    push(graph, one.id, watermark_us=END)
    two = graph.add(graph.plan.sources[1], "0")
    push(graph, two.id, b"b,5,2")
    assert spy.log[-1] == ([2], 5)


def test_union_takes_the_least_and_an_idle_input_does_not_hold_it(tmp_path: Path) -> None:
    spy = seen()
    both = (("in", OUT), ("in1", OUT))
    graph = Graph(plan(tmp_path, [Step("spy", spy, both, parts.ROWS, {OUT: parts.ROWS})], sources=2), Counters())
    one, two = (graph.add(origin, "0") for origin in graph.plan.sources)
    push(graph, one.id, b"a,10,1")
    push(graph, two.id, b"b,4,2")
    assert spy.log == [([1], START), ([2], 4)]
    graph.fall_idle(two)
    assert spy.log[-1] == ([], 10)
    saved = graph.all_watermarks()
    again = Graph(graph.plan, Counters())
    again.restore({}, saved)
    for origin in again.plan.sources:
        again.add(origin, "0")
    assert again.all_watermarks() == saved
    push(again, "in/0", b"a,30,3")
    assert spy.log[-1] == ([3], 10), "the watermark does not fall back after a restart"


def test_side_ports_follow_their_step(tmp_path: Path) -> None:
    main, side = seen(), seen()
    steps = [
        Step("main", main, (("in", OUT),), parts.ROWS, {OUT: parts.ROWS}),
        Step("side", side, (("in", REJECTED),), parts.REJECTED_SCHEMA, {OUT: parts.REJECTED_SCHEMA}),
    ]
    graph = Graph(plan(tmp_path, steps), Counters())
    chain = graph.add(graph.plan.sources[0], "0")
    push(graph, chain.id, b"bad")
    push(graph, chain.id, b"a,10,1")
    push(graph, chain.id, watermark_us=END)
    assert [w for _, w in side.log] == [START, 10, END]
    assert graph.counters.rejected == {("in", "json_syntax"): 1}
