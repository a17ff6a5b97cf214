"""The parts `files`, `delta`, `objects` and `hdfs` of `guarantees.py`: a file that grows, to files and tables."""

from __future__ import annotations

import json
import os
import shutil
import signal
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cut_network import CutNetwork, CutNetworks
from guarantees_part import DECODED, Part, in_delta, line, program
from hdfs_server import USER, Hdfs, hadoop_jars
from servers import CACHE, ObjectStore


class Files(Part):
    """A file that grows, to files."""

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
            file.write(b"".join(line(n) + b"\n" for n in numbers))

    def received(self) -> Counter[int]:
        parts = (self.folder / "lake" / "out").glob("part-*.ndjson")
        return Counter(json.loads(line)["n"] for part in parts for line in part.read_bytes().splitlines())

    def close(self) -> None:
        """There is nothing to close."""


class Delta(Files):
    """A file that grows, to a Delta table, which delta-rs reads."""

    sink: Mapping[str, Any] = {"delta": "out"}

    def received(self) -> Counter[int]:
        return in_delta(self.folder / "lake" / "out")


class _Elsewhere(Files):
    """A file that grows, to files at an address, and from these to a Delta table at one."""

    life_s = 5.0
    """Long enough for connections to stand that can be cut: each file takes several requests, one after another."""

    server: ObjectStore | Hdfs
    between: CutNetwork | CutNetworks

    @abstractmethod
    def files(self) -> Mapping[str, Any]:
        """Return address and storage of the files."""

    @abstractmethod
    def table(self) -> Mapping[str, Any]:
        """Return address and storage of the table."""

    @abstractmethod
    def around(self) -> tuple[str, Mapping[str, str]]:
        """Return address and storage of the table, past what stands between."""

    def pipeline(self) -> Mapping[str, Any]:
        # With a format nothing is asked of the server here: the library's threads would not outlive the fork.
        objects = {**self.files(), "format": "ndjson"}
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
                "kept": {"from": "objects", "sinks": [{"delta": {**self.table(), "gather": "300ms"}}]},
            },
        }

    def restart(self) -> None:
        self.server.stop(signal.SIGKILL)
        self.server.start()

    def close(self) -> None:
        self.between.close()
        self.server.stop()

    def received(self) -> Counter[int]:
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        address, storage = self.around()
        try:
            table = DeltaTable(address, storage_options=dict(storage))
        except TableNotFoundError:
            return Counter()
        return Counter(table.to_pyarrow_table(columns=["n"])["n"].to_pylist())


class Objects(_Elsewhere):
    """A file that grows, to objects in an S3 server, and from these to a Delta table in it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        place = folder / "objects"
        place.mkdir()
        binary = shutil.which("versitygw", path=f"{CACHE}/versitygw-1.8.0{os.pathsep}{os.environ.get('PATH', '')}")
        if binary is None:
            raise SystemExit("versitygw is missing; ./test builds it where Go is installed")
        self.server = ObjectStore(place, binary).start()
        self.network = self.between = CutNetwork(self.server.port)

    def files(self) -> Mapping[str, Any]:
        return {"path": "s3://plant/records", "storage": self._storage()}

    def table(self) -> Mapping[str, Any]:
        return {"path": "s3://plant/kept", "storage": self._storage()}

    def around(self) -> tuple[str, Mapping[str, str]]:
        return "s3://plant/kept", self.server.options

    def _storage(self) -> Mapping[str, str]:
        return {**self.server.options, "aws_endpoint_url": f"http://127.0.0.1:{self.between.port}"}


class HdfsFolders(_Elsewhere):
    """A file that grows, to files in a real HDFS by WebHDFS, and from these to a table there by Hadoop's protocol.

    Both nodes are killed in turn. The name node is reached through proxies, and so is the data node: it listens at
    another address of loopback than the one that it tells.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        place = folder / "hdfs"
        place.mkdir()
        java = program("java", "default-jdk-headless")
        self.server = Hdfs(java, hadoop_jars(lambda name: program(name, "maven")), place, data_host="127.0.0.2")
        self.server.start()
        os.environ["HADOOP_USER_NAME"] = USER  # the protocol of the table takes it from nowhere else
        self._web, self._rpc = CutNetwork(self.server.port), CutNetwork(self.server.rpc_port)
        data = [CutNetwork(port, self.server.data_host, port) for port in self.server.data_ports.values()]
        self.network = self.between = CutNetworks([self._web, self._rpc, *data])

    def files(self) -> Mapping[str, Any]:
        return {"path": f"hdfs://127.0.0.1:{self._web.port}/records", "storage": self.server.options}

    def table(self) -> Mapping[str, Any]:
        return {"path": f"hdfs://127.0.0.1:{self._rpc.port}/kept"}

    def around(self) -> tuple[str, Mapping[str, str]]:
        return f"{self.server.table_url}/kept", {}
