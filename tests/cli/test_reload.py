"""A running pipeline is told to read its file again, by the signal that services send."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
from press import rows

WAIT_S = 60.0
AS_A_SERVICE = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from tocsin.cli import main
main()
"""
"""The signal is heard, also where the tests were started by nohup, which has it ignored."""
PIPELINE = """
name: press
folder: {folder}/lake
source: {{files: {{path: {folder}/*.ndjson, follow: true}}}}
decode: {{json: {{columns: {{machine: text, pressure: float}}}}}}
key: machine
streams:
  readings:
    steps: [keep: pressure > {least}, {step}]
    sinks: [delta: readings]
"""


class Running:
    """A pipeline in a process of its own, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "p.yaml"
        self.write(least=0)
        self.give("a")
        command = [sys.executable, "-c", AS_A_SERVICE, "run", str(self.file)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.said: Queue[str] = Queue()
        self.thread = threading.Thread(target=self._listen)
        self.thread.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.said.put(line)

    def write(self, least: int, step: str = "ewma: {of: pressure, span: 5}") -> None:
        self.file.write_text(PIPELINE.format(folder=self.folder, least=least, step=step))

    def give(self, name: str) -> None:
        """Four rows, of 1 to 4."""
        lines = "".join(f'{{"machine": "p1", "pressure": {n}.0}}\n' for n in range(1, 5))
        (self.folder / f"{name}.new").write_text(lines)
        (self.folder / f"{name}.new").rename(self.folder / f"{name}.ndjson")

    def kept(self, count: int) -> None:
        """Wait until so many rows are in the table."""
        until = time.monotonic() + WAIT_S
        while (there := self._rows()) != count:
            assert there < count, f"{there} rows, not {count}"
            assert time.monotonic() < until, f"{there} rows, not {count}"
            assert self.process.poll() is None
            time.sleep(0.05)

    def _rows(self) -> int:
        return rows(self.folder / "lake") if (self.folder / "lake" / "readings" / "_delta_log").exists() else 0

    def told(self, phrase: str) -> None:
        """Tell it to read its file again, and wait until it says something."""
        self.process.send_signal(signal.SIGHUP)
        line = ""
        while phrase not in line:
            line = self.said.get(timeout=WAIT_S)

    def end(self) -> int:
        self.process.terminate()
        code = self.process.wait(WAIT_S)
        self.thread.join()
        return code


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(tmp_path)
    yield one
    one.process.kill()
    one.process.wait()
    one.thread.join()


def test_a_running_engine_takes_its_file_anew_only_if_it_is_right(running: Running) -> None:
    running.kept(4)
    running.write(least=0, step="ewmaa: {of: pressure}")
    running.told("goes on as it was, since its file cannot be taken: ")  # there is no such step
    running.write(least=0, step="ewma: {of: pressure, span: 50}")
    running.told("goes on as it was, since its file cannot be taken: what 'readings.1.ewma' remembered")
    running.give("b")
    running.kept(8)
    running.write(least=2)
    running.told("goes on with its file as it is now")
    running.give("c")
    running.kept(10)
    assert running.end() == 0
