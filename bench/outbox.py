"""How long alarms take to reach a webhook that refuses some of them; ends with one JSON line.

    python bench/outbox.py [--alarms 1000] [--machines 100] [--answer-ms 5]

The messages wait in an outbox on the disk, as the engine leaves them, and a relay delivers them to a web server here
that takes ``--answer-ms`` to answer and says 503 to a share of what it is asked: 0, 4 and 20 %. Printed: seconds until
all have arrived, how often one arrived out of its machine's order, and how often one that had arrived came again.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from tocsin.batch import as_times
from tocsin.contracts import Checkpoint
from tocsin.engine.checkpoint import SqliteStore
from tocsin.engine.outbox import Relay
from tocsin.output.notify import Notify
from tocsin.testing import world

SHARES = (0.0, 0.04, 0.2)


class Receiver(ThreadingHTTPServer):
    """Takes alarms, or says that it cannot just now; keeps the number of each in the order in which they came."""

    request_queue_size = 100
    daemon_threads = True

    def __init__(self, share: float, answer_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.share, self.answer_s, self.chance = share, answer_s, random.Random(7)
        self.lock = threading.Lock()
        self.got: dict[str, list[int]] = defaultdict(list)


class Hook(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["row"]
        time.sleep(self.server.answer_s)
        with self.server.lock:
            refuses = self.server.chance.random() < self.server.share
            if not refuses:
                self.server.got[row["key"]].append(row["number"])
        self.send_response(503 if refuses else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def measure(share: float, alarms: int, machines: int, answer_s: float) -> dict[str, Any]:
    """Returns seconds, and how many came out of order or twice."""
    server = Receiver(share, answer_s)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    channel = Notify(to=f"http://127.0.0.1:{server.server_port}/", allow_private=True)
    rows = pa.record_batch(
        {
            "key": [f"pump {i % machines}" for i in range(alarms)],
            "time": as_times([1_000_000 * i for i in range(alarms)]),
            "rule": ["hot"] * alarms,
            "number": list(range(alarms)),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder))
        store.commit(Checkpoint(1), {"bell": channel.messages(rows)})
        relay = Relay("bell", channel, store, world(Path(folder)))
        begin = time.monotonic()
        relay.start()
        while store.pending("bell", 1):
            time.sleep(0.01)
        seconds = time.monotonic() - begin
        relay.stop(1.0)
        store.close()
    server.shutdown()
    unordered = sum(a > b for numbers in server.got.values() for a, b in pairwise(numbers))
    twice = sum(len(numbers) - len(set(numbers)) for numbers in server.got.values())
    return {"refused": share, "seconds": round(seconds, 2), "unordered": unordered, "twice": twice}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alarms", type=int, default=1_000)
    parser.add_argument("--machines", type=int, default=100)
    parser.add_argument("--answer-ms", type=float, default=5.0)
    asked = parser.parse_args()
    found = []
    for share in SHARES:
        found.append(measure(share, asked.alarms, asked.machines, asked.answer_ms / 1e3))
        one = found[-1]
        print(f"{share:5.0%} refused: {one['seconds']:6.2f} s, {one['unordered']} out of order, {one['twice']} twice")
    print(json.dumps({"bench": "outbox", "alarms": asked.alarms, "machines": asked.machines, "runs": found}))


if __name__ == "__main__":
    main()
