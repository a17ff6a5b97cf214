"""Dedupe against a set."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tocsin.batch import END, Batch
from tocsin.condition.dedupe import Dedupe
from tocsin.errors import SchemaError
from tocsin.testing import BEGIN_US, feed, rows


@pytest.mark.parametrize("chop", [1, 100, None])
def test_against_a_set(chop: int | None) -> None:
    random = np.random.default_rng(8)
    given = rows(
        {
            "key": [f"k{i}" for i in random.integers(0, 20, 3000)],
            "time": np.sort(random.integers(0, 300, 3000)).astype(float),
            "n": pa.array([None if i == 3 else int(i) for i in random.integers(0, 5, 3000)]),
            "text": [("a", "b", None)[i] for i in random.integers(0, 3, 3000)],
        }
    )
    seen: set[tuple[object, ...]] = set()
    wanted = [r for r in given.to_pylist() if not (tuple(r.values()) in seen or seen.add(tuple(r.values())))]
    assert feed(Dedupe(), given, chop=chop).to_pylist() == wanted
    assert len(wanted) < 3000


def test_beyond_the_horizon_a_row_counts_again() -> None:
    given = rows({"time": [0, 5, 11, 12], "n": [1, 1, 1, 1]})
    assert [t.second for t in feed(Dedupe(by="n", horizon="10s"), given)["time"].to_pylist()] == [0, 11]


def test_minus_zero_is_zero_and_null_is_null() -> None:
    given = rows({"time": [0, 0, 0, 0], "x": [0.0, -0.0, None, None]})
    assert feed(Dedupe(), given)["x"].to_pylist() == [0.0, None]


def test_what_is_too_old_is_forgotten() -> None:
    step = Dedupe(by="n", horizon="10s")
    state = step.initial()
    for i in range(50):
        given = rows({"time": np.full(500, i * 60.0), "n": np.arange(500) + 500 * i})
        state, _ = step.step(state, Batch(given, BEGIN_US + i * 60_000_000))
    assert step.dump(state).num_rows == 500
    assert len(state.times) < 10_000
    state, _ = step.step(state, Batch(given.slice(0, 0), END))
    assert step.dump(state).num_rows == 0


def test_lists_are_not_compared() -> None:
    with pytest.raises(SchemaError, match="cannot compare column 'x'"):
        Dedupe().output_schema(rows({"x": [[1]]}).schema)
