"""One detector: what is known of one key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(slots=True)
class Timer:
    """A timer: when it runs out (None once it did), how long it was set for, and whether that was noticed."""

    expires_us: int | None
    duration_us: int
    due: bool = False


class Instance:
    """One detector: what is known of one key. Also the scope in which its expressions are evaluated."""

    __slots__ = (
        "current", "emitted", "errors", "inputs", "key", "messages", "now_us", "queued_us", "runs", "state",
        "timers", "trigger", "variables",
    )  # fmt: skip

    def __init__(self, key: str) -> None:
        self.key = key
        self.state: str | None = None
        self.variables: dict[str, Any] = {}
        self.inputs: dict[str, dict[str, Any]] = {}
        self.timers: dict[str, Timer] = {}
        self.messages = 0
        self.emitted = 0
        self.runs = 0
        self.queued_us: int | None = None
        self.now_us = 0
        self.trigger = "Message"
        self.current: str | None = None
        self.errors: list[str] = []

    def elapsed(self, timer: str) -> bool:
        """Returns whether a timer has run out; true only the first time it is asked."""
        known = self.timers.get(timer)
        if known is None or not known.due:
            return False
        known.due = False
        return True

    def next_us(self) -> int | None:
        """Returns when the next timer runs out."""
        return min((t.expires_us for t in self.timers.values() if t.expires_us is not None), default=None)

    def to_json(self) -> str:
        timers = {name: [t.expires_us, t.duration_us, t.due] for name, t in self.timers.items()}
        counts = [self.messages, self.emitted, self.runs]
        return msgspec.json.encode([self.state, self.variables, self.inputs, timers, counts]).decode()

    @classmethod
    def from_json(cls, key: str, text: str) -> Instance:
        instance = cls(key)
        state, variables, inputs, timers, counts = msgspec.json.decode(text)
        instance.state, instance.variables, instance.inputs = state, variables, inputs
        instance.timers = {name: Timer(*values) for name, values in timers.items()}
        instance.messages, instance.emitted, instance.runs = counts
        return instance
