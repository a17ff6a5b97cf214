"""Remaining life of turbofans: python bench/rul.py DIR [--sets FD001 ...]

DIR holds `cmapss/` with ``train_FD00x.txt``, ``test_FD00x.txt`` and ``RUL_FD00x.txt`` (or ``.txt.gz``); every set that
has all three is run. Units of the training file teach (life capped at 125 cycles); each unit of the test file is judged
once, at its last cycle. ``rmse`` and ``score`` (NASA's, summed) are against the truth capped at 125, ``rmse_raw`` and
``score_raw`` against the truth as it is; ``coverage`` is the share of capped truths within the 90 % interval, ``width``
its mean in cycles. ``held_back_rmse`` is that of training units by models that had not seen them: all choices were made
by it. ``gru`` and ``similarity`` have the same figures of each of these alone. The baseline says the mean of the
training units' capped life at every age (``mean_life_rmse``). Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tocsin.batch import Floats
from tocsin.models.life import (
    CAP,
    MEMBERS,
    LifePredictor,
    Member,
    nasa_score,
    remaining,
    rmse,
    slots_of,
    train,
    version,
)
from tocsin.models.life_features import Numbers
from tocsin.state import Columns

SETTINGS, SENSORS = slice(2, 5), slice(5, 26)


def read(folder: Path, name: str) -> Floats | None:
    """The numbers of a file, packed or not; None if it is not there."""
    for path in (folder / f"{name}.txt", folder / f"{name}.txt.gz"):
        if path.exists():
            content = path.read_bytes()
            return np.loadtxt(io.BytesIO(gzip.decompress(content) if path.suffix == ".gz" else content), ndmin=2)
    return None


def last_rows(units: Numbers) -> Numbers:
    return np.append(np.flatnonzero(np.diff(units)), len(units) - 1)


def judged(taught: Floats, test: Floats, truth: Floats, members: Sequence[Member]) -> dict[str, Any]:
    """Figures of models that say the life together, on test units and on training units that were held back."""
    units, whose = taught[:, 0].astype(np.int64), test[:, 0].astype(np.int64)
    begin = time.perf_counter()
    model = train(units, taught[:, SETTINGS], taught[:, SENSORS], members=members)
    seconds = time.perf_counter() - begin
    settings, sensors = [f"setting{i}" for i in range(3)], [f"sensor{i}" for i in range(21)]
    manifest, files = version("turbofan", settings, sensors, model, units)
    predictor = LifePredictor(manifest, files, "bench")
    state = Columns(predictor.fields())
    slots = slots_of(whose, state)
    features = predictor.features(slots, test[:, SETTINGS], test[:, SENSORS], state)
    life, lower, upper = (values[last_rows(whose)] for values in predictor.predict(slots, features, state))
    capped = np.minimum(truth, CAP)
    return {
        "rmse": round(rmse(life, capped), 3),
        "score": round(nasa_score(life, capped), 1),
        "rmse_raw": round(rmse(life, truth), 3),
        "score_raw": round(nasa_score(life, truth), 1),
        "coverage": round(float(np.mean((lower <= capped) & (capped <= upper))), 4),
        "width": round(float(np.mean(upper - lower)), 1),
        "held_back_rmse": round(rmse(model.held_back, np.minimum(remaining(units), CAP)), 3),
        "regimes": model.regimes.count,
        "train_s": round(seconds, 1),
    }


def compared(taught: Floats, test: Floats, truth: Floats) -> dict[str, Any]:
    """Figures of the models that are taught unless others are named, then of two of them alone, and the baseline."""
    wanted = np.minimum(remaining(taught[:, 0].astype(np.int64)), CAP)
    plain = np.full(len(truth), wanted.mean())
    return {
        **judged(taught, test, truth, MEMBERS),
        "units": len(truth),
        "mean_life_rmse": round(rmse(plain, np.minimum(truth, CAP)), 3),
        "gru": judged(taught, test, truth, ("gru",)),
        "similarity": judged(taught, test, truth, ("similarity",)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="*", default=["FD001", "FD002", "FD003", "FD004"])
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    for name in options.sets:
        parts = [read(options.folder / "cmapss", f"{part}_{name}") for part in ("train", "test", "RUL")]
        if any(part is None for part in parts):
            print(f"{name}: not all of its three files are there; left out")
            continue
        taught, test, truth = (part for part in parts if part is not None)
        figures[name.lower()] = compared(taught, test, truth.ravel())
        print(f"{name}: {figures[name.lower()]}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
