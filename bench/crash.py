"""Kill the engine with -9 at random moments, and count what was lost or doubled; ends with one JSON line.

    python bench/crash.py --kills 200

MQTT at QoS 1 (a real Mosquitto and our own broker, both kept alive) and a growing file as sources; three Delta tables
and the outbox as sinks. The tables are read by delta-rs, if it is installed, else through their log by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from engine_process import end, engine

from tocsin.contracts import Channel, Message
from tocsin.pipeline.model import Pipeline
from tocsin.pipeline.plan import Plan, SinkNode
from tocsin.testing import read_from
from tocsin.world import World

RATE = 250
"""Messages a second from each source."""
STEP_US = 10_000
"""Event time between two messages of a source."""
WINDOW_US = 1_000_000
BEGIN_US = 1_767_225_600_000_000
CLOSING = 3
"""Last messages of a source, far ahead in time, so that every window before them is closed."""


def payload(source: str, n: int) -> bytes:
    """What a source sends as its n-th message; one in fifty is no JSON."""
    if n % 50 == 49:
        return b"%s broken %d" % (source.encode(), n)
    return _row(source, n, BEGIN_US + n * STEP_US)


def _row(source: str, n: int, time_us: int) -> bytes:
    row = {"machine": f"{source}{n % 5}", "ts": time_us, "n": n, "value": n * 37 % 101}
    return json.dumps(row).encode()


class Bell(Channel):
    """Writes each alert's id to a file."""

    path: str
    URGENT: ClassVar[bool] = True

    def messages(self, rows: pa.RecordBatch) -> Sequence[Message]:
        return [
            Message(f"{key}/{n}", b"")
            for key, n in zip(rows["key"].to_pylist(), rows["n"].to_pylist(), strict=True)
        ]  # fmt: skip

    def open(self, world: World) -> Any:
        return BellFile(self.path)


class BellFile:
    def __init__(self, path: str) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def deliver(self, messages: Sequence[Message]) -> None:
        os.write(self.file, "".join(f"{m.id}\n" for m in messages).encode())

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        os.close(self.file)


def plan(folder: Path, urls: dict[str, str]) -> Plan:
    """All sources united; readings, windows and rejected rows to Delta, some readings to the outbox."""
    decode = {
        "json": {"columns": {"machine": "text", "ts": {"type": "timestamp", "unit": "us"}, "n": "int", "value": "int"}}
    }
    shared = {"decode": decode, "key": "machine", "time": {"column": "ts", "lateness": "2s"}, "idle_timeout": "1h"}
    sources: dict[str, Any] = {
        name: {"source": {"mqtt": {"url": url, "topic": "crash/#", "client_id": "crash"}}, **shared}
        for name, url in urls.items()
    }
    sources["files"] = {"source": {"files": {"path": str(folder / "in.ndjson"), "follow": True}}, **shared}
    pipeline = Pipeline.model_validate(
        {
            "name": "crash",
            "folder": folder / "lake",
            "checkpoint": "200ms",
            "sources": sources,
            "streams": {
                "readings": {"from": list(sources), "sinks": [{"delta": "readings"}]},
                "windows": {
                    "from": "readings",
                    "steps": [{"window": {"every": "1s", "compute": {"count": "count(*)", "total": "sum(n)"}}}],
                    "sinks": [{"delta": "windows"}],
                },
                "alerts": {"from": "readings", "steps": [{"keep": "value > 98"}]},
            },
        }
    )
    found = pipeline.plan()
    (port,) = found.streams["alerts"]
    schema = next(step for step in found.steps if step.id == port[0]).schemas[port[1]]
    bell = SinkNode("bell", (port,), Bell(path=str(folder / "bell")), schema)
    return replace(found, sinks=(*found.sinks, bell))


# What is kept alive


@contextmanager
def mosquitto(folder: Path) -> Any:
    """A broker that keeps sessions and drops nothing."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {folder}/\n"
        "max_queued_messages 0\nmax_queued_bytes 0\nmax_inflight_messages 200\nuser root\n"
    )
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise SystemExit("mosquitto is missing; install it with: apt-get install mosquitto")
    with open(folder / "mosquitto.log", "wb") as log:
        process = subprocess.Popen([program, "-c", folder / "mosquitto.conf"], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def send(folder: Path, mosquitto_url: str) -> None:
    """The other process: our own broker, and whoever publishes, until a line comes; then it tells the counts."""
    from tocsin.mqtt.broker import Broker, BrokerConfiguration
    from tocsin.mqtt.client import Client

    with Broker(BrokerConfiguration(queue_max=1_000_000)) as broker:
        print(broker.url, flush=True)
        sys.stdin.readline()  # the engine has subscribed
        clients = {"mosquitto": Client(mosquitto_url), "own": Client(broker.url)}
        counts, begin = Counter[str](), time.monotonic()
        with open(folder / "in.ndjson", "ab", buffering=0) as file:
            while not select.select((sys.stdin,), (), (), 0.01)[0]:
                until = int((time.monotonic() - begin) * RATE)
                for name, client in clients.items():
                    numbers = range(counts[name], until)
                    client.publish([(f"crash/{name}", payload(name, n)) for n in numbers])
                    counts[name] = max(counts[name], until)
                file.write(b"".join(payload("files", n) + b"\n" for n in range(counts["files"], until)))
                counts["files"] = max(counts["files"], until)
            sys.stdin.readline()
            last = max(counts.values())
            for i in range(CLOSING):
                far = BEGIN_US + (last + 1_000 * (i + 1)) * STEP_US
                for name, client in clients.items():
                    client.publish([(f"crash/{name}", _row(name, -1 - i, far))])
                file.write(_row("files", -1 - i, far) + b"\n")
        print(json.dumps(counts), flush=True)
        sys.stdin.readline()  # the broker lives until this process is killed


# The run


def subscribe(found: Plan) -> None:
    """Open each session once, so that the brokers keep what is published from now on."""
    for origin in found.sources:
        if origin.source.name() == "mqtt":
            reader: Any = read_from(origin.source)
            until = time.monotonic() + 10
            while not reader.client.connected and time.monotonic() < until:
                reader.poll(1, 0.1)
            reader.close()


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """The rows of a table, as another engine sees them."""
    path = folder / "lake" / table
    if not (path / "_delta_log").is_dir():
        return []
    from deltalake import DeltaTable

    return list(DeltaTable(path).to_pyarrow_table().to_pylist())


def verdict(folder: Path, counts: dict[str, int]) -> dict[str, int]:
    """What is lost, doubled or wrong in the tables and the outbox."""
    good = Counter((f"{s}{n % 5}", n) for s, count in counts.items() for n in range(count) if n % 50 != 49)
    closing = Counter((f"{s}{(-1 - i) % 5}", -1 - i) for s in counts for i in range(CLOSING))
    bad = Counter(payload(s, n) for s, count in counts.items() for n in range(count) if n % 50 == 49)
    windows: Counter[tuple[str, int]] = Counter()
    for (key, n), count in good.items():
        windows[key, (BEGIN_US + n * STEP_US) // WINDOW_US] += count
    alerts = {f"{key}/{n}" for key, n in (*good, *closing) if n * 37 % 101 > 98}
    last = (BEGIN_US + max(counts.values()) * STEP_US) // WINDOW_US
    found = Counter((row["key"], row["n"]) for row in rows(folder, "readings"))
    found_bad = Counter(row["payload"].rstrip() for row in rows(folder, "quarantine"))
    found_windows: Counter[tuple[str, int]] = Counter()
    doubled_windows = Counter[tuple[str, int]]()
    for row in rows(folder, "windows"):
        place = row["key"], int(row["time"].timestamp() * 1e6) // WINDOW_US
        if place[1] <= last:
            found_windows[place] += row["count"]
            doubled_windows[place] += 1
    delivered = set((folder / "bell").read_text().split())
    expected = good + closing
    return {
        "sent": (expected + bad).total(),
        "lost": ((expected - found).total() + (bad - found_bad).total() + (windows - found_windows).total()),
        "doubled": (
            (found - expected).total()
            + (found_bad - bad).total()
            + (found_windows - windows).total()
            + sum(count - 1 for count in doubled_windows.values())
        ),
        "alerts": len(alerts),
        "alerts_missing": len(alerts - delivered),
        "alerts_invented": len(delivered - alerts),
    }


def run(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill and start again, then let it catch up, then look."""
    folder.mkdir(exist_ok=True)
    (folder / "in.ndjson").touch()
    draw = random.Random(seed)
    with mosquitto(folder) as url:
        command = [sys.executable, __file__, "--send", str(folder), url]
        sender = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert sender.stdin is not None
        assert sender.stdout is not None
        try:
            found = plan(folder, {"mosquitto": url, "own": sender.stdout.readline().strip()})
            subscribe(found)
            print("go", file=sender.stdin, flush=True)
            for i in range(kills):
                child = engine(found)
                time.sleep(draw.expovariate(1 / 0.4))
                status = end(child, signal.SIGKILL)
                if not os.WIFSIGNALED(status):
                    raise SystemExit(f"the engine ended by itself with status {os.waitstatus_to_exitcode(status)}")
                print(f"\r{i + 1} kills", end="", file=sys.stderr)
            print("x", file=sender.stdin, flush=True)
            counts = json.loads(sender.stdout.readline())
            child = engine(found)
            await_rows(folder, sum(n - n // 50 + CLOSING for n in counts.values()))
            status = end(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(status) == 0, "the last stop was not clean"
        finally:
            sender.kill()
            sender.wait()
    print(file=sys.stderr)
    return {"kills": kills, **verdict(folder, counts)}


def await_rows(folder: Path, count: int) -> None:
    """Wait until as many readings are there, or no more come."""
    seen, still = 0, 0
    while still < 30:
        time.sleep(0.5)
        now = len(rows(folder, "readings"))
        still = 0 if now > seen else still + 1
        seen = now
        if seen >= count:
            still += 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="leave tables and state in this folder")
    parser.add_argument("--send", nargs=2, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.send:
        send(Path(settings.send[0]), settings.send[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(settings.keep or Path(folder), settings.kills, settings.seed)))


if __name__ == "__main__":
    main()
