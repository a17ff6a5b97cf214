"""A host application of Sparkplug B beside a real edge node and broker: births, gaps, rebirths, deaths, STATE."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from pydantic import ValidationError
from servers import Mosquitto, Needs
from sparkplug_edge import Edge, modules

from tocsin.acquire.sparkplug import Sparkplug as Host
from tocsin.batch import REJECTED, Batch
from tocsin.decode.sparkplug import Sparkplug
from tocsin.world import SystemClock, SystemDisk, World

Brokers = Callable[..., Mosquitto]
CELSIUS = {"name": "celsius", "alias": 1, "type": "Double", "value": 20.5}
BIRTHS: dict[str, Any] = {
    "node": [{"name": "Node Control/Rebirth", "type": "Boolean", "value": False}],
    "devices": {"press": [CELSIUS, {"name": "state", "alias": 2, "type": "String", "value": "run"}]},
}


@pytest.fixture(scope="module", autouse=True)
def _has_node(needs: Needs) -> None:
    needs("node")
    modules(needs)


@pytest.fixture
def edge(needs: Needs) -> Iterator[Callable[..., Edge]]:
    started: list[Edge] = []

    def start(url: str, **more: Any) -> Edge:
        started.append(Edge(needs, url, {**BIRTHS, **more}))
        return started[-1]

    yield start
    for one in started:
        one.kill()


class Listening:
    """A host application and its decoder, and what has come: as the runner has them, state and position included."""

    def __init__(self, url: str, folder: Path, **settings: Any) -> None:
        self._source = Host.model_validate({"url": url, "groups": "plant", "reorder": "200ms", **settings})
        self._world = World(SystemClock(), SystemDisk(), folder, folder / "scratch", "plant/source")
        self._decoder = Sparkplug()
        self._state, self._offset = self._decoder.initial(), None
        self.rows: list[dict[str, Any]] = []
        self.reasons: list[str] = []
        self.start()

    def start(self) -> None:
        self._connection = self._source.open(self._world)
        (split,) = self._connection.splits()
        self.reader = self._connection.read(split, self._offset)
        self.until(lambda: self.reader.counters()["connects"] == 1)

    def stop(self) -> None:
        self.reader.close()
        self._connection.close()
        self._state = self._decoder.load(self._decoder.dump(self._state))

    def poll(self) -> None:
        polled = self.reader.poll(1_000, 0.05)
        if polled is None:
            return
        batch, self._offset = polled
        self._state, left = self._decoder.step(self._state, Batch(batch.rows))
        for out in left:
            if out.port == REJECTED:
                self.reasons += out.rows["reason"].to_pylist()
            else:
                self.rows += out.rows.to_pylist()
        self.reader.acknowledge(self._offset)

    def until(self, condition: Callable[[], bool], patience_s: float = 20.0) -> None:
        until_s = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < until_s, (self.rows[-5:], self.reasons, self.reader.counters())
            self.poll()

    def has(self, **wanted: Any) -> bool:
        return any(all(row[name] == value for name, value in wanted.items()) for row in self.rows)

    def wait(self, **wanted: Any) -> dict[str, Any]:
        """Poll until there is such a row, and return the first of them."""
        self.until(lambda: self.has(**wanted))
        return next(row for row in self.rows if all(row[name] == value for name, value in wanted.items()))

    def values(self) -> list[tuple[Any, str]]:
        """What data said of the temperature."""
        return [(r["value"], r["quality"]) for r in self.rows if r["metric"] == "celsius" and r["event"] == "data"]


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Callable[..., Listening]]:
    started: list[Listening] = []

    def start(url: str, **settings: Any) -> Listening:
        started.append(Listening(url, tmp_path / str(len(started)), **settings))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def by_alias(value: float) -> list[dict[str, Any]]:
    return [{"alias": 1, "type": "Double", "value": value, "timestamp": 1767268800123}]


def test_birth_data_gap_rebirth_and_death(mosquitto: Brokers, edge: Any, listening: Any) -> None:
    url = mosquitto().url
    host = listening(url)
    gateway = edge(url)
    host.wait(machine="plant/gateway", event="birth", metric=None)
    born = host.wait(machine="plant/gateway/press", event="birth", metric="celsius")
    assert (born["value"], born["type"], born["quality"], born["device"]) == (20.5, "Double", "good", "press")
    assert host.wait(metric="state")["text"] == "run"

    gateway.data(by_alias(21.0))
    row = host.wait(value=21.0)
    assert (row["metric"], row["quality"], row["at"].timestamp()) == ("celsius", "good", 1767268800.123)
    assert host.reader.counters()["rebirths"] == 0

    gateway.do("skip")
    gateway.data(by_alias(22.0))
    host.until(lambda: gateway.said["asked"] == 1 and gateway.said["born"] == 2)
    gateway.data(by_alias(23.0))
    host.wait(value=23.0)
    assert host.values() == [(21.0, "good"), (22.0, "uncertain"), (23.0, "good")]
    assert host.reader.counters()["rebirths"] == 1

    gateway.do("died", device="press")
    assert host.wait(machine="plant/gateway/press", event="death", metric=None)["quality"] == "stale"
    assert host.wait(machine="plant/gateway/press", event="death", metric="celsius")["value"] is None
    assert not host.has(machine="plant/gateway", event="death")
    gateway.kill()
    host.wait(machine="plant/gateway", event="death", metric=None)
    assert host.reasons == []


def test_the_death_of_a_node_is_that_of_its_devices(mosquitto: Brokers, edge: Any, listening: Any) -> None:
    url = mosquitto().url
    host = listening(url)
    gateway = edge(url)
    host.wait(metric="state")
    gateway.kill()
    host.wait(machine="plant/gateway", event="death", metric=None)
    dead = [row["metric"] for row in host.rows if row["event"] == "death" and row["device"] == "press"]
    assert dead == [None, "celsius", "state"]
    assert {row["quality"] for row in host.rows if row["event"] == "death"} == {"stale"}


def test_one_who_comes_late_asks_for_what_was_missed(mosquitto: Brokers, edge: Any, listening: Any) -> None:
    url = mosquitto().url
    gateway = edge(url)
    host = listening(url)
    gateway.data(by_alias(21.0))
    host.until(lambda: gateway.said["born"] == 2)
    gateway.data(by_alias(22.0))
    host.wait(value=22.0)
    assert host.values() == [(22.0, "good")]
    assert host.reasons == ["sparkplug_birth"], "what came before the birth is set aside, not lost"
    gateway.data([{"alias": 9, "type": "Double", "value": 1.0}, *by_alias(23.0)])
    host.until(lambda: gateway.said["asked"] == 2)
    host.wait(value=23.0)
    assert host.reasons == ["sparkplug_birth"] * 2, "an alias without a name costs the metric beside it nothing"


def test_after_a_restart_aliases_are_known_and_births_are_asked_for(
    mosquitto: Brokers, edge: Any, listening: Any
) -> None:
    url = mosquitto().url
    host = listening(url)
    gateway = edge(url, deaf=True)
    gateway.data(by_alias(21.0))
    host.wait(value=21.0)
    host.stop()
    host.start()
    host.until(lambda: gateway.said["asked"] == 1)  # before it has said anything
    gateway.data(by_alias(22.0))
    host.wait(value=22.0)
    assert host.values() == [(21.0, "good"), (22.0, "uncertain")], "it may have been born anew meanwhile"
    assert host.reasons == []


def test_a_session_keeps_what_is_sent_meanwhile(mosquitto: Brokers, edge: Any, listening: Any) -> None:
    url = mosquitto("allow_anonymous true\nqueue_qos0_messages true").url
    host = listening(url, session_expiry_us="1h")
    gateway = edge(url)
    host.wait(metric="state")
    host.stop()
    for n in range(50):
        gateway.data(by_alias(30.0 + n))
    host.start()
    host.until(lambda: len(host.values()) >= 50)
    assert host.values() == [(30.0 + n, "good") for n in range(50)], "nothing was missed, so nothing is uncertain"


def test_a_restart_of_the_broker_is_survived(mosquitto: Brokers, edge: Any, listening: Any) -> None:
    broker = mosquitto()
    host = listening(broker.url)
    gateway = edge(broker.url)
    host.wait(metric="state")
    broker.stop(signal.SIGKILL)
    host.until(lambda: not host.reader.client.connected)
    broker.start()
    host.until(lambda: host.reader.counters()["connects"] == 2)
    gateway.wait("born", 2)
    host.until(lambda: sum(row["metric"] == "state" for row in host.rows) >= 2 or gateway.said["born"] >= 3)
    gateway.data(by_alias(25.0))
    assert host.wait(value=25.0)["quality"] == "good"


class Watcher:
    """Somebody else at the broker, who sees STATE."""

    def __init__(self, url: str) -> None:
        self.states: list[tuple[dict[str, Any], bool]] = []
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = lambda *said: self.states.append((json.loads(said[2].payload), said[2].retain))
        self.client.connect("127.0.0.1", int(url.rpartition(":")[2]))
        self.client.subscribe("spBv1.0/STATE/tocsin", 1)
        self.client.loop_start()

    def wait(self, online: bool, count: int = 1) -> dict[str, Any]:
        until_s = time.monotonic() + 10
        while len(some := [state for state, _ in self.states if state["online"] is online]) < count:
            assert time.monotonic() < until_s, self.states
            time.sleep(0.01)
        return some[count - 1]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_state_says_whether_we_are_there(mosquitto: Brokers, listening: Any, version: str) -> None:
    url = mosquitto().url
    before = time.time() * 1000
    host = listening(url, host_id="tocsin", version=version)
    host.poll()
    watcher = Watcher(url)
    born = watcher.wait(online=True)
    assert before - 1 <= born["timestamp"] <= time.time() * 1000
    assert watcher.states[0][1], "it is retained"
    host.reader.client.hang_up()  # as a cut cable: the broker publishes the will
    assert watcher.wait(online=False)["timestamp"] == born["timestamp"]
    host.until(lambda: host.reader.counters()["connects"] == 2)
    again = watcher.wait(online=True, count=2)
    assert again["timestamp"] > born["timestamp"]
    # Somebody says in our name that we are gone: we say that we are here.
    watcher.client.publish("spBv1.0/STATE/tocsin", json.dumps({"online": False, "timestamp": 1}), 1)
    host.until(lambda: sum(state["online"] for state, _ in watcher.states) >= 3)
    assert watcher.wait(online=True, count=3) == again
    host.stop()
    gone = watcher.wait(online=False, count=3)
    assert gone["timestamp"] >= again["timestamp"]
    watcher.close()
    late = Watcher(url)
    assert late.wait(online=False) == gone
    late.close()
    host.start()


def test_one_bad_payload_costs_no_other(mosquitto: Brokers, edge: Any, listening: Any) -> None:
    url = mosquitto().url
    host = listening(url)
    gateway = edge(url)
    host.wait(metric="state")
    watcher = Watcher(url)
    watcher.client.publish("spBv1.0/plant/DDATA/gateway/press", b"\xff\xff not a payload", 1).wait_for_publish(10)
    watcher.close()
    gateway.data(by_alias(21.0))
    assert host.wait(value=21.0)["quality"] == "good"
    assert host.reasons == ["sparkplug_payload"]


def test_all_types_as_another_library_writes_them(mosquitto: Brokers, edge: Any, listening: Any) -> None:
    url = mosquitto().url
    host = listening(url)
    wanted: dict[str, tuple[Any, Any]] = {
        "Int8": (-5, None), "Int16": (-300, None), "Int32": (-70_000, None), "Int64": (-5_000_000_000, None),
        "UInt8": (200, None), "UInt16": (60_000, None), "UInt32": (4_000_000_000, None),
        "UInt64": (5_000_000_000, None), "Float": (0.5, None), "Double": (-1e300, None), "String": (None, "ä"),
        "Text": (None, "long"), "UUID": (None, "0191b0a4-7d3c-7000-8000-000000000001"), "Bytes": (None, "AAH/"),
    }  # fmt: skip
    metrics = [
        {"name": kind, "type": kind, "value": next(v for v in two if v is not None)} for kind, two in wanted.items()
    ]
    metrics.append({"name": "Boolean", "type": "Boolean", "value": True})
    metrics.append({"name": "DateTime", "type": "DateTime", "value": 1767268800123})
    metrics.append({"name": "null", "type": "Double", "value": None})
    quality = {"Quality": {"type": "Int32", "value": 0}}
    metrics.append({"name": "bad", "type": "Double", "value": 3.0, "properties": quality})
    metrics.append({"name": "old", "type": "Double", "value": 4.0, "isHistorical": True})
    table = {"numOfColumns": 1, "types": ["Double"], "columns": ["a"], "rows": [[1.5]]}
    metrics.append({"name": "table", "type": "DataSet", "value": table})
    edge(url, devices={"press": metrics})
    host.wait(device="press", metric="old")
    rows = {row["metric"]: row for row in host.rows if row["device"] == "press"}
    assert {kind: (rows[kind]["value"], rows[kind]["text"]) for kind in wanted} == wanted
    assert all(rows[kind]["type"] == kind for kind in wanted)
    assert rows["Boolean"]["value"] == 1.0
    assert rows["DateTime"]["text"] == "2026-01-01T12:00:00.123Z"
    assert (rows["null"]["value"], rows["null"]["quality"]) == (None, "bad")
    assert (rows["bad"]["value"], rows["bad"]["quality"]) == (None, "bad")
    assert (rows["old"]["value"], rows["old"]["historical"]) == (4.0, True)
    assert not rows["bad"]["historical"]
    assert "table" not in rows
    assert host.reasons == ["sparkplug_type"]


@pytest.mark.parametrize("algorithm", ["DEFLATE", "GZIP"])
def test_compressed_payloads(mosquitto: Brokers, edge: Any, listening: Any, algorithm: str) -> None:
    url = mosquitto().url
    host = listening(url)
    gateway = edge(url)
    host.wait(metric="state")
    gateway.data(by_alias(21.0), compress=True, algorithm=algorithm)
    assert host.wait(value=21.0)["metric"] == "celsius"
    assert host.reasons == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"groups": "a/b"}, "a group is a name"),
        ({"groups": []}, "a group is a name"),
        ({"host_id": "a+"}, "a host_id is a name"),
    ],
)
def test_settings_that_cannot_work(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Host.model_validate({"url": "mqtt://x", **wrong})


def test_a_look_says_nothing_and_asks_nobody() -> None:
    look = Host(url="mqtt://x", host_id="tocsin", session_expiry_us=3_600_000_000).sampled()
    assert (look.host_id, look.rebirth, look.session_expiry_us) == (None, False, 0)
