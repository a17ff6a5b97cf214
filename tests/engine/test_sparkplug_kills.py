"""A whole pipeline beside a real edge node, killed again and again: each reading once, and an alarm for its death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import Mosquitto, Needs
from sparkplug_edge import Edge

import tocsin
from tocsin.errors import TocsinError
from tocsin.mqtt.client import Client
from tocsin.sparkplug.payload import payload_class

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "sparkplug.yaml"
READINGS, KILLS = 200, (50, 120)
BIRTHS = {"devices": {"press": [{"name": "celsius", "alias": 1, "type": "Double", "value": -1.0}]}}


class Engine:
    """The example in a process, with a session that outlives it and tables that are written at once."""

    def __init__(self, url: str, folder: Path) -> None:
        text = EXAMPLE.read_text().replace("    host_id: tocsin ", "    session_expiry_us: 1h\n    host_id: tocsin ")
        for table in ("readings", "alarms"):
            text = text.replace(f"delta: {table}", f"delta: {{path: {table}, gather: 100ms}}")
        self._path, self.folder = folder / "sparkplug.yaml", folder / "data"
        self._path.write_text(text)
        self._settings = os.environ | {"TOCSIN_MQTT_URL": url, "TOCSIN_FOLDER": str(self.folder)}
        self._url = url
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tocsin.cli", "run", str(self._path)]
        self.process = subprocess.Popen(command, env=self._settings)

    def online(self) -> None:
        """Wait until STATE says that it is there."""
        client = Client(self._url, filters=["spBv1.0/STATE/tocsin"])
        until_s = time.monotonic() + 150  # its kernels may have to be compiled first
        while (heard := client.poll(1, 0.1)) is None or not json.loads(heard.payloads[0].as_py())["online"]:
            assert time.monotonic() < until_s, "it is not there"
            assert self.process.poll() is None, "the engine has ended"
        client.close()

    def rows(self, table: str) -> list[dict[str, object]]:
        try:
            return list(tocsin.read(table, self.folder).to_pylist())
        except TocsinError:  # there is none yet
            return []

    def until(self, condition: Callable[[], bool]) -> None:
        until_s = time.monotonic() + 150  # its kernels may have to be compiled first
        while not condition():
            assert time.monotonic() < until_s, self.rows("readings")[-3:]
            assert self.process.poll() is None, "the engine has ended"
            time.sleep(0.1)


class SteadyNode:
    """An edge node that sends numbered readings by their alias, at QoS 1."""

    def __init__(self, url: str) -> None:
        self._client, self._seq = Client(url), 0
        metric = {"name": b"number", "alias": 1, "datatype": 10, "double_value": -1.0}
        self._publish("NBIRTH", metric)

    def _publish(self, kind: str, *metrics: dict[str, object]) -> None:
        payload = payload_class()(timestamp=time.time_ns() // 1_000_000, seq=self._seq, metrics=metrics)
        self._client.publish([(f"spBv1.0/plant/{kind}/steady", payload.SerializeToString())])
        self._seq = (self._seq + 1) % 256

    def send(self, number: int) -> None:
        self._publish("NDATA", {"alias": 1, "double_value": float(number)})

    def close(self) -> None:
        self._client.close()


@pytest.mark.timeout(240)
def test_each_reading_is_kept_once_and_a_death_rings(
    mosquitto: Callable[..., Mosquitto], needs: Needs, tmp_path: Path
) -> None:
    broker = mosquitto()
    engine = Engine(broker.url, tmp_path)
    engine.online()
    steady, edge = SteadyNode(broker.url), Edge(needs, broker.url, BIRTHS)

    def readings() -> list[dict[str, object]]:
        return [row for row in engine.rows("readings") if row["metric"] == "number" and row["event"] == "data"]

    try:
        for number in range(READINGS):
            steady.send(number)
            if number in KILLS:
                engine.until(lambda sent=number: len(readings()) > sent // 2)  # in the middle of things
                engine.process.kill()
                engine.process.wait(10)
            elif number - 20 in KILLS:
                engine.start()
                engine.online()
        engine.until(lambda: len(readings()) >= READINGS)
        edge.kill()
        engine.until(lambda: any(row["message"] == "plant/gateway/press is down" for row in engine.rows("alarms")))
        engine.process.send_signal(signal.SIGINT)
        assert engine.process.wait(30) == 0
    finally:
        steady.close()
        edge.kill()
        engine.process.kill()
        engine.process.wait(10)
    assert Counter(row["value"] for row in readings()) == Counter(float(n) for n in range(READINGS))
    assert {row["quality"] for row in readings()} == {"good"}, "the session kept what was sent meanwhile"
    assert engine.rows("quarantine") == []
