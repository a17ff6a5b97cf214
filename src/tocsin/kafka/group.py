"""A member of a consumer group: one client in a thread of its own, which hands the records of each partition over.

The thread alone speaks to the cluster, and waits where the protocol wants it: until every partition that it was given
is read from its right place, and until every partition that it gives away is let go. Nobody who polls waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from tocsin.contracts import Offset, Split
from tocsin.errors import SourceError, Unavailable
from tocsin.kafka.handover import POLL_S, GroupReader, Handover
from tocsin.kafka.member import Member
from tocsin.kafka.partition import Begins, Partition, topic_ids
from tocsin.kafka.records import by_partition
from tocsin.kafka.settings import ClusterSettings
from tocsin.kafka.trouble import away, is_refusal, name_of, refusal_of_source
from tocsin.world import World

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

log = logging.getLogger(__name__)
T = TypeVar("T")

ASK_S = 5.0
"""How long one question to the cluster may take; it is asked again."""
AWAY_S = 15.0
"""A cluster that is away for less is waited for where we are: a broker that restarts takes so long."""
FULL_S = 1.0
"""After so long without room the client is told to fetch no more, and then only kept in the group."""
CONSUME_MAX = 1_000
"""Messages in one call: more were no faster."""
CONSUME_BYTES = 16 * 2**20
CONSUME_FEW, FILL_S = 100, 0.01
"""Where no fewer came than that, the next call waits so long for all that it asks for."""
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
        self._handover = Handover(world.clock)
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
        return self._handover.splits()

    def read(self, split: Split, offset: Offset | None) -> GroupReader:
        return self._handover.read(split.name, lambda one: self._begins.at(one, offset, new=self._member.started))

    def close(self) -> None:
        self._handover.close()
        self._thread.join(ASK_S)

    # the thread's side

    def _run(self) -> None:
        from confluent_kafka import Consumer, KafkaException

        consumer: Consumer | None = None
        try:
            consumer = Consumer(self._settings | {"error_cb": self._on_error, "on_commit": self._on_commit})
            consumer.subscribe(
                list(self._topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._handover.closing:
                self._note(consumer)
                if self._handover.trouble is None:
                    self._serve(consumer)
                else:
                    self._handover.pause()
        except KafkaException as error:
            self._handover.fail(self._told(error.args[0]))
        except BaseException as error:
            self._handover.fail(error)
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
        self._handover.put(runs)

    def _wait_for_room(self, consumer: Consumer) -> None:
        """Hold up the fetching while too much waits; but for long nobody may be silent in a group."""
        has_room = self._handover.wait_for_room(0.0 if self._paused else FULL_S)
        if not has_room and not self._paused:
            consumer.pause(consumer.assignment())
            self._paused = True
        elif self._paused and not self._handover.is_half_full():
            consumer.resume(consumer.assignment())
            self._paused = False

    # partitions come and go

    def _on_assign(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        from confluent_kafka import TopicPartition

        self._joined, self._down = True, None
        some = self._known(consumer, given) if given else []
        self._handover.give(some)
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
                if self._handover.closing or is_refusal(error.args[0]) or "TOPIC" in name or name in _EXPELLED:
                    raise
                log.info("%s: %s; asking again", self._cluster.cluster, error.args[0].str())
                self._handover.pause()

    def _on_revoke(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        """Others get these partitions, once a checkpoint holds what came of them and the group knows how far it is."""
        names = [f"{at.topic}-{at.partition}" for at in given]
        some = self._handover.revoke(names)
        while not self._handover.are_let_go(some):
            self._note(consumer)  # should we die before the checkpoint, others go on from here
        self._note(consumer, wait=True)
        self._handover.forget(names)
        consumer.incremental_unassign(given)

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

        told = self._handover.to_tell(again=wait)  # what was told last may not be heard yet
        offsets = [TopicPartition(one.topic, one.number, durable, one.topic_id) for one, durable in told]
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
        self._handover.was_not_told([f"{at.topic}-{at.partition}" for at in offsets])

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

    def _told(self, error: KafkaError) -> SourceError:
        if is_refusal(error):
            return refusal_of_source(self._cluster, error, str(self._member.path))
        return away(self._cluster, error.str())

    def _on_error(self, error: KafkaError) -> None:
        """The library reports what it cannot mend, and what it goes on trying."""
        if is_refusal(error):
            self._handover.fail(refusal_of_source(self._cluster, error, str(self._member.path)))
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
            self._handover.fail(away(self._cluster, reason))
        else:
            self._down = None

    def _on_message_error(self, consumer: Consumer, message: Message) -> None:
        from confluent_kafka import TopicPartition

        error = message.error()
        assert error is not None
        name, topic = name_of(error), message.topic() or ", ".join(self._topics)
        if is_refusal(error):
            self._handover.fail(refusal_of_source(self._cluster, error, str(self._member.path)))
        elif name in ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC"):
            self._handover.fail(self._no_topic(topic))
        elif name == "_AUTO_OFFSET_RESET" and (one := self._handover.partitions.get(f"{topic}-{message.partition()}")):
            at = TopicPartition(one.topic, one.number)
            one.edges = self._asked(lambda: consumer.get_watermark_offsets(at, ASK_S))
            last = one.waiting.end or one.next
            begin = self._begins.at(one, {"next": last, "topic": one.topic_id}, new=True)
            consumer.incremental_unassign([at])
            consumer.incremental_assign([TopicPartition(one.topic, one.number, begin)])
        else:
            log.warning("%s, %s: %s", self._cluster.cluster, topic, error.str())


__all__ = ["GroupConnection"]
