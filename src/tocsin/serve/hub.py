"""Server-sent events: each message is encoded once, kept for those who come back, and handed to every viewer.

A viewer that reads too slowly loses the oldest messages, not the newest, and sees from the ids that some are missing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec

from tocsin.serve.messages import Changes, NewPoints

_KEPT = 40
_QUEUE_MAX = 16
_HEARTBEAT_S = 10.0
VIEWERS_MAX = 64


class Viewer:
    """One open page, which may look at one machine."""

    def __init__(self, machine: str = "") -> None:
        self.machine = machine
        self.waiting: deque[bytes] = deque(maxlen=_QUEUE_MAX)
        self.ready = asyncio.Event()

    def put(self, message: bytes) -> None:
        self.waiting.append(message)
        self.ready.set()


class Hub:
    """All viewers."""

    def __init__(self) -> None:
        self.boot = secrets.token_hex(4)
        self.number = 0
        self.viewers: set[Viewer] = set()
        self.closed = False
        self._kept: deque[bytes] = deque(maxlen=_KEPT)

    @property
    def position(self) -> str:
        """Returns the id of the newest message."""
        return f"{self.boot}-{self.number}"

    def publish(self, changes: Changes, points: Mapping[str, NewPoints]) -> None:
        """Send what has changed to every viewer, and the points of a machine to those who look at it."""
        self.number += 1
        message = b"id: %s\ndata: %s\n\n" % (self.position.encode(), msgspec.json.encode(changes))
        self._kept.append(message)
        with_points = {
            machine: b"%sevent: points\ndata: %s\n\n" % (message, msgspec.json.encode(of_it))
            for machine, of_it in points.items()
        }
        for viewer in self.viewers:
            viewer.put(with_points.get(viewer.machine, message))

    def missed(self, after: str) -> list[bytes] | None:
        """Returns the messages after an id; None if they are no longer known."""
        boot, _, number = after.rpartition("-")
        if boot != self.boot or not number.isascii() or not number.isdigit():
            return None
        behind = self.number - int(number[:18])
        if not 0 <= behind <= len(self._kept):
            return None
        return list(self._kept)[len(self._kept) - behind :]

    async def messages(
        self, after: str, allowed: Callable[[], bool] = lambda: True, machine: str = ""
    ) -> AsyncIterator[bytes]:
        """Gives what one viewer gets, from the message after ``after`` on, for as long as it is ``allowed``.

        Points of its ``machine`` come from now on: those that it has missed are asked for with the machine.
        """
        viewer = Viewer(machine)
        missed = self.missed(after)
        yield b"retry: 1000\n\n"
        if missed is None:
            yield b"event: reset\ndata: {}\n\n"
        else:
            for message in missed:
                viewer.put(message)
        self.viewers.add(viewer)
        try:
            while not self.closed and allowed():
                try:
                    await asyncio.wait_for(viewer.ready.wait(), _HEARTBEAT_S)
                except TimeoutError:
                    yield b": still here\n\n"
                viewer.ready.clear()
                while viewer.waiting and allowed():
                    yield viewer.waiting.popleft()
        finally:
            self.viewers.discard(viewer)

    def close(self) -> None:
        """End every viewer's stream."""
        self.closed = True
        for viewer in self.viewers:
            viewer.ready.set()
