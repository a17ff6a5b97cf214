"""Source `influxdb`: the history of a measurement, and the points that come after it."""

from __future__ import annotations

from typing import ClassVar

import httpx
import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from tocsin.batch import RAW_WITH_METADATA, REST, Batch, as_times, tick
from tocsin.contracts import Offset, Reader, Source
from tocsin.ends import OneSplit
from tocsin.influxdb.following import HistoryEnd, Measurement, MeasurementFollower, PointPage
from tocsin.influxdb.settings import ServerSettings
from tocsin.settings.quantities import Duration
from tocsin.world import World

_ATTRIBUTES = RAW_WITH_METADATA.field("attributes").type


class Influxdb(ServerSettings, Source):
    """Read the history of a measurement of InfluxDB in the order of time, then, in each further run or all the time,
    the points that are new.

    A point is a JSON record of its tags and fields, to be decoded with ``json``; its time is ``sent``, so say
    ``metadata: {at: sent}``. The position is the time of the last point and is kept with each checkpoint: **each point
    comes exactly once**, also where many have the same time. What is written later with a time before the position is
    not seen, so points are read only once they are older than ``delay``. A point that is written again under its time
    and tags does not come again. Windows stay open from run to run, until the next run goes on.

    It asks by InfluxQL (``/query``), which version 2 answers for a bucket that is mapped to a database, and version 3
    as well, with a token; it is tested with version 1.

    References: InfluxData, "InfluxQL reference" and "/query" (version 1).

    Examples
    --------
    >>> source = Influxdb(url="http://127.0.0.1:8086", database="plant", measurement="oven")
    >>> source.bounded(), source.output_schema().names[-2:]
    (True, ['sent', 'attributes'])
    """

    PROMISE: ClassVar[str] = "exactly once, of what is written no later than delay"

    database: str = Field(min_length=1)
    """The database (version 1), or the bucket."""
    measurement: str
    """The measurement to read."""
    follow: bool = False
    """Whether to wait for more at the end."""
    every: Duration = 1_000_000
    """Time between two looks for new points, with ``follow``."""
    delay: Duration = 10_000_000
    """How old a point must be, by the server's clock, before it is read: so long may writers be late."""

    @field_validator("measurement")
    @classmethod
    def _measurement(cls, measurement: str) -> str:
        if not measurement or "\n" in measurement:
            raise ValueError("a measurement is a name in one line")
        return measurement

    def bounded(self) -> bool:
        return not self.follow

    def output_schema(self) -> pa.Schema:
        return RAW_WITH_METADATA

    def check(self, world: World) -> None:
        if self.tls is not None:
            self.tls.context(world.given)

    def open(self, world: World) -> OneSplit:
        self.check(world)
        return OneSplit(lambda offset: InfluxdbReader(self, world, offset))


class InfluxdbReader(Reader):
    """The measurement being read. An offset is the time of the last point that was given, and how many were."""

    def __init__(self, source: Influxdb, world: World, offset: Offset | None) -> None:
        self._source, self._given, self._clock = source, world.given, world.clock
        self._after_ns: int | None = None if offset is None else offset["after"]
        self._count = 0 if offset is None else int(offset["count"])
        self._page = PointPage([], [])
        self._begin = 0
        """So many points of the page have been given."""
        every_s = source.every / 1e6 if source.follow else None
        self._follower = MeasurementFollower(self._connect, self._after_ns, every_s)

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        self._follower.start()
        if self._begin == len(self._page.times_ns):
            taken = self._follower.take(timeout_s)
            if taken is None:
                return None
            if isinstance(taken, HistoryEnd):
                return tick(RAW_WITH_METADATA, REST), self._offset()
            self._page, self._begin = taken, 0
        times, begin = self._page.times_ns, self._begin
        end = min(begin + max(rows_max, 1), len(times))
        while end < len(times) and times[end] == times[end - 1]:
            end += 1  # the position is a time: points that share one stay together
        rows = self._records(times[begin:end], self._page.payloads[begin:end])
        self._begin, self._after_ns = end, times[end - 1]
        self._count += end - begin
        return Batch(rows), self._offset()

    def close(self) -> None:
        self._follower.close()

    def _offset(self) -> Offset:
        return {"after": self._after_ns, "count": self._count}

    def _connect(self) -> tuple[httpx.Client, Measurement]:
        """For the follower."""
        source = self._source
        client = source.client(self._given)
        return client, Measurement(client, source.database, source.measurement, source.delay)

    def _records(self, times_ns: list[int], payloads: list[bytes]) -> pa.RecordBatch:
        count = len(payloads)
        topic = pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([self._source.measurement]))
        columns = [
            pa.array(payloads, pa.binary()),
            topic,
            pa.array(range(self._count, self._count + count), pa.int64()),
            as_times(np.full(count, self._clock.now_us())),
            pa.nulls(count, pa.binary()),
            as_times(np.array(times_ns, np.int64) // 1_000),
            pa.array([[]] * count, _ATTRIBUTES),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=RAW_WITH_METADATA)


__all__ = ["Influxdb"]
