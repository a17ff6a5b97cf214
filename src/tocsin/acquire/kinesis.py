"""Source `kinesis`: records of a stream of Amazon Kinesis, its shards in order, parents before their children."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
from pydantic import AwareDatetime, Field

from tocsin.batch import RAW_WITH_METADATA
from tocsin.contracts import Source
from tocsin.kinesis.settings import StreamSettings
from tocsin.kinesis.stream import StreamConnection
from tocsin.settings.quantities import Duration
from tocsin.world import World


class Kinesis(StreamSettings, Source):
    """Records of a stream of Amazon Kinesis, each exactly once; partition key and time by the decoder's ``metadata``.

    Each shard is read on its own and in order, its sequence number is part of the checkpoint, and shards that are split
    or merged are followed: the new ones are read once those that they came from have been read to their end. Shards are
    not shared: every process reads them all. Where a pause was longer than the stream keeps its records (its retention
    period, 24 h by default), reading goes on with the oldest; it is logged, and counted as ``seconds_lost``. What a
    producer has sent twice is two records. Records that the Kinesis Producer Library has put together (aggregation)
    are not taken apart.

    Needs ``pip install 'tocsin[kinesis]'``, and the rights ``kinesis:ListShards``, ``DescribeStreamSummary``,
    ``GetShardIterator`` and ``GetRecords``. Credentials are found as AWS's own tools find them: environment, profile,
    the machine's role.

    Reference: Amazon Kinesis Data Streams, Service API Reference (2013-12-02).

    Examples
    --------
    >>> source = Kinesis(stream="plant", region="eu-central-1")
    >>> source.stream, source.output_schema().names[-3:]
    ('plant', ['key', 'sent', 'attributes'])
    """

    start: Literal["earliest", "latest"] | AwareDatetime = "earliest"
    """Where to begin when nothing has been read yet: at the oldest record, with those that come from now on (to the
    second), or at a time, as ``2026-01-31T06:00:00Z``."""
    every: Duration = Field(200_000, ge=1_000)
    """Least time between two reads of a shard, which gives five in a second to all its readers together."""

    def output_schema(self) -> pa.Schema:
        return RAW_WITH_METADATA

    def check(self, world: World) -> None:
        self.require()

    def open(self, world: World) -> StreamConnection:
        self.require()
        return StreamConnection(self, world, start=self.start, every_us=self.every)


__all__ = ["Kinesis"]
