"""A share of the partitions of some topics, read without a group: for a runner that keeps their positions itself.

It follows from a partition's name which share it is of, so that none is ever handed over; nobody is told how far we
are. Everything happens in the thread that polls.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tocsin.batch import Batch
from tocsin.contracts import Offset, Reader, Split
from tocsin.errors import SourceError, Unavailable
from tocsin.kafka.group import ASK_S, CONSUME_MAX, METADATA_MS
from tocsin.kafka.handover import ROWS_MAX
from tocsin.kafka.partition import Begins, Partition, topic_ids
from tocsin.kafka.records import by_partition, end_of
from tocsin.kafka.settings import ClusterSettings
from tocsin.kafka.trouble import away, is_refusal, name_of, refusal_of_source
from tocsin.world import World

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

log = logging.getLogger(__name__)


class AssignedConnection:
    """A `contracts.Connection` whose splits are the partitions of share ``number`` of ``count``."""

    def __init__(
        self, cluster: ClusterSettings, world: World, topics: Sequence[str], begins: Begins, number: int, count: int
    ) -> None:
        from confluent_kafka import Consumer

        self._cluster, self._clock, self._topics = cluster, world.clock, tuple(topics)
        self._begins, self._number, self._count = begins, number, count
        self._reaching = dict(cluster.client(world.given))
        self._partitions: dict[str, Partition] = {}
        self._trouble: SourceError | None = None
        self._looked_s: float | None = None
        self._listed: list[tuple[str, int]] = []
        self._consumer = Consumer(
            self._reaching
            | {
                "group.id": f"tocsin.{world.name}", "enable.auto.commit": False, "isolation.level": "read_committed",
                "auto.offset.reset": "error", "topic.metadata.refresh.interval.ms": METADATA_MS,
                "error_cb": self._on_error,
            }
        )  # fmt: skip

    def splits(self) -> Sequence[Split]:
        now_s = self._clock.monotonic_s()
        if self._looked_s is None or now_s - self._looked_s >= METADATA_MS / 1_000:
            self._look()
            self._looked_s = now_s
        names = [f"{topic}-{number}" for topic, number in self._listed]
        return [Split(name) for name in names if zlib.crc32(name.encode()) % self._count == self._number]

    def read(self, split: Split, offset: Offset | None) -> AssignedReader:
        from confluent_kafka import KafkaException, TopicPartition

        topic, _, number = split.name.rpartition("-")
        at = TopicPartition(topic, int(number))
        try:
            edges = self._consumer.get_watermark_offsets(at, ASK_S)
            one = Partition(topic, int(number), topic_ids(self._reaching, {topic}, ASK_S)[topic], None, edges)
            begin = self._begins.at(one, offset, new=False)
            one.read_from(begin)
            self._consumer.incremental_assign([TopicPartition(topic, int(number), begin)])
        except KafkaException as error:
            raise self._told(error.args[0]) from error
        self._partitions[one.name] = one
        return AssignedReader(self, one)

    def take(self, one: Partition, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        """Return the next rows of a partition, and the position after them."""
        if not one.waiting.rows and sum(other.waiting.rows for other in self._partitions.values()) < ROWS_MAX:
            self._fetch(timeout_s)
        if self._trouble is not None:
            raise self._trouble
        if not one.waiting.rows:
            return None
        rows = one.waiting.take(rows_max)
        one.next = end_of(rows)
        return Batch(rows), {"next": one.next, "topic": one.topic_id}

    def let_go(self, one: Partition) -> None:
        """Nobody reads the partition any more."""
        from confluent_kafka import TopicPartition

        if self._partitions.pop(one.name, None) is not None:
            self._consumer.incremental_unassign([TopicPartition(one.topic, one.number)])

    def close(self) -> None:
        self._consumer.close()

    def _fetch(self, timeout_s: float) -> None:
        messages = self._consumer.consume(CONSUME_MAX, timeout_s)
        for message in messages:
            if (error := message.error()) is not None:
                raise self._told(error)
        if messages:
            for topic, number, rows in by_partition(messages, self._clock.now_us(), one_topic=len(self._topics) == 1):
                if (one := self._partitions.get(f"{topic}-{number}")) is not None:
                    one.waiting.put(rows)

    def _look(self) -> None:
        from confluent_kafka import KafkaException

        try:
            there = self._consumer.list_topics(timeout=ASK_S).topics
        except KafkaException as error:
            raise self._trouble or self._told(error.args[0]) from error
        for topic in self._topics:
            if topic not in there:
                raise Unavailable(
                    f"there is no topic '{topic}' at {self._cluster.cluster}; make it, or correct its name"
                )
        self._listed = sorted((topic, number) for topic in self._topics for number in there[topic].partitions)

    def _on_error(self, error: KafkaError) -> None:
        """The library reports what it cannot mend, and what it goes on trying."""
        if is_refusal(error):
            self._trouble = refusal_of_source(self._cluster, error, "")
        else:
            log.info("%s: %s", self._cluster.cluster, error.str())

    def _told(self, error: KafkaError) -> SourceError:
        if is_refusal(error):
            return refusal_of_source(self._cluster, error, "")
        if name_of(error) == "_AUTO_OFFSET_RESET":
            return SourceError(f"{error.str()}: records are gone that should come next; set 'expired: skip' to go on")
        return away(self._cluster, error.str())


class AssignedReader(Reader):
    """One partition being read."""

    def __init__(self, connection: AssignedConnection, partition: Partition) -> None:
        self._connection, self._partition = connection, partition

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        return self._connection.take(self._partition, rows_max, timeout_s)

    def acknowledge(self, offset: Offset) -> None:
        """Nobody wants to know."""

    def counters(self) -> Mapping[str, int]:
        return {"expired": self._partition.expired}

    def close(self) -> None:
        self._connection.let_go(self._partition)


__all__ = ["AssignedConnection", "AssignedReader"]
