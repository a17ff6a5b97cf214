"""An engine left to itself, with what grows of it; ends with one JSON line.

    python bench/soak.py [--minutes 120] [--rate 2000] [--folder DIR]

A device publishes ``--rate`` readings a second at QoS 1, of 100 machines, one in a thousand of them abnormal, to an
MQTT broker; the engine runs as `tocsin run` does, in a process of its own, with its default settings: readings, a
detector, alarms, three Delta tables. Every few seconds its memory, its open files, the files and bytes of the tables
and of the state are looked at. The slopes are those of a straight line through the last three quarters of the time, for
an hour. At the end the engine is stopped, and the rows of the table are counted against those that were sent.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tocsin.lake.read import read
from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.mqtt.client import Client

MACHINES = 100
PIPELINE = """\
name: soak
folder: {folder}/lake
source: {{mqtt: {{url: "{url}", topic: plant/+/telemetry, client_id: soak}}}}
decode: {{json: {{topic: "plant/{{machine}}/telemetry", columns: {{time: timestamp, value: float, n: int}}}}}}
key: machine
time: {{column: time, lateness: 1s}}
streams:
  readings:
    sinks: [delta: readings]
  judged:
    from: readings
    steps: [zscore: {{of: value}}]
    sinks: [delta: judged]
  alarms:
    from: judged
    steps: [alarm: {{rule: value, of: value, score: 90}}]
    sinks: [delta: alarms]
"""


def publish(url: str, rate: int, until: threading.Event, sent: list[int]) -> None:
    """Publish readings, a tenth of a second's at a time, at the rate asked for or as fast as the broker takes them."""
    client, random, count = Client(url, "device"), np.random.default_rng(1), 0
    begin = time.monotonic()
    while not until.is_set():
        behind_s = begin + count / rate - time.monotonic()
        if behind_s > 0:
            time.sleep(behind_s)
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}.{int(time.time() * 1e6) % 10**6:06d}Z"
        messages = []
        for value in random.normal(0, 1, rate // 10) + 40.0 * (random.random(rate // 10) < 0.001):
            text = f'{{"time":"{stamp}","value":{value:.4f},"n":{count}}}'
            messages.append((f"plant/m{count % MACHINES}/telemetry", text.encode()))
            count += 1
        client.publish(messages)
        sent[0] = count
    client.close()


def look(process: int, folder: Path) -> dict[str, float]:
    """Returns memory, descriptors, files and bytes as they are now."""
    memory = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    found = {"memory_mb": memory / 1e6, "descriptors": len(os.listdir(f"/proc/{process}/fd"))}
    counts = {"data": [0, 0], "log": [0, 0], "state": [0, 0]}
    for place, _, names in os.walk(folder / "lake"):
        kind = "state" if ".state" in place else "log" if "_delta_log" in place else "data"
        for name in names:
            with suppress(FileNotFoundError):
                counts[kind][1] += os.stat(os.path.join(place, name)).st_size
                counts[kind][0] += 1
    for kind, (files, size) in counts.items():
        found |= {f"{kind}_files": files, f"{kind}_mb": size / 1e6}
    return found


def slope(times_h: list[float], values: list[float]) -> float:
    """Returns by how much it grows in an hour, over the last three quarters."""
    first = len(values) // 4
    if len(values) - first < 2:
        return float("nan")
    return float(np.polyfit(times_h[first:], values[first:], 1)[0])


def soak(minutes: float, rate: int, folder: Path, every_s: float) -> dict[str, Any]:
    """Run broker, device and engine for so long; returns what was found."""
    (folder / "lake").mkdir(parents=True)
    until, sent = threading.Event(), [0]
    samples: list[dict[str, float]] = []
    times_h: list[float] = []
    with Broker(BrokerConfiguration()) as broker:
        (folder / "soak.yaml").write_text(PIPELINE.format(folder=folder, url=broker.url))
        Client(broker.url, "soak", filters=["plant/+/telemetry"], clean=False, session_expiry_s=86_400).connect()
        command = [sys.executable, "-m", "tocsin.cli", "run", str(folder / "soak.yaml")]
        engine = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        device = threading.Thread(target=publish, args=(broker.url, rate, until, sent), daemon=True)
        device.start()
        begin = time.monotonic()
        while (passed_s := time.monotonic() - begin) < 60 * minutes and engine.poll() is None:
            samples.append(look(engine.pid, folder))
            times_h.append(passed_s / 3600)
            print(f"\r{passed_s:6.0f} s  {samples[-1]}", end="", file=sys.stderr, flush=True)
            time.sleep(every_s)
        print(file=sys.stderr)
        until.set()
        device.join(60)
        time.sleep(5)
        engine.send_signal(signal.SIGTERM)
        engine.wait(120)
    numbers = read("readings", folder / "lake")["n"].to_numpy()
    rows = len(numbers)
    slopes = {name: round(slope(times_h, [one[name] for one in samples]), 3) for name in samples[0]}
    return {
        "minutes": round(times_h[-1] * 60, 1), "rate": rate, "sent": sent[0], "rows": rows,
        "lost": sent[0] - len(np.unique(numbers)), "doubled": rows - len(np.unique(numbers)),
        "last": {name: round(value, 1) for name, value in samples[-1].items()}, "an_hour_more": slopes,
        "data_files_kept_an_hour": round(samples[-1]["data_files"] / times_h[-1]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--every", type=float, default=0.5, help="seconds between looks")
    parser.add_argument("--folder", type=Path, help="where to work; it must not be there yet")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = soak(asked.minutes, asked.rate, asked.folder or Path(temporary) / "soak", asked.every)
    print(json.dumps({"bench": "soak", **found}))


if __name__ == "__main__":
    main()
