"""One hour ahead, beside the last reading: python bench/forecast.py DIR [--test YEAR] [--validate]

DIR holds `beijing_pm25/` with ``PRSA_data*.csv`` (hourly PM2.5 and weather) and ``pollution_sample.csv`` (the same, as
a published sample for an LSTM prepared it). Two proofs with the step `forecast` as it ships, a trained model beside it:

pm25: what is missing is missing. The last year in the files (or ``--test``) judges, the years before teach. Every hour
that has a reading and follows one that has is scored, `persistence` on the same hours. Coverage is that of the 90 %
interval, over the year and in each 30 days (the last 30 days make the last stretch).

pm25_lightgbm: boosted trees on the same columns, taught on the first four fifths of the years before (the rest says
when to stop) and not after, run by step `model`. Scored are the hours that a whole window of readings comes before;
`ridge` and `persistence` on the same hours.

pm25_ahead: the bounds of `ridge` and `persistence` six and 24 hours ahead over the same year.

aws_split: the sample's own preparation (an hour without a reading is 0) and split (its first two years teach, the next
two judge, zeros included). Zero is not a reading, so `forecast` sees none there; what is scored is its forecast times
the chance that there will be a reading at all, which is counted as it goes, by how long it has been silent.

The forecasts go on to learn through the years that judge, each hour after it was forecast. All choices were made with
``--validate``: the year before the first that judges, taught by those before it. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from tocsin.batch import Batch, Floats, as_times, floats
from tocsin.condition.derive import Derive
from tocsin.condition.difference import Difference
from tocsin.contracts import Operator
from tocsin.detect.ewma import Ewma
from tocsin.estimate.forecast import Forecast
from tocsin.estimate.model import Model
from tocsin.models.store import Store
from tocsin.models.train import Training, train_on
from tocsin.testing import rows

Hours = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
A_YEAR_H, A_MONTH_H = 8760, 720
FAR_H = (6, 24)
SILENCES = 3
"""Hours of silence that are told apart; longer ones count as this long."""
WEATHER = ("dew", "temperature", "pressure", "snow", "rain")
LSTM = {"cell": "lstm", "units": 32, "epochs": 40, "patience": 6, "batch": 128, "learning_rate": 0.003}
TREES = {"trees": 2000}
WINDOW_H = 12
WINDS = ("ne", "nw", "se")


def ridge() -> tuple[Operator, ...]:
    """The steps: how the wind blew this hour and how much since it turned; the mean of a day; the forecast."""
    blows = {name: f"wind = '{name}'" for name in WINDS}
    blows |= {f"{name}_run": f"case when wind = '{name}' then ln(1 + run) else 0.0 end" for name in WINDS}
    return (
        Derive(columns=blows),
        Difference(of="run", counter=True, name_as="speed"),
        Ewma(of="reading", span=24),
        Forecast(
            of="reading",
            every="1h",
            season=24,
            inputs=(*WEATHER, *blows, "speed", "expected"),
        ),
    )


def measured(columns: Mapping[str, pa.Array], reading: pa.Array, steps: Sequence[Operator]) -> tuple[pa.Table, float]:
    """What leaves the steps for each hour, and CPU microseconds of the last one; an hour without a reading is null."""
    batches = [Batch(rows({"reading": reading, **columns, "time": columns["hour"].to_numpy() * 3600.0}))]
    for step in steps:
        step.step(step.initial(), batches[0].with_rows(batches[0].rows.slice(0, 10)))  # loads the compiled loops
        state = step.initial()
        left: list[Batch] = []
        begin = time.process_time()
        for batch in batches:
            state, out = step.step(state, batch)
            left += out
        seconds, batches = time.process_time() - begin, left
    return pa.Table.from_batches([batch.rows for batch in batches]), seconds / len(reading) * 1e6


def rmse(wrong: Floats) -> float:
    return round(float(np.sqrt(np.mean(wrong**2))), 3)


def by_month(inside: Hours, scored: Hours, year: Hours) -> list[float]:
    """The share inside in each 30 days of a year; stretches with fewer than 100 scored hours are passed over."""
    at = np.flatnonzero(year)
    begins = [*range(at[0], at[-1] + 2 - A_MONTH_H, A_MONTH_H), max(at[-1] + 1 - A_MONTH_H, at[0])]
    stretches = [slice(begin, begin + A_MONTH_H) for begin in begins]
    return [float(inside[s][scored[s]].mean()) for s in stretches if scored[s].sum() >= 100]


def read_hours(folder: Path) -> tuple[dict[str, pa.Array], pa.Array, Ints]:
    """The weather of each hour by name, its reading (null where there is none), and its year."""
    words = pa.csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    tables = [pa.csv.read_csv(path, convert_options=words) for path in sorted(folder.glob("PRSA_data*.csv"))]
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    days = [
        np.datetime64(f"{y:04}-{m:02}-{d:02}", "h").astype(np.int64)
        for y, m, d in zip(*(table[name].to_pylist() for name in ("year", "month", "day")), strict=True)
    ]
    hours = np.array(days) + table["hour"].to_numpy()
    hours, first = np.unique(hours, return_index=True)  # files may overlap
    table = table.take(pa.array(first))
    names = {"dew": "DEWP", "temperature": "TEMP", "pressure": "PRES", "snow": "Is", "rain": "Ir", "run": "Iws"}
    columns = {ours: table[theirs].combine_chunks().cast(pa.float64()) for ours, theirs in names.items()}
    columns["wind"] = pa.compute.utf8_lower(table["cbwd"].combine_chunks())
    columns["hour"] = pa.array(hours)
    return columns, table["pm2.5"].combine_chunks().cast(pa.float64()), table["year"].to_numpy()


def covered(said: pa.Table, y: Floats, scored: Hours, year: Hours) -> dict[str, float]:
    """Coverage of the bounds over the scored hours, and the least and the most in 30 days; their mean width."""
    lower, upper = said["yhat_lower"].to_numpy(), said["yhat_upper"].to_numpy()
    bounded = scored & ~np.isnan(lower)  # all, unless no year before teaches
    inside = (y >= lower) & (y <= upper)
    months = by_month(inside, bounded, year)
    return {
        "coverage": round(float(inside[bounded].mean()), 4),
        "coverage_30d_min": round(min(months), 4),
        "coverage_30d_max": round(max(months), 4),
        "width": round(float(np.mean((upper - lower)[bounded])), 1),
    }


def pm25_ahead(columns: Mapping[str, pa.Array], reading: pa.Array, year: Hours) -> dict[str, Any]:
    """Coverage of the bounds further ahead, by horizon and method."""
    *before, last = ridge()
    told = {}
    for horizon in FAR_H:
        far = last.model_copy(update={"horizon": horizon})
        naive = Forecast(of="reading", every="1h", method="persistence", horizon=horizon)
        for name, steps in (("ridge", (*before, far)), ("persistence", (naive,))):
            said, _ = measured(columns, reading, steps)
            scored = year & ~np.isnan(floats(reading)) & ~np.isnan(said["yhat"].to_numpy())
            told[f"{name}_{horizon}h"] = covered(said, floats(reading), scored, year)
            print(f"  {name}, {horizon} hours ahead: {told[f'{name}_{horizon}h']}")
    return told


def pm25(columns: Mapping[str, pa.Array], reading: pa.Array, years: Ints, of: int) -> tuple[dict[str, Any], ...]:
    """RMSE and coverage where missing hours are missing, of the step `forecast` and of the trees; and the cost."""
    persistence = Forecast(of="reading", every="1h", method="persistence")
    said, us = measured(columns, reading, ridge())
    last, _ = measured(columns, reading, (persistence,))
    y, yhat, before = floats(reading), said["yhat"].to_numpy(), last["yhat"].to_numpy()
    year = years == of
    scored = year & ~np.isnan(y) & ~np.isnan(before)
    assert not np.isnan(yhat[scored]).any(), "an hour with a reading before it has no forecast"
    ours, theirs = rmse(yhat[scored] - y[scored]), rmse(before[scored] - y[scored])
    bounds = covered(said, y, scored, year)
    print(f"pm25: {(years < of).sum():,} hours before {of}; {scored.sum():,} of its {year.sum():,} hours scored")
    print(f"  RMSE {ours:.3f}, persistence {theirs:.3f}, mean width of the 90 % interval {bounds['width']:.1f} µg/m³")
    figures = {"rmse": ours, "persistence": theirs, "ratio": round(ours / theirs, 4), **bounds}
    grown = boosted(columns, reading, year)
    known = scored & ~np.isnan(grown["yhat"].to_numpy())
    own, others = grown["yhat"].to_numpy(), {"ridge": yhat, "persistence": before}
    trees: dict[str, Any] = {"rmse": rmse(own[known] - y[known]), "hours": int(known.sum())}
    trees |= {name: rmse(one[known] - y[known]) for name, one in others.items()}
    trees |= {"ratio": round(trees["rmse"] / trees["persistence"], 4), **covered(grown, y, known, year)}
    print(f"  LightGBM on {known.sum():,} of them: RMSE {trees['rmse']}, ridge {trees['ridge']}")
    return figures, trees, {"us_per_reading": round(us, 2)}


def boosted(columns: Mapping[str, pa.Array], reading: pa.Array, year: Hours) -> pa.Table:
    """What step `model` says of each hour of a year (null elsewhere) with trees that the hours before it taught."""
    turn = 2 * np.pi * (columns["hour"].to_numpy() % 24) / 24
    known = {**columns, "sin": pa.array(np.sin(turn)), "cos": pa.array(np.cos(turn))}
    *steps, last = ridge()
    assert isinstance(last, Forecast)
    table, _ = measured(known, reading, steps)
    begin, end = (int(at) for at in np.flatnonzero(year)[[0, -1]])
    moments = [f"{table['time'][at].as_py():%Y-%m-%dT%H:%M:%SZ}" for at in (int(0.8 * begin), begin)]
    with tempfile.TemporaryDirectory() as folder:
        training = Training.model_validate(
            {
                "name": "pm25",
                "store": folder,
                "dataset": {
                    "query": "from hours", "target": "reading", "features": [*last.inputs, "sin", "cos"],
                    "window": WINDOW_H, "every": "1h", "validate_from": moments[0], "test_from": moments[1],
                },
                "model": TREES,
            }
        )  # fmt: skip
        made = train_on(training, training.dataset.series(table.slice(0, end + 1), {}))
        print(f"  {made.data['windows']}, {made.settings['learnt_trees']} trees")
        Store(folder).promote("pm25", made.version, force=True)
        begin -= WINDOW_H
        given = table.slice(begin, end + 1 - begin).combine_chunks().to_batches()[0]
        step = Model(model="pm25", store=folder)
        _, (left,) = step.step(step.initial(), Batch(given))
    columns_of = ("yhat", "yhat_lower", "yhat_upper")
    out = {name: np.full(len(year), np.nan) for name in columns_of}
    for name in columns_of:
        out[name][begin : end + 1] = floats(left.rows.column(name))
    return pa.table(out)


def expected(value: Floats, ahead: Floats) -> Floats:
    """What to expect of the next hour where silence is written as 0: the forecast times the chance of a reading."""
    spoke, seen = np.ones(SILENCES + 1), np.full(SILENCES + 1, 2.0)
    silent, level = 0, 0.0
    out = np.empty(len(value))
    for i, now in enumerate(value):
        spoke[silent] += now != 0
        seen[silent] += 1
        silent = 0 if now else min(silent + 1, SILENCES)
        level = now or level
        out[i] = spoke[silent] / seen[silent] * (level if np.isnan(ahead[i]) else ahead[i])
    return out


def aws_split(path: Path, validate: bool) -> dict[str, Any]:
    """RMSE on the sample's own split, zeros included."""
    table = pa.csv.read_csv(path).combine_chunks()
    hours = table["date"].to_numpy().astype("datetime64[h]").astype(np.int64)
    names = {"dew": "dew", "temperature": "temp", "pressure": "press", "snow": "snow", "rain": "rain", "run": "wnd_spd"}
    columns = {ours: table[theirs].combine_chunks().cast(pa.float64()) for ours, theirs in names.items()}
    columns["wind"] = pa.array(["ne", "nw", "se", "calm"]).take(table["wnd_dir"].combine_chunks().cast(pa.int64()))
    columns["hour"] = pa.array(hours)
    value = table["pollution"].to_numpy().astype(np.float64)
    begin, end = (A_YEAR_H, 2 * A_YEAR_H) if validate else (2 * A_YEAR_H, 4 * A_YEAR_H)
    said, _ = measured(columns, pa.array(value, mask=value == 0), ridge())
    next_ = expected(value, said["ahead"].to_numpy())
    # The sample's rows are pairs of an hour and the next; its split counts pairs.
    pairs = slice(begin, min(end, len(value)) - 1)
    truth, before, wanted = value[1:][pairs], value[:-1][pairs], next_[:-1][pairs]
    result = {"rmse": rmse(wanted - truth), "persistence": rmse(before - truth)}
    print(f"aws_split: {begin:,} hours before; {len(truth):,} scored, {np.sum(truth == 0):,} of them zero")
    print(f"  RMSE {result['rmse']:.3f}, persistence {result['persistence']:.3f}, the sample's LSTM 27.93")
    return result


def known(value: Floats) -> tuple[Floats, Floats, Floats]:
    """Returns of each hour the last reading, the mean of a day of readings, and how long it has been silent."""
    level, mean, silent = np.zeros((3, len(value)))
    last, average, hours = value[0], value[0], 0
    for i, now in enumerate(value):
        hours = 0 if now else min(hours + 1, SILENCES)
        last = now or last
        average += (now - average) * 2 / 25 if now else 0.0
        level[i], mean[i], silent[i] = last, average, hours
    return level, mean, silent


def aws_lstm(path: Path, validate: bool) -> dict[str, Any]:
    """RMSE of a trained LSTM on the same split: taught once, on what comes before, and not after."""
    table = pa.csv.read_csv(path).combine_chunks()
    hours = table["date"].to_numpy().astype("datetime64[h]").astype(np.int64)
    value = table["pollution"].to_numpy().astype(np.float64)
    wind = table["wnd_dir"].to_numpy()
    columns: dict[str, Any] = {"time": as_times(hours * 3_600_000_000), "pollution": value, "silent": value == 0}
    columns |= {name: table[name].to_numpy().astype(np.float64) for name in ("dew", "temp", "press", "snow", "rain")}
    columns |= {f"wind_{k}": np.where(wind == k, np.log1p(table["wnd_spd"].to_numpy()), 0.0) for k in range(4)}
    level, mean, silent = known(value)
    columns |= {"level": level, "mean": mean, "hours_silent": silent}
    run = np.diff(table["wnd_spd"].to_numpy(), prepend=0.0)
    columns["speed"] = np.where(run > 0, run, table["wnd_spd"].to_numpy())
    turn = 2 * np.pi * (hours % 24) / 24
    columns |= {"sin": np.sin(turn), "cos": np.cos(turn)}
    begin, end = (A_YEAR_H, 2 * A_YEAR_H) if validate else (2 * A_YEAR_H, 4 * A_YEAR_H)
    at = [str(hours[k].astype("datetime64[h]")) + ":00Z" for k in (int(0.8 * begin), begin + 1)]
    until = {"until": str(hours[end].astype("datetime64[h]")) + ":00Z"} if end < len(hours) else {}
    with tempfile.TemporaryDirectory() as folder:
        training = Training.model_validate(
            {
                "name": "sample",
                "store": folder,
                "dataset": {
                    "query": str(path), "target": "pollution", "window": 24,
                    "features": [name for name in columns if name not in ("time", "pollution")],
                    "validate_from": at[0], "test_from": at[1], **until,
                },
                "model": LSTM,
            }
        )  # fmt: skip
        made = train_on(training, training.dataset.series(pa.table(columns), {}))
    result = {"rmse": round(made.metrics["rmse"], 3), "persistence": round(made.baselines["persistence"]["rmse"], 3)}
    print(f"aws_split, LSTM of {LSTM['units']}: {made.data['windows']}, {made.settings['learnt_epochs']} epochs")
    print(f"  RMSE {result['rmse']}, persistence {result['persistence']}, coverage {made.metrics['coverage']:.3f}")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--test", type=int, help="the year that judges; the last in the file if not given")
    parser.add_argument("--validate", action="store_true", help="judge on the year before instead")
    options = parser.parse_args(arguments)
    pa.set_cpu_count(1)
    folder = options.folder / "beijing_pm25"
    columns, reading, years = read_hours(folder)
    of = (options.test or int(years.max())) - options.validate
    figures, trees, cost = pm25(columns, reading, years, of)
    far = pm25_ahead(columns, reading, years == of)
    sample = folder / "pollution_sample.csv"
    split = aws_split(sample, options.validate) if sample.exists() else None
    net = aws_lstm(sample, options.validate) if sample.exists() else None
    told = {"pm25": figures, "pm25_lightgbm": trees, "pm25_ahead": far, "aws_split": split, "aws_split_lstm": net}
    print(json.dumps({**told, **cost}))


if __name__ == "__main__":
    main()
