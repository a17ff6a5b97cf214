"""The pure half of the embedded runner: a batch in at a partition, rows out at the outlets; states and watermarks.

It does no I/O and sees no clock, so a redo after a crash gives the same rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from tocsin.batch import ACTIONS, LATE, OUT, REJECTED, START, Batch, Ints, tick, times_us
from tocsin.contracts import Channel, Operator, State
from tocsin.engine.counters import Counters
from tocsin.pipeline.plan import Inlet, Outlet, Plan, Port, Step


class Feed(Protocol):
    """Who looks on (the page); it must never block."""

    def offer(self, stream: str, batch: Batch) -> None: ...
    def counters(self, snapshot: Mapping[str, object]) -> None: ...


class Chain:
    """One partition: its own decoder, rekey and event_time with their states, and how far its time has come."""

    def __init__(self, inlet: Inlet, partition: str) -> None:
        self.inlet = inlet
        self.id = f"{inlet.id}/{partition}"
        self.nodes = [Node(f"{self.id}/{operator.name()}", operator) for operator in inlet.chain]
        self.watermark_us = START
        self.idle = False

    def through(self, batch: Batch, at: int = 0) -> list[Batch]:
        """What leaves the chain; rows on side ports leave it at once."""
        if at == len(self.nodes) or batch.port != OUT:
            return [batch]
        return [passed for out in self.nodes[at].step(batch) for passed in self.through(out, at + 1)]

    def counters(self) -> Counter[str]:
        """Returns what its operators count."""
        counted: Counter[str] = Counter()
        for node in self.nodes:
            counted.update(node.operator.counters(node.state))
        return counted


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


class Junction:
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
    """All chains and steps of a plan, and the rows that wait at its outlets for the next checkpoint."""

    def __init__(self, plan: Plan, counters: Counters, feed: Feed | None = None) -> None:
        self.plan = plan
        self.counters = counters
        self.feed = feed
        self.chains: dict[str, Chain] = {}
        self.junctions = [Junction(step) for step in plan.steps]
        parts: list[Inlet | Step] = [*plan.inlets, *plan.steps]
        self.watermarks: dict[str, int] = {part.id: START for part in parts}
        """By inlet or step: of what leaves it. Rows on its side ports may be older."""
        self.bytes = 0
        self.urgent = False
        self._states: dict[str, pa.Table] = {}
        self._watermarks: dict[str, int] = {}
        """What the checkpoint holds of splits that are not open yet."""
        self._rows: dict[str, list[pa.RecordBatch]] = defaultdict(list)
        self._schemas: dict[Port, pa.Schema] = {
            (part.id, port): schema for part in parts for port, schema in part.schemas.items()
        }
        self._readers: dict[Port, list[tuple[Junction, int]]] = defaultdict(list)
        self._ancestors: dict[str, set[str]] = {inlet.id: {inlet.id} for inlet in plan.inlets}
        for junction in self.junctions:
            for i, port in enumerate(junction.step.inputs):
                self._readers[port].append((junction, i))
            self._ancestors[junction.step.id] = {a for id, _ in junction.step.inputs for a in self._ancestors[id]}
        self._outlets: dict[Port, list[Outlet]] = defaultdict(list)
        for outlet in plan.outlets:
            for port in outlet.inputs:
                self._outlets[port].append(outlet)
        self._streams: dict[Port, list[str]] = defaultdict(list)
        for name, ports in plan.streams.items():
            for port in ports:
                self._streams[port].append(name)

    # rows in

    def add(self, inlet: Inlet, partition: str) -> Chain:
        """Returns the chain of a split, as the checkpoint left it; from now on it takes part in the watermark."""
        chain = Chain(inlet, partition)
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
        self._go_on(chain.inlet)

    def push(self, chain: Chain, batch: Batch) -> None:
        """Take one batch of a partition through its chain and all steps."""
        self.counters.rows_in[chain.inlet.id] += len(batch)
        if chain.idle:
            chain.idle = False
            self._mark_idle()
        for out in chain.through(batch):
            if out.port != OUT:
                self._emit(chain.inlet.id, out)
                continue
            if chain.watermark_us < self.watermarks[chain.inlet.id]:
                out = self._without_late(chain.inlet.id, out)
            chain.watermark_us = max(chain.watermark_us, out.watermark_us)
            self._emit(chain.inlet.id, out.until(self._merged(chain.inlet)))
        self._flow()

    def fall_idle(self, chain: Chain) -> None:
        """A partition has been silent for too long: time goes on without it."""
        chain.idle = True
        self._mark_idle()
        self._go_on(chain.inlet)

    def act(self, actions: pa.RecordBatch) -> None:
        """Give what operators did to every step that listens."""
        for junction in self.junctions:
            if junction.node.operator.ACCEPTS_ACTIONS:
                batch = Batch(actions, junction.watermark_us, ACTIONS)
                for out in junction.node.step(batch):
                    self._emit(junction.step.id, out)
                self._flow()

    # rows through

    def _go_on(self, inlet: Inlet) -> None:
        """Let time go on where what held it back no longer does."""
        merged = self._merged(inlet)
        if merged > self.watermarks[inlet.id]:
            self._emit(inlet.id, tick(self._schemas[inlet.id, OUT], merged))
        self._flow()

    def _merged(self, inlet: Inlet) -> int:
        chains = [chain for chain in self.chains.values() if chain.inlet is inlet]
        if not chains:
            return self.watermarks[inlet.id]
        active = [chain.watermark_us for chain in chains if not chain.idle]
        merged = min(active) if active else max(chain.watermark_us for chain in chains)
        return max(merged, self.watermarks[inlet.id])

    def _without_late(self, inlet: str, out: Batch) -> Batch:
        """Rows of a partition that the others have left behind while it was idle, or before it was there."""
        times: Ints = times_us(out.rows)
        if not len(times) or times.min() >= self.watermarks[inlet]:
            return out
        late = pa.array(times < self.watermarks[inlet])
        self._emit(inlet, Batch(out.rows.filter(late), port=LATE))
        return out.with_rows(out.rows.filter(pc.invert(late)))

    def _mark_idle(self) -> None:
        silent = {
            inlet.id
            for inlet in self.plan.inlets
            if all(chain.idle for chain in self.chains.values() if chain.inlet is inlet)
        }
        for junction in self.junctions:
            for i, (id, _) in enumerate(junction.step.inputs):
                junction.idle[i] = self._ancestors[id] <= silent

    def _flow(self) -> None:
        for junction in self.junctions:
            waiting, junction.waiting = junction.waiting, []
            for i, batch in waiting:
                junction.watermarks[i] = max(junction.watermarks[i], batch.watermark_us)
                self._step(junction, batch)
            if junction.merged() > junction.watermark_us:  # an input fell idle
                self._step(junction, tick(junction.step.input_schema, START))

    def _step(self, junction: Junction, batch: Batch) -> None:
        merged = junction.merged()
        if not len(batch) and merged <= junction.watermark_us:
            return
        junction.watermark_us = merged
        rows = _united(batch.rows, junction.step)
        for out in junction.node.step(Batch(rows, merged)):
            self._emit(junction.step.id, out)

    def _emit(self, id: str, batch: Batch) -> None:
        if batch.port == REJECTED:
            batch = self._named(id, batch)
        port = (id, batch.port)
        if len(batch):
            self.counters.rows_out[port] += len(batch)
            for outlet in self._outlets[port]:
                self._rows[outlet.id].append(_united(batch.rows, outlet))
                self.bytes += batch.rows.nbytes
                self.urgent |= isinstance(outlet.part, Channel) and outlet.part.URGENT
        if batch.port != OUT:
            for junction, i in self._readers[port]:
                junction.waiting.append((i, batch.until(self.watermarks[id])))
        else:
            moved = batch.watermark_us > self.watermarks[id]
            if moved:
                self.watermarks[id] = batch.watermark_us
            if moved or len(batch):
                for junction, i in self._readers[port]:
                    junction.waiting.append((i, batch))
            if moved:
                self._tick_side_ports(id, batch.watermark_us)
        if self.feed is not None and len(batch):
            for stream in self._streams[port]:
                self.feed.offer(stream, batch)

    def _tick_side_ports(self, id: str, watermark_us: int) -> None:
        for (source, port), readers in self._readers.items():
            if source == id and port != OUT:
                for junction, i in readers:
                    junction.waiting.append((i, tick(self._schemas[source, port], watermark_us)))

    def _named(self, id: str, batch: Batch) -> Batch:
        """Rejected rows with the place they were rejected at, counted by reason."""
        rows = batch.rows
        for reason in pc.value_counts(rows.column("reason")).to_pylist():
            self.counters.rejected[id, reason["values"]] += reason["counts"]
        at = rows.schema.get_field_index("source")
        return batch.with_rows(rows.set_column(at, rows.schema.field(at), pa.array([id] * len(batch), pa.string())))

    # rows out

    def take(self) -> dict[str, list[pa.RecordBatch]]:
        """The rows that wait at each outlet; they are the caller's now."""
        taken, self._rows = self._rows, defaultdict(list)
        self.bytes, self.urgent = 0, False
        return taken

    # state

    def _nodes(self) -> list[Node]:
        return [node for chain in self.chains.values() for node in chain.nodes] + [j.node for j in self.junctions]

    def changed_states(self) -> dict[str, pa.Table]:
        """The state of every step that took a batch since the last call; without rows where nothing is remembered."""
        tables = {}
        for node in self._nodes():
            if node.changed:
                node.changed = False
                tables[node.id] = node.operator.dump(node.state)
        return tables

    def all_watermarks(self) -> dict[str, int]:
        """By partition (``inlet/partition``), by inlet and step, and by what has reached a step (``step<``)."""
        reached = {f"{j.step.id}<": j.watermark_us for j in self.junctions}
        return self.watermarks | {chain.id: chain.watermark_us for chain in self.chains.values()} | reached

    def restore(self, states: Mapping[str, pa.Table], watermarks: Mapping[str, int]) -> None:
        """The reverse of `changed_states` (all of them) and `all_watermarks`; what belongs to a split waits for it."""
        self._states, self._watermarks = dict(states), dict(watermarks)
        for node in self._nodes():
            if node.id in states:
                node.state = node.operator.load(self._states.pop(node.id))
        for id in self.watermarks:
            self.watermarks[id] = watermarks.get(id, START)
        for junction in self.junctions:
            # What has left a part has reached those behind it: between checkpoints nothing is under way.
            junction.watermarks = [watermarks.get(id, START) for id, _ in junction.step.inputs]
            junction.watermark_us = watermarks.get(f"{junction.step.id}<", START)


def _united(rows: pa.RecordBatch, part: Step | Outlet) -> pa.RecordBatch:
    """Rows of one of several inputs, which may differ in what can be null."""
    if len(part.inputs) == 1:
        return rows
    return pa.RecordBatch.from_arrays(rows.columns, schema=part.input_schema if isinstance(part, Step) else part.schema)


__all__ = ["Chain", "Feed", "Graph"]
