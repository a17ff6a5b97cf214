"""Template of a source: copy it to a file named as the source. One line saying what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from tocsin.batch import END, RAW, Batch, as_times, empty
from tocsin.contracts import Offset, Reader, Source
from tocsin.ends import OneSplit
from tocsin.errors import ConfigError, Unavailable
from tocsin.world import World


class Template(Source):
    """Read the lines of one file, to its end. What it promises, when to use it and when not.

    Examples
    --------
    >>> Template(path="readings.txt").bounded()
    True
    """

    REPLAYABLE: ClassVar[bool] = True  # False: the runner keeps an ingest log, and acknowledges after its fsync

    path: str
    """The file."""

    def bounded(self) -> bool:
        """Optional: whether it ends by itself."""
        return True

    def check(self, world: World) -> None:
        """Optional: what cannot work is named before anything is opened."""
        if not (world.given / self.path).is_file():
            raise ConfigError(f"there is no file {self.path}; write the path from the folder that tocsin runs in")

    def open(self, world: World) -> OneSplit:
        """Required: a connection. One with several splits implements `contracts.Connection` itself."""
        return OneSplit(lambda offset: TemplateReader(world.given / self.path, int(offset or 0), world))


class TemplateReader(Reader):
    """The open file. Clock, disk and folders come from the world, never from the system."""

    def __init__(self, path: Path, after: int, world: World) -> None:
        self._path, self._at, self._clock = path, after, world.clock

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        """Required: never longer than the timeout; `Unavailable` if the other side is away."""
        try:
            lines = self._path.read_bytes().splitlines()[self._at : self._at + rows_max]
        except OSError as error:
            raise Unavailable(f"{self._path}: {error}") from error
        if not lines:
            return Batch(empty(RAW), END), self._at
        count, begin = len(lines), self._at
        self._at += count
        topic = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([self._path.name]))
        received = pa.repeat(self._clock.now_us(), count)
        columns = [pa.array(lines, pa.binary()), topic, pa.array(range(begin, self._at), pa.int64())]
        arrived = as_times(received.to_numpy())
        return Batch(pa.RecordBatch.from_arrays([*columns, arrived], schema=RAW)), self._at

    def acknowledge(self, offset: Offset) -> None:
        """If a sender waits for it: all before the offset is durable here; a broker would be told now."""

    def counters(self) -> Mapping[str, int]:
        """If it counts anything: by name."""
        return {}

    def progress(self) -> tuple[int, int] | None:
        """If it can tell: bytes read and bytes in all."""
        return None

    def close(self) -> None:
        """Required: may be called twice."""
