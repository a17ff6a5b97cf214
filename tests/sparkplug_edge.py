"""A real edge node: Eclipse Tahu's client for Node.js (npm `sparkplug-client`), told by the tests what to do."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npm_packages import npm_package
from servers import Needs

VERSION = "3.2.4"
Metrics = list[dict[str, Any]]


def modules(needs: Needs) -> Path:
    """Returns the folder of modules that holds the client (13 MB)."""
    return npm_package(needs, "sparkplug-client", VERSION)


class Edge:
    """An edge node of the group ``plant``, in a process of its own, which has been born once this returns."""

    def __init__(self, needs: Needs, url: str, births: Mapping[str, Any], name: str = "gateway") -> None:
        program = Path(__file__).parent / "sparkplug_edge.cjs"
        self._process = subprocess.Popen(
            [needs("node"), str(program), url, "plant", name, json.dumps(births)],
            env=os.environ | {"NODE_PATH": str(modules(needs))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said: Counter[str] = Counter()
        """How often it was born, asked for a rebirth, and done with what it was told."""
        self._news = threading.Condition()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.wait("born", 1)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.said[line.strip()] += 1
                self._news.notify_all()

    def wait(self, word: str, count: int, patience_s: float = 20.0) -> None:
        """Wait until it has said a word so often."""
        until_s = time.monotonic() + patience_s
        with self._news:
            while self.said[word] < count:
                left_s = until_s - time.monotonic()
                assert left_s > 0, f"{word} {self.said[word]} times only; it said {dict(self.said)}"
                self._news.wait(left_s)

    def do(self, action: str, **more: Any) -> None:
        """Tell it to do something, and wait until it has."""
        assert self._process.stdin is not None
        count = self.said["done"]
        self._process.stdin.write(json.dumps({"do": action, **more}) + "\n")
        self._process.stdin.flush()
        self.wait("done", count + 1)

    def data(self, metrics: Metrics, device: str = "press", **options: Any) -> None:
        self.do("data", device=device, metrics=metrics, options=options)

    def kill(self) -> None:
        """It vanishes: the broker publishes its last will."""
        self._process.kill()
        self._process.wait(10)
        self._listener.join(10)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
