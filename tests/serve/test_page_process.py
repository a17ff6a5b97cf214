"""The page's process ends with the engine that started it, however that one ends."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from servers import free_port

from tocsin.serve.access import Address

PATIENCE_S = 30.0


@pytest.mark.parametrize("while_starting", [True, False], ids=["while it starts", "while it serves"])
def test_it_ends_when_its_engine_was_killed(while_starting: bool, tmp_path: Path) -> None:
    """All pipes to a process that was killed break at once, also before the page has said that it is ready."""
    process = subprocess.Popen([sys.executable, "-m", "tocsin.serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    address = Address(port=free_port())
    wanted: dict[str, object] = {
        "state": str(tmp_path),
        "lake": None,
        "title": "plant",
        "address": asdict(address),
        "streams": [],
    }
    process.stdin.write(json.dumps(wanted, default=str).encode() + b"\n")
    process.stdin.flush()
    if not while_starting:
        assert process.stdout.readline()
    process.stdout.close()
    process.stdin.close()
    try:
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
