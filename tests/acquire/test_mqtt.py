"""The MQTT source: nothing lost and nothing doubled, whatever is lost on the way."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tocsin.acquire._mqtt import MqttReader
from tocsin.acquire._redelivery import RedeliveryWindow
from tocsin.acquire.mqtt import Mqtt
from tocsin.batch import RAW, Batch
from tocsin.decode._base import raw
from tocsin.decode.json import Json
from tocsin.errors import ConfigError, SourceError
from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.mqtt.client import Client
from tocsin.testing import read_from, world
from tocsin.world import SystemClock, SystemDisk, World

Brokers = Callable[..., Any]
VERSIONS = ["3.1.1", "5"]


@pytest.fixture(params=["mosquitto", "own"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "mosquitto":
        yield request.getfixturevalue("mosquitto")().url
    else:
        with Broker(BrokerConfiguration()) as broker:
            yield broker.url


class Log:
    """What a runner does: keeps rows and the reader's offset durable together, and commits afterwards."""

    def __init__(self, source: Mqtt) -> None:
        self.source = source
        self.rows: list[tuple[str, bytes]] = []
        self.positions: list[int] = []
        self.offset: Any = None
        self.world = world()  # kept over a crash, as a disk is
        self.reader = read_from(source, in_world=self.world)

    def poll(self, *, commit: bool = True, rows_max: int = 1000, timeout_s: float = 0.05) -> int:
        polled = self.reader.poll(rows_max, timeout_s)
        if polled is None:
            return 0
        batch, offset = polled
        assert batch.rows.schema.equals(RAW)
        self.rows += zip(batch.rows["topic"].to_pylist(), batch.rows["payload"].to_pylist(), strict=True)
        self.positions += batch.rows["position"].to_pylist()
        self.offset = json.loads(json.dumps(offset))
        if commit:
            self.reader.acknowledge(self.offset)
        return len(batch)

    def until(self, count: int, within_s: float = 15.0, **how: Any) -> None:
        deadline = time.monotonic() + within_s
        while len(self.rows) < count:
            assert time.monotonic() < deadline, f"{len(self.rows)} of {count}: {self.reader.counters()}"
            self.poll(**how)

    def connected(self, within_s: float = 15.0) -> None:
        """Poll until there is a connection."""
        deadline = time.monotonic() + within_s
        while not self.reader.client.connected:
            assert time.monotonic() < deadline, self.reader.client.last_error
            self.poll()

    def quiet(self, for_s: float = 0.3) -> None:
        deadline = time.monotonic() + for_s
        while time.monotonic() < deadline:
            self.poll()

    def lose_connection(self) -> None:
        """Without a word, as a cable does; what we have sent may not have arrived."""
        self.reader.client.hang_up()

    def crash(self) -> None:
        """Start again from what is durable."""
        self.lose_connection()
        self.reader = read_from(self.source, self.offset, self.world)


def sent(count: int, first: int = 0) -> list[tuple[str, bytes]]:
    return [(f"plant/m{i % 5}/telemetry", b"%d" % i) for i in range(first, first + count)]


def publish(url: str, messages: list[tuple[str, bytes]], **how: Any) -> None:
    client = Client(url)
    client.publish(messages, **how)
    client.close()


def opened(url: str, **settings: Any) -> Log:
    """A source whose session exists."""
    log = Log(Mqtt(url=url, topic="plant/#", **settings))
    log.connected()
    return log


@pytest.mark.parametrize("version", VERSIONS)
def test_rows_come_in_order_with_running_positions(url: str, version: str) -> None:
    log = opened(url, version=version)
    publish(url, sent(3000))
    log.until(3000)
    log.quiet()
    assert log.rows == sent(3000)
    assert log.positions == list(range(3000))
    log.reader.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_crash_before_the_commit_loses_and_doubles_nothing(url: str, version: str) -> None:
    log = opened(url, version=version)
    publish(url, sent(500))
    log.until(500, commit=False)  # durable, but not acknowledged: all of it comes again
    log.crash()
    publish(url, sent(100, 500))
    log.until(600)
    log.quiet()
    assert log.rows == sent(600)
    assert log.positions == list(range(600))
    assert log.reader.counters()["duplicates"] == 500
    assert log.reader.counters()["session_lost"] == 0
    log.reader.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_not_durable_comes_again(url: str, version: str) -> None:
    log = opened(url, version=version)
    publish(url, sent(300))
    log.until(200, rows_max=100)
    durable, rows = log.offset, list(log.rows)
    while len(log.rows) < 300:
        log.poll(commit=False)
    log.rows, log.offset = rows, durable  # the power went before the log was written
    log.crash()
    log.until(300)
    log.quiet()
    assert log.rows == sent(300)
    log.reader.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_lost_acknowledgements(url: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(url, version=version)
    publish(url, sent(400))
    log.until(200, rows_max=50)
    # The socket takes the PUBACKs, and they never arrive.
    with monkeypatch.context() as patch:
        patch.setattr(log.reader.client, "_send", lambda data: None)
        log.until(400)
    log.lose_connection()
    log.quiet(1.0)
    assert log.reader.client.connects == 2
    assert log.rows == sent(400)
    assert log.reader.counters()["duplicates"] >= 200
    log.reader.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("seed", [3, 7])
def test_many_crashes_and_lost_connections(url: str, version: str, seed: int) -> None:
    chance = random.Random(seed)
    log = opened(url, version=version, receive_max=200)
    total = 0
    sender = Client(url)
    for _ in range(40):
        more = chance.randrange(150)
        sender.publish(sent(more, total))
        total += more
        for _ in range(chance.randrange(4)):
            log.poll(commit=chance.random() < 0.6, rows_max=chance.choice([1, 10, 100]))
        chance.choice([log.crash, log.lose_connection, lambda: None])()
    log.until(total)
    log.quiet()
    assert log.rows == sent(total)
    assert log.positions == list(range(total))
    log.reader.close()
    sender.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_equal_messages_are_not_doubles(url: str, version: str) -> None:
    log = opened(url, version=version)
    same = [("plant/a", b"on")] * 300
    publish(url, same)
    log.until(300, rows_max=50)
    log.crash()
    publish(url, same)
    log.until(600)
    log.quiet()
    assert log.rows == same * 2
    log.reader.close()


def test_a_restart_of_the_broker(mosquitto: Brokers) -> None:
    broker = mosquitto()
    log = opened(broker.url)
    publish(broker.url, sent(200))
    log.until(200, commit=False)
    broker.stop()
    assert log.poll() == 0
    log.reader.acknowledge(log.offset)  # nobody is there to hear it
    broker.start()
    publish(broker.url, sent(50, 200))
    log.until(250)
    log.quiet()
    assert log.rows == sent(250)
    assert log.reader.counters() == {"session_lost": 0, "duplicates": 200, "retained_dropped": 0, "connects": 2}
    log.reader.close()


def test_a_lost_session_is_counted_and_old_ids_are_not_acknowledged(caplog: pytest.LogCaptureFixture) -> None:
    with Broker(BrokerConfiguration()) as broker:
        port = broker.port
        log = opened(broker.url)
        publish(broker.url, sent(20))
        log.until(20, commit=False)
    with Broker(BrokerConfiguration(port=port)) as broker:  # it kept everything in memory only
        publish(broker.url, [("plant/x", b"while we were away")])
        log.quiet(1.0)
        assert log.reader.session_lost == 1
        before = broker.sessions[log.reader.client.client_id]
        publish(broker.url, sent(20, 20))
        log.until(40, commit=False)
        assert len(before.in_flight) == 20
        first = dict(log.offset)
        first["position"] = 20
        log.reader.acknowledge(first)  # ids of the session that is gone: they are others' now
        log.reader.poll(10, 0.2)
        assert len(before.in_flight) == 20
        log.reader.acknowledge(log.offset)
        log.reader.poll(10, 0.2)
        assert not before.in_flight
        assert log.rows == sent(40)
        log.reader.close()
    assert caplog.text.count("lost our session") == 1


def test_nothing_more_is_read_than_may_wait_for_a_commit(url: str) -> None:
    log = opened(url, receive_max=100)
    publish(url, sent(1000))
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        log.poll(commit=False, rows_max=1000)
    assert len(log.rows) == 100
    log.reader.acknowledge(log.offset)
    log.until(1000)
    assert log.rows == sent(1000)
    log.reader.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_retained_messages_are_old_and_clears_are_no_data(url: str, version: str) -> None:
    publish(url, [("plant/old", b"old"), ("plant/gone", b"x")], retain=True)
    log = opened(url, version=version)
    publish(url, [("plant/gone", b"")], retain=True)
    publish(url, [("plant/new", b"new")], retain=True)
    log.until(1)
    log.quiet()
    # In 3.1.1 a clearing message looks like an empty one to those who were there before: the decoder rejects it.
    assert [row for row in log.rows if row[1]] == [("plant/new", b"new")]
    assert len(log.rows) == (1 if version == "5" else 2)
    log.reader.close()
    wants = opened(url, version=version, retained=True, client_id="wants")
    wants.until(2)
    assert sorted(wants.rows) == [("plant/new", b"new"), ("plant/old", b"old")]
    wants.reader.close()


def test_qos_0(url: str) -> None:
    log = opened(url, qos=0)
    publish(url, sent(100), qos=0)
    log.until(100)
    assert log.rows == sent(100)
    assert log.offset["seen"] == ""
    log.reader.close()


def test_an_oversized_message_stops_nothing(url: str) -> None:
    log = opened(url, packet_bytes_max="100 kB")
    publish(url, [("plant/a", b"x" * 500_000), ("plant/a", b"good")])
    log.until(2)
    assert 90_000 < len(log.rows[0][1]) < 100_000
    assert log.rows[1] == ("plant/a", b"good")
    log.quiet()
    assert len(log.rows) == 2
    log.reader.close()


def test_several_topics(url: str) -> None:
    log = Log(Mqtt(url=url, topic=["plant/+/a", "line/#"]))
    log.poll()
    publish(url, [("plant/x/a", b"1"), ("plant/x/b", b"no"), ("line", b"2"), ("line/3/4", b"3")])
    log.until(3)
    log.quiet()
    assert log.rows == [("plant/x/a", b"1"), ("line", b"2"), ("line/3/4", b"3")]
    log.reader.close()


def test_a_broker_that_is_not_there_yet_is_waited_for(mosquitto: Brokers, caplog: pytest.LogCaptureFixture) -> None:
    broker = mosquitto()
    broker.stop(signal.SIGKILL)
    log = Log(Mqtt(url=broker.url, topic="plant/#"))
    while not log.reader.client.last_error:
        assert log.poll() == 0
    assert log.poll() == 0
    assert caplog.text.count("Connection refused") == 1
    assert f"broker {broker.url}: " in caplog.text
    broker.start()
    log.connected()
    log.reader.close()


def test_a_wrong_password_is_said_at_once_and_never_shown() -> None:
    with Broker(BrokerConfiguration(users={"anna": "right"})) as broker:
        source = Mqtt(url=broker.url, topic="a", user="anna", password="canary")
        with pytest.raises(SourceError, match="user or password are wrong") as caught:
            read_from(source).poll(10, 10.0)
        assert "canary" not in f"{source!r}{source.model_dump()}{source.model_dump_json()}{caught.value!r}"


def test_mutual_tls(certificates: Path) -> None:
    files = {"ca": str(certificates / "ca.pem")}
    own = {**files, "cert": str(certificates / "tocsin.pem"), "key": str(certificates / "tocsin.key")}
    pair = {"cert": certificates / "server.pem", "key": certificates / "server.key"}
    with Broker(BrokerConfiguration(ca=certificates / "ca.pem", **pair)) as broker:
        log = Log(Mqtt(url=broker.url, topic="plant/#", tls=own))
        log.connected()
        sender = Client(broker.url, tls=log.source.tls.context() if log.source.tls else None)
        sender.publish(sent(2000))
        log.until(2000)
        assert log.rows == sent(2000)
        sender.close()
        log.reader.close()
        wrong = Mqtt(url=broker.url, topic="plant/#", tls={**own, "ca": str(certificates / "other" / "ca.pem")})
        with pytest.raises(SourceError, match="certificate verify failed"):
            read_from(wrong).poll(10, 10.0)
        missing = Mqtt(url=broker.url, topic="plant/#", tls={**own, "cert": "nowhere.pem"})
        with pytest.raises(ConfigError, match=r"nowhere\.pem"):
            read_from(missing)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_look_neither_takes_over_the_session_nor_leaves_one(version: str) -> None:
    with Broker(BrokerConfiguration()) as broker:
        log = opened(broker.url, version=version)
        look = read_from(log.source.sampled())
        while look.counters()["connects"] == 0:
            assert look.poll(10, 0.1) is None
        publish(broker.url, sent(10))
        polled = look.poll(100, 5.0)
        assert polled is not None
        look.close()
        log.until(10)
        assert log.rows == sent(10)
        assert log.reader.client.connects == 1
        log.reader.close()
        deadline = time.monotonic() + 5
        while len(broker.sessions) > 1:
            assert time.monotonic() < deadline, list(broker.sessions)
            time.sleep(0.02)
        assert list(broker.sessions) == [log.reader.client.client_id]


@pytest.mark.parametrize(
    "wrong",
    [{"url": "tcp://x"}, {"topic": "a/#/b"}, {"topic": ["a", ""]}, {"qos": 2}, {"version": "3.1"}, {"receive_max": 0}],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, ConfigError)):
        Mqtt(**{"url": "mqtt://x", "topic": "a", **wrong})


def test_the_session_has_the_same_name_each_time_and_another_for_other_settings() -> None:
    def name(**settings: Any) -> str:
        return Mqtt(**{"url": "mqtt://x", "topic": "a", **settings}).session()

    assert name() == name()
    assert len({name(), name(topic="b"), name(url="mqtt://y"), name(user="u")}) == 4
    assert len(name()) <= 23
    assert name(client_id="mine") == "mine"


# --------------------------------------------------------------------------------- the window, against a model of it


@given(st.lists(st.tuples(st.sampled_from(["new", "commit", "cut", "crash", "confirm"]), st.integers(1, 9))), st.data())
def test_the_window_never_drops_what_is_new_nor_keeps_what_is_old(steps: list[tuple[str, int]], data: Any) -> None:
    """Against a model of a broker: every message is taken exactly once, acknowledged only when durable."""
    window, received, durable, given_out, free = RedeliveryWindow(100), 0, 0, 0, list(range(1, 6))
    unacked: dict[int, int] = {}  # packet id to message: what the broker holds
    wire: list[tuple[int, int, bool]] = []
    acks: list[int] = []
    sent_acks = processed = 0
    saved, saved_received = window.dump(), 0
    log: list[int] = []

    def receive() -> None:
        nonlocal received
        while wire:
            packet_id, message, dup = wire.pop(0)
            ids, hashes = np.array([packet_id]), np.array([1000 + message % 2], np.uint64)  # hashes say little
            if dup and window.known(ids, hashes)[0]:
                window.again(ids, np.array([1]))
            else:
                window.add(ids, np.array([1]), hashes, np.array([received]))
                log.append(message)
                received += 1

    def acknowledge() -> None:
        nonlocal sent_acks
        ids, _ = window.durable(durable)
        if len(ids):
            sent_acks += len(ids)
            window.sent(ids, sent_acks)
            acks.extend(ids.tolist())

    def broker_reads(count: int) -> None:
        nonlocal processed
        for packet_id in acks[:count]:
            assert unacked.pop(packet_id) in log[:durable], "acknowledged before it was durable"
            free.append(packet_id)
            processed += 1
        del acks[:count]

    for what, count in steps:
        if what == "new":
            for _ in range(min(count, len(free))):
                packet_id = free.pop(data.draw(st.integers(0, len(free) - 1)))
                unacked[packet_id] = given_out
                wire.append((packet_id, given_out, False))
                given_out += 1
            receive()
            saved, saved_received = window.dump(), received
        elif what == "commit":
            durable = received
            acknowledge()
        elif what == "confirm":
            broker_reads(len(acks))
            window.confirm(processed)
        else:
            broker_reads(count)  # some acknowledgements arrive, the others are lost
            acks.clear()
            sent_acks = processed = 0
            if what == "crash":  # what was polled is durable with the offset
                window = RedeliveryWindow(100)
                window.restore(saved)
                received = durable = saved_received
            else:
                window.disconnect()
            wire.extend(
                (packet_id, message, True) for packet_id, message in sorted(unacked.items(), key=lambda x: x[1])
            )
            receive()
            acknowledge()
            saved, saved_received = window.dump(), received
    assert log == list(range(given_out))


def test_a_shared_subscription_gives_each_message_to_one(mosquitto: Brokers) -> None:
    url = mosquitto().url
    logs = [Log(Mqtt(url=url, topic="$share/plant/plant/#", client_id=f"tocsin-{i}")) for i in range(2)]
    for log in logs:
        log.connected()
    publish(url, sent(2000))
    deadline = time.monotonic() + 15
    while sum(len(log.rows) for log in logs) < 2000 and time.monotonic() < deadline:
        for log in logs:
            log.poll()
    for log in logs:
        log.quiet()
        log.reader.close()
    assert sorted([*logs[0].rows, *logs[1].rows]) == sorted(sent(2000))
    assert all(len(log.rows) > 200 for log in logs)


@pytest.mark.parametrize("client_id", ["", "tocsin-of-the-plant"])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_change_of_topics_keeps_the_session_and_ends_the_old_subscription(
    mosquitto: Brokers, tmp_path: Path, version: str, client_id: str
) -> None:
    url = mosquitto().url
    place = World(SystemClock(), SystemDisk(), tmp_path, tmp_path / ".scratch", "plant/source")

    def opened(*topics: str) -> MqttReader:
        source = Mqtt(url=url, topic=topics, version=version, client_id=client_id)
        return MqttReader(source, place, None, source.topic)

    def received(reader: MqttReader, until: str) -> list[str]:
        seen: list[str] = []
        deadline = time.monotonic() + 15
        while until not in seen:
            assert time.monotonic() < deadline, seen
            polled = reader.poll(100, 0.1)
            if polled is not None:
                seen += [payload.decode() for payload in polled[0].rows["payload"].to_pylist()]
                reader.acknowledge(polled[1])
        return seen

    first = opened("old", "both")
    while not first.client.connected:
        first.poll(1, 0.1)
    first.close()
    publish(url, [("both", b"waits")])
    second = opened("both", "new")
    assert received(second, "waits") == ["waits"], "what waited under a topic that stays is not left behind"
    publish(url, [("old", b"unwanted"), ("new", b"wanted"), ("both", b"last")])
    assert received(second, "last") == ["wanted", "last"]
    second.close()
    # Asked for again, the topic is there again.
    third = opened("both", "old")
    while not third.client.connected:
        third.poll(1, 0.1)
    publish(url, [("old", b"wanted again"), ("new", b"unwanted"), ("both", b"end")])
    assert received(third, "end") == ["wanted again", "end"]
    third.close()


@pytest.mark.parametrize("clean", [True, False])
def test_a_last_will_says_that_a_machine_is_down(mosquitto: Brokers, clean: bool) -> None:
    url = mosquitto().url
    log = Log(Mqtt(url=url, topic="plant/+/status"))
    log.connected()
    device = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="press-1", protocol=paho.MQTTv5)
    device.will_set("plant/press-1/status", '{"state": "down"}', qos=1)
    device.connect("127.0.0.1", int(url.rpartition(":")[2]), keepalive=60)
    device.loop_start()
    device.publish("plant/press-1/status", '{"state": "running"}', qos=1).wait_for_publish(10)
    log.until(1)
    if clean:
        device.disconnect()
        log.quiet(0.5)
    else:
        device.loop_stop()
        device.socket().close()
        log.until(2)
    decoder = Json(topic="plant/{machine}/status", columns={"state": "category"})
    _, batches = decoder.step(
        decoder.initial(), Batch(raw([payload for _, payload in log.rows], "plant/press-1/status"))
    )
    told = [(row["machine"], row["state"]) for row in batches[0].rows.to_pylist()]
    assert told == [("press-1", "running"), ("press-1", "down")][: 1 if clean else 2]
    log.reader.close()
