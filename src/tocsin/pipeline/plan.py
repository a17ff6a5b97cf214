"""A pipeline compiled: every part built, every schema known, in the order in which rows pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tocsin.contracts import Channel, Operator, Sink, Source

Port = tuple[str, str]
"""An id (of an inlet or a step) and one of its ports."""


@dataclass(frozen=True, slots=True)
class Inlet:
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


@dataclass(frozen=True, slots=True)
class Step:
    """One operator in the graph."""

    id: str
    operator: Operator
    inputs: tuple[Port, ...]
    input_schema: pa.Schema
    schemas: Mapping[str, pa.Schema]
    """By port."""


@dataclass(frozen=True, slots=True)
class Outlet:
    """A sink or channel at the end of a stream."""

    id: str
    inputs: tuple[Port, ...]
    part: Sink | Channel
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class Plan:
    """What a runner needs to know."""

    name: str
    inlets: tuple[Inlet, ...]
    steps: tuple[Step, ...]
    """In topological order."""
    outlets: tuple[Outlet, ...]
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
    fingerprint: str
    """sha256 over the inlets' chains and the steps, with their settings."""
