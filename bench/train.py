"""A net for each of 100 machines, taught together, against one after the other: python bench/train.py

Each machine has a load of its own that follows its weather: 600 hours, of which it has lost a hundredth, an LSTM over
the last 24, as many epochs for all. ``together_s`` and ``apart_s`` are what a user waits for: one training with
``per_key: true``, and a training for each machine, one after the other in one process, by `tocsin.train`'s own way
from a table to a version in the store. ``loops`` is the teaching alone (`fit.teach`), all of the same length; both
ways end with the same weights (checked). All is compiled before the time is taken. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tocsin.batch import as_times
from tocsin.models.fit import Learnt, Lesson, Recipe, teach
from tocsin.models.train import Training, train_on

WINDOW = 24
HOUR_US = 3_600_000_000
LOST = 0.01


def readings(seed: int, periods: int) -> tuple[np.ndarray, np.ndarray]:
    """Load and weather of one machine, each (periods,)."""
    random = np.random.default_rng(seed)
    outside = np.sin(np.arange(periods) / 5 + seed) + 0.1 * random.normal(size=periods)
    return -np.roll(outside, 2) + 0.1 * random.normal(size=periods), outside


def lesson(seed: int, periods: int) -> Lesson:
    """What one machine has to teach."""
    load, outside = readings(seed, periods)
    ends = np.arange(WINDOW - 1, periods - 1)
    cut = int(0.8 * len(ends))
    inputs = np.stack([load, outside], axis=1).astype(np.float32)
    return Lesson(inputs, np.append(np.diff(load), 0).astype(np.float32), ends[:cut], ends[cut:])


def table(seeds: Sequence[int], periods: int) -> pa.Table:
    """The rows of some machines, as a query gives them."""
    tables = []
    for seed in seeds:
        load, outside = readings(seed, periods)
        kept = np.flatnonzero(np.random.default_rng(seed).random(periods) >= LOST)
        times = as_times(1_700_000_000_000_000 + kept * HOUR_US)
        key = pa.array([f"m{seed:03}"] * len(kept))
        tables.append(pa.table({"key": key, "time": times, "load": load[kept], "outside": outside[kept]}))
    return pa.concat_tables(tables)


def trained(store: Path, recipe: Recipe, rows: pa.Table, per_key: bool) -> None:
    """A whole training: windows, net, proof, version."""
    model = {name: getattr(recipe, name) for name in ("cell", "units", "epochs", "patience", "batch")}
    dataset = {"query": "select * from readings", "key": "key", "every": "1h", "target": "load",
               "features": ["outside"], "window": WINDOW}  # fmt: skip
    training = Training.model_validate(
        {"name": "load", "store": store, "dataset": dataset, "model": {**model, "per_key": per_key}}
    )
    train_on(training, training.dataset.series(rows, {"readings": 0}))


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def loops(machines: int, periods: int, recipe: Recipe) -> dict[str, float]:
    """The teaching alone, compiled before."""
    lessons = [lesson(seed, periods) for seed in range(machines)]
    teach(lessons[:1], WINDOW, recipe)
    teach(lessons, WINDOW, recipe)
    apart: list[Learnt] = []
    together: list[Learnt] = []
    apart_s = seconds(lambda: apart.extend(learnt for one in lessons for learnt in teach([one], WINDOW, recipe)))
    together_s = seconds(lambda: together.extend(teach(lessons, WINDOW, recipe)))
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(one.weights["r"], other.weights["r"], atol=1e-3)
    return {"together_s": together_s, "apart_s": apart_s, "speedup": apart_s / together_s}


def whole(machines: int, periods: int, recipe: Recipe) -> dict[str, float]:
    """Trainings as a user calls them."""
    each = [table([seed], periods) for seed in range(machines)]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        trained(store / "first", recipe, each[0], per_key=False)
        trained(store / "first", recipe, pa.concat_tables(each), per_key=True)
        together_s = seconds(lambda: trained(store / "together", recipe, pa.concat_tables(each), per_key=True))

        def one_after_the_other() -> None:
            for rows in each:
                trained(store / "apart", recipe, rows, per_key=False)

        apart_s = seconds(one_after_the_other)
    return {"together_s": together_s, "apart_s": apart_s, "speedup": apart_s / together_s}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("machines", 100), ("periods", 600), ("units", 8), ("batch", 16), ("epochs", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args(arguments)
    recipe = Recipe(units=options.units, batch=options.batch, epochs=options.epochs, patience=options.epochs)
    print(f"{options.machines} LSTMs of {options.units}, batches of {options.batch}, {options.epochs} epochs")
    said = {}
    for name, way in (("the teaching alone", loops), ("whole trainings", whole)):
        said[name] = {key: round(value, 3) for key, value in way(options.machines, options.periods, recipe).items()}
        print(f"  {name}: one after the other {said[name]['apart_s']} s, together {said[name]['together_s']} s")
    print(json.dumps({**said["whole trainings"], "loops": said["the teaching alone"]}))


if __name__ == "__main__":
    main()
