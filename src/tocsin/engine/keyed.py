"""The steps of a plan for one group of keys: what a runner that spreads keys over machines holds as keyed state.

An element is bytes: rows of one split whose keys are of one group, as an Arrow stream, with the split's watermark and
all splits that are known. Elements of a split must come in order; those of several splits may come in any order. State
is bytes, too, made of the steps' own `dump`: it may be kept, moved and restored between any two elements.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from tocsin.batch import Batch, Ints, empty
from tocsin.contracts import Channel, Operator
from tocsin.engine.counters import Counters
from tocsin.engine.graph import Graph
from tocsin.pipeline.plan import Plan

_LENGTH_BYTES = 8
"""Of the number that says how long the head of a state is."""
_HEAD = b"tocsin"


@dataclass(frozen=True, slots=True)
class Passage:
    """Where rows come from, and how far time has come there."""

    origin: str
    split: str
    splits: tuple[str, ...]
    """All splits of the source that are known: none is overtaken that has not been heard yet."""
    watermark_us: int
    port: str
    idle: bool = False
    """Whether the split has been silent for too long: time goes on without it."""


def refusals(plan: Plan) -> list[str]:
    """Returns, by name, what cannot run where keys are spread: each a sentence; empty if all can."""
    said = [
        f"{origin.id}: {origin.source.name()} cannot be read again after a failure; let it pass through Kafka"
        for origin in plan.sources
        if not origin.source.REPLAYABLE
    ]
    for step in plan.steps:
        if step.operator.ACROSS_KEYS:
            said.append(f"{step.id}: {step.operator.ACROSS_KEYS}; its keys cannot be spread, run it embedded")
        elif type(step.operator).shard is not Operator.shard:
            said.append(f"{step.id}: it shares its state among several keys; run it embedded, behind the table")
    said += [
        f"{target.id}: messages leave by the outbox of an embedded process; write to a table and let one read that"
        for target in plan.sinks
        if isinstance(target.part, Channel)
    ]
    return said


def group_of(rows: pa.RecordBatch, groups: int) -> Ints:
    """Returns the number of the group of each row's key, shape (rows,): the same in every process."""
    keys = rows.column("key")
    numbers = [zlib.crc32(text.encode()) % groups for text in keys.dictionary.to_pylist()]
    of_rows: Ints = np.array(numbers or [0], np.int64)[keys.indices.to_numpy(zero_copy_only=False)]
    return of_rows


def spread(batch: Batch, passage: Passage, groups: int) -> Iterator[tuple[int, bytes]]:
    """What a batch that leaves the chain of a split brings to each group; a group without rows hears the time."""
    numbers = group_of(batch.rows, groups)
    for group in range(groups):
        rows = batch.rows.filter(pa.array(numbers == group)) if len(batch) else empty(batch.schema)
        yield group, element(rows, passage)


def element(rows: pa.RecordBatch, passage: Passage) -> bytes:
    """Returns rows and their passage as bytes."""
    told = {name: getattr(passage, name) for name in Passage.__slots__}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema.with_metadata({_HEAD: json.dumps(told).encode()})) as stream:
        stream.write_batch(rows)
    return bytes(sink.getvalue())


class KeyGroup:
    """All steps for the keys of one group."""

    def __init__(self, plan: Plan, state: bytes | None = None) -> None:
        self._chained = {origin.id: origin for origin in plan.sources}
        sources = tuple(replace(origin, chain=()) for origin in plan.sources)
        self._origins = {origin.id: origin for origin in sources}
        self._graph = Graph(replace(plan, sources=sources), Counters())
        self._states: dict[str, bytes] = {}
        if state is not None:
            self._load(state)

    def take(self, element: bytes) -> Mapping[str, Sequence[pa.RecordBatch]]:
        """Take one element; returns what reaches each sink, by its id."""
        with pa.ipc.open_stream(element) as stream:
            told = json.loads(stream.schema.metadata[_HEAD])
            rows = stream.read_next_batch().replace_schema_metadata(None)
        passage = Passage(**{**told, "splits": tuple(told["splits"])})
        for name in passage.splits:
            self._add(passage.origin, name)
        chain = self._graph.chains[f"{passage.origin}/{passage.split}"]
        self._graph.push(chain, Batch(rows, passage.watermark_us, passage.port))
        if passage.idle:
            self._graph.fall_idle(chain)
        return self._graph.take()

    def dump(self) -> bytes:
        """Returns all that is remembered."""
        for id, table in self._graph.changed_states().items():
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            self._states[id] = bytes(sink.getvalue())
        sizes = {id: len(data) for id, data in self._states.items()}
        head = json.dumps({"watermarks": self._graph.all_watermarks(), "sizes": sizes}).encode()
        return b"".join([len(head).to_bytes(_LENGTH_BYTES, "big"), head, *self._states.values()])

    def _load(self, state: bytes) -> None:
        at = _LENGTH_BYTES + int.from_bytes(state[:_LENGTH_BYTES], "big")
        head = json.loads(state[_LENGTH_BYTES:at])
        for id, size in head["sizes"].items():
            self._states[id] = state[at : at + size]
            at += size
        states = {id: pa.ipc.open_stream(data).read_all() for id, data in self._states.items()}
        self._graph.restore(states, head["watermarks"])
        for id in head["watermarks"]:
            origin, slash, name = id.partition("/")
            if slash:
                self._add(origin, name)

    def _add(self, origin: str, split: str) -> None:
        if f"{origin}/{split}" not in self._graph.chains:
            chain = self._graph.add(self._origins[origin], split)
            chain.has_keys_apart = any(one.apart(None) is not None for one in self._chained[origin].chain)
