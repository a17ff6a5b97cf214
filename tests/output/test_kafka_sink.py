"""Sink `kafka` against a real broker: transactions, positions, refusals; and Kafka to Kafka through ``kill -9``."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewTopic
from kafka_server import PASSWORD, USER, Kafka
from servers import free_port

import tocsin
from tocsin.contracts import Token, Writer
from tocsin.errors import ForeignCommit, SchemaError, SinkError, Unavailable
from tocsin.output import kafka as module
from tocsin.output.kafka import Kafka as Sink
from tocsin.testing import rows, world
from tocsin.world import World

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "kafka" / "outliers.yaml"
WAIT_S = 60


def batch(*values: float, **more: Any) -> pa.RecordBatch:
    return rows({"value": list(values), **more})


def publish(writer: Writer, epoch: int, some: pa.RecordBatch) -> Token:
    token = writer.stage(epoch, [some])
    writer.publish(epoch, [token])
    return token


def values(kafka: Kafka, topic: str, isolation: str = "read_committed") -> list[Any]:
    return [json.loads(record.value())["value"] for record in kafka.records(topic, isolation)]


def test_a_record_has_key_json_and_headers(kafka: Kafka) -> None:
    topic = kafka.topic()
    sink = Sink(brokers=kafka.address, topic=topic, columns=("time", "value"), headers={"unit": "unit", "by": "who"})
    some = batch(1.5, None, key=["pump", "fan"], unit=["C", "K"], who=pa.array([None, 7], pa.int64()))
    with closing(sink.open(world(name=topic), some.schema)) as writer:
        publish(writer, 1, some)
        assert writer.counters() == {"refused": 0}
    first, second = kafka.records(topic)
    assert (first.key(), second.key()) == (b"pump", b"fan")
    assert json.loads(first.value()) == {"time": "2026-01-01T00:00:00Z", "value": 1.5}
    assert json.loads(second.value())["value"] is None
    assert (first.headers(), second.headers()) == ([("unit", b"C")], [("unit", b"K"), ("by", b"7")])


def test_a_key_goes_where_java_clients_send_it(kafka: Kafka) -> None:
    """murmur2 of "pump", positive, modulo the partitions, as org.apache.kafka.common.utils.Utils computes it."""
    topic = kafka.topic(7)
    keys = [f"machine-{i}" for i in range(20)]
    with closing(Sink(brokers=kafka.address, topic=topic).open(world(name=topic), batch(1.0).schema)) as writer:
        publish(writer, 1, batch(*map(float, range(20)), key=keys))
    assert {r.key().decode(): r.partition() for r in kafka.records(topic)} == {
        key: (_murmur2(key.encode()) & 0x7FFFFFFF) % 7 for key in keys
    }


def _murmur2(data: bytes) -> int:
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    for at in range(0, len(data) - len(data) % 4, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    rest = data[len(data) - len(data) % 4 :]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def test_topics_by_column_share_one_position(kafka: Kafka) -> None:
    topics = [kafka.topic(), kafka.topic()]
    prefix = "t-"
    sink = Sink(brokers=kafka.address, topic=prefix + "{place}")
    places = [topic.removeprefix(prefix) for topic in topics]
    place = world(name=topics[0])
    with closing(sink.open(place, batch(1.0, place=["x"]).schema)) as writer:
        assert writer.published() is None
        publish(writer, 1, batch(1.0, 2.0, place=places))
        publish(writer, 2, batch(3.0, place=places[:1]))
        publish(writer, 3, batch(4.0, 5.0, 6.0, place=["a/b", "", None]))
        assert writer.counters() == {"refused": 3}
        publish(writer, 4, batch(7.0, place=places[1:]))
    with closing(sink.open(place, batch(1.0, place=["x"]).schema)) as writer:
        assert writer.published() == 4
    assert (values(kafka, topics[0]), values(kafka, topics[1])) == ([1.0, 3.0], [2.0, 7.0])


def test_what_a_dead_process_left_open_is_ended(kafka: Kafka) -> None:
    """It died in a transaction, its epoch in it: nothing of it counts, and nobody waits for it to time out."""
    topic, some = kafka.topic(), batch(1.0)
    sink, place = Sink(brokers=kafka.address, topic=topic), world(name=topic)
    with closing(sink.open(place, some.schema)) as writer:
        publish(writer, 1, some)
    dead = Producer({"bootstrap.servers": kafka.address, "transactional.id": f"tocsin.{topic}", "log_level": 0})
    dead.init_transactions(30)
    dead.begin_transaction()
    dead.produce(topic, b'{"value": 2.0}')
    dead.flush(30)
    group = Consumer({"bootstrap.servers": kafka.address, "group.id": f"tocsin.{topic}", "log_level": 0})
    dead.send_offsets_to_transaction([TopicPartition(topic, 0, 2)], group.consumer_group_metadata(), 30)
    group.close()
    with closing(sink.open(place, some.schema)) as writer:
        assert writer.published() == 1
        publish(writer, 2, batch(3.0))
        assert writer.published() == 2
    assert values(kafka, topic) == [1.0, 3.0]
    assert sorted(values(kafka, topic, "read_uncommitted")) == [1.0, 2.0, 3.0]


class Died(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("committed", [False, True])
def test_epoch_and_rows_are_one_transaction(kafka: Kafka, committed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever dies just before its end finds neither, whoever dies just after it finds both."""

    class Dying(Producer):
        def commit_transaction(self, *given: Any) -> None:
            if committed:
                super().commit_transaction(*given)
            raise Died

    topic, some = kafka.topic(), batch(1.0)
    sink, place = Sink(brokers=kafka.address, topic=topic), world(name=topic)
    with closing(sink.open(place, some.schema)) as writer:
        publish(writer, 1, some)
    token = writer.stage(2, [batch(2.0)])
    with monkeypatch.context() as patched, closing(sink.open(place, some.schema)) as dying:
        patched.setattr("confluent_kafka.Producer", Dying)
        with pytest.raises(Died):
            dying.publish(2, [token])
    with closing(sink.open(place, some.schema)) as writer:
        assert writer.published() == (2 if committed else 1)
        writer.publish(2, [token])
        writer.publish(2, [token])
    assert values(kafka, topic) == [1.0, 2.0]


def test_a_second_engine_under_our_name_shuts_the_first_out(kafka: Kafka) -> None:
    topic, some = kafka.topic(), batch(1.0)
    sink = Sink(brokers=kafka.address, topic=topic)
    with (
        closing(sink.open(world(name=topic), some.schema)) as one,
        closing(sink.open(world(name=topic), some.schema)) as two,
    ):
        publish(one, 1, some)
        publish(two, 2, batch(2.0))
        with pytest.raises(ForeignCommit, match=f"another process writes to .* as 'tocsin.{topic}'.*stop one of them"):
            publish(one, 2, batch(3.0))
    with closing(sink.open(world(name=f"{topic}-copy"), some.schema)) as copy:  # of another name
        publish(copy, 1, batch(3.0))
    assert values(kafka, topic) == [1.0, 2.0, 3.0]


def forget(kafka: Kafka, topic: str) -> None:
    """The cluster forgets a group's offsets, as it does a week after the last."""
    (future,) = kafka.admin.delete_consumer_groups([f"tocsin.{topic}"]).values()
    future.result(30)


def test_a_position_that_the_cluster_forgot_is_known_here(kafka: Kafka) -> None:
    topic, some = kafka.topic(), batch(1.0)
    sink, place = Sink(brokers=kafka.address, topic=topic), world(name=topic)
    with closing(sink.open(place, some.schema)) as writer:
        publish(writer, 5, some)
    forget(kafka, topic)
    with closing(sink.open(place, some.schema)) as writer:
        assert writer.published() == 5
        publish(writer, 6, batch(2.0))
    assert values(kafka, topic) == [1.0, 2.0]


def test_a_first_transaction_that_never_ended_is_known(kafka: Kafka) -> None:
    topic, some = kafka.topic(max_message_bytes="1000"), batch(1.0, text=["x"])
    sink, place = Sink(brokers=kafka.address, topic=topic), world(name=topic)
    large = batch(1.0, text=["".join(random.Random(1).choices("abcdefghij", k=5_000))])
    with closing(sink.open(place, some.schema)) as writer, pytest.raises(SinkError, match="larger than"):
        publish(writer, 1, large)
    with closing(sink.open(place, some.schema)) as writer:
        assert writer.published() is None
        publish(writer, 1, some)
    assert values(kafka, topic) == [1.0]


def test_a_forgotten_position_is_not_guessed(kafka: Kafka) -> None:
    """The process died in a transaction, and the cluster forgot how it ended: that is for a person to see."""
    topic, some = kafka.topic(), batch(1.0)
    sink, place = Sink(brokers=kafka.address, topic=topic), world(name=topic)
    with closing(sink.open(place, some.schema)) as writer:
        publish(writer, 5, some)
    forget(kafka, topic)
    note = place.scratch / "position.json"
    note.write_text('{"published": 5, "trying": 6}')
    with (
        closing(sink.open(place, some.schema)) as writer,
        pytest.raises(SinkError, match=r"has forgotten how far .*epoch 6 .*\"published\": 6}.*\"published\": 5}"),
    ):
        writer.published()
    note.write_text('{"published": 6}')
    with closing(sink.open(place, some.schema)) as writer:
        assert writer.published() == 6


def test_a_row_too_large_is_left_out_and_counted(kafka: Kafka) -> None:
    topic = kafka.topic()
    some = batch(1.0, 2.0, 3.0, text=["", "x" * 1_100_000, ""])
    with closing(Sink(brokers=kafka.address, topic=topic).open(world(name=topic), some.schema)) as writer:
        publish(writer, 1, some)
        assert writer.counters() == {"refused": 1}
    assert values(kafka, topic) == [1.0, 3.0]


def test_a_topic_with_a_smaller_limit_says_so(kafka: Kafka) -> None:
    topic = kafka.topic(max_message_bytes="1000")
    some = batch(1.0, text=["".join(random.Random(1).choices("abcdefghij", k=5_000))])
    with (
        closing(Sink(brokers=kafka.address, topic=topic).open(world(name=topic), some.schema)) as writer,
        pytest.raises(SinkError, match=r"larger than the topic's max.message.bytes; raise that, or send fewer") as told,
    ):
        publish(writer, 1, some)
    assert not isinstance(told.value, Unavailable)
    assert values(kafka, topic) == []
    fewer = Sink(brokers=kafka.address, topic=topic, columns=("key", "time", "value"))
    with closing(fewer.open(world(name=f"{topic}-fewer"), some.schema)) as writer:
        publish(writer, 1, some)
    raised = kafka.topic(max_message_bytes="10000")
    with closing(Sink(brokers=kafka.address, topic=raised).open(world(name=raised), some.schema)) as writer:
        publish(writer, 1, some)
    assert values(kafka, topic) == values(kafka, raised) == [1.0]


def test_a_topic_that_is_not_there_is_waited_for(kafka: Kafka) -> None:
    topic, some = kafka.topic() + "-later", batch(1.0)
    sink, place = Sink(brokers=kafka.address, topic=topic), world(name=topic)
    with closing(sink.open(place, some.schema)) as writer:
        token = writer.stage(1, [some])
        with pytest.raises(Unavailable, match=f"there is no topic '{topic}' at .*; make it, or correct its name"):
            writer.publish(1, [token])
    kafka.admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    with closing(sink.open(place, some.schema)) as writer:
        writer.publish(1, [token])
    assert values(kafka, topic) == [1.0]


def test_who_is_given_the_right_to_write_in_transactions_writes(kafka: Kafka) -> None:
    topic, some = kafka.topic(), batch(1.0)
    sink = Sink(brokers=kafka.at("SASL_PLAINTEXT"), topic=topic, user=USER, password=PASSWORD)
    place = world(name=topic)
    with (
        kafka.denied("TRANSACTIONAL_ID", f"tocsin.{topic}", "WRITE"),
        closing(sink.open(place, some.schema)) as writer,
        pytest.raises(SinkError, match=r"does not let user 'alice' write in transactions .*; give it the right to"),
    ):
        publish(writer, 1, some)
    with closing(sink.open(place, some.schema)) as writer:
        publish(writer, 1, some)
    assert values(kafka, topic) == [1.0]


def test_a_cluster_that_is_away_is_waited_for() -> None:
    some = batch(1.0)
    with closing(Sink(brokers=f"127.0.0.1:{free_port()}", topic="t").open(world(), some.schema)) as writer:
        token = writer.stage(1, [some])
        with pytest.raises(Unavailable, match=r"127.0.0.1:\d+ does not answer"):
            writer.publish(1, [token])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"password": "wrong"}, "refuses user 'alice' .*; correct user, password and mechanism"),
        ({"tls": {"ca": "other/ca.pem"}}, "cannot be spoken to by TLS .*; correct the certificates in tls"),
    ],
)
def test_who_is_refused_is_told(kafka: Kafka, certificates: Path, settings: Mapping[str, Any], says: str) -> None:
    common = {"brokers": kafka.at("SASL_SSL"), "topic": "t", "user": USER, "password": PASSWORD}
    sink = Sink.model_validate({**common, "tls": {"ca": "ca.pem"}, **settings})
    some = batch(1.0)
    place = World(**{**vars_of(world(name="refused")), "given": certificates})
    with closing(sink.open(place, some.schema)) as writer, pytest.raises(SinkError, match=says) as told:
        publish(writer, 1, some)
    assert not isinstance(told.value, Unavailable)


def vars_of(place: World) -> dict[str, Any]:
    return {name: getattr(place, name) for name in World.__slots__}


def test_columns_that_are_not_there_are_named() -> None:
    schema = batch(1.0).schema
    for settings in ({"topic": "a.{no}"}, {"key": "no"}, {"columns": ("no",)}, {"headers": {"h": "no"}}):
        with pytest.raises(SchemaError, match="kafka needs column 'no'"):
            Sink.model_validate({"brokers": "a:9092", "topic": "t", **settings}).accepts(schema)


def test_another_password_is_no_other_table() -> None:
    def place(**settings: Any) -> Mapping[str, Any]:
        return Sink.model_validate(
            {"brokers": "a:9092", "topic": "t", "user": "me", "password": "x", **settings}
        ).place()

    assert place() == place(password="y") == place(columns=["time"])
    assert place() != place(topic="u")


# from Kafka to Kafka


def start(**variables: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tocsin.cli", "run", str(EXAMPLE)],
        env=os.environ | variables,
        stderr=subprocess.DEVNULL,
    )


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def telemetry(count: int) -> Sequence[bytes]:
    """Readings of one machine, 10 a second; every hundredth is far out."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    times = [(begin + timedelta(seconds=i / 10)).isoformat() for i in range(count)]
    temperatures = [(90 if i % 100 == 50 else 48 + i % 3) + i / 1e6 for i in range(count)]
    return [b'{"ts": "%s", "temperature": %.6f}' % (at.encode(), t) for at, t in zip(times, temperatures, strict=True)]


@pytest.mark.timeout(240)
def test_from_kafka_to_kafka_exactly_once_through_kill_9(kafka: Kafka, tmp_path: Path) -> None:
    """The example, killed again and again while records flow: readers of committed records see each row once."""
    for topic, partitions in (("plant.telemetry", 2), ("plant.readings", 2), ("plant.outliers", 1)):
        kafka.admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)
    variables = {"TOCSIN_KAFKA": kafka.address, "TOCSIN_FOLDER": str(tmp_path)}
    lines, dice, killed = telemetry(4_001), random.Random(7), 0
    for begin in range(0, 4_000, 1_000):
        process = start(**variables)
        some = lines[begin : begin + 1_000]
        kafka.send("plant.telemetry", some[:500], partition=0, key=b"pump", headers={"unit": b"C"})
        until(lambda begin=begin: len(kafka.records("plant.readings")) > begin)  # type: ignore[misc]
        kafka.send("plant.telemetry", some[500:], partition=1, key=b"pump", headers={"unit": b"C"})
        time.sleep(dice.random())  # anywhere in the life of an epoch
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    process = start(**variables)
    kafka.send("plant.telemetry", lines[4_000:], partition=0, key=b"pump", headers={"unit": b"C"})
    until(lambda: len(kafka.records("plant.readings")) >= len(lines))
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert killed == 4
    arrived = kafka.records("plant.readings")
    sent = Counter(json.loads(line)["temperature"] for line in lines)
    assert Counter(json.loads(record.value())["temperature"] for record in arrived) == sent
    assert {record.key() for record in arrived} == {b"pump"}
    assert all(record.headers() == [("unit", b"C")] for record in arrived)
    outliers = [json.loads(record.value())["temperature"] for record in kafka.records("plant.outliers")]
    assert len(set(outliers)) == len(outliers) >= 30
    assert all(value > 89 for value in outliers)
    assert Counter(outliers) == Counter(tocsin.read("outliers", tmp_path)["temperature"].to_pylist())


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_of_the_broker_is_survived(kafka: Kafka, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 8.0)
    topic, some = kafka.topic(), batch(1.0)
    place, sink = world(name=topic), Sink(brokers=kafka.address, topic=topic)
    writer = sink.open(place, some.schema)
    publish(writer, 1, some)
    token = writer.stage(2, [batch(2.0)])
    kafka.stop(number)
    kafka.start()
    settle(sink, place, {2: token}, writer)
    assert values(kafka, topic) == [1.0, 2.0]


def settle(sink: Sink, place: World, tokens: Mapping[int, Token], writer: Writer) -> list[str]:
    """Publish what is not, as the runner does; return why that was not possible at times."""
    deadline, told = time.monotonic() + 150, list[str]()
    while True:
        try:
            done = writer.published() or 0
            for epoch in sorted(epoch for epoch in tokens if epoch > done):
                writer.publish(epoch, [tokens[epoch]])
            writer.close()
            return told
        except Unavailable as error:  # the runner opens it anew
            assert time.monotonic() < deadline, told
            told.append(str(error))
            writer.close()
            time.sleep(0.5)
            writer = sink.open(place, batch(1.0).schema)


LOG = "00000000000000000000.log"


def forget_ends(kafka: Kafka, topic: str) -> None:
    """Take the end of the topic's last transaction from the logs of a dead broker.

    So it is where a broker was killed after it has agreed to commit and before it has written the markers, and has
    skipped them when it came back: it takes a partition without a leader for one that was deleted.
    """
    rows = kafka.folder / "data" / f"{topic}-0" / LOG
    producer = last_batch(rows)[0]
    (offsets,) = (
        path / LOG
        for path in (kafka.folder / "data").glob("__consumer_offsets-*")
        if last_batch(path / LOG)[0] == producer
    )
    for path in (rows, offsets):
        os.truncate(path, last_batch(path)[1])


def last_batch(path: Path) -> tuple[int, int]:
    """Return the producer of a log's last batch if that ends a transaction, else -1; and where it begins.

    Apache Kafka, "Message format": length in bytes 8 to 11, attributes in 21 and 22 (0x20: control), producer from 43.
    """
    log, at, last, producer = path.read_bytes(), 0, 0, -1
    while at + 61 <= len(log) and (length := int.from_bytes(log[at + 8 : at + 12])) > 0:
        last, producer = at, int.from_bytes(log[at + 43 : at + 51], signed=True) if log[at + 22] & 0x20 else -1
        at += 12 + length
    return producer, last


@pytest.mark.timeout(240)
def test_a_commit_whose_end_the_broker_forgot_is_done_again(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker is killed once it has agreed to the first transaction: rows and epoch hang, and nothing is lost."""

    class Killing(Producer):
        def commit_transaction(self, *given: Any) -> None:
            super().commit_transaction(*given)
            if not killed:
                until(lambda: values(kafka, topic) == [1.0] and kafka.committed(f"tocsin.{topic}", topic) == {0: 1})
                kafka.stop(signal.SIGKILL)
                forget_ends(kafka, topic)
                kafka.start()
                killed.append(topic)

    monkeypatch.setattr(module, "PATIENCE_S", 90.0)
    monkeypatch.setattr(module, "COUNTED_S", 2.0)
    monkeypatch.setattr("confluent_kafka.Producer", Killing)
    killed, topic = list[str](), kafka.topic()
    place, sink = world(name=topic), Sink(brokers=kafka.address, topic=topic)
    writer = sink.open(place, batch(1.0).schema)
    told = settle(sink, place, {epoch: writer.stage(epoch, [batch(float(epoch))]) for epoch in (1, 2)}, writer)
    assert killed
    assert told
    assert values(kafka, topic) == [1.0, 2.0]
    assert [record.value() for record in kafka.records(topic, "read_uncommitted")].count(b"") == 1
