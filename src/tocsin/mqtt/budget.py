"""How much memory a broker may take for what clients give it to keep."""

from __future__ import annotations

from typing import NamedTuple

MEMORY_MAX = 256 << 20
OVERHEAD = 256
"""About what the interpreter takes for a message, a filter or a name, beside its bytes."""


class Publication(NamedTuple):
    """A published message on its way."""

    topic: bytes
    payload: bytes
    qos: int
    retain: bool
    properties: bytes = b"\0"
    """Encoded, with their length, as they came (MQTT 5)."""

    @property
    def weight(self) -> int:
        """The bytes of memory that it takes, about."""
        return len(self.topic) + len(self.payload) + len(self.properties) + OVERHEAD


class Budget:
    """Bytes that are taken and given back; never more than ``limit`` of them, and than what it is ``within`` has.

    Messages that several sessions wait for are counted once for each, although they are one in memory.
    """

    def __init__(self, limit: int, within: Budget | None = None) -> None:
        self.limit, self.used = limit, 0
        self._within = within

    def take(self, size: int) -> bool:
        """Take so many bytes; False, and nothing is taken, where there are not so many left."""
        if self.used + size > self.limit or (self._within is not None and not self._within.take(size)):
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Give them back."""
        self.used -= size
        if self._within is not None:
            self._within.give(size)

    def close(self) -> None:
        """Give all back."""
        self.give(self.used)
