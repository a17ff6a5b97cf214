"""Source `kafka`: records of topics, whose partitions are shared among the processes of a group."""

from __future__ import annotations

import uuid
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from tocsin.batch import RAW_WITH_METADATA
from tocsin.contracts import Source
from tocsin.errors import ConfigError
from tocsin.kafka.assigned import AssignedConnection
from tocsin.kafka.group import GroupConnection
from tocsin.kafka.partition import Begins
from tocsin.kafka.settings import TOPIC_NAME, ClusterSettings
from tocsin.settings import Many
from tocsin.settings.quantities import Duration
from tocsin.world import World


class Kafka(ClusterSettings, Source):
    """Records of Apache Kafka (2.4 or newer), each exactly once; key, time and headers by the decoder's ``metadata``.

    The position of each partition is part of the checkpoint; after it the group is told, so that lag can be watched
    with Kafka's own tools. Only records of committed transactions are read. Several processes with the same ``group``
    share the partitions: when one is started or partitions are added, they are handed over after a checkpoint, without
    a row lost or doubled. A process that ends has its partitions kept for ``session_timeout``, and goes on with them
    when it comes back; if it does not, others go on from what it told the group last. Rows of a checkpoint that was
    written just before it died, and of which the group was not told, then come from both: use one process where that
    must not be. New partitions are found within seconds, and read from their beginning.

    Needs ``pip install 'tocsin[kafka]'``.

    References: Apache Kafka, "Protocol guide"; KIP-98 (transactions), KIP-345 (static members), KIP-429 (cooperative
    rebalancing).

    Examples
    --------
    >>> source = Kafka(brokers="localhost:9092", topics="plant.telemetry")
    >>> source.topics, source.output_schema().names[-3:]
    (('plant.telemetry',), ['key', 'sent', 'attributes'])
    """

    SHARES: ClassVar[int] = 4
    PROMISE: ClassVar[str] = "exactly once, of committed records"

    topics: Many[str]
    """What to read; one topic or several."""
    group: str | None = Field(None, min_length=1)
    """Name that processes share the partitions under; by default made from the pipeline's name and the source's."""
    start: Literal["earliest", "latest"] = "earliest"
    """Where to begin when nothing has been read yet: at the oldest record, or with those that come from now on."""
    expired: Literal["stop", "skip"] = "stop"
    """Where records are gone before they were read: stop with an error, or go on with the oldest; logged, counted."""
    session_timeout: Duration = Field(45_000_000, ge=1_000_000, le=3_600_000_000)
    """How long partitions are kept for a process that is not heard, before others get them."""

    @field_validator("topics")
    @classmethod
    def _topics(cls, topics: tuple[str, ...]) -> tuple[str, ...]:
        for topic in topics or ("",):
            if not TOPIC_NAME.fullmatch(topic):
                raise ConfigError(f"{topic!r} is not the name of a topic; use letters, digits, '.', '_' and '-'")
        return topics

    def output_schema(self) -> pa.Schema:
        return RAW_WITH_METADATA

    def sampled(self) -> Kafka:
        return self.model_copy(update={"group": f"tocsin-look-{uuid.uuid4().hex}"})

    def check(self, world: World) -> None:
        self.require(world)

    def open(self, world: World) -> GroupConnection:
        self.require(world)
        return GroupConnection(
            self,
            world,
            topics=self.topics,
            group=self.group or f"tocsin.{world.name}",
            from_latest=self.start == "latest",
            skips_expired=self.expired == "skip",
            session_timeout_us=self.session_timeout,
        )

    def open_share(self, world: World, number: int) -> AssignedConnection:
        self.require(world)
        begins = Begins(self.start == "latest", self.expired == "skip")
        return AssignedConnection(self, world, self.topics, begins, number, self.SHARES)


__all__ = ["Kafka"]
