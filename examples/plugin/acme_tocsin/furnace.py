"""A source: where rows come from. This one makes them up; yours asks a machine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from pydantic import Field

from tocsin.batch import END, KEY, TIME, Batch, as_keys, as_times
from tocsin.contracts import Connection, Offset, Source
from tocsin.ends import OneSplit
from tocsin.world import World

SCHEMA = pa.schema([KEY, TIME, pa.field("fahrenheit", pa.float64(), nullable=False)])
BEGIN_US = 1_767_225_600_000_000
"""2026-01-01 00:00 UTC."""


class Furnace(Source):
    """Give one reading of a furnace a second, as if they had been recorded since 2026.

    The same position always gives the same rows, so no row is lost or doubled over a restart. A source for which that
    is not so sets ``REPLAYABLE = False``, and the engine keeps what it gives in a log of its own.

    Examples
    --------
    >>> Furnace(readings=10).bounded()
    True
    """

    readings: int = Field(1000, ge=1)
    """After so many it ends."""

    def output_schema(self) -> pa.Schema:
        return SCHEMA

    def bounded(self) -> bool:
        return True

    def open(self, world: World) -> Connection:
        return OneSplit(lambda offset: FurnaceReader(self.readings, offset))


class FurnaceReader:
    """The position is the number of readings given so far."""

    def __init__(self, readings: int, offset: Offset | None) -> None:
        self._readings = readings
        self._given = 0 if offset is None else int(offset)

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        number = np.arange(self._given, min(self._given + rows_max, self._readings), dtype=np.int64)
        times = BEGIN_US + 1_000_000 * number
        columns = [
            as_keys(pa.array(["furnace"] * len(number))),
            as_times(times),
            pa.array(1500 + 50 * np.sin(number / 60)),
        ]
        self._given += len(number)
        watermark_us = END if self._given >= self._readings else int(times[-1])
        return Batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA), watermark_us), self._given

    def acknowledge(self, offset: Offset) -> None:
        """Nobody waits to hear that these are safe."""

    def counters(self) -> Mapping[str, int]:
        return {}

    def progress(self) -> tuple[int, int] | None:
        return None

    def close(self) -> None:
        """Nothing is open."""
