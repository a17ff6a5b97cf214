"""A pipeline compiled: every part built, every schema known, in the order in which rows pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from tocsin.batch import Apart
from tocsin.contracts import Channel, Operator, Sink, Source

if TYPE_CHECKING:
    from tocsin.pipeline.assets import SignalName

LATE_COLUMN = pa.field("late", pa.bool_())
"""In an archive: true for rows that came too late for windows and alarms, else false."""
Port = tuple[str, str]
"""An id (of an source or a step) and one of its ports."""


class Print(NamedTuple):
    """What a state is known by again."""

    fingerprint: str
    """Of the part's name, the version of its state, and what shapes it."""
    settings: str
    """Of all settings that differ from their default."""


@dataclass(frozen=True, slots=True)
class Asset:
    """Where a machine stands, and what people call it; empty where nobody has said it."""

    machine: str
    """As the rows name it."""
    area: str = ""
    line: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class SourceNode:
    """A source with the chain of operators that turns what it gives into rows with key and time.

    The chain runs once for each partition, with a state of its own.
    """

    id: str
    source: Source
    chain: tuple[Operator, ...]
    schemas: Mapping[str, pa.Schema]
    """By port: ``out``, ``late``, ``rejected``."""
    idle_timeout_us: int
    """A partition silent for so long (arrival time) no longer holds the watermark back."""

    def prints(self) -> dict[str, Print]:
        """Returns the print of each operator of the chain, by its name."""
        schema, prints = self.source.output_schema(), {}
        for operator in self.chain:
            prints[operator.name()] = print_of(operator, schema)
            schema = operator.output_schema(schema)
        return prints


@dataclass(frozen=True, slots=True)
class Step:
    """One operator in the graph."""

    id: str
    operator: Operator
    inputs: tuple[Port, ...]
    input_schema: pa.Schema
    schemas: Mapping[str, pa.Schema]
    """By port."""
    late: tuple[Port, ...] = ()
    """Inputs beside the others, of rows that came too late: what becomes of them leaves by port ``late``."""
    apart: Apart | None = None
    """Where each key of what comes has a time of its own: how far they may be apart."""

    def shard(self, keys: pa.Array) -> pa.Array:
        """Returns the shard of each key: where the step runs in several copies, its rows are exchanged by it."""
        return self.operator.shard(keys)


@dataclass(frozen=True, slots=True)
class SinkNode:
    """A sink or channel at the end of a stream."""

    id: str
    inputs: tuple[Port, ...]
    part: Sink | Channel
    schema: pa.Schema
    marks_late: bool = False
    """Whether it also takes rows that came too late for the steps, each marked in a last column `LATE_COLUMN`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a runner needs to know."""

    name: str
    sources: tuple[SourceNode, ...]
    steps: tuple[Step, ...]
    """In topological order."""
    sinks: tuple[SinkNode, ...]
    streams: Mapping[str, tuple[Port, ...]]
    """By the stream's name: where its rows come out."""
    folder: Path
    """Where relative paths of sinks start."""
    state_folder: Path
    checkpoint_us: int
    """Time between checkpoints."""
    memory_bytes: int
    """How much may wait between two checkpoints before one is taken early."""
    lag_bytes: int
    """How much may wait on disk for one sink that is away before nothing more is read."""
    workers: int = 1
    """How many threads take batches through the steps."""
    machines: Mapping[str, Asset] = field(default_factory=dict)
    """Where machines stand, by the name that the rows have."""
    signals: Mapping[str, SignalName] = field(default_factory=dict)
    """What people call signals, by the name that the rows have."""
    page_url: str = ""
    """Where browsers see the page; empty where nobody has said it."""
    zone: str = ""
    """The plant's time zone; empty where nobody has said it."""

    def loads(self) -> dict[str, tuple[SinkNode, ...]]:
        """Returns the sinks that are published together, by the id of their load."""
        loads: dict[str, list[SinkNode]] = {}
        for target in self.sinks:
            if isinstance(target.part, Sink) and (name := target.part.joins()) is not None:
                loads.setdefault(f"load {name}", []).append(target)
        return {id: tuple(members) for id, members in loads.items()}

    def is_bounded(self) -> bool:
        """Returns whether all sources end by themselves."""
        return all(origin.source.bounded() for origin in self.sources)

    def prints(self) -> dict[str, Print]:
        """Returns the print of everything that may remember something: by the step's id, or as ``source.rekey``."""
        chains = {f"{origin.id}.{name}": one for origin in self.sources for name, one in origin.prints().items()}
        return chains | {step.id: print_of(step.operator, step.input_schema) for step in self.steps}

    def tables(self) -> dict[str, str]:
        """Returns by sink, and by load, what its table is known by again: the pipeline's name is part of it."""
        sinks = {target.id: target.part for target in self.sinks if isinstance(target.part, Sink)}
        tables = {id: _hash([self.name, sink.name(), sink.place()]) for id, sink in sinks.items()}
        loads = {id: _hash([[one.id, tables[one.id]] for one in members]) for id, members in self.loads().items()}
        return tables | loads


def print_of(operator: Operator, input: pa.Schema) -> Print:
    """Returns what a state of this operator is known by again."""
    settings = operator.model_dump(mode="json", exclude_defaults=True)
    return Print(_hash([operator.name(), operator.STATE, operator.shape(input)]), _hash(settings))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
