"""Posts under idempotency keys, while the engine is killed again and again: each is kept, and consumed, once."""

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
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)
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
        self._client.close()

    def _is_answered(self, body: str, key: str) -> bool:
        try:
            answer = self._client.post("/ingest/hall", content=body.encode(), headers={"idempotency-key": key})
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


class Consumer:
    """Reads the topic by Kafka REST v2 and commits what it has taken; a consumer that is gone is made anew."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)
        self.taken: list[tuple[int, float]] = []
        """Offset and reading of each record, in the order in which they came; again what was not committed."""
        self.made = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while len({offset for offset, _ in self.taken}) < POSTS * LINES:
            try:
                self._consume()
            except httpx.TransportError:
                time.sleep(0.02)
        self._client.close()

    def _consume(self) -> None:
        settings = {"format": "json", "auto.offset.reset": "earliest", "auto.commit.enable": "false"}
        created = self._client.post("/consumers/archive", json=settings).json()
        self.made += 1
        uri = created["base_uri"]
        self._client.post(f"{uri}/subscription", json={"topics": ["hall"]}).raise_for_status()
        while len({offset for offset, _ in self.taken}) < POSTS * LINES:
            answer = self._client.get(f"{uri}/records")
            if answer.status_code == 404:
                return  # the source was started anew, and knows of no such instance
            if records := answer.raise_for_status().json():
                self.taken += [(record["offset"], record["value"]["celsius"]) for record in records]
                last = {"topic": "hall", "partition": 0, "offset": records[-1]["offset"]}
                self._client.post(f"{uri}/offsets", json={"offsets": [last]}).raise_for_status()

    def wait(self) -> None:
        self._thread.join(90)
        assert not self._thread.is_alive(), f"{len(self.taken)} of {POSTS * LINES} records were consumed"


@pytest.mark.timeout(240)
def test_each_reading_is_kept_once(tmp_path: Path) -> None:
    port = free_port()
    settings = os.environ | {"TOCSIN_HTTP_PORT": str(port), "TOCSIN_FOLDER": str(tmp_path)}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "tocsin.cli", "run", str(EXAMPLE)], env=settings)

    process = start()
    try:
        sender, consumer = Sender(port), Consumer(port)
        for kill in range(1, KILLS + 1):
            sender.wait(POSTS * kill // (KILLS + 1))
            process.kill()
            process.wait(10)
            process = start()
        sender.wait(POSTS)
        consumer.wait()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)
    kept = Counter(int(value) for value in tocsin.read("readings", tmp_path)["celsius"].to_pylist())
    assert kept == Counter(range(POSTS * LINES))
    by_offset = dict(consumer.taken)
    assert len(by_offset) == len(set(consumer.taken))  # what came again was the same
    assert [by_offset[offset] for offset in sorted(by_offset)] == list(range(POSTS * LINES))
    assert len(consumer.taken) < 2 * POSTS * LINES  # it went on from what was committed
    assert consumer.made > KILLS
