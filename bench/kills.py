"""kill -9 of `tocsin run`, again and again: the same rows must be there as without a kill; ends with one JSON line.

    python bench/kills.py [files] [--rows 20000000] [--kills 25] [--workers 2]
    python bench/kills.py mqtt [--rows 100000] [--kills 20] [--rate 800] [--broker-kills 4]

The readings of J1 go through windows with z-scores, a detector and alarms into three Delta tables, once without a
kill and with one worker, from a file, then with several workers and killed. The tables of the two must hold the same
rows, compared by count and by the sum of a hash over each whole row.

files       killed 1.3 to 1.9 s after each start, of which about 1 s is the start itself; `kills` is how many there
            were before the source had ended
mqtt        the same readings, numbered, at a steady rate through a real Mosquitto at QoS 1; each waits for its PUBACK.
            Three lives in four are killed up to 1.5 s after they have taken something, one in four 0.5 to 2.5 s after
            its start. A table of all readings and a webhook behind the outbox besides: each number must be there
            once, and each alarm that rings must have come, under one id. With `--broker-kills` Mosquitto is killed,
            too, each time once it has saved what it keeps (SIGUSR1), while nothing is under way: it remembers nothing
            that has happened after its last save
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import j1_data
from kills_mqtt import through_a_broker
from kills_run import Run


def from_files(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Kill the run over a file until the file has ended; returns figures."""
    chance, file = random.Random(asked.seed), folder / "readings.ndjson"
    j1_data.write(file, asked.rows, 1_000, 1.0)
    whole = Run(folder / "whole", f"{{files: {file}}}", 1)
    killed = Run(folder / "killed", f"{{files: {file}}}", asked.workers)
    whole.to_the_end()
    kills = 0
    while True:
        process = killed.start()
        try:
            code = process.wait(chance.uniform(1.3, 1.9) if kills < asked.kills else None)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    if code:
        raise SystemExit(f"the last run has ended with {code}")
    expected = whole.contents()
    rows = {name: count for name, (count, _) in expected.items()}
    return {"readings": asked.rows, "kills": kills, "rows": rows, "same": expected == killed.contents()}


DEFAULTS = {"files": (20_000_000, 25), "mqtt": (100_000, 20)}
"""Rows and kills."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", choices=list(DEFAULTS), default="files")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=int, default=800, help="mqtt: messages a second")
    parser.add_argument("--broker-kills", type=int, default=0, help="mqtt: how often Mosquitto is killed, too")
    asked = parser.parse_args()
    rows, kills = DEFAULTS[asked.source]
    asked.rows, asked.kills = asked.rows or rows, kills if asked.kills is None else asked.kills
    # An installed package has its bytecode beside it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as name:
        figures = {"files": from_files, "mqtt": through_a_broker}[asked.source](Path(name), asked)
    print(json.dumps({"source": asked.source, "workers": asked.workers, **figures}))


if __name__ == "__main__":
    main()
