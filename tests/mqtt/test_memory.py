"""The embedded broker's memory: what clients give it to keep is counted whole, and bounded."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tocsin.mqtt import packets, sessions
from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.mqtt.client import Client

MIB = 1 << 20


@contextmanager
def plain(port: int, *sent: packets.Packet) -> Iterator[socket.socket]:
    """A client of a few packets that does and reads nothing more by itself."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        for packet in sent:
            peer.sendall(packets.encode(packet, packets.V5))
        yield peer


def until(true: Callable[[], object], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the memory of a process")
def test_long_topics_for_an_absent_session_and_large_retained_messages_stay_within_bounds() -> None:
    command = [sys.executable, "-m", "tocsin.mqtt.broker", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("listening on ").strip()
        away = Client(url, "away", filters=["#"], clean=False, session_expiry_s=600)
        away.connect()
        away.close()
        sender = Client(url)
        sender.publish([("warm", b"up")])
        before = resident(process.pid)
        reasons = []
        for i in range(800):
            reasons += sender.publish([(f"{i}/{j}/" + "x" * 60_000, b"1") for j in range(10)])
        kept = reasons.count(0)
        assert 900 < kept < 1_200, "what fits into 64 MiB, with its topics"
        assert set(reasons[kept:]) == {0x97}
        for i in range(500):
            sender.publish([(f"retained/{i}", bytes(1_000_000))], retain=True)
        assert resident(process.pid) - before < 250 * MIB
        sender.close()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        process.stdout.close()


def test_what_is_in_flight_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSION_BYTES_MAX", MIB)
    monkeypatch.setattr("tocsin.mqtt.broker.SESSION_BYTES_MAX", MIB)
    subscribed = packets.Subscribe(1, (("a", 1),))
    with Broker(BrokerConfiguration()) as broker, plain(broker.port, packets.Connect("lazy"), subscribed):
        until(lambda: broker.subscriptions.find(b"a"))
        sender = Client(broker.url)
        reasons = sender.publish([("a", bytes(1_000))] * 2_000)
        lazy = broker.sessions["lazy"]
        assert len(lazy.in_flight) + len(lazy.queue) == reasons.count(0) < 900
        assert lazy.budget.used <= MIB
        sender.close()


def test_all_that_clients_give_it_is_within_one_bound() -> None:
    limit = 4 * MIB
    with Broker(BrokerConfiguration(memory_max=limit)) as broker:
        for i in range(8):
            client = Client(broker.url, f"c{i}", filters=["#"], clean=False, session_expiry_s=600)
            client.connect()
            client.close()
        sender = Client(broker.url)
        reasons = sender.publish([(f"t/{i}", bytes(10_000)) for i in range(200)], retain=True)
        assert 0x97 in reasons
        assert broker.budget.used <= limit
        used = broker.budget.used
        waiting = sum(s.budget.used for s in broker.sessions.values())
        assert used == waiting + broker.retained._budget.used
        sender.close()
        back = Client(broker.url, "c3", filters=["#"], clean=False, session_expiry_s=600)
        back.connect()  # who has filled the memory may come and empty it
        back.close()


def test_filters_wills_and_names_count() -> None:
    with Broker(BrokerConfiguration(memory_max=MIB)) as broker:
        many = packets.Subscribe(1, tuple((f"{i}/" + "f" * 60_000, 1) for i in range(12)))
        with plain(broker.port, packets.Connect("filters"), many):
            until(lambda: "filters" in broker.sessions and broker.sessions["filters"].subscriptions)
            assert 4 < len(broker.sessions["filters"].subscriptions) < 9
        until(lambda: broker.budget.used == 0)
    will = packets.Will("a", bytes(60_000))
    with Broker(BrokerConfiguration(memory_max=1_600_000)) as broker:
        with plain(broker.port, packets.Connect("first", will=will)) as first:
            assert first.recv(100)[3] == 0
            with plain(broker.port, packets.Connect("second", will=will)) as peer:
                assert peer.recv(100)[3] == 0x97
            client = Client(broker.url)  # for others there is room
            assert client.publish([("a", b"1")]) == [0]
            client.close()
        until(lambda: broker.budget.used + broker.wills.used == 0)
    with (
        Broker(BrokerConfiguration(memory_max=100_000)) as broker,
        plain(broker.port, packets.Connect("n" * 60_000)) as peer,
    ):
        assert peer.recv(100)[3] == 0x97


def test_all_is_given_back(tmp_path: Path) -> None:
    chance = random.Random(4)
    with Broker(BrokerConfiguration(memory_max=2 * MIB, state=tmp_path / "state")) as broker:
        sender = Client(broker.url)
        for _ in range(200):
            client = Client(
                broker.url, f"c{chance.randrange(4)}", filters=[f"{chance.randrange(3)}/#"],
                clean=chance.random() < 0.3, session_expiry_s=chance.choice([0, 600]),
            )  # fmt: skip
            client.connect()
            topics = [f"{chance.randrange(3)}/{chance.randrange(9)}" for _ in range(chance.randrange(20))]
            sender.publish(
                [(topic, bytes(chance.choice([0, 9_000]))) for topic in topics], retain=chance.random() < 0.5
            )
            if chance.random() < 0.7 and (came := client.poll(100, 0.01)) is not None:
                client.acknowledge(came.packet_ids, came.qos)
            client.close()
        assert 0 < broker.budget.used <= 2 * MIB
        sender.close()
    with Broker(BrokerConfiguration(memory_max=2 * MIB, state=tmp_path / "state")) as again:  # the disk counts, too
        sessions = [session.budget.used for session in again.sessions.values()]
        assert again.budget.used == sum(sessions) + again.retained._budget.used
        for name in list(again.sessions):
            last = Client(again.url, name, clean=True, session_expiry_s=0)
            last.connect()
            last.close()
        sender = Client(again.url)
        sender.publish([(message.topic.decode(), b"") for message in again.retained.all()], retain=True)
        sender.close()
        until(lambda: not again.sessions)
        assert again.budget.used == 0


@pytest.mark.parametrize("qos", [0, 1])
def test_all_retained_messages_reach_who_asks_for_them(qos: int) -> None:
    with Broker(BrokerConfiguration()) as broker:
        sender = Client(broker.url)
        for i in range(300):
            sender.publish([(f"r/{i}", bytes(100_000))], retain=True)
        sender.close()
        receiver = Client(broker.url, filters=["r/#"], qos=qos)
        receiver.connect()
        topics: set[str] = set()
        deadline = time.monotonic() + 20
        while len(topics) < 300 and time.monotonic() < deadline:
            if (came := receiver.poll(1_000, 1.0)) is not None:
                receiver.acknowledge(came.packet_ids, came.qos)
                topics |= set(came.topics.to_pylist())
        assert len(topics) == 300
        receiver.close()
