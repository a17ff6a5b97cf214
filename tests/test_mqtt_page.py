"""The pipeline of docs/mqtt.md is right, and rings when a device vanishes."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from page_of_docs import PageOfDocs
from servers import Mosquitto

import tocsin
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.pipeline.yamlfile import load_with_plan

(PIPELINE,) = PageOfDocs("mqtt").pipelines()


def test_pipeline_is_right(tmp_path: Path) -> None:
    (tmp_path / "status.yaml").write_text(PIPELINE)
    _, plan = load_with_plan(tmp_path / "status.yaml")
    assert {"status.0.delta", "down.0.delta"} <= {sink.id for sink in plan.sinks}


class Device:
    """A device that leaves its last will with the broker, and both it and its status retained."""

    def __init__(self, url: str) -> None:
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="press-1", protocol=paho.MQTTv5)
        self._client.will_set("plant/press-1/status", '{"state": "down"}', qos=1, retain=True)
        self._client.connect("127.0.0.1", int(url.rpartition(":")[2]))
        self._client.loop_start()
        running = self._client.publish("plant/press-1/status", '{"state": "running"}', qos=1, retain=True)
        running.wait_for_publish(10)

    def vanish(self) -> None:
        self._client.loop_stop()
        self._client.socket().close()


@pytest.mark.parametrize("is_before", [False, True], ids=["while we listen", "before we came"])
def test_a_device_that_vanishes_rings(mosquitto: Callable[..., Mosquitto], tmp_path: Path, is_before: bool) -> None:
    url = mosquitto().url
    source = (
        "source: {mqtt: {url: " + url + ", topic: plant/+/status" + (", retained: true" if is_before else "") + "}}"
    )
    text = re.sub(r"source: \{mqtt: .*\}\}", source, PIPELINE) + f"folder: {tmp_path}/data\n"
    (tmp_path / "status.yaml").write_text(text)
    runner = EmbeddedRunner(load_with_plan(tmp_path / "status.yaml")[1])
    thread = threading.Thread(target=runner.run)

    def until(condition: Callable[[], bool]) -> None:
        until_s = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < until_s, runner.snapshot()
            time.sleep(0.02)

    def has_come(rows: int) -> Callable[[], bool]:
        return lambda: sum(runner.snapshot()["rows_in"].values()) >= rows

    if is_before:
        Device(url).vanish()
        thread.start()
        until(has_come(1))
    else:
        thread.start()
        until(lambda: any(entry["event"] == "connects" and entry["count"] for entry in runner.snapshot()["events"]))
        device = Device(url)
        until(has_come(1))
        device.vanish()
        until(has_come(2))
    back = Device(url)
    until(has_come(2 if is_before else 3))
    runner.stop()
    thread.join(30)
    back.vanish()
    alarms = tocsin.read("alarms", tmp_path / "data").to_pylist()
    assert [(row["event"], row["message"]) for row in alarms][:1] == [("raised", "press-1 is down")]
    assert [row["event"] for row in alarms] == ["raised", "cleared"]
