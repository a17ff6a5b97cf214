"""Real disks that fail: an fsync that returns EIO (by strace), a file system that is full (a small tmpfs)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tocsin.errors import ConfigError
from tocsin.lake.read import read
from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.mqtt.client import Client

PATIENCE_S = 60.0
PIPELINE = """\
name: disks
folder: {folder}/lake
checkpoint: 50ms
source: {source}
decode: {{json: {{columns: {{machine: text, n: int}}}}}}
key: machine
streams: {{readings: {{sinks: [delta: {{path: readings, gather: 0s}}]}}}}
"""
FILES = "{{files: {{path: {folder}/in/*.jsonl, follow: true}}}}"
MQTT = "{{mqtt: {{url: '{url}', topic: plant, client_id: disks}}}}"
COMMAND = [sys.executable, "-m", "tocsin.cli", "run"]


class Plant:
    """Numbered readings for an engine, by a growing file or by a broker that keeps what is not acknowledged."""

    def __init__(self, folder: Path, broker: Broker | None) -> None:
        self._engines: list[subprocess.Popen[str]] = []
        self.lake, self.pipeline, self.sent, self._broker = folder / "lake", folder / "disks.yaml", 0, broker
        self._file = folder / "in" / "a.jsonl"
        self._file.parent.mkdir()
        if broker is not None:
            self._client = Client(broker.url, "device")
            session = Client(broker.url, "disks", filters=["plant"], clean=False, session_expiry_s=3_600)
            session.connect()
            session.close()
        source = (MQTT if broker is not None else FILES).format(folder=folder, url=broker.url if broker else "")
        self.pipeline.write_text(PIPELINE.format(folder=folder, source=source))

    def send(self, count: int = 200) -> None:
        lines = [b'{"machine":"m%d","n":%d}' % (n % 7, n) for n in range(self.sent, self.sent + count)]
        if self._broker is not None:
            self._client.publish([("plant", line) for line in lines])
        else:
            with self._file.open("ab") as file:
                file.write(b"\n".join(lines) + b"\n")
        self.sent += count

    def rows(self) -> list[int]:
        """Returns the numbers that the table has, in order."""
        try:
            return sorted(read("readings", self.lake)["n"].to_pylist())
        except ConfigError:  # not there yet
            return []

    def start(self, *before: str) -> subprocess.Popen[str]:
        self._engines.append(
            subprocess.Popen([*before, *COMMAND, str(self.pipeline)], stderr=subprocess.PIPE, text=True)
        )
        return self._engines[-1]

    def end(self, engine: subprocess.Popen[str]) -> str:
        """Wait for every row, stop the engine; returns what it has said."""
        until(lambda: len(self.rows()) >= self.sent or engine.poll() is not None)
        engine.terminate()
        said = engine.communicate(timeout=PATIENCE_S)[1]
        assert engine.returncode == 0, said
        assert self.rows() == list(range(self.sent)), "each reading once"
        return said

    def close(self) -> None:
        for engine in self._engines:
            if engine.poll() is None:
                engine.kill()
                engine.communicate()
        if self._broker is not None:
            self._client.close()


def until(holds: Callable[[], bool]) -> None:
    limit_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < limit_s
        time.sleep(0.05)


@pytest.fixture
def plant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plant]:
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(BrokerConfiguration())) if request.param == "mqtt" else None
        made = Plant(tmp_path, broker)
        yield made
        made.close()


@pytest.fixture
def injected(needs: Callable[[str], str]) -> Callable[[Path, int], list[str]]:
    """Returns the beginning of a command whose n-th fsync of a file or folder, and no other, fails."""
    strace = needs("strace")
    if subprocess.run([strace, "-qq", "-o", os.devnull, "true"], check=False, capture_output=True).returncode:
        pytest.skip("strace may not trace here")

    def beginning(path: Path, when: int) -> list[str]:
        calls = "fsync,fdatasync"
        return [
            strace, "-f", "-qq", "-o", os.devnull, "-P", str(path), "-e", f"trace={calls}",
            "-e", f"inject={calls}:error=EIO:when={when}",
        ]  # fmt: skip

    return beginning


@pytest.mark.parametrize(
    ("plant", "place"),
    [
        ("files", ".state/checkpoints.db-wal"),
        ("files", "readings/_delta_log"),
        ("mqtt", ".state/checkpoints.db-wal"),
        ("mqtt", f".state/ingest/source/0/{1:020d}.log"),
    ],
    indirect=["plant"],
)
def test_a_failed_fsync_stops_the_engine_and_loses_nothing(
    plant: Plant, place: str, injected: Callable[[Path, int], list[str]]
) -> None:
    engine = plant.start(*injected(plant.lake / place, 2))
    until(lambda: not plant.send(20) and engine.poll() is not None)  # type: ignore[func-returns-value]
    said = (engine.communicate()[1]).strip()
    assert engine.returncode == 1
    assert said.endswith("check the disk, then start again")
    assert len(said.splitlines()) == 1
    assert Path(place).name.removesuffix("-wal") in said
    plant.send()
    assert plant.end(plant.start()) == ""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 16 MB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount a file system")
    if shutil.which("mount") is None:
        pytest.skip("mount is not installed")
    folder = tmp_path / "lake"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    """Write until there is no space."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@pytest.mark.parametrize("plant", ["files", "mqtt"], indirect=True)
def test_a_full_disk_is_waited_out(small: Path, plant: Plant) -> None:
    plant.send()
    engine = plant.start()
    until(lambda: len(plant.rows()) == plant.sent)
    fill(small / "ballast")
    for _ in range(10):
        plant.send()
        time.sleep(0.2)
    before = len(plant.rows())
    (small / "ballast").unlink()
    said = plant.end(engine)
    assert before < plant.sent, "the disk was full"
    full, again = said.splitlines()
    assert full.startswith(f"no space is left for {small}")
    assert "make room: nothing is lost" in full
    assert again == "there is space again; it goes on"
