"""kill -9 of `tocsin run` behind a real Mosquitto at QoS 1, and of Mosquitto itself: `bench/kills.py mqtt`."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import j1_data
from crash import rows, subscribe
from kills_run import Run

from tocsin.mqtt.client import Client
from tocsin.pipeline.yamlfile import load_with_plan

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from servers import Mosquitto

MACHINES = 100
EARLY = 4
"""One life in so many is killed by the clock, perhaps before it reads; the others once they have taken something."""
EARLY_S, TAKING_S = (0.5, 2.5), (0.0, 1.5)
"""How long a life lasts: from its start, or from when it has taken something."""
PATIENCE_S = 120.0
"""What takes so long hangs."""
STILL_S = 30.0
"""Once so long nothing more has come, nothing more is waited for."""
SOURCE = "{{mqtt: {{url: {url}, topic: kills/#, client_id: kills}}}}"
COLUMNS = ", n: int"
STREAMS = """\
  readings: {{sinks: [delta: readings]}}
  bell: {{from: alarms, steps: [keep: ring], sinks: [notify: {{to: "{bell}", allow_private: true}}]}}
"""


class Sender(threading.Thread):
    """Publishes lines at a steady rate, and waits for the PUBACK of each."""

    def __init__(self, url: str, lines: Sequence[bytes], rate: int) -> None:
        super().__init__(daemon=True)
        self.client, self.lines, self.rate = Client(url), lines, rate
        self.sent = 0
        self.sending = threading.Lock()
        """Held while lines are under way: who holds it has the sender pause."""

    def run(self) -> None:
        begin_s = time.monotonic()
        while self.sent < len(self.lines):
            time.sleep(0.01)
            with self.sending:
                due = self.lines[self.sent : int((time.monotonic() - begin_s) * self.rate)]
                if any(reason >= 0x80 for reason in self.client.publish([("kills/j1", line) for line in due])):
                    raise SystemExit("the broker has refused a message")
                self.sent += len(due)


class Bell(ThreadingHTTPServer):
    """Takes what the outbox delivers; keeps under which ids each row of an alarm came, and how often."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.rung: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Hook(BaseHTTPRequestHandler):
    server: Bell
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["row"]
        self.server.rung[row["id"], row["number"]][self.headers["Idempotency-Key"]] += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def numbered(count: int) -> list[bytes]:
    """Readings of J1 with a number each; the last is far ahead in time, so that every window before it is closed."""
    plain = b"".join(j1_data.chunks(count - 1, MACHINES, 1.0, 1)).splitlines()
    plain.append(b'{"machine":"last","ts":"2026-02-01T00:00:00Z","value":0}')
    return [line[:-1] + b',"n":%d}' % n for n, line in enumerate(plain)]


def through_a_broker(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Kill the run behind a broker while numbered readings are sent; returns figures."""
    lines = numbered(asked.rows)
    (folder / "sent.ndjson").write_bytes(b"".join(line + b"\n" for line in lines))
    whole = Run(folder / "whole", f"{{files: {folder / 'sent.ndjson'}}}", 1, COLUMNS)
    whole.to_the_end()
    ringing = {(row["id"], row["number"]) for row in rows(whole.lake / "alarms").to_pylist() if row["ring"]}
    broker, bell = started_broker(folder / "broker"), Bell()
    killed = Run(
        folder / "killed", SOURCE.format(url=broker.url), asked.workers, COLUMNS, STREAMS.format(bell=bell.url)
    )
    sender = Sender(broker.url, lines, asked.rate)
    begin_s = time.monotonic()
    try:
        subscribe(load_with_plan(killed.file, {})[1])
        sender.start()
        kill(killed, broker, sender, asked)
        kills_s = time.monotonic() - begin_s
        until_done(killed, sender, bell, len(ringing))
    finally:
        broker.stop(signal.SIGKILL)
        bell.shutdown()
    there = Counter(rows(killed.lake / "readings")["n"].to_pylist())
    return {
        "sent": sender.sent,
        "kills": asked.kills,
        "broker_kills": asked.broker_kills,
        "seconds": round(kills_s),
        "lost": len(lines) - len(there),
        "doubled": there.total() - len(there),
        "rows": {name: count for name, (count, _) in whole.contents().items()},
        "same": whole.contents() == killed.contents(),
        "alarms": len(ringing),
        "alarms_missing": len(ringing - bell.rung.keys()),
        "alarms_invented": len(bell.rung.keys() - ringing),
        "alarms_with_two_ids": sum(len(ids) > 1 for ids in bell.rung.values()),
        "alarms_sent_again": sum(ids.total() - len(ids) for ids in bell.rung.values()),
    }


def kill(killed: Run, broker: Mosquitto, sender: Sender, asked: argparse.Namespace) -> None:
    """Start the pipeline and kill it, again and again; the broker after some of these."""
    chance = random.Random(asked.seed)
    for number in range(asked.kills):
        life(killed, chance, early=number % EARLY == EARLY - 1)
        if number * asked.broker_kills // asked.kills < (number + 1) * asked.broker_kills // asked.kills:
            kill_broker(broker, sender)
        print(f"\r{number + 1} kills, {sender.sent} sent", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if sender.sent == len(sender.lines):
        raise SystemExit("all was sent before the last kill: send more, or more slowly")


def life(killed: Run, chance: random.Random, *, early: bool) -> None:
    """Start the pipeline and kill it, by the clock or once it has taken something."""
    before, process = taken(killed.lake), killed.start()
    try:
        if early:
            time.sleep(chance.uniform(*EARLY_S))
        else:
            await_that(lambda: taken(killed.lake) > before or process.poll() is not None, "the run takes nothing")
            time.sleep(chance.uniform(*TAKING_S))
    finally:
        process.kill()
    if process.wait() != -signal.SIGKILL:
        raise SystemExit(f"the run has ended by itself with {process.returncode}")


def taken(lake: Path) -> tuple[str, int]:
    """Returns the last segment of the ingest log and its size: they grow with each message that is taken."""
    return max(((file.name, file.stat().st_size) for file in lake.glob(".state/ingest/*/**/*.log")), default=("", 0))


def started_broker(folder: Path) -> Mosquitto:
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise SystemExit("mosquitto is missing; install it with: apt-get install mosquitto")
    folder.mkdir()
    return Mosquitto(program, folder, "allow_anonymous true\nautosave_interval 1800").start()


def kill_broker(broker: Mosquitto, sender: Sender) -> None:
    """Kill Mosquitto once it has saved what it keeps, while nothing is under way, and start it again."""
    store = broker.folder / "mosquitto.db"
    with sender.sending:
        sender.client.close()
        before = store.stat().st_ino if store.exists() else None
        assert broker.process is not None
        broker.process.send_signal(signal.SIGUSR1)
        await_that(lambda: store.exists() and store.stat().st_ino != before, "mosquitto does not save")
        broker.stop(signal.SIGKILL)
        broker.start()


def await_that(holds: Callable[[], bool], otherwise: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > until_s:
            raise SystemExit(otherwise)
        time.sleep(0.02)


def until_done(killed: Run, sender: Sender, bell: Bell, alarms: int) -> None:
    """Run the pipeline until all is sent and there, or nothing more comes, and stop it in good order."""
    process = killed.start()
    sender.join()
    there, moved_s = (-1, -1), time.monotonic()
    while time.monotonic() - moved_s < STILL_S and (there[0] < len(sender.lines) or there[1] < alarms):
        now = rows(killed.lake / "readings").num_rows, len(bell.rung)
        if now != there:
            there, moved_s = now, time.monotonic()
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    if code := process.wait(PATIENCE_S):
        raise SystemExit(f"the last run has ended with {code}")
