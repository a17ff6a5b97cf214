"""Kill the engine with -9 at random moments, and count what was lost or doubled; ends with one JSON line.

    python bench/crash.py --kills 200
    python bench/crash.py --workers 2 --rate 3000 --life 1.5 --kills 4

MQTT at QoS 1 (a real Mosquitto and our own broker, both kept alive) and a growing file as sources; Delta tables of
readings, windows, windows judged by two detectors, alarms and rejected rows, and messages to Mosquitto through the
outbox as sinks. The tables are read by delta-rs. What came is counted against what was sent and, row by row,
against the tables of two runs over the same records that nobody kills: one with one worker, one with as many as the
killed run had.
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
from collections.abc import Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from engine_process import end, engine

from tocsin.mqtt.client import Client
from tocsin.pipeline.plan import Plan
from tocsin.pipeline.yamlfile import load_with_plan
from tocsin.testing import read_from

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


def closing_rows(source: str, last: int) -> list[bytes]:
    """What a source sends at the end, if the longest has sent so many messages."""
    return [_row(source, -1 - i, BEGIN_US + (last + 1_000 * (i + 1)) * STEP_US) for i in range(CLOSING)]


def _row(source: str, n: int, time_us: int) -> bytes:
    row = {"machine": f"{source}{n % 5}", "ts": time_us, "n": n, "value": n * 37 % 101}
    return json.dumps(row).encode()


def described(folder: Path, sources: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """All sources united: readings, what windows hold, what detectors say of them, alarms, rejected rows."""
    decode = {
        "json": {"columns": {"machine": "text", "ts": {"type": "timestamp", "unit": "us"}, "n": "int", "value": "int"}}
    }
    shared = {"decode": decode, "key": "machine", "time": {"column": "ts", "lateness": "2s"}, "idle_timeout": "1h"}
    return {
        "name": "crash",
        "folder": str(folder),
        "checkpoint": "200ms",
        **settings,
        "sources": {name: {"source": source, **shared} for name, source in sources.items()},
        "streams": {
            "readings": {"from": list(sources), "sinks": [{"delta": "readings"}]},
            "windows": {
                "from": "readings",
                "steps": [{"window": {"every": "1s", "compute": {"count": "count(*)", "total": "sum(n)"}}}],
                "sinks": [{"delta": "windows"}],
            },
            "judged": {
                "from": "readings",
                "steps": [
                    {"window": {"every": "1s", "compute": {"value": "mean(value)"}}},
                    {"zscore": {"of": "value", "learn": 20}},
                    {"select": ["value", "z"]},
                    {"ewma": {"of": "value", "learn": 20}},
                ],
                "sinks": [{"delta": "judged"}],
            },
            "alarms": {
                "from": "readings",
                "steps": [{"alarm": {"rule": "high", "of": "value", "high": 98}}],
                "sinks": [{"delta": "alarms"}],
            },
            "alerts": {"from": "readings", "steps": [{"keep": "value > 98"}]},
        },
    }


def killed(folder: Path, urls: Mapping[str, str], workers: int) -> Path:
    """Returns the pipeline file of the run that is killed."""
    sources: dict[str, Any] = {
        name: {"mqtt": {"url": url, "topic": "crash/#", "client_id": "crash"}} for name, url in urls.items()
    }
    sources["files"] = {"files": {"path": str(folder / "files.ndjson"), "follow": True}}
    made = described(folder / "lake", sources, {"workers": workers})
    told = {"mqtt": {"url": urls["mosquitto"], "topic": "rung/alerts", "columns": ["key", "n"]}}
    made["streams"]["alerts"]["sinks"] = [told]
    return written(folder / "crash.yaml", made)


def unkilled(folder: Path, counts: Mapping[str, int], workers: int) -> Path:
    """Run over all that was sent, as files, to the end; returns where its tables are."""
    lake = folder / f"unkilled-{workers}"
    sources = {name: {"files": {"path": str(folder / f"sent-{name}.ndjson")}} for name in counts}
    made = described(lake, sources, {"workers": workers})
    del made["streams"]["alerts"]
    status = os.waitpid(engine(load_with_plan(written(folder / f"unkilled-{workers}.yaml", made), {})[1]), 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0, "a run that nobody killed has failed"
    return lake


def written(file: Path, pipeline: Mapping[str, Any]) -> Path:
    file.write_text(json.dumps(pipeline))
    return file


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


def send(folder: Path, mosquitto_url: str, rate: int) -> None:
    """The other process: our own broker, and whoever publishes, until a line comes; then it tells the counts."""
    from tocsin.mqtt.broker import Broker, BrokerConfiguration

    with Broker(BrokerConfiguration(queue_max=1_000_000)) as broker:
        print(broker.url, flush=True)
        sys.stdin.readline()  # the engine has subscribed
        clients = {"mosquitto": Client(mosquitto_url), "own": Client(broker.url)}
        counts, begin = Counter[str](), time.monotonic()
        with open(folder / "files.ndjson", "ab", buffering=0) as file:
            while not select.select((sys.stdin,), (), (), 0.01)[0]:
                until = int((time.monotonic() - begin) * rate)
                for name, client in clients.items():
                    numbers = range(counts[name], until)
                    client.publish([(f"crash/{name}", payload(name, n)) for n in numbers])
                    counts[name] = max(counts[name], until)
                file.write(b"".join(payload("files", n) + b"\n" for n in range(counts["files"], until)))
                counts["files"] = max(counts["files"], until)
            sys.stdin.readline()
            last = max(counts.values())
            for name, client in clients.items():
                client.publish([(f"crash/{name}", row) for row in closing_rows(name, last)])
            file.write(b"".join(row + b"\n" for row in closing_rows("files", last)))
        print(json.dumps(counts), flush=True)
        sys.stdin.readline()  # the broker lives until this process is killed


# The run


def subscribe(plan: Plan) -> None:
    """Open each session once, so that the brokers keep what is published from now on."""
    for origin in plan.sources:
        if origin.source.name() == "mqtt":
            reader: Any = read_from(origin.source)
            until = time.monotonic() + 10
            while not reader.client.connected and time.monotonic() < until:
                reader.poll(1, 0.1)
            reader.close()


def heard(url: str, patience_s: float) -> Counter[str]:
    """What the outbox has delivered to Mosquitto, which keeps it for us from the first call on."""
    ear = Client(url, client_id="ear", filters=("rung/#",), clean=False, session_expiry_s=86_400)
    ear.connect()
    ids = Counter[str]()
    while (come := ear.poll(1_000, patience_s)) is not None:
        ids.update(f"{row['key']}/{row['n']}" for row in map(json.loads, come.payloads.to_pylist()))
        ear.acknowledge(come.packet_ids, come.qos)
    ear.close()
    return ids


def rows(table: Path) -> pa.Table:
    """The rows of a table, as another engine sees them."""
    from deltalake import DeltaTable

    return DeltaTable(table).to_pyarrow_table() if (table / "_delta_log").is_dir() else pa.table({})


def verdict(folder: Path, counts: dict[str, int], delivered: Counter[str]) -> dict[str, int]:
    """What is lost, doubled or wrong in the tables and the outbox."""
    lake = folder / "lake"
    good = Counter((f"{s}{n % 5}", n) for s, count in counts.items() for n in range(count) if n % 50 != 49)
    closing = Counter((f"{s}{(-1 - i) % 5}", -1 - i) for s in counts for i in range(CLOSING))
    bad = Counter(payload(s, n) for s, count in counts.items() for n in range(count) if n % 50 == 49)
    windows: Counter[tuple[str, int]] = Counter()
    for (key, n), count in good.items():
        windows[key, (BEGIN_US + n * STEP_US) // WINDOW_US] += count
    alerts = {f"{key}/{n}" for key, n in (*good, *closing) if n * 37 % 101 > 98}
    last = (BEGIN_US + max(counts.values()) * STEP_US) // WINDOW_US
    found = Counter((row["key"], row["n"]) for row in rows(lake / "readings").to_pylist())
    found_bad = Counter(row["payload"].rstrip() for row in rows(lake / "quarantine").to_pylist())
    found_windows: Counter[tuple[str, int]] = Counter()
    doubled_windows = Counter[tuple[str, int]]()
    for row in rows(lake / "windows").to_pylist():
        place = row["key"], int(row["time"].timestamp() * 1e6) // WINDOW_US
        if place[1] <= last:
            found_windows[place] += row["count"]
            doubled_windows[place] += 1
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
        "alerts_missing": len(alerts - delivered.keys()),
        "alerts_invented": len(delivered.keys() - alerts),
    }


def compared(folder: Path, counts: Mapping[str, int], workers: int) -> dict[str, int]:
    """How many rows there are to compare, and how many of them the killed run lacks or has more than others.

    What comes last differs where a source has an end, so only what lies before it in event time is compared.
    """
    for name, count in counts.items():
        lines = [*(payload(name, n) for n in range(count)), *closing_rows(name, max(counts.values()))]
        (folder / f"sent-{name}.ndjson").write_bytes(b"".join(line + b"\n" for line in lines))
    end_us = BEGIN_US + max(counts.values()) * STEP_US
    mine, result = bags(folder / "lake", end_us), Counter[str]()
    for number in sorted({1, workers}):
        other = bags(unkilled(folder, counts, number), end_us)
        result["compared"] = sum(bag.total() for bag in other.values())
        for table, bag in other.items():
            if not bag:
                raise SystemExit(f"table {table} has no rows, so nothing is proven; send more")
            result["lost"] += (bag - mine[table]).total()
            result["doubled"] += (mine[table] - bag).total()
    return result


def bags(lake: Path, end_us: int) -> dict[str, Counter[str]]:
    """The rows of each table before a time, as text, and how often each is there."""
    tables = {name: rows(lake / name) for name in ("readings", "windows", "judged", "alarms")}
    return {
        name: Counter(repr(row) for row in table.to_pylist() if row["time"].timestamp() * 1e6 < end_us)
        for name, table in tables.items()
    }


def run(folder: Path, settings: argparse.Namespace) -> dict[str, int]:
    """Kill and start again, then let it catch up, then look."""
    folder.mkdir(exist_ok=True)
    (folder / "files.ndjson").touch()
    draw, wrote, version = random.Random(settings.seed), 0, -1
    with mosquitto(folder) as url:
        command = [sys.executable, __file__, "--rate", str(settings.rate), "--send", str(folder), url]
        sender = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert sender.stdin is not None
        assert sender.stdout is not None
        try:
            file = killed(folder, {"mosquitto": url, "own": sender.stdout.readline().strip()}, settings.workers)
            plan = load_with_plan(file, {})[1]
            subscribe(plan)
            heard(url, 0.1)
            print("go", file=sender.stdin, flush=True)
            for i in range(settings.kills):
                child = engine(plan)
                time.sleep(draw.expovariate(1 / settings.life))
                status = end(child, signal.SIGKILL)
                if not os.WIFSIGNALED(status):
                    raise SystemExit(f"the engine ended by itself with status {os.waitstatus_to_exitcode(status)}")
                version, before = newest(folder / "lake" / "readings"), version
                wrote += version > before
                print(f"\r{i + 1} kills", end="", file=sys.stderr)
            print("x", file=sender.stdin, flush=True)
            counts = json.loads(sender.stdout.readline())
            child = engine(plan)
            await_rows(folder, sum(n - n // 50 + CLOSING for n in counts.values()))
            status = end(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(status) == 0, "the last stop was not clean"
            delivered = heard(url, 3.0)
        finally:
            sender.kill()
            sender.wait()
    print(file=sys.stderr)
    result = verdict(folder, counts, delivered)
    more = compared(folder, counts, settings.workers)
    faults = {fault: result[fault] + more[fault] for fault in ("lost", "doubled")}
    return {"kills": settings.kills, "lives_that_wrote": wrote, **result, "compared": more["compared"], **faults}


def newest(table: Path) -> int:
    """The version of a table, or -1 if it is not there."""
    return max((int(file.stem) for file in (table / "_delta_log").glob("0*.json")), default=-1)


def await_rows(folder: Path, count: int) -> None:
    """Wait until as many readings are there, or no more come."""
    from deltalake import DeltaTable

    table = folder / "lake" / "readings"
    seen, still = 0, 0
    while still < 30:
        time.sleep(0.5)
        now = DeltaTable(table).to_pyarrow_dataset().count_rows() if newest(table) >= 0 else 0
        still = 0 if now > seen else still + 1
        seen = now
        if seen >= count:
            still += 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="of the pipeline that is killed")
    parser.add_argument("--rate", type=int, default=250, help="messages a second from each source")
    parser.add_argument("--life", type=float, default=0.4, help="mean seconds from a start to its kill")
    parser.add_argument("--keep", type=Path, help="leave tables and state in this folder")
    parser.add_argument("--send", nargs=2, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.send:
        send(Path(settings.send[0]), settings.send[1], settings.rate)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(settings.keep or Path(folder), settings)))


if __name__ == "__main__":
    main()
