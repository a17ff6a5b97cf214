"""Between the server, which takes requests, and the reader, which hands their records over and says what is durable."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tocsin.batch import HEADER

KEYS_KEPT = 1_000
"""So many idempotency keys are known; every position of the source carries them."""


class RequestOutcome(Enum):
    """What became of a request."""

    DURABLE = "durable"
    CLOSED = "closed"
    """The source was closed before; its sender must send it again."""


@dataclass(slots=True)
class Post:
    """The records of one request."""

    topic: str
    payloads: Sequence[bytes]
    keys: Sequence[bytes | None] | None = None
    """The key of each record, where its sender gives one."""
    has_header: bool = False
    """Whether the first record is no reading, but names the columns of those after it."""
    idempotency_key: str = ""
    first: int = 0
    """The position of its first record."""
    tell: list[Callable[[RequestOutcome], None]] = field(default_factory=list)
    """Whom to tell what became of it."""

    @property
    def end(self) -> int:
        return self.first + len(self.payloads)

    @property
    def size(self) -> int:
        return sum(map(len, self.payloads)) + 64 * len(self.payloads)

    def positions(self) -> list[int]:
        """Returns the position of each record; that of a header is `HEADER`."""
        numbers = list(range(self.first, self.end))
        if self.has_header and numbers:
            numbers[0] = HEADER
        return numbers


class Inbox:
    """Posts in the order in which they came: those that wait for the reader, then those that wait to be durable."""

    def __init__(self, bytes_max: int, position: int, keys: Sequence[str]) -> None:
        self._bytes_max = bytes_max
        self._news = threading.Condition()
        self._waiting: deque[Post] = deque()
        self._handed_over: deque[Post] = deque()
        self._bytes = 0
        self._end = position
        self._closed = False
        self._keys = dict.fromkeys(keys)
        self._on_the_way: dict[str, Post] = {}

    def put(self, post: Post, tell: Callable[[RequestOutcome], None]) -> bool:
        """Take a post; returns False if too much waits already. ``tell`` is called once, from another thread."""
        with self._news:
            if self._closed:
                tell(RequestOutcome.CLOSED)
                return True
            key = post.idempotency_key = _short(post.idempotency_key)
            if key in self._on_the_way:
                post.first = self._on_the_way[key].first
                self._on_the_way[key].tell.append(tell)
                return True
            if key in self._keys or not post.payloads:
                tell(RequestOutcome.DURABLE)
                return True
            size = post.size
            if self._bytes and self._bytes + size > self._bytes_max:
                return False
            self._bytes += size
            post.first, self._end = self._end, self._end + len(post.payloads)
            post.tell.append(tell)
            if key:
                self._on_the_way[key] = post
            self._waiting.append(post)
            self._news.notify()
            return True

    def take(self, rows_max: int, timeout_s: float) -> list[Post]:
        """Returns posts of about so many records, waiting for the first at most so long."""
        with self._news:
            if not self._waiting and timeout_s > 0:
                self._news.wait(timeout_s)
            posts: list[Post] = []
            rows = 0
            while self._waiting and rows < rows_max:
                post = self._waiting.popleft()
                rows += len(post.payloads)
                posts.append(post)
                if post.idempotency_key:
                    self._keys[post.idempotency_key] = None
            while len(self._keys) > KEYS_KEPT:
                del self._keys[next(iter(self._keys))]
            self._handed_over.extend(posts)
            return posts

    def keys(self) -> list[str]:
        """Returns the idempotency keys of what was taken, oldest first."""
        return list(self._keys)

    def durable(self, position: int) -> None:
        """Everything before this position is on disk: tell its senders."""
        with self._news:
            done = []
            while self._handed_over and self._handed_over[0].end <= position:
                done.append(self._handed_over.popleft())
            self._leave(done)
        _tell(done, RequestOutcome.DURABLE)

    def close(self) -> None:
        """Take nothing more; whoever still waits is told so."""
        with self._news:
            self._closed = True
            left = [*self._handed_over, *self._waiting]
            self._handed_over.clear()
            self._waiting.clear()
            self._leave(left)
        _tell(left, RequestOutcome.CLOSED)

    def _leave(self, posts: Sequence[Post]) -> None:
        for post in posts:
            self._bytes -= post.size
            self._on_the_way.pop(post.idempotency_key, None)


def _tell(posts: Sequence[Post], outcome: RequestOutcome) -> None:
    for post in posts:
        for tell in post.tell:
            tell(outcome)


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else ""


def resumed(offset: Any) -> tuple[int, list[str]]:
    """Returns the position and the idempotency keys that an offset of the source carries."""
    return (0, []) if offset is None else (int(offset["position"]), list(offset["keys"]))
