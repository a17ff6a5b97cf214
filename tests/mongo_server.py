"""A stand-in for MongoDB: mongo-java-server on loopback, its jars from Maven Central, kept between runs.

MongoDB's own server is under a licence that the tests do without. The stand-in keeps its documents on disk, has change
streams and refuses every user; it has no transactions, and of a replica set's snapshots it only says that it has them.
With TOCSIN_FERRETDB the tests run over that program instead (FerretDB 1.24, built with its package ``ferretdb``, see
docs/mongodb.md): it has no change streams, and takes no NaN.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from servers import Needs, free_port, listens, maven_jars

POM = Path(__file__).parent / "mongo_pom.xml"
PROGRAM = Path(__file__).parent / "MongoStandIn.java"
BATCH = 64
"""FerretDB hangs for good on an update of a hundred documents."""
_NUMBERS = count(1)


def mongo_jars(needs: Needs) -> Path:
    """Return the folder of the stand-in's jars; the first call on a machine fetches them (6 MB)."""
    return maven_jars(needs, POM)


@dataclass
class Mongo:
    """The server in a folder of its own; its documents outlive `stop` and `start`."""

    java: str
    jars: Path
    folder: Path
    is_replica: bool = False
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> Mongo:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command(), stdout=log, stderr=log)
        listens(self.process, self.port, "the server", 60)
        return self

    def stop(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None
        if (client := self.__dict__.pop("client", None)) is not None:
            client.close()  # its connections are gone

    @cached_property
    def client(self) -> Any:
        import pymongo

        return pymongo.MongoClient(self.host, timeoutMS=30_000)

    def database(self) -> str:
        """Return the name of a new database: each test has one of its own."""
        return f"plant{next(_NUMBERS)}"

    def insert(self, database: str, collection: str, documents: Sequence[Mapping[str, Any]]) -> None:
        for begin in range(0, len(documents), BATCH):
            self.client[database][collection].insert_many([dict(one) for one in documents[begin : begin + BATCH]])

    def _command(self) -> list[str]:
        if program := os.environ.get("TOCSIN_FERRETDB"):
            return [program, "-listen", f"127.0.0.1:{self.port}", "-sqlite", f"file:{self.folder}/"]
        fast = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        role = ["replica"] if self.is_replica else []
        arguments = [str(PROGRAM), str(self.folder / "documents"), str(self.port), *role]
        return [self.java, *fast, "-cp", f"{self.jars}/*", *arguments]
