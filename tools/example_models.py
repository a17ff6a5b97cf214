"""Make the small models that docs and tests use anew: python tools/example_models.py

They stand in src/tocsin/models/example: `tide` foretells the next of a rhythmic reading from the last four; `pair` two
periods ahead, from a reading and a second one, in two versions.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.batch import as_times
from tocsin.models.store import Store
from tocsin.models.train import Training, train_on

FOLDER = Path(__file__).parent.parent / "src" / "tocsin" / "models" / "example"


def make(name: str, features: tuple[str, ...], horizon: int, every: str | None, **model: Any) -> None:
    """Train one version on a made rhythm, and promote it if it is the first."""
    random, count = np.random.default_rng(1), 1_500
    value = 20 + np.sin(np.arange(count) * 2 * np.pi / 12) + random.normal(0, 0.05, count)
    columns = {"time": as_times(np.arange(count) * 1_500_000), "value": value, "other": 2 * value}
    training = Training.model_validate(
        {
            "name": name,
            "store": FOLDER,
            "dataset": {
                "query": "select * from rhythm", "target": "value", "features": features, "window": 4,
                "horizon": horizon, "every": every,
            },
            "model": {"units": 4, "epochs": 40, "batch": 32, "learning_rate": 0.02, **model},
        }
    )  # fmt: skip
    manifest = train_on(training, training.dataset.series(pa.table(columns), {}))
    print(manifest.verdict())
    if manifest.version == 1:
        Store(FOLDER).promote(name, 1)


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    make("tide", (), 1, None)
    make("pair", ("other",), 2, "1500ms")
    make("pair", ("other",), 2, "1500ms", cell="gru")
    for lock in FOLDER.glob("*/.lock"):
        lock.unlink()
