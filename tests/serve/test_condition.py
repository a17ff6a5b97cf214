"""How well a machine is: against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.serve.condition import LIFE, SPAN, Condition, surprise
from tocsin.serve.messages import Life

MINUTE_MS = 60_000.0


def told(condition: Condition) -> tuple[int | None, dict[str, int]]:
    health, parts, _ = condition.told()
    return health, {part.signal: part.percent for part in parts}


def test_a_machine_that_nobody_judges_has_no_number() -> None:
    condition = Condition()
    assert condition.told() == (None, [], None)
    condition.judge("judged", "vibration", np.full(5, np.nan))
    assert condition.told() == (None, [], None)


def test_what_pulls_down_is_told_by_signal() -> None:
    condition = Condition()
    for signal, score in (("vibration", 81.0), ("temperature", 60.5), ("current", 30.0)):
        condition.judge("judged", signal, np.full(SPAN, score))
    # pulls of 0.62, 0.21 and 0: what is left is 0.38 x 0.79
    assert told(condition) == (30, {"vibration": 75, "temperature": 25})
    condition.judge("again", "vibration", np.full(SPAN, 70.0))
    assert told(condition)[0] == 30, "the same signal in a second stream counts once"


def test_one_odd_reading_pulls_nothing_down_and_a_level_that_stays_does() -> None:
    condition = Condition()
    condition.judge("judged", "x", np.full(SPAN, 20.0))
    condition.judge("judged", "x", np.array([100.0]))
    assert told(condition) == (100, {})
    for _ in range(SPAN):
        condition.judge("judged", "x", np.array([100.0]))
    assert told(condition) == (0, {"x": 100})
    condition.judge("judged", "x", np.full(SPAN, 20.0))
    assert told(condition) == (100, {}), "repaired"


def test_a_verdict_on_several_signals_is_shared_out_by_what_it_blames() -> None:
    condition = Condition()
    condition.judge("judged", "", np.array([90.0, 90.0, 90.0, np.nan]), ["a", "a", "b", ""])
    assert told(condition)[1] == {"a": 67, "b": 33}


def test_a_life_that_comes_to_its_end_pulls_down_and_is_a_range() -> None:
    condition = Condition()
    condition.foresee("life", np.arange(5) * MINUTE_MS, np.tile((100.0, 80.0, 125.0, 0.9), (5, 1)))
    assert told(condition) == (100, {})
    condition.foresee("life", (5 + np.arange(5)) * MINUTE_MS, np.tile((25.0, 10.0, 40.0, 0.9), (5, 1)))
    assert told(condition) == (25, {LIFE: 100})
    _, _, life = condition.told()
    assert life == Life(25.0, 10.0, 40.0, 0.9, reading_s=60.0)
    condition.foresee(
        "life", 10 * MINUTE_MS + np.arange(2) * MINUTE_MS, np.array([(0.0, 0.0, 3.0, 0.9), (np.nan,) * 4])
    )
    assert told(condition) == (0, {LIFE: 100})


def test_a_reading_at_the_bound_of_its_forecast_has_the_score_of_a_limit() -> None:
    y = np.array([10.0, 12.0, 9.0, 14.0, np.nan])
    scores = surprise(y, np.full(5, 10.0), np.full(5, 9.0), np.full(5, 12.0))
    assert scores[:4] == pytest.approx([0.0, 75.0, 75.0, 87.5])
    assert np.isnan(scores[4])
