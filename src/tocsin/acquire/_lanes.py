"""Which of several files is read on with, which are done, and what is told of them as lanes of one partition."""

from __future__ import annotations

import heapq
import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tocsin.batch import START, Lane
from tocsin.world import Clock

DONE = "?"
"""In an offset: the last of the files that are done, and those beyond it. No path is kept under this name."""


def natural(path: Path) -> list[Any]:
    """Returns the order in which people count: ``log2`` before ``log10``."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", str(path))]


class WaitingFiles:
    """Files that wait to be read: first they come, then their time is told, then the oldest is next."""

    def __init__(self) -> None:
        self._newcomers: deque[Path] = deque()
        self._ordered: list[tuple[int, list[Any], Path]] = []

    @property
    def is_ordered(self) -> bool:
        """Whether the time of each is told."""
        return not self._newcomers

    def join(self, paths: Sequence[Path]) -> None:
        self._newcomers.extend(paths)

    def newcomer(self) -> Path | None:
        """Returns one whose time is to be told."""
        return self._newcomers.popleft() if self._newcomers else None

    def put(self, path: Path, us: int | None) -> None:
        """Let a file wait with the time of its next row; None: it has none, and is passed over."""
        if us is not None:
            heapq.heappush(self._ordered, (us, natural(path), path))

    def next(self) -> Path | None:
        return heapq.heappop(self._ordered)[2] if self._ordered else None


class FinishedFiles:
    """Which files of a bounded run are done: all up to a name, in natural order, and some beyond."""

    def __init__(self, paths: Sequence[Path], told: Sequence[str] | None, open: Collection[str]) -> None:
        self._paths = paths
        beyond = set(told or ())
        upto = natural(Path(told[0])) if told and told[0] else None
        if told is None and open:  # of a version that read one file after another
            first = min(natural(Path(name)) for name in open)
            self._is_done = [natural(path) < first for path in paths]
        else:
            self._is_done = [str(p) in beyond or (upto is not None and natural(p) <= upto) for p in paths]
        self._number = {str(path): i for i, path in enumerate(paths)}
        self._first = 0
        """All files before this one are done."""
        self._beyond: set[str] = set()
        self._upto = told[0] if told else ""
        for path, is_done in zip(paths, tuple(self._is_done), strict=True):
            if is_done:
                self.add(path)

    def left(self) -> list[Path]:
        return [path for path, is_done in zip(self._paths, self._is_done, strict=True) if not is_done]

    def add(self, path: Path) -> None:
        number = self._number.get(str(path))
        if number is None or number < self._first:
            return
        self._is_done[number] = True
        self._beyond.add(str(path))
        while self._first < len(self._paths) and self._is_done[self._first]:
            self._upto = str(self._paths[self._first])
            self._beyond.discard(self._upto)
            self._first += 1

    def told(self) -> list[str]:
        """Returns the name up to which all are done (empty: none), then those beyond it."""
        return [self._upto, *sorted(self._beyond)]


class Lanes:
    """What is known of files as lanes, and what is still to be told with the next batch."""

    def __init__(self, clock: Clock, idle_us: int) -> None:
        self._clock, self._idle_us = clock, idle_us
        self._open: dict[str, int] = {}
        """When rows of each came last, by the clock."""
        self._begun: dict[str, int] = {}
        self._ended: list[str] = []
        self._only = True

    @property
    def are_used(self) -> bool:
        return bool(self._open or self.have_news)

    @property
    def have_news(self) -> bool:
        return bool(self._begun or self._ended)

    def is_open(self, name: str) -> bool:
        return name in self._open

    def begin(self, name: str, us: int) -> None:
        """Let a file hold the watermark at the time of its next row, unless it does already."""
        if name not in self._open:
            self._open[name] = self._clock.now_us()
            self._begun[name] = us

    def rest(self, name: str, written_us: int | None = None) -> None:
        """There is no more in a file for now: one that is silent for long no longer holds the watermark."""
        now_us = self._clock.now_us()
        if name in self._open:
            since_us = now_us - self._open[name]
            if written_us is not None:
                since_us = max(since_us, now_us - written_us)
            if since_us >= self._idle_us:
                self.end(name)

    def end(self, name: str) -> None:
        if self._open.pop(name, None) is not None:
            self._ended.append(name)

    def of(self, name: str) -> Lane:
        """Returns what is to be told with rows of a file (or with none)."""
        if name:
            self.begin(name, self._begun.get(name, START))
            self._open[name] = self._clock.now_us()
        begun: Mapping[str, int] = self._begun
        lane = Lane(name, begun, tuple(self._ended), self._only)
        self._begun, self._ended, self._only = {}, [], False
        return lane
