"""Posts under idempotency keys, while the engine is killed again and again: each reading is kept once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from servers import free_port

import tocsin

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "http.yaml"
POSTS, LINES, KILLS = 120, 10, 3


class Sender:
    """Posts numbered readings, each post until it is answered."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/ingest/hall"
        self.answered = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for post in range(POSTS):
            numbers = range(post * LINES, (post + 1) * LINES)
            body = "\n".join(json.dumps({"machine": f"m{n % 3}", "celsius": float(n)}) for n in numbers)
            while not self._is_answered(body, f"post-{post}"):
                time.sleep(0.02)
            self.answered += 1

    def _is_answered(self, body: str, key: str) -> bool:
        try:
            answer = httpx.post(self._url, content=body.encode(), headers={"idempotency-key": key}, timeout=10)
        except httpx.TransportError:
            return False
        assert answer.status_code in (200, 429, 503), answer.text
        return answer.status_code == 200

    def wait(self, answered: int) -> None:
        until = time.monotonic() + 90
        while self.answered < answered:
            assert time.monotonic() < until, f"{self.answered} of {answered} posts were answered"
            assert self._thread.is_alive() or self.answered == POSTS
            time.sleep(0.005)


@pytest.mark.timeout(240)
def test_each_reading_is_kept_once(tmp_path: Path) -> None:
    port = free_port()
    settings = os.environ | {"TOCSIN_HTTP_PORT": str(port), "TOCSIN_FOLDER": str(tmp_path)}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "tocsin.cli", "run", str(EXAMPLE)], env=settings)

    process = start()
    try:
        sender = Sender(port)
        for kill in range(1, KILLS + 1):
            sender.wait(POSTS * kill // (KILLS + 1))
            process.kill()
            process.wait(10)
            process = start()
        sender.wait(POSTS)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)
    kept = Counter(int(value) for value in tocsin.read("readings", tmp_path)["celsius"].to_pylist())
    assert kept == Counter(range(POSTS * LINES))
