"""A net for each of 100 machines, taught together, against one after the other: python bench/train.py

Each machine has a load of its own that follows its weather: 600 periods, an LSTM over the last 24, as many epochs for
all. Both ways use `fit.teach` with the same recipe, are compiled before the time is taken, and end with the same
weights (checked). Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np

from tocsin.models.fit import Learnt, Lesson, Recipe, teach

WINDOW = 24


def lesson(seed: int, periods: int) -> Lesson:
    """What one machine has to teach."""
    random = np.random.default_rng(seed)
    outside = np.sin(np.arange(periods) / 5 + seed) + 0.1 * random.normal(size=periods)
    load = -np.roll(outside, 2) + 0.1 * random.normal(size=periods)
    ends = np.arange(WINDOW - 1, periods - 1)
    cut = int(0.8 * len(ends))
    inputs = np.stack([load, outside], axis=1).astype(np.float32)
    return Lesson(inputs, np.append(np.diff(load), 0).astype(np.float32), ends[:cut], ends[cut:])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("machines", 100), ("periods", 600), ("units", 8), ("batch", 16), ("epochs", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args(arguments)
    recipe = Recipe(units=options.units, batch=options.batch, epochs=options.epochs, patience=options.epochs)
    lessons = [lesson(seed, options.periods) for seed in range(options.machines)]
    teach(lessons[:1], WINDOW, recipe)
    teach(lessons, WINDOW, recipe)

    begin = time.perf_counter()
    apart: list[Learnt] = [learnt for one in lessons for learnt in teach([one], WINDOW, recipe)]
    apart_s = time.perf_counter() - begin
    begin = time.perf_counter()
    together = teach(lessons, WINDOW, recipe)
    together_s = time.perf_counter() - begin
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(one.weights["r"], other.weights["r"], atol=1e-3)
    print(f"{options.machines} LSTMs of {options.units}, batches of {options.batch}, {options.epochs} epochs")
    print(f"  one after the other {apart_s:.2f} s, together {together_s:.2f} s")
    figures = {"together_s": together_s, "apart_s": apart_s, "speedup": apart_s / together_s}
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
