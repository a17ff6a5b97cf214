"""The embedded broker, with paho as the peer in both directions."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tocsin.errors import ConfigError, CorruptState
from tocsin.mqtt import packets
from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.mqtt.client import Client, NotConnected
from tocsin.mqtt.sessions import Acl, read_users
from tocsin.mqtt.topics import matches, valid_filter

VERSIONS = [paho.MQTTv311, paho.MQTTv5]


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(BrokerConfiguration()) as running:
        yield running


class Peer:
    """A paho client that remembers what it got."""

    def __init__(self, broker: Broker, version: int, client_id: str = "", **connect: Any) -> None:
        clean = {} if version == paho.MQTTv5 else {"clean_session": not client_id}
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, protocol=version, **clean)
        self.got: list[tuple[str, bytes, int, bool]] = []
        self.properties: list[Any] = []
        self.connack: Any = None
        self.granted: list[int] | None = None
        self.paho.on_message = self._message
        self.paho.on_connect = lambda _c, _u, flags, reason, _p: setattr(self, "connack", (flags, reason))
        self.paho.on_subscribe = lambda _c, _u, _m, reasons, _p: setattr(self, "granted", [r.value for r in reasons])
        if will := connect.pop("will", None):
            self.paho.will_set(*will)
        if version == paho.MQTTv5 and client_id:
            connect["properties"] = Properties(PacketTypes.CONNECT)
            connect["properties"].SessionExpiryInterval = 60
            connect["clean_start"] = False
        self.paho.connect("127.0.0.1", broker.port, **connect)
        self.until(lambda: self.connack is not None)

    def _message(self, _client: Any, _userdata: Any, message: Any) -> None:
        self.got.append((message.topic, message.payload, message.qos, bool(message.retain)))
        self.properties.append(message.properties)

    def until(self, done: Any, within_s: float = 10.0) -> None:
        deadline = time.monotonic() + within_s
        while not done():
            assert time.monotonic() < deadline, f"not in time; got {self.got[:5]}"
            self.paho.loop(0.02)

    def subscribe(self, pattern: str, qos: int = 1) -> None:
        self.granted = None
        self.paho.subscribe(pattern, qos)
        self.until(lambda: self.granted is not None)

    def publish(self, topic: str, payload: bytes, qos: int = 1, **more: Any) -> None:
        info = self.paho.publish(topic, payload, qos, **more)
        self.until(info.is_published)

    def vanish(self) -> None:
        self.paho._sock_close()

    def close(self) -> None:
        self.paho.disconnect()
        self.vanish()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_paho_to_paho(broker: Broker, version: int, qos: int) -> None:
    receiver, sender = Peer(broker, version), Peer(broker, version)
    receiver.subscribe("a/+", 2)
    assert receiver.granted == [1]  # at most QoS 1
    for i in range(50):
        sender.publish(f"a/{i % 3}", b"%d" % i, qos)
    receiver.until(lambda: len(receiver.got) >= 50)
    assert receiver.got == [(f"a/{i % 3}", b"%d" % i, min(qos, 1), False) for i in range(50)]
    sender.close()
    receiver.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_queue_outlives_the_connection(broker: Broker, version: int) -> None:
    receiver, sender = Peer(broker, version, "stays"), Peer(broker, version)
    assert not receiver.connack[0].session_present
    receiver.subscribe("a")
    receiver.vanish()
    for i in range(100):
        sender.publish("a", b"%d" % i)
        sender.publish("a", b"at QoS 0: for those who are there", 0)
    again = Peer(broker, version, "stays")
    assert again.connack[0].session_present
    again.until(lambda: len(again.got) >= 100)
    assert [payload for _, payload, _, _ in again.got] == [b"%d" % i for i in range(100)]
    again.close()
    sender.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_retained_messages(broker: Broker, version: int) -> None:
    sender = Peer(broker, version)
    sender.publish("state/a", b"on", retain=True)
    sender.publish("state/b", b"on", retain=True)
    sender.publish("state/b", b"", retain=True)
    receiver = Peer(broker, version)
    receiver.subscribe("state/#")
    receiver.until(lambda: receiver.got)
    sender.publish("state/a", b"off", retain=True)
    receiver.until(lambda: len(receiver.got) >= 2)
    assert receiver.got == [("state/a", b"on", 1, True), ("state/a", b"off", 1, False)]
    sender.close()
    receiver.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_will_goes_out_when_a_client_vanishes_and_only_then(broker: Broker, version: int) -> None:
    watcher = Peer(broker, version)
    watcher.subscribe("gone/#")
    Peer(broker, version, will=("gone/a", b"x", 1)).vanish()
    watcher.until(lambda: watcher.got)
    Peer(broker, version, will=("gone/b", b"x", 1)).close()
    Peer(broker, version, will=("gone/c", b"x", 1), keepalive=1)  # says nothing more
    watcher.until(lambda: len(watcher.got) >= 2)
    assert [topic for topic, *_ in watcher.got] == ["gone/a", "gone/c"]
    watcher.close()


def test_properties_are_passed_on_and_options_obeyed(broker: Broker) -> None:
    peer = Peer(broker, paho.MQTTv5)
    peer.publish("a", b"old", retain=True)
    peer.paho.subscribe("a", options=SubscribeOptions(1, noLocal=True, retainAsPublished=True, retainHandling=2))
    peer.until(lambda: peer.granted is not None)
    peer.publish("a", b"my own")
    other = Peer(broker, paho.MQTTv5)
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = ("traceparent", "00-1")
    properties.ContentType = "application/json"
    other.publish("a", b"theirs", retain=True, properties=properties)
    peer.until(lambda: peer.got)
    assert peer.got == [("a", b"theirs", 1, True)]
    assert peer.properties[0].UserProperty == [("traceparent", "00-1")]
    assert peer.properties[0].ContentType == "application/json"
    peer.close()
    other.close()


def test_versions_mix(broker: Broker) -> None:
    old, new = Peer(broker, paho.MQTTv311), Peer(broker, paho.MQTTv5)
    for peer in (old, new):
        peer.subscribe("a")
    old.publish("a", b"from old")
    new.publish("a", b"from new")
    for peer in (old, new):
        peer.until(lambda peer=peer: len(peer.got) >= 2)
        assert [payload for _, payload, _, _ in peer.got] == [b"from old", b"from new"]
        peer.close()


def test_a_second_client_of_the_same_name_takes_over(broker: Broker) -> None:
    first = Client(broker.url, "me", filters=["a"], clean=False, session_expiry_s=60)
    first.connect()
    second = Client(broker.url, "me", filters=["a"], clean=False, session_expiry_s=60)
    second.connect()
    assert second.session_present
    assert first.poll(10, 0.15) is None
    assert "took over" in first.last_error
    second.close()
    first.hang_up()


def test_unsubscribe(broker: Broker) -> None:
    peer = Peer(broker, paho.MQTTv5)
    peer.subscribe("a/#")
    done: list[int] = []
    peer.paho.on_unsubscribe = lambda *_: done.append(1)
    peer.paho.unsubscribe("a/#")
    peer.until(lambda: done)
    peer.publish("a/b", b"1")
    assert not peer.got
    peer.close()


def test_queues_are_bounded_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    with Broker(BrokerConfiguration(queue_max=10)) as broker:
        receiver = Client(broker.url, "away", filters=["a"], clean=False, session_expiry_s=60)
        receiver.connect()
        receiver.close()
        sender = Client(broker.url)
        reasons = sender.publish([("a", b"%d" % i) for i in range(15)])
        assert reasons == [0] * 10 + [0x97] * 5
        sender.close()
        assert broker.dropped == 5
    assert "queue is full" in caplog.text


def test_a_session_that_is_over_is_forgotten(broker: Broker) -> None:
    client = Client(broker.url, "short", filters=["a"], clean=False, session_expiry_s=1)
    client.connect()
    client.close()
    assert "short" in broker.sessions
    deadline = time.monotonic() + 5
    while "short" in broker.sessions:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not broker.subscriptions.find(b"a")


def test_a_client_that_does_not_read_stops_nobody(broker: Broker) -> None:
    lazy = socket.create_connection(("127.0.0.1", broker.port))
    lazy.sendall(packets.encode(packets.Connect("lazy"), packets.V5))
    lazy.sendall(packets.encode(packets.Subscribe(1, (("#", 1),)), packets.V5))
    good = Client(broker.url, filters=["a"])
    good.connect()
    sender = Client(broker.url)
    for _ in range(20):
        sender.publish([("a", b"x" * 100_000)] * 10)
    got = 0
    while (found := good.poll(1000, 2.0)) is not None:
        good.acknowledge(found.packet_ids, found.qos)
        got += len(found)
        if got == 200:
            break
    assert got == 200
    waiting = len(broker.sessions["lazy"].queue)
    assert waiting > 0, "what the lazy client does not take waits in its session, not in its socket"
    for client in (good, sender):
        client.close()
    lazy.close()


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=60), max_size=4), st.booleans())
def test_rubbish_ends_its_own_connection_only(pieces: list[bytes], connected: bool) -> None:
    broker = _SHARED.start() if _SHARED._thread is None else _SHARED
    with socket.create_connection(("127.0.0.1", broker.port)) as peer:
        if connected:
            peer.sendall(packets.encode(packets.Connect("fuzz"), packets.V5))
        try:
            for piece in pieces:
                peer.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            assert connected or pieces  # it was thrown out: as it should be
    client = Client(broker.url)
    assert client.publish([("still/alive", b"1")]) == [0]
    client.close()


_SHARED = Broker(BrokerConfiguration())


@pytest.mark.parametrize(
    "first",
    [
        packets.publish(b"a", b"1", version=packets.V5),
        packets.PING,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x10\x0c\x00\x04MQTT\x09\x02\x00\x00\x00\x00",  # version 9
        packets.encode(packets.Connect("", packets.V311, clean=False), packets.V311),
    ],
)
def test_who_does_not_connect_properly_is_thrown_out(broker: Broker, first: bytes) -> None:
    with socket.create_connection(("127.0.0.1", broker.port)) as peer:
        peer.settimeout(5)
        peer.sendall(first)
        while peer.recv(100):
            continue


def test_an_oversized_packet_is_refused() -> None:
    with Broker(BrokerConfiguration(packet_bytes_max=10_000)) as broker:
        client = Client(broker.url)
        with pytest.raises(Exception, match="too large"):
            client.publish([("a", b"x" * 20_000)])


def test_connections_are_bounded() -> None:
    with Broker(BrokerConfiguration(sessions_max=2)) as broker:
        idle = [socket.create_connection(("127.0.0.1", broker.port)) for _ in range(2)]
        deadline = time.monotonic() + 5
        while len(broker.connections) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(NotConnected):
            Client(broker.url, timeout_s=2).connect()
        for peer in idle:
            peer.close()
        while broker.connections:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        client = Client(broker.url)
        client.connect()
        client.close()


def test_beyond_this_computer_only_with_tls_and_a_check(certificates: Path) -> None:
    pair = {"cert": certificates / "server.pem", "key": certificates / "server.key"}
    for refused in ({}, {"users": {"a": "b"}}, pair):
        with pytest.raises(ConfigError, match="only with TLS"):
            BrokerConfiguration(host="0.0.0.0", **refused)
    BrokerConfiguration(host="0.0.0.0", **pair, users={"a": "b"})
    BrokerConfiguration(host="0.0.0.0", **pair, ca=certificates / "ca.pem")
    BrokerConfiguration(host="::1")


def test_it_runs_as_a_process_of_its_own(tmp_path: Path) -> None:
    acl, users = tmp_path / "acl", tmp_path / "users"
    acl.write_text("user anna\ntopic write a/#\n")
    users.write_text("anna:secret\n")
    users.chmod(0o600)
    command = [sys.executable, "-m", "tocsin.mqtt.broker", "--port", "0", "--acl", str(acl), "--users", str(users)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("listening on ").strip()
        client = Client(url, user="anna", password="secret")
        assert client.publish([("a/b", b"1"), ("b", b"1")]) == [0, 0x87]
        client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        process.stdout.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_outlive_a_stop_in_good_order(tmp_path: Path, version: int) -> None:
    state = tmp_path / "broker.state"
    with Broker(BrokerConfiguration(state=state)) as first:
        port = first.port
        receiver, sender = Peer(first, version, "stays"), Peer(first, version)
        receiver.subscribe("a/#")
        receiver.vanish()
        sender.publish("a/b", b"while away")
        sender.publish("kept", b"retained", retain=True)
        sender.close()
    assert state.exists()
    with Broker(BrokerConfiguration(state=state, port=port)) as second:
        assert not state.exists()  # a crash must not bring it back
        sender = Peer(second, version)
        sender.publish("a/c", b"after")
        again = Peer(second, version, "stays")
        assert again.connack[0].session_present
        again.until(lambda: len(again.got) >= 2)
        again.subscribe("kept")
        again.until(lambda: len(again.got) >= 3)
        assert [payload for _, payload, _, _ in again.got] == [b"while away", b"after", b"retained"]
        again.close()
        sender.close()
    state.write_bytes(b"rubbish")
    with pytest.raises(CorruptState, match="delete it"):
        Broker(BrokerConfiguration(state=state)).start()


def test_wrong_files_are_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.pem"):
        Broker(BrokerConfiguration(cert=tmp_path / "no.pem", key=tmp_path / "no.key")).start()


def test_a_port_that_is_taken_is_said_in_one_line(broker: Broker) -> None:
    command = [sys.executable, "-m", "tocsin.mqtt.broker", "--port", str(broker.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("the broker does not start: ")
    assert "Traceback" not in done.stderr


def test_passwords_that_others_can_read_are_refused(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("anna:secret\n")
    users.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_users(users)


@pytest.mark.parametrize("line", ["topic fly a/#", "topic read a/#/b", "patern read a", "topic"])
def test_a_wrong_line_in_an_acl_is_named(line: str) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        Acl(["# first", line])


def test_ids_with_wildcards_match_no_pattern() -> None:
    acl = Acl(["pattern readwrite plant/%c/#", "pattern read by/%u"])
    for evil in ("+", "#", "a/b", ""):
        assert not acl.may("u", evil, "write", "plant/a/x")
        assert not acl.may_subscribe("u", evil, f"plant/{evil}/x")
        assert not acl.may_subscribe(evil, "c", f"by/{evil}")


levels = st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=4).map("/".join)
patterns = (
    st.lists(st.sampled_from(["a", "b", "", "+", "#"]), min_size=1, max_size=4).map("/".join).filter(valid_filter)
)


@given(patterns, levels.filter(bool))
def test_filters_agree_with_paho(pattern: str, topic: str) -> None:
    if pattern != "#" or not topic.startswith("$"):  # paho forgets that '#' does not cover $SYS
        assert matches(pattern, topic) == paho.topic_matches_sub(pattern, topic)


@given(patterns, patterns, levels.filter(bool))
def test_an_acl_allows_only_what_all_may_be_read(allowed: str, wanted: str, topic: str) -> None:
    if Acl(["user u\n", f"topic read {allowed}"]).may_subscribe("u", "", wanted) and matches(wanted, topic):
        assert matches(allowed, topic)
