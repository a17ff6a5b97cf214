"""The client against a real Mosquitto and against our own broker."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from click.testing import CliRunner

from tocsin.cli import main
from tocsin.errors import ConfigError
from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.mqtt.client import Client, NotConnected, address
from tocsin.mqtt.packets import V5, V311
from tocsin.mqtt.sessions import Acl
from tocsin.settings.tls import Tls

Start = Callable[..., Any]


@pytest.fixture(params=["mosquitto", "own"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "mosquitto":
        yield request.getfixturevalue("mosquitto")().url
    else:
        with Broker(BrokerConfiguration()) as broker:
            yield broker.url


def drain(client: Client, count: int, within_s: float = 10.0) -> list[tuple[str, bytes]]:
    got: list[tuple[str, bytes]] = []
    deadline = time.monotonic() + within_s
    while len(got) < count and time.monotonic() < deadline:
        found = client.poll(1000, 0.05)
        if found is not None:
            got += zip(found.topics.to_pylist(), found.payloads.to_pylist(), strict=True)
            client.acknowledge(found.packet_ids[found.qos > 0], found.qos[found.qos > 0])
    return got


def arrived(client: Client, count: int) -> list[tuple[int, bytes, bool]]:
    """Packet id, payload and DUP of what comes, not acknowledged."""
    got: list[tuple[int, bytes, bool]] = []
    deadline = time.monotonic() + 10
    while len(got) < count and time.monotonic() < deadline:
        found = client.poll(1000, 0.05)
        if found is not None:
            got += zip(found.packet_ids.tolist(), found.payloads.to_pylist(), found.dup.tolist(), strict=True)
    return got


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("qos", [0, 1])
def test_what_is_published_arrives_in_order(url: str, version: int, qos: int) -> None:
    receiver = Client(url, version=version, filters=["plant/+/telemetry", "other/#"], qos=qos)
    receiver.connect()
    sender = Client(url, version=version)
    sent = [(f"plant/m{i % 7}/telemetry", b"%d" % i) for i in range(2500)]
    assert (
        sender.publish([*sent, ("plant/m1/else", b"no"), ("other", b"yes")], qos=qos) in ([0] * 2502,) or version == V5
    )
    assert drain(receiver, 2501) == [*sent, ("other", b"yes")]
    assert receiver.poll(10, 0.05) is None
    sender.close()
    receiver.close()


@pytest.mark.parametrize("version", [V311, V5])
def test_a_session_keeps_what_was_not_acknowledged(url: str, version: int) -> None:
    def make() -> Client:
        return Client(url, "stays", version, ["t/#"], clean=False, session_expiry_s=60)

    first = make()
    first.connect()
    assert not first.session_present
    first.close()
    sender = Client(url, version=version)
    sender.publish([("t/1", b"a"), ("t/2", b"b")])
    second = make()
    second.connect()
    assert second.session_present
    ids = [packet_id for packet_id, _, _ in arrived(second, 2)]
    second.acknowledge(np.array(ids[:1]), np.array([1]))
    second.poll(10, 0.1)
    second.hang_up()
    third = make()
    third.connect()
    assert arrived(third, 1) == [(ids[1], b"b", True)]
    for client in (sender, third):
        client.close()


def test_the_broker_confirms_acknowledgements(url: str) -> None:
    receiver = Client(url, filters=["t"])
    receiver.connect()
    sender = Client(url)
    sender.publish([("t", b"1"), ("t", b"2")])
    ids = np.array([packet_id for packet_id, _, _ in arrived(receiver, 2)])
    assert receiver.acks_confirmed == 0
    receiver.acknowledge(ids, np.ones_like(ids))
    deadline = time.monotonic() + 5
    while receiver.acks_confirmed < receiver.acks_sent and time.monotonic() < deadline:
        receiver.poll(10, 0.05)
    assert receiver.acks_confirmed == receiver.acks_sent == 2
    sender.close()
    receiver.close()


@pytest.mark.parametrize("version", [V311, V5])
def test_qos_2_is_taken_from_a_broker_that_grants_it(mosquitto: Start, version: int) -> None:
    broker = mosquitto()
    receiver = Client(broker.url, version=version, filters=["t"], qos=2, receive_max=10)
    receiver.connect()
    sender = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=version)
    sender.connect("127.0.0.1", broker.port)
    for i in range(50):
        sender.publish("t", b"%d" % i, 2)
    got: list[tuple[str, bytes]] = []
    deadline = time.monotonic() + 10
    while len(got) < 50 and time.monotonic() < deadline:
        sender.loop(0.005)
        got += drain(receiver, 1, 0.02)
    assert got == [("t", b"%d" % i) for i in range(50)]
    sender.disconnect()
    sender._sock_close()
    receiver.close()


def test_an_idle_connection_is_kept_alive(url: str) -> None:
    receiver = Client(url, filters=["t"], keep_alive_s=1)
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        assert receiver.poll(10, 0.2) is None
    assert receiver.connects == 1, receiver.last_error
    receiver.close()


def test_the_connection_is_made_again_when_the_broker_comes_back(mosquitto: Start) -> None:
    broker = mosquitto()
    receiver = Client(broker.url, "me", filters=["t"], clean=False, session_expiry_s=60)
    receiver.connect()
    broker.stop()
    assert receiver.poll(10, 0.3) is None
    assert not receiver.connected
    broker.start()
    sender = Client(broker.url)
    sender.publish([("t", b"1")])
    assert drain(receiver, 1) == [("t", b"1")]
    assert receiver.session_present
    assert receiver.connects == 2
    sender.close()
    receiver.close()


def test_a_broker_that_says_nothing_is_given_up(mosquitto: Start) -> None:
    broker = mosquitto()
    client = Client(broker.url, timeout_s=0.5)
    client.connect()
    assert broker.process is not None
    broker.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(NotConnected, match="PUBACK"):
            client.publish([("t", b"1")], timeout_s=0.5)
        with pytest.raises(NotConnected, match="CONNACK"):
            client.connect()
    finally:
        broker.process.send_signal(signal.SIGCONT)


def test_pauses_between_attempts_grow_and_differ() -> None:
    client = Client("mqtt://127.0.0.1:1")
    pauses = []
    for _ in range(12):
        with pytest.raises(NotConnected):
            client.connect()
        pauses.append(client._next_try_s - time.monotonic())
    assert pauses[0] <= 0.2
    assert 15 <= pauses[-1] <= 30
    assert len({round(p, 3) for p in pauses[-3:]}) == 3


# ------------------------------------------------------------------------------------------------- who is let in


@pytest.fixture(params=["mosquitto", "own"])
def mutual(request: pytest.FixtureRequest, certificates: Path) -> Iterator[str]:
    """A broker that wants client certificates, with the ACL of the examples."""
    examples = Path(__file__).parent.parent.parent / "examples" / "mosquitto"
    if request.param == "own":
        settings = BrokerConfiguration(
            ca=certificates / "ca.pem",
            cert=certificates / "server.pem",
            key=certificates / "server.key",
            crl=certificates / "crl.pem",
            acl=Acl.read(examples / "acl"),
        )
        with Broker(settings) as broker:
            yield broker.url
        return
    lines = (examples / "mosquitto.conf").read_text().replace("certs/", f"{certificates}/")
    lines = lines.replace("acl_file acl", f"acl_file {examples / 'acl'}").replace("persistence_location ./", "")
    kept = [line for line in lines.splitlines() if not line.startswith(("listener", "persistence ", "max_queued"))]
    yield request.getfixturevalue("mosquitto")("\n".join(kept)).url


def tls(folder: Path, name: str | None, ca: Path | None = None) -> Tls:
    own = {} if name is None else {"cert": str(folder / f"{name}.pem"), "key": str(folder / f"{name}.key")}
    return Tls(ca=str(ca or folder / "ca.pem"), **own)


@pytest.mark.parametrize("version", [V311, V5])
def test_a_certificate_is_the_name_and_the_acl_keeps_to_it(mutual: str, certificates: Path, version: int) -> None:
    reader = Client(mutual, version=version, filters=["plant/#"], tls=tls(certificates, "tocsin").context())
    reader.connect()
    pump = Client(mutual, version=version, tls=tls(certificates, "pump-1").context())
    reasons = pump.publish([("plant/pump-2/telemetry", b"forged"), ("plant/pump-1/telemetry", b"true")])
    assert reasons[1] == 0
    assert reasons[0] == (0 if version == V311 else 0x87)  # 3.1.1 has no word for it
    assert drain(reader, 1) == [("plant/pump-1/telemetry", b"true")]
    assert reader.poll(10, 0.2) is None
    pump.close()
    reader.close()


def test_a_device_cannot_listen_to_another(mutual: str, certificates: Path) -> None:
    spy = Client(mutual, filters=["plant/#", "plant/pump-2/command"], tls=tls(certificates, "pump-1").context())
    own = Client(mutual, filters=["plant/pump-1/command"], tls=tls(certificates, "pump-1").context())
    own.connect()
    with suppress(NotConnected):  # ours refuses the subscription; Mosquitto keeps silent, and sends nothing
        spy.connect()
    sender = Client(mutual, tls=tls(certificates, "pump-2").context())
    sender.publish([("plant/pump-2/telemetry", b"secret")])
    if spy.connected:
        assert spy.poll(10, 0.3) is None
    for client in (own, sender, spy):
        client.close()


@pytest.mark.parametrize(
    "wrong", ["no certificate", "another CA's certificate", "another CA", "no CA", "revoked", "expired"]
)
def test_who_is_not_known_is_refused(mutual: str, certificates: Path, wrong: str) -> None:
    other = certificates / "other"
    context = {
        "no certificate": tls(certificates, None),
        "another CA's certificate": tls(other, "pump-1", certificates / "ca.pem"),
        "revoked": tls(certificates, "revoked"),
        "expired": tls(certificates, "old"),
        "another CA": tls(certificates, "pump-1", other / "ca.pem"),
        "no CA": Tls(cert=str(certificates / "pump-1.pem"), key=str(certificates / "pump-1.key")),
    }[wrong].context()
    client = Client(mutual, tls=context, timeout_s=5)
    with pytest.raises(NotConnected) as caught:
        client.connect()
    assert caught.value.final == (wrong in ("another CA", "no CA"))
    assert not client.connected


def test_tls_below_1_2_is_not_spoken(mutual: str, certificates: Path) -> None:
    import ssl
    import warnings

    context = tls(certificates, "pump-1").context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(NotConnected):
        Client(mutual, tls=context, timeout_s=5).connect()


@pytest.fixture(params=["mosquitto", "own"])
def with_password(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "own":
        with Broker(BrokerConfiguration(users={"anna": "right"})) as broker:
            yield broker.url
        return
    import subprocess

    passwords = tmp_path / "passwords"
    needs = request.getfixturevalue("needs")
    subprocess.run([needs("mosquitto_passwd"), "-c", "-b", str(passwords), "anna", "right"], check=True)
    yield request.getfixturevalue("mosquitto")(f"allow_anonymous false\npassword_file {passwords}").url


@pytest.mark.parametrize("version", [V311, V5])
def test_user_and_password(with_password: str, version: int) -> None:
    good = Client(with_password, version=version, user="anna", password="right")
    good.connect()
    good.close()
    for user, password in (("anna", "wrong"), ("bob", "right"), (None, None), ("anna", "")):
        bad = Client(with_password, version=version, user=user, password=password)
        with pytest.raises(NotConnected, match=r"wrong|not authorised") as caught:
            bad.connect()
        assert caught.value.final
    assert "right" not in repr(good)


@pytest.mark.parametrize("bad", ["broker:1883", "http://x", "mqtt://", "mqtt://u:p@x", "mqtt://x:99999", "mqtt://x/y"])
def test_a_wrong_address_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError):
        address(bad)


def test_rubbish_instead_of_a_broker_is_an_error_with_a_name() -> None:
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        peer, _ = listener.accept()
        peer.recv(1000)
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        peer.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(NotConnected, match="cannot connect"):
        Client(f"mqtt://127.0.0.1:{listener.getsockname()[1]}", timeout_s=3).connect()
    thread.join()
    listener.close()


def test_a_message_of_a_megabyte_arrives_cut_where_the_limit_is_lower(url: str) -> None:
    receiver = Client(url, filters=["t"], packet_bytes_max=100_000)
    receiver.connect()
    sender = Client(url)
    sender.publish([("t", b"x" * 900_000), ("t", b"next")])
    got = drain(receiver, 2)
    assert [len(got[0][1]) < 100_000, got[1][1]] == [True, b"next"]
    assert np.frombuffer(got[0][1], np.uint8).min() == ord("x")
    sender.close()
    receiver.close()


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://anna:canary@host:1883", "mqtt://anna:canary@host:port", "mqtt:/anna:canary@host",
        "anna:canary@host:1883",
        "mqtt://anna:canary@[host:1883", "http://anna:canary@host/path", "mqtts://anna:can@ary@host:99999",
    ],
)  # fmt: skip
def test_a_password_in_a_wrong_url_is_never_shown(url: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        f"name: t\nsource: {{mqtt: {{url: '{url}', topic: a}}}}\ndecode: {{json: {{columns: {{m: text}}}}}}\nkey: m\n"
        "streams: {a: {sinks: [delta: a]}}\n"
    )
    done = CliRunner().invoke(main, ["check", str(tmp_path / "p.yaml")])
    assert done.exit_code == 2
    assert "give them as the settings user and password" in done.output
    assert "canary" not in done.output
    assert "can@ary" not in done.output
