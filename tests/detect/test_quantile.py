"""The P2 quantiles against those of all values, and against the plain algorithm as it is published."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tocsin.detect.quantile import Quantile
from tocsin.testing import feed, rows

SHARES = [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]


def reference(values: list[float]) -> list[list[float]]:
    """The nine heights after each reading, by the published steps."""
    h: list[float] = []
    n = [float(j + 1) for j in range(9)]
    found = []
    for count, x in enumerate(values, 1):
        if count <= 9:
            h = sorted([*h, x])
            found.append(list(h))
            continue
        h[0], h[8] = min(h[0], x), max(h[8], x)
        cell = max(j for j in range(8) if h[j] <= x) if x < h[8] else 7
        for j in range(cell + 1, 9):
            n[j] += 1
        for j in range(1, 8):
            off = 1 + (count - 1) * SHARES[j] - n[j]
            if (off >= 1 and n[j + 1] - n[j] > 1) or (off <= -1 and n[j - 1] - n[j] < -1):
                d = 1 if off > 0 else -1
                parabola = h[j] + d / (n[j + 1] - n[j - 1]) * (
                    (n[j] - n[j - 1] + d) * (h[j + 1] - h[j]) / (n[j + 1] - n[j])
                    + (n[j + 1] - n[j] - d) * (h[j] - h[j - 1]) / (n[j] - n[j - 1])
                )
                line = h[j] + d * (h[j + d] - h[j]) / (n[j + d] - n[j])
                h[j] = parabola if h[j - 1] < parabola < h[j + 1] else line
                n[j] += d
        found.append(list(h))
    return found


@given(st.lists(st.integers(-50, 50).map(lambda n: n / 4), min_size=10, max_size=80))
def test_it_follows_the_published_steps(values: list[float]) -> None:
    left = feed(Quantile(learn=9), rows({"value": values}), chop=13).to_pylist()
    for row, h in zip(left[9:], reference(values)[8:], strict=False):
        assert row["expected"] == pytest.approx(h[4], rel=1e-9, abs=1e-9)
        fence = h[6] + 3 * (h[6] - h[2])
        assert row["upper"] == pytest.approx(fence, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["normal", "exponential", "uniform"])
def test_the_quantiles_are_those_of_all_values(name: str) -> None:
    values = getattr(np.random.default_rng(5), name)(size=5000)
    low, high = np.quantile(values, [0.25, 0.75])
    last = feed(Quantile(), rows({"value": values}), chop=1000).slice(4999).to_pylist()[0]
    assert last["expected"] == pytest.approx(np.median(values), abs=0.05)
    assert last["upper"] == pytest.approx(high + 3 * (high - low), rel=0.06)
    assert last["lower"] == pytest.approx(low - 3 * (high - low), rel=0.06)


def test_lopsided_values_have_a_fence_of_their_own_on_each_side() -> None:
    values = np.random.default_rng(6).exponential(1, 3000)
    values[2000], values[2500] = -2.5, 3.5
    found = feed(Quantile(factor=2.5), rows({"value": values}))["score"].to_pylist()
    assert found[2000] > 75, "far below what ever came"
    assert found[2500] < 75, "usual on the long side"


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"low": 0.6}, {"high": 0.4}, {"learn": 5}, {"factor": 0}):
        with pytest.raises(ValidationError):
            Quantile(**wrong)
