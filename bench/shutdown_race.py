"""What an fsync is worth that runs while ext4 is shut down; ends with one JSON line.

    python bench/shutdown_race.py [--cuts 60]        (as root, on Linux)

Two threads append records of 4 KiB to files of their own and sync each, until the file system is shut down without its
log (FS_IOC_SHUTDOWN, NOLOGFLUSH), as `bench/powercut.py` does it. Then it is mounted anew, and the records are looked
for whose fsync had returned 0: before the ioctl was called, while it ran, and after it had returned. Where any of the
first kind is gone, the file system or the disk breaks its promise. The second kind is why a bench that cuts power in
this way must not count what was acknowledged after the call.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from powercut import Ext4, lacking

RECORD, FILL = 4096, b"x" * 4088


@dataclass(frozen=True)
class Synced:
    """A record whose fsync returned 0, and when (ns)."""

    number: int
    began: int
    ended: int


def append(path: Path, until: threading.Event, synced: list[Synced]) -> None:
    """Append and sync until told to stop, or until the disk fails."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while not until.is_set():
            os.write(descriptor, struct.pack(">Q", len(synced)) + FILL)
            began = time.monotonic_ns()
            os.fsync(descriptor)
            synced.append(Synced(len(synced), began, time.monotonic_ns()))
    except OSError:
        return
    finally:
        os.close(descriptor)


def there(path: Path) -> set[int]:
    """Returns the numbers of the records that are whole."""
    data = path.read_bytes() if path.exists() else b""
    whole = (data[at : at + RECORD] for at in range(0, len(data), RECORD))
    return {struct.unpack_from(">Q", record)[0] for record in whole if record[8:] == FILL}


def measure(cuts: int, folder: Path) -> dict[str, int]:
    """Cut the power so often; returns how many records of each kind there were, and how many are gone."""
    disk = Ext4(folder)
    counted: Counter[str] = Counter({"before": 0, "before_lost": 0, "during": 0, "during_lost": 0, "after": 0})
    for cut in range(cuts):
        disk.mount()
        paths = [disk.place / f"{cut}-{one}" for one in range(2)]
        logs: list[list[Synced]] = [[] for _ in paths]
        until = threading.Event()
        threads = [
            threading.Thread(target=append, args=(path, until, log)) for path, log in zip(paths, logs, strict=True)
        ]
        for thread in threads:
            thread.start()
        time.sleep(random.uniform(0.05, 0.25))
        called = time.monotonic_ns()
        disk.cut()
        returned = time.monotonic_ns()
        time.sleep(0.03)
        until.set()
        for thread in threads:
            thread.join()
        disk.unmount()
        disk.mount()
        for path, log in zip(paths, logs, strict=True):
            left = there(path)
            for record in log:
                kind = "before" if record.ended < called else "during" if record.began < returned else "after"
                counted[kind] += 1
                counted[f"{kind}_lost"] += record.number not in left
        disk.unmount()
        print(f"\r{cut + 1} cuts", end="", file=sys.stderr, flush=True)
    return {"cuts": cuts, **counted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=60)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as tried, tempfile.TemporaryDirectory() as folder:
        if reason := lacking(Path(tried)):
            print(json.dumps({"bench": "shutdown_race", "skipped": reason}))
            return
        counts = measure(asked.cuts, Path(folder))
    print(file=sys.stderr)
    print(json.dumps({"bench": "shutdown_race", **counts}))


if __name__ == "__main__":
    main()
