"""EWMA against a scalar reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tocsin.detect.ewma import Ewma
from tocsin.testing import feed, rows


def reference(values: list[float], span: float, learn: int, width: float) -> list[float | None]:
    scores: list[float | None] = []
    mean = variance = 0.0
    for n, value in enumerate(values):
        x = value
        if n >= learn:
            reach = width * max(math.sqrt(variance), 1e-9 * abs(mean), 1e-300)
            share = abs(x - mean) / reach
            scores.append(75 * share if share < 1 else 100 - 25 / share)
            if variance:
                x = min(max(x, mean - reach), mean + reach)
        else:
            scores.append(None)
        a = max(2 / (span + 1), 1 / (n + 1))
        delta = x - mean
        mean, variance = mean + a * delta, (1 - a) * (variance + a * delta**2)
    return scores


@pytest.mark.parametrize("chop", [1, 100, None])
def test_against_the_reference(chop: int | None) -> None:
    values = np.random.default_rng(2).normal(5, 1, 500)
    values[300] = 40
    left = feed(Ewma(span=50, learn=20), rows({"value": values}), chop=chop)["score"].to_pylist()
    assert left == pytest.approx(reference(values.tolist(), 50, 20, 5.0))


def test_above_75_is_rare_on_normal_noise() -> None:
    values = np.random.default_rng(4).normal(0, 3, 100_000)
    scores = feed(Ewma(), rows({"value": values})).column("score").drop_null().to_numpy()
    assert (scores > 75).sum() <= 10


def test_a_constant_series_can_begin_to_vary() -> None:
    values = [5.0] * 50 + np.random.default_rng(1).normal(5, 1, 300).tolist()
    scores = feed(Ewma(span=20), rows({"value": values}))["score"].to_pylist()
    assert scores[50] > 99
    assert max(scores[150:]) < 90
