"""A schema registry of the tests: what it holds, how it answers, and what it was asked."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Held:
    """It answers as long as the block takes."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        """Status and body, by path."""
        self.status: int | None = None
        """The status of every answer, if it is set."""
        self.asked: list[tuple[str, str | None]] = []
        """Path and credentials."""
        holds = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                holds.asked.append((self.path, self.headers["authorization"]))
                status, body = holds.answers.get(self.path, (404, {"error_code": 40403}))
                self.send_response(holds.status or status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Held:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
