"""What the live page costs the engine: CPU time for the same rows through a detector, with the feed and without.

The engine is pinned to one core, the page's process to another where there is one; each run is repeated in turn and the
median of the ratios is given; where other work disturbs them, the share of the CPU time that the feed's own thread
takes (beside `offer_us` a batch in the engine's) says it better. `month_ms` is how long the page takes to show a month
of one machine from the lake, of ten machines with 2.6 million rows. Prints a line of JSON, and one of what 2,000
machines cost server and browser (`page_browser.py`).

    python bench/page.py --seconds 1 --runs 15
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
from page_browser import viewed

from tocsin.batch import KEY, TIME, Batch, as_times
from tocsin.detect.ewma import Ewma
from tocsin.engine.feed import SOCKET, PageFeed
from tocsin.output.delta import Delta
from tocsin.serve.access import Address
from tocsin.serve.app import start
from tocsin.world import SystemClock, SystemDisk, World

ROWS = 8192
KEYS = 1000
BEGIN_S = 1_772_323_200  # 2026-03-01T00:00:00Z


def batches(count: int) -> list[Batch]:
    rng = np.random.default_rng(1)
    names = pa.array([f"machine-{i}" for i in range(KEYS)])
    found = []
    for number in range(count):
        at = np.arange(number * ROWS, (number + 1) * ROWS)
        columns = [
            pa.DictionaryArray.from_arrays(pa.array((at % KEYS).astype(np.int32)), names),
            as_times(1_700_000_000_000_000 + at * 1000),
            pa.array(rng.normal(size=ROWS)),
        ]
        schema = pa.schema([KEY, TIME, pa.field("value", pa.float64())])
        found.append(Batch(pa.RecordBatch.from_arrays(columns, schema=schema)))
    return found


def through(rows: list[Batch], seconds: float, feed: PageFeed | None) -> tuple[float, int]:
    """CPU seconds of the whole process a reading, and the readings, at full speed for some seconds."""
    step = Ewma()
    state = step.initial()
    begun, cpu, read = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begun < seconds:
        for batch in rows:
            state, out = step.step(state, batch)
            read += len(batch)
            if feed is not None:
                feed.offer("readings", batch)
                for judged in out:
                    feed.offer("judged", judged)
                feed.counters({"rows_in": {"bench": read}})
    return (time.process_time() - cpu) / read, read


def write_month(folder: Path) -> None:
    """A month of ten machines in the lake, four signals of each every ten seconds, a day a commit."""
    names = [f"oven-{i}" for i in range(10)]
    fields = [pa.field(name, pa.float64()) for name in ("t_in", "t_out", "power", "draught")]
    schema, rng = pa.schema([KEY, TIME, *fields]), np.random.default_rng(3)
    place = World(SystemClock(), SystemDisk(), folder, folder / ".state", "bench/ovens")
    writer = Delta(path="ovens").open(place, schema)
    for day in range(30):
        seconds = np.repeat(np.arange(day * 86_400, (day + 1) * 86_400, 10), len(names))
        keys = pa.DictionaryArray.from_arrays(
            pa.array((np.arange(len(seconds)) % len(names)).astype(np.int32)), pa.array(names)
        )
        columns = [keys, as_times((BEGIN_S + seconds) * 1_000_000)]
        columns += [pa.array(rng.normal(size=len(seconds))) for _ in fields]
        rows = pa.RecordBatch.from_arrays(columns, schema=schema)
        writer.publish(day + 1, [writer.stage(day + 1, [rows])])


def month_ms(url: str) -> float:
    """Median time of a month of one machine as 600 points, asked for five times."""
    asked = f"{url}/api/series?machine=oven-3&from={BEGIN_S * 1000}&to={(BEGIN_S + 30 * 86_400) * 1000}&points=600"
    took = []
    for _ in range(5):
        begun = time.perf_counter()
        answer = json.load(urllib.request.urlopen(asked, timeout=60))
        took.append(1000 * (time.perf_counter() - begun))
        assert [len(one["points"]["time"]) for one in answer["series"]] == [600] * 4
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=15)
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    rows = batches(16)
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder) / "lake"
        write_month(lake)
        page = start(Path(folder), lake, Address(port=8329))
        os.sched_setaffinity(page.process.pid, cores[-1:])
        os.sched_setaffinity(0, cores[:1])
        stream = urllib.request.urlopen(f"{page.url}/events", timeout=10)  # a viewer, as in real life
        threading.Thread(target=drain, args=(stream,), daemon=True).start()
        feed = PageFeed(Path(folder) / SOCKET)
        while not feed.listening:
            time.sleep(0.05)
        through(rows, 0.5, feed)
        clock = next(time.pthread_getcpuclockid(t.ident) for t in threading.enumerate() if t.name == "feed" and t.ident)
        ratios, off_ns, on_ns, shares = [], [], [], []
        for _ in range(given.runs):
            off, _ = through(rows, given.seconds, None)
            feed_s = time.clock_gettime(clock)
            on, read = through(rows, given.seconds, feed)
            shares.append((time.clock_gettime(clock) - feed_s) / (on * read))
            ratios.append(on / off)
            off_ns.append(1e9 * off)
            on_ns.append(1e9 * on)
        shown = json.load(urllib.request.urlopen(f"{page.url}/api/counters", timeout=10))
        offer_us = offer_cost_us(feed, rows[0])
        a_month_ms = month_ms(page.url)
        feed.close()
        page.stop()
    assert shown["engine"] == "live", "the page lost the engine"
    figures = {
        "ns_off": round(statistics.median(off_ns), 1),
        "ns_on": round(statistics.median(on_ns), 1),
        "slowdown_percent": round(100 * (statistics.median(ratios) - 1), 2),
        "slowdown_percent_worst": round(100 * (max(ratios) - 1), 2),
        "feed_thread_percent": round(100 * statistics.median(shares), 2),
        "offer_us": round(offer_us, 2),
        "rows_per_s_shown": shown["rows_per_s"],
        "month_ms": round(a_month_ms),
    }
    print(json.dumps(figures))
    print(json.dumps({**viewed(), "month_ms": figures["month_ms"]}))


def offer_cost_us(feed: PageFeed, batch: Batch) -> float:
    begun = time.perf_counter()
    for _ in range(20_000):
        feed.offer("readings", batch)
    return (time.perf_counter() - begun) / 20_000 * 1e6


def drain(stream: object) -> None:
    try:
        while stream.read1(65536):  # type: ignore[attr-defined]
            pass
    except (OSError, ValueError):
        return


if __name__ == "__main__":
    main()
