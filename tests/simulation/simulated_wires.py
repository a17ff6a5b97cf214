"""Other sides that are machines of their own, and outlive us: a stream of shards, senders that push, a database."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
import simulated_parts as parts
from simulated_world import Plant

from tocsin.acquire.http._inbox import Inbox, Post, RequestOutcome, resumed
from tocsin.batch import END, RAW, START, Batch, empty
from tocsin.contracts import Connection, Offset, Sink, Source, Split, Writer
from tocsin.ends import OneSplit, Spooled, SpooledAndNoted
from tocsin.errors import Unavailable
from tocsin.testing.simulated import PowerCut
from tocsin.world import World

# A stream whose shards split and merge (Kinesis)


@dataclass(eq=False, slots=True)
class Shard:
    """A part of the stream's keys, from when it was opened until it is split or merged."""

    name: str
    keys: tuple[str, ...]
    after: tuple[str, ...] = ()
    lines: list[bytes] = field(default_factory=list)
    closed: bool = False


class Stream:
    """Lines are written to it, and shards split and merge meanwhile; all lines of a key stay in their order."""

    SHARDS_MAX = 9

    def __init__(self, world: Wires, lines: Sequence[bytes], keys: Sequence[str]) -> None:
        self._world, self._left = world, deque(lines)
        self.shards = [Shard("0", tuple(keys))]

    def go_on(self) -> None:
        """Time passes there, too."""
        random = self._world.random
        for _ in range(min(random.randrange(4), len(self._left))):
            self._write(self._left.popleft())
        if not self._left:
            for shard in self.shards:
                shard.closed = True
        elif len(self.shards) < self.SHARDS_MAX and random.random() < 0.2:
            self._split_or_merge()

    def _write(self, line: bytes) -> None:
        known = [shard for shard in self._open() if line.partition(b",")[0].decode() in shard.keys]
        (known or [self._world.random.choice(self._open())])[0].lines.append(line)

    def _split_or_merge(self) -> None:
        random, shards = self._world.random, self._open()
        large = [shard for shard in shards if len(shard.keys) > 1]
        if large and (len(shards) == 1 or random.random() < 0.6):
            shard = random.choice(large)
            at = random.randrange(1, len(shard.keys))
            self._replace([shard], [shard.keys[:at], shard.keys[at:]])
        else:
            some = random.sample(shards, 2)
            self._replace(some, [some[0].keys + some[1].keys])

    def _replace(self, parents: Sequence[Shard], children: Sequence[tuple[str, ...]]) -> None:
        after = tuple(shard.name for shard in parents)
        for shard in parents:
            shard.closed = True
        self.shards += [Shard(str(len(self.shards) + i), keys, after) for i, keys in enumerate(children)]

    def _open(self) -> list[Shard]:
        return [shard for shard in self.shards if not shard.closed]


class SimulatedStream(Source):
    """The stream, read shard by shard."""

    world: Any

    def bounded(self) -> bool:
        return True

    def open(self, world: World) -> Connection:
        if self.world.io("connect stream", ("away",)):
            raise Unavailable("the stream is away (simulated)")
        return StreamConnection(self.world)


class StreamConnection:
    def __init__(self, world: Wires) -> None:
        self._world = world

    def splits(self) -> Sequence[Split]:
        is_busy = self._world.faults > 0 and self._world.random.random() < 0.1
        if self._world.io("list shards", ("away",)) or is_busy:
            raise Unavailable("the stream does not say which shards there are (simulated)")
        self._world.stream.go_on()
        return [Split(shard.name, shard.after) for shard in self._world.stream.shards]

    def read(self, split: Split, offset: Offset | None) -> ShardReader:
        (shard,) = (one for one in self._world.stream.shards if one.name == split.name)
        return ShardReader(self._world, shard, offset or 0)

    def close(self) -> None:
        self._world.io("disconnect stream")


class ShardReader:
    def __init__(self, world: Wires, shard: Shard, at: int) -> None:
        self._world, self._shard, self._at = world, shard, at

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        if self._world.io("poll shard", ("away",)):
            raise Unavailable("the shard is away (simulated)")
        random = self._world.random
        if random.random() < 0.2:
            return None
        self._world.stream.go_on()
        begin, self._at = self._at, min(self._at + random.randrange(1, 6), len(self._shard.lines))
        is_over = self._shard.closed and self._at == len(self._shard.lines)
        if begin == self._at and not is_over:
            return None
        rows = parts.raw(self._shard.lines[begin : self._at], begin) if self._at > begin else empty(RAW)
        return Batch(rows, END if is_over else START), self._at

    def acknowledge(self, offset: Offset) -> None:
        self._world.io("acknowledge shard")

    def counters(self) -> Mapping[str, int]:
        return {}

    def progress(self) -> None:
        return None

    def close(self) -> None:
        self._world.io("close shard")


# Senders that push (HTTP)


@dataclass(eq=False, slots=True)
class Sender:
    """Sends its posts one after the other, each again until it is answered with success."""

    name: str
    posts: Sequence[Sequence[bytes]]
    at: int = 0
    """The post that is not answered yet."""
    waits_at: Inbox | None = None


class Senders:
    """All who push: what was answered they do not send again."""

    def __init__(self, world: Wires, posts: Mapping[str, Sequence[Sequence[bytes]]]) -> None:
        self._world = world
        self._senders = [Sender(name, some) for name, some in posts.items()]

    @property
    def are_done(self) -> bool:
        return all(sender.at == len(sender.posts) for sender in self._senders)

    def call(self, inbox: Inbox) -> None:
        """Some of them post; some who have waited for long post the same once more."""
        for sender in self._senders:
            eager = 0.5 if sender.waits_at is not inbox else 0.1
            if sender.at < len(sender.posts) and self._world.random.random() < eager:
                self._post(sender, inbox)

    def _post(self, sender: Sender, inbox: Inbox) -> None:
        number = sender.at

        def told(outcome: RequestOutcome) -> None:
            if sender.at != number or sender.waits_at is not inbox:
                return  # nobody listens any more
            sender.waits_at = None
            is_lost = self._world.faults > 0 and self._world.random.random() < 0.05
            if outcome is RequestOutcome.DURABLE and not is_lost:
                sender.at += 1

        sender.waits_at = inbox
        inbox.put(Post("t", sender.posts[number], idempotency_key=f"{sender.name} {number}"), told)


class Pushed(Source):
    """What is pushed: it cannot be read twice. The inbox is that of source `http`, without a server before it."""

    REPLAYABLE: ClassVar[bool] = False

    world: Any

    def bounded(self) -> bool:
        return True

    def open(self, world: World) -> OneSplit:
        self.world.io("listen")
        return OneSplit(lambda offset: PushedReader(self.world, offset))


class PushedReader:
    def __init__(self, world: Wires, offset: Offset | None) -> None:
        self._world = world
        self._position, keys = resumed(offset)
        self._inbox = Inbox(1 << 20, self._position, keys)

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        self._world.io("take posts")
        self._world.senders.call(self._inbox)
        posts = self._inbox.take(self._world.random.randrange(1, 6), 0.0)
        lines = [line for post in posts for line in post.payloads]
        if lines:
            begin, self._position = self._position, posts[-1].end
            return Batch(parts.raw(lines, begin)), self._offset()
        return (Batch(empty(RAW), END), self._offset()) if self._world.senders.are_done else None

    def _offset(self) -> Offset:
        return {"position": self._position, "keys": self._inbox.keys()}

    def acknowledge(self, offset: Offset) -> None:
        self._world.io("answer")
        self._inbox.durable(int(offset["position"]))
        self._world.io("answered")

    def counters(self) -> Mapping[str, int]:
        return {}

    def progress(self) -> None:
        return None

    def close(self) -> None:
        self._world.io("hang up")
        self._inbox.close()


# A database whose transactions are its own (PostgreSQL)


@dataclass(eq=False, slots=True)
class Transaction:
    """Rows of a table, and how far it reaches with them; None where the transaction does not say."""

    table: str
    rows: Sequence[Mapping[str, Any]]
    epoch: int | None


class Database:
    """Tables, and the epoch of each. A transaction whose connection is lost at its commit ends later, either way."""

    def __init__(self, world: Wires) -> None:
        self._world = world
        self.tables: dict[str, list[Mapping[str, Any]]] = {}
        self._epochs: dict[str, int] = {}
        self._under_way: list[Transaction] = []

    def epoch(self, table: str) -> int | None:
        """How far a table reaches; asked without waiting for what is under way."""
        if self._world.io("ask database", ("away",)):
            raise Unavailable("the database is away (simulated)")
        self._go_on(0.3)
        return self._epochs.get(table)

    def transact(self, transaction: Transaction, after: int | None, *, looks: bool = True) -> None:
        """Commit. Waits for the transactions before it, then looks whether the table is still where it was."""
        if self._world.io("lock table", ("away",)):
            raise Unavailable("the database is away (simulated)")
        self._go_on(1.0)
        if looks and self._epochs.get(transaction.table) != after:
            raise Unavailable("a transaction whose connection was lost has ended after all (simulated)")
        self._under_way.append(transaction)  # if we die now, or the connection does, nobody knows what becomes of it
        if self._world.io("commit at database", ("away",)):
            raise Unavailable("the connection was lost (simulated)")
        self._under_way.remove(transaction)
        self._commit(transaction)
        if self._world.io("committed at database", ("unsure",)):
            raise Unavailable("the database has not answered (simulated)")

    def _go_on(self, share: float) -> None:
        for transaction in tuple(self._under_way):
            if self._world.random.random() < share:
                self._under_way.remove(transaction)
                if self._world.random.random() < 0.5:
                    self._commit(transaction)

    def _commit(self, transaction: Transaction) -> None:
        self.tables.setdefault(transaction.table, []).extend(transaction.rows)
        if transaction.epoch is not None:
            self._epochs[transaction.table] = transaction.epoch


class DatabaseTable(Sink):
    """A table of the database."""

    world: Any
    table: str

    def place(self) -> Mapping[str, Any]:
        return {"table": self.table}

    def open(self, world: World, schema: pa.Schema) -> Writer:
        if self.world.mutant == "epoch outside the sink's transaction":
            return NotedTableWriter(self, world, schema)
        return DatabaseWriter(self, world, schema)


class DatabaseWriter(Spooled):
    """Rows and epoch in one transaction, as sink `postgres` does it."""

    def __init__(self, settings: DatabaseTable, world: World, schema: pa.Schema) -> None:
        super().__init__(world, schema)
        self._table, self._database = settings.table, settings.world.database
        self._looks = settings.world.mutant != "late transaction not looked for"
        self._stands: int | None = None
        self._is_known = False

    def published(self) -> int | None:
        self._stands, self._is_known = self.applied(), True
        return self._stands

    def publish(self, epoch: int, tokens: Any) -> None:
        if not self._is_known:
            self.published()
        super().publish(epoch, tokens)

    def applied(self) -> int | None:
        epoch: int | None = self._database.epoch(self._table)
        return epoch

    def apply(self, epoch: int, rows: pa.Table) -> None:
        transaction = Transaction(self._table, rows.to_pylist(), epoch)
        self._database.transact(transaction, self._stands, looks=self._looks)
        self._stands = epoch


class NotedTableWriter(SpooledAndNoted):
    """The planted mistake: the epoch is noted here, after the database's transaction, instead of within it."""

    def __init__(self, settings: DatabaseTable, world: World, schema: pa.Schema) -> None:
        super().__init__(world, schema)
        self._table, self._database = settings.table, settings.world.database

    def write(self, epoch: int, rows: pa.Table) -> None:
        self._database.transact(Transaction(self._table, rows.to_pylist(), None), None)


TENDER = ("answered", "commit at database", "committed at database", "tell group before a move")
"""Steps between what the other side knows and what we do: here the power is cut more often than elsewhere."""


class Wires(Plant):
    """The simulated world, with the machines at the other ends."""

    def __init__(self, seed: int, mutant: str = "") -> None:
        super().__init__(seed, 0, mutant)
        self.database = Database(self)
        self.stream: Stream
        self.senders: Senders

    def io(self, what: str, kinds: Sequence[str] = ()) -> str | None:
        if what in TENDER and self.faults > 0 and self.dead is None and self.random.random() < 0.05:
            self.faults -= 1
            self.trace.append(f"{self.steps} power {what}")
            self.die(PowerCut())
        return super().io(what, kinds)
