"""What an anomaly job costs: CPU a row, and a bucket of a series; one core.

    python bench/job.py --series 100

Ends by printing one JSON line: ``us_a_bucket`` for one series, ``us_a_series`` for each of many in a bucket,
``ns_a_row`` where many rows fall into a bucket, and how many faults planted in data with rhythm were critical
(``found`` of ``planted``), with ``false_per_1000`` buckets on the same data without faults.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from tocsin.detect.job import Job
from tocsin.testing import BEGIN_US, feed, rows

DAY = 86_400.0


def job(span: str, **detector: Any) -> Job:
    return Job(definition={"analysis_config": {"bucket_span": span, "detectors": [detector]}})


def cpu_s(of: Job, columns: dict[str, Any], chop: int) -> float:
    batch = rows(columns)
    begin = time.process_time()
    feed(of, batch, chop=chop)
    return time.process_time() - begin


def quality(seeds: int) -> dict[str, float]:
    buckets = false = planted = found = 0
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        t = np.arange(28 * 96) * 900.0
        noise = (random.normal(0, 3, len(t)), random.standard_t(5, len(t)) * 2.3)[seed % 2]
        weekend = ((t + seed * DAY) // DAY % 7 >= 5) * np.sin(np.pi * (t % DAY) / DAY)
        v = 100 + 20 * np.sin(2 * np.pi * (t / DAY + seed / 7)) + 15 * weekend + 0.3 * seed * t / DAY + noise
        of = job("15m", function="mean", field_name="v")
        false += len(critical(of, t, v))
        buckets += len(t)
        at = random.choice(np.arange(1400, len(t) - 30, 20), 8, replace=False)
        v[at] += 30 * random.choice([-1, 1], 8)
        planted += len(at)
        found += len(critical(of, t, v) & set(at.tolist()))
    return {"planted": planted, "found": found, "false_per_1000": round(1000 * false / buckets, 3)}


def critical(of: Job, t: Any, v: Any) -> set[int]:
    left = feed(of, rows({"v": v, "time": t})).to_pylist()
    return {
        round((r["time"].timestamp() - BEGIN_US / 1e6) / 900)
        for r in left
        if r["result_type"] == "record" and r["record_score"] > 75
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--series", type=int, default=100)
    arguments.add_argument("--buckets", type=int, default=1_000)
    arguments.add_argument("--seeds", type=int, default=10)
    given = arguments.parse_args()
    random = np.random.default_rng(0)
    n, k = given.buckets, given.series
    warm = {"v": [1.0, 2.0], "m": ["a", "b"], "time": [0.0, 3600.0]}
    cpu_s(job("1h", function="mean", field_name="v", partition_field_name="m"), warm, 1)
    one = cpu_s(
        job("1h", function="mean", field_name="v"), {"v": random.normal(9, 1, n), "time": np.arange(n) * 3600.0}, 1000
    )
    names = np.tile([f"machine {i}" for i in range(k)], n)
    columns = {"v": random.normal(9, 1, n * k), "m": names, "time": np.repeat(np.arange(n) * 3600.0, k)}
    many = cpu_s(job("1h", function="mean", field_name="v", partition_field_name="m"), columns, 10_000)
    each = 1_000_000 // 50
    columns = {"v": random.normal(9, 1, 1_000_000), "time": np.arange(1_000_000) * (3600.0 / each)}
    dense = cpu_s(job("1h", function="mean", field_name="v"), columns, 10_000)
    figures = {
        "us_a_bucket": round(one / n * 1e6, 1),
        "us_a_series": round(many / n / k * 1e6, 2),
        "ns_a_row": round(dense / 1e6 * 1e9, 1),
        **quality(given.seeds),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
