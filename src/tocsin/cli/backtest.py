"""`tocsin backtest`: how good a forecast would have been over a file, beside the plain ones on the same readings.

The file is run through once, as a stream: each reading is forecast from those before it, then learnt. So the origin
rolls on by one reading at a time, and no forecast has seen what it is judged by. What comes before ``since`` only
teaches.
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
from tocsin.estimate.forecast import Forecast
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

    step: Forecast
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
        tail = (1 - self.step.coverage) / 2
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
            begin = datetime.fromtimestamp((self.since_us + int(number) * MONTH_US) / 1e6, UTC)
            beside = {f"rmse of {name}": self.figures(name, within)["rmse"] for name in others}
            rows.append({"from": f"{begin:%Y-%m-%d %H:%M}", **self.figures(first, within), **beside})
        return pa.Table.from_pylist(rows)

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
    """Run the steps of ``job``, the last of which is `forecast`, over ``data``, and the plain forecasters beside it.

    ``since`` is a time; if not given, the first half of the file's time only teaches.

    Raises
    ------
    ConfigError
        The last step is no forecast, the file cannot be read, or nothing is left to judge.
    """
    *before, step = read_steps(job)
    if not isinstance(step, Forecast):
        raise ConfigError(f"{job}: the last step is {step.name()}; a backtest is of steps that end with forecast")
    if value is not None and "of" not in step.model_fields_set:
        step = step.model_copy(update={"of": value})
    table = read_data(data)
    rows = as_stream(table, time_column(table, time), key)
    prepared = run_steps(before, rows)
    if not prepared.num_rows:
        raise ConfigError(f"{data}: no row reaches forecast")
    given = prepared.to_batches()[0]
    left = {name: run_steps([one], given) for name, one in _forecasters(step).items()}
    whole = next(iter(left.values()))
    times = whole["time"].cast(pa.int64()).to_numpy()
    made = Backtest(
        step=step,
        keys=whole["key"].combine_chunks(),
        times=times,
        y=whole["y"].to_numpy(),
        said={name: Forecasts(*(t[c].to_numpy() for c in _COLUMNS)) for name, t in left.items()},
        since_us=since_us(since, times),
    )
    if not made.scored.any():
        from_ = datetime.fromtimestamp(made.since_us / 1e6, UTC)
        raise ConfigError(f"{data}: from {from_:%Y-%m-%d %H:%M} on no reading has a forecast; try an earlier --since")
    return made


_COLUMNS = ("yhat", "yhat_lower", "yhat_upper")


def _forecasters(step: Forecast) -> Mapping[str, Forecast]:
    """The one that is judged, then the plain ones that are others than it; without a season, not the seasonal one."""
    plain = {"inputs": (), "lags": 2, "memory": 30_000.0, "learn": 200}
    others = [name for name in PLAIN if name != step.method and (name == "persistence" or step.season is not None)]
    return {step.method: step} | {
        name: Forecast.model_validate(step.model_dump() | plain | {"method": name}) for name in others
    }


def run_steps(steps: Sequence[Operator], given: pa.RecordBatch) -> pa.Table:
    """Returns what leaves the last step."""
    schema = schema_after(steps, given.schema)  # tells what is missing before any row is looked at
    return pa.Table.from_batches(list(through(steps, given)), schema).combine_chunks()


def since_us(text: str | None, times: Ints) -> int:
    """Returns the time from which on is judged: the given one, else half of that of the readings."""
    if text is None:
        return int(times.min()) + (int(times.max()) - int(times.min())) // 2
    parsed, _ = parse_times(pa.array([text]), "auto", "UTC")
    if parsed.null_count:
        raise ConfigError(f"--since {text}: write it as 2026-01-31 or 2026-01-31T06:00:00Z")
    return int(parsed.cast(pa.int64())[0].as_py())


def tables(made: Backtest) -> Sequence[tuple[str, pa.Table]]:
    """Returns the tables of a report, each with its title."""
    since = datetime.fromtimestamp(made.since_us / 1e6, UTC)
    series = len(pa.compute.unique(made.keys))
    said = f"'{made.step.of}', {made.step.horizon} ahead, {series} series, from {since:%Y-%m-%d %H:%M} on"
    return (said, made.overall()), (f"{made.names[0]}, each 30 days", made.by_month())
