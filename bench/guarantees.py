"""Kill the engine with -9, restart its servers and cut the network while numbered records flow; count what goes wrong.

    python bench/guarantees.py [PART ...] --records 20000

A part is a source or a sink with its other side, started here: `files` (a growing file to files), `delta` (a growing
file to a Delta table), `objects` (a growing file to a real S3 server, and from there to a Delta table in it; the server
is killed in turn), `hdfs` (the same with a real HDFS, files by WebHDFS and the table by Hadoop's own protocol; both
nodes are killed in turn; all four in `guarantees_files.py`), `mqtt` (a real Mosquitto to a Delta table), `postgres` (a
table of a real PostgreSQL to another one, the server stopped in turn as an operator and as a crash does it), `redshift`
(the same to the stand-in for Redshift, by files in a real S3 server, which is killed in turn), `mongodb` (two
collections of the stand-in for MongoDB to two tables of a real PostgreSQL, written together), `kafka` (a topic of a
real Apache Kafka to another one, in `guarantees_kafka.py`), `http` (posts with an `Idempotency-Key` to a Delta table,
repeated until they are answered), `kinesis` (a stream of the stand-in for Kinesis to another one; shards are split and
merged meanwhile), `influxdb` (a measurement of a real InfluxDB to another one; both in `guarantees_streams.py`),
`opcua`, `modbus` and `sparkplug` (in `guarantees_fieldbuses.py`) to Delta tables. But for `files` and `delta` a proxy
stands between tocsin and the other side, which refuses, drops, delays or half-closes once in each life of the engine,
when the other side answers next.
Ends with one JSON line, with the promise of each part in the words of its classes; the exit status says whether each
part kept it. OPC UA and Modbus promise only what has been read: what the ingest log held when the engine was killed. A
life is counted from when the engine reads, but for each fourth. What `http` never answered is no loss, but a fault all
the same: `unanswered`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import queue
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from cut_network import TROUBLES, CutNetwork
from engine_process import end, engine, ready_engine
from guarantees_databases import MongoCollections, PostgresTables, RedshiftTables
from guarantees_fieldbuses import ModbusRegisters, OpcuaNodes, SparkplugNode
from guarantees_files import Delta, Files, HdfsFolders, Objects
from guarantees_kafka import KafkaTopics
from guarantees_part import DECODED, Part, in_delta, line
from guarantees_streams import InfluxdbPoints, KinesisStreams
from servers import Mosquitto, free_port

from tocsin.pipeline.model import Pipeline
from tocsin.testing import read_from

BURST = 50
"""So many records are sent at once."""
EARLY = 4
"""One life in so many is counted from its very beginning, so that it may end in the middle of a recovery."""
ONCE = "exactly once"
STILL_S = 90.0
"""Once so long nothing more has come, nothing more is waited for."""


class Mqtt(Part):
    """A topic of a real Mosquitto at QoS 1, to a Delta table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise SystemExit("mosquitto is missing; install it with: apt-get install mosquitto")
        self._server = Mosquitto(program, folder).start()
        self.network = self._between = CutNetwork(self._server.port)
        reader: Any = read_from(Pipeline.model_validate({"name": "mqtt", **self.pipeline()}).plan().sources[0].source)
        until_s = time.monotonic() + 10
        while not reader.client.connected and time.monotonic() < until_s:
            reader.poll(1, 0.1)  # from now on the broker keeps what is published
        reader.close()

    def pipeline(self) -> Mapping[str, Any]:
        source = {
            "mqtt": {"url": f"mqtt://127.0.0.1:{self._between.port}", "topic": "kept/#", "client_id": "guarantees"}
        }
        return {"source": source, **DECODED, "streams": {"readings": {"sinks": [{"delta": "out"}]}}}

    def send(self, numbers: Sequence[int]) -> None:
        from tocsin.mqtt.client import Client

        client = Client(self._server.url)
        client.publish([("kept/a", line(n)) for n in numbers])
        client.close()

    def restart(self) -> None:
        self._server.stop()
        self._server.start()

    def received(self) -> Counter[int]:
        return in_delta(self.folder / "lake" / "out")

    def close(self) -> None:
        self._between.close()
        self._server.stop()


class Http(Delta):
    """Posts with a key of their own, each sent again until it is answered, to a Delta table; tocsin is the server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port = free_port()
        self.network = self._between = CutNetwork(self._port)
        self._posts: queue.SimpleQueue[Sequence[int] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._post_all, daemon=True)
        self._ended = False
        self.unanswered: set[int] = set()
        """Numbers of which no sender was told that they are kept."""
        self._sender.start()

    def pipeline(self) -> Mapping[str, Any]:
        source = {"http": {"port": self._port}}
        return {"source": source, **DECODED, "streams": {"readings": {"sinks": [self.sink]}}}

    def send(self, numbers: Sequence[int]) -> None:
        """Leave it to the sender, so that the engine is killed while posts are under way."""
        self.unanswered.update(numbers)
        self._posts.put(numbers)

    def close(self) -> None:
        self._ended = True
        self._posts.put(None)
        self._between.close()
        self._sender.join()

    def _post_all(self) -> None:
        while (numbers := self._posts.get()) is not None:
            while not self._ended and not self._taken(numbers):
                time.sleep(0.02)
            if not self._ended:
                self.unanswered.difference_update(numbers)

    def _taken(self, numbers: Sequence[int]) -> bool:
        """Post them once; returns whether success was answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self._between.port, timeout=5)
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": f"from {numbers[0]}"}
        try:
            connection.request("POST", "/ingest/hall", b"".join(line(n) + b"\n" for n in numbers), headers)
            return connection.getresponse().status < 300
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


PARTS: Mapping[str, Callable[[Path], Part]] = {
    "mqtt": Mqtt,
    "files": Files,
    "delta": Delta,
    "objects": Objects,
    "hdfs": HdfsFolders,
    "postgres": PostgresTables,
    "redshift": RedshiftTables,
    "mongodb": MongoCollections,
    "kafka": KafkaTopics,
    "kinesis": KinesisStreams,
    "influxdb": InfluxdbPoints,
    "opcua": OpcuaNodes,
    "modbus": ModbusRegisters,
    "sparkplug": SparkplugNode,
    "http": Http,
}


def live(
    part: Part,
    pipeline: Pipeline,
    numbers: Sequence[int],
    life_s: float,
    *,
    early: bool,
    restarts: bool,
    cut: tuple[int, str],
) -> None:
    """Run the engine for so long while records are sent, the server is restarted and the network cut, then kill it."""
    child = engine(pipeline.plan()) if early else ready_engine(pipeline.plan())
    bursts = [numbers[at : at + BURST] for at in range(0, len(numbers), BURST)]
    until_s = time.monotonic() + life_s
    try:
        for i, burst in enumerate(bursts):
            if restarts and i == len(bursts) // 2:
                part.restart()
            if part.network is not None and i == cut[0] % len(bursts):
                part.network.trouble_at_answer(cut[1])
            part.send(burst)
            time.sleep(max(0.0, until_s - time.monotonic()) / (len(bursts) - i))
    finally:
        status = end(child, signal.SIGKILL)
    if not os.WIFSIGNALED(status):
        raise SystemExit("the engine ended by itself")
    part.killed(pipeline.plan().state_folder)


def catch_up(part: Part, pipeline: Pipeline, promised: Collection[Any]) -> Counter[Any]:
    """Run the engine until all has come, or nothing more comes; return what has."""
    child = ready_engine(pipeline.plan())
    received = part.received()
    moved_s = time.monotonic()
    while any(row not in received for row in promised) and time.monotonic() - moved_s < STILL_S:
        time.sleep(0.5)
        now = part.received()
        if now != received:
            received, moved_s = now, time.monotonic()
    status = end(child, signal.SIGTERM)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("the last stop was not clean")
    return part.received()


def tried(name: str, folder: Path, records: int, kills: int, seed: int) -> dict[str, Any]:
    """Return what one part has lost and doubled."""
    folder.mkdir()
    draw = random.Random(seed)
    part = PARTS[name](folder)
    restarts = 0
    try:
        settings = {"name": name, "folder": folder / "lake", "checkpoint": "100ms", **part.pipeline()}
        pipeline = Pipeline.model_validate(settings)
        for i in range(kills):
            numbers = range(records * i // kills, records * (i + 1) // kills)
            cut = (draw.randrange(records), TROUBLES[i % len(TROUBLES)])
            early = i % EARLY == EARLY - 1
            live(part, pipeline, numbers, draw.expovariate(1 / part.life_s), early=early, restarts=i % 2 == 1, cut=cut)
            restarts += i % 2
            print(f"\r{name}: {i + 1} kills", end="", file=sys.stderr)
        promised = part.promised(records)
        if not promised:
            raise SystemExit(f"{name}: nothing was read, so nothing is proven; take more --records")
        received = catch_up(part, pipeline, promised)
        besides = part.besides()
        connections_cut = part.network.cut if part.network is not None else 0
    finally:
        part.close()
    print(file=sys.stderr)
    missing = set(range(records)) - received.keys()
    unanswered = missing & part.unanswered if isinstance(part, Http) else set[int]()
    return {
        "sent": records,
        "lost": sum(1 for row in promised if row not in received and row not in unanswered),
        "unanswered": len(unanswered),
        "doubled": received.total() - len(received),
        "kills": kills,
        "restarts": restarts if type(part).restart is not Part.restart else 0,
        "connections cut": connections_cut,
        **besides,
        "promise": promise(pipeline),
    }


def promise(pipeline: Pipeline) -> str:
    """Return what the classes of its ends promise, beside those that promise it without more words."""
    plan = pipeline.plan()
    ends = [*(origin.source for origin in plan.sources), *(sink.part for sink in plan.sinks)]
    return "; ".join(dict.fromkeys(end.PROMISE for end in ends if end.PROMISE != ONCE)) or ONCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them if none is named")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    settings = parser.parse_args()
    if unknown := set(settings.parts) - set(PARTS):
        parser.error(f"there is no part {min(unknown)}; there are {', '.join(PARTS)}")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in settings.parts or PARTS:
            results[name] = tried(name, Path(folder) / name, settings.records, settings.kills, settings.seed)
    print(json.dumps({"parts": results}))
    kept = all(not any(one[fault] for fault in ("lost", "unanswered", "doubled")) for one in results.values())
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
