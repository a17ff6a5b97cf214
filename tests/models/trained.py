"""A small plant and what is trained on it: made once for all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.batch import as_times
from tocsin.models.dataset import Series
from tocsin.models.train import Training

HOUR_US = 3_600_000_000


def plant(count: int = 600, keys: int = 2) -> pa.Table:
    """Load of machines that follows the weather of three hours before; some hours are lost, some have no reading."""
    random = np.random.default_rng(5)
    tables = []
    for k in range(keys):
        outside = np.cumsum(random.normal(size=count)) * 0.3 + np.sin(np.arange(count) / 4 + k)
        load = 50 - 5 * np.roll(outside, 3) + random.normal(0, 0.1, count)
        load[100], outside[150] = np.nan, np.nan
        times = np.arange(count) * HOUR_US + 1_600_000_000_000_000
        kept = ~np.isin(np.arange(count), (200, 201, 202))
        columns = {
            "machine": [f"m{k}"] * int(kept.sum()),
            "ts": as_times(times[kept]),
            "load": pa.array(load[kept], from_pandas=True),
            "outside": pa.array(outside[kept], from_pandas=True),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def training(store: Path, **model: Any) -> Training:
    """A training of seconds on `plant`."""
    return Training.model_validate(
        {
            "name": "load",
            "store": store,
            "season": 24,
            "dataset": {
                "query": "from plant", "target": "load", "features": ["outside"], "window": 6, "time": "ts",
                "key": "machine", "every": "1h",
            },
            "model": {"units": 6, "epochs": 15, "batch": 32, "learning_rate": 0.02, **model},
        }
    )  # fmt: skip


def series(settings: Training) -> Series:
    """`plant` as the training's data set."""
    return settings.dataset.series(plant(), {"plant": 3})
