"""The pipeline that `bench/kills.py` kills, as a process, and what its tables hold afterwards."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import duckdb
from deltalake import DeltaTable

TABLES = ("anomalies", "judged", "alarms")
PIPELINE = """\
name: kills
folder: {folder}/lake
workers: {workers}
checkpoint: 200ms
source: {source}
decode: {{json: {{columns: {{machine: category, ts: timestamp, value: float{columns}}}}}}}
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


@dataclass(frozen=True, slots=True)
class Run:
    """One pipeline in a folder of its own, which any number of processes run one after the other."""

    folder: Path
    source: str
    workers: int
    columns: str = ""
    streams: str = ""
    """What the pipeline has besides; begins with a comma, and with two blanks."""

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def file(self) -> Path:
        """The pipeline file, written anew."""
        self.folder.mkdir(exist_ok=True)
        file = self.folder / "kills.yaml"
        text = PIPELINE.format(folder=self.folder, source=self.source, workers=self.workers, columns=self.columns)
        file.write_text(text + self.streams)
        return file

    def start(self) -> subprocess.Popen[bytes]:
        """Returns a process that runs the pipeline."""
        command = [sys.executable, "-m", "tocsin.cli", "run", "--no-page", str(self.file)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)

    def to_the_end(self) -> None:
        """Run it over a source that has an end."""
        if code := self.start().wait():
            raise SystemExit(f"a run that nobody kills has ended with {code}")

    def contents(self) -> dict[str, tuple[int, int]]:
        """Returns how many rows each table has, and the sum of their hashes."""
        told = {}
        for name in TABLES:
            rows = DeltaTable(str(self.lake / name)).to_pyarrow_table()
            with duckdb.connect() as db:
                db.register("rows", rows)
                (one,) = db.execute("SELECT count(*), sum(hash(rows)::HUGEINT) FROM rows").fetchall()
            told[name] = int(one[0]), int(one[1])
        return told
