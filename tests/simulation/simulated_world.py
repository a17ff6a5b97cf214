"""What a simulated plant is made of: a broker, a log in partitions, tables and a checkpoint store that crash."""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import simulated_parts as parts

from tocsin.batch import END, RAW, Batch, empty, times_us
from tocsin.contracts import (
    Channel,
    Checkpoint,
    Connection,
    Delivery,
    Message,
    Offset,
    Sink,
    Source,
    Split,
    Token,
    Writer,
)
from tocsin.ends import OneSplit
from tocsin.engine.checkpoint import decoded, encoded, state_files
from tocsin.errors import AlreadyRunning, DeliveryError, Unavailable
from tocsin.testing.simulated import Broken, SimulatedDisk, SimulatedWorld
from tocsin.world import World


class Plant(SimulatedWorld):
    """The simulated world, with what a plant has beside clock and disk."""

    def __init__(self, seed: int, faults: int, mutant: str = "") -> None:
        super().__init__(seed, faults, mutant)
        self.records = Records()
        self.broker = Broker(self)
        self.delivered: list[str] = []
        self.on_unlink = self._check_unlink

    def boot(self) -> None:
        super().boot()
        self.records.locked = False

    def _check_unlink(self, path: Path) -> None:
        self.records.check_unlink(path, durable_epoch(self.disk, path.parent))


def durable_epoch(disk: Any, folder: Path) -> int:
    """The last epoch that a Delta table's log would still hold after a power cut; -1 if none."""
    epoch = -1
    for name, inode in disk.durable.get(folder / "_delta_log", {}).items():
        if not name.endswith(".json"):
            continue
        for line in inode.durable.splitlines():
            action = json.loads(line) if line.startswith(b'{"txn"') else {}
            epoch = max(epoch, action.get("txn", {}).get("version", -1))
    return epoch


class Records:
    """What the checkpoint store holds: always durable, always whole."""

    def __init__(self) -> None:
        self.checkpoint: str | None = None
        self.outbox: dict[str, dict[str, Message]] = {}
        self.done: set[tuple[str, str]] = set()
        self.locked = False

    def last(self) -> Checkpoint | None:
        return decoded(self.checkpoint) if self.checkpoint else None

    def check_unlink(self, path: Path, reached: int) -> None:
        """I8: nothing is deleted that the last checkpoint refers to, unless its table has had it for good."""
        last = self.last()
        if last is None:
            return
        if path.name in state_files(last.states):
            raise Broken(f"I8: {path} is deleted, but the last checkpoint needs it")
        if path.name.startswith("part-") and path.name in json.dumps(
            [one.token for one in last.staged.get(path.parent.name, ()) if one.epoch > reached]
        ):
            raise Broken(f"I8: {path} is deleted, but the last checkpoint staged it")


class Store:
    """`contracts.CheckpointStore` over `Records`; the outcome of a failed commit is unknown."""

    def __init__(self, world: Plant) -> None:
        self.world, self.records = world, world.records
        world.io("open store")
        if self.records.locked and world.mutant != "no lock":
            raise AlreadyRunning("simulated")
        self.records.locked = True

    def last(self) -> Checkpoint | None:
        self.world.io("read store")
        return self.records.last()

    def commit(self, checkpoint: Checkpoint, outbox: Mapping[str, Sequence[Message]]) -> None:
        if self.world.random.random() < 0.5:
            self._io("commit point, before")
        self.records.checkpoint = encoded(checkpoint)
        for channel, messages in outbox.items():
            mine = self.records.outbox.setdefault(channel, {})
            for message in messages:
                mine.setdefault(message.id, message)
        self._io("commit point, after")

    def _io(self, what: str) -> None:
        if self.world.io(what, ("error",)):
            raise sqlite3.OperationalError("disk I/O error (simulated)")

    def pending(self, channel: str, limit: int) -> Sequence[Message]:
        self.world.io("pending")
        waiting = self.records.outbox.get(channel, {}).values()
        return [m for m in waiting if (channel, m.id) not in self.records.done][:limit]

    def delivered(self, channel: str, ids: Sequence[str]) -> None:
        self.world.io("mark delivered")
        self.records.done |= {(channel, i) for i in ids}

    def close(self) -> None:
        self.world.io("close store")
        self.records.locked = False


class Topic(Source):
    """A partitioned log that can be read again from any offset (files, Kafka); every poll cuts it differently."""

    world: Any
    lines: dict[str, tuple[bytes, ...]]

    def bounded(self) -> bool:
        return True

    def open(self, world: World) -> Connection:
        if self.world.io("connect topic", ("away",)):
            raise Unavailable("the topic is away (simulated)")
        return TopicConnection(self)


class TopicConnection:
    def __init__(self, topic: Topic) -> None:
        self.topic = topic

    def splits(self) -> Sequence[Split]:
        return tuple(Split(name) for name in self.topic.lines)

    def read(self, split: Split, offset: Offset | None) -> Any:
        self.topic.world.io(f"open {split.name}")
        return TopicReader(self.topic.world, split.name, self.topic.lines[split.name], offset or 0)

    def close(self) -> None:
        self.topic.world.io("disconnect topic")


class TopicReader:
    def __init__(self, world: World, partition: str, lines: Sequence[bytes], at: int) -> None:
        self.world, self.partition, self.lines, self.at = world, partition, lines, at

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        fault = self.world.io("poll", ("error", "away"))
        if fault == "away":
            raise Unavailable("the topic is away (simulated)")
        if fault is not None:
            raise OSError(errno.EIO, "simulated read")
        if self.world.random.random() < 0.2:
            return None
        begin = self.at
        self.at = min(begin + self.world.random.randrange(1, 6), len(self.lines))
        if begin == self.at:
            return Batch(empty(RAW), END), self.at
        return Batch(parts.raw(self.lines[begin : self.at], begin)), self.at

    def counters(self) -> Mapping[str, int]:
        return {}

    def progress(self) -> None:
        return None

    def acknowledge(self, offset: Offset) -> None:
        self.world.io("acknowledge offset")
        last = self.world.records.last()
        if last is None or last.offsets.get(f"topic/{self.partition}", 0) < offset:
            raise Broken(f"I6: offset {offset} is acknowledged, the last checkpoint is not there yet")

    def close(self) -> None:
        self.world.io("close reader")


class Broker:
    """An MQTT broker with one session at QoS 1: what is not acknowledged is sent again, marked as such."""

    WINDOW = 8

    def __init__(self, world: Plant) -> None:
        self.world = world
        self.lines: Sequence[bytes] = ()
        self.next = 0
        self.inflight: dict[int, int] = {}
        """Packet id to line."""
        self.last: dict[int, bytes] = {}
        """What was last sent under a packet id."""
        self.dropped = False

    def connect(self) -> list[tuple[int, bytes, bool]]:
        self.dropped = False
        return [(id, self.lines[line], True) for id, line in self.inflight.items()]

    def receive(self, count: int) -> list[tuple[int, bytes, bool]]:
        found = []
        while count and self.next < len(self.lines) and len(self.inflight) < self.WINDOW:
            # Nobody could tell the same bytes under the same id from a repetition; real brokers count the ids up.
            line = self.lines[self.next]
            id = next(i for i in range(1, 99) if i not in self.inflight and self.last.get(i) != line)
            self.inflight[id], self.last[id] = self.next, line
            found.append((id, self.lines[self.next], False))
            self.next += 1
            count -= 1
        return found

    def acknowledge(self, id: int, log: Path) -> None:
        if self.world.faults > 0 and self.world.random.random() < 0.03:
            self.dropped = True
        if self.dropped:
            return  # the PUBACK is lost with the connection
        payload = self.lines[self.inflight.pop(id)]
        disk = self.world.disk
        kept = (
            payload in inode.durable
            for name, inode in disk.durable.get(log, {}).items()
            if disk.folders[log].get(name) is inode
        )
        if not any(kept):
            raise Broken(f"I6: {payload!r} is acknowledged, but not durable in the ingest log")


class Mqtt(Source):
    """What comes from the broker: cannot be read twice."""

    REPLAYABLE: ClassVar[bool] = False

    world: Any
    log: Path

    def bounded(self) -> bool:
        return True

    def open(self, world: World) -> OneSplit:
        self.world.io("connect")
        return OneSplit(lambda offset: MqttReader(self.world.broker, offset or [], self.log))


class MqttReader:
    """Knows again what is sent twice: by packet id and payload, while it is marked as a repetition."""

    def __init__(self, broker: Broker, offset: Sequence[Sequence[Any]], log: Path) -> None:
        self.broker, self.world, self.log = broker, broker.world, log
        self.recent = [tuple(pair) for pair in offset]
        self.waiting = broker.connect()
        self.to_acknowledge: list[int] = []
        self.unsettled: set[tuple[int, str]] = set()

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        if self.world.io("poll broker", ("error",)):
            raise OSError(errno.EIO, "simulated read")
        if self.broker.dropped:
            self.waiting = self.broker.connect()
            self.to_acknowledge = []  # an id of the old connection may mean another message soon
        count = self.world.random.randrange(6)
        sent, self.waiting = self.waiting[:count], self.waiting[count:]
        if not self.waiting:
            sent += self.broker.receive(count - len(sent))
        rows = []
        for id, payload, again in sent:
            if again and (id, payload.decode()) in self.recent:
                if (id, payload.decode()) in self.unsettled:
                    self.to_acknowledge.append(id)
                else:
                    self.broker.acknowledge(id, self.log)
                continue
            self.recent = [*self.recent[-2 * Broker.WINDOW :], (id, payload.decode())]
            self.to_acknowledge.append(id)
            self.unsettled.add((id, payload.decode()))
            rows.append(payload)
        if rows:
            return Batch(parts.raw(rows)), self.recent
        if self.broker.next == len(self.broker.lines) and not self.broker.inflight:
            return Batch(empty(RAW), END), self.recent
        return None

    def counters(self) -> Mapping[str, int]:
        return {}

    def progress(self) -> None:
        return None

    def acknowledge(self, offset: Offset) -> None:
        self.world.io("PUBACK")
        done, self.to_acknowledge = self.to_acknowledge, []
        self.unsettled.clear()
        for id in done:
            self.broker.acknowledge(id, self.log)

    def close(self) -> None:
        self.world.io("disconnect")


LOAD = "load"


class SmallTable(Sink):
    """A table in the manner of Delta, small enough for thousands of schedules: parts, and a log extended by link(2)."""

    world: Any
    path: str
    load: str | None = None

    def place(self) -> Mapping[str, Any]:
        return {"path": self.path}

    def joins(self) -> str | None:
        return self.load

    @classmethod
    def open_joined(cls, members: Mapping[str, tuple[Sink, World, pa.Schema]]) -> SmallLoadWriter:
        sink, world, _ = next(iter(members.values()))
        return SmallLoadWriter(sink.world, world.folder / LOAD, world.disk)  # type: ignore[attr-defined]

    def open(self, world: World, schema: pa.Schema) -> Writer:
        return SmallTableWriter(self.world, world.folder / self.path, world.disk)


class SmallTableWriter:
    def __init__(self, world: Plant, folder: Path, disk: Any) -> None:
        self.world, self.folder, self.log, self.disk = world, folder, folder / "_delta_log", disk
        disk.make_folder(folder)
        disk.make_folder(self.log)
        disk.unlink(self.log / "entry.tmp")  # it may be linked: writing it again would change the entry
        names = [name for name in disk.names(self.log) if name.endswith(".json")]
        if names and not _parsed(disk.read(self.log / names[-1])):
            disk.unlink(self.log / names.pop())
            disk.sync_folder(self.log)
        self.entries = [json.loads(disk.read(self.log / name)) for name in names]
        self.staged = 0

    def stage(self, epoch: int, rows: Sequence[pa.RecordBatch]) -> Token:
        name = f"part-{epoch:06d}-{self.staged}.json"
        self.staged += 1
        text = json.dumps([parts._plain(row) for batch in rows for row in batch.to_pylist()], default=_text)
        self.disk.write(self.folder / name, text.encode())
        self.disk.sync(self.folder / name)
        self.disk.sync_folder(self.folder)
        return {"part": name}

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        if self.world.io("publish", ("away",)):
            raise Unavailable("the table is away (simulated)")
        if self.world.mutant != "no transaction check" and self._epoch() is not None and epoch <= self._epoch():  # type: ignore[operator]
            return
        entry = {"epoch": epoch, "parts": [token["part"] for token in tokens]}
        temporary = self.log / "entry.tmp"
        self.disk.write(temporary, json.dumps(entry).encode())
        self.disk.sync(temporary)
        self.disk.link(temporary, self.log / f"{len(self.entries):06d}.json")
        self.disk.unlink(temporary)
        self.disk.sync_folder(self.log)
        self.entries.append(entry)
        if self.world.io("published", ("unsure",)):
            raise Unavailable("the table has not answered (simulated)")

    def _epoch(self) -> int | None:
        return self.entries[-1]["epoch"] if self.entries else None

    def published(self) -> int | None:
        if self.world.mutant == "no transaction check":
            last = self.world.records.last()
            return last.published.get(self.folder.name) if last else None
        if self.entries and self.world.mutant != "tail not fsynced on recovery":
            self.disk.sync(self.log / f"{len(self.entries) - 1:06d}.json")
            self.disk.sync_folder(self.folder)
            self.disk.sync_folder(self.log)
        return self._epoch()

    def discard(self, keep: Sequence[Token]) -> None:
        kept = {part for entry in self.entries for part in entry["parts"]} | {token["part"] for token in keep}
        for name in self.disk.names(self.folder):
            if name.startswith("part-") and name not in kept:
                self.disk.unlink(self.folder / name)

    def housekeep(self) -> None:
        pass

    def counters(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        pass

    @staticmethod
    def rows(disk: SimulatedDisk, folder: Path) -> Iterator[dict[str, Any]]:
        log = disk.folders.get(folder / "_delta_log", {})
        for name in sorted(log):
            if name.endswith(".json"):
                for part in json.loads(log[name].data)["parts"]:
                    yield from json.loads(disk.folders[folder][part].data)


class SmallLoadWriter(SmallTableWriter):
    """Several small tables with one log: each part holds rows of all of them."""

    def stage(self, epoch: int, rows: Any) -> Token:
        name = f"part-{epoch:06d}-{self.staged}.json"
        self.staged += 1
        plain = {id: [parts._plain(row) for batch in some for row in batch.to_pylist()] for id, some in rows.items()}
        self.disk.write(self.folder / name, json.dumps(plain, default=_text).encode())
        self.disk.sync(self.folder / name)
        self.disk.sync_folder(self.folder)
        return {"part": name}

    @staticmethod
    def rows(disk: SimulatedDisk, folder: Path) -> Iterator[dict[str, Any]]:
        load = folder.parent / LOAD
        for name in SmallLoadWriter.published_entries(disk, load):
            for part in json.loads(disk.folders[load / "_delta_log"][name].data)["parts"]:
                yield from json.loads(disk.folders[load][part].data).get(folder.name, [])

    @staticmethod
    def published_entries(disk: SimulatedDisk, load: Path) -> list[str]:
        """The names of the entries of the log, in order."""
        return sorted(name for name in disk.folders.get(load / "_delta_log", {}) if name.endswith(".json"))


def _parsed(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class SimulatedBell(Channel):
    """Delivers, fails, or delivers and says it failed."""

    URGENT: ClassVar[bool] = True
    world: Any

    def messages(self, rows: pa.RecordBatch) -> Sequence[Message]:
        found = zip(rows["key"].to_pylist(), times_us(rows).tolist(), rows["value"].to_pylist(), strict=True)
        return [Message(f"{key}/{time}/{value}", b"ring") for key, time, value in found]

    def open(self, world: World) -> Delivery:
        return SimulatedDelivery(self.world)


class SimulatedDelivery:
    def __init__(self, world: Plant) -> None:
        self.world = world

    def deliver(self, messages: Sequence[Message]) -> None:
        fault = self.world.io("deliver", ("refused", "unsure"))
        if fault == "refused":
            raise DeliveryError("simulated")
        known = self.world.records.outbox.get("bell", {})
        for message in messages:
            if message.id not in known:
                raise Broken(f"I5: {message.id} is delivered, but is in no outbox")
            self.world.delivered.append(message.id)
        if fault == "unsure":
            raise DeliveryError("simulated: no answer")

    def counters(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        pass


@contextmanager
def patched(owner: Any, **changes: Any) -> Iterator[None]:
    """Attributes of a class, changed for a while."""
    before = {name: owner.__dict__[name] for name in changes}
    for name, value in changes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
