"""A device: how large it is, how fast, and what it does when the link is away or a model is bad: python bench/edge.py

installed_mb: what the wheel `tocsin-edge`, built from this tree, brings into a fresh virtual environment, whose command
then runs. ``all_mb`` is what ``pip install 'tocsin[edge]'`` brings, since the dependencies of the pipeline come with
it. resident_mb: the process after the run, from /proc. p99_ms: from the bytes of a reading to its answer in the spool,
LSTM of 32 units, window 24 (the fsync follows, once a round). offline_kept: of 1,000 answers made while their
broker was away, how many arrived in order once it was back. rolled_back: whether a bundle that fails its self-test,
and one that was torn on disk, left the version before running.

Needs mosquitto, and a package index for the first two (``--no-install`` leaves them out). Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hatchling.builders.wheel import WheelBuilder

from tocsin.edge.bundle import _sign, pack
from tocsin.edge.device import Device, DeviceSettings
from tocsin.models.manifest import MODEL, Manifest
from tocsin.models.recurrent import to_onnx
from tocsin.models.store import Store
from tocsin.mqtt.plain import Lost, Plain

ROOT = Path(__file__).parent.parent
KEY = bytes(range(32))
READINGS = 1_000
MB = 1_000_000


def store(folder: Path) -> Store:
    """Two versions of a net with weights from a hat."""
    made = Store(folder / "models")
    for seed in (1, 2):
        random = np.random.default_rng(seed)
        shapes = {"w": (128, 1), "r": (128, 32), "b": (128,), "out": (32,), "bias": ()}
        weights = {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
        draft = Manifest(
            "drawn", "forecaster", ("value",), "value", window=24, horizon=1,
            scaling={"mean": [[20.0]], "scale": [[1.0]], "change": [1.0]},
            settings={"every_us": None, "coverage": 0.9, "keys": [], "conformal": [40.0, 1.0, 2.0, 2.0]},
        )  # fmt: skip
        made.add(draft, {MODEL: to_onnx("lstm", weights, 24)})
    return made


def installed(what: str, folder: Path) -> float:
    """Megabytes that a fresh environment in this folder has more than an empty one."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    before = size(folder)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, what], check=True)
    return (size(folder) - before) / MB


def wheel(folder: Path) -> str:
    """The distribution for devices, built from this tree."""
    builder = WheelBuilder(str(ROOT / "packaging" / "edge"))
    return next(iter(builder.build(directory=str(folder), versions=["standard"])))


def size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def reading(at: int) -> bytes:
    return json.dumps({"time": 1_600_000_000 + at, "value": 20 + math.sin(at / 4)}).encode()


def answered_ms(folder: Path, bundle: bytes) -> dict[str, float]:
    """Milliseconds from a reading's bytes to its answer; of the processor, too, which others do not slow down."""
    (folder / "edge.key").write_bytes(KEY)
    device = Device(DeviceSettings(key=str(folder / "edge.key"), folder=str(folder / "p99")))
    device.take(bundle)
    spent = []
    for at in range(3_000):
        payload = reading(at)
        begin, busy = time.perf_counter(), time.thread_time()
        device.hear(payload)
        spent.append((time.perf_counter() - begin, time.thread_time() - busy))
    device.spool.close()
    wall, busy_ms = np.array(spent[100:]).T * 1e3
    figures = {
        "median_ms": np.median(wall),
        "p99_ms": np.quantile(wall, 0.99),
        "p99_cpu_ms": np.quantile(busy_ms, 0.99),
    }
    return {name: round(float(value), 3) for name, value in figures.items()}


def rolled_back(folder: Path, first: bytes, second: bytes) -> bool:
    """Whether a bundle that fails its self-test, and one that is torn on disk, leave the version before running."""
    settings = DeviceSettings(key=str(folder / "edge.key"), folder=str(folder / "back"))
    device = Device(settings)
    device.take(first)
    inner = json.loads(json.loads(second)["content"])
    inner["answers"][0] += 1.0
    content = json.dumps(inner)
    device.take(json.dumps({"content": content, "signature": _sign(content.encode(), KEY)}).encode())
    kept = device.bundle is not None and device.bundle.manifest.version == 1
    device.take(second)
    device.spool.close()
    current = folder / "back" / "current.bundle"
    current.write_bytes(current.read_bytes()[:1_000])
    again = Device(settings)
    again.spool.close()
    return kept and again.bundle is not None and again.bundle.manifest.version == 1


class Broker:
    """A Mosquitto on a port of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._file = folder / f"{self.port}.conf"
        self._file.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        self.start()

    def start(self) -> None:
        program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin") or "mosquitto"
        self._process = subprocess.Popen([program, "-c", self._file], stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise SystemExit("mosquitto does not start")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def offline(folder: Path, bundle: bytes, command: Sequence[str | Path]) -> tuple[int, float]:
    """How many of the answers made while their broker was away arrive in order; megabytes of the process."""
    near, far = Broker(folder), Broker(folder)
    told = {"key": str(folder / "edge.key"), "url": near.url, "upstream": far.url, "folder": str(folder / "offline")}
    (folder / "edge.json").write_text(json.dumps(told))
    (folder / "offline").mkdir()
    (folder / "offline" / "current.bundle").write_bytes(bundle)
    listener, plant = Plain(far.url, "listener", ["edge/forecast"]), Plain(near.url, "plant")
    plant.connect()
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env = outside if command[0] != sys.executable else None
    device = subprocess.Popen([*command, folder / "edge.json"], stderr=subprocess.DEVNULL, env=env)
    try:
        listener.connect()
        while listener.poll(0.1) is None:  # it is there once it answers
            plant.publish("edge/readings", reading(0))
        far.stop()
        for at in range(1, READINGS + 1):
            plant.publish("edge/readings", reading(at))
        spool = folder / "offline" / "spool.ndjson"
        while spool.read_bytes().count(b"\n") < READINGS:
            time.sleep(0.1)
        far.start()
        listener.connect()
        heard: list[Any] = []
        deadline = time.monotonic() + 90
        while len(heard) < READINGS and time.monotonic() < deadline:
            try:
                message = listener.poll(1.0)
            except Lost:
                listener.connect()
                continue
            if message and (at := json.loads(message[1])["time"] - 1_600_000_000) > 0:
                heard.append(at)
        kept = len(heard) if heard == sorted(set(heard)) else -1
        resident = next(
            int(line.split()[1]) / 1_000
            for line in Path(f"/proc/{device.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
    finally:
        device.terminate()
        device.wait(10)
        plant.close()
        listener.close()
        near.stop()
        far.stop()
    return kept, resident


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-install", action="store_true")
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    command: list[str | Path] = [sys.executable, "-m", "tocsin.edge"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not options.no_install:
            figures["installed_mb"] = round(installed(wheel(folder), folder / "device"), 1)
            figures["all_mb"] = round(installed(f"{ROOT}[edge]", folder / "all"), 1)
            command = [folder / "device" / "bin" / "tocsin-edge"]
        made = store(folder)
        first, second = (pack(made, "drawn", version, KEY, version) for version in (1, 2))
        figures |= answered_ms(folder, first)
        figures["rolled_back"] = rolled_back(folder, first, second)
        kept, resident = offline(folder, first, command)
        figures |= {"resident_mb": round(resident, 1), "offline_kept": kept}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
