"""Pumps that fail, by rules that are known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tocsin.batch import as_times

HOUR_US = 3_600_000_000


def pumps(count: int = 6_000, seed: int = 3, start_us: int = 1_700_000_000_000_000) -> pa.Table:
    """Pumps that mostly fail within the hour if they are old and vibrate, and hardly ever else; some lack their age."""
    random = np.random.default_rng(seed)
    age, vibration = random.uniform(0, 50, count), random.gamma(4, 0.7, count)
    fails = random.uniform(size=count) < np.where((age > 25) & (vibration > 3), 0.73, 0.018)
    return pa.table({
        "time": as_times(start_us + HOUR_US * np.arange(count)),
        "vibration": vibration, "age": pa.array(np.where(age < 2, np.nan, age), from_pandas=True), "fails": fails,
    })  # fmt: skip
