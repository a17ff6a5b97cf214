"""Stuck: by a fixed time, by what is usual, within a tolerance."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tocsin.detect.stuck import Stuck
from tocsin.testing import feed, rows


def scores(step: Stuck, values: list[float | None]) -> list[float | None]:
    return feed(step, rows({"value": values}))["score"].to_pylist()


def test_after_a_fixed_time_and_no_longer_once_it_changes() -> None:
    rising = [18.75, 37.5, 56.25, 75.0, 80.0, 100 - 25 / 1.5, 100 - 25 / 1.75, 87.5]
    assert scores(Stuck(after="4s"), [1.0] * 9 + [2.0]) == [None, *rising, 0.0]


def test_by_what_is_usual() -> None:
    changing = [float(i // 2) for i in range(100)]  # a change every 2 s
    left = scores(Stuck(times=5), changing + [49.0] * 20)
    assert max(s or 0 for s in left[:100]) < 75
    assert left[99 + 8] < 75 <= left[99 + 10]


def test_a_gap_without_numbers_is_no_change_and_small_steps_are_none() -> None:
    assert scores(Stuck(after="3s"), [1.0, None, None, 1.0])[-1] == 75.0
    assert scores(Stuck(after="3s", tolerance=0.1), [1.0, 1.05, 0.95, 1.09])[-1] == 75.0


@pytest.mark.parametrize("settings", [{"direction": "above"}, {"deviation_min": 1}, {"deviation_min_percent": 1}])
def test_what_stays_the_same_does_not_deviate(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="stuck has no direction"):
        Stuck(**settings)
