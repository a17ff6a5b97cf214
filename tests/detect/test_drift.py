"""Drift against a scalar reference, on planted drifts, and how rarely it cries where there is none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detect.drift import ALIKE_MAX, MOST, UNSURE, Drift
from tocsin.testing import BEGIN_US, feed, rows


def judged(values: object, **settings: object) -> pa.Table:
    return feed(Drift(**settings), rows({"value": values}), chop=37)


def reference(values: list[float], over: int, limit: float, learn: int, slack: float = 0.5) -> list[float | None]:
    """Page's two sums over averages; the reference is all averages but those since the sums last were nothing."""
    averages, settled, waiting, above, below = [], [], [], 0.0, 0.0
    scores: list[float | None] = []
    for i in range(len(values)):
        known = len(settled) >= learn
        if (i + 1) % over == 0:
            average = float(np.mean(values[i + 1 - over : i + 1]))
            if known:
                mean, variance = float(np.mean(settled)), float(np.var(settled))
                steps = float(np.sum(np.diff(averages) ** 2))
                alike = 1 - steps / (2 * (len(averages) - 1) * variance) if variance > 1e-18 else 0.0
                alike = min(max(alike, 0.0), ALIKE_MAX)
                deviation = max(np.sqrt(variance * (1 + alike) / (1 - alike)), 1e-9 * abs(mean), 1e-300)
                spare = slack + UNSURE / np.sqrt(len(settled))
                z = min(max((average - mean) / deviation, -4.0), 4.0)
                above = min(max(0.0, above + z - spare), MOST * limit)
                below = min(max(0.0, below - z - spare), MOST * limit)
            averages.append(average)
            waiting.append(average)
            if above == below == 0:
                settled, waiting = settled + waiting, []
        share = max(above, below) / limit
        scores.append((75 * share if share < 1 else 100 - 25 / share) if known else None)
    return scores


@given(
    st.integers(0, 2**32), st.integers(30, 120), st.integers(1, 4), st.integers(3, 8), st.sampled_from([0.0, 0.01, 0.1])
)
def test_it_follows_the_formulas(seed: int, count: int, over: int, learn: int, slope: float) -> None:
    values = (np.random.default_rng(seed).normal(5, 1, count) + slope * np.arange(count)).tolist()
    found = judged(values, over=over, learn=learn, limit=4)["score"].to_pylist()
    for a, b in zip(found, reference(values, over, 4.0, learn), strict=True):
        assert a == (b if b is None else pytest.approx(b, rel=1e-6, abs=1e-6))


@pytest.mark.parametrize(("sign", "direction"), [(1, "above"), (-1, "below")])
def test_a_drift_below_the_noise_is_found_with_its_begin_and_size(sign: int, direction: str) -> None:
    """Half a deviation in a thousand readings; it is told before it is one deviation."""
    delays, begins = [], []
    for seed in range(10):
        values = np.random.default_rng(seed).normal(50, 2, 6000)
        values[3000:] += sign * np.arange(3000) / 1000
        left = judged(values, direction=direction).to_pylist()
        said = [row["drifted"] for row in left]
        assert not any(said[:3000]), "a false alarm"
        first = left[said.index(True)]
        delays.append(said.index(True) - 3000)
        begins.append(first["since"].timestamp() - BEGIN_US / 1e6 - 3000)
        assert left[-1]["drifted"]
        assert abs(left[-1]["by"] - 3 * sign) < 1
        assert not any(judged(values, direction="below" if sign > 0 else "above")["drifted"].to_pylist()[1000:])
    assert np.median(delays) < 900
    assert -200 < np.median(begins) < 500


@pytest.mark.parametrize("alike", [0.0, 0.9, 0.99])
def test_there_is_seldom_a_drift_in_what_does_not_drift(alike: float) -> None:
    """Also where neighbours resemble each other: the noise of a slow sensor wanders, and comes back."""
    rng = np.random.default_rng(4)
    noise, values = rng.normal(size=200_000), np.empty(200_000)
    values[0] = noise[0]
    for i in range(1, len(values)):
        values[i] = alike * values[i - 1] + np.sqrt(1 - alike**2) * noise[i]
    assert sum(judged(values)["drifted"].drop_null().to_pylist()) == 0


def test_a_value_that_is_back_is_no_drift_any_more() -> None:
    values = np.random.default_rng(5).normal(0, 1, 4000)
    values[1500:2500] += 1
    said = judged(values)["drifted"].to_pylist()
    assert all(said[2300:2500])
    assert not any(said[3800:])


def test_a_value_that_stays_away_becomes_the_reference() -> None:
    values = np.random.default_rng(6).normal(0, 1, 6000)
    values[1500:] += 2
    left = judged(values, hold=100)
    assert left["drifted"].to_pylist()[3000]
    assert left["drifted"].to_pylist()[-1] is False
    assert left["expected"].to_pylist()[-1] == pytest.approx(2, abs=0.2)


def test_a_drift_too_small_to_matter_is_none() -> None:
    values = np.random.default_rng(7).normal(100, 1, 4000)
    values[2000:] += np.linspace(0, 1, 2000)
    assert any(judged(values)["drifted"].to_pylist())
    assert not any(judged(values, deviation_min=2)["drifted"].to_pylist())


def test_readings_without_a_number_get_no_verdict() -> None:
    left = judged([1.0, float("nan"), 2.0] * 10, over=1, learn=4).to_pylist()
    assert left[10]["drifted"] is None
    assert left[10]["since"] is None
    assert left[11]["drifted"] is False
