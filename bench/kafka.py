"""Benchmark of source `kafka`: readings of J1 from a real broker; the bare client's `consume` beside ours; J1 to Delta.

    python bench/kafka.py --rows 2000000

Starts the broker of the tests (Java 17; Maven fetches it once), fills a topic of four partitions, then measures, each
in a process of its own on one core, the first 5 % not counted:

client   confluent-kafka's `consume(1000)` and the value of each record, with our settings of the library
tocsin   what the runner gets from the source: Arrow rows with payload, key, time and headers
j1       benchmark J1 (windows of 20 s, z-score, filter) from Kafka into a Delta table, checkpoints each second

Ends with one JSON line; rates are records a second of wall time, and of CPU time (``_cpu``), all threads together.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]
PARTITIONS = 4
TOPIC = "readings"


def fill(address: str, rows: int) -> None:
    import j1_data
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": address, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    number = 0
    for chunk in j1_data.chunks(rows, 1_000, 1.0, 1):
        for line in chunk.splitlines():
            while True:
                try:
                    producer.produce(TOPIC, line, partition=number % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.1)
            number += 1
    assert number == rows
    assert producer.flush(120) == 0


class Meter:
    """Wall and CPU time from the 5 % mark to the end."""

    def __init__(self, rows: int) -> None:
        self.rows, self.count, self._first = rows, 0, 0
        self._begin = self._end = (0.0, 0.0)

    @property
    def ended(self) -> bool:
        return self.count >= self.rows

    def add(self, count: int) -> None:
        self.count += count
        if not self._first and self.count >= self.rows // 20:
            self._first, self._begin = self.count, (time.perf_counter(), time.process_time())
        if self.ended:
            self.end()

    def end(self) -> None:
        self._end = time.perf_counter(), time.process_time()

    def rates(self) -> tuple[float, float]:
        (wall_s, cpu_s), (wall_end_s, cpu_end_s) = self._begin, self._end
        counted = self.rows - self._first
        return counted / (wall_end_s - wall_s), counted / (cpu_end_s - cpu_s)


def source(address: str, group: str) -> Any:
    from tocsin.acquire.kafka import Kafka

    return Kafka(brokers=address, topics=TOPIC, group=group)


def client(address: str, rows: int, folder: Path) -> Meter:
    from confluent_kafka import Consumer, TopicPartition

    from tocsin.kafka.group import FETCH_BACKOFF_MS

    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "bare",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.queue.backoff.ms": FETCH_BACKOFF_MS,
        }
    )
    consumer.assign([TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)])
    meter = Meter(rows)
    while not meter.ended:
        meter.add(len([message.value() for message in consumer.consume(1_000, 1.0)]))
    consumer.close()
    return meter


def tocsin(address: str, rows: int, folder: Path) -> Meter:
    from tocsin.engine.source_task import Rows, SourceTask
    from tocsin.testing import world

    task, news, meter = SourceTask("kafka", source(address, "tocsin"), world(), {}, ()), threading.Event(), Meter(rows)
    task.start(news)
    while not meter.ended:
        news.wait(0.05)
        news.clear()
        while (event := task.take()) is not None:
            if isinstance(event, Rows):
                meter.add(len(event.batch))
    task.close(clean=True)
    return meter


def j1(address: str, rows: int, folder: Path) -> Meter:
    from j1 import pipeline

    from tocsin.engine.embedded import EmbeddedRunner
    from tocsin.pipeline.model import Pipeline

    settings = pipeline(folder / "none", folder).model_dump(mode="json", exclude_defaults=True)
    (node,) = settings["sources"].values()
    node["source"] = {"kafka": source(address, f"j1-{os.getpid()}").model_dump(mode="json", exclude_defaults=True)}
    runner = EmbeddedRunner(Pipeline.model_validate(settings).plan())
    meter = Meter(rows)
    thread = threading.Thread(target=runner.run)
    thread.start()
    while not meter.ended:
        meter.add(sum(runner.counters.rows_in.values()) - meter.count)
        time.sleep(0.01)
    runner.stop()
    thread.join()
    meter.end()  # what waited for the last checkpoint is written
    return meter


JOBS: dict[str, Callable[[str, int, Path], Meter]] = {"client": client, "tocsin": tocsin, "j1": j1}


def measured(job: str, address: str, rows: int, core: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--job", job, "--address", address, "--rows", str(rows), "--folder", folder],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    wall, cpu = map(float, done.stdout.splitlines()[-1].split())
    print(f"{job:8} {wall:12,.0f} records/s {cpu:12,.0f} a CPU second", flush=True)
    return wall, cpu


def needs(binary: str) -> str:
    path = shutil.which(binary)
    if path is None:
        raise SystemExit(f"{binary} is not installed: apt install default-jre-headless maven")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--job", choices=list(JOBS), help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(*JOBS[given.job](given.address, given.rows, given.folder).rates())
        return
    from confluent_kafka.admin import NewTopic
    from kafka_server import Kafka, jars

    from tocsin.mqtt.authority import Authority

    with tempfile.TemporaryDirectory() as folder:
        certificates = Path(folder) / "certificates"
        certificates.mkdir()
        Authority(certificates).server("127.0.0.1", 1)
        broker = Kafka(needs("java"), jars(needs), Path(folder), certificates).start()
        try:
            broker.admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(30)
            fill(broker.address, given.rows)
            measured("j1", broker.address, min(given.rows, 10_000), given.core)  # compile
            rates = {job: measured(job, broker.address, given.rows, given.core) for job in JOBS}
        finally:
            broker.stop()
    figures: dict[str, Any] = {job: round(wall) for job, (wall, _) in rates.items()}
    figures |= {f"{job}_cpu": round(cpu) for job, (_, cpu) in rates.items()}
    for at, name in enumerate(("ratio", "ratio_cpu")):
        figures[name] = round(rates["tocsin"][at] / rates["client"][at], 2)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
