"""A plant for examples/downtime-flink.yaml: what its machines say, whom messages go to, and what must come."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from kafka_server import PASSWORD, USER, Kafka
from ruamel.yaml import YAML

from tocsin import Pipeline, read
from tocsin.engine.embedded import EmbeddedRunner

FILE = Path(__file__).parent.parent.parent / "examples" / "downtime-flink.yaml"
PARTITIONS, MACHINES, MINUTES = 3, 6, 40
BEGIN = datetime(2026, 1, 5, 5, 30, tzinfo=UTC)
CUTOFF = BEGIN + timedelta(minutes=MINUTES - 2)
"""Behind it what is said depends on when one looks: some events are still open."""
TABLES = ("downtime", "alarms", "late_source", "quarantine")
PATIENCE_S = 240.0


def says() -> list[list[bytes]]:
    """Returns what comes to each partition: each machine every 5 s; some stop, some rows are late, one is none."""
    rng, partitions = random.Random(11), [list[bytes]() for _ in range(PARTITIONS)]
    stops = {machine: rng.randrange(5, 20) for machine in range(MACHINES - 1)}
    for second in range(0, MINUTES * 60, 5):
        for machine in range(MACHINES):
            stopped = stops.get(machine, MINUTES) <= second / 60 < stops.get(machine, MINUTES) + 3 + machine
            at = BEGIN + timedelta(seconds=second - (60 if rng.random() < 0.01 else 0))
            row = {"machine": f"hall/m{machine}", "time": at.isoformat(), "state": "stopped" if stopped else "running"}
            partitions[machine % PARTITIONS].append(json.dumps(row).encode())
    partitions[0].insert(100, b'{"machine": "hall/m0", "time": "never", "state": "running"}')
    return partitions


def settings(kafka: Kafka, topic: str, folder: Path, calls: str) -> dict[str, str]:
    """Returns the variables that the example is told: TLS with SCRAM."""
    return {
        "TOCSIN_KAFKA_BROKERS": kafka.at("SASL_SSL"), "TOCSIN_KAFKA_USER": USER, "TOCSIN_KAFKA_PASSWORD": PASSWORD,
        "TOCSIN_KAFKA_CA": str(kafka.certificates / "ca.pem"), "TOCSIN_DOWNTIME_TOPIC": topic,
        "TOCSIN_DOWNTIME_FOLDER": str(folder), "TOCSIN_DOWNTIME_CHECKPOINT": "500ms", "TOCSIN_DOWNTIME_CALLS": calls,
    }  # fmt: skip


def send(kafka: Kafka) -> str:
    """Returns a topic with all that is said."""
    topic = kafka.topic(PARTITIONS)
    for number, records in enumerate(says()):
        kafka.send(topic, records, partition=number)
    return topic


def embedded(folder: Path) -> dict[str, Counter[str]]:
    """Returns what the tables are to hold: the same steps over files, a file for each partition, in one process."""
    folder.mkdir()
    for number, records in enumerate(says()):
        (folder / f"{number}.ndjson").write_bytes(b"\n".join(records) + b"\n")
    os.environ.setdefault("TOCSIN_KAFKA_PASSWORD", "any")
    described = YAML(typ="safe").load(FILE.read_text())
    described |= {
        "source": {"files": {"path": f"{folder}/*.ndjson"}},
        "folder": str(folder / "tables"),
        "checkpoint": "1s",
    }
    described["streams"]["calls"]["sinks"] = [{"delta": "calls"}]
    EmbeddedRunner(Pipeline.model_validate(described).plan()).run()
    return bags(folder / "tables")


def bags(folder: Path) -> dict[str, Counter[str]]:
    """Returns the rows of all tables, as far as they do not depend on when one looks."""
    return {table: Counter(_rows(table, folder)) if is_there(table, folder) else Counter() for table in TABLES}


def is_there(table: str, folder: Path) -> bool:
    """Returns whether a table has its first entry."""
    return (folder / table / "_delta_log" / f"{0:020d}.json").exists()


def _rows(table: str, folder: Path) -> Iterator[str]:
    for row in read(table, folder).to_pylist():
        if table == "quarantine":  # with the time of its arrival, and where it lay
            yield f"{row['reason']} {row['payload'].strip()}"
        elif row["time"] < CUTOFF:
            yield str(sorted(row.items()))


class Receiver:
    """A webhook that people are told by."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        told = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing is printed."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/calls"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    try:
        yield made
    finally:
        made.close()


def eventually(what: Any, message: str) -> None:
    """Wait until something is so."""
    until_s = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until_s, message
        time.sleep(0.05)
