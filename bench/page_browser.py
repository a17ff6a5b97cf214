"""What the page costs with 2,000 machines of 20 signals, a reading of each a second, and one viewer in a real Chromium.

`fps`: frames a second while the list of machines is scrolled for some seconds; `frame_cpu_ms`: what a frame costs the
browser's main thread then, and `frame_cpu_all_ms` all its threads, with raster and compositor (there is no GPU), both
at 670 pixels a frame, whatever else the machine does; `viewer_kb_s`: what reaches that viewer, who looks at one
machine, in kB a second, by the browser's own count; `server_cpu_percent`: the CPU time of the page's process, of one
core; `shown_signals`: how many signals of the chosen machine have a chart. `bench/page.py` prints them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from tocsin.batch import KEY, TIME, Batch, as_keys, as_times
from tocsin.engine.feed import SOCKET, PageFeed
from tocsin.serve.access import Address
from tocsin.serve.app import start

MACHINES = 2000
SIGNALS = 20
SETTLE_S = 10.0
MEASURE_S = 15.0
SCROLL_S = 5.0
PORT = 8330
FRAMES = 300
FRAME_PIXELS = 670
STEPPED = """([frames, pixels]) => new Promise((done) => {
  const list = document.getElementById('tiles');
  let frame = 0;
  const step = () => {
    if (frame++ === frames) { done(); return; }
    list.scrollTop = frame * pixels;
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
SCROLLED = """seconds => new Promise((done) => {
  const list = document.getElementById('tiles');
  const begun = performance.now();
  let frames = 0;
  const step = (now) => {
    frames++;
    const share = (now - begun) / (seconds * 1000);
    if (share >= 1) { done(frames / ((now - begun) / 1000)); return; }
    list.scrollTop = share * 0.9 * (list.scrollHeight - list.clientHeight);
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


def rows(second: int, rng: np.random.Generator) -> Batch:
    """A reading of each machine, with the verdict on its first signal."""
    names = [f"signal_{i:02}" for i in range(SIGNALS)]
    verdict = ("expected", "lower", "upper", "score")
    schema = pa.schema([KEY, TIME, *(pa.field(name, pa.float64()) for name in (*names, *verdict))])
    values = [pa.array(50 + rng.normal(size=MACHINES)) for _ in names]
    band = [pa.array(np.full(MACHINES, at)) for at in (50.0, 47.0, 53.0)]
    score = pa.array(np.abs(20 * rng.normal(size=MACHINES)).clip(0, 99))
    keys = as_keys(pa.array([f"machine-{i:04}" for i in range(MACHINES)]))
    times = as_times(np.full(MACHINES, second * 1_000_000))
    return Batch(pa.RecordBatch.from_arrays([keys, times, *values, *band, score], schema=schema), second * 1_000_000)


def feed(state_folder: Path) -> None:
    """Tell the page a reading of each machine a second, until this process is ended."""
    page, rng, read = PageFeed(state_folder / SOCKET), np.random.default_rng(1), 0
    while True:
        page.offer("judged", rows(int(time.time()), rng))
        read += MACHINES
        page.counters({"rows_in": {"plant": read}})
        time.sleep(1.0 - time.time() % 1.0)


def viewed() -> Mapping[str, Any]:
    """Returns the figures."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        page = start(Path(folder), address=Address(port=PORT))
        feeding = subprocess.Popen([sys.executable, __file__, folder])
        try:
            with sync_playwright() as started:
                arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
                browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
                return measured(browser, page.url, page.process.pid)
        finally:
            feeding.terminate()
            feeding.wait()
            page.stop()


def measured(browser: Any, url: str, server: int) -> Mapping[str, Any]:
    """Opens the page, lets it settle, then measures it at rest on one machine and while its list is scrolled."""
    view = browser.new_page(viewport={"width": 1480, "height": 900})
    arrived = 0

    def count(event: Mapping[str, Any]) -> None:
        nonlocal arrived
        arrived += max(event["encodedDataLength"], event["dataLength"])

    view.goto(url)
    view.wait_for_function("n => document.getElementById('figure-machines').textContent === String(n)", arg=MACHINES)
    view.locator(".tile").nth(1).click()
    view.wait_for_timeout(1000 * SETTLE_S)
    shown = view.locator(".card").count()
    session = view.context.new_cdp_session(view)
    session.on("Network.dataReceived", count)
    session.send("Network.enable")
    begun, cpu = time.perf_counter(), cpu_s(server)
    view.wait_for_timeout(1000 * MEASURE_S)
    took, spent, came = time.perf_counter() - begun, cpu_s(server) - cpu, arrived
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    fps = view.evaluate(SCROLLED, SCROLL_S)
    before, all_before = task_s(session), browser_s()
    view.evaluate(STEPPED, [FRAMES, FRAME_PIXELS])
    main_s, all_s = task_s(session) - before, browser_s() - all_before
    return {
        "machines": MACHINES,
        "fps": round(fps, 1),
        "frame_cpu_ms": round(1000 * main_s / FRAMES, 1),
        "frame_cpu_all_ms": round(1000 * all_s / FRAMES, 1),
        "viewer_kb_s": round(came / took / 1000, 1),
        "server_cpu_percent": round(100 * spent / took, 1),
        "shown_signals": shown,
    }


def task_s(session: Any) -> float:
    """CPU time of the browser's main thread so far."""
    return next(
        float(one["value"])
        for one in session.send("Performance.getMetrics")["metrics"]
        if one["name"] == "TaskDuration"
    )


def browser_s() -> float:
    """CPU time of all processes of the browser so far."""
    children = psutil.Process().children(recursive=True)
    times = [child.cpu_times() for child in children if "chrom" in child.name()]
    return sum(one.user + one.system for one in times)


def cpu_s(process: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    feed(Path(sys.argv[1]))
