"""Changepoint against a scalar reference, on planted changes, and how rarely it cries where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detect.changepoint import QUIETEST, Changepoint
from tocsin.testing import BEGIN_US, feed, rows


def judged(values: object, **settings: Any) -> pa.Table:
    return feed(Changepoint(**settings), rows({"value": values}), chop=37)


def changes(values: object, **settings: Any) -> list[tuple[int, float, float]]:
    """Index of the reading at which a change was told, seconds since it began, new level."""
    left = judged(values, **settings).to_pylist()
    return [
        (i, row["since"].timestamp() - BEGIN_US / 1e6, row["level"]) for i, row in enumerate(left) if row["changed"]
    ]


def evidence(x: list[float], cut: int, fourth: float, learn: int) -> float:
    """Hawkins and Zamba's ratio of a cut, its part for the spread held against the tails, for alike neighbours."""
    n, a, b = len(x), x[:cut], x[cut:]
    least = max(1e-9 * abs(float(np.mean(x))), 1e-150) ** 2
    first = max(float(np.var(a)), least)
    second = max(float(np.var(b)), least, QUIETEST * first)
    whole = max(float(np.var(x)), least)
    within = (len(a) * first + len(b) * second) / n
    spread = n * np.log(within) - len(a) * np.log(first) - len(b) * np.log(second)
    tails = (fourth + 3 * learn) / n
    alike = max(1 - float(np.sum(np.diff(x) ** 2)) / (2 * (n - 1) * within), 0.0)
    ratio = n * np.log(max(whole / within, 1.0)) + spread * min(2 / (tails - 1), 1.0)
    return float(ratio * (1 - alike) / (1 + alike) / (1 + 11 / 12 * (1 / len(a) + 1 / len(b) - 1 / n)))


def reference(values: list[float], limit: float, learn: int) -> list[float | None]:
    """Each of eight places is looked at anew after 1, 2, 4 ... readings; the score is that of the best."""
    x: list[float] = []
    fourth, known, scores = 0.0, [0.0] * 8, []
    for value in values:
        n, score = len(x) + 1, None
        if len(x) < learn:
            x.append(value)
            scores.append(score)
            continue
        mean, deviation = float(np.mean(x)), float(np.std(x))
        reach = 4 * max(deviation, 1e-9 * abs(mean), 1e-150)
        x.append(min(max(value, mean - reach), mean + reach))
        fourth += (4 * (x[-1] - mean) / reach) ** 4
        for level in range(8):
            cut = ((n - 1) // (8 << level) - 1) * (8 << level)
            if n % (1 << level) == 0:
                known[level] = evidence(x, cut, fourth, learn) if cut >= learn else 0.0
        share = max(*known, 0.0) / limit
        scores.append(75 * share if share < 1 else 100 - 25 / share)
        if share >= 1:
            x, fourth, known = [], 0.0, [0.0] * 8
    return scores


@given(st.integers(0, 2**32), st.integers(40, 260), st.integers(10, 25), st.sampled_from([0.0, 1.0, 4.0]))
def test_it_follows_the_formulas(seed: int, count: int, learn: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(5, 1, count)
    values[int(rng.integers(count)) :] += shift
    found = judged(values, learn=learn, limit=15)["score"].to_pylist()
    for a, b in zip(found, reference(values.tolist(), 15.0, learn), strict=True):
        assert a == (b if b is None else pytest.approx(b, rel=1e-6, abs=1e-5))


@pytest.mark.parametrize(
    ("shift", "spread", "delay"), [(1, 1, 60), (2, 1, 12), (5, 1, 8), (100, 1, 8), (0, 3, 30), (0, 0.3, 45)]
)
def test_a_change_is_told_once_and_soon(shift: float, spread: float, delay: int) -> None:
    delays, false = [], 0
    for seed in range(20):
        values = np.random.default_rng(seed).normal(0, 1, 1400)
        values[1000:] = values[1000:] * spread + shift
        found = changes(values + 70)
        false += sum(at < 1000 for at, _, _ in found)
        right = [c for c in found if c[0] >= 1000]
        assert len(right) == 1, found
        delays.append(right[0][0] - 1000)
        if shift >= 5:
            assert right[0][1] == 1000
            assert right[0][2] == pytest.approx(70 + shift, abs=2)
    assert false == 0
    assert np.median(delays) <= delay


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "lopsided", "rounded", "alike"])
def test_there_is_seldom_a_change_where_there_is_none(kind: str) -> None:
    """At most twice in 200,000 readings, whatever the distribution."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=200_000)
    if kind == "heavy tails":
        values = rng.standard_t(3, size=200_000)
    elif kind == "lopsided":
        values = rng.exponential(size=200_000)
    elif kind == "rounded":
        values = values.round()
    elif kind == "alike":
        for i in range(1, len(values)):
            values[i] = 0.9 * values[i - 1] + 0.44 * values[i]
    assert len(changes(values)) <= 2


def test_a_single_freak_is_no_change() -> None:
    values = np.random.default_rng(8).normal(0, 1, 2000)
    values[[700, 1200, 1201]] = 1e6
    assert changes(values) == []


def test_a_staircase_is_told_step_by_step() -> None:
    steps = [0.0, 5.0, -3.0, 12.0, 0.0]
    values = np.concatenate([np.random.default_rng(9).normal(level, 1, 300) for level in steps])
    found = changes(values)
    assert [round(since) for _, since, _ in found] == [300, 600, 900, 1200]
    assert [level for _, _, level in found] == pytest.approx(steps[1:], abs=1.2)


def test_direction_and_least_change_are_those_of_the_level() -> None:
    values = np.random.default_rng(10).normal(20, 1, 900)
    values[300:] += 4
    values[600:] -= 8
    assert [round(since) for _, since, _ in changes(values, direction="above")] == [300]
    assert [round(since) for _, since, _ in changes(values, direction="below")] == [600]
    assert [round(since) for _, since, _ in changes(values, deviation_min=6)] == [600]
