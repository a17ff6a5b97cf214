"""The parts `postgres`, `redshift` and `mongodb` of `guarantees.py`: tables and collections to tables of PostgreSQL."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cut_network import CutNetwork
from guarantees_part import Part, program
from mongo_server import Mongo, mongo_jars
from postgres_server import PASSWORD, USER, Postgres
from redshift_server import ROLE, Redshift
from servers import CACHE, ObjectStore


class PostgresTables(Part):
    """A table of a real PostgreSQL, followed by its identity, to another one."""

    def __init__(self, folder: Path) -> None:
        self._server = Postgres().start()
        self.network = self._between = CutNetwork(self._server.port)
        self._restarts = 0
        self._server.execute("create table records (n bigint primary key, machine text, at timestamptz)")

    def pipeline(self) -> Mapping[str, Any]:
        url = self._server.url.replace(f":{self._server.port}/", f":{self._between.port}/")
        server = {"url": url, "user": USER, "password": PASSWORD}
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
        self._between.close()
        self._server.remove()


class RedshiftTables(PostgresTables):
    """The same table, followed to one of the stand-in for Redshift, by files in a real S3 server, restarted in turn."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        place = folder / "objects"
        place.mkdir()
        self._store = ObjectStore(place, shutil.which("versitygw", path=str(CACHE / "versitygw-1.8.0"))).start()
        self._cluster = Redshift(self._server, self._store)
        self.network = self._before_cluster = CutNetwork(self._cluster.port)

    def pipeline(self) -> Mapping[str, Any]:
        url = self._cluster.url.replace(f":{self._cluster.port}/", f":{self._before_cluster.port}/")
        sink = {
            "url": url, "user": USER, "password": PASSWORD, "table": "out.records", "staging": "s3://plant/loads",
            "role": ROLE, "storage": self._store.options,
        }  # fmt: skip
        return {**super().pipeline(), "streams": {"readings": {"sinks": [{"redshift": sink}]}}}

    def restart(self) -> None:
        if self._restarts % 2:
            self._restarts += 1
            self._store.stop(signal.SIGKILL)
            self._store.start()
        else:
            super().restart()

    def besides(self) -> Mapping[str, int]:
        return {"left_in_s3": len(self._store.objects("loads"))}

    def close(self) -> None:
        self._before_cluster.close()
        self._cluster.close()
        super().close()
        self._store.stop()


class MongoCollections(Part):
    """Two collections of the stand-in for MongoDB, followed by the date of change, to tables that are one load."""

    _names = ("even", "odd")

    def __init__(self, folder: Path) -> None:
        java = program("java", "default-jdk-headless")
        place = folder / "mongo"
        place.mkdir()
        self._server = Mongo(java, mongo_jars(lambda name: program(name, "maven")), place).start()
        self.network = self._between = CutNetwork(self._server.port)
        self._tables = Postgres().start()

    def pipeline(self) -> Mapping[str, Any]:
        settings = {"collections": self._names, "modified": "at", "follow": True, "every": "20ms"}
        source = {"mongodb": {"url": f"mongodb://127.0.0.1:{self._between.port}/plant", **settings}}
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
        self._between.close()
        self._server.stop()
        self._tables.remove()
