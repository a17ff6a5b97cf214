"""Forecast: what a reading will be some periods ahead, learnt as it comes, with an interval that keeps its promise."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field as Setting
from pydantic import model_validator

from tocsin.bases import Keyed, added, judging, promised, require
from tocsin.batch import TIME_TYPE, Codes, Floats, Ints, as_numbers, as_times, floats, times_us
from tocsin.estimate._ridge import (
    PRIOR,
    STARTUP,
    Ridge,
    Scales,
    fill_window,
    learn_scale,
    learn_window,
    predicted,
    terms,
)
from tocsin.kernels import inner, kernel
from tocsin.models.conformal import ABOVE, BELOW, CONFORMAL, ERRORS, ERRORS_MIN, SCALE, is_wild, learn_error
from tocsin.settings import Many
from tocsin.settings.quantities import Duration
from tocsin.state import Columns, Field

PERSISTENCE, SEASONAL_NAIVE, RIDGE = range(3)
METHODS = {"persistence": PERSISTENCE, "seasonal_naive": SEASONAL_NAIVE, "ridge": RIDGE}
YHAT, LOWER, UPPER, AHEAD, AHEAD_LOWER, AHEAD_UPPER = range(6)
ADDED = tuple(
    pa.field(name, pa.float64())
    for name in ("y", "yhat", "yhat_lower", "yhat_upper", "ahead", "ahead_lower", "ahead_upper")
)
AHEAD_TIME = pa.field("ahead_time", TIME_TYPE)
PENDING = 4
"""Numbers of a forecast whose reading has not come: itself, its bounds, and the reading that `ridge` started from (NaN
where its window was not whole)."""
GIVEN, GIVEN_LOWER, GIVEN_UPPER, BASE = range(PENDING)
LAGS_MAX = 50
TERMS_MAX = 400
"""Weights of a key: its state grows with their square, to 1.3 MB."""
NONE_YET = -(2**63)


class Forecast(Keyed):
    """Forecasts a reading, ``horizon`` periods ahead, from those before it; each key learns for itself, as it runs.

    Each row gets ``y``, the reading, beside ``yhat``, ``yhat_lower`` and ``yhat_upper``, what was forecast for it
    before it came; and ``ahead``, ``ahead_lower``, ``ahead_upper``, what is forecast now for ``ahead_time``. Between
    the bounds lie 90 % (``coverage``) of the readings, whatever the method: the bounds follow the errors, so that it
    holds in each month too, though less exactly far ahead. They are null until 30 errors are known.

    ``ridge`` learns how the next reading depends on the last ones, on the inputs, and on the time of the season; until
    it has learnt, and where its window has a gap, it says what ``persistence`` says: the last reading. Where
    ``seasonal_naive`` (the reading one season before) is better than it, look at ``season``. An alarm on readings
    outside the bounds is for jumps; what lasts is learnt and becomes usual: for that take `health`.

    What is missing is missing: a row without a number, or without one of the inputs, and, with ``every``, a period
    without a row leave a gap, and no window goes across it. Without ``every`` each row is a period. Rows that come
    faster, or out of order, are neither forecast nor learnt: a `window` or `resample` before makes periods.

    Ljung & Söderström, "Theory and Practice of Recursive Identification" (1983); coefficients that depend on inputs
    after Hastie & Tibshirani, "Varying-coefficient models" (1993); Gibbs & Candès (2021) for the bounds.

    Examples
    --------
    >>> tide = rows({"value": [0.0, 4.0, 2.0, 0.0, 4.0, 2.0, None, 4.0]}, every_s=3600)
    >>> naive = feed(Forecast(method="seasonal_naive", season=3, every="1h"), tide)
    >>> naive["yhat"].to_pylist()
    [None, None, None, 0.0, 4.0, 2.0, 0.0, 4.0]
    >>> naive["ahead"].to_pylist()
    [None, None, 0.0, 4.0, 2.0, 0.0, 4.0, 2.0]
    >>> feed(Forecast(every="1h"), tide)["yhat"].to_pylist()
    [None, 0.0, 4.0, 2.0, 0.0, 4.0, 2.0, None]
    """

    SHORTHAND: ClassVar[str | None] = "of"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"learn": 20},
        {"every": "1500ms", "inputs": ["other", "flag"], "season": 6, "lags": 3, "learn": 20, "horizon": 2},
        {"method": "persistence", "every": "1500ms", "horizon": 3},
        {"method": "seasonal_naive", "season": 6, "horizon": 8},
    )
    KEEPS_STATE: ClassVar[Collection[str]] = ("coverage", "memory")

    of: str = "value"
    """The column with the reading."""
    method: Literal["ridge", "persistence", "seasonal_naive"] = "ridge"
    """How to forecast: by what was learnt, the last reading, or the reading one season before."""
    horizon: int = Setting(1, ge=1, le=1_000)
    """How many periods ahead."""
    every: Duration | None = Setting(None, gt=0)
    """The period, as ``1h``: then a period without a row is a gap. If not set, each row is a period."""
    season: int | None = Setting(None, ge=2, le=10_080)
    """How many periods make a day, a shift, a cycle: 24 for a daily rhythm of hours."""
    inputs: Many[str] = ()
    """Columns that may explain what comes (weather, load, set point): numbers, or true and false."""
    lags: int = Setting(2, ge=1, le=LAGS_MAX)
    """How many of the last readings `ridge` looks at."""
    memory: float = Setting(30_000.0, ge=100)
    """How many periods `ridge` looks back: one that old counts for a third of a new one."""
    learn: int = Setting(200, ge=20)
    """From how many readings the scale of the reading and of each input is learnt, before `ridge` begins."""
    coverage: float = Setting(0.9, ge=0.5, lt=1)
    """The share of readings that lie between the bounds."""

    @model_validator(mode="after")
    def _fit_together(self) -> Forecast:
        if self.method == "seasonal_naive" and self.season is None:
            raise ValueError("seasonal_naive needs season: how many periods it is until everything comes again")
        if self.method != "ridge" and self.inputs:
            raise ValueError(f"{self.method} looks at no inputs; only ridge does")
        if self.of in self.inputs:
            raise ValueError(f"'{self.of}' is what is forecast; ridge looks at it anyway, so take it out of inputs")
        if self._terms > TERMS_MAX:
            raise ValueError(f"that makes {self._terms} weights, more than {TERMS_MAX}: take fewer lags or inputs")
        if self._terms * self.horizon > 100 * TERMS_MAX:
            raise ValueError("so many inputs so far ahead would need too much memory: take fewer, or a longer period")
        return self

    @property
    def _terms(self) -> int:
        return terms(self.lags, len(self.inputs), self.season is not None) if self.method == "ridge" else 0

    @cached_property
    def _recent(self) -> int:
        """How many readings are kept."""
        return {"persistence": 1, "seasonal_naive": self.season or 1, "ridge": self.lags}[self.method]

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for column in (self.of, *self.inputs):
            require(input, column, self.name(), number=True)
        fields = (*judging(ADDED, self.of), *((AHEAD_TIME,) if self.every is not None else ()))
        return added(input, fields, self.name())

    def fields(self) -> Mapping[str, Field]:
        kept = {
            "time_us": Field(np.int64, NONE_YET),
            "period": Field(np.int64),
            "conformal": Field(width=len(CONFORMAL), initial=np.array(CONFORMAL)),
            "recent": Field(width=self._recent, initial=np.nan),
            "pending": Field(width=self.horizon * PENDING, initial=np.nan),
        }
        if self.method == "ridge":
            columns, count = 1 + len(self.inputs), self._terms
            kept |= {
                "before": Field(width=max(len(self.inputs), 1), initial=np.nan),
                "scale_counts": Field(width=columns, initial=-STARTUP),
                "scale_means": Field(width=columns),
                "scale_squares": Field(width=columns),
                "weights": Field(width=count),
                "covariance": Field(width=count * count, initial=PRIOR * np.eye(count).reshape(-1)),
                "windows": Field(width=self.horizon * count, initial=np.nan),
            }
        return kept

    def update(self, state: Columns, rows: pa.RecordBatch, slots: Codes) -> pa.RecordBatch:
        values = _finite(floats(rows.column(self.of)))
        inputs = np.empty((len(slots), len(self.inputs)))
        for j, column in enumerate(self.inputs):
            inputs[:, j] = _finite(floats(rows.column(column)))
        out = np.full((AHEAD_UPPER + 1, len(slots)), np.nan)
        times = times_us(rows)
        learnt = self._learnt(state)
        _forecast(
            slots, times, values, inputs, METHODS[self.method], self.horizon, self.every or 0, self.season or 0,
            self.learn, 1.0 - 1.0 / self.memory, self.coverage, state["time_us"], state["period"],
            state["conformal"], _wide(state["recent"]), _wide(state["pending"]), *learnt, out,
        )  # fmt: skip
        columns = [as_numbers(values), *map(as_numbers, out)]
        if self.every is not None:
            later = as_times(times + self.horizon * self.every)
            columns.append(pa.compute.if_else(columns[1 + AHEAD].is_valid(), later, None))
        return pa.RecordBatch.from_arrays([*rows.columns, *columns], schema=promised(self, rows.schema))

    def _learnt(self, state: Columns) -> tuple[Floats, Scales, Ridge]:
        """What only `ridge` has; empty for the others."""
        if self.method != "ridge":
            none = np.empty((0, 0))
            return none, Scales(none, none, none), Ridge(none, none, none)
        scales = Scales(*(_wide(state[f"scale_{name}"]) for name in Scales._fields))
        ridge = Ridge(*(_wide(state[name]) for name in Ridge._fields))
        return _wide(state["before"]), scales, ridge


def _wide(array: Floats) -> Floats:
    """A state's array as (keys, width), also where the width is one."""
    return array.reshape(len(array), -1)


def _finite(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, np.nan)


@inner
def _periods_since(last_us: int, time_us: int, every: int) -> int:
    """Returns how many periods a time is after the last one; below 1 if it begins no new one."""
    if last_us == NONE_YET:
        return 1
    if every == 0:
        return 1 if time_us >= last_us else 0
    return int((time_us - last_us + every // 2) // every)


@inner
def _skip(steps: int, period: int, recent: Floats, pending: Floats, before: Floats, horizon: int) -> None:
    """Forget what lies in periods without a row: no reading, no inputs, and no forecast was made there."""
    for k in range(1, min(steps, len(recent) + 1)):
        recent[(period + k) % len(recent)] = np.nan
    for k in range(1, min(steps, horizon + 1)):
        at = (period + k) % horizon * PENDING
        pending[at : at + PENDING] = np.nan
    if steps > 1:
        before[:] = np.nan


@inner
def _settle(
    k: Floats, made: Floats, y: float, window: Floats, weights: Floats, covariance: Floats, keep: float,
    coverage: float, horizon: int,
) -> None:  # fmt: skip
    """Learn from the reading that a forecast was made for; from a spike only how far off it was."""
    error = y - made[GIVEN]
    if np.isnan(error):
        return
    if not is_wild(k, error) and not np.isnan(made[BASE]):
        # What the window says by now: with a longer horizon the weights have moved since.
        learn_window(window, y - made[BASE] - predicted(window, weights), weights, covariance, keep)
    lower, upper = made[GIVEN_LOWER] - made[GIVEN], made[GIVEN_UPPER] - made[GIVEN]
    learn_error(k, error, lower, upper, coverage, horizon)


@inner
def _give(k: Floats, made: Floats, yhat: float, base: float) -> None:
    """Write down a forecast, with its bounds, until its reading comes."""
    made[GIVEN], made[BASE] = yhat, base
    made[GIVEN_LOWER] = made[GIVEN_UPPER] = np.nan
    if k[ERRORS] >= ERRORS_MIN:
        made[GIVEN_LOWER] = yhat - k[BELOW] * k[SCALE]
        made[GIVEN_UPPER] = yhat + k[ABOVE] * k[SCALE]


@kernel
def _forecast(
    slots: Codes, times: Ints, values: Floats, inputs: Floats, method: int, horizon: int, every: int, season: int,
    learn: int, keep: float, coverage: float, time_us: Ints, periods: Ints, conformal: Floats, recents: Floats,
    pendings: Floats, befores: Floats, scales: Scales, ridge: Ridge, out: Floats,
) -> None:  # fmt: skip
    """Compare each reading with what was forecast for it, learn from that, then forecast anew."""
    is_ridge, size, count = method == RIDGE, recents.shape[1], ridge.weights.shape[1]
    nothing, last = np.empty(0), np.empty(size)
    window, weights, covariance, before = nothing, nothing, nothing, nothing
    for i in range(len(slots)):
        s, y = slots[i], values[i]
        steps = _periods_since(time_us[s], times[i], every)
        if steps < 1:
            continue
        if time_us[s] == NONE_YET:
            periods[s] = (times[i] // every if every else 0) - 1
        k, recent, pending, now = conformal[s], recents[s], pendings[s], periods[s] + steps
        at = now % horizon
        if is_ridge:
            before, window = befores[s], ridge.windows[s, at * count : (at + 1) * count]
            weights, covariance = ridge.weights[s], ridge.covariance[s]
        _skip(steps, periods[s], recent, pending, before, horizon)
        periods[s], time_us[s] = now, times[i]

        made = pending[at * PENDING : (at + 1) * PENDING]
        out[YHAT, i], out[LOWER, i], out[UPPER, i] = made[GIVEN], made[GIVEN_LOWER], made[GIVEN_UPPER]
        _settle(k, made, y, window, weights, covariance, keep, coverage, horizon)
        recent[now % size] = y
        yhat, base = recent[(now + horizon) % size] if method == SEASONAL_NAIVE else y, np.nan
        if is_ridge:
            learn_scale(scales, s, 0, y, learn)
            for j in range(inputs.shape[1]):
                learn_scale(scales, s, 1 + j, inputs[i, j], learn)
            for lag in range(size):
                last[lag] = recent[(now - lag) % size]
            phase = (now + horizon) % season / season if season else 0.0
            whole = fill_window(window, last, inputs[i], before, phase, season > 0, scales, s, learn)
            before[: inputs.shape[1]] = inputs[i]
            change = predicted(window, weights) if whole else np.nan
            if np.isfinite(change):
                yhat, base = y + change, y
        _give(k, made, yhat, base)
        out[AHEAD, i], out[AHEAD_LOWER, i], out[AHEAD_UPPER, i] = made[GIVEN], made[GIVEN_LOWER], made[GIVEN_UPPER]
