"""A real Flink cluster for the tests, out of pip's distribution.

It needs Flink's environment, which is one of its own: TOCSIN_FLINK_PYTHON names its interpreter.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import free_port

PYTHON = os.environ.get("TOCSIN_FLINK_PYTHON")
MARKS = [
    pytest.mark.skipif(PYTHON is None, reason="TOCSIN_FLINK_PYTHON does not name a Python with tocsin[flink]"),
    pytest.mark.timeout(1_800),
]
STARTED_S, ENDED_S = 400.0, 800.0


class Machine:
    """The command line in Flink's environment, and a cluster that it has started."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder = free_port(), folder

    def command(self, *arguments: str) -> list[str]:
        assert PYTHON is not None
        return [PYTHON, "-m", "tocsin.cli", *arguments]

    def flink(self, what: str, *more: str) -> None:
        place = ["--folder", str(self.folder / "cluster"), "--port", str(self.port)]
        subprocess.run(self.command("flink", what, *place, *more), check=True, timeout=STARTED_S)

    def run(self, file: Path, folder: Path, *settings: str, parallelism: int = 1) -> subprocess.Popen[str]:
        self.flink("up")  # the end of a job may have taken the TaskManager with it, see docs/scale.md
        given = [word for one in (f"folder={folder}", *settings) for word in ("--set", one)]
        command = self.command("run", str(file), *given, "--on", "flink", "--parallelism", str(parallelism))
        return subprocess.Popen([*command, "--jobmanager", f"127.0.0.1:{self.port}"], stderr=subprocess.PIPE, text=True)

    def kill_taskmanager(self) -> None:
        pid, _ = (self.folder / "cluster" / "pids" / "taskmanager-0").read_text().split()
        os.kill(int(pid), signal.SIGKILL)


@contextmanager
def started(folder: Path) -> Iterator[Machine]:
    """A machine whose cluster runs for a block, in the environment of now."""
    made = Machine(folder)
    made.flink("up")
    try:
        yield made
    finally:
        made.flink("down")


def ended_well(running: subprocess.Popen[str]) -> str:
    """Wait for the end of a command; returns what it has said."""
    told = running.communicate(timeout=ENDED_S)[1]
    assert running.returncode == 0, told
    return told
