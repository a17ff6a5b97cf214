"""The records that were posted, by topic and position, as consumers read them back from the runner's log."""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tocsin.errors import CorruptState
from tocsin.world import Disk, Journal, replace

WAYPOINT_BYTES = 64 << 10
"""How far the places in a segment lie apart where reading may begin."""
TOPICS_MAX = 10_000
"""So many topics are listed; those beyond can be read all the same."""


class Record(NamedTuple):
    """One record as it was posted."""

    topic: str
    position: int
    key: bytes | None
    value: bytes


@dataclass(slots=True)
class _Waypoints:
    """Where reading a segment may begin: whatever stands before byte ``ats[i]`` lies before ``positions[i]``."""

    positions: list[int] = field(default_factory=list)
    ats: list[int] = field(default_factory=list)

    def before(self, position: int) -> int:
        """Returns the last byte to begin at, to see all from a position on."""
        i = bisect_right(self.positions, position) - 1
        return self.ats[i] if i >= 0 else 0

    def note(self, position: int, at: int) -> None:
        if not self.ats or at >= self.ats[-1] + WAYPOINT_BYTES:
            self.positions.append(position)
            self.ats.append(at)


class Records:
    """What is on disk of a source, in order of position; all topics share one row of positions.

    Reading is slow (a segment of 8 MiB is read whole): it is done by one thread at a time, never by the server's own.
    """

    def __init__(self, journal: Journal, end: int) -> None:
        self._journal = journal
        self.end = end
        """Everything before this position is on disk; nothing from there on is shown."""
        self._waypoints: dict[int, _Waypoints] = {}
        self._lock = threading.Lock()

    def begin(self) -> int:
        """Returns the position of the oldest record that is kept; the end, if there is none."""
        with self._lock:
            for segment in self._segments():
                if (first := self._first(segment)) is not None:
                    return first
            return self.end

    def read(
        self, wanted: Mapping[str, int], records_max: int, bytes_max: int, until_s: float
    ) -> tuple[list[Record], int]:
        """Read records of topics, each from a position of its own on, in order; at least one, if there is one.

        Returns them, and the position that has been reached: no further record of these topics lies before it.
        Looks no longer than until ``until_s`` (monotonic), but through one segment at least.
        """
        end, reached, bytes_left = self.end, min(wanted.values()), bytes_max
        records: list[Record] = []
        with self._lock:
            for segment in self._since(reached):
                waypoints = self._waypoints.setdefault(segment, _Waypoints())
                at, is_there = waypoints.before(reached), False
                for next_at, rows in self._journal.frames(segment, at):
                    is_there = True
                    positions = rows.column("position").to_numpy()
                    if (known := positions[positions >= 0]).size:
                        waypoints.note(int(known[0]), at)
                    at = next_at
                    for record in _matching(rows, positions, wanted, end, records_max + 1 - len(records)):
                        bytes_left -= len(record.value) + len(record.key or b"")
                        if records and (bytes_left < 0 or len(records) == records_max):
                            return records, record.position
                        records.append(record)
                    if known.size:
                        reached = max(reached, min(int(known[-1]) + 1, end))
                        if known[-1] >= end:
                            return records, reached
                if not is_there:  # it has just been deleted, or holds nothing yet
                    return records, reached
                if time.monotonic() > until_s:
                    return records, reached
        return records, max(reached, end)

    def _segments(self) -> Sequence[int]:
        segments = self._journal.segments()
        for gone in self._waypoints.keys() - set(segments):
            del self._waypoints[gone]
        return segments

    def _since(self, position: int) -> Sequence[int]:
        """The segments with all from a position on."""
        segments = self._segments()
        for i in reversed(range(len(segments))):
            if (first := self._first(segments[i])) is not None and first <= position:
                return segments[i:]
        return segments

    def _first(self, segment: int) -> int | None:
        """The first position in a segment; None if nothing has one."""
        waypoints = self._waypoints.get(segment)
        if waypoints is None or not waypoints.positions:
            waypoints = _Waypoints()
            for _, rows in self._journal.frames(segment):
                positions = rows.column("position").to_numpy()
                if (known := positions[positions >= 0]).size:
                    waypoints.note(int(known[0]), 0)
                    self._waypoints[segment] = waypoints
                    break
        return waypoints.positions[0] if waypoints.positions else None


def _matching(
    rows: pa.RecordBatch, positions: np.ndarray, wanted: Mapping[str, int], end: int, count_max: int
) -> list[Record]:
    """The first records of a frame that are of these topics, from their positions on and before the end."""
    topics = rows.column("topic")
    names, codes = topics.dictionary.to_pylist(), topics.indices.to_numpy()
    least = np.array([wanted.get(name, end) for name in names], np.int64)
    picks = np.flatnonzero((positions >= least[codes]) & (positions < end) & (positions >= 0))[:count_max]
    if not picks.size:
        return []
    chosen = rows.take(pa.array(picks))
    return [
        Record(names[code], position, key, value)
        for code, position, key, value in zip(
            codes[picks].tolist(),
            positions[picks].tolist(),
            chosen.column("key").to_pylist(),
            chosen.column("payload").to_pylist(),
            strict=True,
        )
    ]


class Topics:
    """The names that were posted to, durable before the first record of each is."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk, self._path = disk, path
        self._names: dict[str, None] = dict.fromkeys(read_json(disk, path, []))

    def note(self, names: Collection[str]) -> None:
        """Remember names; waits for the disk where one is new."""
        fresh = [name for name in names if name not in self._names][: TOPICS_MAX - len(self._names)]
        if fresh:
            together = self._names | dict.fromkeys(fresh)
            replace(self._disk, self._path, json.dumps(list(together)).encode())
            self._names = together

    def names(self) -> list[str]:
        """Returns the names in order of the alphabet."""
        return sorted(self._names)


def read_json(disk: Disk, path: Path, absent: Any) -> Any:
    """Returns what a small file holds, or ``absent`` where there is no such file."""
    try:
        return json.loads(disk.read(path))
    except FileNotFoundError:
        return absent
    except ValueError as error:
        raise CorruptState(
            f"{path} is damaged ({error}); delete it: consumers then begin where their auto.offset.reset says"
        ) from error
