"""The world in a nutshell, from a seed: a clock, a disk, a broker, tables and a store that crash at any I/O step.

What is durable and what is not follows POSIX, and no more: bytes after fsync of the file, names after fsync of the
folder. A power cut keeps anything of the rest: whole, torn, with a hole, empty or not at all, name by name.
"""

from __future__ import annotations

import errno
import json
import random
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import simulated_parts as parts

from tocsin.batch import END, RAW, Batch, empty, times_us
from tocsin.contracts import Channel, Checkpoint, Delivery, Message, Offset, Reader, Sink, Source, Token, Writer
from tocsin.engine.checkpoint import decoded, encoded, state_files
from tocsin.errors import AlreadyRunning, DeliveryError, DurabilityError
from tocsin.world import Disk

STEPS_MAX = 60_000


class Crash(BaseException):
    """The process is gone; what the system had in its cache stays."""


class PowerCut(Crash):
    """The machine is gone; what was not durable may be, too."""


class Broken(AssertionError):
    """An invariant does not hold."""


class World:
    """What outlives a process, and the faults that are still to come."""

    def __init__(self, seed: int, faults: int, mutant: str = "") -> None:
        self.random = random.Random(seed)
        self.mutant = mutant
        self.faults = faults
        self.calm_steps = self.random.choice((3, 10, 30, 60))
        """Steps between faults, about."""
        self.next_fault = self._gap()
        self.next_kind: str | None = None
        self.focus = self.random.choice(("", "", "folder _delta_log", "commit point", "folder 0", "unlink"))
        """Steps at which a crash is more likely."""
        self.steps = 0
        self.dead: Crash | None = None
        self.full_until = 0
        self.now_s = 0.0
        self.skew_us = 0
        self.disk = SimulatedDisk(self)
        self.records = Records()
        self.broker = Broker(self)
        self.delivered: list[str] = []
        self.trace: list[str] = []
        self.runner: Any = None
        self.second: Any = None

    def _gap(self) -> int:
        return 1 + int(self.random.expovariate(1 / self.calm_steps))

    def boot(self) -> None:
        """A new process."""
        self.dead = None
        self.records.locked = False

    def io(self, what: str, kinds: Sequence[str] = ()) -> str | None:
        """One I/O step: may kill the process, cut the power, or tell the caller which of ``kinds`` of fault to have."""
        if self.dead is not None:
            raise self.dead
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Broken(f"I7: no end after {STEPS_MAX} steps")
        if self.steps < self.full_until and "full" in kinds:
            return "full"
        self.next_fault -= 1
        if self.focus and self.focus in what and self.next_kind is None and self.random.random() < 0.1:
            self.next_fault, self.next_kind = 0, "crash"
        if self.next_fault > 0 or self.faults <= 0:
            return None
        self.next_fault = self._gap()
        kind = self.next_kind or self.random.choice(("crash", "crash", "power", "power", "stop", "second", *kinds))
        self.next_kind = None
        if kind == "crash" and self.random.random() < 0.5:
            # What a recovery saw but did not make durable is lost by a power cut soon after it.
            self.next_kind, self.next_fault = "power", self.random.randrange(1, 120)
        self.faults -= 1
        self.trace.append(f"{self.steps} {kind} {what}")
        if kind == "crash":
            self.die(Crash())
        if kind == "power":
            self.die(PowerCut())
        if kind == "stop" and self.runner is not None:
            self.runner.stop()
        elif kind == "second" and self.records.locked:
            self.second()
        elif kind == "full":
            self.full_until = self.steps + self.random.randrange(1, 40)
        return kind if kind in kinds else None

    def die(self, crash: Crash) -> None:
        self.dead = crash
        raise crash

    # Clock

    def now_us(self) -> int:
        if self.faults > 0 and self.random.random() < 0.01:
            self.skew_us = self.random.choice((-3_600, 0, 3_600)) * 1_000_000
        return 1_700_000_000_000_000 + int(self.now_s * 1e6) + self.skew_us

    def monotonic_s(self) -> float:
        self.now_s += 0.0001
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Broken(f"I7: no end after {STEPS_MAX} steps")


class Inode:
    def __init__(self) -> None:
        self.data = b""
        self.durable = b""
        self.lost = False
        """After a failed fsync: the cache says clean, the platter never saw it."""


class SimulatedDisk:
    """`world.Disk` in memory, with what a power cut leaves behind."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.folders: dict[Path, dict[str, Inode]] = {}
        self.durable: dict[Path, dict[str, Inode]] = {}

    def read(self, path: Path) -> bytes:
        self.world.io(f"read {path.name}")
        return self._inode(path).data

    def write(self, path: Path, data: bytes | memoryview) -> None:
        self._put(path, b"", bytes(data))

    def append(self, path: Path, data: bytes | memoryview) -> None:
        known = self.folders.get(path.parent, {}).get(path.name)
        self._put(path, known.data if known else b"", bytes(data))

    def _put(self, path: Path, before: bytes, data: bytes) -> None:
        torn = before + data[: self.world.random.randrange(len(data) + 1)]
        inode = self.folders[path.parent].setdefault(path.name, Inode())
        inode.data = torn  # what stands if the process dies in the middle
        fault = self.world.io(f"write {path.name}", ("full", "error"))
        if fault is not None:
            raise OSError(errno.ENOSPC if fault == "full" else errno.EIO, "simulated", str(path))
        inode.data = before + data

    def truncate(self, path: Path, size: int) -> None:
        self.world.io(f"truncate {path.name}")
        self._inode(path).data = self._inode(path).data[:size]

    def sync(self, path: Path) -> None:
        if self.world.io(f"sync {path.name}", ("fsync",)) == "fsync":
            raise DurabilityError(f"fsync of {path} failed (simulated)")
        inode = self._inode(path)
        inode.durable = inode.data

    def sync_folder(self, path: Path) -> None:
        if self.world.io(f"sync folder {path.name}", ("fsync",)) == "fsync":
            raise DurabilityError(f"fsync of {path} failed (simulated)")
        self.durable[path] = dict(self.folders[path])

    def link(self, old: Path, new: Path) -> None:
        if self.world.io(f"link {new.name}", ("error",)):
            raise OSError(errno.EIO, "simulated", str(new))
        if new.name in self.folders[new.parent]:
            raise FileExistsError(new)
        self.folders[new.parent][new.name] = self._inode(old)

    def rename(self, old: Path, new: Path) -> None:
        if self.world.io(f"rename {new.name}", ("error",)):
            raise OSError(errno.EIO, "simulated", str(new))
        self.folders[new.parent][new.name] = self.folders[old.parent].pop(old.name)

    def unlink(self, path: Path) -> None:
        self.world.io(f"unlink {path.name}")
        self.world.records.check_unlink(path)
        self.folders.get(path.parent, {}).pop(path.name, None)

    def names(self, folder: Path) -> Sequence[str]:
        self.world.io(f"names {folder.name}")
        return sorted(self.folders.get(folder, ()))

    def size(self, path: Path) -> int:
        return len(self._inode(path).data)

    def make_folder(self, path: Path) -> None:
        for folder in (path, *path.parents):
            self.folders.setdefault(folder, {})
            self.durable.setdefault(folder, {})

    def _inode(self, path: Path) -> Inode:
        found = self.folders.get(path.parent, {}).get(path.name)
        if found is None:
            raise FileNotFoundError(path)
        return found

    def power_cut(self) -> None:
        random = self.world.random
        for folder, names in self.folders.items():
            durable = self.durable[folder]
            for name in {**names, **durable}:
                if names.get(name) is not durable.get(name) and random.random() < 0.5:
                    if name in durable:
                        names[name] = durable[name]
                    else:
                        del names[name]
            self.durable[folder] = dict(names)
        for inode in {id(inode): inode for names in self.folders.values() for inode in names.values()}.values():
            inode.data = inode.durable = self._left(inode)

    def _left(self, inode: Inode) -> bytes:
        random, data, durable = self.world.random, inode.data, inode.durable
        if data == durable:
            return data
        keep = len(durable) if data.startswith(durable) else 0
        cut = random.randrange(keep, len(data) + 1) if len(data) >= keep else keep
        hole = random.randrange(keep, len(data)) if len(data) > keep else keep
        return random.choice(
            (
                durable,
                data,
                data[:cut],
                data[:cut] + b"\0" * (len(data) - cut),
                data[:keep] + random.randbytes(len(data) - keep),
                data[:hole] + b"\0" * (min(hole + 64, len(data)) - hole) + data[hole + 64 :],
            )
        )


class Records:
    """What the checkpoint store holds: always durable, always whole."""

    def __init__(self) -> None:
        self.checkpoint: str | None = None
        self.outbox: dict[str, dict[str, Message]] = {}
        self.done: set[tuple[str, str]] = set()
        self.locked = False

    def last(self) -> Checkpoint | None:
        return decoded(self.checkpoint) if self.checkpoint else None

    def check_unlink(self, path: Path) -> None:
        """I8: nothing is deleted that the last checkpoint refers to."""
        last = self.last()
        if last is None:
            return
        if path.name in state_files(last.states):
            raise Broken(f"I8: {path} is deleted, but the last checkpoint needs it")
        if path.name.startswith("part-") and path.name in json.dumps(last.tokens.get(path.parent.name)):
            raise Broken(f"I8: {path} is deleted, but the last checkpoint staged it")


class Store:
    """`contracts.CheckpointStore` over `Records`; the outcome of a failed commit is unknown."""

    def __init__(self, world: World) -> None:
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

    def partitions(self) -> Sequence[str]:
        return tuple(self.lines)

    def bounded(self) -> bool:
        return True

    def open(self, partition: str, offset: Offset | None) -> Reader:
        self.world.io(f"open {partition}")
        return TopicReader(self.world, partition, self.lines[partition], offset or 0)


class TopicReader:
    def __init__(self, world: World, partition: str, lines: Sequence[bytes], at: int) -> None:
        self.world, self.partition, self.lines, self.at = world, partition, lines, at

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        if self.world.io("poll", ("error",)):
            raise OSError(errno.EIO, "simulated read")
        if self.world.random.random() < 0.2:
            return None
        begin = self.at
        self.at = min(begin + self.world.random.randrange(1, 6), len(self.lines))
        if begin == self.at:
            return Batch(empty(RAW), END), self.at
        return Batch(parts.raw(self.lines[begin : self.at], begin)), self.at

    def commit(self, offset: Offset) -> None:
        self.world.io("commit offset")
        last = self.world.records.last()
        if last is None or last.offsets.get(f"topic/{self.partition}", 0) < offset:
            raise Broken(f"I6: offset {offset} is acknowledged, the last checkpoint is not there yet")

    def close(self) -> None:
        self.world.io("close reader")


class Broker:
    """An MQTT broker with one session at QoS 1: what is not acknowledged is sent again, marked as such."""

    WINDOW = 8

    def __init__(self, world: World) -> None:
        self.world = world
        self.lines: Sequence[bytes] = ()
        self.next = 0
        self.inflight: dict[int, int] = {}
        """Packet id to line."""
        self.dropped = False

    def connect(self) -> list[tuple[int, bytes, bool]]:
        self.dropped = False
        return [(id, self.lines[line], True) for id, line in self.inflight.items()]

    def receive(self, count: int) -> list[tuple[int, bytes, bool]]:
        found = []
        while count and self.next < len(self.lines) and len(self.inflight) < self.WINDOW:
            id = next(i for i in range(1, 99) if i not in self.inflight)
            self.inflight[id] = self.next
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

    def open(self, partition: str, offset: Offset | None) -> Reader:
        self.world.io("connect")
        return MqttReader(self.world.broker, offset or [], self.log)


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

    def commit(self, offset: Offset) -> None:
        self.world.io("PUBACK")
        done, self.to_acknowledge = self.to_acknowledge, []
        self.unsettled.clear()
        for id in done:
            self.broker.acknowledge(id, self.log)

    def close(self) -> None:
        self.world.io("disconnect")


class SmallTable(Sink):
    """A table in the manner of Delta, small enough for thousands of schedules: parts, and a log extended by link(2)."""

    world: Any
    path: str

    def open(self, app_id: str, schema: pa.Schema, folder: Path, disk: Disk) -> Writer:
        return SmallTableWriter(self.world, folder / self.path, disk)


class SmallTableWriter:
    def __init__(self, world: World, folder: Path, disk: Disk) -> None:
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

    def commit(self, epoch: int, tokens: Sequence[Token]) -> None:
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

    def _epoch(self) -> int | None:
        return self.entries[-1]["epoch"] if self.entries else None

    def committed(self) -> int | None:
        if self.world.mutant == "no transaction check":
            last = self.world.records.last()
            return last.tables.get(self.folder.name) if last else None
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

    def close(self) -> None:
        pass

    @staticmethod
    def rows(disk: SimulatedDisk, folder: Path) -> Iterator[dict[str, Any]]:
        log = disk.folders.get(folder / "_delta_log", {})
        for name in sorted(log):
            if name.endswith(".json"):
                for part in json.loads(log[name].data)["parts"]:
                    yield from json.loads(disk.folders[folder][part].data)


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

    def connect(self, folder: Path) -> Delivery:
        return SimulatedDelivery(self.world)


class SimulatedDelivery:
    def __init__(self, world: World) -> None:
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
