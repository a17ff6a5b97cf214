"""Source `http` as a server for the tests: opened, and read by a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from servers import free_port

from tocsin.acquire.http import Http
from tocsin.batch import RAW_WITH_METADATA
from tocsin.contracts import Offset, Reader
from tocsin.testing import world

PATIENCE_S = 10.0


class Listening:
    """An open source; whatever comes is taken and acknowledged at once, unless it is told to wait."""

    def __init__(self, offset: Offset | None = None, **settings: Any) -> None:
        self.source = Http(port=free_port(), **settings)
        connection = self.source.open(world())
        self.reader: Reader = connection.read(connection.splits()[0], offset)
        self.url = f"http://127.0.0.1:{self.source.port}"
        self.rows: list[dict[str, Any]] = []
        self.offset: Offset = None
        self.acknowledges = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            polled = self.reader.poll(1_000, 0.05)
            if polled is None:
                continue
            batch, self.offset = polled
            assert batch.schema.equals(RAW_WITH_METADATA)
            self.rows += batch.rows.to_pylist()
            if self.acknowledges:
                self.reader.acknowledge(self.offset)

    def post(self, path: str, content: Any = b"", **more: Any) -> httpx.Response:
        return httpx.post(self.url + path, content=content, timeout=PATIENCE_S, **more)

    def payloads(self) -> list[bytes]:
        return [row["payload"] for row in self.rows]

    def close(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        self.reader.close()


@contextmanager
def listening(offset: Offset | None = None, **settings: Any) -> Iterator[Listening]:
    server = Listening(offset, **settings)
    try:
        yield server
    finally:
        server.close()
