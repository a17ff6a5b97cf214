"""Z-scores against the standard library."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from tocsin.detect.zscore import Zscore
from tocsin.testing import feed, rows


def test_within_a_list() -> None:
    lists = [[20.0, 21.0, 25.0], [1.0, None, 3.0, float("nan")], [0.1 + 0.2, 0.3], [], None, [7.0]]
    left = feed(Zscore(of="x"), rows({"x": lists}))["z"].to_pylist()
    first = [20.0, 21.0, 25.0]
    assert left[0] == pytest.approx([(v - statistics.fmean(first)) / statistics.pstdev(first) for v in first])
    assert left[1:] == [[-1.0, None, 1.0, None], [0.0, 0.0], [], [], [0.0]]


def test_running_against_all_readings_before() -> None:
    values = np.random.default_rng(5).normal(10, 2, 200).tolist()
    left = feed(Zscore(learn=5), rows({"value": values}), chop=17).to_pydict()
    for i, value in enumerate(values):
        if i < 5:
            assert left["z"][i] is None
            continue
        mean, deviation = statistics.fmean(values[:i]), statistics.pstdev(values[:i])
        assert left["z"][i] == pytest.approx((value - mean) / deviation)
        assert left["lower"][i] == pytest.approx(mean - 5 * deviation)
    assert max(left["score"][5:]) < 75
