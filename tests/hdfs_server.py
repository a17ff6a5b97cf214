"""A real HDFS for the tests: a name node and a data node on loopback, jars from Maven Central, kept between runs."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import httpx
from servers import Needs, free_port, maven_jars

POM = Path(__file__).parent / "hdfs_pom.xml"
START_S = 240
USER = "tocsin"
_NODES = {"namenode": "NameNode", "datanode": "DataNode"}


def hadoop_jars(needs: Needs) -> Path:
    """Returns the folder of Hadoop's jars; the first call on a machine fetches them (91 MB)."""
    return maven_jars(needs, POM)


@dataclass
class Hdfs:
    """The two nodes in a folder of their own; files outlive `stop` and `start`."""

    java: str
    jars: Path
    folder: Path
    port: int = field(default_factory=free_port)
    """Of the web interface."""
    rpc_port: int = field(default_factory=free_port)
    data_host: str = "127.0.0.1"
    """Where the data node listens; clients are told 127.0.0.1 whatever it is."""
    data_ports: Mapping[str, int] = field(
        default_factory=lambda: {name: free_port() for name in ("address", "http.address", "ipc.address")}
    )
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """How sink and source `files` reach it."""
        return f"hdfs://127.0.0.1:{self.port}"

    @property
    def table_url(self) -> str:
        """How delta-rs reaches it."""
        return f"hdfs://127.0.0.1:{self.rpc_port}"

    @property
    def options(self) -> dict[str, str]:
        return {"user": USER}

    def start(self) -> Hdfs:
        if not (self.folder / "name").is_dir():
            self._configure()
            with open(self.folder / "format.log", "wb") as log:
                command = [*self._command("namenode"), "-format", "-nonInteractive"]
                subprocess.run(command, stdout=log, stderr=log, check=True, timeout=120)
        for node in _NODES:
            with open(self.folder / f"{node}.log", "ab") as log:
                self.nodes.append(subprocess.Popen(self._command(node), stdout=log, stderr=log))
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            assert all(node.poll() is None for node in self.nodes), f"HDFS ended at once:\n{self._log()}"
            assert time.monotonic() < deadline, f"HDFS does not answer:\n{self._log()}"
            time.sleep(0.1)
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        for node in self.nodes:
            node.send_signal(number)
        for node in self.nodes:
            try:
                node.wait(20)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait(10)
        self.nodes.clear()
        self._client.close()

    def put(self, name: str, data: bytes) -> None:
        """Make a file."""
        answer = self._asked("PUT", name, op="CREATE", overwrite="true", noredirect="true")
        self._client.put(answer.json()["Location"], content=data).raise_for_status()

    def objects(self, folder: str) -> dict[str, bytes]:
        """Returns what is below a folder, by its names there."""
        answer = self._asked("GET", folder, op="LISTSTATUS")
        if answer.status_code == 404:
            return {}
        read: dict[str, bytes] = {}
        for one in answer.raise_for_status().json()["FileStatuses"]["FileStatus"]:
            name = one["pathSuffix"]
            if one["type"] == "DIRECTORY":
                read |= {f"{name}/{below}": data for below, data in self.objects(f"{folder}/{name}").items()}
            else:
                read[name] = self._asked("GET", f"{folder}/{name}", op="OPEN").raise_for_status().content
        return read

    @cached_property
    def _client(self) -> httpx.Client:
        return httpx.Client(timeout=30, follow_redirects=True)

    def _asked(self, method: str, name: str, **parameters: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}/webhdfs/v1/{name}"
        more = {**parameters, "user.name": USER}
        return self._client.request(method, url, params=more)

    def _configure(self) -> None:
        own = {name: f"{self.data_host}:{port}" for name, port in self.data_ports.items()}
        core = {"fs.defaultFS": self.table_url, "hadoop.tmp.dir": f"{self.folder}/tmp"}
        files = {
            "dfs.namenode.name.dir": f"file://{self.folder}/name",
            "dfs.datanode.data.dir": f"file://{self.folder}/data",
            "dfs.namenode.rpc-address": f"127.0.0.1:{self.rpc_port}",
            "dfs.namenode.http-address": f"127.0.0.1:{self.port}",
            **{f"dfs.datanode.{name}": address for name, address in own.items()},
            "dfs.datanode.hostname": "127.0.0.1",
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.replication": "1",
            "dfs.permissions.superusergroup": USER,
        }
        for name, settings in (("core-site", core), ("hdfs-site", files)):
            (self.folder / f"{name}.xml").write_text(_xml(settings))

    def _command(self, node: str) -> list[str]:
        fast = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"]
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        package = f"org.apache.hadoop.hdfs.server.{node}.{_NODES[node]}"
        return [
            "env",
            f"HADOOP_USER_NAME={USER}",
            self.java,
            *fast,
            quiet,
            "-cp",
            f"{self.folder}:{self.jars}/*",
            package,
        ]

    def _is_ready(self) -> bool:
        """Whether the data node has reported to the name node, and that one takes writes."""
        url = f"http://127.0.0.1:{self.port}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
        try:
            beans = httpx.get(url, timeout=10).json()["beans"]
        except httpx.TransportError:
            return False
        return bool(beans) and beans[0]["NumLiveDataNodes"] == 1 and beans[0]["FSState"] == "Operational"

    def _log(self) -> str:
        return "\n".join((self.folder / f"{node}.log").read_text()[-2000:] for node in _NODES)


def _xml(settings: Mapping[str, str]) -> str:
    properties = (f"<property><name>{name}</name><value>{value}</value></property>" for name, value in settings.items())
    return f"<configuration>{''.join(properties)}</configuration>"
