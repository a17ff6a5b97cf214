"""A member of a consumer group: one client in a thread of its own, which hands the records of each partition over.

The thread alone speaks to the cluster, and waits where the protocol wants it: until every partition that it was given
is read from its right place, and until every partition that it gives away is let go. Nobody who polls waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from tocsin.batch import Batch
from tocsin.contracts import Offset, Split
from tocsin.errors import SourceError, Unavailable
from tocsin.kafka.member import Member
from tocsin.kafka.partition import Begins, Partition, topic_ids
from tocsin.kafka.records import by_partition, end_of
from tocsin.kafka.settings import ClusterSettings
from tocsin.kafka.trouble import away, is_refusal, name_of, refusal_of_source
from tocsin.world import World

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL_S = 0.1
ASK_S = 5.0
"""How long one question to the cluster may take; it is asked again."""
AWAY_S = 15.0
"""A cluster that is away for less is waited for where we are: a broker that restarts takes so long."""
GATHER_S, GATHER_ROWS = 0.03, 16_384
"""Least time between two batches of a partition, unless so much waits: under load a batch is worth its cost, and the
first after a pause does not wait."""
FULL_S = 1.0
"""After so long without room the client is told to fetch no more, and then only kept in the group."""
CONSUME_MAX = 1_000
"""Messages in one call: more were no faster."""
CONSUME_BYTES = 16 * 2**20
CONSUME_FEW, FILL_S = 100, 0.01
"""Where no fewer came than that, the next call waits so long for all that it asks for."""
ROWS_MAX, BYTES_MAX = 200_000, 64 * 2**20
"""So much waits for those who poll, in all partitions together."""
MAX_POLL_MS = 300_000
"""So long the thread may go without a poll. The library does not count while partitions are given away: others wait for
our checkpoint, however long it takes."""
METADATA_MS = 5_000
"""How often new partitions are looked for."""
FETCH_BACKOFF_MS = 5
"""The library waits for 1 s once its queue is full, which made it eight times slower."""

_EXPELLED = ("ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "FENCED_MEMBER_EPOCH", "STALE_MEMBER_EPOCH")
"""We are no longer a member: others have our partitions, or will soon."""


class GroupConnection:
    """A `contracts.Connection` whose splits are the partitions that the group gives us.

    Records come once all splits that are listed are being read.
    """

    def __init__(
        self,
        cluster: ClusterSettings,
        world: World,
        *,
        topics: Sequence[str],
        group: str,
        from_latest: bool,
        skips_expired: bool,
        session_timeout_us: int,
    ) -> None:
        self._cluster, self._clock = cluster, world.clock
        self._topics, self._begins = tuple(topics), Begins(from_latest, skips_expired)
        self._member = Member(world)
        self._reaching = dict(cluster.client(world.given))
        self._settings = {
            **self._reaching,
            "group.id": group,
            "group.instance.id": self._member.name,
            "session.timeout.ms": session_timeout_us // 1_000,
            "max.poll.interval.ms": max(session_timeout_us // 1_000, MAX_POLL_MS),
            "heartbeat.interval.ms": min(max(session_timeout_us // 10_000, 100), 3_000),
            "partition.assignment.strategy": "cooperative-sticky",
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "topic.metadata.refresh.interval.ms": METADATA_MS,
            "fetch.queue.backoff.ms": FETCH_BACKOFF_MS,
        }
        self._changed = threading.Condition()
        self._partitions: dict[str, Partition] = {}
        self._trouble: BaseException | None = None
        self._closing = False
        self._joined = False
        self._down: tuple[float, str] | None = None
        """Since when no broker answers, and why."""
        self._reason = ""
        """What the library said last of a connection."""
        self._ask, self._fill_s = CONSUME_MAX, 0.0
        self._paused = False
        self._thread = threading.Thread(target=self._run, name=f"kafka {group}", daemon=True)
        self._thread.start()

    # the side of those who read

    def splits(self) -> Sequence[Split]:
        with self._changed:
            self._raise_trouble()
            return [Split(name) for name, one in sorted(self._partitions.items()) if not one.revoked]

    def read(self, split: Split, offset: Offset | None) -> GroupReader:
        with self._changed:
            one = self._partitions[split.name]
            one.read_from(self._begins.at(one, offset, new=self._member.started))
            self._changed.notify_all()
        return GroupReader(self, one)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(ASK_S)

    def take(self, one: Partition, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        """Return the next rows of a partition, and the position after them."""
        until_s = self._clock.monotonic_s() + timeout_s
        with self._changed:
            while True:
                self._raise_trouble(waiting=one.waiting.rows > 0)
                now_s = self._clock.monotonic_s()
                if one.waiting.rows >= GATHER_ROWS or (one.waiting.rows and now_s >= one.ready_s):
                    break
                if now_s >= until_s:
                    return None
                self._changed.wait(min(until_s, one.ready_s if one.waiting.rows else until_s) - now_s)
            rows = one.waiting.take(rows_max)
            one.next, one.ready_s = end_of(rows), now_s + GATHER_S
            self._changed.notify_all()
        return Batch(rows), {"next": one.next, "topic": one.topic_id}

    def acknowledge(self, one: Partition, offset: Offset) -> None:
        """Everything before is durable: the group is told soon."""
        with self._changed:
            one.durable = max(one.durable, int(offset["next"]))

    def let_go(self, one: Partition) -> None:
        """Nobody reads the partition any more."""
        with self._changed:
            one.open = False
            self._changed.notify_all()

    def _raise_trouble(self, *, waiting: bool = False) -> None:
        """What may pass is told once all that was handed over is durable: until then nobody else may have it."""
        trouble = self._trouble
        if isinstance(trouble, Unavailable) and (waiting or not self._is_settled()):
            return
        if trouble is not None:
            raise trouble

    def _is_settled(self) -> bool:
        return all(one.next is None or one.durable >= one.next for one in self._partitions.values())

    # the thread's side

    def _run(self) -> None:
        from confluent_kafka import Consumer, KafkaException

        consumer: Consumer | None = None
        try:
            consumer = Consumer(self._settings | {"error_cb": self._on_error, "on_commit": self._on_commit})
            consumer.subscribe(
                list(self._topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._closing:
                self._note(consumer)
                if self._trouble is None:
                    self._serve(consumer)
                else:
                    with self._changed:
                        self._changed.wait(POLL_S)
        except KafkaException as error:
            self._fail(self._told(error.args[0]))
        except BaseException as error:
            self._fail(error)
        finally:
            if consumer is not None:
                self._leave(consumer)

    def _serve(self, consumer: Consumer) -> None:
        """Take what has come, and answer the group."""
        self._look_whether_away(consumer)
        self._wait_for_room(consumer)
        first = consumer.poll(POLL_S)
        if first is None:
            return
        more = consumer.consume(self._ask - 1, self._fill_s) if self._ask > 1 else []
        messages = [first, *more]
        self._fill_s = FILL_S if len(more) >= CONSUME_FEW else 0.0
        bad = [message for message in messages if message.error() is not None]
        if bad:
            messages = [message for message in messages if message.error() is None]
        if messages:
            self._hand_over(messages)
        for message in bad:
            self._on_message_error(consumer, message)

    def _hand_over(self, messages: Sequence[Message]) -> None:
        runs = list(by_partition(messages, self._clock.now_us(), one_topic=len(self._topics) == 1))
        size = sum(rows.nbytes for _, _, rows in runs)
        self._ask = max(1, min(CONSUME_MAX, CONSUME_BYTES * len(messages) // max(size, 1)))
        with self._changed:
            for topic, number, rows in runs:
                one = self._partitions.get(f"{topic}-{number}")
                if one is not None and not one.revoked:
                    one.waiting.put(rows)
            self._changed.notify_all()

    def _wait_for_room(self, consumer: Consumer) -> None:
        """Hold up the fetching while too much waits; but for long nobody may be silent in a group."""
        with self._changed:
            if not self._paused:
                self._changed.wait_for(lambda: self._closing or not self._is_full(1.0), FULL_S)
            full, half_full = self._is_full(1.0), self._is_full(0.5)
        if full and not self._paused:
            consumer.pause(consumer.assignment())
            self._paused = True
        elif self._paused and not half_full:
            consumer.resume(consumer.assignment())
            self._paused = False

    def _is_full(self, part: float) -> bool:
        waiting = [one.waiting for one in self._partitions.values()]
        too_many = sum(one.rows for one in waiting) >= part * ROWS_MAX
        return too_many or sum(one.bytes for one in waiting) >= part * BYTES_MAX

    # partitions come and go

    def _on_assign(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        from confluent_kafka import TopicPartition

        self._joined, self._down = True, None
        some = self._known(consumer, given) if given else []
        with self._changed:
            self._partitions |= {one.name: one for one in some}
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._closing or self._trouble is not None or all(one.next is not None for one in some)
            )
        begins = [TopicPartition(one.topic, one.number, one.next) for one in some if one.next is not None]
        if len(begins) == len(given):
            consumer.incremental_assign(begins)
            self._member.start()

    def _known(self, consumer: Consumer, given: Sequence[TopicPartition]) -> list[Partition]:
        """Ask the cluster for all that says where these partitions begin."""
        ids = self._topic_ids({at.topic for at in given})
        some = []
        for at in self._asked(lambda: consumer.committed(list(given), ASK_S)):
            # A commit under another id was of a topic that is no longer there.
            same = at.metadata in (None, "", ids[at.topic])
            edges = self._asked(lambda at=at: consumer.get_watermark_offsets(at, ASK_S))  # type: ignore[misc]
            group_next = at.offset if at.offset >= 0 and same else None
            some.append(Partition(at.topic, at.partition, ids[at.topic], group_next, edges, noted=group_next))
        return some

    def _topic_ids(self, topics: set[str]) -> Mapping[str, str]:
        return self._asked(lambda: topic_ids(self._reaching, topics, ASK_S))

    def _asked(self, question: Callable[[], T]) -> T:
        """Return the answer, asked for until it comes; raises what does not pass by waiting."""
        from confluent_kafka import KafkaException

        while True:
            try:
                return question()
            except KafkaException as error:
                name = name_of(error.args[0])
                if self._closing or is_refusal(error.args[0]) or "TOPIC" in name or name in _EXPELLED:
                    raise
                log.info("%s: %s; asking again", self._cluster.cluster, error.args[0].str())
                with self._changed:
                    self._changed.wait(POLL_S)

    def _on_revoke(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        """Others get these partitions, once a checkpoint holds what came of them and the group knows how far it is."""
        names = [f"{at.topic}-{at.partition}" for at in given]
        with self._changed:
            some = [self._partitions[name] for name in names if name in self._partitions]
            for one in some:
                one.revoked = True
                one.waiting.clear()
            self._changed.notify_all()
        while not self._are_let_go(some):
            self._note(consumer)  # should we die before the checkpoint, others go on from here
        self._note(consumer, wait=True)
        with self._changed:
            for name in names:
                self._partitions.pop(name, None)
        consumer.incremental_unassign(given)

    def _are_let_go(self, some: Sequence[Partition]) -> bool:
        """Wait a moment for it."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._closing or self._trouble is not None or not any(one.open for one in some), POLL_S
            )

    def _on_lost(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        """Others have had these partitions for a while: what came since the last checkpoint is theirs."""
        there = self._asked(lambda: consumer.list_topics(timeout=ASK_S)).topics
        for at in given:
            if at.topic not in there:  # the library calls that lost, too
                raise self._no_topic(at.topic)
        names = ", ".join(f"{at.topic}-{at.partition}" for at in given)
        raise SourceError(
            f"the group '{self._settings['group.id']}' has given {names} to others, because we were not heard for "
            f"{self._settings['session.timeout.ms'] / 1000:g} s"
        )

    def _no_topic(self, topic: str) -> Unavailable:
        return Unavailable(f"there is no topic '{topic}' at {self._cluster.cluster}; make it, or correct its name")

    # what the group is told

    def _note(self, consumer: Consumer, *, wait: bool = False) -> None:
        """Tell the group how far we are, for those who look on and those who take over."""
        from confluent_kafka import KafkaException, TopicPartition

        with self._changed:
            read = [one for one in self._partitions.values() if one.next is not None]
            moved = [one for one in read if wait or one.durable != one.noted]  # what was told last may not be heard yet
            offsets = [TopicPartition(one.topic, one.number, one.durable, one.topic_id) for one in moved]
            for one in moved:
                one.noted = one.durable
        if not offsets:
            return
        try:
            if wait:
                self._asked(lambda: consumer.commit(offsets=offsets, asynchronous=False))
            else:
                consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], offsets)

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Say it again where it was not heard."""
        if error is None:
            return
        log.info("%s: the group was not told how far we are: %s", self._cluster.cluster, error.str())
        with self._changed:
            for at in offsets:
                if (one := self._partitions.get(f"{at.topic}-{at.partition}")) is not None:
                    one.noted = None

    def _leave(self, consumer: Consumer) -> None:
        from confluent_kafka import KafkaException

        try:
            if self._joined and self._down is None:
                self._note(consumer, wait=True)
            consumer.close()
        except KafkaException as error:
            log.info("%s: %s", self._cluster.cluster, error.args[0].str())
        except (SourceError, Unavailable) as error:  # of the callback that is told what was lost meanwhile
            log.info("%s", error)

    # trouble

    def _fail(self, trouble: BaseException) -> None:
        with self._changed:
            if self._trouble is None:
                self._trouble = trouble
            self._changed.notify_all()

    def _told(self, error: KafkaError) -> SourceError:
        if is_refusal(error):
            return refusal_of_source(self._cluster, error, str(self._member.path))
        return away(self._cluster, error.str())

    def _on_error(self, error: KafkaError) -> None:
        """The library reports what it cannot mend, and what it goes on trying."""
        if is_refusal(error):
            self._fail(refusal_of_source(self._cluster, error, str(self._member.path)))
        elif name_of(error) == "_ALL_BROKERS_DOWN":
            if self._down is None:
                self._down = self._clock.monotonic_s(), self._reason or error.str()
                log.warning("%s does not answer (%s); trying again", self._cluster.cluster, self._down[1])
        else:
            self._reason = error.str()

    def _look_whether_away(self, consumer: Consumer) -> None:
        from confluent_kafka import KafkaException

        if self._down is None:
            return
        since_s, reason = self._down
        if self._joined and self._clock.monotonic_s() - since_s < AWAY_S:
            return
        try:
            consumer.list_topics(timeout=1.0)
        except KafkaException:
            self._fail(away(self._cluster, reason))
        else:
            self._down = None

    def _on_message_error(self, consumer: Consumer, message: Message) -> None:
        from confluent_kafka import TopicPartition

        error = message.error()
        assert error is not None
        name, topic = name_of(error), message.topic() or ", ".join(self._topics)
        if is_refusal(error):
            self._fail(refusal_of_source(self._cluster, error, str(self._member.path)))
        elif name in ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC"):
            self._fail(self._no_topic(topic))
        elif name == "_AUTO_OFFSET_RESET" and (one := self._partitions.get(f"{topic}-{message.partition()}")):
            at = TopicPartition(one.topic, one.number)
            one.edges = self._asked(lambda: consumer.get_watermark_offsets(at, ASK_S))
            last = one.waiting.end or one.next
            begin = self._begins.at(one, {"next": last, "topic": one.topic_id}, new=True)
            consumer.incremental_unassign([at])
            consumer.incremental_assign([TopicPartition(one.topic, one.number, begin)])
        else:
            log.warning("%s, %s: %s", self._cluster.cluster, topic, error.str())


class GroupReader:
    """One partition being read."""

    def __init__(self, group: GroupConnection, partition: Partition) -> None:
        self._group, self._partition = group, partition

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        return self._group.take(self._partition, rows_max, timeout_s)

    def acknowledge(self, offset: Offset) -> None:
        self._group.acknowledge(self._partition, offset)

    def counters(self) -> Mapping[str, int]:
        return {"expired": self._partition.expired}

    def progress(self) -> None:
        return None

    def close(self) -> None:
        self._group.let_go(self._partition)


__all__ = ["GroupConnection", "GroupReader"]
