"""Values of a real OPC UA server: each change at its source's time, bad nodes and bad values beside good ones."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from opcua_server import OpcuaServer
from pydantic import ValidationError

from tocsin.acquire import opcua as module
from tocsin.acquire.opcua import Opcua
from tocsin.errors import ConfigError, Unavailable
from tocsin.testing import read_from, world

BAD, UNCERTAIN = 0x80020000, 0x40000000


def source(server: OpcuaServer, **more: Any) -> Opcua:
    nodes = {"press": {"celsius": "ns=2;s=celsius", "running": "ns=2;s=running", "order": "ns=2;s=order"}}
    return Opcua.model_validate({"url": server.url, "nodes": nodes, "every": "50ms", **more})


class Reading:
    """An open source, and what has come of it."""

    def __init__(self, source: Opcua) -> None:
        self.reader = read_from(source)
        self.rows: list[dict[str, Any]] = []

    def wait(self, count: int, seconds: float = 15.0) -> list[dict[str, Any]]:
        until = time.monotonic() + seconds
        while len(self.rows) < count:
            assert time.monotonic() < until, self.rows
            if (polled := self.reader.poll(1_000, 0.1)) is not None:
                self.rows += polled[0].rows.to_pylist()
        return self.rows

    def values(self, signal: str) -> list[Any]:
        return [row["value"] for row in self.rows if row["signal"] == signal]

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()


VALUES = {"celsius": 20.5, "running": True, "order": "A-17"}


def test_each_change_is_a_row_at_the_time_of_its_source() -> None:
    with OpcuaServer(VALUES) as server, Reading(source(server)) as reading:
        reading.wait(3)
        assert {(row["signal"], row["value"], row["text"]) for row in reading.rows} == {
            ("celsius", 20.5, None),
            ("running", 1.0, None),
            ("order", None, "A-17"),
        }
        at = datetime(2026, 1, 1, 12, 0, 0, 123_000, UTC)
        for n in range(20):
            server.write("celsius", 30.0 + n, at=at.replace(second=n))
            reading.wait(4 + n)
        assert reading.values("celsius") == [20.5, *(30.0 + n for n in range(20))]
        assert [row["at"] for row in reading.rows[3:]] == [at.replace(second=n) for n in range(20)]
        assert {row["key"] for row in reading.rows} == {"press"}


def test_quality_goes_by_the_status_code() -> None:
    with OpcuaServer(VALUES) as server, Reading(source(server)) as reading:
        reading.wait(3)
        for value, status in ((21.0, UNCERTAIN), (22.0, BAD), (23.0, 0)):
            server.write("celsius", value, status)
            reading.wait(len(reading.rows) + 1)
        told = [(row["value"], row["quality"]) for row in reading.rows if row["signal"] == "celsius"]
        assert told == [(20.5, "good"), (21.0, "uncertain"), (None, "bad"), (23.0, "good")]


def test_a_node_that_is_not_there_costs_no_other_and_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 0.5)
    nodes = {"press": {"celsius": "ns=2;s=celsius", "later": "ns=2;s=later"}}
    with OpcuaServer(VALUES) as server, Reading(source(server, nodes=nodes)) as reading:
        reading.wait(1)
        until = time.monotonic() + 10
        while not reading.reader.counters()["nodes_refused"]:
            assert time.monotonic() < until
            time.sleep(0.02)
        server.write("celsius", 21.0)
        reading.wait(2)
        server.add("later", 7)
        reading.wait(3)
        assert reading.values("later") == [7.0]


def test_a_server_that_goes_is_told_and_read_on_when_it_is_back() -> None:
    with OpcuaServer(VALUES) as server:
        reading = Reading(source(server, timeout="1s"))
        reading.wait(3)
    with pytest.raises(Unavailable, match=r"opc\.tcp://127"):
        reading.wait(1_000, 30)
    reading.reader.close()
    with OpcuaServer({**VALUES, "celsius": 99.0}, server.port) as again, Reading(source(again)) as reading:
        reading.wait(3)
        assert reading.values("celsius") == [99.0]


def test_a_wrong_password_is_told() -> None:
    with OpcuaServer(VALUES, password="right") as server:
        with Reading(source(server, user="tocsin", password="right")) as reading:
            reading.wait(3)
        with Reading(source(server, user="tocsin", password="wrong")) as reading:
            with pytest.raises(Unavailable, match=r"(?i)access|identity|user") as told:
                reading.wait(1)
            assert "wrong" not in str(told.value)


def test_more_than_may_wait_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 3)
    with OpcuaServer(VALUES) as server, Reading(source(server)) as reading:
        for n in range(8):
            server.write("celsius", float(n))
            time.sleep(0.12)
        until = time.monotonic() + 10
        while reading.reader.counters()["changes_dropped"] < 1:
            assert time.monotonic() < until
            time.sleep(0.05)
        counted = reading.reader.counters()
        reading.wait(3)
        assert reading.rows[-1]["value"] == 7.0
        assert counted["changes"] - counted["changes_dropped"] <= 3 + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "http://plc"}, "write opc.tcp://host:4840"),
        ({"url": "opc.tcp://me:secret@plc"}, "settings of their own"),
        ({"nodes": {"press": {}}}, "at least one signal"),
    ],
)
def test_settings_that_cannot_work(change: dict[str, Any], message: str) -> None:
    settings = {"url": "opc.tcp://plc:4840", "nodes": {"press": {"a": "ns=2;s=a"}}}
    with pytest.raises(ValidationError, match=message):
        Opcua.model_validate({**settings, **change})


def test_what_cannot_work_is_told_before_it_starts() -> None:
    with pytest.raises(ConfigError, match=r"nodes.press.a: 'temperature' is no node id"):
        Opcua(url="opc.tcp://plc", nodes={"press": {"a": "temperature"}}).check(world())
    secured = {"cert": "no.der", "key": "no.pem"}
    with pytest.raises(ConfigError, match=r"there is no file no\.der"):
        Opcua(url="opc.tcp://plc", nodes={"press": {"a": "i=85"}}, security=secured).check(world())
