"""The pure half of the embedded runner: a batch in at a partition, rows out at the sinks; states and watermarks.

It does no I/O and sees no clock, so a redo after a crash gives the same rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.batch import (
    ACTIONS,
    END,
    LATE,
    OUT,
    RECORD,
    REJECTED,
    START,
    Batch,
    Ints,
    rejected,
    tick,
    times_us,
    with_records,
)  # fmt: skip
from tocsin.contracts import Channel, Operator, State
from tocsin.decode._base import RecordDecoder, Traced
from tocsin.engine.counters import Counters
from tocsin.pipeline.plan import Plan, Port, SinkNode, SourceNode, Step
from tocsin.world import FirstTime

OF_LATE = -1
"""In place of an input's number: of the rows that came too late."""
RING = "ring"
"""The column by which an alarm says that it is to ring now."""


class Feed(Protocol):
    """Who looks on (the page); it must never block."""

    def offer(self, stream: str, batch: Batch) -> None: ...
    def counters(self, snapshot: Mapping[str, object]) -> None: ...


class Chain:
    """One partition: its own decoder, rekey and event_time with their states, and how far its time has come."""

    def __init__(self, origin: SourceNode, partition: str) -> None:
        self.origin = origin
        self.id = f"{origin.id}/{partition}"
        self.nodes = [Node(f"{self.id}/{operator.name()}", operator) for operator in origin.chain]
        self.watermark_us = START
        self.idle = False
        self.has_keys_apart = any(operator.apart(None) is not None for operator in origin.chain)

    def through(self, batch: Batch, traced: Traced | None = None) -> list[Batch]:
        """What leaves the chain; rows on side ports leave it at once. ``traced``: what the decoder made of it ahead."""
        if not self.nodes or batch.port != OUT:
            return [batch]
        first = self.nodes[0]
        if not isinstance(first.operator, RecordDecoder):
            return self._from(batch, 0)
        first.changed = True
        first.state, decoded, origin = traced or first.operator.traced(first.state, batch)
        left: list[Batch] = []
        for out in decoded:
            if out.port != OUT:
                left.append(out)
                continue
            numbered = replace(out, rows=with_records(out.rows, origin), lane=batch.lane)
            for passed in self._from(numbered, 1):
                rows = passed.rows
                if passed.port == REJECTED:
                    left.append(passed.with_rows(_with_bytes(rows, batch.rows)))
                else:  # what a step tells beside the rows (new signals) is of no record
                    hidden = [RECORD] if RECORD in rows.schema.names else []
                    left.append(passed.with_rows(rows.drop_columns(hidden)))
        return left

    def _from(self, batch: Batch, at: int) -> list[Batch]:
        if at == len(self.nodes) or batch.port != OUT:
            return [batch]
        left = self.nodes[at].step(batch)
        if batch.lane is not None:
            left = [replace(out, lane=batch.lane) if out.port == OUT else out for out in left]
        return [passed for out in left for passed in self._from(out, at + 1)]

    def counters(self) -> Counter[str]:
        """Returns what its operators count."""
        counted: Counter[str] = Counter()
        for node in self.nodes:
            counted.update(node.operator.counters(node.state))
        return counted


def first_time(origin: SourceNode) -> FirstTime | None:
    """Returns what tells a source the time of its rows before it hands them over; None if they do not say it.

    A source that reads several files in turn can so begin with the oldest.
    """
    if not any(operator.tells_late() for operator in origin.chain):
        return None

    def first(parts: Sequence[pa.RecordBatch]) -> int:
        chain, least = Chain(origin, "ahead"), END
        for rows in parts:
            passed = [out for out in chain.through(Batch(rows)) if out.port in (OUT, LATE) and len(out)]
            least = min((int(times_us(out.rows).min()) for out in passed), default=END)
        return START if least == END else least

    return first


class Node:
    """An operator with its state."""

    def __init__(self, id: str, operator: Operator) -> None:
        self.id = id
        self.operator = operator
        self.state: State = operator.initial()
        self.changed = False

    def step(self, batch: Batch) -> list[Batch]:
        self.state, out = self.operator.step(self.state, batch)
        self.changed = True
        return list(out)


class StepTask:
    """A step of the plan with what waits before it. Several inputs: the rows' union, the least of the watermarks."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.node = Node(step.id, step.operator)
        self.waiting: list[tuple[int, Batch]] = []
        self.watermarks = [START] * len(step.inputs)
        self.idle = [False] * len(step.inputs)
        self.watermark_us = START

    def merged(self) -> int:
        active = [w for w, idle in zip(self.watermarks, self.idle, strict=True) if not idle]
        return max(self.watermark_us, min(active or self.watermarks))


class Graph:
    """All chains and steps of a plan, and the rows that wait at its sinks for the next checkpoint."""

    def __init__(self, plan: Plan, counters: Counters, feed: Feed | None = None) -> None:
        self.plan = plan
        self.counters = counters
        self.feed = feed
        self.chains: dict[str, Chain] = {}
        self.step_tasks = [StepTask(step) for step in plan.steps]
        parts: list[SourceNode | Step] = [*plan.sources, *plan.steps]
        self.watermarks: dict[str, int] = {part.id: START for part in parts}
        """By source or step: of what leaves it. Rows on its side ports may be older."""
        self.bytes = 0
        self.urgent = False
        self._states: dict[str, pa.Table] = {}
        self._watermarks: dict[str, int] = {}
        """What the checkpoint holds of splits that are not open yet."""
        self._rows: dict[str, list[pa.RecordBatch]] = defaultdict(list)
        self._schemas: dict[Port, pa.Schema] = {
            (part.id, port): schema for part in parts for port, schema in part.schemas.items()
        }
        self._readers: dict[Port, list[tuple[StepTask, int]]] = defaultdict(list)
        self._ancestors: dict[str, set[str]] = {origin.id: {origin.id} for origin in plan.sources}
        for step_task in self.step_tasks:
            for i, port in enumerate(step_task.step.inputs):
                self._readers[port].append((step_task, i))
            for port in step_task.step.late:
                self._readers[port].append((step_task, OF_LATE))
            self._ancestors[step_task.step.id] = {a for id, _ in step_task.step.inputs for a in self._ancestors[id]}
        self._sinks: dict[Port, list[SinkNode]] = defaultdict(list)
        for target in plan.sinks:
            for port in target.inputs:
                self._sinks[port].append(target)
        self._ringing = {
            (step.id, OUT) for step in plan.steps if step.operator.ACCEPTS_ACTIONS and RING in step.schemas[OUT].names
        }
        self._passing_late = {step.id for step in plan.steps if step.late}
        """Steps that late rows only pass: they were counted where they were found late."""
        self._streams: dict[Port, list[str]] = defaultdict(list)
        for name, ports in plan.streams.items():
            for port in ports:
                self._streams[port].append(name)

    # rows in

    def add(self, origin: SourceNode, partition: str) -> Chain:
        """Returns the chain of a split, as the checkpoint left it; from now on it takes part in the watermark."""
        chain = Chain(origin, partition)
        for node in chain.nodes:
            if node.id in self._states:
                node.state = node.operator.load(self._states.pop(node.id))
        chain.watermark_us = self._watermarks.pop(chain.id, START)
        self.chains[chain.id] = chain
        return chain

    def remove(self, id: str) -> None:
        """Let go of a split: time goes on without it."""
        chain = self.chains.pop(id)
        self._mark_idle()
        self._go_on(chain.origin)

    def push(self, chain: Chain, batch: Batch, traced: Traced | None = None) -> None:
        """Take one batch of a partition, which may be decoded already, through its chain and all steps."""
        self.counters.rows_in[chain.origin.id] += len(batch)
        if chain.idle:
            chain.idle = False
            self._mark_idle()
        for out in chain.through(batch, traced):
            if out.port != OUT:
                self._emit(chain.origin.id, out)
                continue
            if chain.watermark_us < self.watermarks[chain.origin.id] and not chain.has_keys_apart:
                out = self._without_late(chain.origin.id, out)
            chain.watermark_us = max(chain.watermark_us, out.watermark_us)
            self._emit(chain.origin.id, out.until(self._merged(chain.origin)))
        self._flow()

    def fall_idle(self, chain: Chain) -> None:
        """A partition has been silent for too long: time goes on without it."""
        chain.idle = True
        self._mark_idle()
        self._go_on(chain.origin)

    def act(self, actions: pa.RecordBatch) -> None:
        """Give what operators did to every step that listens."""
        for step_task in self.step_tasks:
            if step_task.node.operator.ACCEPTS_ACTIONS:
                batch = Batch(actions, step_task.watermark_us, ACTIONS)
                for out in step_task.node.step(batch):
                    self._emit(step_task.step.id, out)
                self._flow()

    # rows through

    def _go_on(self, origin: SourceNode) -> None:
        """Let time go on where what held it back no longer does."""
        merged = self._merged(origin)
        if merged > self.watermarks[origin.id]:
            self._emit(origin.id, tick(self._schemas[origin.id, OUT], merged))
        self._flow()

    def _merged(self, origin: SourceNode) -> int:
        chains = [chain for chain in self.chains.values() if chain.origin is origin]
        if not chains:
            return self.watermarks[origin.id]
        active = [chain.watermark_us for chain in chains if not chain.idle]
        merged = min(active) if active else max(chain.watermark_us for chain in chains)
        return max(merged, self.watermarks[origin.id])

    def _without_late(self, origin: str, out: Batch) -> Batch:
        """Rows of a partition that the others have left behind while it was idle, or before it was there."""
        times: Ints = times_us(out.rows)
        if not len(times) or times.min() >= self.watermarks[origin]:
            return out
        late = pa.array(times < self.watermarks[origin])
        self._emit(origin, Batch(out.rows.filter(late), port=LATE))
        return out.with_rows(out.rows.filter(pc.invert(late)))

    def _mark_idle(self) -> None:
        silent = {
            origin.id
            for origin in self.plan.sources
            if all(chain.idle for chain in self.chains.values() if chain.origin is origin)
        }
        for step_task in self.step_tasks:
            for i, (id, _) in enumerate(step_task.step.inputs):
                step_task.idle[i] = self._ancestors[id] <= silent

    def _flow(self) -> None:
        for step_task in self.step_tasks:
            waiting, step_task.waiting = step_task.waiting, []
            for i, batch in waiting:
                if i == OF_LATE:
                    self._step_late(step_task, batch)
                    continue
                step_task.watermarks[i] = max(step_task.watermarks[i], batch.watermark_us)
                self._step(step_task, batch)
            if step_task.merged() > step_task.watermark_us:  # an input fell idle
                self._step(step_task, tick(step_task.step.input_schema, START))

    def _step(self, step_task: StepTask, batch: Batch) -> None:
        merged = step_task.merged()
        if not len(batch) and merged <= step_task.watermark_us:
            return
        step_task.watermark_us = merged
        rows = _united(batch.rows, step_task.step)
        for out in step_task.node.step(Batch(rows, merged, apart=step_task.step.apart)):
            self._emit(step_task.step.id, out)

    def _step_late(self, step_task: StepTask, batch: Batch) -> None:
        """Take late rows through a step that has no time to be late for."""
        if len(batch):
            for out in step_task.node.step(Batch(batch.rows, step_task.watermark_us)):
                self._emit(step_task.step.id, out.on_port(LATE) if out.port == OUT else out)

    def _emit(self, id: str, batch: Batch) -> None:
        if batch.port == REJECTED:
            batch = self._named(id, batch)
        port = (id, batch.port)
        if len(batch):
            if batch.port != LATE or id not in self._passing_late:
                self.counters.rows_out[port] += len(batch)
            if port in self._ringing:
                self.counters.rung[id] += pc.sum(batch.rows.column(RING)).as_py() or 0
            for target in self._sinks[port]:
                self.counters.rows_into[target.id] += len(batch)
                self._rows[target.id].append(_united(batch.rows, target, batch.port))
                self.bytes += batch.rows.nbytes
                self.urgent |= isinstance(target.part, Channel) and target.part.URGENT
        if batch.port != OUT:
            for step_task, i in self._readers[port]:
                step_task.waiting.append((i, batch.until(self.watermarks[id])))
        else:
            moved = batch.watermark_us > self.watermarks[id]
            if moved:
                self.watermarks[id] = batch.watermark_us
            if moved or len(batch):
                for step_task, i in self._readers[port]:
                    step_task.waiting.append((i, batch))
            if moved:
                self._tick_side_ports(id, batch.watermark_us)
        if self.feed is not None and len(batch):
            for stream in self._streams[port]:
                self.feed.offer(stream, batch)

    def _tick_side_ports(self, id: str, watermark_us: int) -> None:
        for (source, port), readers in self._readers.items():
            if source == id and port != OUT:
                for step_task, i in readers:
                    step_task.waiting.append((i, tick(self._schemas[source, port], watermark_us)))

    def _named(self, id: str, batch: Batch) -> Batch:
        """Rejected rows with the place they were rejected at, counted by reason."""
        rows = batch.rows
        for reason in pc.value_counts(rows.column("reason")).to_pylist():
            counted = (id, reason["values"])
            self.counters.rejected[counted] += reason["counts"]
            if counted not in self.counters.details:
                first = pc.index(rows.column("reason"), reason["values"]).as_py()
                self.counters.details[counted] = rows.column("detail")[first].as_py()
        at = rows.schema.get_field_index("source")
        return batch.with_rows(rows.set_column(at, rows.schema.field(at), pa.array([id] * len(batch), pa.string())))

    # rows out

    def take(self) -> dict[str, list[pa.RecordBatch]]:
        """The rows that wait at each sink; they are the caller's now."""
        taken, self._rows = self._rows, defaultdict(list)
        self.bytes, self.urgent = 0, False
        return taken

    # state

    def _nodes(self) -> list[Node]:
        return [node for chain in self.chains.values() for node in chain.nodes] + [j.node for j in self.step_tasks]

    def changed_states(self) -> dict[str, pa.Table]:
        """The state of every step that took a batch since the last call; without rows where nothing is remembered."""
        tables = {}
        for node in self._nodes():
            if node.changed:
                node.changed = False
                tables[node.id] = node.operator.dump(node.state)
        return tables

    def all_watermarks(self) -> dict[str, int]:
        """By partition (``source/partition``), by source and step, and by what has reached a step (``step<``)."""
        reached = {f"{j.step.id}<": j.watermark_us for j in self.step_tasks}
        return self.watermarks | {chain.id: chain.watermark_us for chain in self.chains.values()} | reached

    def restore(self, states: Mapping[str, pa.Table], watermarks: Mapping[str, int]) -> None:
        """The reverse of `changed_states` (all of them) and `all_watermarks`; what belongs to a split waits for it."""
        self._states, self._watermarks = dict(states), dict(watermarks)
        for node in self._nodes():
            if node.id in states:
                node.state = node.operator.load(self._states.pop(node.id))
        for id in self.watermarks:
            self.watermarks[id] = watermarks.get(id, START)
        for step_task in self.step_tasks:
            # What has left a part has reached those behind it: between checkpoints nothing is under way.
            step_task.watermarks = [watermarks.get(id, START) for id, _ in step_task.step.inputs]
            step_task.watermark_us = watermarks.get(f"{step_task.step.id}<", START)


def _with_bytes(aside: pa.RecordBatch, records: pa.RecordBatch) -> pa.RecordBatch:
    """Rows set aside behind the decoder, with the bytes, topic and position of the record that each came from.

    Of a record with many rows the first one has the bytes, or a record of a megabyte might be kept a thousand times.
    """
    numbers = aside.column("position").to_numpy()
    some, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    payloads = records.column("payload").take(pa.array(some)).to_pylist()
    came = records.select(["topic", "position"]).take(pa.array(numbers))
    digests = [hashlib.sha256(payload).hexdigest() for payload in payloads]
    return rejected(
        aside.column("key"),
        aside.column("time"),
        aside.column("reason").to_pylist(),
        aside.column("detail").to_pylist(),
        [payloads[record] if first[record] == i else b"" for i, record in enumerate(which.tolist())],
        topics=came.column("topic"),
        positions=came.column("position"),
        digests=[digests[record] for record in which.tolist()],
    )


def _united(rows: pa.RecordBatch, part: Step | SinkNode, port: str = OUT) -> pa.RecordBatch:
    """Rows of one of several inputs, which may differ in what can be null; late ones are marked for an archive."""
    if len(part.inputs) == 1:
        return rows
    if isinstance(part, SinkNode) and part.marks_late:
        marks = pa.repeat(pa.scalar(port == LATE), len(rows))
        return pa.RecordBatch.from_arrays([*rows.columns, marks], schema=part.schema)
    return pa.RecordBatch.from_arrays(rows.columns, schema=part.input_schema if isinstance(part, Step) else part.schema)


__all__ = ["Chain", "Feed", "Graph"]
