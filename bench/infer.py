"""What a forecast of a trained model costs in the stream: python bench/infer.py [--keys 1000] [--units 32]

An LSTM over a window of 100 periods, in step `model`; each batch holds one period of every key. The time is the whole
step's: windows, net, bounds, columns. One thread. The weights are drawn: what they are does not change what they cost.
Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from tocsin.batch import Batch
from tocsin.estimate.model import Model
from tocsin.models.manifest import MODEL, Manifest
from tocsin.models.recurrent import GATES, to_onnx
from tocsin.models.store import Store
from tocsin.testing import rows


def drawn(store: Store, cell: str, units: int, window: int) -> None:
    """Keep and promote a net with weights from a hat."""
    random, gates = np.random.default_rng(1), GATES[cell] * units
    shapes = {"w": (gates, 1), "r": (gates, units), "b": (gates,), "out": (units,), "bias": ()}
    weights = {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    draft = Manifest(
        "drawn", "forecaster", ("value",), "value", window=window, horizon=1,
        scaling={"mean": [[0.0]], "scale": [[1.0]], "change": [1.0]},
        settings={"every_us": None, "coverage": 0.9, "keys": []},
    )  # fmt: skip
    store.add(draft, {MODEL: to_onnx(cell, weights, window)})
    store.promote("drawn", 1, force=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("keys", 1000), ("units", 32), ("window", 100), ("periods", 30)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--cell", default="lstm", choices=sorted(GATES))
    options = parser.parse_args(arguments)
    keys, random = [f"m{k}" for k in range(options.keys)], np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as folder:
        drawn(Store(folder), options.cell, options.units, options.window)
        step = Model(model="drawn", store=folder)
        state = step.initial()
        spent = []
        for period in range(options.window + options.periods):
            at = np.full(len(keys), float(period))
            batch = Batch(rows({"key": keys, "time": at, "value": random.normal(size=len(keys))}))
            begin = time.perf_counter()
            state, (left,) = step.step(state, batch)
            spent.append(time.perf_counter() - begin)
        assert left.rows["ahead"].null_count == 0
    us = np.array(spent[options.window :]) / len(keys) * 1e6
    print(f"{options.cell} of {options.units}, window {options.window}, {len(keys):,} keys a batch, {len(us)} periods")
    print(f"  us per key: median {np.median(us):.1f}, best {us.min():.1f}, worst {us.max():.1f}")
    print(json.dumps({"us_per_key": round(float(np.median(us)), 2)}))


if __name__ == "__main__":
    main()
