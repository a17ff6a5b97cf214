"""kill -9 of `tocsin run`, again and again: python bench/kills.py [--rows 20000000] [--kills 25] [--workers 2]

The readings of J1 go through windows with z-scores, a detector and alarms into three Delta tables, once without a
kill and with one worker, then with several workers and killed 1.3 to 1.9 s after each start, of which about 1 s is the
start itself. The tables of the two must hold the same rows, compared by count and by the sum of a hash over each whole
row. Ends with one line of JSON; `kills` is how many there were before the sources had ended.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import j1_data
from deltalake import DeltaTable

TABLES = ("anomalies", "judged", "alarms")
PIPELINE = """\
name: kills
folder: {folder}/lake
workers: {workers}
checkpoint: 200ms
source: {{files: {file}}}
decode: {{json: {{columns: {{machine: category, ts: timestamp, value: float}}}}}}
key: machine
time: {{column: ts, lateness: 2s}}
streams:
  anomalies:
    steps:
      - window: {{every: 20s, collect: [time, value]}}
      - zscore: {{of: value}}
      - explode
      - keep: abs(z) > 1.29
      - select: [value, z]
    sinks: [delta: anomalies]
  judged: {{steps: [ewma: {{of: value}}, keep: score > 50], sinks: [delta: judged]}}
  alarms: {{from: judged, steps: [alarm: {{of: score, high: 75}}], sinks: [delta: alarms]}}
"""


def started(file: Path, folder: Path, workers: int) -> subprocess.Popen[bytes]:
    """Returns a process that runs the pipeline."""
    written = folder / "kills.yaml"
    written.write_text(PIPELINE.format(folder=folder, file=file, workers=workers))
    command = [sys.executable, "-m", "tocsin.cli", "run", "--no-page", str(written)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Returns how many rows each table has, and the sum of their hashes."""
    told = {}
    for name in TABLES:
        rows = DeltaTable(str(folder / "lake" / name)).to_pyarrow_table()
        with duckdb.connect() as db:
            db.register("rows", rows)
            (one,) = db.execute("SELECT count(*), sum(hash(rows)::HUGEINT) FROM rows").fetchall()
        told[name] = int(one[0]), int(one[1])
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    # An installed package has its bytecode beside it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "readings.ndjson"
        j1_data.write(file, asked.rows, 1_000, 1.0)
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        whole.mkdir()
        killed.mkdir()
        if code := started(file, whole, 1).wait():
            raise SystemExit(f"the run without a kill has ended with {code}")
        kills = 0
        while True:
            process = started(file, killed, asked.workers)
            try:
                code = process.wait(chance.uniform(1.3, 1.9) if kills < asked.kills else None)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        if code:
            raise SystemExit(f"the last run has ended with {code}")
        expected, there = contents(whole), contents(killed)
        rows = {name: count for name, (count, _) in expected.items()}
        figures = {"readings": asked.rows, "workers": asked.workers, "kills": kills, "rows": rows}
        print(json.dumps({**figures, "same": expected == there}))


if __name__ == "__main__":
    main()
