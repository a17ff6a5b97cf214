"""Resample against numpy's interpolation."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.batch import Batch
from tocsin.condition.resample import Resample
from tocsin.testing import BEGIN_US, feed, rows


@pytest.mark.parametrize("chop", [1, 13, None])
@pytest.mark.parametrize("method", ["last", "linear"])
def test_against_numpy(chop: int | None, method: str) -> None:
    random = np.random.default_rng(6)
    time = np.round(np.cumsum(random.uniform(0.1, 1.5, 200)), 3)
    value = random.normal(size=200)
    shuffled = np.argsort(time + random.uniform(0, 3, 200))
    step = Resample(every="1s", method=method, gap="5s")
    left = feed(step, rows({"time": time[shuffled], "value": value[shuffled]}), chop=chop)
    grid = np.arange(np.ceil(time[0]), np.ceil(time[-1]))
    assert [t.timestamp() - BEGIN_US / 1e6 for t in left["time"].to_pylist()] == grid.tolist()
    if method == "linear":
        wanted = np.interp(grid, time, value)
    else:
        wanted = value[np.searchsorted(time, grid, side="right") - 1]
    assert left["value"].to_pylist() == pytest.approx(wanted.tolist())


def test_a_long_gap_is_not_filled_and_holds_nothing_back() -> None:
    given = rows({"key": ["a", "a", "b", "b"], "time": [0, 100, 100, 101], "value": [1.0, 2.0, 5.0, 6.0]})
    left = feed(Resample(every="1s", gap="3s"), given)
    assert [(r["key"], r["value"]) for r in left.to_pylist()] == [("a", 1.0), ("a", 2.0), ("b", 5.0), ("b", 6.0)]
    step = Resample(every="1s", gap="3s")
    _, out = step.step(step.initial(), Batch(given.slice(0, 1), BEGIN_US + 50_000_000))
    assert out[-1].watermark_us == BEGIN_US + 50_000_000


def test_until_the_next_reading_the_watermark_waits() -> None:
    step = Resample(every="1s", gap="60s")
    given = rows({"time": [0.5], "value": [1.0]})
    _, out = step.step(step.initial(), Batch(given, BEGIN_US + 20_000_000))
    assert len(out[-1]) == 0
    assert out[-1].watermark_us == BEGIN_US + 500_000
