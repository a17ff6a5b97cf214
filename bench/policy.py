"""When to maintain, learned and by rule, and the same trainer on CartPole: python bench/policy.py [--seed 0]

A simulated machine wears; each morning it runs on or is stopped for maintenance (`tocsin.models.maintenance`). What a
year costs, in planned stops on a working day, is the mean over 1,000 episodes with its 95 % interval. All policies
are judged on the same episodes, whose seed nothing was learned or tuned on: neither the two learned ones (random games
that are imitated; evolution), nor the fixed interval and the threshold, whose grids know the days on which the line
stands still, too. ``learned`` is the better of the two on the episodes of training; ``against_threshold`` is the mean
difference by episode, negative where the learned one is cheaper. ``cartpole`` is the lesser of the two methods' mean
rewards over 200 episodes of CartPole-v1 (500 at most), with fewer rounds and generations.
Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from tocsin.batch import Floats
from tocsin.models.maintenance import MaintenanceFleet, Plant, judge, tuned
from tocsin.models.policy import Episodes, choose, evolve, imitate, play

JUDGED_SEED = 1_000_000
"""Far from those that teach."""


def interval(values: Floats) -> dict[str, float]:
    """The mean and its 95 % interval."""
    mean, half = float(values.mean()), 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return {"cost": round(mean, 3), "low": round(mean - half, 3), "high": round(mean + half, 3)}


def maintenance(seed: int) -> dict[str, Any]:
    """Costs by policy; the learned one is chosen on episodes of training."""
    plant = Plant()
    make = partial(MaintenanceFleet, plant=plant)
    begin = time.perf_counter()
    plain = tuned(plant, seed)
    print(f"tuned in {time.perf_counter() - begin:.0f} s: {plain['interval']}, {plain['threshold']}")
    learned = {}
    for name, learn in (("imitation", partial(imitate, rounds=15)), ("evolution", evolve)):
        begin = time.perf_counter()
        learned[name] = learn(make, seed)
        print(f"{name} took {time.perf_counter() - begin:.0f} s")
    chosen = choose(make, list(learned.values()), seed, games=2_000)
    costs = judge(plant, {**plain, **learned, "learned": chosen}, JUDGED_SEED + seed)
    figures: dict[str, Any] = {name: interval(values) for name, values in costs.items()}
    for name, figure in figures.items():
        print(f"  {name:16} {figure['cost']:8.2f}  ({figure['low']:.2f} to {figure['high']:.2f})")
    return {**figures, "against_threshold": interval(costs["learned"] - costs["threshold"])}


def cartpole(seed: int) -> dict[str, float]:
    """Mean reward by method, and that of random actions."""

    def make(count: int) -> Episodes:
        return gymnasium.make_vec("CartPole-v1", count, vectorization_mode="vector_entry_point")

    episodes, random = make(200), np.random.default_rng(seed)
    policies = {
        "imitation": imitate(make, seed, rounds=5),
        "evolution": evolve(make, seed, games=20, generations=30),
        "random": lambda seen: random.integers(2, size=len(seen)),
    }
    rewards = {name: round(float(play(episodes, act, JUDGED_SEED).mean()), 1) for name, act in policies.items()}
    print(f"CartPole-v1: {rewards}")
    return rewards


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args(arguments).seed
    poles = cartpole(seed)
    figures = maintenance(seed)
    print(json.dumps({**figures, "cartpole": min(poles["imitation"], poles["evolution"]), "cartpole_by": poles}))


if __name__ == "__main__":
    main()
