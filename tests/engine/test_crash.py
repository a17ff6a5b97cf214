"""Twenty times kill -9 over real brokers, a growing file, Delta tables and the outbox."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SCRIPT = Path(__file__).parent.parent.parent / "bench" / "crash.py"


def test_twenty_kills_lose_and_double_nothing(needs: Callable[[str], str]) -> None:
    needs("mosquitto")
    command = [sys.executable, str(SCRIPT), "--kills", "20", "--seed", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == 20
    assert found["sent"] > 1_000
    assert found["alerts"] > 10
    wrong = {name: found[name] for name in ("lost", "doubled", "alerts_missing", "alerts_invented")}
    assert not any(wrong.values()), wrong
