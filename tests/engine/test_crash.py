"""Kill -9 over real brokers, a growing file, Delta tables and the outbox; and with several workers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "bench" / "crash.py"


@pytest.mark.parametrize(
    ("kills", "options"),
    [(20, ()), (3, ("--workers", "2", "--rate", "2000", "--life", "1"))],
    ids=["one worker", "two workers"],
)
def test_kills_lose_and_double_nothing(kills: int, options: tuple[str, ...], needs: Callable[[str], str]) -> None:
    needs("mosquitto")
    command = [sys.executable, str(SCRIPT), "--kills", str(kills), "--seed", "20", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == kills
    assert found["lives_that_wrote"] > 0
    assert found["compared"] > found["sent"] > 1_000
    assert found["alerts"] > 10
    wrong = {name: found[name] for name in ("lost", "doubled", "alerts_missing", "alerts_invented")}
    assert not any(wrong.values()), wrong
