"""A clock for tests of what waits: time passes only by sleeping."""

from __future__ import annotations


class HandClock:
    """A clock that only `sleep` moves."""

    def __init__(self, us: int = 1_900_000_000_000_000) -> None:
        self.us = us

    def now_us(self) -> int:
        return self.us

    def monotonic_s(self) -> float:
        return self.us / 1e6

    def sleep(self, seconds: float) -> None:
        self.us += round(seconds * 1e6) + 1
