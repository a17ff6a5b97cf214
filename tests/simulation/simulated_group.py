"""A topic whose partitions are shared by a group of engines: given away, taken over and added while they run."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import simulated_parts as parts
from simulated_wires import Wires

from tocsin.batch import Batch
from tocsin.contracts import Connection, Offset, Source, Split
from tocsin.errors import SourceError, Unavailable
from tocsin.kafka.partition import Begins, Partition
from tocsin.world import World


class Over(BaseException):
    """Something is broken: the other engine need not go on."""


class Turns:
    """Threads of which one runs at a time: which one is drawn from the seed, so that a seed gives the same again."""

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self.random = random.Random(seed)
        self._share = self.random.choice((0.02, 0.1, 0.4))
        self._may_go = {name: threading.Semaphore(0) for name in names}
        self._left = list(names)
        self.is_over = False

    def begin(self) -> None:
        self._may_go[self._left[0]].release()

    def enter(self, name: str) -> None:
        self._may_go[name].acquire()

    def next(self, name: str, share: float | None = None) -> None:
        """Perhaps it is somebody else's turn now."""
        others = [other for other in self._left if other != name]
        if others and self.random.random() < (share or self._share):
            self._may_go[self.random.choice(others)].release()
            self._may_go[name].acquire()
        if self.is_over:
            raise Over

    def leave(self, name: str) -> None:
        self._left.remove(name)
        if self._left:
            self._may_go[self.random.choice(self._left)].release()


@dataclass(eq=False, slots=True)
class Log:
    """A partition: what stands in it, who reads it, and what the group was told last."""

    lines: Sequence[bytes]
    written: int = 0
    told: int | None = None
    owner: str | None = None
    wanted: str | None = None
    """Who is to have it next, once its owner has let go of it."""
    excused: Counter[int] = field(default_factory=Counter)
    """Lines that a member has read for good without telling the group, before it was given up: these come again."""


class Group:
    """The coordinator. Members are static: who died keeps its partitions, until it is back or given up."""

    def __init__(self, turns: Turns, lines: Mapping[str, Sequence[bytes]]) -> None:
        self._random = turns.random
        self._coming = dict(lines)
        """Partitions that are not there yet."""
        self.logs: dict[str, Log] = {}
        self.members: dict[str, GroupConnection | None] = {}
        """The connection of each, also of those that died; None once it is given up."""
        self._moves = 0
        self._add()

    @property
    def is_done(self) -> bool:
        return not self._coming and all(log.told == len(log.lines) for log in self.logs.values())

    def join(self, connection: GroupConnection) -> None:
        name = connection.world.name
        is_new = self.members.get(name) is None
        self.members[name] = connection
        for id, log in self.logs.items():
            if log.owner == name != log.wanted:  # it died while it was to let go of it
                if self._random.random() < 0.5:
                    log.wanted = name
                else:
                    self.take_away(id, connection)
        if is_new:
            self._rebalance()

    def go_on(self, name: str) -> None:
        """Time passes there, too: lines are written, partitions move and are added, who is not heard is given up."""
        for log in self.logs.values():
            if self._random.random() < 0.1:
                log.written = min(log.written + self._random.randrange(1, 4), len(log.lines))
            if log.owner is None and log.wanted is None:
                log.wanted = name
        chance = self._random.random()
        if chance < 0.02 and self._coming:
            self._add()
            self._rebalance()
        elif chance < 0.06 and self._moves < 12:
            self._moves += 1
            self._rebalance()
        elif chance < 0.07 and self._moves < 12:
            self._moves += 1
            self._give_up(self._random.choice([other for other in (*self.members, name) if self.members[other]]))

    def given(self, name: str, begun: Collection[str]) -> list[str]:
        """The partitions that a member has now; those that it is to let go of are not, once it has begun with them."""
        for log in self.logs.values():
            if log.owner is None and log.wanted == name:
                log.owner = name
        return [id for id, log in self.logs.items() if log.owner == name and (log.wanted == name or id not in begun)]

    def _add(self) -> None:
        id = next(iter(self._coming))
        self.logs[id] = Log(self._coming.pop(id))

    def _rebalance(self) -> None:
        members = [name for name, connection in self.members.items() if connection is not None]
        for log in self.logs.values():
            if members and log.wanted == log.owner:  # what is on its way arrives first
                log.wanted = self._random.choice(members)

    def _give_up(self, name: str) -> None:
        """A member was not heard for too long: others get its partitions, from where it was told to be."""
        connection = self.members[name]
        assert connection is not None
        for id, log in self.logs.items():
            if log.owner == name:
                self.take_away(id, connection)
            if log.wanted == name:
                log.wanted = None
        connection.is_given_up = True
        self.members[name] = None
        self._rebalance()

    def take_away(self, id: str, connection: GroupConnection) -> None:
        """Nobody has a partition any more; who gets it next goes on after what the group was told."""
        log = self.logs[id]
        log.excused.update(range(log.told or 0, connection.reached(id)))
        log.owner = None


class SharedTopic(Source):
    """The topic, as a member of the group reads it."""

    world: Any

    def open(self, world: World) -> Connection:
        if self.world.io("connect to group", ("away",)):
            raise Unavailable("the cluster is away (simulated)")
        return GroupConnection(self.world)


class GroupConnection:
    """What `kafka.group` is, without its thread."""

    def __init__(self, world: Member) -> None:
        self.world = world
        self.is_given_up = False
        self.open: dict[str, SharedReader] = {}
        self._begins = Begins(from_latest=False, skips_expired=False)
        world.group.join(self)

    def splits(self) -> Sequence[Split]:
        self.world.io("look for partitions")
        self.look()
        return [Split(id) for id in self.world.group.given(self.world.name, self.open)]

    def look(self) -> None:
        """Let time pass; then hear whether others have our partitions."""
        self.world.group.go_on(self.world.name)
        if self.is_given_up:
            raise SourceError("the group has given our partitions to others (simulated)")
        for reader in self.open.values():
            if self.world.random.random() < 0.2:
                reader.tell()
        if self.world.group.is_done and self.world.on_stop is not None:
            self.world.on_stop()

    def read(self, split: Split, offset: Offset | None) -> SharedReader:
        log = self.world.group.logs[split.name]
        one = Partition("topic", 0, "id", log.told, (0, len(log.lines)))
        known = None if offset is None else {"next": offset, "topic": "id"}
        self.open[split.name] = SharedReader(self, log, split.name, self._begins.at(one, known, new=True))
        return self.open[split.name]

    @property
    def is_settled(self) -> bool:
        """Whether all that was handed over is durable: before that nobody is told that the cluster is away."""
        return all(reader.durable == reader.at for reader in self.open.values())

    def reached(self, id: str) -> int:
        """After what a member may have read for good: by its last checkpoint, or by the next if it still runs."""
        last = self.world.records.last()
        noted = 0 if last is None else last.offsets.get(f"topic/{id}", 0)
        return max(noted, self.open[id].at if id in self.open else 0)

    def close(self) -> None:
        self.world.io("disconnect from group")


class SharedReader:
    """One partition being read."""

    def __init__(self, connection: GroupConnection, log: Log, name: str, at: int) -> None:
        self._connection, self._world, self._log, self._name = connection, connection.world, log, name
        self.at = at
        self.durable = at

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        is_away = self._world.io("poll partition", ("away",)) is not None
        if is_away and self._connection.is_settled:
            raise Unavailable("the cluster is away (simulated)")
        self._connection.look()
        begin, self.at = self.at, min(self.at + self._world.random.randrange(6), self._log.written)
        if self.at <= begin:
            self.at = begin
            return None
        return Batch(parts.raw(self._log.lines[begin : self.at], begin)), self.at

    def acknowledge(self, offset: Offset) -> None:
        self._world.io("acknowledge partition")
        self.durable = max(self.durable, offset)

    def tell(self) -> None:
        """Let the group know how far we are."""
        if not self._connection.is_given_up:
            self._log.told = self.durable

    def close(self) -> None:
        """Tell the group; who is to have the partition next may have it now."""
        is_moving = self._log.wanted != self._world.name
        self._world.io("tell group before a move" if is_moving else "tell group")
        self.tell()
        self._world.io("let go of partition")
        self._connection.open.pop(self._name, None)
        if not self._connection.is_given_up and self._log.wanted != self._world.name:
            self._world.group.take_away(self._name, self._connection)

    def counters(self) -> Mapping[str, int]:
        return {}

    def progress(self) -> None:
        return None


class Member(Wires):
    """The world of one of the engines; the group, and whose turn it is, are common to all."""

    def __init__(self, seed: int, name: str, turns: Turns, group: Group) -> None:
        super().__init__(seed)
        self.name, self.turns, self.group = name, turns, group
        self.focus = self.random.choice(("", "commit point"))

    def io(self, what: str, kinds: Sequence[str] = ()) -> str | None:
        self.turns.next(self.name)
        return super().io(what, kinds)

    def sleep(self, seconds: float) -> None:
        self.turns.next(self.name, 0.5)
        super().sleep(seconds)

    def ended(self) -> None:
        """The process is gone, and is not started again at once."""
        connection = self.group.members.get(self.name)
        if connection is not None:
            connection.open.clear()
        for _ in range(self.random.randrange(4)):
            self.turns.next(self.name, 1.0)
