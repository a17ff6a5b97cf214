"""Source `kafka` against a real broker: what moves, what is gone, who is refused."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic
from kafka_server import PASSWORD, USER, Kafka
from running_engine import running_engine
from servers import free_port

import tocsin
from tocsin.acquire.kafka import Kafka as Source
from tocsin.contracts import Connection, Offset, Reader
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.preview import preview
from tocsin.errors import ConfigError, MissingExtra, SourceError, Unavailable
from tocsin.kafka import group as kafka_group
from tocsin.kafka import handover as kafka_handover
from tocsin.pipeline.model import Pipeline
from tocsin.testing import refusal, world
from tocsin.world import World

WAIT_S = 20


def until(true: Callable[[], bool], what: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, f"not within {WAIT_S} s: {what if isinstance(what, str) else what()}"
        time.sleep(0.05)


class Reading:
    """A source being read as the runner reads it, without the runner."""

    def __init__(self, connection: Connection, offsets: Mapping[str, Offset] | None = None) -> None:
        self.connection = connection
        self.readers: dict[str, Reader] = {}
        self.offsets: dict[str, Offset] = dict(offsets or {})
        self.rows: list[dict[str, Any]] = []

    def turn(self) -> None:
        listed = {split.name: split for split in self.connection.splits()}
        for name, split in listed.items():
            if name not in self.readers:
                self.readers[name] = self.connection.read(split, self.offsets.get(name))
        for name in self.readers.keys() - listed.keys():
            reader = self.readers.pop(name)
            if name in self.offsets:
                reader.acknowledge(self.offsets[name])
            reader.close()
        for name, reader in self.readers.items():
            polled = reader.poll(1_000, 0.02)
            if polled is not None:
                self.rows += polled[0].rows.to_pylist()
                self.offsets[name] = polled[1]

    def until(self, true: Callable[[], bool]) -> None:
        def turned() -> bool:
            self.turn()
            return true()

        until(turned, lambda: f"{len(self.rows)} rows of {sorted(self.readers)}")

    def numbers(self) -> list[int]:
        return [int(row["payload"]) for row in self.rows]

    def acknowledge(self) -> None:
        for name, offset in self.offsets.items():
            self.readers[name].acknowledge(offset)

    def close(self) -> None:
        for reader in self.readers.values():
            reader.close()
        self.connection.close()


def reading(source: Source, place: World | None = None, offsets: Mapping[str, Offset] | None = None) -> Any:
    return closing(Reading(source.open(place or world()), offsets))


def numbered(*numbers: int) -> list[bytes | None]:
    return [b"%d" % number for number in numbers]


def test_key_time_and_headers_come_along(kafka: Kafka) -> None:
    topic = kafka.topic(retention_ms="-1")
    kafka.send(topic, [b"1"], key=b"pump", headers={"unit": b"C", "empty": None}, timestamp=1_767_225_600_123)
    kafka.send(topic, [None], key=b"pump")
    kafka.send(topic, [b"3"])
    with reading(Source(brokers=kafka.address, topics=topic, group=topic)) as got:
        got.until(lambda: len(got.rows) == 3)
    first, second, third = got.rows
    assert first["topic"] == topic
    assert [row["position"] for row in got.rows] == [0, 1, 2]
    assert first["key"] == b"pump"
    assert first["attributes"] == [("unit", b"C"), ("empty", None)]
    assert first["sent"].isoformat() == "2026-01-01T00:00:00.123000+00:00"
    assert second["payload"] == b"", "a record without a value"
    assert (third["key"], third["attributes"]) == (None, None)
    assert third["sent"] is not None


def test_aborted_records_are_not_read(kafka: Kafka) -> None:
    topic = kafka.topic()
    producer = Producer({"bootstrap.servers": kafka.address, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    for number, kept in enumerate([True, False, True]):
        producer.begin_transaction()
        producer.produce(topic, b"%d" % number)
        producer.flush(30)
        if kept:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    with reading(Source(brokers=kafka.address, topics=topic, group=topic)) as got:
        got.until(lambda: len(got.rows) == 2)
        assert got.numbers() == [0, 2]


def test_several_topics_and_partitions_are_splits(kafka: Kafka) -> None:
    topics = [kafka.topic(2), kafka.topic(1)]
    kafka.send(topics[0], numbered(*range(100)), partition=0)
    kafka.send(topics[0], numbered(*range(100, 200)), partition=1)
    kafka.send(topics[1], numbered(*range(200, 300)))
    with reading(Source(brokers=kafka.address, topics=tuple(topics), group=topics[0])) as got:
        got.until(lambda: len(got.rows) == 300)
        assert sorted(got.readers) == sorted([f"{topics[0]}-0", f"{topics[0]}-1", f"{topics[1]}-0"])
    assert sorted(got.numbers()) == list(range(300))
    for row in got.rows:
        assert row["topic"] == topics[int(row["payload"]) // 200]


@pytest.mark.parametrize(("ours", "groups", "begin"), [(70, 30, 70), (30, 70, 70), (None, 30, 30), (70, None, 70)])
def test_a_split_begins_at_the_later_of_checkpoint_and_group(
    kafka: Kafka, ours: int | None, groups: int | None, begin: int
) -> None:
    topic = kafka.topic()
    kafka.send(topic, numbered(*range(100)))
    source = Source(brokers=kafka.address, topics=topic, group=topic, session_timeout=1_000_000)
    split = f"{topic}-0"
    with reading(source) as first:
        first.until(lambda: len(first.rows) == 100)
        id = first.offsets[split]["topic"]
        if groups is not None:
            first.readers[split].acknowledge({"next": groups, "topic": id})
    place = world() if groups is not None else world(name="another")
    if groups is None:
        source = source.model_copy(update={"group": f"{topic}-new"})
    offsets = None if ours is None else {split: {"next": ours, "topic": id}}
    with reading(source, place, offsets) as second:
        second.until(lambda: len(second.rows) == 100 - begin)
        assert second.numbers() == list(range(begin, 100))
    assert kafka.committed(source.group or "", topic) == {0: begin}, "the group is told where we are"


def test_latest_begins_at_the_end_but_new_partitions_at_their_beginning(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_group, "METADATA_MS", 300)
    topic = kafka.topic()
    kafka.send(topic, numbered(1, 2, 3))
    with reading(Source(brokers=kafka.address, topics=topic, group=topic, start="latest")) as got:
        got.until(lambda: len(got.readers) == 1)
        until(lambda: kafka.committed(topic, topic) == {0: 3}, "the group knows where we begin")
        kafka.admin.create_partitions([NewPartitions(topic, 2)])[topic].result(30)
        until(lambda: len(kafka.admin.list_topics(topic).topics[topic].partitions) == 2, "a second partition")
        kafka.send(topic, numbered(4, 5), partition=1)
        kafka.send(topic, numbered(6), partition=0)
        got.until(lambda: len(got.rows) == 3)
        assert sorted(got.numbers()) == [4, 5, 6]


def test_a_restart_with_latest_loses_nothing(kafka: Kafka) -> None:
    """Where to begin was decided at the first start, also if nothing had come when it ended."""
    topic, place = kafka.topic(), world()
    source = Source(brokers=kafka.address, topics=topic, start="latest", group=topic)
    kafka.send(topic, numbered(1))
    with reading(source, place) as first:
        first.until(lambda: len(first.readers) == 1)
    kafka.send(topic, numbered(2))
    with reading(source, place) as second:
        second.until(lambda: len(second.rows) == 1)
        assert second.numbers() == [2]


# two processes


@contextmanager
def running(kafka: Kafka, topic: str, folder: Path, checkpoint: str = "100ms") -> Iterator[EmbeddedRunner]:
    plan = Pipeline.model_validate(
        {
            "name": "shared",
            "source": {
                "kafka": {"brokers": kafka.address, "topics": topic, "group": topic, "session_timeout": "3s"},
            },
            "decode": {"json": {"columns": {"n": "int"}, "metadata": {"key": "key", "time": "sent"}}},
            "folder": str(folder),
            "checkpoint": checkpoint,
            "streams": {"rows": {"sinks": [{"delta": "rows"}]}},
        }
    ).plan()
    with running_engine(plan) as (runner, _):
        yield runner


def taken(*folders: Path) -> Counter[int]:
    tables = [tocsin.read("rows", folder) for folder in folders if (folder / "rows" / "_delta_log").is_dir()]
    return Counter(n for table in tables for n in table["n"].to_pylist())


def splits(runner: EmbeddedRunner) -> int:
    return int(runner.snapshot().get("sources", {}).get("source", {}).get("splits", 0))


class Sender:
    """Sends numbered records for as long as it is open."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._producer = Producer({"bootstrap.servers": kafka.address, "linger.ms": 2, "log_level": 0})
        self._topic, self._stop, self.sent = topic, threading.Event(), 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            for _ in range(5):
                self._producer.produce(self._topic, b'{"n": %d}' % self.sent, key=b"m%d" % (self.sent % 50))
                self.sent += 1
        assert self._producer.flush(30) == 0

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def test_two_processes_share_a_group_and_hand_partitions_over(kafka: Kafka, tmp_path: Path) -> None:
    """One more comes, one goes for good: every record once, though they flow all the time."""
    topic = kafka.topic(4)
    one, two = tmp_path / "one", tmp_path / "two"
    with running(kafka, topic, two) as second:
        with closing(Sender(kafka, topic)) as sender:
            until(lambda: splits(second) == 4, "all partitions")
            until(lambda: taken(two).total() > 100, "rows")
            with running(kafka, topic, one) as first:
                until(lambda: splits(first) == 2 and splits(second) == 2, "partitions are shared")
                before = taken(one).total()
                until(lambda: taken(one).total() > before + 100, "rows of both")
            until(lambda: splits(second) == 4, "the one that stays has taken all over")
        until(lambda: taken(one, two).total() >= sender.sent, "all rows")
    assert taken(one, two) == Counter(range(sender.sent))


def test_a_member_that_is_back_soon_goes_on_with_its_partitions(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic(2)
    kafka.send(topic, [b'{"n": %d}' % n for n in range(100)], key=b"a")
    for _ in range(2):
        began = time.monotonic()
        with running(kafka, topic, tmp_path) as runner:
            until(lambda runner=runner: splits(runner) == 2, "its partitions")  # type: ignore[misc]
            until(lambda: taken(tmp_path).total() >= 100, "rows")
    assert time.monotonic() - began < 10, "as the same member it need not wait until the one before is given up"
    assert taken(tmp_path) == Counter(range(100))


def test_partitions_that_others_were_given_end_the_attempt(kafka: Kafka) -> None:
    """A process that was not heard goes back to its last checkpoint: what came since is read by others."""
    topic = kafka.topic()
    kafka.send(topic, numbered(1))
    with reading(Source(brokers=kafka.address, topics=topic, group=topic)) as got:
        got.until(lambda: len(got.rows) == 1)
        connection: Any = got.connection
        consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": topic})
        with pytest.raises(SourceError, match=r"given t-.*-0 to others, because we were not heard for 45 s"):
            connection._on_lost(consumer, [TopicPartition(topic, 0)])
        consumer.close()


def test_others_wait_for_a_checkpoint_however_long_it_takes(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a client may go without a poll; meanwhile the group hears how far we are, should we die now."""
    monkeypatch.setattr(kafka_group, "MAX_POLL_MS", 1_500)
    topic = kafka.topic(2)
    for partition in range(2):
        kafka.send(topic, numbered(*range(100 * partition, 100 * partition + 50)), partition=partition)
    source = Source(brokers=kafka.address, topics=topic, group=topic, session_timeout=1_500_000)
    with reading(source, world(tmp_path / "one")) as one:
        one.until(lambda: len(one.rows) == 100)
        connection: Any = one.connection
        with reading(source, world(tmp_path / "two")) as two:
            until(
                lambda: any(part.revoked for part in connection._handover.partitions.values()),
                "the other is to have one",
            )
            begin_s = time.monotonic()
            two.until(lambda: time.monotonic() > begin_s + 2.0)
            assert not two.readers
            one.acknowledge()
            until(lambda: kafka.committed(topic, topic) == {0: 50, 1: 50}, "the group knows how far we are")
            one.turn()
            two.until(lambda: len(two.readers) == 1)
            assert (len(one.readers), two.rows) == (1, [])


def test_two_processes_with_one_name_are_told_apart(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic()
    kafka.send(topic, numbered(1))
    source = Source(brokers=kafka.address, topics=topic, group=topic)
    with reading(source, world(tmp_path)) as one:
        one.until(lambda: len(one.rows) == 1)
        with reading(source, world(tmp_path)) as copy:
            copy.until(lambda: len(copy.readers) == 1)
            with pytest.raises(SourceError, match=r"under our name: .*stop one of them, .*member.json in a copy"):
                one.until(lambda: False)
    kafka.send(topic, numbered(2))
    with reading(source, world(tmp_path), one.offsets) as alone:
        alone.until(lambda: alone.numbers()[-1:] == [2])


# what is gone


def test_records_deleted_before_they_were_read_stop_it(kafka: Kafka) -> None:
    topic = kafka.topic()
    kafka.send(topic, numbered(*range(100)))
    with reading(Source(brokers=kafka.address, topics=topic, group=topic)) as got:
        got.until(lambda: len(got.rows) == 100)
        id = got.offsets[f"{topic}-0"]["topic"]
    kafka.admin.delete_records([TopicPartition(topic, 0, 60)])[TopicPartition(topic, 0)].result(30)
    offsets = {f"{topic}-0": {"next": 10, "topic": id}}
    source = Source(brokers=kafka.address, topics=topic, group=f"{topic}-new")
    with (
        reading(source, offsets=offsets) as stopped,
        pytest.raises(SourceError, match=r"record 10 is no longer there, 60 is the oldest.*set 'expired: skip'"),
    ):
        stopped.until(lambda: False)
    skips = Source(brokers=kafka.address, topics=topic, group=f"{topic}-skip", expired="skip")
    with reading(skips, offsets=offsets) as skipped:
        skipped.until(lambda: len(skipped.rows) == 40)
        assert skipped.numbers() == list(range(60, 100))
        assert skipped.readers[f"{topic}-0"].counters() == {"expired": 50}


@pytest.mark.parametrize("expired", ["stop", "skip"])
def test_records_deleted_while_they_are_read(kafka: Kafka, expired: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = kafka.topic()
    kafka.send(topic, numbered(*range(50)))
    source = Source(brokers=kafka.address, topics=topic, group=topic, expired=expired)
    with reading(source) as got:
        got.until(lambda: len(got.rows) == 50)
        connection: Any = got.connection
        monkeypatch.setattr(kafka_handover, "ROWS_MAX", 0)  # as if nobody took anything
        until(lambda: connection._paused, "the client fetches no more")
        kafka.send(topic, numbered(*range(50, 200)))
        kafka.admin.delete_records([TopicPartition(topic, 0, 150)])[TopicPartition(topic, 0)].result(30)
        monkeypatch.setattr(kafka_handover, "ROWS_MAX", 200_000)
        if expired == "stop":
            with pytest.raises(SourceError, match="record 50 is no longer there, 150 is the oldest"):
                got.until(lambda: False)
        else:
            got.until(lambda: len(got.rows) == 100)
            assert got.numbers()[50:] == list(range(150, 200))
            assert got.readers[f"{topic}-0"].counters() == {"expired": 100}


def test_a_topic_made_again_is_not_taken_for_the_one_before(kafka: Kafka) -> None:
    topic = kafka.topic()
    kafka.send(topic, numbered(*range(5)))
    source = Source(brokers=kafka.address, topics=topic, group=topic)
    place = world()
    with reading(source, place) as first:
        first.until(lambda: len(first.rows) == 5)
        first.acknowledge()
        kafka.admin.delete_topics([topic])[topic].result(30)
        with pytest.raises(Unavailable, match=f"there is no topic '{topic}' at .*; make it, or correct its name"):
            first.until(lambda: False)
    kafka.admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    kafka.send(topic, numbered(*range(10, 20)))
    with (
        reading(source, place, first.offsets) as stopped,
        pytest.raises(SourceError, match=f"topic '{topic}' was deleted and made again since it was read"),
    ):
        stopped.until(lambda: False)
    with reading(source.model_copy(update={"expired": "skip"}), place, first.offsets) as second:
        second.until(lambda: len(second.rows) == 10)
        assert second.numbers() == list(range(10, 20))


# who is refused, and who is away


@pytest.mark.parametrize(
    ("listener", "settings"),
    [
        ("SASL_PLAINTEXT", {"mechanism": "SCRAM-SHA-256"}),
        ("SASL_PLAINTEXT", {"mechanism": "SCRAM-SHA-512"}),
        ("SASL_SSL", {"mechanism": "PLAIN"}),
        ("SASL_SSL", {}),
        ("SSL", {"user": None, "password": None}),
    ],
)
def test_every_listener_lets_us_in(
    kafka: Kafka, certificates: Path, listener: str, settings: Mapping[str, Any]
) -> None:
    topic = kafka.topic()
    kafka.send(topic, numbered(1))
    own = {"cert": str(certificates / "tocsin.pem"), "key": str(certificates / "tocsin.key")}
    tls = {"ca": str(certificates / "ca.pem"), **(own if listener == "SSL" else {})}
    source = Source.model_validate(
        {
            "brokers": kafka.at(listener),
            "topics": topic,
            "group": topic,
            "user": USER,
            "password": PASSWORD,
            "tls": tls if "SSL" in listener else None,
            **settings,
        }
    )
    source.check(world())
    with reading(source) as got:
        got.until(lambda: len(got.rows) == 1)


@pytest.mark.parametrize(
    ("listener", "settings", "says", "corrected"),
    [
        (
            "SASL_PLAINTEXT",
            {"password": "wrong"},
            "refuses user 'alice' .*; correct user, password and mechanism",
            {"password": PASSWORD},
        ),
        (
            "SASL_SSL",
            {"tls": {"ca": "other/ca.pem"}},
            "cannot be spoken to by TLS .*; correct the certificates in tls",
            {"tls": {"ca": "ca.pem"}},
        ),
        (
            "PLAINTEXT",
            {"user": None, "password": None, "session_timeout": "50m"},
            "does not take our session_timeout .* set one from 6 s to 30 min",
            {"session_timeout": "30min"},
        ),
        (
            "SSL",
            {"user": None, "password": None, "tls": {"ca": "ca.pem"}},
            "cannot be spoken to by TLS .*certificate",
            {"tls": {"ca": "ca.pem", "cert": "tocsin.pem", "key": "tocsin.key"}},
        ),
    ],
)
def test_who_is_refused_is_told_and_let_in_when_that_is_corrected(
    kafka: Kafka,
    certificates: Path,
    listener: str,
    settings: Mapping[str, Any],
    says: str,
    corrected: Mapping[str, Any],
) -> None:
    topic = kafka.topic()
    common = {"brokers": kafka.at(listener), "topics": topic, "user": USER, "password": PASSWORD}
    source = Source.model_validate({**common, **settings})
    with reading(source, world(certificates)) as got, pytest.raises(SourceError, match=says) as told:
        got.until(lambda: False)
    assert not isinstance(told.value, Unavailable)
    kafka.send(topic, numbered(1))
    with reading(Source.model_validate({**common, **settings, **corrected}), world(certificates)) as got:
        got.until(lambda: len(got.rows) == 1)


@pytest.mark.parametrize(
    ("kind", "says"),
    [("TOPIC", "does not let user 'alice' use the topic"), ("GROUP", "does not let user 'alice' use the group")],
)
def test_who_is_given_the_right_to_read_reads(kafka: Kafka, kind: str, says: str) -> None:
    topic = kafka.topic()
    kafka.send(topic, numbered(1))
    source = Source(brokers=kafka.at("SASL_PLAINTEXT"), topics=topic, group=topic, user=USER, password=PASSWORD)
    with (
        kafka.denied(kind, topic, "READ"),
        reading(source) as refused,
        pytest.raises(SourceError, match=f"{says} .*; give it the right to"),
    ):
        refused.until(lambda: False)
    with reading(source) as got:
        got.until(lambda: len(got.rows) == 1)


def test_a_cluster_that_is_away_may_come_back() -> None:
    with (
        reading(Source(brokers=f"127.0.0.1:{free_port()}", topics="t")) as got,
        pytest.raises(Unavailable, match=r"127.0.0.1:\d+ does not answer \(.*refused"),
    ):
        got.until(lambda: False)


def test_a_topic_that_is_not_there_is_waited_for(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic() + "-later"
    with running(kafka, topic, tmp_path) as runner:

        def reason() -> str:
            return str(runner.snapshot().get("sources", {}).get("source", {}).get("reason"))

        until(lambda: f"there is no topic '{topic}'" in reason(), "the reason")
        kafka.admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
        kafka.send(topic, [b'{"n": 1}'], key=b"a")
        until(lambda: taken(tmp_path).total() == 1, "the row")


def test_nothing_is_fetched_without_end(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not polled holds little, stays in its group, and goes on."""
    monkeypatch.setattr(kafka_handover, "ROWS_MAX", 5_000)
    topic = kafka.topic()
    kafka.send(topic, numbered(*range(60_000)))
    with reading(Source(brokers=kafka.address, topics=topic, group=topic)) as got:
        got.until(lambda: len(got.readers) == 1)
        connection: Any = got.connection
        until(lambda: connection._paused, "the client fetches no more")
        (partition,) = connection._handover.partitions.values()
        assert 5_000 <= partition.waiting.rows <= 5_000 + kafka_group.CONSUME_MAX
        got.until(lambda: len(got.rows) == 60_000)
        assert got.numbers() == list(range(60_000))


# settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"brokers": "kafka://a"}, "'kafka://a' is not the address of a broker; write host:9092"),
        ({"brokers": []}, "write host:9092"),
        ({"topics": "a/b"}, "'a/b' is not the name of a topic"),
        ({"user": "alice"}, "user and password belong together"),
        ({"user": "a", "password": "b", "mechanism": "PLAIN"}, "set tls, or use SCRAM-SHA-512"),
    ],
)
def test_wrong_settings_are_named(settings: Mapping[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=says):
        Source.model_validate({"brokers": "a:9092", "topics": "t", **settings})


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    source = Source(brokers="a:9092", topics="t")
    assert "install it with: pip install 'tocsin[kafka]'" in refusal(lambda: source.check(world()))
    with pytest.raises(MissingExtra):
        source.open(world())


def test_a_preview_joins_no_group_of_ours(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic(2)
    kafka.send(topic, [b'{"n": %d}' % n for n in range(20)], key=b"a", partition=0)
    kafka.send(topic, [b'{"n": %d}' % n for n in range(20, 40)], key=b"b", partition=1)
    plan = Pipeline.model_validate(
        {
            "name": "look",
            "source": {"kafka": {"brokers": kafka.address, "topics": topic, "group": topic}},
            "decode": {"json": {"columns": {"n": "int"}, "metadata": {"key": "key", "time": "sent"}}},
            "folder": str(tmp_path),
            "streams": {"rows": {"sinks": [{"delta": "rows"}]}},
        }
    ).plan()
    shown: dict[str, pa.Table] = dict(preview(plan, 30, 20.0))
    assert shown["source.kafka"].num_rows == 30
    assert kafka.committed(topic, topic) == {}
