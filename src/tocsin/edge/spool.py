"""Answers that wait for a connection: lines in a file, sent in order, each at least once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

BYTES_MAX = 64 * 1024 * 1024
"""How much may wait; then the older half is let go, and counted."""


class Spool:
    """Messages on disk: `add`, `sync`, then `waiting` and `sent`."""

    def __init__(self, folder: Path, bytes_max: int = BYTES_MAX) -> None:
        self._path, self._mark = folder / "spool.ndjson", folder / "spool.sent"
        self._bytes_max = bytes_max
        self.let_go = 0
        """How many messages were given up because too many waited."""
        self._sent = int(self._mark.read_text()) if self._mark.exists() else 0
        self._file = open(self._path, "ab")  # noqa: SIM115 (kept open on purpose)
        if self._sent > self._file.tell():  # the mark of a file that was emptied just before a power cut
            self._sent = 0
        self._mend()

    def _mend(self) -> None:
        """End a line that a power cut tore; whoever reads passes it over."""
        if self._file.tell() and self._path.read_bytes()[-1:] != b"\n":
            self._file.write(b"\n")
            self._file.flush()

    def add(self, topic: str, payload: bytes) -> None:
        """Put a message at the end; durable after `sync`."""
        self._file.write(json.dumps([topic, payload.decode()]).encode() + b"\n")
        if self._file.tell() > self._bytes_max:
            self._shorten()

    def sync(self) -> None:
        """Make what was added durable."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def waiting(self) -> Iterator[tuple[str, bytes, int]]:
        """Yields topic, payload and the place after each message that was not sent yet."""
        self._file.flush()
        place = self._sent
        with open(self._path, "rb") as file:
            file.seek(place)
            for line in file:
                place += len(line)
                try:
                    topic, payload = json.loads(line)
                except ValueError:  # torn by a power cut
                    continue
                yield topic, payload.encode(), place

    def sent(self, place: int) -> None:
        """Note that everything before a place has arrived; the file is emptied once that is all."""
        self._sent = place
        if place == self._file.tell():
            self._file.truncate(0)
            self._sent = 0
        new = self._mark.with_suffix(".new")
        new.write_text(str(self._sent))
        new.replace(self._mark)

    def close(self) -> None:
        self._file.close()

    def _shorten(self) -> None:
        """Let the older half go."""
        self._file.flush()
        lines = self._path.read_bytes()[self._sent :].splitlines(keepends=True)
        self.let_go += len(lines) // 2
        new = self._path.with_suffix(".new")
        new.write_bytes(b"".join(lines[len(lines) // 2 :]))
        self._file.close()
        new.replace(self._path)
        self._file, self._sent = open(self._path, "ab"), 0  # noqa: SIM115 (kept open on purpose)
        self._mark.write_text("0")
