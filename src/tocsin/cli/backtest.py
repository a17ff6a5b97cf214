"""`tocsin backtest`: how good a forecast would have been over a file, beside the plain ones on the same readings.

The file is run through once, as a stream: each reading is forecast from those before it, then learnt. So the origin
rolls on by one reading at a time, and no forecast has seen what it is judged by. What comes before ``since`` only
teaches; of a trained model, whose weights stay as they are, ``since`` is never before the part that judged it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tocsin.batch import Floats, Ints
from tocsin.cli.data_file import read_data, time_column
from tocsin.cli.score import as_stream, read_steps, schema_after, through
from tocsin.contracts import Operator
from tocsin.errors import ConfigError
from tocsin.estimate._ridge import terms
from tocsin.estimate.forecast import LAGS_MAX, TERMS_MAX, Forecast
from tocsin.estimate.model import Model
from tocsin.models.dataset import told
from tocsin.values.times import parse_times

MONTH_US = 30 * 86_400_000_000
PLAIN = ("persistence", "seasonal_naive")
Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Forecasts:
    """What one forecaster said of each row; arrays of shape (rows,), NaN where it said nothing."""

    yhat: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True)
class Backtest:
    """Readings, what each forecaster said of them before they came, and which of them count."""

    of: str
    """The column that is forecast."""
    horizon: int
    """How many periods ahead."""
    coverage: float
    """The share of readings that the bounds promise to hold."""
    keys: pa.Array
    times: Ints
    y: Floats
    said: Mapping[str, Forecasts]
    """By name; the forecaster that is judged stands first."""
    since_us: int

    @cached_property
    def scored(self) -> Rows:
        """Readings from ``since`` on that every forecaster has said something of, bounds included: shape (rows,)."""
        known = np.isfinite(self.y) & (self.times >= self.since_us)
        for said in self.said.values():
            known &= np.isfinite(said.yhat) & np.isfinite(said.lower)
        return known

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.said)

    def figures(self, name: str, rows: Rows) -> dict[str, float | int]:
        """Returns how good a forecaster is on some rows; errors in the reading's unit.

        ``pinball`` is the mean quantile loss of the two bounds (Koenker & Bassett 1978): it punishes bounds that are
        wide as well as bounds that do not hold.
        """
        said, y = self.said[name], self.y[rows]
        error, lower, upper = y - said.yhat[rows], said.lower[rows], said.upper[rows]
        tail = (1 - self.coverage) / 2
        below, above = y - lower, y - upper
        losses = np.maximum(tail * below, (tail - 1) * below) + np.maximum((1 - tail) * above, -tail * above)
        return {
            "readings": len(y),
            "rmse": float(np.sqrt(np.mean(error**2))),
            "mae": float(np.mean(np.abs(error))),
            "pinball": float(np.mean(losses) / 2),
            "covered": float(np.mean((below >= 0) & (above <= 0))),
            "width": float(np.mean(upper - lower)),
        }

    def overall(self) -> pa.Table:
        """Returns one row for each forecaster; ``ratio`` is its RMSE over that of persistence."""
        plain = self.figures("persistence", self.scored)["rmse"]
        rows: list[dict[str, Any]] = []
        for name in self.names:
            figures = self.figures(name, self.scored)
            rows.append({"forecaster": name, **figures, "ratio": figures["rmse"] / plain if plain > 0 else None})
        return pa.Table.from_pylist(rows)

    def by_month(self) -> pa.Table:
        """Returns one row for each 30 days from ``since`` on (the last may be shorter), with the RMSE of the others."""
        first, *others = self.names
        numbers = (self.times - self.since_us) // MONTH_US
        rows = []
        for number in np.unique(numbers[self.scored]):
            within = self.scored & (numbers == number)
            begin = _told(self.since_us + int(number) * MONTH_US)
            beside = {f"rmse of {name}": self.figures(name, within)["rmse"] for name in others}
            rows.append({"from": begin, **self.figures(first, within), **beside})
        return pa.Table.from_pylist(rows)

    def tables(self) -> Sequence[tuple[str, pa.Table]]:
        """Returns the tables of a report, each with its title."""
        series = len(pa.compute.unique(self.keys))
        said = f"'{self.of}', {self.horizon} ahead, {series} series, from {_told(self.since_us)} on"
        return (said, self.overall()), (f"{self.names[0]}, each 30 days", self.by_month())

    def verdict(self) -> str:
        """Returns in a sentence whether it is better than the better of the plain ones."""
        rmse = {name: self.figures(name, self.scored)["rmse"] for name in self.names}
        first, *others = self.names
        if not others:
            return f"{first} is a plain forecaster itself, and without a season there is no other to compare it with"
        best = min(others, key=lambda name: rmse[name])
        against = f"{best}: RMSE {rmse[first]:.4g} against {rmse[best]:.4g}"
        if rmse[first] < rmse[best]:
            return f"{first} is better than {against} ({1 - rmse[first] / rmse[best]:.1%} less)"
        return f"{first} is NOT better than {against}"


def backtest(
    job: Path, data: Path, since: str | None = None, time: str | None = None, value: str | None = None,
    key: str | None = None,
) -> Backtest:  # fmt: skip
    """Run the steps of ``job``, the last of which is `forecast` or `model`, over ``data``, and others beside it.

    The others are the plain forecasters, and of a trained model also `ridge`, which needs no training, and its shadow.
    ``since`` is a time; if not given, the first half of the file's time only teaches, and of a trained model all that
    taught it or said when to stop.

    Raises
    ------
    ConfigError
        The last step is no forecast, the file cannot be read, ``since`` lies in what taught the model, or nothing is
        left to judge.
    """
    *before, step = read_steps(job)
    if not isinstance(step, Forecast | Model):
        raise ConfigError(
            f"{job}: the last step is {step.name()}; a backtest is of steps that end with forecast or model"
        )
    if isinstance(step, Forecast) and value is not None and "of" not in step.model_fields_set:
        step = step.model_copy(update={"of": value})
    table = read_data(data)
    rows = as_stream(table, time_column(table, time), key)
    prepared = run_steps(before, rows)
    if not prepared.num_rows:
        raise ConfigError(f"{data}: no row reaches {step.name()}")
    given = prepared.to_batches()[0]
    whole = run_steps([step], given)
    others = _plain(step) if isinstance(step, Forecast) else _beside(step)
    said = {**_said(step, whole), **{name: _forecasts(run_steps([one], given)) for name, one in others.items()}}
    times = whole["time"].cast(pa.int64()).to_numpy()
    from_us = since_us(since, times) if isinstance(step, Forecast) else _after_training(step, since, times)
    one = step if isinstance(step, Forecast) else next(iter(others.values()))
    made = Backtest(
        of=one.of,
        horizon=one.horizon,
        coverage=one.coverage,
        keys=whole["key"].combine_chunks(),
        times=times,
        y=whole["y"].to_numpy(),
        said=said,
        since_us=from_us,
    )
    if not made.scored.any():
        raise ConfigError(f"{data}: from {_told(made.since_us)} on no reading has a forecast; {_REMEDY[type(step)]}")
    return made


_REMEDY = {
    Forecast: "try an earlier --since",
    Model: "a backtest of a model needs readings after what taught it, and its window before them",
}
_COLUMNS = ("yhat", "yhat_lower", "yhat_upper")
_SHADOW = ("shadow_yhat", "shadow_lower", "shadow_upper")


def _forecasts(table: pa.Table, columns: Sequence[str] = _COLUMNS) -> Forecasts:
    return Forecasts(*(table[column].to_numpy() for column in columns))


def _said(step: Forecast | Model, table: pa.Table) -> Mapping[str, Forecasts]:
    """What the step that is judged said of each row, by its name; of a model also what its shadow said."""
    if isinstance(step, Forecast):
        return {step.method: _forecasts(table)}
    champion, shadow = step.manifests()
    said = {f"{champion.name} {champion.version}": _forecasts(table)}
    if shadow is not None and shadow.version != champion.version:
        said[f"{shadow.name} {shadow.version} (shadow)"] = _forecasts(table, _SHADOW)
    return said


def _plain(step: Forecast, names: Sequence[str] = PLAIN) -> Mapping[str, Forecast]:
    """The plain forecasters that are others than the one that is judged; without a season, not the seasonal one."""
    plain = {"inputs": (), "lags": 2, "memory": 30_000.0, "learn": 200}
    others = [name for name in names if name != step.method and (name == "persistence" or step.season is not None)]
    return {name: Forecast.model_validate(step.model_dump() | plain | {"method": name}) for name in others}


def _beside(step: Model) -> Mapping[str, Forecast]:
    """What a trained model has to be better than: the plain forecasters, and ridge with the same inputs and window."""
    manifest, _ = step.manifests()
    season = manifest.settings.get("season")
    told = {
        "of": manifest.target, "horizon": manifest.horizon, "every": manifest.settings["every_us"],
        "coverage": manifest.settings["coverage"],
    }  # fmt: skip
    plain = _plain(Forecast.model_validate({**told, "season": season}))
    inputs = tuple(name for name in manifest.inputs if name != manifest.target)
    # A season that lies in the window is seen there; what it has room for is as many readings as the net has, up to 50.
    lags = min(manifest.window, LAGS_MAX)
    beyond = season if season is not None and season > lags else None
    most = next(n for n in range(lags, 0, -1) if n == 1 or terms(n, len(inputs), beyond is not None) <= TERMS_MAX)
    return {**plain, "ridge": Forecast.model_validate({**told, "season": beyond, "inputs": inputs, "lags": most})}


def run_steps(steps: Sequence[Operator], given: pa.RecordBatch) -> pa.Table:
    """Returns what leaves the last step."""
    schema = schema_after(steps, given.schema)  # tells what is missing before any row is looked at
    return pa.Table.from_batches(list(through(steps, given)), schema).combine_chunks()


def _after_training(step: Model, text: str | None, times: Ints) -> int:
    """Returns from when on a model may be judged: where the part that judged it began, or later."""
    ends = [str(one.data["test_from"]) for one in step.manifests() if one is not None]
    first_us = max(since_us(end, times) for end in ends)
    from_us = first_us if text is None else since_us(text, times)
    if from_us < first_us:
        raise ConfigError(
            f"--since {text}: rows before {told(first_us)} taught the model or said when to stop; "
            "judge it by those from then on"
        )
    return from_us


def since_us(text: str | None, times: Ints) -> int:
    """Returns the time from which on is judged: the given one, else half of that of the readings."""
    if text is None:
        return int(times.min()) + (int(times.max()) - int(times.min())) // 2
    parsed, _ = parse_times(pa.array([text]), "auto", "UTC")
    if parsed.null_count:
        raise ConfigError(f"--since {text}: write it as 2026-01-31 or 2026-01-31T06:00:00Z")
    return int(parsed.cast(pa.int64())[0].as_py())


def _told(us: int) -> str:
    return f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d %H:%M}"
