"""The pure half of the embedded runner: a batch in at a partition, rows out at the sinks; states and watermarks.

It does no I/O, and no row depends on a clock, so a redo after a crash gives the same rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from tocsin.batch import ACTIONS, END, LATE, OUT, REJECTED, START, Batch, Ints, tick, times_us
from tocsin.contracts import Channel
from tocsin.decode._base import Traced
from tocsin.engine.chain import Chain, Node
from tocsin.engine.counters import Counters
from tocsin.engine.waves import Wave, Waves
from tocsin.pipeline.plan import Plan, Port, SinkNode, SourceNode, Step

OF_LATE = -1
"""In place of an input's number: of the rows that came too late."""
RING = "ring"
"""The column by which an alarm says that it is to ring now."""


class Feed(Protocol):
    """Who looks on (the page); it must never block."""

    @property
    def looked_at(self) -> Collection[str]:
        """The sources and steps whose last rows somebody wants to see."""
        return ()

    def offer(self, stream: str, batch: Batch) -> None: ...
    def look(self, part: str, batch: Batch) -> None: ...
    def counters(self, snapshot: Mapping[str, object]) -> None: ...


class StepTask:
    """A step of the plan. Several inputs: the rows' union, the least of the watermarks."""

    def __init__(self, number: int, step: Step, node: Node) -> None:
        self.number = number
        self.step = step
        self.node = node
        self.watermarks = [START] * len(step.inputs)
        self.idle = [False] * len(step.inputs)
        self.watermark_us = START

    def merged(self) -> int:
        """Returns the least watermark of the inputs that go on; what has ended says no more of the time."""
        going_on = [(w, idle) for w, idle in zip(self.watermarks, self.idle, strict=True) if w != END]
        active = [w for w, idle in going_on if not idle]
        return max(self.watermark_us, min(active or [w for w, _ in going_on], default=END))


class Graph:
    """All chains and steps of a plan, and the rows that wait at its sinks for the next checkpoint.

    With several workers a batch may still be on its way through the steps when `push` has returned: see `settle`.
    """

    def __init__(self, plan: Plan, counters: Counters, feed: Feed | None = None, workers: int = 1) -> None:
        self.plan = plan
        self.counters = counters
        self.feed = feed
        self.chains: dict[str, Chain] = {}
        self._waves = Waves(workers)
        self.step_tasks = [StepTask(number, step, self._waves.node(step)) for number, step in enumerate(plan.steps)]
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
        self._side_ports: dict[str, list[Port]] = defaultdict(list)
        """By source or step: its ports beside ``out`` that a step reads."""
        for id, name in self._readers:
            if name != OUT:
                self._side_ports[id].append((id, name))
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
        self.settle()
        chain = self.chains.pop(id)
        self._go_on(chain.origin)

    def push(self, chain: Chain, batch: Batch, traced: Traced | None = None) -> None:
        """Take one batch of a partition, which may be decoded already, through its chain and all steps."""
        self.counters.rows_in[chain.origin.id] += len(batch)
        if chain.idle:
            self.settle()
            chain.idle = False
            self._mark_idle()
        wave = self._waves.next()
        wave.rows = len(batch)
        for out in chain.through(batch, traced):
            if out.port != OUT:
                self._emit(wave, chain.origin.id, out)
                continue
            if chain.watermark_us < self.watermarks[chain.origin.id] and not chain.has_keys_apart:
                out = self._without_late(wave, chain.origin.id, out)
            chain.watermark_us = max(chain.watermark_us, out.watermark_us)
            self._emit(wave, chain.origin.id, out.until(self._merged(chain.origin)))
        self._send(wave)
        if chain.watermark_us == END and any(c.idle for c in self.chains.values() if c.origin is chain.origin):
            self.settle()  # behind its last rows it no longer holds back the time of those that are idle
            self._go_on(chain.origin)

    def fall_idle(self, chain: Chain) -> None:
        """A partition has been silent for too long: time goes on without it."""
        self.settle()
        chain.idle = True
        self._go_on(chain.origin)

    def act(self, actions: pa.RecordBatch) -> None:
        """Give what operators did to every step that listens."""
        self.settle()
        for step_task in self.step_tasks:
            if step_task.node.operator.ACCEPTS_ACTIONS:
                wave = self._waves.next()
                batch = Batch(actions, step_task.watermark_us, ACTIONS)
                for out in step_task.node.step(batch):
                    self._emit(wave, step_task.step.id, out)
                self._send(wave)

    def settle(self) -> bool:
        """Wait until all batches are through the steps. Returns whether any were on their way."""
        were = len(self._waves) > 0
        for wave in self._waves.settle():
            self._keep(wave)
        return were

    def close(self) -> None:
        """Let go of the workers; what is on its way is lost."""
        self._waves.close()

    # rows through

    def _send(self, wave: Wave) -> None:
        for one in self._waves.send(wave, self._through):
            self._keep(one)

    def _go_on(self, origin: SourceNode) -> None:
        """Let time go on where what held it back no longer does."""
        self._mark_idle()
        merged = self._merged(origin)
        wave = self._waves.next()
        if merged > self.watermarks[origin.id]:
            self._emit(wave, origin.id, tick(self._schemas[origin.id, OUT], merged))
        self._send(wave)

    def _merged(self, origin: SourceNode) -> int:
        chains = [chain for chain in self.chains.values() if chain.origin is origin]
        if not chains:
            return self.watermarks[origin.id]
        going_on = [chain for chain in chains if chain.watermark_us != END]
        active = [chain.watermark_us for chain in going_on if not chain.idle]
        merged = min(active) if active else max((chain.watermark_us for chain in going_on), default=END)
        return max(merged, self.watermarks[origin.id])

    def _without_late(self, wave: Wave, origin: str, out: Batch) -> Batch:
        """Rows of a partition that the others have left behind while it was idle, or before it was there."""
        times: Ints = times_us(out.rows)
        if not len(times) or times.min() >= self.watermarks[origin]:
            return out
        late = pa.array(times < self.watermarks[origin])
        self._emit(wave, origin, Batch(out.rows.filter(late), port=LATE))
        return out.with_rows(out.rows.filter(pc.invert(late)))

    def _mark_idle(self) -> None:
        silent = {
            origin.id
            for origin in self.plan.sources
            if all(chain.idle or chain.watermark_us == END for chain in self.chains.values() if chain.origin is origin)
        }
        for step_task in self.step_tasks:
            for i, (id, _) in enumerate(step_task.step.inputs):
                step_task.idle[i] = self._ancestors[id] <= silent

    def _through(self, wave: Wave) -> None:
        """Take a wave through all steps; those of other waves may be at work on other steps meanwhile."""
        for number, step_task in enumerate(self.step_tasks):
            wave.enter(number)
            for i, batch in wave.waiting.pop(number, ()):
                if i == OF_LATE:
                    self._step_late(wave, step_task, batch)
                    continue
                step_task.watermarks[i] = max(step_task.watermarks[i], batch.watermark_us)
                self._step(wave, step_task, batch)
            if step_task.merged() > step_task.watermark_us:  # an input fell idle
                self._step(wave, step_task, tick(step_task.step.input_schema, START))
            wave.leave(number)

    def _step(self, wave: Wave, step_task: StepTask, batch: Batch) -> None:
        merged = step_task.merged()
        if not len(batch) and merged <= step_task.watermark_us:
            return
        step_task.watermark_us = merged
        rows = _united(batch.rows, step_task.step)
        for out in step_task.node.step(Batch(rows, merged, apart=step_task.step.apart)):
            self._emit(wave, step_task.step.id, out)

    def _step_late(self, wave: Wave, step_task: StepTask, batch: Batch) -> None:
        """Take late rows through a step that has no time to be late for."""
        if len(batch):
            for out in step_task.node.step(Batch(batch.rows, step_task.watermark_us)):
                self._emit(wave, step_task.step.id, out.on_port(LATE) if out.port == OUT else out)

    def _emit(self, wave: Wave, id: str, batch: Batch) -> None:
        """Let a batch that leaves a part wait before the steps behind it, and tell them the time."""
        if batch.port == REJECTED:
            batch = _named(id, batch)
        port = (id, batch.port)
        if len(batch):
            wave.left.append((id, batch))
        if batch.port != OUT:
            for step_task, i in self._readers.get(port, ()):
                wave.waiting[step_task.number].append((i, batch.until(self.watermarks[id])))
            return
        moved = batch.watermark_us > self.watermarks[id]
        if moved:
            self.watermarks[id] = batch.watermark_us
        if moved or len(batch):
            for step_task, i in self._readers.get(port, ()):
                wave.waiting[step_task.number].append((i, batch))
        if moved:
            self._tick_side_ports(wave, id, batch.watermark_us)

    def _tick_side_ports(self, wave: Wave, id: str, watermark_us: int) -> None:
        for source, port in self._side_ports.get(id, ()):
            for step_task, i in self._readers[source, port]:
                wave.waiting[step_task.number].append((i, tick(self._schemas[source, port], watermark_us)))

    # rows out

    def _keep(self, wave: Wave) -> None:
        """Count what has left each part, let it wait at the sinks, and show it to who looks on."""
        for id, batch in wave.left:
            port = (id, batch.port)
            if batch.port == REJECTED:
                self._count_rejected(id, batch.rows)
            if batch.port != LATE or id not in self._passing_late:
                self.counters.rows_out[port] += len(batch)
            if port in self._ringing:
                self.counters.rung[id] += pc.sum(batch.rows.column(RING)).as_py() or 0
            for target in self._sinks[port]:
                self.counters.rows_into[target.id] += len(batch)
                self._rows[target.id].append(_united(batch.rows, target, batch.port))
                self.bytes += batch.rows.nbytes
                self.urgent |= isinstance(target.part, Channel) and target.part.URGENT
            if self.feed is not None:
                if id in self.feed.looked_at:
                    self.feed.look(id, batch)
                for stream in self._streams[port]:
                    self.feed.offer(stream, batch)

    def _count_rejected(self, id: str, rows: pa.RecordBatch) -> None:
        """Count rows set aside by their reason, and remember what the first one of a reason had."""
        for reason in pc.value_counts(rows.column("reason")).to_pylist():
            counted = (id, reason["values"])
            self.counters.rejected[counted] += reason["counts"]
            if counted not in self.counters.details:
                first = pc.index(rows.column("reason"), reason["values"]).as_py()
                self.counters.details[counted] = rows.column("detail")[first].as_py()

    def take(self) -> dict[str, list[pa.RecordBatch]]:
        """The rows that wait at each sink; they are the caller's now."""
        self.settle()
        taken, self._rows = self._rows, defaultdict(list)
        self.bytes, self.urgent = 0, False
        return taken

    # state

    def inferences(self) -> dict[str, dict[str, float]]:
        """Returns, by step, how often it has asked trained models and how long they took, as JSON."""
        asking = [task.node for task in self.step_tasks if task.node.inferences]
        return {node.id: {"count": node.inferences, "seconds": round(node.inference_s, 6)} for node in asking}

    def _nodes(self) -> list[Node]:
        return [node for chain in self.chains.values() for node in chain.nodes] + [j.node for j in self.step_tasks]

    def changed_states(self) -> dict[str, pa.Table]:
        """The state of every step that took a batch since the last call; without rows where nothing is remembered."""
        self.settle()
        tables = {}
        for node in self._nodes():
            if node.changed:
                node.changed = False
                tables[node.id] = node.operator.dump(node.state)
        return tables

    def all_watermarks(self) -> dict[str, int]:
        """By partition (``source/partition``), by source and step, and by what has reached a step (``step<``)."""
        self.settle()
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


def _named(id: str, batch: Batch) -> Batch:
    """Rejected rows with the place they were rejected at."""
    rows, at = batch.rows, batch.schema.get_field_index("source")
    return batch.with_rows(rows.set_column(at, rows.schema.field(at), pa.array([id] * len(batch), pa.string())))


def _united(rows: pa.RecordBatch, part: Step | SinkNode, port: str = OUT) -> pa.RecordBatch:
    """Rows of one of several inputs, which may differ in what can be null; late ones are marked for an archive."""
    if len(part.inputs) == 1:
        return rows
    if isinstance(part, SinkNode) and part.marks_late:
        marks = pa.repeat(pa.scalar(port == LATE), len(rows))
        return pa.RecordBatch.from_arrays([*rows.columns, marks], schema=part.schema)
    return pa.RecordBatch.from_arrays(rows.columns, schema=part.input_schema if isinstance(part, Step) else part.schema)


__all__ = ["Feed", "Graph"]
