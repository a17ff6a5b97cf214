"""CUSUM against a scalar reference, and how soon it sees a small shift."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detect.cusum import Cusum
from tocsin.testing import feed, rows


def scores(values: object, **settings: object) -> list[float | None]:
    found: list[float | None] = feed(Cusum(**settings), rows({"value": values}), chop=37)["score"].to_pylist()
    return found


def reference(values: list[float], slack: float, limit: float, learn: int) -> list[float | None]:
    """Page's two sums over Hawkins' running mean and deviation, from the formulas."""
    learnt: list[float] = []
    above = below = 0.0
    over, found = 0, []
    for x in values:
        score = None
        if len(learnt) >= learn:
            m, d = float(np.mean(learnt)), float(np.std(learnt))
            d = max(d, 1e-9 * abs(m), 1e-300)
            z = min(max((x - m) / d, -1e6), 1e6)
            above, below = max(0.0, above + z - slack), max(0.0, below - z - slack)
            share = max(above, below) / limit
            score = 75 * share if share < 1 else 100 - 25 / share
            over = over + 1 if share >= 1 else 0
            if over >= learn:
                learnt, above, below, over = [], 0.0, 0.0, 0
        if over == 0:
            learnt.append(x)
        found.append(score)
    return found


@given(st.lists(st.integers(-200, 200).map(lambda n: n / 8), min_size=1, max_size=60), st.integers(2, 12))
def test_it_follows_the_formulas(values: list[float], learn: int) -> None:
    for found, wanted in zip(scores(values, learn=learn, limit=5), reference(values, 0.5, 5.0, learn), strict=True):
        assert found == (wanted if wanted is None else pytest.approx(wanted, rel=1e-6, abs=1e-6))


def test_a_shift_of_one_deviation_is_seen_within_forty_readings() -> None:
    delays = []
    for seed in range(20):
        values = np.random.default_rng(seed).normal(10, 2, 1400)
        values[1000:] += 2
        hot = np.array([s or 0.0 for s in scores(values)]) >= 75
        assert not hot[:1000].any(), "a false alarm"
        delays.append(int(np.argmax(hot[1000:])))
    assert 10 < np.median(delays) < 40


def test_a_level_that_stays_becomes_usual() -> None:
    values = np.random.default_rng(1).normal(0, 1, 600)
    values[300:] += 10
    found = np.array([s or 0.0 for s in scores(values, learn=30)])
    assert (found[302:330] >= 75).all()
    assert (found[400:] < 75).all()


def test_direction_chooses_the_side() -> None:
    values = np.concatenate([np.random.default_rng(2).normal(0, 1, 200), np.full(20, -5.0)])
    assert max(s or 0.0 for s in scores(values, direction="above")[200:]) < 75
    assert max(s or 0.0 for s in scores(values, direction="below")[200:]) >= 75
