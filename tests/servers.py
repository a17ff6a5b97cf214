"""Servers that tests start, and what they need to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httpx

Needs = Callable[[str], str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
            "max_queued_messages 100000\nmax_inflight_messages 1000\n"
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
    """Moto's S3 in a process of its own, with a bucket ``plant``; it knows conditional puts, but takes any secret."""

    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> dict[str, str]:
        """How delta-rs reaches it."""
        return {
            "aws_endpoint_url": f"http://127.0.0.1:{self.port}",
            "aws_allow_http": "true",
            "aws_access_key_id": "tocsin",
            "aws_secret_access_key": "any",
            "aws_region": "us-east-1",
        }

    def start(self) -> ObjectStore:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        listens(self.process, self.port, "moto", 60)
        httpx.put(f"http://127.0.0.1:{self.port}/plant", timeout=30).raise_for_status()
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None
