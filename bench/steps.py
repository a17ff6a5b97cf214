"""What each step costs: nanoseconds a reading in large batches, microseconds for a batch of one.

    taskset -c 1 python bench/steps.py --rows 1000000 --keys 1000

CPU time, the best of three, rows as a decoder gives them: 1,000 machines at 1 Hz, up to 2 s out of order. Steps that
follow others (zscore, explode, keep) are fed with what those give, and counted per reading too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tocsin.batch import START, Batch, as_times
from tocsin.condition.dedupe import Dedupe
from tocsin.condition.derive import Derive
from tocsin.condition.event_time import EventTime
from tocsin.condition.explode import Explode
from tocsin.condition.keep import Keep
from tocsin.condition.rekey import Rekey
from tocsin.condition.resample import Resample
from tocsin.condition.select import Select
from tocsin.condition.window import Window
from tocsin.contracts import Operator
from tocsin.detect.ewma import Ewma
from tocsin.detect.stuck import Stuck
from tocsin.detect.zscore import Zscore
from tocsin.estimate.forecast import Forecast

BEGIN_US = 1_767_225_600_000_000


def decoded(rows: int, keys: int, batch: int) -> list[Batch]:
    """Rows as a JSON decoder gives them, in batches."""
    random = np.random.default_rng(1)
    names = pa.array([f"machine-{k:06d}" for k in range(keys)])
    i = np.arange(rows)
    times = BEGIN_US + i * 1_000_000 // keys - random.integers(0, 2_000_000, rows)
    table = pa.record_batch(
        {
            "machine": pa.DictionaryArray.from_arrays(pa.array((i % keys).astype(np.int32)), names),
            "ts": as_times(times),
            "value": random.normal(20, 1, rows),
            "received": as_times(times + 3_000_000),
        }
    )
    return [Batch(table.slice(at, batch), START) for at in range(0, rows, batch)]


def passed(operator: Operator, batches: Sequence[Batch]) -> tuple[float, list[Batch]]:
    """Seconds of CPU for all batches, and what leaves on port out."""
    state, left = operator.initial(), []
    begin = time.process_time()
    for batch in batches:
        state, out = operator.step(state, batch)
        left += [b for b in out if b.port == "out"]
    return time.process_time() - begin, left


def cost(operator: Operator, batches: Sequence[Batch]) -> tuple[float, list[Batch]]:
    passed(operator, batches[:2])  # compile
    tries = [passed(operator, batches) for _ in range(3)]
    return min(seconds for seconds, _ in tries), tries[0][1]


def figures(rows: int, keys: int, batch: int) -> dict[str, float]:
    found: dict[str, float] = {}

    def step(name: str, operator: Operator, batches: Sequence[Batch]) -> list[Batch]:
        seconds, left = cost(operator, batches)
        found[name] = round(seconds / rows * 1e9, 1)
        return left

    keyed = step("rekey", Rekey(of="machine"), decoded(rows, keys, batch))
    timed = step("event_time", EventTime(column="ts", lateness="2s"), keyed)
    windows = step("window", Window(every="20s", collect=["time", "value"]), timed)
    scored = step("zscore in window", Zscore(of="value"), windows)
    exploded = step("explode", Explode(), scored)
    step("keep", Keep(where="abs(z) > 1.29"), exploded)
    step("window of figures", Window(every="20s", compute=["mean(value)", "max(value)", "count(*)"]), timed)
    step("sliding window", Window(every="10s", size="30s", compute=["mean(value)"]), timed)
    step("ewma", Ewma(), timed)
    step("zscore, running", Zscore(), timed)
    step("stuck", Stuck(), timed)
    step("forecast, last", Forecast(method="persistence"), timed)
    step("forecast, ridge", Forecast(), timed)
    step("forecast, season", Forecast(season=24), timed)
    step("dedupe", Dedupe(horizon="60s"), timed)
    step("resample", Resample(every="5s"), timed)
    step("derive", Derive(columns={"f": "value * 1.8 + 32"}), timed)
    step("select", Select(columns=["value"]), timed)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--batch", type=int, default=65_536)
    given = parser.parse_args()
    large = figures(given.rows, given.keys, given.batch)
    tiny_rows = 5_000
    tiny = {name: round(ns / 1e3, 1) for name, ns in figures(tiny_rows, 100, 1).items()}
    for name in large:
        print(f"{name:20} {large[name]:8.1f} ns a reading {tiny[name]:8.1f} µs a batch of one")
    print(json.dumps({"rows": given.rows, "keys": given.keys, "ns": large, "us_of_one": tiny}))


if __name__ == "__main__":
    main()
