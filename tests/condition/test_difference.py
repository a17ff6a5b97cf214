"""Differences against a scalar reference, and counters that start again."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tocsin.condition.difference import Difference
from tocsin.testing import feed, rows


@pytest.mark.parametrize("chop", [1, 13, None])
def test_differences_and_rates_of_each_key(chop: int | None) -> None:
    random = np.random.default_rng(1)
    values = [
        None if i % 11 == 3 else math.nan if i % 17 == 5 else float(v) for i, v in enumerate(random.normal(size=200))
    ]
    given = rows({"key": [f"m{i % 3}" for i in range(200)], "value": values}, every_s=0.5)
    wanted: list[float | None] = []
    before: dict[str, tuple[int, float]] = {}
    for i, value in enumerate(values):
        key = f"m{i % 3}"
        known = value is not None and not math.isnan(value)
        wanted.append((value - before[key][1]) / (0.5 * (i - before[key][0])) if known and key in before else None)
        if known:
            before[key] = i, value
    assert feed(Difference(per="1s"), given, chop=chop)["value_rate"].to_pylist() == pytest.approx(wanted)


def test_a_counter_that_is_reset_or_wraps() -> None:
    given = rows({"parts": [65500, 65530, 14, 44, 44]})
    reset = feed(Difference(of="parts", counter=True, name_as="made"), given)["made"]
    assert (reset.type, reset.to_pylist()) == (pa.int64(), [None, 30, 14, 30, 0])
    assert feed(Difference(of="parts", wraps_at=65536), given)["parts_difference"].to_pylist() == [None, 30, 20, 30, 0]
    energy = rows({"kwh": [100.0, 110.0, 0.0, 10.0]})
    assert feed(Difference(of="kwh", counter=True), energy)["kwh_difference"].to_pylist() == [None, 10.0, 0.0, 10.0]


def test_large_integers_are_exact_and_never_wrap_around() -> None:
    given = rows({"n": pa.array([2**62, 2**62 + 1, None, -(2**63), 2**63 - 1], pa.int64())})
    assert feed(Difference(of="n"), given)["n_difference"].to_pylist() == [None, 1, None, None, None]
    with pytest.raises(ValidationError, match="64 bits"):
        Difference(wraps_at=2**64)


def test_a_reading_that_comes_late_is_passed_over() -> None:
    given = rows({"time": [0.0, 2.0, 1.0, 3.0], "value": [0.0, 2.0, 1.0, 3.0]})
    assert feed(Difference(), given)["value_difference"].to_pylist() == [None, 2.0, None, 1.0]
