"""The device: the stream's answers, bundles that are swapped and rolled back, what waits while the link is away."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from servers import Mosquitto

from tocsin.cli import main
from tocsin.edge.bounds import Bounds
from tocsin.edge.bundle import pack
from tocsin.edge.device import Device, DeviceSettings, Process
from tocsin.edge.spool import Spool
from tocsin.errors import ConfigError
from tocsin.estimate.model import EXAMPLE, Model
from tocsin.models import conformal
from tocsin.models.store import Store
from tocsin.mqtt.plain import Plain
from tocsin.testing import feed, rows

KEY = bytes(range(32))
STORE = Store(EXAMPLE)


def settings(folder: Path, **changes: Any) -> DeviceSettings:
    (folder / "edge.key").write_bytes(KEY)
    return DeviceSettings(key=str(folder / "edge.key"), folder=str(folder / "edge"), **changes)


@pytest.fixture
def start() -> Iterator[Callable[[DeviceSettings], Device]]:
    """Starts devices; their files are closed when the test ends."""
    started: list[Device] = []

    def device(settings: DeviceSettings) -> Device:
        started.append(Device(settings))
        return started[-1]

    yield device
    for one in started:
        one.spool.close()


def reading(at: int, value: float | None = None) -> bytes:
    value = 20 + math.sin(at * 2 * math.pi / 12) if value is None else value
    return json.dumps({"time": 1_600_000_000 + at * 1.5, "value": value, "other": 2 * value}).encode()


def answers(device: Device) -> list[dict[str, Any]]:
    return [json.loads(payload) for _, payload, _ in device.spool.waiting()]


def test_it_says_what_the_stream_says(tmp_path: Path, start: Callable[[DeviceSettings], Device]) -> None:
    device = start(settings(tmp_path))
    assert device.take(pack(STORE, "pair", 1, KEY, 1))
    periods = [p for p in range(120) if p not in (50, 51, 52, 80)]
    values = [20 + math.sin(p * 2 * math.pi / 12) + 0.1 * math.cos(p * p) for p in periods]
    for p, value in zip(periods, values, strict=True):
        device.hear(reading(p, value))
    given = rows({"time": np.array(periods) * 1.5, "value": values, "other": np.array(values) * 2})
    said = feed(Model(model="pair", store=EXAMPLE), given).to_pydict()
    told = answers(device)
    assert len(told) == len(periods)
    for column in ("y", "yhat", "yhat_lower", "yhat_upper"):
        for ours, theirs in zip(told, said[column], strict=True):
            assert (ours[column] is None) == (theirs is None)
            assert theirs is None or ours[column] == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("horizon", [1, 6])
def test_bounds_are_those_of_the_stream(horizon: int) -> None:
    random = np.random.default_rng(3)
    start = [0.0, 0.0, 2.0, 2.0]
    ours, theirs = Bounds(start, 0.9, horizon), np.array(start)
    for error in np.r_[random.normal(size=80), 90.0, random.normal(size=40)]:
        made = ours.settle(float(error))
        if not math.isnan(made[0]):
            off, lower, upper = float(error) - made[0], made[1] - made[0], made[2] - made[0]
            conformal.learn_error(theirs, off, lower, upper, 0.9, horizon)
        ours.give(0.0)
    assert [ours.count, ours.scale, ours.below, ours.above] == pytest.approx(theirs.tolist())
    assert ours.count == 121 - horizon


def test_a_trigger_is_answered_with_the_newest_reading(
    tmp_path: Path, start: Callable[[DeviceSettings], Device]
) -> None:
    told = {"predicted_pollution": "predicted", "actual_pollution": "actual", "date": "time"}
    device = start(settings(tmp_path, trigger="go", answer=told))
    device.take(pack(STORE, "tide", 1, KEY, 1))
    device.ask()
    for at in range(8):
        device.hear(reading(at))
    assert not answers(device)
    device.ask()
    (answer,) = answers(device)
    assert answer["date"] == 1_600_000_000 + 7 * 1.5
    assert answer["actual_pollution"] == pytest.approx(20 + math.sin(7 * 2 * math.pi / 12))
    assert abs(answer["predicted_pollution"] - answer["actual_pollution"]) < 0.3


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"{}", b'{"time": "soon", "value": 1}', b'{"time": 1, "value": "x"}', b'{"time": 1e999}', b"\xff"],
)
def test_bad_readings_are_counted_and_the_next_is_heard(
    tmp_path: Path, start: Callable[[DeviceSettings], Device], payload: bytes
) -> None:
    device = start(settings(tmp_path))
    device.take(pack(STORE, "tide", 1, KEY, 1))
    device.hear(payload)
    device.hear(reading(1))
    assert device.counts["bad readings"] == 1
    assert device.counts["answers"] == 1


def test_bundles_are_swapped_and_bad_ones_leave_what_runs(
    tmp_path: Path, start: Callable[[DeviceSettings], Device]
) -> None:
    device = start(settings(tmp_path))
    first, second = pack(STORE, "pair", 1, KEY, 1), pack(STORE, "pair", 2, KEY, 2)
    assert device.take(first)
    for at in range(6):
        device.hear(reading(at))
    assert not device.take(pack(STORE, "pair", 2, bytes(32), 9))
    assert not device.take(second[:-50])
    assert device.take(second)
    assert not device.take(first)  # older than what runs
    device.hear(reading(6))
    assert device.bundle is not None
    assert device.bundle.manifest.version == 2
    assert len(device.machines[""].window) == 4  # windows are kept
    assert device.counts["bundles refused"] == 3
    again = start(device.settings).bundle
    assert again is not None
    assert again.manifest == device.bundle.manifest


def test_it_rolls_back_to_the_bundle_before(tmp_path: Path, start: Callable[[DeviceSettings], Device]) -> None:
    device = start(settings(tmp_path))
    device.take(pack(STORE, "pair", 1, KEY, 1))
    device.take(pack(STORE, "pair", 2, KEY, 2))
    (tmp_path / "edge" / "current.bundle").write_bytes(b"half of a bun")
    again = start(device.settings)
    assert again.bundle is not None
    assert again.bundle.manifest.version == 1
    assert again.counts["bundles refused"] == 1


def test_the_spool_keeps_order_through_restarts_and_has_a_limit(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for i in range(10):
        spool.add("t", b"%d" % i)
    spool.sync()
    places = [place for _, _, place in spool.waiting()]
    spool.sent(places[3])
    spool.close()
    with open(tmp_path / "spool.ndjson", "ab") as file:
        file.write(b'["t", "torn')
    spool = Spool(tmp_path)
    spool.add("t", b"10")
    assert [payload for _, payload, _ in spool.waiting()] == [b"%d" % i for i in range(4, 11)]
    spool.sent(list(spool.waiting())[-1][2])
    assert not list(spool.waiting())
    assert (tmp_path / "spool.ndjson").stat().st_size == 0
    spool.close()
    small = Spool(tmp_path, bytes_max=400)
    for i in range(100):
        small.add("t", b"%d" % i)
    left = [int(payload) for _, payload, _ in small.waiting()]
    assert left == list(range(left[0], 100))
    assert small.let_go == left[0] > 50
    small.close()


def test_over_a_broker_that_goes_away(
    tmp_path: Path, mosquitto: Callable[..., Mosquitto], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.edge.device.RETRY_S", (0.05, 0.1))
    near, far = mosquitto(), mosquitto()
    process = Process(settings(tmp_path, url=near.url, upstream=far.url))
    process.turn(0.0)
    listener = Plain(far.url, "listener", ["edge/forecast"])
    listener.connect()
    plant = Plain(near.url, "plant")
    plant.connect()
    to = f"{far.url}/edge/bundle"
    arguments = ["models", "deploy", "tide", "--to", to, "--key", process.device.settings.key, "--store", EXAMPLE]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    until(process, lambda: process.device.bundle is not None)
    plant.publish("edge/readings", reading(0))
    until(process, lambda: listener.poll(0.0) is not None)
    far.stop()
    for at in range(1, 30):
        plant.publish("edge/readings", reading(at))
    until(process, lambda: process.device.counts["answers"] == 30 and not process.far.client.connected)
    assert len(list(process.device.spool.waiting())) == 29
    far.start()
    listener.connect()
    heard: list[float] = []

    def all_heard() -> bool:
        if message := listener.poll(0.0):
            heard.append(json.loads(message[1])["time"])
        return len(heard) >= 29

    until(process, all_heard)
    assert heard == [1_600_000_000 + at * 1.5 for at in range(1, 30)]
    for one in (process, listener, plant):
        one.close()


def until(process: Process, done: Callable[[], bool]) -> None:
    for _ in range(2_000):
        process.turn(0.01)
        if done():
            return
    pytest.fail(f"it did not come: {process.device.counts}")


def test_bundles_come_from_a_folder(tmp_path: Path) -> None:
    process = Process(settings(tmp_path, url="mqtt://127.0.0.1:1", bundle_folder=str(tmp_path / "in")))
    arguments = ["models", "deploy", "tide", "1", "--to", str(tmp_path / "in"), "--store", EXAMPLE]
    assert CliRunner().invoke(main, [*arguments, "--key", process.device.settings.key]).exit_code == 0
    process.turn(0.0)
    process.turn(0.0)
    assert process.device.counts["bundles"] == 1
    process.close()


def test_mistakes_in_its_settings_are_told(tmp_path: Path) -> None:
    file = tmp_path / "edge.json"
    for text, sentence in (
        ("{", "cannot be read as JSON"), ('{"keey": 1}', "'keey'.* is not known"), ("[]", "key is needed"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(ConfigError, match=sentence):
            DeviceSettings.read(file)
    with pytest.raises(ConfigError, match="not an MQTT address"):
        Process(replace(settings(tmp_path), url="http://here"))
    file.write_text(json.dumps({"key": str(tmp_path / "none")}))
    result = CliRunner().invoke(main, ["edge", str(file)])
    assert result.exit_code == 2
    assert "openssl rand 32" in result.output


def test_it_needs_none_of_the_large_libraries() -> None:
    code = "import sys, tocsin.edge.device, onnxruntime; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    heavy = {
        "numba",
        "llvmlite",
        "pyarrow",
        "duckdb",
        "pydantic",
        "polars",
        "jax",
        "starlette",
        "plotly",
        "pandas",
        "click",
    }
    assert not heavy & set(done.stdout.split())
