"""Forecasts against a scalar reference; gaps, spikes, constant series; what the intervals promise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from tocsin.batch import Batch, Floats
from tocsin.estimate.forecast import Forecast
from tocsin.testing import feed, refusal, rows

LEARN, MEMORY = 20, 200.0


def series(count: int, seed: int = 1) -> tuple[Floats, Floats]:
    """A level that a rhythm of six readings and the wind of the hour before push about; and that wind."""
    random = np.random.default_rng(seed)
    wind, values = random.normal(size=count), np.zeros(count)
    for i in range(1, count):
        push = 0.4 * np.sin(2 * np.pi * i / 6) + random.normal(0, 0.2)
        values[i] = 0.9 * values[i - 1] - 0.5 * wind[i - 1] + push
    return 10 + values, wind


def scale_of(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and one over the standard deviation; 0 until enough is known."""
    taught = np.array([v for v in values if not np.isnan(v)][20 : 20 + LEARN])
    return (taught.mean() if len(taught) else 0.0), (1 / taught.std() if len(taught) == LEARN else 0.0)


def window(values: Floats, wind: Floats, now: int, horizon: int, first: int) -> Floats | None:
    """The terms at a period, written as vectors: (1, level, last change) times (1, wind, its change, season)."""
    if now < 1 or np.isnan(values[now - 1 : now + 1]).any() or np.isnan(wind[now - 1 : now + 1]).any():
        return None
    (mean, per_unit), (mean_wind, per_wind) = scale_of(values[: now + 1]), scale_of(wind[: now + 1])
    if not per_unit:
        return None
    turn = 2 * np.pi * ((first + now + horizon) % 6) / 6
    season = [f(k * turn) for k in (1, 2) for f in (np.sin, np.cos)]
    level = (values[now] - mean) * per_unit
    own = np.array([1.0, level, (values[now - 1] - values[now]) * per_unit])
    others = np.array([1.0, (wind[now] - mean_wind) * per_wind, (wind[now] - wind[now - 1]) * per_wind, *season])
    return np.append(np.outer(own, others).reshape(-1), level - np.clip(level, -4, 4))


def reference(values: Floats, wind: Floats, horizon: int, first: int) -> list[float]:
    """Recursive least squares as the textbook writes it, on the change over the horizon; periods without a gap."""
    weights, covariance = np.zeros(22), 0.1 * np.eye(22)
    windows: list[Floats | None] = []
    ahead: list[float] = []
    for now, value in enumerate(values):
        then = now - horizon
        x = windows[then] if then >= 0 else None
        if x is not None and not np.isnan(value):
            gain = covariance @ x / (1 + x @ covariance @ x)
            weights = weights + gain * (value - values[then] - weights @ x)
            covariance = covariance - np.outer(gain, x @ covariance)
            keep = 1 - 1 / MEMORY
            stretch = np.where(np.diag(covariance) < 0.1 * keep, keep**-0.5, 1.0)
            covariance = covariance * np.outer(stretch, stretch)
        x = window(values, wind, now, horizon, first)
        windows.append(x)
        ahead.append(float(value if x is None else value + weights @ x))
    return ahead


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("chop", [1, 37, None])
def test_ridge_against_the_reference(horizon: int, chop: int | None) -> None:
    values, wind = series(400)
    values[[160, 222, 223]] = np.nan
    wind[300] = np.nan
    given = rows({"value": pa.array(values, from_pandas=True), "wind": wind}, every_s=3600)
    step = Forecast(
        every="1h",
        inputs=("wind",),
        season=6,
        horizon=horizon,
        learn=LEARN,
        memory=MEMORY,
    )
    left = feed(step, given, chop=chop)
    first = given["time"].cast(pa.int64())[0].as_py() // 3_600_000_000
    wanted = reference(values, wind, horizon, first)
    assert np.allclose(left["ahead"].to_numpy(), wanted, equal_nan=True, rtol=1e-7)
    assert np.allclose(left["yhat"].to_numpy()[horizon:], wanted[:-horizon], equal_nan=True, rtol=1e-7)
    assert left["ahead_time"].to_pylist()[: 400 - horizon : 50] == given["time"].to_pylist()[horizon::50]


def errors(step: Forecast, values: Any, begin: int, **inputs: Any) -> Floats:
    left = feed(step, rows({"value": pa.array(values, from_pandas=True), **inputs}, every_s=3600))
    error: Floats = (left["yhat"].to_numpy() - left["y"].to_numpy())[begin:]
    return error


def test_ridge_is_better_than_the_last_reading_and_than_the_last_season() -> None:
    values, wind = series(3000)
    rmse = {
        step.method: np.sqrt(np.mean(errors(step, values, 1000, wind=wind) ** 2))
        for step in (
            Forecast(inputs=("wind",), season=6), Forecast(method="persistence"),
            Forecast(method="seasonal_naive", season=6),
        )
    }  # fmt: skip
    assert rmse["ridge"] == pytest.approx(0.2, rel=0.1), "the noise that nobody can know"
    assert rmse["ridge"] < 0.4 * min(rmse["persistence"], rmse["seasonal_naive"])


def test_a_period_without_a_row_is_a_gap_as_one_without_a_number_is() -> None:
    values, wind = series(600)
    hours = np.arange(600)
    gone = np.isin(hours, [200, 300, 301, 302, 450])
    empty = feed(
        Forecast(every="1h", inputs=("wind",), season=6, learn=20, horizon=2),
        rows({"value": pa.array(np.where(gone, np.nan, values), from_pandas=True), "wind": wind}, every_s=3600),
    )
    absent = feed(
        Forecast(every="1h", inputs=("wind",), season=6, learn=20, horizon=2),
        rows({"value": values[~gone], "wind": wind[~gone], "time": hours[~gone] * 3600.0}),
    )
    for name in ("yhat", "yhat_lower", "yhat_upper"):
        # What was forecast in a lost hour is lost: two periods after it nothing is known to compare with.
        after = ~gone & ~np.isin(hours - 2, hours[gone])
        both = empty[name].to_numpy()[after], absent[name].to_numpy()[after[~gone]]
        assert np.isfinite(both[1][60:]).all()
    assert np.isnan(absent["yhat"].to_numpy()[hours[~gone] == 202]).all()
    last = absent["ahead"].to_numpy()[hours[~gone] == 201][0]
    assert last == values[201], "no window goes across the gap: what is said is the last reading"
    assert absent["ahead"].to_numpy()[hours[~gone] == 202][0] != values[202]


@pytest.mark.parametrize("lags", [1, 3])
@pytest.mark.parametrize("has_inputs", [False, True])
def test_no_window_goes_across_a_gap(lags: int, has_inputs: bool) -> None:
    values, wind = series(600)
    hours = np.delete(np.arange(600), slice(400, 403))
    step = Forecast(every="1h", lags=lags, inputs=("wind",) if has_inputs else ())
    left = feed(step, rows({"value": values[hours], "wind": wind[hours], "time": hours * 3600.0}))
    change = left["ahead"].to_numpy() - values[hours]
    whole = 400 + max(lags, 2 if has_inputs else 1) - 1
    assert not change[400:whole].any(), "the last reading is said until the window is whole"
    assert change[whole : whole + 5].all()


def test_rows_in_between_or_out_of_order_change_nothing() -> None:
    values, _ = series(300)
    hours = np.arange(300.0)
    more = np.insert(values, [100, 200], 99.0)
    time = np.insert(hours, [100, 200], [99.2, 150.0])
    step = Forecast(every="1h", learn=20)
    wanted = feed(step, rows({"value": values}, every_s=3600))
    left = feed(step, rows({"value": more, "time": time * 3600}))
    kept = left.filter(pa.array(more != 99.0))
    assert kept["ahead"].to_pylist() == wanted["ahead"].to_pylist()
    strangers = left.filter(pa.array(more == 99.0))
    assert strangers["yhat"].null_count == strangers["ahead"].null_count == 2


def test_clocks_that_are_not_exact_make_no_gap() -> None:
    values, _ = series(300)
    shaken = np.arange(300) * 60 + np.random.default_rng(5).uniform(-10, 10, 300)
    left = feed(Forecast(method="persistence", every="1m"), rows({"value": values, "time": shaken}))
    assert left["yhat"].to_numpy()[1:] == pytest.approx(values[:-1])


@pytest.mark.parametrize("spike", [1e4, -1e9, 1e300])
@pytest.mark.parametrize("column", ["value", "wind"])
@pytest.mark.parametrize("at", [0, 7, 100, 1500])
def test_one_wild_reading_is_not_learnt(spike: float, column: str, at: int) -> None:
    values, wind = series(3000)
    usual = errors(Forecast(inputs=("wind",), season=6), values, 0, wind=wind)
    (values if column == "value" else wind)[at] = spike
    after = errors(Forecast(inputs=("wind",), season=6), values, 0, wind=wind)
    assert np.sqrt(np.mean(after[1510:] ** 2)) < 1.05 * np.sqrt(np.mean(usual[1510:] ** 2))
    left = feed(Forecast(inputs=("wind",), season=6), rows({"value": values, "wind": wind}))
    width = left["yhat_upper"].to_numpy() - left["yhat_lower"].to_numpy()
    assert width[1700:].max() < 2, "one spike leaves the bounds wide for a day or two, not for ever"


def coverage(left: pa.Table, of: int) -> npt.NDArray[np.float64]:
    """The share of readings between the bounds in each stretch of so many rows, once bounds are known."""
    y, lower, upper = (left[name].to_numpy() for name in ("y", "yhat_lower", "yhat_upper"))
    inside = ((y >= lower) & (y <= upper))[40:]
    shares: npt.NDArray[np.float64] = inside[: len(inside) // of * of].reshape(-1, of).mean(axis=1)
    return shares


@pytest.mark.parametrize("method", ["ridge", "persistence", "seasonal_naive"])
@pytest.mark.parametrize("share", [0.8, 0.9])
def test_bounds_keep_their_promise_although_the_noise_changes(method: Any, share: float) -> None:
    random = np.random.default_rng(3)
    count = 720 * 8
    loud = np.exp(np.sin(np.arange(count) / 500) * 1.5)
    noise = random.standard_t(4, count) * loud + np.where(random.random(count) < 0.01, 10, 0)
    values = 50 + np.cumsum(noise) * 0.3
    step = Forecast(method=method, season=24 if method != "persistence" else None, coverage=share, horizon=2)
    shares = coverage(feed(step, rows({"value": values}, every_s=3600)), 720)
    assert abs(shares.mean() - share) < 0.012, shares
    assert np.abs(shares - share).max() < 0.1 * np.sqrt(share * (1 - share)), shares  # 0.03 for 90 %


def test_a_constant_series_can_begin_to_vary() -> None:
    values = np.r_[np.full(5000, 5.0), np.random.default_rng(1).normal(5, 1, 1500)]
    left = feed(Forecast(), rows({"value": values}))
    assert left["yhat_upper"].to_numpy()[4999] == 5.0
    assert coverage(left.slice(5100), 1000)[0] == pytest.approx(0.9, abs=0.03)


def test_an_input_that_sleeps_for_years_wakes_harmless() -> None:
    random = np.random.default_rng(2)
    rain = np.zeros(60_000)
    rain[300:400] = random.random(100)
    rain[59_000:] = random.random(1000)
    values = np.sin(np.arange(60_000) / 5) + random.normal(0, 0.1, 60_000) - 0.1 * np.r_[0, rain[:-1]]
    wrong = errors(Forecast(inputs=("rain",), memory=500), values, 0, rain=rain)
    assert np.sqrt(np.mean(wrong[59_000:] ** 2)) < 1.15 * np.sqrt(np.mean(wrong[50_000:59_000] ** 2))


def test_a_key_starts_with_what_another_process_has_learnt() -> None:
    values, wind = series(900)
    given = rows({"value": values, "wind": wind, "key": ["a"] * 900}, every_s=3600)
    step = Forecast(inputs=("wind",), every="1h")
    whole = feed(step, given)["ahead"].to_pylist()
    state, _ = step.step(step.initial(), Batch(given.slice(0, 500)))
    _, (rest,) = step.step(step.load(step.dump(state)), Batch(given.slice(500)))
    assert rest.rows["ahead"].to_pylist() == whole[500:]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "seasonal_naive"}, "season"),
        ({"method": "persistence", "inputs": ["wind"]}, "only ridge"),
        ({"inputs": ["value"]}, "take it out of inputs"),
        ({"inputs": [f"c{i}" for i in range(90)]}, "fewer lags or inputs"),
        ({"inputs": [f"c{i}" for i in range(50)], "horizon": 1000}, "too much memory"),
    ],
)
def test_settings_that_do_not_fit_are_told(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Forecast.model_validate(settings)


def test_columns_that_are_in_the_way_are_named() -> None:
    assert "'y'" in refusal(lambda: Forecast().output_schema(rows({"value": [1.0], "y": [1.0]}).schema))
    assert "'wind'" in refusal(lambda: Forecast(inputs=("wind",)).output_schema(rows({"value": [1.0]}).schema))
