"""What most pipelines are made of, run on a few readings so that its loops are compiled: python compiled.py FOLDER

Decoders, steps, detectors, a job; beside them the demo as it is, for MQTT and the rest. FOLDER takes the data.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import tocsin

ROWS = 2_000
MACHINES = 5
DETECTORS = ("drift", "ewma", "novelty", "zscore", "mad", "quantile", "cusum", "changepoint")
PIPELINE = """\
name: {format}
folder: {folder}/{format}
source: {{files: {folder}/in.{format}}}
{decode}
key: machine
time: t
{steps}
"""
DECODE = "decode: {{{format}: {{columns: {{machine: text, t: timestamp, celsius: float, signal: text}}}}}}"
WATCH = "watch: {of: celsius}"
STEPS = """\
streams:
  readings: {}
  kept:
    from: readings
    steps: [{dedupe: {by: [key, time]}}, {keep: celsius > -200}, {resample: {every: 10s, of: celsius}}]
  parts:
    from: readings
    steps: [{window: {every: 20s, collect: [time, celsius]}}, {zscore: celsius}, explode]
  figures:
    from: readings
    steps:
      - window: {every: 20s, compute: {n: count(*), mean: mean(celsius), std: std(celsius), high: max(celsius)}}
  stuck: {from: readings, steps: [{stuck: {of: celsius, after: 5m}}]}
  silent: {from: readings, steps: [{deadman: {after: 5m}}]}
  change: {from: readings, steps: [{difference: {of: celsius, per: 1h}}]}
  downtime: {from: readings, steps: [{downtime: {of: celsius, running_above: 20.1}}]}
  together: {from: readings, steps: [{multivariate: {of: [celsius, bar], learn: 50}}]}
  forecast: {from: readings, steps: [{forecast: {of: celsius, learn: 50}}]}
  job:
    from: readings
    steps:
      - job:
          definition:
            job_id: level
            analysis_config:
              bucket_span: 20s
              detectors: [{function: mean, field_name: celsius, partition_field_name: key}, {function: count}]
            data_description: {time_field: time}
"""
DETECTOR = "  by_{name}: {{from: readings, steps: [{{{name}: {{of: celsius}}}}]}}\n"
QUIET_S = 8.0
"""The demo has all it needs when it has compiled nothing for so long."""


def main() -> None:
    """Steps and detectors on one core, the demo with its decoder and `health` on another, what is left at the end."""
    (folder,) = map(Path, sys.argv[1:])
    write(folder)
    command = [sys.executable, "-m", "tocsin.cli", "demo", "--folder", str(folder / "demo"), "--port", "0"]
    demo = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    run(folder, "parquet", "", STEPS + "".join(DETECTOR.format(name=name) for name in DETECTORS))
    wait_until_quiet(demo)
    for format in ("json", "csv"):
        run(folder, format, DECODE.format(format=format), WATCH)


def write(folder: Path) -> None:
    """Write the readings in each format."""
    begin = datetime(2026, 11, 24, 6, tzinfo=UTC)
    times = (begin + timedelta(seconds=at) for at in range(ROWS))
    rows = [
        {"machine": f"press-{at % MACHINES}", "t": t, "celsius": 20 + at % 7 / 10, "bar": at % 5 / 10, "signal": "a"}
        for at, t in enumerate(times)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "in.parquet")
    (folder / "in.json").write_text("".join(json.dumps(row, default=datetime.isoformat) + "\n" for row in rows))
    lines = [
        ",".join(rows[0]),
        *(f"{row['machine']},{row['t'].isoformat()},{row['celsius']},{row['bar']},a" for row in rows),
    ]
    (folder / "in.csv").write_text("\n".join(lines) + "\n")


def run(folder: Path, format: str, decode: str, steps: str) -> None:
    """Run a pipeline over the readings in a format, to their end."""
    path = folder / f"{format}.yaml"
    path.write_text(PIPELINE.format(folder=folder, format=format, decode=decode, steps=steps))
    tocsin.run(tocsin.load(path))


def wait_until_quiet(demo: subprocess.Popen[bytes]) -> None:
    """Wait until the demo has nothing more to compile, and end it."""
    package = Path(tocsin.__file__).parent
    many, since = -1, time.monotonic()
    while demo.poll() is None and time.monotonic() < since + QUIET_S:
        now = sum(1 for _ in package.rglob("*.nbc"))
        if now != many:
            many, since = now, time.monotonic()
        time.sleep(1)
    if demo.poll() is not None:
        sys.exit("the demo ended by itself")
    demo.send_signal(signal.SIGINT)
    demo.wait(30)


if __name__ == "__main__":
    main()
