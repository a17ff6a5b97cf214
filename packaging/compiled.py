"""What most pipelines are made of, run on a few readings so that its loops are compiled: python compiled.py FOLDER

Decoders, the usual steps, the detectors; then the demo as it is, for MQTT and the rest. FOLDER takes the data.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import tocsin

ROWS = 2_000
MACHINES = 5
DETECTORS = ("health", "drift", "ewma", "novelty", "zscore", "mad", "quantile", "cusum", "changepoint")
READINGS = """\
name: {format}
folder: {folder}/{format}
source: {{files: {folder}/in.{format}}}
decode: {{{format}: {{columns: {{machine: text, t: timestamp, celsius: float, signal: text}}}}}}
key: machine
time: t
watch: {{of: celsius}}
streams:
  kept:
    from: readings
    steps: [{{dedupe: {{by: [key, time]}}}}, {{keep: celsius > -200}}, {{resample: {{every: 10s, of: celsius}}}}]
  parts:
    from: readings
    steps: [{{window: {{every: 20s, collect: [time, celsius]}}}}, {{zscore: celsius}}, explode]
  figures:
    from: readings
    steps:
      - window: {{every: 20s, compute: {{n: count(*), mean: mean(celsius), std: std(celsius), high: max(celsius)}}}}
{detectors}"""
DETECTOR = """\
  by_{name}:
    from: readings
    steps: [{{{name}: {{of: celsius}}}}]
"""
QUIET_S = 8.0
"""The demo has all it needs when it has compiled nothing for so long."""


def main() -> None:
    (folder,) = map(Path, sys.argv[1:])
    rows = [
        {"machine": f"press-{at % MACHINES}", "t": f"2026-11-24T06:{at // 60:02}:{at % 60:02}Z",
         "celsius": 20 + at % 7 / 10, "signal": "bearing"}
        for at in range(ROWS)
    ]  # fmt: skip
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (folder / "in.csv").write_text("\n".join(lines) + "\n")
    (folder / "in.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    for format in ("json", "csv"):
        detectors = "".join(DETECTOR.format(name=name) for name in DETECTORS)
        path = folder / f"{format}.yaml"
        path.write_text(READINGS.format(folder=folder, format=format, detectors=detectors))
        tocsin.run(tocsin.load(path))
    demo(folder)


def demo(folder: Path) -> None:
    """Run the demo until it has nothing more to compile."""
    command = [sys.executable, "-m", "tocsin.cli", "demo", "--folder", str(folder / "demo"), "--port", "0"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
    package = Path(tocsin.__file__).parent
    many, since = -1, time.monotonic()
    while running.poll() is None and time.monotonic() < since + QUIET_S:
        now = sum(1 for _ in package.rglob("*.nbc"))
        if now != many:
            many, since = now, time.monotonic()
        time.sleep(1)
    if running.poll() is not None:
        sys.exit("the demo ended by itself")
    running.send_signal(signal.SIGINT)
    running.wait(30)


if __name__ == "__main__":
    main()
