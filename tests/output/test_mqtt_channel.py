"""The MQTT channel: rows become JSON on topics, at least once, and ids cannot break out of their topic."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from tocsin.errors import ConfigError, DeliveryError, SchemaError
from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.mqtt.client import Client
from tocsin.mqtt.sessions import Acl
from tocsin.output.mqtt import Mqtt
from tocsin.testing import rows, world

Brokers = Callable[..., Any]


def drain(client: Client, count: int) -> list[tuple[str, Any]]:
    got: list[tuple[str, Any]] = []
    deadline = time.monotonic() + 10
    while len(got) < count and time.monotonic() < deadline:
        found = client.poll(1000, 0.05)
        if found is not None:
            got += zip(found.topics.to_pylist(), map(json.loads, found.payloads.to_pylist()), strict=True)
            client.acknowledge(found.packet_ids[found.qos > 0], found.qos[found.qos > 0])
    return got


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize("kind", ["mosquitto", "own"])
def test_rows_arrive_as_json(kind: str, version: str, request: pytest.FixtureRequest) -> None:
    own = Broker(BrokerConfiguration()).start() if kind == "own" else None
    url = own.url if own is not None else request.getfixturevalue("mosquitto")().url
    receiver = Client(url, filters=["plant/#"])
    receiver.connect()
    channel = Mqtt(url=url, topic="plant/{key}/state", version=version)
    sent = rows({"key": [f"m{i % 3}" for i in range(2500)], "value": [i / 4 for i in range(2500)]})
    messages = channel.messages(sent)
    assert len(messages) == 3
    delivery = channel.open(world())
    delivery.deliver(messages)
    got = drain(receiver, 2500)
    assert [topic for topic, _ in got] == [f"plant/m{i % 3}/state" for i in range(2500)]
    assert got[1][1] == {"key": "m1", "time": "2026-01-01T00:00:01Z", "value": 0.25}
    delivery.close()
    receiver.close()
    if own is not None:
        own.close()


def test_ids_name_the_rows() -> None:
    channel = Mqtt(url="mqtt://x", topic="t", columns=["value"])
    one = rows({"value": [1.0, 2.0]})
    ids = [message.id for message in channel.messages(one)]
    assert ids == [message.id for message in channel.messages(one.slice(0, 2))]
    later = rows({"value": [1.0, 2.0], "time": [10.0, 11.0]})
    assert ids != [message.id for message in channel.messages(later)], "the same values at another time are news"
    other = Mqtt(url="mqtt://x", topic="u", columns=["value"])
    assert ids != [message.id for message in other.messages(one)]
    unused = one.set_column(0, "key", pa.array(["machine"] * 2).dictionary_encode())
    assert ids == [message.id for message in channel.messages(unused)]


@pytest.mark.parametrize("evil", ["a/b", "+", "#", "a\0b", "", None, "x" * 70_000])
def test_an_id_that_would_leave_its_topic_is_not_sent(evil: str | None, caplog: pytest.LogCaptureFixture) -> None:
    with Broker(BrokerConfiguration()) as broker:
        receiver = Client(broker.url, filters=["#"])
        receiver.connect()
        channel = Mqtt(url=broker.url, topic="plant/{id}/state", columns=["value"])
        delivery = channel.open(world())
        delivery.deliver(channel.messages(rows({"id": ["good", evil, "fine"], "value": [1, 2, 3]})))
        assert drain(receiver, 2) == [("plant/good/state", {"value": 1}), ("plant/fine/state", {"value": 3})]
        assert receiver.poll(10, 0.1) is None
        assert delivery.refused == 1
        assert "was not sent" in caplog.text
        delivery.close()
        receiver.close()


def test_what_the_broker_forbids_is_counted_and_does_not_block_the_rest() -> None:
    with Broker(BrokerConfiguration(acl=Acl(["topic write plant/a/#"]))) as broker:
        channel = Mqtt(url=broker.url, topic="plant/{key}/state")
        delivery = channel.open(world())
        delivery.deliver(channel.messages(rows({"key": ["a", "b", "a"], "value": [1, 2, 3]})))
        assert delivery.refused == 1
        delivery.close()


def test_a_broker_that_is_gone_leaves_the_messages_in_the_outbox(mosquitto: Brokers) -> None:
    broker = mosquitto()
    channel = Mqtt(url=broker.url, topic="t", retain=True)
    delivery = channel.open(world())
    messages = channel.messages(rows({"value": [1]}))
    delivery.deliver(messages)
    broker.stop()
    with pytest.raises(DeliveryError, match="failed"):
        delivery.deliver(messages)
    with pytest.raises(DeliveryError, match="cannot connect"):
        delivery.deliver(messages)
    broker.start()
    delivery.deliver(messages)
    receiver = Client(broker.url, filters=["t"])
    receiver.connect()
    assert len(drain(receiver, 1)) == 1  # retained
    delivery.close()
    receiver.close()


def test_a_full_queue_is_a_reason_to_try_again() -> None:
    with Broker(BrokerConfiguration(queue_max=1)) as broker:
        away = Client(broker.url, "away", filters=["t"], clean=False, session_expiry_s=60)
        away.connect()
        away.close()
        channel = Mqtt(url=broker.url, topic="t")
        delivery = channel.open(world())
        with pytest.raises(DeliveryError, match="did not take"):
            delivery.deliver(channel.messages(rows({"value": [1, 2]})))
        delivery.close()


def test_tls_files_start_at_the_pipelines_folder(certificates: Path) -> None:
    pair = {"cert": certificates / "server.pem", "key": certificates / "server.key"}
    with Broker(BrokerConfiguration(ca=certificates / "ca.pem", **pair)) as broker:
        own = {"ca": "ca.pem", "cert": "tocsin.pem", "key": "tocsin.key"}
        channel = Mqtt(url=broker.url, topic="t", tls=own)
        delivery = channel.open(world(certificates))
        delivery.deliver(channel.messages(rows({"value": [1]})))
        delivery.close()
        with pytest.raises(ConfigError):
            channel.open(world(certificates / "nowhere"))


def test_odd_values_are_json() -> None:
    odd = pa.record_batch(
        {"nan": [float("nan")], "bytes": [b"\xff"], "list": [[1, None]], "text": ['"\n'], "none": pa.nulls(1)}
    )
    body = Mqtt(url="mqtt://x", topic="t").messages(odd)[0].body
    assert json.loads(body)[0][2] == {"nan": None, "bytes": "/w==", "list": [1, None], "text": '"\n', "none": None}


@pytest.mark.parametrize("topic", ["plant/+/x", "plant/#", "", "a{", "a{}b", "a{x!r}", "a{x:3}"])
def test_wrong_topics_are_refused(topic: str) -> None:
    with pytest.raises((ValidationError, ConfigError)):
        Mqtt(url="mqtt://x", topic=topic)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(SchemaError, match="'machine'"):
        Mqtt(url="mqtt://x", topic="plant/{machine}").messages(rows({"value": [1]}))


def test_the_password_is_never_shown() -> None:
    channel = Mqtt(url="mqtt://x", topic="t", user="anna", password="canary")
    assert "canary" not in f"{channel!r}{channel.model_dump()}{channel.model_dump_json()}{channel.open(world())!r}"
