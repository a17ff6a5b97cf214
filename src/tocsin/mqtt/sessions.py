"""What a broker remembers: sessions with their queues, who subscribes to what, retained messages, who may do what."""

from __future__ import annotations

import hmac
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from tocsin.errors import ConfigError, CorruptState
from tocsin.mqtt.budget import OVERHEAD, Budget, Publication
from tocsin.mqtt.topics import matches, valid_filter
from tocsin.world import SystemDisk

Access = Literal["read", "write", "readwrite"]
SESSION_BYTES_MAX = 64 << 20
RETAINED_BYTES_MAX = 64 << 20
_REMEMBERED_BYTES = 4 << 20
"""How many bytes of topics are remembered with those who want them."""


class Link(Protocol):
    """The connection of a session."""

    def send(self, message: Publication, packet_id: int, dup: bool) -> None: ...
    def clogged(self) -> bool: ...


@dataclass(eq=False)
class Session:
    """One client's, connected or not.

    Messages wait in it until they are acknowledged, at most ``queue_max`` of them unsent, and with its filters not more
    than its ``budget`` of memory. QoS 0 waits only where the client has asked for what is retained.
    """

    client_id: str
    user: str = ""
    queue_max: int = 100_000
    expiry_s: float = 0.0
    """How long it is kept after the connection ends."""
    budget: Budget = field(default_factory=lambda: Budget(SESSION_BYTES_MAX))
    ends_s: float | None = None
    """When it will be forgotten; None while connected."""
    link: Link | None = None
    send_max: int = 65535
    subscriptions: dict[str, int] = field(default_factory=dict)
    """Options by filter."""
    received: set[int] = field(default_factory=set)
    """Packet ids of incoming QoS 2 messages that are not released yet."""
    in_flight: dict[int, Publication] = field(default_factory=dict)
    queue: deque[Publication] = field(default_factory=deque)
    dropped: int = 0
    _again: deque[int] = field(default_factory=deque)
    """Packet ids of what is to be sent again."""
    _packet_id: int = 0

    def deliver(self, message: Publication, *, may_wait: bool = False) -> bool:
        """Send a message, or keep it; False if it had to be dropped. With ``may_wait`` QoS 0 is kept, too."""
        link = self.link
        if link is None and message.qos == 0:
            return True  # QoS 0 is for those who are there
        now = link is not None and not link.clogged()
        if message.qos == 0 and now and not (may_wait and self.queue):
            assert link is not None
            link.send(message, 0, False)
            return True
        waits = message.qos or may_wait
        if waits and len(self.queue) < self.queue_max and self.budget.take(message.weight):
            self.queue.append(message)
            self.flow()
            return True
        self.dropped += 1
        return False

    def _send(self, link: Link, message: Publication) -> None:
        if message.qos == 0:
            self.budget.give(message.weight)
            link.send(message, 0, False)
            return
        packet_id = self._packet_id
        while True:
            packet_id = packet_id % 65535 + 1
            if packet_id not in self.in_flight:
                break
        self._packet_id = packet_id
        self.in_flight[packet_id] = message
        link.send(message, packet_id, False)

    def acknowledged(self, packet_id: int) -> None:
        self.release(packet_id)
        self.flow()

    def release(self, packet_id: int) -> None:
        """Let go of a message in flight."""
        if (message := self.in_flight.pop(packet_id, None)) is not None:
            self.budget.give(message.weight)

    def flow(self) -> None:
        """Send what waits, as far as the client takes it."""
        link = self.link
        while self._again and link is not None and not link.clogged():
            packet_id = self._again.popleft()
            if packet_id in self.in_flight:
                link.send(self.in_flight[packet_id], packet_id, True)
        while self.queue and link is not None and len(self.in_flight) < self.send_max and not link.clogged():
            self._send(link, self.queue.popleft())

    def waits(self) -> bool:
        """Returns whether there is anything that `flow` might send."""
        return bool(self.queue or self._again)

    def restore(self, kept: Kept) -> None:
        """Take over what was kept on disk, as far as there is room."""
        self.received, self._packet_id = kept.received, kept.packet_id
        self.in_flight = {id: message for id, message in kept.in_flight.items() if self.budget.take(message.weight)}
        self.queue.extend(message for message in kept.queue if self.budget.take(message.weight))

    def resume(self) -> None:
        """Send again what was not acknowledged before the connection ended, then what has waited."""
        self._again = deque(self.in_flight)
        self.flow()


class Kept(msgspec.Struct):
    """A session on disk."""

    client_id: str
    user: str
    expiry_s: float
    left_s: float
    subscriptions: dict[str, int]
    received: set[int]
    packet_id: int
    in_flight: dict[int, Publication]
    queue: list[Publication]


def save(path: Path, sessions: Iterable[Session], retained: Iterable[Publication], now_s: float) -> None:
    """Write what a broker remembers, durably, when it stops in good order."""
    kept = [
        Kept(
            s.client_id, s.user, s.expiry_s, s.expiry_s if s.ends_s is None else s.ends_s - now_s,
            s.subscriptions, s.received, s._packet_id, s.in_flight, list(s.queue),
        )
        for s in sessions
        if s.expiry_s
    ]  # fmt: skip
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:
        file.write(msgspec.msgpack.encode((kept, list(retained))))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    SystemDisk().sync_folder(path.absolute().parent)


def load(path: Path) -> tuple[list[Kept], list[Publication]]:
    """What `save` wrote. The file goes: after a crash it would bring back what has long been acknowledged."""
    if not path.exists():
        return [], []
    try:
        kept = msgspec.msgpack.decode(path.read_bytes(), type=tuple[list[Kept], list[Publication]])
    except msgspec.DecodeError as error:
        raise CorruptState(f"{path} is not what the broker wrote when it stopped ({error}); delete it") from error
    path.unlink()
    SystemDisk().sync_folder(path.absolute().parent)  # gone for good, also after a power cut
    return kept


class Subscriptions:
    """Who wants a topic: plain filters are looked up, those with wildcards tried one by one, answers remembered."""

    def __init__(self) -> None:
        self._plain: dict[str, dict[Session, int]] = {}
        self._wild: dict[str, dict[Session, int]] = {}
        self._answers: dict[bytes, list[tuple[Session, int]]] = {}
        self._answers_bytes = 0

    def _table(self, pattern: str) -> dict[str, dict[Session, int]]:
        return self._wild if "+" in pattern or "#" in pattern else self._plain

    def add(self, session: Session, pattern: str, options: int) -> bool:
        """Subscribe; False if the session has no memory left for the filter."""
        if pattern not in session.subscriptions and not session.budget.take(2 * (len(pattern) + OVERHEAD)):
            return False
        session.subscriptions[pattern] = options
        self._table(pattern).setdefault(pattern, {})[session] = options
        self._answers.clear()
        return True

    def remove(self, session: Session, pattern: str) -> bool:
        if session.subscriptions.pop(pattern, None) is None:
            return False
        session.budget.give(2 * (len(pattern) + OVERHEAD))
        table = self._table(pattern)
        del table[pattern][session]
        if not table[pattern]:
            del table[pattern]
        self._answers.clear()
        return True

    def clear(self, session: Session) -> None:
        for pattern in list(session.subscriptions):
            self.remove(session, pattern)

    def find(self, topic: bytes) -> list[tuple[Session, int]]:
        """Each session once, with the options of its highest QoS."""
        subscribers = self._answers.get(topic)
        if subscribers is None:
            name = topic.decode()
            best: dict[Session, int] = dict(self._plain.get(name, {}))
            for pattern, sessions in self._wild.items():
                if matches(pattern, name):
                    for session, options in sessions.items():
                        if session not in best or options & 3 > best[session] & 3:
                            best[session] = options
            subscribers = list(best.items())
            size = len(topic) + OVERHEAD * (1 + len(subscribers))
            if not self._answers or self._answers_bytes + size > _REMEMBERED_BYTES:
                self._answers.clear()
                self._answers_bytes = 0
            self._answers[topic] = subscribers
            self._answers_bytes += size
        return subscribers


class Retained:
    """The last retained message of each topic, at most ``size_max`` of them, in a ``budget`` of memory."""

    def __init__(self, size_max: int, budget: Budget | None = None) -> None:
        self._size_max, self._budget = size_max, budget or Budget(RETAINED_BYTES_MAX)
        self._messages: dict[str, Publication] = {}

    def keep(self, message: Publication) -> bool:
        """Keep it, or clear its topic if it is empty; False if there is no room, and then the one before goes, too."""
        topic = message.topic.decode()
        before = self._messages.pop(topic, None)
        if before is not None:
            self._budget.give(2 * before.weight - len(before.payload))
        if not message.payload:
            return True
        # A topic is kept as text and as bytes.
        if len(self._messages) >= self._size_max or not self._budget.take(2 * message.weight - len(message.payload)):
            return False
        self._messages[topic] = message
        return True

    def all(self) -> list[Publication]:
        return list(self._messages.values())

    def find(self, pattern: str) -> Iterator[Publication]:
        if "+" not in pattern and "#" not in pattern:
            if pattern in self._messages:
                yield self._messages[pattern]
            return
        for topic, message in self._messages.items():
            if matches(pattern, topic):
                yield message


class Acl:
    """Who may do what, in the words of Mosquitto's ACL files.

    ``topic read|write|readwrite FILTER`` after a line ``user NAME`` is for that user; before one, for those without a
    name; ``pattern ...`` is for all, ``%u`` standing for the user (with client certificates: the certificate's common
    name) and ``%c`` for the client id. What no line allows is forbidden. An id with ``+ # /`` matches no pattern.

    Examples
    --------
    >>> acl = Acl(["pattern readwrite plant/%u/#", "user tocsin", "topic read plant/#"])
    >>> acl.may("pump-1", "x", "write", "plant/pump-1/telemetry"), acl.may("pump-1", "x", "write", "plant/pump-2/a")
    (True, False)
    >>> acl.may_subscribe("tocsin", "x", "plant/+/telemetry"), acl.may_subscribe("pump-1", "x", "plant/#")
    (True, False)
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules: list[tuple[str | None, Access, str]] = []
        """User (None: all), access, filter."""
        user: str | None = ""
        for number, line in enumerate(lines, 1):
            words = line.split(maxsplit=2)
            if not words or words[0].startswith("#"):
                continue
            if words[0] == "user" and len(words) > 1:
                user = line.split(maxsplit=1)[1].strip()
                continue
            access = words[1] if len(words) == 3 else "readwrite"
            pattern = words[-1].strip()
            if words[0] not in ("topic", "pattern") or len(words) < 2 or access not in ("read", "write", "readwrite"):
                raise ConfigError(f"line {number} of the ACL is not understood: {line.strip()!r}")
            if not valid_filter(pattern):
                raise ConfigError(f"line {number} of the ACL: {pattern!r} is not a topic filter")
            self._rules.append((None if words[0] == "pattern" else user, access, pattern))  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path) -> Acl:
        return cls(path.read_text().splitlines())

    def _filters(self, user: str, client_id: str, access: str) -> Iterator[str]:
        for owner, allowed, pattern in self._rules:
            if access in allowed and (owner is None or owner == user):
                if owner is None:
                    if any(
                        "%" + letter in pattern and not _safe(name)
                        for letter, name in zip("uc", (user, client_id), strict=True)
                    ):
                        continue
                    pattern = "/".join(
                        level.replace("%u", user).replace("%c", client_id) for level in pattern.split("/")
                    )
                yield pattern

    def may(self, user: str, client_id: str, access: Literal["read", "write"], topic: str) -> bool:
        return any(matches(pattern, topic) for pattern in self._filters(user, client_id, access))

    def may_subscribe(self, user: str, client_id: str, pattern: str) -> bool:
        """Whether all that the filter covers may be read."""
        return any(_covers(allowed, pattern) for allowed in self._filters(user, client_id, "read"))


def _safe(name: str) -> bool:
    return bool(name) and not any(c in name for c in "+#/\0")


def _covers(allowed: str, wanted: str) -> bool:
    """Whether every topic that ``wanted`` matches is matched by ``allowed``."""
    if wanted[:1] == "$" and allowed[:1] in ("+", "#"):
        return False
    have, want = allowed.split("/"), wanted.split("/")
    for i, level in enumerate(have):
        if level == "#":
            return True
        if i == len(want) or want[i] == "#" or (level not in ("+", want[i])):
            return False
    return len(have) == len(want)


def password_matches(users: Mapping[str, str], user: str | None, password: bytes | None) -> bool:
    """In the same time whatever is wrong."""
    known = users.get(user or "")
    return hmac.compare_digest((known or "\0").encode(), password or b"") and known is not None


def read_users(path: Path) -> dict[str, str]:
    """A file of lines ``name:password`` that only its owner can read."""
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"others can read the passwords in {path}; chmod 600 {path}")
    pairs = (line.partition(":") for line in path.read_text().splitlines() if line.strip())
    return {name: password for name, _, password in pairs}
