"""The power goes, on a real file system, again and again: is anything lost; ends with one JSON line.

    python bench/powercut.py [--cuts 100] [--seed 1] [--rate 500]        (as root, on Linux)

State and tables lie on an ext4 in a file of their own (a loop device). A device publishes numbered readings at QoS 1 to
a broker that lives on; the engine runs as `tocsin run` does. At a random moment, one in four times while it starts, the
power goes: first the wire, so that the broker hears nothing more of the engine; then the file system is shut down
without its log (FS_IOC_SHUTDOWN, NOLOGFLUSH), so that what was not synced is gone. The engine is not held. It meets a
disk that fails for up to 0.3 s, is killed, the file system is mounted anew, every table read, and the engine started
again. In the end it runs until all is written. Counted are the readings that the broker had been told to forget by then
(it does not send these again), and of all that were sent those that a table lacks or has twice; and how often a table
could not be read.

The wire goes first because ext4 lies for a moment: an fsync that runs while it is shut down may return 0 although
nothing of it is on disk (``bench/shutdown_race.py`` shows it). After a power cut nobody hears of such an fsync.

Where there is no loop device, or this is not root, it says so and does nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tocsin.errors import TocsinError
from tocsin.lake.read import read, tables
from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.mqtt.client import Client
from tocsin.mqtt.sessions import Session

SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, struct.pack("I", 2)
"""ioctl of ext4 and xfs: the moment at which the power goes."""
SIZE = 512 << 20
PATIENCE_S = 120.0
TABLES = ("readings", "judged")
PIPELINE = """\
name: powercut
folder: {folder}
checkpoint: 200ms
source: {{mqtt: {{url: "{url}", topic: plant/+/telemetry, client_id: powercut}}}}
decode: {{json: {{topic: "plant/{{machine}}/telemetry", columns: {{value: float, n: int}}}}}}
key: machine
streams:
  readings:
    sinks: [delta: {{path: readings, gather: 1s}}]
  judged:
    from: readings
    steps: [ewma: {{of: value}}]
    sinks: [delta: {{path: judged, gather: 0s}}]
"""


class Ext4:
    """A file system in a file, whose power can be cut."""

    def __init__(self, folder: Path) -> None:
        self._image, self.place = folder / "image", folder / "disk"
        self.place.mkdir()
        with open(self._image, "wb") as file:
            file.truncate(SIZE)
        _run("mkfs.ext4", "-q", "-F", str(self._image))

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.place))

    def cut(self) -> None:
        """What was not synced never comes to the platter, and nothing is written any more."""
        descriptor = os.open(self.place, os.O_RDONLY)
        fcntl.ioctl(descriptor, SHUTDOWN, NO_LOG_FLUSH)
        os.close(descriptor)

    def unmount(self) -> None:
        for _ in range(100):
            if subprocess.run(["umount", self.place], capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.05)
        _run("umount", "-l", str(self.place))


class Wire:
    """What lies between engine and broker; after `cut` not one byte more of the engine arrives."""

    def __init__(self, port: int) -> None:
        self._port, self._whole, self._lock = port, False, threading.Lock()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def mend(self) -> None:
        """Let new connections through."""
        with self._lock:
            self._whole = True

    def cut(self) -> None:
        """Let nothing of the engine through any more; it sees no more of it than that nobody answers."""
        with self._lock:
            self._whole = False

    def hang_up(self) -> None:
        """Close what there is."""
        with self._lock:
            for end in self._ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
            self._ends.clear()

    def _accept(self) -> None:
        while True:
            engine, _ = self._listener.accept()
            with self._lock:
                if not self._whole:
                    engine.close()
                    continue
                broker = socket.create_connection(("127.0.0.1", self._port))
                self._ends += engine, broker
            threading.Thread(target=self._to_broker, args=(engine, broker), daemon=True).start()
            threading.Thread(target=self._to_engine, args=(broker, engine), daemon=True).start()

    def _to_broker(self, engine: socket.socket, broker: socket.socket) -> None:
        with suppress(OSError):
            while data := engine.recv(1 << 16):
                with self._lock:
                    if not self._whole:
                        return
                    broker.sendall(data)
            broker.shutdown(socket.SHUT_WR)

    def _to_engine(self, broker: socket.socket, engine: socket.socket) -> None:
        with suppress(OSError):
            while data := broker.recv(1 << 16):
                engine.sendall(data)
            engine.shutdown(socket.SHUT_WR)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def lacking(folder: Path) -> str:
    """Returns why no power can be cut here; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux may mount a file system"
    if missing := [name for name in ("mkfs.ext4", "mount", "umount") if shutil.which(name) is None]:
        return f"{missing[0]} is not installed"
    try:
        disk = Ext4(folder)
        disk.mount()
        try:
            disk.cut()
        finally:
            disk.unmount()
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.decode(errors="replace").strip() if isinstance(error, subprocess.CalledProcessError) else ""
        return f"no loop device with ext4 that can be shut down: {said or error}"
    return ""


@contextmanager
def device(url: str, rate: int) -> Iterator[list[int]]:
    """Publishes numbered readings at the rate; yields how many the broker has."""
    sent, until = [0], threading.Event()

    def publish() -> None:
        client = Client(url, "device")
        while not until.wait(0.05):
            messages = [
                (f"plant/m{n % 7}/telemetry", f'{{"value":{n % 100},"n":{n}}}'.encode())
                for n in range(sent[0], sent[0] + max(1, rate // 20))
            ]
            client.publish(messages)
            sent[0] += len(messages)
        client.close()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield sent
    finally:
        until.set()
        thread.join()


def start(pipeline: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tocsin.cli", "run", str(pipeline)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def taken(session: Session, sent: list[int]) -> int:
    """Returns how many readings the engine has acknowledged."""
    return sent[0] - len(session.queue) - len(session.in_flight)


def live(engine: subprocess.Popen[bytes], session: Session, sent: list[int], chance: random.Random) -> None:
    """Let the engine run for a while: one in four times while it starts, else until it has taken something and on."""
    if chance.random() < 0.25:
        time.sleep(chance.uniform(0.3, 4.0))
        return
    before, until_s = taken(session, sent), time.monotonic() + 30
    while taken(session, sent) <= before + 200 and engine.poll() is None and time.monotonic() < until_s:
        time.sleep(0.01)
    time.sleep(chance.uniform(0.0, 1.5))


def unreadable(lake: Path) -> int:
    """Returns how many of the tables that are there cannot be read."""
    found = 0
    for name in tables(lake):
        try:
            read(name, lake)
        except TocsinError as error:
            if "first entry is still to be written" in str(error):
                continue
            print(f"\n{error}", file=sys.stderr)
            found += 1
    return found


def missing(lake: Path, table: str, sent: int) -> list[int]:
    """Returns the readings that a table does not have."""
    return sorted(set(range(sent)) - set(read(table, lake)["n"].to_pylist()))


def measure(cuts: int, seed: int, rate: int, folder: Path) -> dict[str, Any]:
    """Cut the power so often; returns what was found."""
    chance, disk, broken, refused = random.Random(seed), Ext4(folder), 0, 0
    lake, pipeline = disk.place / "lake", folder / "powercut.yaml"
    with Broker(BrokerConfiguration(queue_max=10**6)) as broker:
        wire = Wire(broker.port)
        pipeline.write_text(PIPELINE.format(folder=lake, url=wire.url))
        Client(broker.url, "powercut", filters=["plant/+/telemetry"], clean=False, session_expiry_s=86_400).connect()
        session = broker.sessions["powercut"]
        with device(broker.url, rate) as sent:
            for cut in range(cuts):
                disk.mount()
                broken += unreadable(lake)
                wire.mend()
                engine = start(pipeline)
                live(engine, session, sent, chance)
                refused += engine.poll() is not None
                wire.cut()
                disk.cut()
                time.sleep(chance.uniform(0.0, 0.3))
                engine.kill()
                engine.communicate()
                wire.hang_up()
                disk.unmount()
                print(f"\r{cut + 1} cuts, {sent[0]} sent", end="", file=sys.stderr, flush=True)
        acknowledged = taken(session, sent)
        disk.mount()
        broken += unreadable(lake)
        wire.mend()
        engine = start(pipeline)
        # What it has acknowledged may still be in its log: only a table that has all of it is at the end.
        until_s = time.monotonic() + PATIENCE_S
        while engine.poll() is None and time.monotonic() < until_s and any(missing(lake, t, sent[0]) for t in TABLES):
            time.sleep(0.5)
        engine.send_signal(signal.SIGTERM)
        said = engine.communicate()[1].decode(errors="replace")
    if engine.returncode:
        print(said, file=sys.stderr)
    lost = doubled = 0
    for name in TABLES:
        counted = Counter(read(name, lake)["n"].to_pylist())
        lost += len(gone := missing(lake, name, sent[0]))
        if gone:
            print(f"\n{name} lacks {len(gone)}: {gone[:20]} ...", file=sys.stderr)
        doubled += sum(count - 1 for count in counted.values())
    disk.unmount()
    return {
        "cuts": cuts, "sent": sent[0], "acknowledged": acknowledged, "lost": lost, "doubled": doubled,
        "unreadable_tables": broken, "starts_refused": refused, "ended_with": engine.returncode,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=int, default=500)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as tried, tempfile.TemporaryDirectory() as folder:
        if reason := lacking(Path(tried)):
            print(f"skipped: {reason}")
            print(json.dumps({"bench": "powercut", "skipped": reason}))
            return
        found = measure(asked.cuts, asked.seed, asked.rate, Path(folder))
    print(file=sys.stderr)
    print(json.dumps({"bench": "powercut", **found}))


if __name__ == "__main__":
    main()
