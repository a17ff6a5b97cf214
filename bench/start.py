"""From the command to the first row, in CPU seconds of the process: python bench/start.py [--runs 7] [--cold]

`tocsin run` over a file of CSV with 2,000 readings of five machines, judged by each of two detectors, with tables,
alarms and a console that is told. What counts is the time, user and system together, until the first readings have
left the detector: a clock would tell of what else the machine does. `--cold` is the first start, with an empty cache
of compiled loops, and gives the seconds by the clock, too: only a quiet machine makes them worth anything. Ends with
one line of JSON, medians; `installed` names the libraries that others load where they are.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DETECTORS = ("ewma", "health")
PLANT = """\
name: start
folder: {folder}
source: {{files: {folder}/in.csv}}
decode: {{csv: {{columns: {{machine: text, t: timestamp, celsius: float}}}}}}
key: machine
time: t
watch: {{of: celsius, detector: {detector}}}
"""
STARTED = """\
import os, sys, time
from tocsin.engine.graph import Graph
emit = Graph._emit
def told(self, wave, id, batch):
    if batch.rows.num_rows and id.startswith("judged"):
        print(sum(os.times()[:2]), time.time(), flush=True)
        Graph._emit = emit
    return emit(self, wave, id, batch)
Graph._emit = told
from tocsin.cli import main
main(["run", sys.argv[1]])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--cold", action="store_true")
    asked = parser.parse_args()
    figures = {}
    for detector in DETECTORS:
        if not asked.cold:
            first_row_s(detector)  # fills the cache
        taken = [first_row_s(detector, cold=asked.cold) for _ in range(asked.runs)]
        figures[f"{detector}_cpu_s"] = round(statistics.median(cpu for cpu, _ in taken), 2)
        if asked.cold:
            figures[f"{detector}_wall_s"] = round(statistics.median(wall for _, wall in taken), 2)
    installed = [name for name in ("pandas", "scipy") if importlib.util.find_spec(name)]
    print(json.dumps({"runs": asked.runs, "cold": asked.cold, "installed": installed, **figures}))


def first_row_s(detector: str, cold: bool = False) -> tuple[float, float]:
    """Returns the CPU time of one start until its first readings are judged, and the time by the clock."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        times = (f"2026-11-24T06:{i // 60:02}:{i % 60:02}Z" for i in range(2_000))
        rows = (f"press-{i % 5},{time},{20 + i % 7 / 10:.1f}\n" for i, time in enumerate(times))
        (folder / "in.csv").write_text("machine,t,celsius\n" + "".join(rows))
        (folder / "plant.yaml").write_text(PLANT.format(folder=folder, detector=detector))
        told = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        kept = {"NUMBA_CACHE_DIR": str(folder / "cache")} if cold else {}
        command = [sys.executable, "-c", STARTED, str(folder / "plant.yaml")]
        begun = time.time()
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**told, **kept})
        cpu, at = done.stdout.splitlines()[0].split()
        return float(cpu), float(at) - begun


if __name__ == "__main__":
    main()
