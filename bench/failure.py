"""Whether a machine fails within a horizon: python bench/failure.py DIR

DIR holds `azure_pdm/`: means and deviations of 3 hours of telemetry, errors, maintenance and failures of 100 machines
over a year. What is known at the end of a window are its telemetry, the errors of the last 24 hours and the days since
the last maintenance of each component; the target is a failure in the 24 hours after that. AI4I
(`ai4i2020/`): 10,000 rows of a milling machine in their order, whether each fails now, by its readings and type.

The model is that of ``tocsin train`` with ``kind: failure``. Split in time: the first 56 % of the rows teach, the next
14 % calibrate, the last 30 % judge, and nothing is chosen on them; rows within the horizon of a border are left out.
Plain methods on the same rows: the base rate, a logistic regression calibrated alike, and for Azure the same trees that
know only the days since the last failure and the last maintenance. Ends with one line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tocsin.models.failure import FailureData, FailureTraining, train_on
from tocsin.models.manifest import Manifest

HOUR = 3_600_000_000
HORIZON = 24 * HOUR
WINDOW = 3 * HOUR
TAUGHT, CALIBRATED = 0.56, 0.7
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


def trained(name: str, table: pa.Table, target: str, features: Sequence[str], hours: int, folder: Path) -> Manifest:
    """A version by the chain itself: rows parted in time, calibrated on the second part, judged on the third."""
    data = {"query": "from bench", "target": target, "features": features, "horizon": f"{hours}h",
            "validate_from": moment(table, TAUGHT), "test_from": moment(table, CALIBRATED)}  # fmt: skip
    return train_on(FailureTraining(kind="failure", name=name, store=folder, dataset=FailureData(**data)), table, {})


def moment(table: pa.Table, share: float) -> str:
    """When so large a share of all rows has been."""
    return str(table["time"].sort()[int(share * len(table))].as_py().isoformat())


def figures(made: Manifest) -> dict[str, Any]:
    """Those of the model on the rows that judge, and those of the plain methods on the same rows."""
    said = {**made.metrics, **{name: dict(values) for name, values in made.baselines.items()}}
    rounded = {
        k: {n: round(v, 5) for n, v in x.items()} if isinstance(x, dict) else round(x, 5) for k, x in said.items()
    }
    return rounded | {"better": made.is_better}


def milling(folder: Path) -> pa.Table:
    """AI4I in its order, a row an hour; what fails there fails now, so the horizon is none."""
    rows = pyarrow.csv.read_csv(folder / "ai4i2020.csv")
    names = [name.strip("\ufeff") for name in rows.column_names]
    rows = rows.rename_columns(names)
    kinds = {f"is {one}": pa.array([kind == one for kind in rows["Type"].to_pylist()]) for one in "LMH"}
    time = pa.array(np.arange(len(rows)) * HOUR).cast(pa.timestamp("us"))
    readings = {name: rows[name] for name in names[3:8]}
    return pa.table({"time": time, "fails": rows["Machine_failure"], **readings, **kinds})


def main() -> None:
    data = Path(sys.argv[1])
    azure, ai4i = frame(data / "azure_pdm"), milling(data / "ai4i2020")
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary)
        whole = [name for name in azure.column_names if name not in ("time", "fails")]
        told["azure_24h"] = figures(trained("azure", azure, "fails", whole, 24, store))
        age = figures(trained("azure_age", azure, "fails", AGE, 24, store))
        told["azure_24h"]["age"] = {
            name: age[name] for name in ("brier", "calibration_error", "average_precision", "auc")
        }
        told["ai4i"] = figures(trained("ai4i", ai4i, "fails", ai4i.column_names[2:], 0, store))
    for name, values in told.items():
        print(name, values)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
