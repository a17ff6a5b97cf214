"""How long before a failure does it ring: python bench/lead.py DIR

DIR holds `cmapss/` (train_FD001.txt.gz: engines run to failure) and `azure_pdm/` (machines that fail). `health`, over
all sensors together, stands beside two simple rules on the same sensors: a fixed limit, in standard deviations of each
machine's first 50 readings (told when five readings in succession have a sensor beyond it), and a CUSUM on the mean of
their squared deviations. Each has one number that was chosen on odd units (`--tune` prints them): the lowest at which
at most 4 % of the engines ring in the first half of their life, or the plant has at most 1.25 false alarms a machine
and month. Even units judge.

cmapss: the share of units at whose failure an alarm stands, the median lead in cycles (of the alarm that stands), the
share that rings in the first half of its life. azure_pdm: the share of failures at which one stands, its median lead in
hours, the share with an alarm in the first half of the time since the failure before, the share of alarms that a
failure follows within a week, and false ones a machine and month. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tocsin.batch import KEY, TIME, Batch, Floats, Ints, as_keys, as_times
from tocsin.detect.health import Health

Told = npt.NDArray[np.bool_]
HOUR_US = 3_600_000_000
BEGIN_US = 1_767_225_600_000_000
LEARN = 50
WITHIN_H = 7 * 24
CAP = 125  # an engine is held to be well until so many cycles before its failure, as is usual for C-MAPSS
A_MONTH_H = 730.0


@dataclass(frozen=True)
class Machine:
    """One unit: its sensors by time, and the hours of its failures."""

    unit: int
    hours: Ints
    sensors: Floats
    failures: Sequence[int]
    span: float
    """Readings over which to average: wear is slow, a failing component shows for a day."""
    wears: bool
    """Whether it is run from new to its end, so that only its first readings are those of a well machine."""


Rule = Callable[[Machine, float], Told]


def health(machine: Machine, width: float) -> Told:
    """Told by `health`, over all sensors together, at a width of its band."""
    names = tuple(f"s{j}" for j in range(machine.sensors.shape[1]))
    detector = Health(of=names, learn=LEARN, span=machine.span, width=width, frozen=machine.wears, relearn=None)
    schema = pa.schema([KEY, TIME, *(pa.field(name, pa.float64()) for name in names)])
    key, times = as_keys(pa.array(["unit"] * len(machine.hours))), as_times(BEGIN_US + machine.hours * HOUR_US)
    rows = pa.RecordBatch.from_arrays([key, times, *map(pa.array, machine.sensors.T)], schema=schema)
    _, (verdict,) = detector.step(detector.initial(), Batch(rows))
    told: Told = verdict.rows.column("score").fill_null(0).to_numpy(zero_copy_only=False) >= 75
    return told


def deviations(machine: Machine) -> Floats:
    """Deviations from the first 50 readings, in their standard deviations; 0 in these, and of what never changes."""
    first, rest = machine.sensors[:LEARN], machine.sensors[LEARN:]
    deviation = first.std(axis=0)
    used = deviation > 1e-9 * np.abs(first.mean(axis=0))
    out = np.zeros_like(machine.sensors)
    out[LEARN:, used] = (rest - first.mean(axis=0))[:, used] / deviation[used]
    return out


def three_sigma(machine: Machine, limit: float) -> Told:
    """Five readings in succession with some sensor beyond a fixed limit."""
    beyond = (np.abs(deviations(machine)) > limit).any(axis=1)
    runs = np.convolve(beyond, np.ones(5), "full")[: len(beyond)]
    return np.asarray(runs >= 5)


def cusum(machine: Machine, limit: float) -> Told:
    """A one-sided sum of how far the mean square deviation of the sensors lies above 2."""
    z = deviations(machine)
    used = max(int((np.abs(z).max(axis=0) > 0).sum()), 1)
    total, told = 0.0, np.zeros(len(z), bool)
    for i, square in enumerate((z**2).sum(axis=1) / used):
        total = min(max(total + square - 2.0, 0.0), 2 * limit)
        told[i] = total > limit
    return told


RULES: dict[str, tuple[Rule, Sequence[float]]] = {
    "health": (health, (2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 5.0)),
    "three_sigma": (three_sigma, (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0)),
    "cusum": (cusum, (2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)),
}
DEFAULTS = {
    "cmapss": {"health": 2.75, "three_sigma": 3.0, "cusum": 5.0},
    "azure_pdm": {"health": 2.5, "three_sigma": 2.5, "cusum": 5.0},
}


def engines(folder: Path) -> list[Machine]:
    """FD001's engines, a cycle taken for an hour."""
    with gzip.open(folder / "cmapss" / "train_FD001.txt.gz", "rt") as file:
        table = np.loadtxt(file)
    made = []
    for unit in np.unique(table[:, 0]).astype(int):
        own = table[table[:, 0] == unit]
        made.append(
            Machine(unit, own[:, 1].astype(np.int64), np.ascontiguousarray(own[:, 5:]), [int(own[-1, 1])], 15.0, True)
        )
    return made


def plant(folder: Path) -> list[Machine]:
    """The machines of azure_pdm: means and deviations of four sensors every three hours."""
    table = pq.read_table(folder / "azure_pdm" / "telemetry_3h_features.parquet")
    sensors = [name for name in table.schema.names if name.endswith("rollingmean_3")]
    start = datetime(2015, 1, 1)
    failures: dict[int, set[int]] = defaultdict(set)
    with gzip.open(folder / "azure_pdm" / "PdM_failures.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            hour = (datetime.fromisoformat(row["datetime"]) - start) // timedelta(hours=1)
            failures[int(row["machineID"])].add(hour)
    frame = table.select(["machineID", "dt_truncated", *sensors]).sort_by(
        [("machineID", "ascending"), ("dt_truncated", "ascending")]
    )
    ids = frame["machineID"].to_numpy()
    hours = (frame["dt_truncated"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()) // HOUR_US
    hours = hours - int((start - datetime(1970, 1, 1)) / timedelta(hours=1))
    values = np.column_stack([frame[name].to_numpy().astype(float) for name in sensors])
    made = []
    for unit in np.unique(ids):
        own = ids == unit
        # Rows of one hour that differ only in their labels count once.
        at, first = np.unique(hours[own], return_index=True)
        inside = [h for h in sorted(failures[int(unit)]) if at[0] < h <= at[-1]]
        made.append(Machine(int(unit), at.astype(np.int64), values[own][first], inside, 4.0, False))
    return made


def on_engines(units: Sequence[Machine], rule: Rule, number: float) -> dict[str, float]:
    """Share standing at the failure, median lead, share early, precision of alarms, false ones a unit and month."""
    leads, early, false, alarms, readings = [], 0, 0, 0, 0
    for unit in units:
        told = rule(unit, number)
        silent = np.flatnonzero(~told)
        leads.append(len(told) - 1 - silent[-1] if len(silent) else len(told))
        early += bool(told[: len(told) // 2].any())
        begins = np.flatnonzero(told & ~np.r_[False, told[:-1]])
        alarms += len(begins)
        false += int(
            (begins < len(told) - 125).sum()
        )  # C-MAPSS truth is capped at 125 cycles: before, an engine is well
        readings += len(told)
    standing = [lead for lead in leads if lead > 0]
    return {
        "standing": round(len(standing) / len(units), 3),
        "median_lead": float(np.median(leads)),
        "early": round(early / len(units), 3),
        "precision": round(1 - false / max(alarms, 1), 3),
        "false_per_month": round(false / readings * A_MONTH_H, 3),
    }


def on_plant(units: Sequence[Machine], rule: Rule, number: float) -> dict[str, float]:
    """The same of failures; early is the share with an alarm in the first half of the time since the one before."""
    leads, failures, early, alarms, true, hours = [], 0, 0, 0, 0, 0.0
    for unit in units:
        told = rule(unit, number)
        begins = np.flatnonzero(told & ~np.r_[False, told[:-1]])
        at = unit.hours
        for before, failure in pairwise((int(at[0]), *unit.failures)):
            failures += 1
            early += bool(((at[begins] > before + 24) & (at[begins] < (before + failure) / 2)).any())
            last = int(np.searchsorted(at, failure)) - 1
            if last >= 0 and told[last]:
                begin = begins[begins <= last][-1]
                leads.append(float(failure - at[begin]))
        alarms += len(begins)
        true += sum(any(0 <= failure - at[b] <= WITHIN_H for failure in unit.failures) for b in begins)
        hours += float(at[-1] - at[0])
    return {
        "standing": round(len(leads) / max(failures, 1), 3),
        "median_lead": float(np.median(leads)) if leads else 0.0,
        "early": round(early / max(failures, 1), 3),
        "precision": round(true / max(alarms, 1), 3),
        "false_per_month": round((alarms - true) / hours * A_MONTH_H, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tune", action="store_true", help="print every number on the odd units instead")
    options = parser.parse_args()
    pa.set_cpu_count(1)
    result = {}
    for name, units, judge in (
        ("cmapss", engines(options.folder), on_engines),
        ("azure_pdm", plant(options.folder), on_plant),
    ):
        print(f"{name:<12}{'number':>8}{'standing':>10}{'lead':>8}{'early':>8}{'precision':>11}{'false a month':>15}")
        for rule, (function, numbers) in RULES.items():
            for number in numbers if options.tune else (DEFAULTS[name][rule],):
                chosen = [unit for unit in units if unit.unit % 2 == (1 if options.tune else 0)]
                figures = judge(chosen, function, number)
                standing, lead, early, precision, false = figures.values()
                print(
                    f"{rule:<12}{number:>8.2f}{standing:>10.3f}{lead:>8.1f}{early:>8.3f}{precision:>11.3f}{false:>15.3f}",
                    flush=True,
                )
                if rule == "health":
                    result[name] = figures
    print(json.dumps(result))


if __name__ == "__main__":
    main()
