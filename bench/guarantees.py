"""Kill the engine with -9 and restart its servers while numbered records flow; count what is lost or doubled.

    python bench/guarantees.py [PART ...] --records 20000

A part is a source or a sink with its other side, started here: `files` (a growing file to files), `delta` (a growing
file to a Delta table), `objects` (a growing file to a real S3 server, and from there to a Delta table; the server is
killed in turn), `mqtt` (a real Mosquitto to a Delta table), `postgres` (a table of a real PostgreSQL to another
one, the server stopped in turn as an operator and as a crash does it), `mongodb` (two collections of the stand-in for
MongoDB to two tables of a real PostgreSQL, written together). Ends with one JSON line; the exit status says whether
each part kept its promise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from engine_process import end, engine
from mongo_server import Mongo, mongo_jars
from postgres_server import PASSWORD, USER, Postgres
from servers import CACHE, Mosquitto, ObjectStore

from tocsin.pipeline.model import Pipeline
from tocsin.testing import read_from

BURST = 50
"""So many records are sent at once."""
LIFE_S = 1.5
"""How long the engine lives on average before it is killed."""
STILL_S = 30.0
"""Once so long nothing more has come, nothing more is waited for."""
DECODED = {"decode": {"json": {"columns": {"machine": "text", "n": "int"}}}, "key": "machine"}


class Part(Protocol):
    """An end to be tried, and its other side."""

    promise: str

    def pipeline(self) -> Mapping[str, Any]:
        """Return source and sink, as a pipeline file says them."""

    def send(self, numbers: Sequence[int]) -> None:
        """Send these records; when it returns, the other side has them for good."""

    def restart(self) -> None:
        """Stop the server, if there is one, and start it again."""

    def received(self) -> Counter[int]:
        """Return how often each record has come out."""

    def close(self) -> None: ...


def _line(n: int) -> bytes:
    return json.dumps({"machine": f"m{n % 5}", "n": n}).encode()


class Files:
    """A file that grows, to files."""

    promise = "exactly once"
    sink: Mapping[str, Any] = {"files": "out"}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "in.ndjson"
        self._path.touch()

    def pipeline(self) -> Mapping[str, Any]:
        source = {"files": {"path": str(self._path), "follow": True}}
        return {"source": source, **DECODED, "streams": {"readings": {"sinks": [self.sink]}}}

    def send(self, numbers: Sequence[int]) -> None:
        with self._path.open("ab") as file:
            file.write(b"".join(_line(n) + b"\n" for n in numbers))

    def restart(self) -> None:
        """There is no server."""

    def received(self) -> Counter[int]:
        parts = (self.folder / "lake" / "out").glob("part-*.ndjson")
        return Counter(json.loads(line)["n"] for part in parts for line in part.read_bytes().splitlines())

    def close(self) -> None:
        """There is nothing to close."""


class Delta(Files):
    """A file that grows, to a Delta table, which delta-rs reads."""

    sink: Mapping[str, Any] = {"delta": "out"}

    def received(self) -> Counter[int]:
        return _in_delta(self.folder / "lake" / "out")


class Objects(Files):
    """A file that grows, to objects in an S3 server, and from these to a Delta table."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        place = folder / "objects"
        place.mkdir()
        program = shutil.which("versitygw", path=f"{CACHE}/versitygw-1.8.0{os.pathsep}{os.environ.get('PATH', '')}")
        if program is None:
            raise SystemExit("versitygw is missing; ./test builds it where Go is installed")
        self._server = ObjectStore(place, program).start()

    def pipeline(self) -> Mapping[str, Any]:
        # With a format nothing is asked of the server here: the library's threads would not outlive the fork.
        objects = {"path": "s3://plant/records", "format": "ndjson", "storage": self._server.options}
        lines = {"files": {"path": str(self._path), "follow": True}}
        read = {"files": {**objects, "follow": True, "every": "200ms"}}
        columns = {"json": {"columns": {"key": "text", "n": "int"}}}
        return {
            "sources": {
                "lines": {"source": lines, **DECODED},
                "objects": {"source": read, "decode": columns, "key": "key"},
            },
            "streams": {
                "sent": {"from": "lines", "sinks": [{"files": objects}]},
                "kept": {"from": "objects", "sinks": [{"delta": "out"}]},
            },
        }

    def restart(self) -> None:
        self._server.stop(signal.SIGKILL)
        self._server.start()

    def received(self) -> Counter[int]:
        return _in_delta(self.folder / "lake" / "out")

    def close(self) -> None:
        self._server.stop()


class Mqtt:
    """A topic of a real Mosquitto at QoS 1, to a Delta table."""

    promise = "exactly once"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise SystemExit("mosquitto is missing; install it with: apt-get install mosquitto")
        self._server = Mosquitto(program, folder).start()
        reader: Any = read_from(Pipeline.model_validate({"name": "mqtt", **self.pipeline()}).plan().sources[0].source)
        until_s = time.monotonic() + 10
        while not reader.client.connected and time.monotonic() < until_s:
            reader.poll(1, 0.1)  # from now on the broker keeps what is published
        reader.close()

    def pipeline(self) -> Mapping[str, Any]:
        source = {"mqtt": {"url": self._server.url, "topic": "kept/#", "client_id": "guarantees"}}
        return {"source": source, **DECODED, "streams": {"readings": {"sinks": [{"delta": "out"}]}}}

    def send(self, numbers: Sequence[int]) -> None:
        from tocsin.mqtt.client import Client

        client = Client(self._server.url)
        client.publish([("kept/a", _line(n)) for n in numbers])
        client.close()

    def restart(self) -> None:
        self._server.stop()
        self._server.start()

    def received(self) -> Counter[int]:
        return _in_delta(self.folder / "lake" / "out")

    def close(self) -> None:
        self._server.stop()


class PostgresTables:
    """A table of a real PostgreSQL, followed by its identity, to another one."""

    promise = "exactly once"

    def __init__(self, folder: Path) -> None:
        self._server = Postgres().start()
        self._restarts = 0
        self._server.execute("create table records (n bigint primary key, machine text, at timestamptz)")

    def pipeline(self) -> Mapping[str, Any]:
        server = {"url": self._server.url, "user": USER, "password": PASSWORD}
        source = {"postgres": {**server, "table": "records", "cursor": "n", "follow": True, "every": "20ms"}}
        sinks = [{"postgres": {**server, "table": "out.records"}}]
        time = {"column": "at", "lateness": "1h"}
        return {"source": source, "key": "machine", "time": time, "streams": {"readings": {"sinks": sinks}}}

    def send(self, numbers: Sequence[int]) -> None:
        insert = "insert into records select n, 'm' || mod(n, 5), now() from unnest(%s::bigint[]) n"
        self._server.execute(insert, list(numbers))

    def restart(self) -> None:
        self._restarts += 1
        self._server.stop(signal.SIGQUIT if self._restarts % 2 else signal.SIGINT)
        self._server.start()

    def received(self) -> Counter[int]:
        if self._server.execute("select to_regclass('out.records') is null")[0][0]:
            return Counter()
        return Counter(n for (n,) in self._server.execute("select n from out.records"))

    def close(self) -> None:
        self._server.remove()


class MongoCollections:
    """Two collections of the stand-in for MongoDB, followed by the date of change, to tables that are one load."""

    promise = "exactly once"
    _names = ("even", "odd")

    def __init__(self, folder: Path) -> None:
        java = _program("java", "default-jdk-headless")
        place = folder / "mongo"
        place.mkdir()
        self._server = Mongo(java, mongo_jars(lambda name: _program(name, "maven")), place).start()
        self._tables = Postgres().start()

    def pipeline(self) -> Mapping[str, Any]:
        settings = {"collections": self._names, "modified": "at", "follow": True, "every": "20ms"}
        source = {"mongodb": {"url": f"{self._server.host}/plant", **settings}}
        decode = {"json": {"topic": "{collection}", "columns": {"machine": "text", "n": "int"}}}
        server = {"url": self._tables.url, "user": USER, "password": PASSWORD, "load": "all"}
        streams = {
            name: {
                "steps": [{"keep": f"collection = '{name}'"}],
                "sinks": [{"postgres": {**server, "table": f"out.{name}"}}],
            }
            for name in self._names
        }
        return {"source": source, "decode": decode, "key": "machine", "streams": streams}

    def send(self, numbers: Sequence[int]) -> None:
        at = self._server.client.admin.command("hello")["localTime"]
        for i, name in enumerate(self._names):
            self._server.insert(
                "plant", name, [{"machine": f"m{n % 5}", "n": n, "at": at} for n in numbers if n % 2 == i]
            )

    def restart(self) -> None:
        self._server.stop()
        self._server.start()

    def received(self) -> Counter[int]:
        counted: Counter[int] = Counter()
        for name in self._names:
            if self._tables.execute("select to_regclass(%s) is not null", f"out.{name}")[0][0]:
                counted.update(n for (n,) in self._tables.execute(f"select n from out.{name}"))
        return counted

    def close(self) -> None:
        self._server.stop()
        self._tables.remove()


def _program(name: str, package: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise SystemExit(f"{name} is missing; install it with: apt-get install {package}")
    return program


PARTS: Mapping[str, Callable[[Path], Part]] = {
    "mqtt": Mqtt,
    "files": Files,
    "delta": Delta,
    "objects": Objects,
    "postgres": PostgresTables,
    "mongodb": MongoCollections,
}


def _in_delta(path: Path) -> Counter[int]:
    if not (path / "_delta_log").is_dir():
        return Counter()
    from deltalake import DeltaTable

    return Counter(DeltaTable(path).to_pyarrow_table(columns=["n"])["n"].to_pylist())


def live(part: Part, pipeline: Pipeline, numbers: Sequence[int], life_s: float, *, restarts: bool) -> None:
    """Run the engine for so long while records are sent and the server is restarted, then kill it."""
    child = engine(pipeline.plan())
    bursts = [numbers[at : at + BURST] for at in range(0, len(numbers), BURST)]
    until_s = time.monotonic() + life_s
    for i, burst in enumerate(bursts):
        if restarts and i == len(bursts) // 2:
            part.restart()
        part.send(burst)
        time.sleep(max(0.0, until_s - time.monotonic()) / (len(bursts) - i))
    if not os.WIFSIGNALED(end(child, signal.SIGKILL)):
        raise SystemExit("the engine ended by itself")


def catch_up(part: Part, pipeline: Pipeline, count: int) -> Counter[int]:
    """Run the engine until all has come, or nothing more comes; return what has."""
    child = engine(pipeline.plan())
    received = part.received()
    moved_s = time.monotonic()
    while len(received) < count and time.monotonic() - moved_s < STILL_S:
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
            live(part, pipeline, numbers, draw.expovariate(1 / LIFE_S), restarts=i % 2 == 1)
            restarts += i % 2
            print(f"\r{name}: {i + 1} kills", end="", file=sys.stderr)
        received = catch_up(part, pipeline, records)
    finally:
        part.close()
    print(file=sys.stderr)
    return {
        "sent": records,
        "lost": sum(1 for n in range(records) if n not in received),
        "doubled": received.total() - len(received),
        "kills": kills,
        "restarts": restarts if type(part).restart is not Files.restart else 0,
        "promise": part.promise,
    }


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
    kept = all(not one["lost"] and (not one["doubled"] or one["promise"] != "exactly once") for one in results.values())
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
