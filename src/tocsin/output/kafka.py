"""Sink `kafka`: rows as JSON records of a topic, in transactions that hold their epoch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec
import pyarrow as pa
from pydantic import field_validator

from tocsin.contracts import Sink
from tocsin.ends import Spooled
from tocsin.errors import SchemaError, SinkError, Unavailable
from tocsin.kafka.position import ASK_S, STABLE_S, Position
from tocsin.kafka.settings import TOPIC_NAME, ClusterSettings
from tocsin.kafka.trouble import away, is_refusal, name_of, refusal_of_sink
from tocsin.settings.topic_template import require_template, template_columns
from tocsin.world import World

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

log = logging.getLogger(__name__)

COMMIT_S = 30.0
"""How long a transaction may take to be committed, all of its records sent."""
COUNTED_S = 10.0
"""How long its end may take to reach all partitions after that."""
PATIENCE_S = 2 * COMMIT_S
"""After so long a transaction is given up, whatever the library says: it is opened anew."""

_SOON = ("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS", "_WAIT_COORD")
"""What passes by itself, soon after a broker has started."""


class Kafka(ClusterSettings, Sink):
    """Keep rows as JSON in a topic of Apache Kafka, each row exactly once for readers of committed records.

    Each epoch is one transaction of Kafka's, which also holds the epoch, as the offset of a group of the sink's own;
    after a restart the sink reads there how far it has come. Readers have to set ``isolation.level=read_committed``.
    Rows of one ``key`` go to one partition, in order, the same one that Java's clients choose. A row whose topic is no
    name, or whose record is larger than 1 MB, is not sent, but counted and logged.

    Needs ``pip install 'tocsin[kafka]'``, and the right to write in transactions under ``tocsin.`` and the pipeline's
    name.

    References: Apache Kafka, KIP-98 (transactions), KIP-447 (offsets in transactions).

    Examples
    --------
    >>> Kafka(brokers="localhost:9092", topic="plant.{key}.state", columns=["state"]).topic
    'plant.{key}.state'
    """

    PROMISE: ClassVar[str] = "exactly once, for readers of committed records"
    FENCED: ClassVar[bool] = True

    topic: str
    """Where to write; ``{column}`` stands for the row's value."""
    key: str | None = "key"
    """The column whose text is the record's key; null for records without."""
    columns: tuple[str, ...] | None = None
    """What the JSON holds; by default all columns."""
    headers: Mapping[str, str] = {}
    """Headers of the record by name, each with the column that its text comes from; a null gives none."""

    @field_validator("topic")
    @classmethod
    def _topic(cls, topic: str) -> str:
        remedy = "is not a topic to write to; write it as plant.{key}.state"
        return require_template(topic, TOPIC_NAME.fullmatch, remedy)

    def topic_columns(self) -> list[str]:
        """Return the columns that stand in the topic."""
        return template_columns(self.topic)

    def accepts(self, schema: pa.Schema) -> None:
        key = [] if self.key is None else [self.key]
        for name in (*(self.columns or ()), *self.topic_columns(), *key, *self.headers.values()):
            if name not in schema.names:
                raise SchemaError(f"kafka needs column '{name}'; what reaches it is [{', '.join(schema.names)}]")

    def check(self, world: World) -> None:
        self.require(world)

    def place(self) -> Mapping[str, Any]:
        return {"brokers": self.brokers, "topic": self.topic}

    def open(self, world: World, schema: pa.Schema) -> KafkaWriter:
        self.require(world)
        return KafkaWriter(self, world, schema)


class Record(NamedTuple):
    """What is sent for one row."""

    topic: str
    key: bytes | None
    value: bytes
    headers: list[tuple[str, str | bytes | None]]


def _in_time(work: Callable[[], None]) -> bool:
    """Do something in a thread of its own; returns False if it has not ended in time, and raises what it raises.

    After a restart of its broker the library may wait without end, whatever timeout it is given.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="kafka transaction", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if thread.is_alive():
        return False
    if raised:
        raise raised[0]
    return True


class KafkaWriter(Spooled):
    """Our transactions in a topic, and how far they reach."""

    def __init__(self, settings: Kafka, world: World, schema: pa.Schema) -> None:
        super().__init__(world, schema)
        self._settings, self._name = settings, f"tocsin.{world.name}"
        self._cluster = dict(settings.client(world.given)) | {"error_cb": self._on_error}
        self._position = Position(self._cluster, self._name, world, settings.topic)
        self._producer: Producer | None = None
        self._metadata: Any = None
        """Of the group, for transactions; asked for once, since without a coordinator the library waits without end."""
        self._at: int | None = None
        """The epoch that was published last."""
        self._refusal: SinkError | None = None
        self._undelivered: KafkaError | None = None
        self._is_committing = False
        """Whether the cluster was asked to commit the transaction that was begun last."""
        self.refused = 0
        """How many rows were not sent, because of their topic or their size."""

    def apply(self, epoch: int, rows: pa.Table) -> None:
        from confluent_kafka import KafkaException

        try:
            producer = self._ready()
            if self._at is None and not self._position.note():
                self._position.begin(self._topics_of(rows))
            self._position.keep(published=self._at, trying=epoch)
            if not _in_time(lambda: self._transact(producer, epoch, rows)):
                self._producer = None  # left behind: the next one shuts it out, and its transaction ends then
                self._position.leave_behind()
                raise Unavailable(f"{self._settings.cluster} did not end a transaction within {PATIENCE_S:g} s")
        except KafkaException as error:
            told = self._undelivered or error.args[0]
            if not self._is_committing or self._undelivered is not None:
                # It has not come to be: the library commits only what arrived whole.
                self._position.keep(published=self._at)
            self._give_up()
            raise self._told(told) from error
        self._position.keep(published=epoch)
        self._at = epoch

    def applied(self) -> int | None:
        """Return the epoch in the group's offsets; our own note where the cluster has forgotten it.

        A cluster keeps the offsets of a group for a week after the last. The note on our disk tells the same, unless
        the process died in the middle of a transaction.
        """
        if self._producer is not None:
            return self._at  # whoever else wrote under our name would have shut us out
        known, note = self._known(), self._position.note()
        self._at = known or None
        if known is not None:
            return self._at
        if (trying := note.get("trying")) is not None:
            before = note["published"] or "null"
            raise SinkError(
                f"{self._settings.cluster} has forgotten how far '{self._name}' has come, and epoch {trying} was being "
                f'written when it ended; look whether its rows are there, and write {{"published": {trying}}} into '
                f'{self._position.path} if so, else {{"published": {before}}}'
            )
        self._at = note.get("published")
        return self._at

    def counters(self) -> Mapping[str, int]:
        return {"refused": self.refused}

    def close(self) -> None:
        if self._producer is not None:
            self._producer.purge()
            self._producer = None
        self._position.close()

    # one transaction

    def _ready(self) -> Producer:
        """Return the producer; the first call shuts out processes before us."""
        if self._producer is None:
            before, producer = self._known(), self._opened()
            if self._known() != before:
                raise Unavailable(f"'{self._name}' was still being written to by a process that has ended since")
            self._producer = producer
        return self._producer

    def _opened(self) -> Producer:
        """Return a new producer; what a process before us has left open has ended then, and it can write no more."""
        from confluent_kafka import KafkaException, Producer

        settings = {
            "transactional.id": self._name,
            "partitioner": "murmur2_random",
            "delivery.report.only.error": True,
            "topic.metadata.propagation.max.ms": int(1e3 * ASK_S),
        }
        producer = Producer(self._cluster | settings)
        try:
            producer.init_transactions(COMMIT_S)
            self._metadata = self._position.group.consumer_group_metadata()
        except KafkaException as error:
            raise self._told(error.args[0]) from error
        return producer

    def _topics_of(self, rows: pa.Table) -> set[str]:
        if not self._settings.topic_columns():
            return {self._settings.topic}
        return {topic for batch in rows.to_batches() for row in batch.to_pylist() if (topic := self._topic(row))}

    def _transact(self, producer: Producer, epoch: int, rows: pa.Table) -> None:
        self._is_committing = False
        producer.begin_transaction()
        topics = self._send(producer, rows)
        if not topics and not self._settings.topic_columns():
            topics = [self._settings.topic]
        self._send_epoch(producer, epoch, topics)
        self._is_committing = True
        producer.commit_transaction(COMMIT_S)
        self._require_counted(epoch, topics)

    def _require_counted(self, epoch: int, topics: list[str]) -> None:
        """Look whether readers see the epoch: that it will come to be is what the cluster has promised, no more.

        A broker answers before it has written the transaction's end into the partitions, and one that is killed then
        may never do it (seen with Apache Kafka 4.4.0). Staged rows are needed until it has.
        """
        counted = self._position.of(topics, COUNTED_S)
        if any(counted.get(topic) != epoch for topic in topics):
            self._producer = None
            raise Unavailable(f"{self._settings.cluster} has not kept a transaction that it had agreed to")

    def _send(self, producer: Producer, rows: pa.Table) -> list[str]:
        """Hand the rows to the client; returns the topics that they go to."""
        from confluent_kafka import KafkaException

        topics: dict[str, None] = {}
        self._undelivered = None
        for record in self._records(rows):
            while True:
                try:
                    producer.produce(
                        record.topic, record.value, record.key, headers=record.headers, on_delivery=self._on_failure
                    )
                    topics[record.topic] = None
                except BufferError:
                    producer.poll(0.01)
                    continue
                except KafkaException as error:
                    if name_of(error.args[0]) != "MSG_SIZE_TOO_LARGE":
                        raise
                    self._refuse(f"a record of {len(record.value)} bytes is too large")
                break
        return list(topics)

    def _records(self, rows: pa.Table) -> Iterator[Record]:
        """Rows as records: Python objects, then JSON, 3 to 10 µs a row."""
        settings, places = self._settings, self._settings.topic_columns()
        wanted = rows.column_names if settings.columns is None else settings.columns
        encode = msgspec.json.Encoder().encode
        for batch in rows.to_batches():
            for row in batch.to_pylist():
                topic = self._topic(row) if places else settings.topic
                if topic is None:
                    self._refuse(f"{[row[name] for name in places]} make no name of a topic in '{settings.topic}'")
                    continue
                key = None if settings.key is None or row[settings.key] is None else str(row[settings.key]).encode()
                headers: list[tuple[str, str | bytes | None]] = [
                    (name, str(row[column]).encode())
                    for name, column in settings.headers.items()
                    if row[column] is not None
                ]
                yield Record(topic, key, encode({name: row[name] for name in wanted}), headers)

    def _topic(self, row: Mapping[str, Any]) -> str | None:
        """Return where a row goes; None if its values make no name of a topic."""
        named = {name: row[name] for name in self._settings.topic_columns()}
        topic = self._settings.topic.format_map(named)
        return (
            topic if TOPIC_NAME.fullmatch(topic) and None not in named.values() and "" not in named.values() else None
        )

    def _send_epoch(self, producer: Producer, epoch: int, topics: list[str]) -> None:
        """Put the epoch into the transaction, as an offset of every topic that it writes to."""
        from confluent_kafka import TopicPartition

        offsets = [TopicPartition(topic, 0, epoch, self._name) for topic in topics]
        if offsets:  # an epoch without rows may go nowhere
            producer.send_offsets_to_transaction(offsets, self._metadata, COMMIT_S)

    def _give_up(self) -> None:
        """Let readers go on at once; what cannot be aborted now is when the writer is opened anew."""
        from confluent_kafka import KafkaException

        if self._producer is None:
            return
        try:
            self._producer.purge()
            self._producer.abort_transaction(ASK_S)
        except KafkaException as error:
            log.info("%s: %s", self._name, error.args[0].str())
        self._producer = None

    # how far we are

    def _known(self) -> int | None:
        """Return the last epoch that the cluster knows of, after all transactions of ours have ended."""
        from confluent_kafka import KafkaException

        until_s = self.world.clock.monotonic_s() + COMMIT_S
        remedies = [lambda: self._opened().purge(), self._abort_what_hangs]
        while True:
            try:
                return self._position.asked()
            except KafkaException as error:
                name, late = name_of(error.args[0]), self.world.clock.monotonic_s() > until_s
                if late or name not in (*_SOON, "_TIMED_OUT"):
                    raise self._told(error.args[0]) from error
                if name == "_TIMED_OUT":  # no offset is told while a transaction of ours is open
                    if not remedies or not self._answers():
                        raise self._told(error.args[0]) from error
                    remedies.pop(0)()
            self.world.clock.sleep(0.1)

    def _abort_what_hangs(self) -> None:
        """End what the cluster takes for ended, although no partition knows of its end.

        The end of another transaction of ours in the same partitions is an end for that, too. This one is aborted, with
        an empty record in every partition, so that rows and epoch are gone together, and are sent again.
        """
        from confluent_kafka import KafkaException, TopicPartition

        log.warning("%s: a transaction of '%s' has never ended; aborting it", self._settings.cluster, self._name)
        producer = self._opened()

        def abort() -> None:
            there = self._position.group.list_topics(timeout=ASK_S).topics
            topics = [topic for topic in self._position.topics() if topic in there]
            producer.begin_transaction()
            for topic in topics:
                for number in there[topic].partitions:
                    producer.produce(topic, b"", b"", number)
            producer.send_offsets_to_transaction([TopicPartition(t, 0, 0) for t in topics], self._metadata, COMMIT_S)
            producer.flush(COMMIT_S)
            producer.abort_transaction(COMMIT_S)

        try:
            if not _in_time(abort):
                raise Unavailable(f"{self._settings.cluster} did not end a transaction within {PATIENCE_S:g} s")
        except KafkaException as error:
            raise self._told(error.args[0]) from error

    def _answers(self) -> bool:
        from confluent_kafka import KafkaException

        try:
            self._position.group.list_topics(self._settings.topic, timeout=STABLE_S)
        except KafkaException:
            return False
        return True

    # trouble

    def _told(self, error: KafkaError) -> SinkError:
        name = name_of(error)
        self._position.group.poll(0)  # to be told why it does not answer
        if is_refusal(error):
            return refusal_of_sink(self._settings, error, self._name)
        if self._refusal is not None:
            return self._refusal
        if name in ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC"):
            return Unavailable(
                f"there is no topic '{self._settings.topic}' at {self._settings.cluster}; make it, or correct its name"
            )
        if name == "MSG_SIZE_TOO_LARGE":
            return SinkError(
                f"topic '{self._settings.topic}' at {self._settings.cluster} does not take a record of ours: it is "
                "larger than the topic's max.message.bytes; raise that, or send fewer columns"
            )
        return away(self._settings, error.str())

    def _on_error(self, error: KafkaError) -> None:
        if is_refusal(error):
            self._refusal = refusal_of_sink(self._settings, error, self._name)

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        if (
            error is not None
            and self._undelivered is None
            and name_of(error) not in ("_PURGE_QUEUE", "_PURGE_INFLIGHT")
        ):
            self._undelivered = error

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        if self.refused & (self.refused - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a flood of rows is no flood of lines
            log.warning("kafka: a row was not sent: %s (%d so far)", reason, self.refused)


__all__ = ["Kafka", "KafkaWriter"]
