"""The steps of a plan for one group of keys: what a runner that spreads keys over machines holds as keyed state.

An element is bytes: rows of one split whose keys are of one group, as an Arrow stream, with the split's watermark and
all splits that are known. Elements of a split must come in order; those of several splits may come in any order. State
is bytes, too, made of the steps' own `dump`: it may be kept, moved and restored between any two elements.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from tocsin.batch import STEP, Batch, ipc_stream
from tocsin.contracts import Channel
from tocsin.engine.counters import Counters
from tocsin.engine.graph import Graph
from tocsin.engine.remembered import NO_CHANGE, Change, Remembered
from tocsin.pipeline.plan import Plan, SinkNode

By = Literal["key", "path"]
"""What keys are spread by: the whole key, or the first step of its path."""
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
        elif step.operator.meets() == "all":
            said.append(
                f"{step.id}: it brings rows of several keys together, which are on several machines there; let key: of "
                f"the source begin with what they have in common (hall{STEP}press), or run it embedded"
            )
    said += [sentence for target in plan.sinks if (sentence := _refused(target)) is not None]
    return said


def _refused(target: SinkNode) -> str | None:
    if isinstance(target.part, Channel):
        return None
    if not target.part.FENCED:
        return (
            f"{target.id}: {target.part.name()} has nothing that shuts out a worker whose machine was given up and "
            "which lives on; write to delta there, and let an embedded process read the table"
        )
    if (load := target.part.joins()) is not None:
        return (
            f"{target.id}: the tables of load '{load}' are written by one process; run it embedded, or leave out load"
        )
    return None


def spread_by(plan: Plan) -> By:
    """Returns what the keys of a plan are spread by: by no more than what keeps together what meets in a step."""
    return "path" if any(step.operator.meets() == "path" for step in plan.steps) else "key"


def spread(rows: pa.RecordBatch, groups: int, by: By = "key") -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of each group, all groups in turn: one without rows is to hear the time.

    Each has a dictionary of its own keys alone: one of all keys would go to every group.
    """
    if not rows.num_rows:
        yield from ((group, rows) for group in range(groups))
        return
    at = rows.schema.get_field_index("key")
    codes, texts = rows.column(at).indices.to_numpy(zero_copy_only=False), rows.column(at).dictionary
    names = texts.to_pylist() if by == "key" else [text.partition(STEP)[0] for text in texts.to_pylist()]
    of_code = np.array([zlib.crc32(name.encode()) % groups for name in names], np.int64)
    there = np.bincount(codes, minlength=len(of_code)) > 0
    own = [np.flatnonzero(there & (of_code == group)) for group in range(groups)]
    own_code = np.zeros(len(of_code), np.int32)
    for some in own:
        own_code[some] = np.arange(len(some))
    numbers = of_code[codes].astype(np.int16)  # of so few bits that NumPy sorts them by counting
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=groups))
    rest = rows.remove_column(at).take(pa.array(order))
    ordered = own_code[codes[order]]
    for group, (begin, end) in enumerate(itertools.pairwise([0, *ends.tolist()])):
        keys = pa.DictionaryArray.from_arrays(pa.array(ordered[begin:end]), texts.take(pa.array(own[group])))
        yield group, rest.slice(begin, end - begin).add_column(at, rows.schema.field(at), keys)


def element(rows: pa.RecordBatch, passage: Passage) -> bytes:
    """Returns rows and their passage as bytes."""
    told = {name: getattr(passage, name) for name in Passage.__slots__}
    return ipc_stream([rows.replace_schema_metadata({_HEAD: json.dumps(told).encode()})])


class KeyGroup:
    """All steps for the keys of one group.

    A state may be of the pipeline before it was changed: steps that are as they were go on with theirs.
    """

    def __init__(self, plan: Plan, state: bytes | None = None, change: Change = NO_CHANGE) -> None:
        self._chained = {origin.id: origin for origin in plan.sources}
        sources = tuple(replace(origin, chain=()) for origin in plan.sources)
        self._origins = {origin.id: origin for origin in sources}
        self._graph = Graph(replace(plan, sources=sources), Counters())
        self._remembered = Remembered(plan, change)
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

    def act(self, actions: bytes) -> Mapping[str, Sequence[pa.RecordBatch]]:
        """Take what operators do, an Arrow stream of `ACTIONS_SCHEMA`; returns what reaches each sink."""
        with pa.ipc.open_stream(actions) as stream:
            for rows in stream:
                self._graph.act(rows)
        return self._graph.take()

    def dump(self) -> bytes:
        """Returns all that is remembered."""
        for id, table in self._graph.changed_states().items():
            self._remembered.put(id, table)
        return self._remembered.dump(self._graph.all_watermarks())

    def _load(self, state: bytes) -> None:
        self._remembered.load(state)
        watermarks = self._remembered.watermarks
        self._graph.restore(self._remembered.tables(), watermarks)
        for id in watermarks:
            origin, slash, name = id.partition("/")
            if slash and origin in self._origins:
                self._add(origin, name)

    def _add(self, origin: str, split: str) -> None:
        if f"{origin}/{split}" not in self._graph.chains:
            chain = self._graph.add(self._origins[origin], split)
            chain.has_keys_apart = any(one.apart(None) is not None for one in self._chained[origin].chain)
