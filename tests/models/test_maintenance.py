"""The environment of maintenance: Gymnasium's checker, what a day costs, the forecast, plain policies."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tocsin.models.maintenance import (
    MAINTAIN,
    RUN,
    RUN_TO_FAILURE,
    Interval,
    MaintenanceEnv,
    MaintenanceFleet,
    Threshold,
    intervals,
    judge,
    thresholds,
)
from tocsin.models.policy import choose
from tocsin.models.wear import SIGNALS, Machines, Plant


def test_gymnasiums_checker_has_nothing_to_say() -> None:
    check_env(MaintenanceEnv(), skip_render_check=True)  # warnings are errors here


def test_a_fleet_of_one_is_the_environment() -> None:
    one, fleet = MaintenanceEnv(Plant(days=90)), MaintenanceFleet(1, Plant(days=90))
    (seen, _), (all_seen, _) = one.reset(seed=3), fleet.reset(seed=3)
    random = np.random.default_rng(1)
    for day in range(90):
        assert (seen == all_seen[0]).all()
        action = int(random.random() < 0.05)
        seen, reward, _, over, _ = one.step(action)
        all_seen, rewards, _, all_over, _ = fleet.step(np.array([action]))
        assert (reward, over) == (rewards[0], all_over[0])
        assert over == (day == 89)
    again, rewards, *_ = fleet.step(np.array([RUN]))  # the step after the end begins anew
    assert rewards[0] == 0
    assert again[0, SIGNALS.index("age")] == 0


def test_the_same_seed_is_the_same_year_whatever_is_decided() -> None:
    """Parts, days and noise are the same for all policies, so that they can be compared by episode."""
    machines, others = (Machines(Plant(), 50) for _ in range(2))
    random, other_random = (np.random.default_rng(5) for _ in range(2))
    machines.reset(random)
    others.reset(other_random)
    for day in range(30):
        machines.step(np.full(50, day % 3 == 0), random)
        others.step(np.full(50, False), other_random)
    assert random.bit_generator.state == other_random.bit_generator.state


def test_what_a_day_costs() -> None:
    plant = Plant(noise=0.01, spread=0.1, unplanned=20, planned=3, idle=1)
    fleet = MaintenanceFleet(200, plant)
    seen, _ = fleet.reset(seed=1)
    costs: Counter[tuple[bool, bool, float]] = Counter()
    for day in range(200):
        actions = np.full(200, MAINTAIN if day % 40 == 30 else RUN)
        idle = seen[:, SIGNALS.index("idle_in")] == 0
        seen, rewards, *_ = fleet.step(actions)
        new = seen[:, SIGNALS.index("age")] == 0
        failed = new if day % 40 != 30 else np.zeros(200, bool)
        costs.update(zip(actions == MAINTAIN, idle | failed, rewards.tolist(), strict=True))
    assert {key for key in costs if not key[0]} == {(False, False, 0.0), (False, True, 0.0), (False, True, -20.0)}
    assert {key for key in costs if key[0]} >= {(True, False, -3.0), (True, True, -1.0)}


def test_the_forecast_of_parts_that_are_let_run_is_better_than_their_mean_life_and_its_bound_is_cautious() -> None:
    plant = Plant()
    machines, random = Machines(plant, 400), np.random.default_rng(2)
    machines.reset(random)
    seen, fails = [], []
    for _ in range(300):
        seen.append(machines.observe())
        fails.append(machines.step(np.zeros(400, bool), random) > 0)
    history, failed = np.stack(seen), np.stack(fails)
    left = np.full(failed.shape, np.nan)
    days = np.full(400, np.nan)
    for day in range(299, -1, -1):
        days = np.where(failed[day], 0.0, days) + 1
        left[day] = days
    known = np.isfinite(left)
    rul, lower = history[..., SIGNALS.index("rul")], history[..., SIGNALS.index("rul_lower")]
    mean = np.nanmean(left)
    assert np.mean(np.abs(rul - left)[known]) < 0.75 * np.mean(np.abs(mean - left)[known])  # beside saying the mean
    assert np.mean((lower <= left)[known]) > 0.9


def test_plain_policies() -> None:
    seen = np.array([[0.2, 20, 9, 10, 3], [0.9, 3, 1, 30, 0]], np.float32)
    assert RUN_TO_FAILURE(seen).tolist() == [RUN, RUN]
    assert Interval(31, 30)(seen).tolist() == [RUN, MAINTAIN]
    assert Interval(10, 5)(seen).tolist() == [MAINTAIN, MAINTAIN]
    assert Threshold("reading", 0.8, 0.8)(seen).tolist() == [RUN, MAINTAIN]
    assert Threshold("rul", 2, 4)(seen).tolist() == [RUN, MAINTAIN]
    assert Threshold("rul_lower", 9, 0)(seen).tolist() == [MAINTAIN, RUN]


def test_what_is_tuned_beats_run_to_failure_on_other_episodes() -> None:
    plant = Plant(days=120)

    def make(count: int) -> MaintenanceFleet:
        return MaintenanceFleet(count, plant)

    interval = choose(make, intervals(plant)[::40], games=10)
    threshold = choose(make, thresholds(plant)[::40], games=10)
    acts = {"none": RUN_TO_FAILURE, "interval": interval, "threshold": threshold}
    costs = {name: values.mean() for name, values in judge(plant, acts, seed=99, episodes=100).items()}
    assert costs["threshold"] < costs["interval"] < costs["none"]


@pytest.mark.parametrize("seed", [1, 2])
def test_judging_is_repeatable(seed: int) -> None:
    acts = {"interval": Interval(10, 5)}
    first, second = (judge(Plant(days=60), acts, seed, 20)["interval"] for _ in range(2))
    assert first.tolist() == second.tolist()
    assert first.tolist() != judge(Plant(days=60), acts, seed + 2, 20)["interval"].tolist()
