"""The Skoltech Anomaly Benchmark: python bench/skab.py DIR

DIR holds folders of CSV files (``;``-separated, with ``anomaly`` and ``changepoint``). Each file teaches with its first
400 rows and is judged on the rest; rows of all files are pooled, as the leaderboard does, and those of each folder.
Calling every row anomalous stands beside it, since that gives a high F1 too. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tocsin.batch import KEY, TIME, Batch, as_keys, as_times
from tocsin.detect.multivariate import Multivariate

LEARN = 400
Truth = npt.NDArray[np.bool_]


def judged(path: Path) -> tuple[Truth, Truth]:
    """What the detector says and what is true of each row after the first 400."""
    with path.open() as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    signals = [name for name in rows[0] if name not in ("datetime", "anomaly", "changepoint")]
    columns = [pa.array([float(row[name]) for row in rows]) for name in signals]
    schema = pa.schema([KEY, TIME, *(pa.field(name, pa.float64()) for name in signals)])
    time = as_times(np.arange(len(rows), dtype=np.int64) * 1_000_000)
    batch = pa.RecordBatch.from_arrays([as_keys(pa.array(["rig"] * len(rows))), time, *columns], schema=schema)
    detector = Multivariate(of=tuple(signals), learn=LEARN)
    _, (verdict,) = detector.step(detector.initial(), Batch(batch))
    said = verdict.rows.column("abnormal").fill_null(False).to_numpy(zero_copy_only=False)
    return said[LEARN:], np.array([float(row["anomaly"]) > 0 for row in rows])[LEARN:]


def figures(said: Truth, true: Truth) -> dict[str, float]:
    hits, false, missed = (said & true).sum(), (said & ~true).sum(), (~said & true).sum()
    return {
        "f1": round(float(2 * hits / (2 * hits + false + missed)), 4),
        "far_percent": round(float(100 * false / (~true).sum()), 2),
        "mar_percent": round(float(100 * missed / true.sum()), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    paths = sorted(p for p in parser.parse_args().folder.rglob("*.csv") if p.parent.name != "anomaly-free")
    judged_of = {path: judged(path) for path in paths}
    folders = {name: [judged_of[p] for p in paths if p.parent.name == name] for name in {p.parent.name for p in paths}}
    result = {name: both(of) for name, of in {**dict(sorted(folders.items())), "all": list(judged_of.values())}.items()}
    print(f"{'':<32}{'F1':>8}{'FAR %':>8}{'MAR %':>8}")
    for folder, figures_of in result.items():
        for name, figure in figures_of.items():
            f1, far, mar = figure.values()
            print(f"{folder + ', ' + name:<32}{f1:>8.3f}{far:>8.1f}{mar:>8.1f}")
    print(json.dumps({"files": len(paths), "folders": result, **result["all"]}))


def both(files: list[tuple[Truth, Truth]]) -> dict[str, dict[str, float]]:
    """The figures of the detector, and of calling every row anomalous, over the rows of some files."""
    said, true = map(np.concatenate, zip(*files, strict=True))
    return {"multivariate": figures(said, true), "everything_anomalous": figures(np.ones_like(true), true)}


if __name__ == "__main__":
    main()
