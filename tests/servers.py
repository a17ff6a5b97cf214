"""Servers that tests start, and what they need to."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import httpx

Needs = Callable[[str], str]
CACHE = Path.home() / ".cache" / "tocsin-tests"
"""What is fetched or built for the tests, and kept between runs."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def maven_jars(needs: Needs, pom: Path) -> Path:
    """Returns the folder of the jars that a POM names; the first call on a machine fetches them."""
    CACHE.mkdir(parents=True, exist_ok=True)
    name, version = re.findall(r"<(?:artifactId|version)>(.*?)<", pom.read_text())[:2]
    folder = CACHE / f"{name}-{version}"
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={part}"]
            subprocess.run([needs("mvn"), "-q", "-B", "-f", str(pom), *goal], check=True, timeout=600)
            part.rename(folder)
    return folder


def listens(process: subprocess.Popen[bytes], port: int, name: str, patience_s: float) -> None:
    """Wait until a server that was started listens."""
    deadline = time.monotonic() + patience_s
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, f"{name} ended at once: its settings are wrong"
        assert time.monotonic() < deadline, f"{name} does not listen"
        time.sleep(0.02)


@dataclass
class Mosquitto:
    """A real broker in a folder of its own; its sessions outlive `stop` and `start`."""

    binary: str
    folder: Path
    lines: str = "allow_anonymous true"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt{'s' if 'certfile' in self.lines else ''}://127.0.0.1:{self.port}"

    def start(self) -> Mosquitto:
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\n{self.lines}\npersistence true\npersistence_location {self.folder}/\n"
            "max_queued_messages 1000000\nmax_inflight_messages 1000\n"
            + (f"user {os.environ.get('USER', 'root')}\n" if os.getuid() == 0 else "")
        )
        self.process = subprocess.Popen(
            [self.binary, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        listens(self.process, self.port, "mosquitto", 10)
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(10)
            self.process = None


@dataclass
class InfluxDb:
    """A real InfluxDB 1 in a folder of its own, with a database ``plant`` and the user ``tocsin``."""

    binary: str
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    PASSWORD: ClassVar[str] = "reads-and-writes"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> InfluxDb:
        config, rpc = self.folder / "influxdb.conf", free_port()
        folders = "".join(
            f'[{part}]\n{key} = "{self.folder}/{key}"\n' for part, key in (("meta", "dir"), ("data", "dir"))
        ).replace("[data]", f'[data]\nwal-dir = "{self.folder}/wal"')
        config.write_text(
            f'reporting-disabled = true\nbind-address = "127.0.0.1:{rpc}"\n{folders}'
            f'[http]\nbind-address = "127.0.0.1:{self.port}"\nauth-enabled = true\n[monitor]\nstore-enabled = false\n'
        )
        environment = {name: value for name, value in os.environ.items() if name != "INFLUXDB_CONFIG_PATH"}
        self.process = subprocess.Popen(
            [self.binary, "run", "-config", str(config)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        listens(self.process, self.port, "influxd", 30)
        self.ask("CREATE USER tocsin WITH PASSWORD '" + self.PASSWORD + "' WITH ALL PRIVILEGES", signed=False)
        self.ask("CREATE DATABASE plant")
        return self

    def ask(self, query: str, *, signed: bool = True) -> list[dict[str, Any]]:
        """Returns the rows of the first series."""
        answer = httpx.post(
            f"{self.url}/query",
            data={"q": query, "db": "plant", "epoch": "ns"},
            auth=("tocsin", self.PASSWORD) if signed else None,
            timeout=30,
        )
        results = answer.json().get("results", [{}])
        series = results[0].get("series", [])
        return [dict(zip(one["columns"], row, strict=True)) for one in series for row in one["values"]]

    def write(self, lines: Sequence[str]) -> None:
        """Write points, as lines with a time in nanoseconds."""
        answer = httpx.post(
            f"{self.url}/write",
            params={"db": "plant", "precision": "ns"},
            content="\n".join(lines).encode(),
            auth=("tocsin", self.PASSWORD),
            timeout=30,
        )
        assert answer.status_code == 204, answer.text

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None


@dataclass
class ObjectStore:
    """An S3 server with a bucket ``plant``: versitygw over a folder, or moto where it is not installed.

    Both know conditional puts. Moto keeps its objects in memory and takes any secret.
    """

    folder: Path
    binary: str | None
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    KEY: ClassVar[str] = "tocsin"
    SECRET: ClassVar[str] = "reads-and-writes"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, str]:
        """How delta-rs, and what is built on the same library, reaches it."""
        return {
            "aws_endpoint_url": self.url,
            "aws_allow_http": "true",
            "aws_access_key_id": self.KEY,
            "aws_secret_access_key": self.SECRET,
            "aws_region": "us-east-1",
        }

    @cached_property
    def client(self) -> Any:
        import boto3

        keys = {"aws_access_key_id": self.KEY, "aws_secret_access_key": self.SECRET}
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", **keys)

    def start(self) -> ObjectStore:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        if self.binary is not None:
            command = [self.binary, "--quiet", "--port", f"127.0.0.1:{self.port}", "posix", str(self.folder)]
        keys = {"ROOT_ACCESS_KEY": self.KEY, "ROOT_SECRET_KEY": self.SECRET}
        self.process = subprocess.Popen(
            command, env=os.environ | keys, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        listens(self.process, self.port, command[0], 60)
        if "plant" not in [bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]]:
            self.client.create_bucket(Bucket="plant")
        return self

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket="plant", Key=name, Body=data)

    def objects(self, folder: str) -> dict[str, bytes]:
        """Returns what is below a folder, by its names there."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="plant", Prefix=f"{folder}/")
        names = [one["Key"] for page in pages for one in page.get("Contents", ())]
        read = {name: self.client.get_object(Bucket="plant", Key=name)["Body"].read() for name in names}
        return {name.removeprefix(f"{folder}/"): data for name, data in read.items()}

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None
