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
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa

from tocsin.batch import Apart, Batch
from tocsin.errors import ConfigError
from tocsin.settings import Settings
from tocsin.world import World

State = Any
"""An operator's own; only the operator looks inside."""
Offset = Any
"""A source's own position in one split; JSON."""
Token = Mapping[str, Any]
"""A writer's own note of what it staged; JSON."""
IpcStream = bytes
"""Record batches of one schema, as Arrow's streaming format has them."""


class Component(Settings):
    """A part. Frozen; its fields are its settings, the same in Python, YAML, on the command line and in the docs.

    Every field has a docstring of one sentence under it; the class docstring has an example.
    """

    SHORTHAND: ClassVar[str | None] = None
    """The setting that a bare value in YAML stands for: ``keep: "z > 3"`` is ``keep: {where: "z > 3"}``."""
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    """Settings with which the conformance kit (`testing.checks`) tries the part on its sample."""

    REGISTERED: ClassVar[str] = ""
    """The name that a plug-in registers the part under; `pipeline.registry` puts it here."""

    @classmethod
    def name(cls) -> str:
        """Returns the part's name: the one it is registered under, or else that of its file."""
        return cls.__dict__.get("REGISTERED") or cls.__module__.rpartition(".")[2]


class Operator(Component, ABC):
    """A pure step: the same state and rows always give the same state and rows."""

    ACCEPTS_ACTIONS: ClassVar[bool] = False
    """Whether batches of `ACTIONS_SCHEMA` on port ``actions`` may come between the batches of rows."""
    ACROSS_KEYS: ClassVar[str] = ""
    """Why the rows of one key may touch those of another; empty for nearly all parts, whose state can be split."""
    TIMELESS: ClassVar[bool] = False
    """Whether what becomes of a row depends on that row alone, whenever it comes: then late rows may pass as well, on
    their way to an archive."""
    ONE_TIME: ClassVar[bool] = False
    """Whether rows behind the watermark are lost to it, so that keys with a time of their own are refused."""
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

    def counters(self, state: State) -> Mapping[str, int]:
        """Returns what the step counts beside rows, by name (fields unknown ...)."""
        return {}

    def apart(self, input: Apart | None) -> Apart | None:
        """Returns how far keys may be apart in what leaves; `ConfigError` where this cannot work."""
        if input is not None and self.ONE_TIME:
            raise ConfigError(
                f"{self.name()} goes by one time of all machines; take keys_apart out of time:, and let lateness be as "
                "long as machines may be apart"
            )
        return input

    def tells_late(self) -> bool:
        """Returns whether it says which rows are late: they leave by port ``late``, as they would by port ``out``."""
        return False

    def takes_late(self) -> bool:
        """Returns whether rows that came too late are to reach it as well, since it can still use some."""
        return False

    def behind(self) -> Mapping[str, Any]:
        """Returns steps, by name with their settings, that rows pass as well once they have key and time."""
        return {}

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

        It is the key itself, or one for all where `ACROSS_KEYS` says that rows of different keys touch. The shard of a
        shard is that shard: a state may be kept by it.
        """
        return pa.repeat(pa.scalar(""), len(keys)) if self.ACROSS_KEYS else keys

    def meets(self) -> Literal["key", "path", "all"]:
        """Returns which rows may touch each other in this step, so that a runner that spreads keys keeps them together.

        ``key``: those of one key. ``path``: those whose keys have the first step of a path in common (``hall`` of
        ``hall/press``); the keys that leave begin with it, too. ``all``: any.
        """
        return "all" if self.ACROSS_KEYS or type(self).shard is not Operator.shard else "key"

    @abstractmethod
    def dump(self, state: State) -> pa.Table:
        """The state as a table whose first column is ``key``; any subset of its rows is a valid state."""

    @abstractmethod
    def load(self, table: pa.Table) -> State:
        """The reverse of `dump`."""


@dataclass(frozen=True, slots=True)
class Split:
    """A piece of a source that is read on its own and in order: a partition, a shard, a folder, a session."""

    name: str
    """The same after every restart; checkpoints hold the split's position under it."""
    after: tuple[str, ...] = ()
    """Splits that must have ended before this one is read: the shards that it was split or merged from."""


class Reader(Protocol):
    """One split being read. Only one thread at a time calls it.

    A reader that derives from it need say only what it has: nobody to tell, nothing to count, no end in sight are here.
    """

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        """Returns at most about ``rows_max`` rows and the position after them; None if there is nothing yet.

        Never takes longer than ``timeout_s``, however silent the other side is. A split ends with a batch (often
        empty) whose watermark is `END`; `poll` is not called after it. What cannot be given as rows (the rest of a
        damaged file) is a batch of `REJECTED_SCHEMA` on port ``rejected``: it is set aside, and counted by its reason.
        A split that is read load by load says `REST` instead of `END`: this run is over for it, the next one goes on.

        Raises
        ------
        Unavailable
            The other side is away: the source is closed, and opened again at the last position after a while.
        SourceError
            It cannot be read, and waiting will not help.
        """

    def acknowledge(self, offset: Offset) -> None:
        """Everything before ``offset`` is durable here: tell whoever sent it. Called only when it has moved."""
        return

    def counters(self) -> Mapping[str, int]:
        """Returns what the reader counts, by name (connects, duplicates ...)."""
        return {}

    def progress(self) -> tuple[int, int] | None:
        """Returns how much has been read and how much there is, in bytes; None where it cannot tell."""
        return None

    def close(self) -> None:
        """May be called twice, and before anything was read."""


@runtime_checkable
class Reconnecting(Protocol):
    """A reader that connects again by itself, within `poll`, and raises nothing meanwhile."""

    def away(self) -> str | None:
        """Returns why there is no connection right now, in words for people; None if there is one."""


class Connection(Protocol):
    """An open source: one client, listener or folder for all its splits. Only one thread at a time calls it."""

    def splits(self) -> Sequence[Split]:
        """Returns the splits that are ours now; asked again every second.

        New ones are opened (after those named in ``after`` have ended). One that is no longer listed and has not ended
        has been given away: the runner reads it no further, takes a checkpoint, acknowledges and closes its reader.
        A bounded source has ended once every split that it lists has.
        """

    def read(self, split: Split, offset: Offset | None) -> Reader:
        """Returns a reader that goes on after ``offset``; at None from the start, as the settings define it."""

    def close(self) -> None:
        """Called after all readers are closed."""


class Source(Component, ABC):
    """Where rows come from."""

    REPLAYABLE: ClassVar[bool] = True
    """Whether `Connection.read` at an old offset gives the same rows again. If not, the runner keeps an ingest log."""
    SHARES: ClassVar[int] = 1
    """Into how many shares a runner on several machines parts the splits, to read each beside the others."""
    PROMISE: ClassVar[str] = "exactly once"
    """How often what is at the other side comes to be rows here, and of what this is said; through any crash."""

    def output_schema(self) -> pa.Schema:
        """Returns `RAW`, or `RAW_WITH_METADATA`, unless the source gives rows that need no decoding."""
        from tocsin.batch import RAW

        return RAW

    def bounded(self) -> bool:
        """Returns whether it ends by itself."""
        return False

    def check(self, world: World) -> None:
        """Raises `ConfigError` for what cannot work when it is opened: a missing certificate, a file not there."""

    def retains(self) -> int:
        """Returns how many bytes of the ingest log stay for `World.journal` once no checkpoint needs them any more."""
        return 0

    def sampled(self) -> Source:
        """Returns the same source for a mere look, which leaves no trace at the other end and disturbs nobody."""
        return self

    @abstractmethod
    def open(self, world: World) -> Connection:
        """Connect, or get ready to: may be called while the other side is away, and then raises `Unavailable`."""

    def open_share(self, world: World, number: int) -> Connection:
        """Connect as `open` does, for the splits of one of the `SHARES`, which are the same ones for ever."""
        return self.open(world)


class Writer(Protocol):
    """An open table of a sink: two-phase, so that a crash at any point neither loses nor doubles a row.

    `stage` is called by the epoch loop while `publish` or `housekeep` may run in another thread.
    """

    def stage(self, epoch: int, rows: Sequence[pa.RecordBatch]) -> Token:
        """Make an epoch's rows durable on a local disk, but not yet visible; returns what `publish` needs to find them.

        Never waits for another machine: the sinks beside this one wait for it.
        """

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        """Make what these tokens staged visible, all at once, together with the fact that it reaches to ``epoch``.

        A second call with the same epoch changes nothing. After it raised, the writer is closed and opened anew, and
        `published` is asked before the next call.

        Raises
        ------
        Unavailable
            The other side is away: called again after a while, with all that has been staged since.
        SinkError
            It refuses. Tried again, but the operator is told.
        """

    def published(self) -> int | None:
        """Returns the last epoch made visible, read from the table itself (made durable first); None if none."""

    def discard(self, keep: Sequence[Token]) -> None:
        """Delete what was staged but is in none of these tokens (start-up only)."""

    def housekeep(self) -> None:
        """Compact, checkpoint, vacuum; called now and then after `publish`."""

    def counters(self) -> Mapping[str, int]:
        """Returns what the writer counts, by name."""

    def close(self) -> None: ...


class JoinedWriter(Protocol):
    """The open tables of a load: a `Writer` for all of them, whose every `publish` is one transaction."""

    def stage(self, epoch: int, rows: Mapping[str, Sequence[pa.RecordBatch]]) -> Token:
        """Make an epoch's rows of some of the tables durable, by their sinks."""

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None: ...
    def published(self) -> int | None: ...
    def discard(self, keep: Sequence[Token]) -> None: ...
    def housekeep(self) -> None: ...
    def counters(self) -> Mapping[str, int]: ...
    def close(self) -> None: ...


class Sink(Component, ABC):
    """Where rows are kept."""

    PROMISE: ClassVar[str] = "exactly once"
    """How often a row is there for whom; through any crash."""
    NAMES_EPOCHS: ClassVar[bool] = False
    """Whether what it writes is named after the epoch that it was staged in. Rows of several epochs are then never
    staged together: after a crash they might be put together otherwise, and stand there under two names."""
    FENCED: ClassVar[bool] = False
    """Whether it bears that a writer was replaced by another one and lives on for a while, as on a cluster: its table
    shuts one of the two out, or writing an epoch once more changes nothing that was promised."""

    def accepts(self, schema: pa.Schema) -> None:
        """Raises `SchemaError`, naming the column, if rows of this schema cannot be kept; asked before data flows."""

    def check(self, world: World) -> None:
        """Raises `ConfigError` for what cannot work when it is opened: a missing certificate, a path that leaves."""

    def fits(self, world: World, schema: pa.Schema) -> None:
        """Raises `SchemaError`, naming the column, if the table that is there cannot take rows of this schema."""

    def place(self) -> Mapping[str, Any]:
        """Returns the settings that say which table it is: with any of them changed it is another one."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def gathers_s(self) -> float:
        """Returns for about how long committed epochs may wait to be published together, because many small
        publications cost its table more than a few large ones; 0 where each may be published at once."""
        return 0.0

    def tend(self, job: str, world: World) -> str | None:
        """Do the job ``compact``, ``vacuum`` or ``retain`` on the table, beside whoever writes to it.

        Returns what was done, for people; None where there is nothing to do for such a job.
        """
        return None

    def joins(self) -> str | None:
        """Returns the name of the load that it is part of: sinks of one load are published together, all or none."""
        return None

    @classmethod
    def open_joined(cls, members: Mapping[str, tuple[Sink, World, pa.Schema]]) -> JoinedWriter:
        """Open all tables of a load, by their sinks; asked only where `joins` names one."""
        raise NotImplementedError(f"{cls.name()} joins no load")

    @abstractmethod
    def open(self, world: World, schema: pa.Schema) -> Writer:
        """Open or create the table. A sink on another machine only gets ready to stage: it may be away."""


@dataclass(frozen=True, slots=True)
class Message:
    """One thing to deliver, at least once, under an id that is the same however often it is sent."""

    id: str
    body: bytes


class Delivery(Protocol):
    """An open channel."""

    def deliver(self, messages: Sequence[Message]) -> None:
        """Deliver, in order; `DeliveryError` leaves all but those it names in the outbox, to be tried again."""

    def counters(self) -> Mapping[str, int]:
        """Returns what the channel counts, by name (messages refused ...)."""

    def close(self) -> None: ...


class Channel(Component, ABC):
    """Where messages go: they wait in the outbox from the commit point on, until they are delivered."""

    PROMISE: ClassVar[str] = "at least once, under an id that stays the same"
    """How often a message is delivered; through any crash."""
    URGENT: ClassVar[bool] = False
    """Whether rows for it bring the next commit point forward (alarms)."""

    def accepts(self, schema: pa.Schema) -> None:
        """Raises `SchemaError`, naming the column, if no message can be made of such rows; asked before data flows."""

    def check(self, world: World) -> None:
        """Raises `ConfigError` for what cannot work when it is opened: a target that is none, a missing certificate."""

    @abstractmethod
    def messages(self, rows: pa.RecordBatch) -> Sequence[Message]:
        """Returns what to deliver for these rows; pure, ids from a hash of what they name."""

    @abstractmethod
    def open(self, world: World) -> Delivery:
        """Get ready to deliver; the other side may be away."""


@dataclass(frozen=True, slots=True)
class Staged:
    """What a sink staged in one epoch."""

    epoch: int
    token: Token
    bytes: int
    """About how much of the disk it takes."""
    rows: IpcStream = b""
    """The rows as an Arrow stream, where they are few: the checkpoint holds them, the sink has not seen them yet."""


class StepState(NamedTuple):
    """Where a checkpoint keeps the state of one step, and which settings it fits."""

    place: str
    """File in the state folder, and from which byte to which it reaches: ``file:begin:end``. Or ``held:`` and the state
    itself in base64, where it is small."""
    sha256: str
    fingerprint: str = ""
    """Of what shapes the state (`Operator.shape`); empty if a version wrote it that did not note it."""
    settings: str = ""
    """Of all settings, to tell steps of the same name apart."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the commit point makes durable, all at once."""

    epoch: int
    watermarks: Mapping[str, int] = field(default_factory=dict)
    """By split, as ``source/split``; and by source and step, as they leave it."""
    offsets: Mapping[str, Offset] = field(default_factory=dict)
    """By split, as ``source/split``."""
    states: Mapping[str, StepState] = field(default_factory=dict)
    """By step (``stream.0.name``), and by operator of a split's chain (``source/split/name``)."""
    staged: Mapping[str, Sequence[Staged]] = field(default_factory=dict)
    """By sink: what is staged and not known to be published, this epoch's included, oldest first."""
    published: Mapping[str, int] = field(default_factory=dict)
    """By sink: the epoch that its table is known to have reached."""
    tables: Mapping[str, str] = field(default_factory=dict)
    """By sink: a hash of the pipeline's name and `Sink.place`, to know when rows go to another table from now on."""


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
