"""The Numenta Anomaly Benchmark: python bench/nab.py DIR [--detector novelty] [--drop 0.05]

DIR holds NAB's data folders and its windows (windows.json or combined_windows.json). Prints the score of each
detector in the three profiles, at its best threshold (as NAB does) and at the one that ships; and one line of JSON.
With --drop also the means over five copies of the series that lack this share of their readings, at random places; and
over five that lack none but begin up to 40 readings later: so much is luck, as the design was chosen on these series.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from nab_scoring import PROFILES, Floats, Series, best_and_at, read, thinned

from tocsin.bases import Detector
from tocsin.batch import KEY, TIME, Batch, as_keys
from tocsin.pipeline.registry import find

SHIPPED = 50.0
COPIES = 5
Random = np.random.Generator


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


def scored(series: Sequence[Series], score: Callable[[Series], Floats]) -> dict[str, dict[str, float]]:
    """Returns the score of a detector in each profile, at its best threshold and at the one that ships."""
    scores = {one.name: score(one) for one in series}
    both = {profile: best_and_at(series, scores, profile, SHIPPED) for profile in PROFILES}
    return {
        name: {profile: round(values[i], 2) for profile, values in both.items()}
        for i, name in enumerate(("best", "shipped"))
    }


def lacking(series: Series, random: Random, share: float) -> Series:
    """Returns the series without a share of its readings, at random places."""
    return thinned(series, random.random(len(series)) < share)


def begun_later(series: Series, random: Random) -> Series:
    """Returns the series without its first readings, fewer than 40."""
    return thinned(series, np.arange(len(series)) < random.integers(40))


def over_copies(
    series: Sequence[Series], score: Callable[[Series], Floats], altered: Callable[[Series, Random], Series]
) -> dict[str, dict[str, float]]:
    """Returns the means of `scored` over altered copies of the series."""
    copies = [
        scored([altered(one, np.random.default_rng([copy, i])) for i, one in enumerate(series)], score)
        for copy in range(COPIES)
    ]
    return {
        at: {profile: round(float(np.mean([copy[at][profile] for copy in copies])), 2) for profile in PROFILES}
        for at in ("best", "shipped")
    }


def line(name: str, figures: dict[str, dict[str, float]], ours: bool) -> str:
    """Returns a line of the table; the threshold that ships is that of our detectors only."""
    text = f"{name:<20}" + "".join(f"{value:>10.1f}" for value in figures["best"].values())
    return text + ("   " + " ".join(f"{value:.1f}" for value in figures["shipped"].values()) if ours else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--detector", action="append", help="one of ours (several may be named); default novelty")
    parser.add_argument("--drop", type=float, help="share of the readings that are left out in further copies")
    options = parser.parse_args()
    series = read(options.folder)
    ours = options.detector or ["novelty"]
    entries = {"null": null, "windowed_gaussian": windowed_gaussian} | {name: component(name) for name in ours}
    figures: dict[str, object] = {"series": len(series), "windows": sum(len(s.windows) for s in series)}
    print(f"{figures['series']} series, {figures['windows']} windows")
    print(f"{'detector':<20}{'standard':>10}{'low FP':>10}{'low FN':>10}   shipped threshold {SHIPPED:g}")
    for name, score in entries.items():
        whole = scored(series, score)
        figures[name] = whole["best"]
        print(line(name, whole, name in ours))
        if name in ours:
            figures[f"{name}_shipped"] = whole["shipped"]
        if name in ours and options.drop:
            thin = over_copies(series, score, partial(lacking, share=options.drop))
            late = over_copies(series, score, begun_later)
            figures[f"{name}_dropped"], figures[f"{name}_dropped_shipped"] = thin["best"], thin["shipped"]
            figures[f"{name}_later"], figures[f"{name}_later_shipped"] = late["best"], late["shipped"]
            print(line(f"  without {options.drop:.0%}", thin, True))
            print(line("  begun later", late, True))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
