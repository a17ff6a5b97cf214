"""The world that an end of a pipeline is given: clock, disk and places. It can be simulated and crashed at every step.

`Clock` and `Disk` are here with their real versions. The other things that the runner touches, sources, tables and
the checkpoint store with its outbox, are in `contracts`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import pyarrow as pa

from tocsin.errors import ConfigError, DurabilityError

FirstTime = Callable[[Sequence[pa.RecordBatch]], int]
"""Takes records as a source gives them, in order, and tells the time of the oldest of the last batch; those before it
may hold a header. The least number of all, where none has a time."""
OPEN_FILES_MAX = 64
"""How many of the files that are appended to stay open."""


class Clock(Protocol):
    """Wall clock, as data only; a monotonic clock for intervals; and waiting."""

    def now_us(self) -> int: ...
    def monotonic_s(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Disk(Protocol):
    """Files, with the durability that POSIX gives them: bytes after `sync`, names after `sync_folder`."""

    def read(self, path: Path) -> bytes: ...
    def write(self, path: Path, data: bytes | memoryview) -> None: ...  # create or replace whole; not yet durable
    def append(self, path: Path, data: bytes | memoryview) -> None: ...  # create if absent; not yet durable
    def truncate(self, path: Path, size: int) -> None: ...
    def sync(self, path: Path) -> None: ...  # the file's bytes; DurabilityError if the system refuses
    def sync_folder(self, path: Path) -> None: ...  # the names in a folder
    def link(self, old: Path, new: Path) -> None: ...  # FileExistsError if the new name is taken
    def rename(self, old: Path, new: Path) -> None: ...
    def unlink(self, path: Path) -> None: ...  # no error if absent
    def names(self, folder: Path) -> Sequence[str]: ...  # sorted; empty if absent
    def size(self, path: Path) -> int: ...
    def make_folder(self, path: Path) -> None: ...  # with parents; durable


def replace(disk: Disk, path: Path, data: bytes) -> None:
    """Write a small file durably in place of what it was: after a crash it is the one or the other, whole."""
    part = path.with_suffix(".part")
    disk.write(part, data)
    disk.sync(part)
    disk.rename(part, path)
    disk.sync_folder(path.parent)


class SystemDisk:
    """The machine's own files. Keeps the files it appends to open."""

    def __init__(self) -> None:
        self._open: dict[Path, IO[bytes]] = {}

    def __del__(self) -> None:
        for file in self._open.values():
            file.close()

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def write(self, path: Path, data: bytes | memoryview) -> None:
        with open(path, "wb") as file:
            file.write(data)

    def append(self, path: Path, data: bytes | memoryview) -> None:
        file = self._open.get(path)
        if file is None:
            if len(self._open) >= OPEN_FILES_MAX:
                self._close(next(iter(self._open)))
            file = self._open[path] = open(path, "ab", buffering=0)  # noqa: SIM115 (kept open on purpose)
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]

    def truncate(self, path: Path, size: int) -> None:
        self._close(path)
        os.truncate(path, size)

    def sync(self, path: Path) -> None:
        file = self._open.get(path)
        if file is not None:
            self._fsync(file.fileno(), path)
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self._fsync(descriptor, path)
        finally:
            os.close(descriptor)

    def sync_folder(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._fsync(descriptor, path)
        finally:
            os.close(descriptor)

    def link(self, old: Path, new: Path) -> None:
        os.link(old, new)

    def rename(self, old: Path, new: Path) -> None:
        self._close(old)
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        self._close(path)
        path.unlink(missing_ok=True)

    def names(self, folder: Path) -> Sequence[str]:
        return sorted(os.listdir(folder)) if folder.is_dir() else ()

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def make_folder(self, path: Path) -> None:
        if path.is_dir():
            return
        self.make_folder(path.parent)
        path.mkdir(exist_ok=True)
        self.sync_folder(path.parent)

    def _close(self, path: Path) -> None:
        if file := self._open.pop(path, None):
            file.close()

    @staticmethod
    def _fsync(descriptor: int, path: Path) -> None:
        try:
            os.fsync(descriptor)
        except OSError as error:
            # After a failed fsync the kernel may have dropped the pages: retrying on the same file proves nothing.
            raise DurabilityError(f"fsync of {path} failed ({error}); check the disk, then start again") from error


class Journal(Protocol):
    """What came of a split that cannot be read twice, as the runner has logged it; any thread may look.

    It is a row of segments, each a row of frames; the oldest segments go once `contracts.Source.retains` is exceeded.
    """

    def segments(self) -> Sequence[int]:
        """Returns the names of the segments that there are, oldest first."""

    def frames(self, segment: int, at: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields the rows of each frame from byte ``at`` on, with the byte that the next one begins at.

        What is not durable yet may be among them, at the end. Nothing is yielded of a segment that has gone.
        """


@dataclass(frozen=True, slots=True)
class World:
    """What every source, sink and channel is opened with; it touches the world through nothing else."""

    clock: Clock
    disk: Disk
    folder: Path
    """The pipeline's data folder: relative paths of what is written start here."""
    scratch: Path
    """A folder for this end alone; it is made by whoever writes to it first."""
    name: str
    """The pipeline and the end, as ``plant/readings.0.delta``: unique, and the same after every restart."""
    given: Path = Path()
    """Where relative paths of what the user provides (files to read, certificates) start: the working folder."""
    first_time: FirstTime | None = None
    """For a source whose rows say when they happened: tells the time of rows before they are handed over."""
    idle_us: int = 10_000_000
    """For a source: how long a part of it may be silent before it no longer holds the watermark back."""
    journal: Callable[[str], Journal] | None = None
    """For a source that cannot be read twice: what came of a split, by its name, once the split is read."""

    def inside(self, path: str) -> Path:
        """Returns where a path that is written to lies; a relative one must not leave the data folder."""
        if ".." in Path(path).parts:
            raise ConfigError(f"the path '{path}' leaves the data folder; write it without '..', or absolute")
        return self.folder.absolute() / path
