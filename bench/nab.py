"""The Numenta Anomaly Benchmark: python bench/nab.py DIR [--detector novelty]

DIR holds NAB's data folders and its windows (windows.json or combined_windows.json). Prints the score of each
detector in the three profiles, at its best threshold (as NAB does) and at the one that ships; and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from nab_scoring import PROFILES, Floats, Series, at, best, read

from tocsin.bases import Detector
from tocsin.batch import KEY, TIME, Batch, as_keys
from tocsin.pipeline.registry import find

SHIPPED = 50.0


def null(series: Series) -> Floats:
    """Never rings."""
    return np.full(len(series.values), 0.5)


def windowed_gaussian(series: Series, size: int = 6400, step: int = 100) -> Floats:
    """NAB's baseline: how far in the tail of a normal distribution over the last readings; raw, not smoothed."""
    scores = np.zeros(len(series.values))
    window: list[float] = []
    waiting: list[float] = []
    mean = deviation = 0.0
    for i, value in enumerate(series.values):
        if window:
            z = abs(value - mean) / deviation
            scores[i] = 1.0 - 0.5 * math.erfc(z / math.sqrt(2.0))
        if len(window) < size:
            window.append(value)
        else:
            waiting.append(value)
            if len(waiting) < step:
                continue
            window = window[step:] + waiting
            waiting = []
        mean, deviation = float(np.mean(window)), float(np.std(window)) or 1e-6
    return scores


def component(name: str) -> Callable[[Series], Floats]:
    """A detector of ours, driven as a stream; rows without a verdict score 0."""
    detector = find("operator", name)()
    assert isinstance(detector, Detector)

    def score(series: Series) -> Floats:
        times = pa.array(np.array([s.replace(" ", "T") for s in series.stamps], "datetime64[us]")).cast(TIME.type)
        key = as_keys(pa.array(["series"] * len(series.values)))
        schema = pa.schema([KEY, TIME, pa.field("value", pa.float64())])
        rows = pa.RecordBatch.from_arrays([key, times, pa.array(series.values)], schema=schema)
        _, (batch,) = detector.step(detector.initial(), Batch(rows))
        return np.asarray(batch.rows.column("score").fill_null(0.0).to_numpy(zero_copy_only=False))

    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--detector", action="append", help="one of ours (several may be named); default novelty")
    options = parser.parse_args()
    series = read(options.folder)
    ours = options.detector or ["novelty"]
    entries = {"null": null, "windowed_gaussian": windowed_gaussian} | {name: component(name) for name in ours}
    figures: dict[str, object] = {"series": len(series), "windows": sum(len(s.windows) for s in series)}
    print(f"{figures['series']} series, {figures['windows']} windows")
    print(f"{'detector':<20}{'standard':>10}{'low FP':>10}{'low FN':>10}   shipped threshold {SHIPPED:g}")
    for name, score in entries.items():
        scores = {s.name: score(s) for s in series}
        found = {profile: best(series, scores, profile) for profile in PROFILES}
        figures[name] = {profile: round(value, 2) for profile, (value, _) in found.items()}
        line = f"{name:<20}" + "".join(f"{value:>10.1f}" for value, _ in found.values())
        if name in ours:
            shipped = {profile: at(series, scores, profile, SHIPPED) for profile in PROFILES}
            figures[f"{name}_shipped"] = {profile: round(value, 2) for profile, value in shipped.items()}
            line += "   " + " ".join(f"{value:.1f}" for value in shipped.values())
        print(line)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
