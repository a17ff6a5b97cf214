"""What a peer that is silent costs the others; ends with one JSON line.

    python bench/silent.py [--seconds 32] [--away 60]

First a simulated plant that speaks every 100 ms is read alone, then beside an MQTT broker that accepts the connection
and never answers: batches in each time, and their ratio. Then two tables take what the plant says: Delta here, and a
ledger in another process, which is stopped (it accepts and never answers) for ``--away`` seconds in the middle. The
rows that either of them lacks, or has twice, in the end; and whether the ledger caught up by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from tocsin.contracts import Sink
from tocsin.ends import Spooled
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.graph import Feed
from tocsin.errors import Unavailable
from tocsin.lake.read import read
from tocsin.pipeline.model import Pipeline
from tocsin.world import World

ANSWER_S = 1.0
PLANT = {"simulate": {"every": "100ms", "stops_per_day": 0, "machines": {"pump": "pump"}}}


class Ledger(Sink):
    """Keeps rows in another process, by a line of JSON each way."""

    port: int

    def open(self, world: World, schema: pa.Schema) -> LedgerWriter:
        return LedgerWriter(self.port, world, schema)


class LedgerWriter(Spooled):
    def __init__(self, port: int, world: World, schema: pa.Schema) -> None:
        super().__init__(world, schema)
        self._port = port

    def applied(self) -> int | None:
        epoch: int | None = self._asked({"ask": "epoch"})
        return epoch

    def apply(self, epoch: int, rows: pa.Table) -> None:
        self._asked({"epoch": epoch, "rows": [str(row) for row in rows.to_pylist()]})

    def _asked(self, what: dict[str, Any]) -> Any:
        try:
            with socket.create_connection(("127.0.0.1", self._port), ANSWER_S) as connection:
                connection.sendall(json.dumps(what).encode() + b"\n")
                return json.loads(connection.makefile("rb").readline())
        except (OSError, ValueError) as error:
            raise Unavailable(f"the ledger does not answer: {error}") from error


def serve(path: str) -> None:
    """The ledger: rows and epoch in one transaction of its own."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("create table if not exists taken (row text)")
    db.execute("create table if not exists reached (epoch integer)")

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            what = json.loads(self.rfile.readline())
            if "rows" in what:
                db.execute("begin")
                db.executemany("insert into taken values (?)", [(row,) for row in what["rows"]])
                db.execute("delete from reached")
                db.execute("insert into reached values (?)", (what["epoch"],))
                db.execute("commit")
            found = db.execute("select epoch from reached").fetchone()
            self.wfile.write(json.dumps(found[0] if found else None).encode() + b"\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


def silent_broker() -> tuple[socket.socket, int]:
    """A socket that accepts (the system does) and never answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    return listener, int(listener.getsockname()[1])


class Counting(Feed):
    """Looks on, and counts the plant's batches."""

    def __init__(self) -> None:
        self.batches = 0

    def offer(self, stream: str, batch: Any) -> None:
        self.batches += stream == "plant"

    def counters(self, snapshot: Any) -> None:
        """Nobody reads them."""


def batches(folder: Path, seconds: float, port: int | None) -> int:
    """How many batches of the plant come in so many seconds, alone or beside a silent broker."""
    sources: dict[str, Any] = {"plant": {"source": PLANT}}
    if port is not None:
        sources["silent"] = {
            "source": {"mqtt": {"url": f"mqtt://127.0.0.1:{port}", "topic": "a/#"}},
            "decode": {"json": {"columns": {"m": "text"}}},
            "key": "m",
        }
    streams = {"kept": {"from": "plant", "sinks": [{"delta": "kept"}]}}
    pipeline = Pipeline.model_validate({"name": "silent", "folder": folder, "sources": sources, "streams": streams})
    feed = Counting()
    runner = EmbeddedRunner(pipeline.plan(), feed=feed)
    timer = threading.Timer(seconds, runner.stop)
    timer.start()
    runner.run()
    return feed.batches


def away(folder: Path, away_s: float) -> dict[str, Any]:
    """Both tables, the ledger stopped in the middle; what is missing or doubled in the end."""
    child = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(folder / "ledger.db")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        port = int(child.stdout.readline())
        plan = Pipeline.model_validate(
            {
                "name": "away",
                "folder": folder / "lake",
                "source": PLANT,
                "streams": {"kept": {"sinks": [{"delta": "kept"}, Ledger(port=port)]}},
            }
        ).plan()
        runner, ledger = EmbeddedRunner(plan), plan.sinks[1].id
        lag: list[int] = []

        def course() -> None:
            time.sleep(3)
            os.kill(child.pid, signal.SIGSTOP)
            time.sleep(away_s)
            lag.append(runner.snapshot()["sinks"][ledger]["lag_epochs"])
            os.kill(child.pid, signal.SIGCONT)
            until = time.monotonic() + 60
            while runner.snapshot()["sinks"][ledger]["reason"] and time.monotonic() < until:
                time.sleep(0.1)
            time.sleep(1)
            runner.stop()

        conductor = threading.Thread(target=course)
        conductor.start()
        runner.run()
        conductor.join()
    finally:
        child.kill()
    with sqlite3.connect(folder / "ledger.db") as db:
        taken = [row for (row,) in db.execute("select row from taken")]
    here = [str(row) for row in read("kept", folder / "lake").to_pylist()]
    return {
        "sink_away_s": away_s,
        "others_lost": len(set(taken) - set(here)) + len(here) - len(set(here)),
        "lag_epochs": lag[0],
        "rows": len(here),
        "doubled": len(taken) - len(set(taken)),
        "caught_up": sorted(taken) == sorted(here),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=32.0)
    parser.add_argument("--away", type=float, default=60.0)
    parser.add_argument("--serve")
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        listener, port = silent_broker()
        alone = batches(folder / "alone", given.seconds, None)
        beside = batches(folder / "beside", given.seconds, port)
        listener.close()
        figures = {"alone": alone, "beside_silent": beside, "ratio": round(beside / alone, 3)}
        print(json.dumps({**figures, **away(folder, given.away)}))


if __name__ == "__main__":
    main()
