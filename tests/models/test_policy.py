"""Learned policies: CartPole by both methods, repeatable, better than run-to-failure, the same by ONNX and the step."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import onnx
import pytest

from tocsin.errors import ConfigError
from tocsin.estimate.advise import Advise
from tocsin.models import SAMPLES
from tocsin.models.maintenance import ACTIONS, RUN_TO_FAILURE, MaintenanceFleet, Plant, judge
from tocsin.models.manifest import MODEL
from tocsin.models.policy import Adviser, Episodes, Policy, Seen, compare, evolve, imitate, play, version
from tocsin.models.store import Store
from tocsin.models.wear import SIGNALS
from tocsin.testing import feed, rows

PLANT = Plant(days=120)
FLEET = partial(MaintenanceFleet, plant=PLANT)


def cartpole(count: int) -> Episodes:
    return gymnasium.make_vec("CartPole-v1", count, vectorization_mode="vector_entry_point")


@pytest.fixture(scope="module")
def evolved() -> Policy:
    return evolve(FLEET, games=6, generations=12)


def test_cartpole_by_evolution_is_above_195() -> None:
    assert play(cartpole(100), evolve(cartpole, games=5, generations=14), seed=1_000).mean() > 195


def test_both_methods_beat_run_to_failure(evolved: Policy) -> None:
    acts = {"none": RUN_TO_FAILURE, "evolved": evolved, "imitated": imitate(FLEET, games=300, rounds=3, kept=0.1)}
    costs = {name: values.mean() for name, values in judge(PLANT, acts, seed=99, episodes=100).items()}
    assert costs["evolved"] < costs["none"]
    assert costs["imitated"] < costs["none"]


def test_the_same_seed_is_the_same_policy_and_leaves_numpys_own_numbers_alone() -> None:
    np.random.seed(7)
    before = np.random.get_state()[1].tolist()
    for learn in (partial(evolve, FLEET, games=2, generations=2), partial(imitate, FLEET, games=60, rounds=2)):
        one, same, other = learn(1), learn(1), learn(2)
        assert one.hidden.tolist() == same.hidden.tolist()
        assert one.hidden.tolist() != other.hidden.tolist()
    assert np.random.get_state()[1].tolist() == before


def test_each_plays_its_own_share_of_the_episodes() -> None:
    fleet = MaintenanceFleet(20, PLANT)

    def never(seen: Seen) -> np.ndarray:
        return np.zeros(len(seen), np.int64)

    def always(seen: Seen) -> np.ndarray:
        return np.ones(len(seen), np.int64)

    rewards = compare(fleet, [never, always], 1)
    assert rewards[0] == play(fleet, never, 1)[:10].mean()
    assert rewards[1] == play(fleet, always, 1)[10:].mean()


def test_onnx_says_what_the_policy_says(evolved: Policy) -> None:
    manifest, files = version("m", evolved, SIGNALS, ACTIONS, {"learned": 1.0, "interval": 2.0, "threshold": 1.5})
    onnx.checker.check_model(onnx.load_from_string(files[MODEL]), full_check=True)
    assert manifest.best_baseline == ("threshold", 1.5)
    assert manifest.is_better
    seen, _ = FLEET(50).reset(seed=1)
    seen = seen * np.random.default_rng(1).uniform(0.1, 2, seen.shape).astype(np.float32)
    adviser = Adviser(manifest, files, "test")
    shares = adviser.shares(seen)
    assert np.allclose(shares, evolved.shares(seen), atol=1e-5)
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-6)
    one_by_one = np.concatenate([adviser.shares(seen[i : i + 1]) for i in range(50)])
    assert (one_by_one == shares).all()
    seen[3, 1] = np.nan
    assert np.isnan(adviser.shares(seen)).all(axis=1).tolist() == [i == 3 for i in range(50)]


def test_the_sample_that_is_shipped_costs_what_its_manifest_says() -> None:
    manifest = Store(SAMPLES).show("maintenance", 1)
    adviser = Adviser.open(Store(SAMPLES), "maintenance", 1)
    cost = judge(Plant(), {"it": lambda seen: adviser.shares(seen).argmax(axis=1)}, seed=99, episodes=200)["it"].mean()
    assert cost == pytest.approx(manifest.metrics["cost"], rel=0.1)
    assert cost < 0.5 * manifest.baselines["interval"]["cost"]


def test_the_step_advises_from_columns_in_any_order() -> None:
    fleet = FLEET(40)
    seen, _ = fleet.reset(seed=4)
    for _ in range(15):
        seen, *_ = fleet.step(np.zeros(40, np.int64))
    columns = {name: [float(v) for v in seen[:, i]] for i, name in reversed(list(enumerate(SIGNALS)))}
    left = feed(Advise(model="maintenance", store=str(SAMPLES)), rows(columns))
    shares = Adviser.open(Store(SAMPLES), "maintenance", 1).shares(seen)
    assert left["advice"].to_pylist() == [ACTIONS[i] for i in shares.argmax(axis=1)]
    assert left["advice_share"].to_pylist() == shares.max(axis=1).tolist()
    assert set(left["advice"].to_pylist()) == set(ACTIONS)


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="discrete"):
        imitate(lambda count: gymnasium.make_vec("Pendulum-v1", 2))
    with pytest.raises(ConfigError, match="kind text"):
        Adviser.open(Store(SAMPLES), "trade", 1)
    with pytest.raises(ConfigError, match="no model"):
        Advise(model="none", store=str(tmp_path)).output_schema(rows({"rul": [1.0]}).schema)
