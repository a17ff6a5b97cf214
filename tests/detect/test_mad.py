"""The running median and MAD against those of all values, and that outliers do not move them."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.detect.mad import DEVIATION, Mad
from tocsin.testing import feed, rows

Floats = np.ndarray


def bands(values: Floats, **settings: object) -> tuple[Floats, Floats, Floats]:
    """Median, MAD and score as it saw them before each reading."""
    left = feed(Mad(**settings), rows({"value": values}), chop=500)
    expected, upper = (np.array(left[c].to_pylist(), float) for c in ("expected", "upper"))
    width = settings.get("width", 5.0)
    return expected, (upper - expected) / (DEVIATION * float(width)), np.array(left["score"].to_pylist(), float)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_it_estimates_median_and_mad(seed: int) -> None:
    values = np.random.default_rng(seed).normal(50, 3, 4000)
    median, mad, _ = bands(values, span=400)
    late = slice(1000, None)
    assert abs(np.mean(median[late]) - np.median(values)) < 0.2
    assert np.mean(mad[late]) == pytest.approx(np.median(np.abs(values - np.median(values))), rel=0.1)
    assert np.std(median[late]) < 0.6


def test_outliers_do_not_move_the_band_and_are_all_found() -> None:
    random = np.random.default_rng(7)
    values = random.normal(10, 1, 3000)
    bad = random.random(3000) < 0.1
    bad[:100] = False
    values[bad] = 500
    median, mad, score = bands(values)
    assert (score[bad] > 75).all()
    assert (score[~bad][200:] > 75).mean() < 0.001
    assert abs(np.mean(median[500:]) - 10) < 0.4
    assert np.mean(mad[500:]) < 1.1


def test_it_follows_a_drift() -> None:
    values = np.random.default_rng(3).normal(0, 1, 4000) + np.linspace(0, 20, 4000)
    _, _, score = bands(values)
    assert np.nanmax(score[500:]) < 85
    assert (score[500:] > 75).mean() < 0.005


def test_a_constant_series_may_begin_to_move() -> None:
    values = np.concatenate([np.full(100, 5.0), np.random.default_rng(4).normal(5, 1, 2000)])
    _, mad, score = bands(values)
    assert np.nanmax(score[:100]) == 0
    assert score[100] > 75, "the first that differs is new"
    assert mad[-1] == pytest.approx(0.6745, rel=0.35)


def test_nothing_overflows_and_nothing_gets_stuck() -> None:
    values = np.array([0.0] * 40 + [1e300, -1e300] * 20 + [1e-300] * 40)
    median, mad, score = bands(values, learn=10)
    assert np.isfinite(score[10:]).all()
    assert np.isfinite(median[10:]).all()
    assert np.isfinite(mad[10:]).all()
