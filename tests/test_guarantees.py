"""What ends promise, held against kills of the engine and restarts of its server: a short form of the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "bench" / "guarantees.py"


@pytest.mark.parametrize(("part", "records", "kills"), [("files", 1000, 4), ("postgres", 1000, 4), ("modbus", 400, 2)])
def test_promises_are_kept(part: str, records: int, kills: int) -> None:
    command = [sys.executable, str(SCRIPT), part, "--records", str(records), "--kills", str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])["parts"][part]
    wrong = {name: result[name] for name in ("lost", "doubled") if result[name]}
    assert not wrong, wrong
    assert result["sent"] == records
    assert result["kills"] == kills
