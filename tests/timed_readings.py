"""Readings of several machines at the same pace, as a file of JSON lines."""

from __future__ import annotations

import json
import random
from pathlib import Path


def write_readings(path: Path, seconds: int, machines: int, late_share: float = 0.0, last: str = "") -> Path:
    """Write one reading a second of each machine, the same ones every time; a share of them is half a minute late."""
    rng, lines = random.Random(7), []
    for second in range(seconds):
        for machine in range(machines):
            at = max(0, second - (30 if late_share and rng.random() < late_share else 0))
            stamp = f"2026-01-01T00:{at // 60:02}:{at % 60:02}.{machine:03}Z"
            lines.append(json.dumps({"m": f"m{machine}", "t": stamp, "value": rng.gauss(50, 5)}) + "\n")
    path.write_text("".join([*lines, last]))
    return path
