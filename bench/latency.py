"""From the publish of a reading to its alarm in the outbox, durable: python bench/latency.py [--seconds 30]

A device publishes 1,000 readings a second at QoS 1 to an MQTT broker; five a second break a limit, each on a machine
of its own. The engine runs as `tocsin run` does, with its default settings and three Delta tables. The clock starts
when the message is handed to the socket and stops when another process can read the alarm's row in the outbox (it
looks every millisecond). Ends with one line of JSON; `unseen_ms` is the longest time between two such looks: a machine
that stands still, or this process held up, is told from an engine that is slow.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.mqtt.client import Client

RATE = 1000
ALARM_EVERY = 200
PIPELINE = """\
name: latency
folder: {folder}
source:
  mqtt: {{url: {url}, topic: plant/+/telemetry, client_id: latency}}
decode:
  json: {{topic: "plant/{{machine}}/telemetry", columns: {{time: timestamp, value: float}}}}
key: machine
time: {{column: time, lateness: 100ms}}
streams:
  readings: {{sinks: [delta: readings]}}
  windows: {{from: readings, steps: [{{window: {{every: 1s, compute: mean(value)}}}}], sinks: [delta: windows]}}
  alarms: {{from: readings, steps: [{{alarm: {{high: 90}}}}], sinks: [delta: alarms]}}
  bell: {{from: alarms, steps: [keep: ring], sinks: [{{notify: {{to: "{bell}", allow_private: true}}}}]}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=30)
    seconds = parser.parse_args().seconds
    # A bell that nobody answers: what has been delivered is no longer told apart in the outbox.
    with (
        tempfile.TemporaryDirectory() as name,
        Broker(BrokerConfiguration()) as broker,
        socket.create_server(("127.0.0.1", 0)) as deaf,
    ):
        folder = Path(name)
        bell = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        (folder / "latency.yaml").write_text(PIPELINE.format(folder=folder / "lake", url=broker.url, bell=bell))
        with open(folder / "engine.log", "wb") as log:
            engine = subprocess.Popen(
                [sys.executable, "-m", "tocsin.cli", "run", str(folder / "latency.yaml")], stdout=log, stderr=log
            )
        try:
            sent, seen, unseen_s = measured(broker.url, folder / "lake" / ".state", seconds)
        finally:
            engine.send_signal(signal.SIGINT)
            engine.wait(60)
    taken = np.array([1e3 * (seen[key] - at) for key, at in sent.items() if key in seen])
    figures = {
        "readings_per_s": RATE,
        "alarms": len(sent),
        "missing": len(sent) - len(taken),
        "median_ms": round(float(np.median(taken)), 1),
        "p99_ms": round(float(np.quantile(taken, 0.99)), 1),
        "max_ms": round(float(taken.max()), 1),
        "unseen_ms": round(1e3 * unseen_s, 1),
    }
    print(f"publish to outbox at {RATE} readings/s: median {figures['median_ms']} ms, p99 {figures['p99_ms']} ms")
    print(json.dumps(figures))


def measured(url: str, state: Path, seconds: int) -> tuple[dict[str, float], dict[str, float], float]:
    """When each alarming machine's reading was sent, when its alarm was seen (monotonic s); longest time unseen (s)."""
    sent: dict[str, float] = {}
    seen: dict[str, float] = {}
    looks: list[float] = []
    done = threading.Event()
    device = Client(url)
    publish(device, 0, 95.0, "warm-up")  # compiles the engine's kernels before the clock runs
    wait_for_alarm(device, state)
    gc.collect()
    gc.freeze()  # the broker lives here: a look through all that is loaded held each message up by 50 to 100 ms
    watcher = threading.Thread(target=watch, args=(state, seen, looks, done))
    watcher.start()
    begin = time.monotonic()
    for i in range(seconds * RATE):
        if (ahead := begin + i / RATE - time.monotonic()) > 0:
            time.sleep(ahead)
        alarming = i % ALARM_EVERY == ALARM_EVERY - 1
        machine = f"a{i}" if alarming else f"m{i % 100}"
        if alarming:
            sent[machine] = time.monotonic()
        publish(device, 0, 95.0 if alarming else 50.0, machine)
    until = time.monotonic() + 10
    while len(seen.keys() & sent.keys()) < len(sent) and time.monotonic() < until:
        time.sleep(0.05)
    done.set()
    watcher.join()
    device.close()
    return sent, seen, max(after - before for before, after in pairwise(looks))


def publish(device: Client, qos: int, value: float, machine: str) -> None:
    now = np.datetime64(time.time_ns() // 1000, "us")
    device.publish([(f"plant/{machine}/telemetry", f'{{"time":"{now}Z","value":{value}}}'.encode())], qos=qos)


def wait_for_alarm(device: Client, state: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        publish(device, 0, 95.0, f"warm-up-{time.monotonic_ns()}")
        if rows(state, 0):
            return
        time.sleep(0.2)
    raise SystemExit("the engine raised no alarm within two minutes")


def rows(state: Path, after: int) -> list[tuple[int, bytes]]:
    store = state / "checkpoints.db"
    if not store.exists():
        return []
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=5) as connection:
        try:
            return connection.execute("SELECT number, body FROM outbox WHERE number > ?", (after,)).fetchall()
        except sqlite3.OperationalError:
            return []


def watch(state: Path, seen: dict[str, float], looks: list[float], done: threading.Event) -> None:
    last = 0
    while not done.is_set():
        looks.append(time.monotonic())
        for number, body in rows(state, last):
            last = max(last, number)
            seen.setdefault(json.loads(body)["row"]["key"], time.monotonic())
        time.sleep(0.001)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
