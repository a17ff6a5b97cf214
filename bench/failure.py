"""Whether a machine fails within 24 hours: python bench/failure.py DIR

DIR holds `azure_pdm/`: means and deviations of 3 hours of telemetry, errors, maintenance and failures of 100 machines
over a year. What is known at the end of a window are its telemetry, the errors of the last 24 hours and the days since
the last maintenance of each component; the target is a failure in the 24 hours after that. Split in time: the last
30 % judge, the last 20 % of the others calibrate, nothing is chosen on what judges. At the borders the 24 hours of the
last rows of a part reach into the next one. Baselines on the same rows: the base rate, and the same trees knowing only
the days since the last failure and the last maintenance. Ends with one line of JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tocsin.models.explain import BOOSTED, Explanation, explain

HOUR = 3_600_000_000
HORIZON = 24 * HOUR
WINDOW = 3 * HOUR
AGE = ("days since failure", "days since maintenance")
Ints = npt.NDArray[np.int64]


def events(folder: Path, name: str) -> pa.Table:
    with pa.input_stream(str(folder / f"PdM_{name}.csv.gz")) as file:
        return pyarrow.csv.read_csv(file)


def times(table: pa.Table, machine: int, column: str = "", value: str = "") -> Ints:
    """The sorted times of a machine's events, in microseconds."""
    keep = table["machineID"].to_numpy() == machine
    if column:
        keep &= np.array(table[column].to_pylist()) == value
    return np.sort(table["datetime"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()[keep])


def days_since(past: Ints, now: Ints) -> npt.NDArray[np.float64]:
    """NaN before the first event."""
    place = np.searchsorted(past, now, side="right")
    padded = np.concatenate([[0], past])
    return np.where(place > 0, (now - padded[place]) / (24 * HOUR), np.nan)


def frame(folder: Path) -> pa.Table:
    rows = pq.read_table(folder / "telemetry_3h_features.parquet").sort_by([("machineID", "ascending")])
    start = rows["dt_truncated"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    machine, now = rows["machineID"].to_numpy(), start + WINDOW
    failures, errors, maint = (events(folder, name) for name in ("failures", "errors", "maint"))
    columns: dict[str, Any] = {c: rows[c] for c in rows.column_names if "_rolling" in c and not c.startswith("error")}
    components, kinds = sorted(set(maint["comp"].to_pylist())), sorted(set(errors["errorID"].to_pylist()))
    made = {name: np.full(len(now), np.nan) for name in (*AGE, *components, *kinds, "fails")}
    for one in np.unique(machine):
        at = np.flatnonzero(machine == one)
        t, failed = now[at], times(failures, one)
        made[AGE[0]][at] = days_since(failed, t)
        made[AGE[1]][at] = days_since(times(maint, one), t)
        for component in components:
            made[component][at] = days_since(times(maint, one, "comp", component), t)
        for kind in kinds:
            came = times(errors, one, "errorID", kind)
            made[kind][at] = np.searchsorted(came, t, "right") - np.searchsorted(came, t - HORIZON, "right")
        made["fails"][at] = np.searchsorted(failed, t + HORIZON, "right") > np.searchsorted(failed, t, "right")
    # What follows the last rows is not known.
    made["fails"][now + HORIZON > start.max()] = np.nan
    columns |= {name: pa.array(values, from_pandas=True) for name, values in made.items()}
    return pa.table({"time": pa.array(now).cast(pa.timestamp("us")), **columns})


def figures(made: Explanation) -> dict[str, float]:
    """Those of the boosted trees; the calibration error is over ten bins of as many rows each."""
    row = next(row for row in made.models.to_pylist() if row["model"] == BOOSTED)
    bins = np.array_split(np.argsort(made.probability, kind="stable"), 10)
    gaps = [len(b) * abs(made.probability[b].mean() - made.outcome[b].mean()) for b in bins]
    wanted = {name: row[name] for name in ("auc", "average_precision", "brier")}
    return {k: round(float(v), 5) for k, v in {**wanted, "calibration_error": sum(gaps) / len(made.outcome)}.items()}


def main() -> None:
    table = frame(Path(sys.argv[1]) / "azure_pdm")
    whole = explain(table, "fails", time="time")
    age = explain(table, "fails", AGE, time="time")
    print(whole.models.to_pylist(), whole.importance.to_pylist(), whole.leaks, whole.agreement(), sep="\n")
    base = {
        "base_rate": round(whole.base_rates["judge"], 5),
        "base_rate_brier": round(whole.models["brier"][0].as_py(), 5),
    }
    print(json.dumps({"azure_24h": {**figures(whole), **base, "age": figures(age), "rows": len(whole.rows)}}))


if __name__ == "__main__":
    main()
