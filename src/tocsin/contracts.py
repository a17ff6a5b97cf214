"""READ FIRST: what parts promise. This file imports no part.

Rows flow through pure steps; everything impure (clock, disk, network, delivery) lives at the two ends and in the
runner:

    source -> decoder -> event_time -> step -> ... -> step -> sink or channel

A part is a `Component`: one class in one file, whose fields are its settings. The folder that the file stands in says
what kind of part it is, the file's name is the part's name (`pipeline.registry`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import pyarrow as pa

from tocsin.batch import Batch
from tocsin.settings import Settings
from tocsin.world import Disk

State = Any
"""An operator's own; only the operator looks inside."""
Offset = Any
"""A source's own position in one partition; JSON."""
Token = Mapping[str, Any]
"""A writer's own note of what it staged; JSON."""


class Component(Settings):
    """A part. Frozen; its fields are its settings, the same in Python, YAML, on the command line and in the docs.

    Every field has a docstring of one sentence under it; the class docstring has an example.
    """

    SHORTHAND: ClassVar[str | None] = None
    """The setting that a bare value in YAML stands for: ``keep: "z > 3"`` is ``keep: {where: "z > 3"}``."""
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    """Settings with which the conformance kit (`testing.checks`) tries the part on its sample."""

    @classmethod
    def name(cls) -> str:
        """The part's name: that of its file."""
        return cls.__module__.rpartition(".")[2]


class Operator(Component, ABC):
    """A pure step: the same state and rows always give the same state and rows."""

    ACCEPTS_ACTIONS: ClassVar[bool] = False
    """Whether batches of `ACTIONS_SCHEMA` on port ``actions`` may come between the batches of rows."""
    ACROSS_KEYS: ClassVar[str] = ""
    """Why the rows of one key may touch those of another; empty for nearly all parts, whose state can be split."""
    STATE: ClassVar[int] = 1
    """Version of the state. Raise it when `load` no longer understands what `dump` of the version before wrote, or when
    a default that shapes the state changes: then operators are asked before the state is forgotten."""
    KEEPS_STATE: ClassVar[Collection[str]] = ()
    """Settings that may be changed without losing the state: limits, thresholds, texts. Subclasses add their own."""

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The conformance kit's rows, turned into rows that this part can use."""
        return rows

    @abstractmethod
    def output_schema(self, input: pa.Schema) -> pa.Schema:
        """The schema on port ``out``; `SchemaError` naming what is missing, before any data flows."""

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        """The schema on each further port (``late``, ``rejected`` ...)."""
        return {}

    @abstractmethod
    def initial(self) -> State:
        """The state before the first row."""

    @abstractmethod
    def step(self, state: State, batch: Batch) -> tuple[State, Sequence[Batch]]:
        """Take one batch. May write into the state it is given: the caller has given it away.

        The last batch returned on port ``out`` (or a tick, if there are no rows) carries the output watermark.
        """

    def shape(self, input: pa.Schema) -> Mapping[str, Any]:
        """Returns what the state depends on, as JSON: with any of it changed, the state no longer fits.

        These are all settings that differ from their default, except those in `KEEPS_STATE`. A step that keeps rows
        adds the types of their columns.
        """
        free = {name for cls in type(self).__mro__ for name in vars(cls).get("KEEPS_STATE", ())}
        changed = self.model_dump(mode="json", exclude_defaults=True)
        return {name: value for name, value in changed.items() if name not in free}

    def shard(self, keys: pa.Array) -> pa.Array:
        """Returns the shard of each key (both are text): rows of one shard must reach the same copy of this step.

        It is the key itself, or one for all where `ACROSS_KEYS` says that rows of different keys touch.
        """
        return pa.repeat(pa.scalar(""), len(keys)) if self.ACROSS_KEYS else keys

    @abstractmethod
    def dump(self, state: State) -> pa.Table:
        """The state as a table whose first column is ``key``; any subset of its rows is a valid state."""

    @abstractmethod
    def load(self, table: pa.Table) -> State:
        """The reverse of `dump`."""


class Reader(Protocol):
    """One open partition of a source."""

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        """At most about ``rows_max`` rows, and the position after them; None if there is nothing yet.

        A bounded source ends with a batch (often empty) whose watermark is `END`; `poll` is not called after it.
        """

    def commit(self, offset: Offset) -> None:
        """All up to here is durable: only now acknowledge it to whoever sent it."""

    def close(self) -> None: ...


class Source(Component, ABC):
    """Where rows come from."""

    REPLAYABLE: ClassVar[bool] = True
    """Whether `open` at an old offset gives the same rows again. If not, the runner keeps an ingest log for it."""

    def output_schema(self) -> pa.Schema:
        """`RAW`, unless the source gives rows that need no decoding."""
        from tocsin.batch import RAW

        return RAW

    def bounded(self) -> bool:
        """Whether it ends by itself."""
        return False

    def partitions(self) -> Sequence[str]:
        """Names of the parts that can be read on their own."""
        return ("0",)

    def sampled(self) -> Source:
        """The same source for a mere look, which leaves no trace at the other end and disturbs no running pipeline."""
        return self

    @abstractmethod
    def open(self, partition: str, offset: Offset | None) -> Reader:
        """Start to read after ``offset``, or from the start (as the source's settings define it)."""


class Writer(Protocol):
    """An open table of a sink: two-phase, so that a crash at any point neither loses nor doubles a row."""

    def stage(self, epoch: int, rows: Sequence[pa.RecordBatch]) -> Token:
        """Make rows durable, but not yet visible. May be called several times in an epoch."""

    def commit(self, epoch: int, tokens: Sequence[Token]) -> None:
        """Make an epoch's staged rows visible, all at once; a second call changes nothing."""

    def committed(self) -> int | None:
        """The last epoch made visible, read from the table itself after making its log durable; None if none."""

    def discard(self, keep: Sequence[Token]) -> None:
        """Delete what was staged but is in none of these tokens (start-up only)."""

    def housekeep(self) -> None:
        """Compact, checkpoint, vacuum; called between epochs only."""

    def close(self) -> None: ...


class Sink(Component, ABC):
    """Where rows are kept."""

    @abstractmethod
    def open(self, app_id: str, schema: pa.Schema, folder: Path, disk: Disk) -> Writer:
        """Open or create the table. ``app_id`` names pipeline, stream and sink; relative paths start at ``folder``."""


@dataclass(frozen=True, slots=True)
class Message:
    """One thing to deliver, at least once, under an id that is the same however often it is sent."""

    id: str
    body: bytes


class Delivery(Protocol):
    """An open channel."""

    def deliver(self, messages: Sequence[Message]) -> None:
        """Deliver, in order; `DeliveryError` leaves them in the outbox to be tried again."""

    def close(self) -> None: ...


class Channel(Component, ABC):
    """Where messages go: they wait in the outbox from the commit point on, until they are delivered."""

    URGENT: ClassVar[bool] = False
    """Whether rows for it bring the next commit point forward (alarms)."""

    @abstractmethod
    def messages(self, rows: pa.RecordBatch) -> Sequence[Message]:
        """What to deliver for these rows; pure, ids from a hash of what they name."""

    @abstractmethod
    def connect(self, folder: Path) -> Delivery:
        """Open the channel; relative paths start at ``folder``."""


class StepState(NamedTuple):
    """Where a checkpoint keeps the state of one step, and which settings it fits."""

    place: str
    """File in the state folder, and from which byte to which it reaches: ``file:begin:end``."""
    sha256: str
    fingerprint: str = ""
    """Of what shapes the state (`Operator.shape`); empty if a version wrote it that did not note it."""
    settings: str = ""
    """Of all settings, to tell steps of the same name apart."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the commit point makes durable, all at once."""

    epoch: int
    fingerprint: str
    """Of the steps and their settings: state only fits the pipeline that wrote it."""
    watermarks: Mapping[str, int] = field(default_factory=dict)
    """By partition, as ``source/partition``; and by inlet and step, as they leave it."""
    offsets: Mapping[str, Offset] = field(default_factory=dict)
    """By partition."""
    states: Mapping[str, StepState] = field(default_factory=dict)
    """By step (``stream.0.name``), and by operator of a split's chain (``source/split/name``)."""
    tokens: Mapping[str, Sequence[Token]] = field(default_factory=dict)
    """By sink: what this epoch staged."""
    tables: Mapping[str, int] = field(default_factory=dict)
    """By sink: the epoch its table stood at before this epoch's tokens are committed."""


class CheckpointStore(Protocol):
    """The durable transaction at the commit point, and the outbox that is written with it."""

    def last(self) -> Checkpoint | None: ...

    def commit(self, checkpoint: Checkpoint, outbox: Mapping[str, Sequence[Message]]) -> None:
        """Write the checkpoint and the messages of each channel in one durable transaction; known ids are skipped."""

    def pending(self, channel: str, limit: int) -> Sequence[Message]:
        """Messages not yet delivered, oldest first."""

    def delivered(self, channel: str, ids: Sequence[str]) -> None: ...

    def close(self) -> None: ...


class Runner(Protocol):
    """Drives a pipeline to its end, or until it is stopped."""

    def run(self) -> None: ...
    def stop(self) -> None: ...
