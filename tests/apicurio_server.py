"""A real schema registry for the tests: Apicurio on loopback, where its program and a Java that runs it are there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import CACHE, Needs, free_port

PROGRAM = CACHE / "apicurio-3.3.3" / "quarkus-run.jar"
PATH = "apis/ccompat/v7"
"""Where it answers as Confluent's registry does."""
START_S = 240
_JAVA = 21


def new_java(needs: Needs) -> str:
    """Returns a Java that is new enough; the test is skipped where there is none."""
    for java in (needs("java"), *sorted(str(path) for path in Path("/usr/lib/jvm").glob("*/bin/java"))):
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
        version = re.search(r'version "(\d+)', said)
        if version is not None and int(version[1]) >= _JAVA:
            return java
    pytest.skip(f"Apicurio needs Java {_JAVA} or later, and there is none")


@dataclass
class Apicurio:
    """It keeps its schemas in memory."""

    java: str
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{PATH}"

    def start(self) -> Apicurio:
        at = {"QUARKUS_HTTP_HOST": "127.0.0.1", "QUARKUS_HTTP_PORT": str(self.port), "QUARKUS_LOG_LEVEL": "WARN"}
        at |= {"QUARKUS_MANAGEMENT_HOST": "127.0.0.1", "QUARKUS_MANAGEMENT_PORT": str(free_port())}
        fast = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"]
        log = self.folder / "log"
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [self.java, *fast, "-jar", str(PROGRAM)],
                cwd=self.folder,
                env=os.environ | at,
                stdout=file,
                stderr=file,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, f"Apicurio ended at once:\n{log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"Apicurio does not answer:\n{log.read_text()[-2000:]}"
            time.sleep(0.2)
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None

    def register(self, subject: str, schema: Any) -> int:
        """Returns the number of a schema, written in Avro, as the next version of a subject."""
        body = {"schema": json.dumps(schema)}
        answer = httpx.post(f"{self.url}/subjects/{subject}/versions", json=body, timeout=60).raise_for_status()
        return int(answer.json()["id"])

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/subjects", timeout=10).is_success
        except httpx.TransportError:
            return False
