"""Remaining life: regimes, features, health, ONNX beside what was taught, what the bounds promise; the sample."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tocsin.batch import Floats
from tocsin.errors import ConfigError
from tocsin.estimate.remaining_life import RemainingLife
from tocsin.models import SAMPLES, life_gru, life_similarity
from tocsin.models.life import (
    Effort,
    LifeModel,
    LifePredictor,
    learn_bounds,
    machine_features,
    nasa_score,
    remaining,
    rmse,
    slots_of,
    train,
    version,
)
from tocsin.models.life_features import NEW, SPANS, Numbers, find_regimes, recent_rows
from tocsin.models.life_health import learn_health
from tocsin.models.life_onnx import write_trees
from tocsin.models.manifest import Manifest
from tocsin.models.runtime import ModelSession
from tocsin.models.store import Store
from tocsin.models.trees_onnx import at_most
from tocsin.state import Columns
from tocsin.testing import feed, rows

EFFORT = Effort(trees=120, steps=80)


def fleet(machines: int = 30, seed: int = 1) -> tuple[Numbers, Floats, Floats]:
    """Machines that wear faster and faster, in two regimes of load that shift their readings."""
    random = np.random.default_rng(seed)
    units, loads, wears = [], [], []
    for unit in range(machines):
        life = int(random.integers(50, 110))
        load = random.integers(1, 3, life).astype(float)
        wear = 1.6 * (np.arange(life) / life) ** 2 + random.normal(0, 0.1, life) + random.normal(0, 0.1)
        units += [unit] * life
        loads.append(load)
        wears.append(wear + 10 * (load - 1))
    return np.array(units), np.concatenate(loads)[:, None], np.concatenate(wears)[:, None]


@pytest.fixture(scope="module")
def taught() -> tuple[LifeModel, Numbers, Floats, Floats]:
    units, load, wear = fleet()
    return train(units, load, wear, effort=EFFORT), units, load, wear


def sample() -> tuple[Manifest, Mapping[str, bytes]]:
    units, load, wear = fleet()
    return version("wear", ["load"], ["wear"], train(units, load, wear, effort=EFFORT), units)


def said_by(predictor: LifePredictor, units: Numbers, load: Floats, wear: Floats) -> tuple[Floats, Floats, Floats]:
    """Lives and bounds of machines that a predictor sees from their first reading."""
    state = Columns(predictor.fields())
    slots = slots_of(units, state)
    return predictor.predict(slots, predictor.features(slots, load, wear, state), state)


def test_a_setting_that_explains_the_readings_makes_regimes_and_one_that_trembles_does_not() -> None:
    random = np.random.default_rng(2)
    modes = random.integers(0, 3, 600)
    tremble = random.normal(size=600)
    readings = np.column_stack([np.array([0.0, 5.0, 5.4])[modes], np.array([1.0, 1.0, 9.0])[modes]])
    readings += random.normal(0, 0.1, readings.shape)
    regimes = find_regimes(np.column_stack([tremble, np.array([3.0, 1.0, 2.0])[modes]]), readings)
    assert regimes.count == 3
    assert len(np.unique(regimes.of(np.array([[0, 1.02], [9, 1.98], [0, 3.0]])))) == 3
    scaled = regimes.scaled(np.column_stack([tremble, np.array([3.0, 1.0, 2.0])[modes]]), readings)
    assert np.allclose([scaled.mean(), scaled.std()], [0, 1], atol=0.05)
    assert find_regimes(tremble[:, None], random.normal(size=(600, 2))).count == 1


def test_features_against_a_scalar_reference(taught: tuple[LifeModel, Numbers, Floats, Floats]) -> None:
    model, units, load, wear = taught
    features = machine_features(model.regimes, units, load, wear)
    of = units == 3
    z = model.regimes.scaled(load, wear)[of, 0]
    at = len(z) - 1
    means = []
    for span in SPANS:
        weights = (1 - 2 / (span + 1)) ** np.arange(at, -1, -1)
        means.append(np.sum(weights * z) / weights.sum())
    wanted = [at + 1, *means, means[1] - z[:NEW].mean()]
    assert np.allclose(features[of][at], wanted, rtol=1e-5)


def test_trees_as_onnx_say_what_the_library_says(taught: tuple[LifeModel, Numbers, Floats, Floats]) -> None:
    from lightgbm import LGBMRegressor

    model, units, load, wear = taught
    features = machine_features(model.regimes, units, load, wear)
    trees = LGBMRegressor(n_estimators=20, n_jobs=1, verbose=-1).fit(features, remaining(units))
    (said,) = ModelSession(write_trees(trees), "here").run({"features": features.astype(np.float32)})
    assert np.allclose(said[:, 0], trees.booster_.predict(features), rtol=1e-5)


def test_the_gru_as_onnx_says_what_was_taught_and_windows_begin_with_the_first_reading() -> None:
    pytest.importorskip("jax")
    from tocsin.models.fit import forward

    random = np.random.default_rng(6)
    begins = np.repeat([0, 40, 55], [40, 15, 65])
    inputs = np.concatenate([np.arange(120.0)[:, None], random.normal(3, 2, (120, 2)), np.ones((120, 1))], axis=1)
    lives = 2 * inputs[:, 1] + 50
    weights = life_gru.learn(inputs, begins, lives, 100, 0)
    windows = np.empty((120, life_gru.DEPTH, 4))
    slots = np.unique(begins, return_inverse=True)[1].astype(np.int32)
    recent_rows(slots, inputs, np.full((3, life_gru.DEPTH * 4), np.nan), windows)
    assert (windows[42] == inputs[[40] * 7 + [40, 41, 42]]).all()
    assert (windows[119] == inputs[110:]).all()
    (said,) = ModelSession(life_gru.write(weights), "here").run({"window": windows.astype(np.float32)})
    np.testing.assert_allclose(said[:, 0], forward("gru", weights, windows.astype(np.float32)), rtol=1e-5)
    assert rmse(said[:, 0], lives) < 0.5 * lives.std()
    again = life_gru.learn(inputs, begins, lives, 100, 0)
    assert all((weights[name] == again[name]).all() for name in weights), "the same seed gives the same net"


def test_similarity_is_the_mean_life_of_pieces_by_their_distance() -> None:
    random = np.random.default_rng(7)
    slots, age = np.repeat(np.arange(3, dtype=np.int32), 80), np.tile(np.arange(1.0, 81), 3)
    healths, lives = 1 - age / 80 + random.normal(0, 0.02, 240), np.tile(np.arange(79.0, -1, -1), 3)
    model = ModelSession(life_similarity.learn(slots, healths, age, lives), "here")

    def looked_at(row: int) -> Floats:
        back = [healths[max(row - lag, row // 80 * 80)] for lag in life_similarity.LAGS]
        return np.array([*back, age[row] / life_similarity.AGE])

    library = np.array([looked_at(row) for row in range(240) if age[row] % life_similarity.STEP == 0])
    asked = np.array([looked_at(row) + 0.01 for row in (3, 60, 200)])
    wanted = []
    for one in asked:
        weights = np.exp(-np.sum((library - one) ** 2, axis=1) / life_similarity.SPREAD)
        wanted.append(np.sum(weights * lives[age % life_similarity.STEP == 0]) / weights.sum())
    (said,) = model.run({"trajectory": asked.astype(np.float32)})
    assert np.allclose(said[:, 0], wanted, atol=1e-2)


def test_the_health_index_goes_from_one_to_nothing_with_a_machines_life() -> None:
    """Taught by some machines, it ranks the readings of others by the share of their life that is gone."""
    units, load, wear = fleet(seed=5)
    regimes = find_regimes(load, wear)
    features, left = machine_features(regimes, units, load, wear), remaining(units)
    teach = units < 15
    health = learn_health(features[teach], features[teach, 0], left[teach])
    other = ~teach
    gone = features[other, 0] / (features[other, 0] + left[other])
    index = health.of(features[other])
    assert np.corrcoef(index, gone)[0, 1] < -0.8
    assert index[gone <= 0.5].mean() == pytest.approx(1, abs=0.15)
    assert index[gone > 0.8].mean() == pytest.approx(0, abs=0.15)
    assert (health.of(features[:7]) == health.of(features)[:7]).all(), "rows beside it change nothing"


def test_the_stream_says_what_training_saw(taught: tuple[LifeModel, Numbers, Floats, Floats]) -> None:
    """Row by row, machines mixed, the step comes to the lives of the whole history."""
    _, units, load, wear = taught
    predictor = LifePredictor.open(Store(SAMPLES), "wear", 1)
    of = units < 3
    order = np.argsort(np.concatenate([np.arange((units == u).sum()) for u in range(3)]), kind="stable")
    given = rows({"key": [f"m{u}" for u in units[of][order]], "load": load[of, 0][order], "wear": wear[of, 0][order]})
    left = feed(RemainingLife(model="wear", store=str(SAMPLES)), given, chop=7)
    wanted = said_by(predictor, units[of], load[of], wear[of])[0][order]
    assert np.allclose(left["rul"].to_numpy(), wanted, rtol=1e-4, atol=1e-3)
    assert left["rul_confidence"].unique().to_pylist() == [0.9]
    ends = left["health_index"].to_numpy()
    assert ends[:30].mean() > 0.7
    assert ends[-6:].mean() < 0.3


def test_what_is_missing_gives_nothing_until_it_has_come() -> None:
    said = feed(
        RemainingLife(model="wear", store=str(SAMPLES)),
        rows({"wear": [None, 0.1, None, 0.2] * 6, "load": [1.0] * 24}),
    )
    for column in ("rul", "rul_lower", "rul_upper", "rul_confidence", "health_index"):
        assert said[column].is_valid().to_pylist() == [False] + [True] * 23


def test_a_version_of_before_there_were_members_still_runs(taught: tuple[LifeModel, Numbers, Floats, Floats]) -> None:
    model, units, load, wear = taught
    manifest, files = version("wear", ["load"], ["wear"], model, units)
    alone = replace(manifest, settings={**manifest.settings, "members": ["trees"]})
    kept = {name: value for name, value in manifest.settings.items() if name not in ("members", "health")}
    old = LifePredictor(replace(manifest, settings=kept), {"model.onnx": files["trees.onnx"]}, "here")
    now = LifePredictor(alone, {"trees.onnx": files["trees.onnx"]}, "here")
    assert (said_by(old, units, load, wear)[0] == said_by(now, units, load, wear)[0]).all()
    assert np.isnan(old.health_index(np.ones((2, 5)))).all()


@pytest.mark.parametrize("members", [("trees", "gru"), ("similarity",)])
def test_it_is_better_than_the_mean_life_on_machines_it_has_not_seen(
    taught: tuple[LifeModel, Numbers, Floats, Floats], members: tuple[str, ...]
) -> None:
    model, units, load, wear = taught
    if members == ("similarity",):
        model = train(units, load, wear, members=("similarity",))
    predictor = LifePredictor(*version("wear", ["load"], ["wear"], model, units), "here")
    units, load, wear = fleet(seed=5)
    truth = remaining(units)
    life, lower, upper = said_by(predictor, units, load, wear)
    assert rmse(life, truth) < 0.7 * truth.std()
    assert np.all(lower <= upper)


def test_bounds_hold_for_machines_looked_at_once() -> None:
    """Errors of a machine hang together; by rows, a few machines with long lives would make the bounds."""
    random = np.random.default_rng(4)

    def machines(count: int) -> tuple[Numbers, Floats, Floats]:
        units = np.repeat(np.arange(count), 150)
        life = np.tile(np.minimum(np.arange(149.0, -1, -1), 120), count)
        off = np.repeat(random.normal(0, 1, count), 150) * (2 + life / 10)
        return units, life, life + off

    units, life, wanted = machines(400)
    bounds = learn_bounds(units, life, wanted, 0.9)
    units, life, wanted = machines(2000)
    lower, upper = bounds.around(life, 1e9)
    lower[life < 15] = -np.inf  # cut off at 0
    for part in (life > 80, (life > 30) & (life < 60)):
        assert np.mean((lower <= wanted) & (wanted <= upper), where=part) == pytest.approx(0.9, abs=0.03)


def test_each_machine_counts_once_in_a_level_however_many_rows_it_has_there() -> None:
    rows_of = np.repeat([100, 40], 20)
    units = np.repeat(np.arange(40), rows_of)
    error = np.repeat(np.where(np.arange(40) < 20, 0.0, 20.0 * (-1.0) ** np.arange(40)), rows_of)
    life = np.tile(np.linspace(50, 60, 10), len(units) // 10)
    # Among the rows that are old enough, those with an error are 13 of 100; among the machines, half are.
    bounds = learn_bounds(units, life, life + error, 0.8)
    assert np.allclose(bounds.below, -20)
    assert np.allclose(bounds.above, 20)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, -0.1, 1 / 3, 1e-9])
def test_a_float32_is_sent_the_same_way_as_by_the_threshold_itself(threshold: float) -> None:
    near = np.float32(threshold)
    for value in (near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9))):
        assert (value <= np.float32(at_most(threshold))) == (float(value) <= threshold)


def test_score_is_that_of_the_paper() -> None:
    assert nasa_score(np.array([10.0, 0.0]), np.array([0.0, 13.0])) == pytest.approx(2 * (np.e - 1))


def test_too_few_machines_are_refused() -> None:
    units, load, wear = fleet(9)
    with pytest.raises(ConfigError, match="9 machines have failed"):
        train(units, load, wear, effort=EFFORT)


def test_the_sample_that_is_shipped_is_made_by_this_code(taught: tuple[LifeModel, Numbers, Floats, Floats]) -> None:
    manifest = Store(SAMPLES).show("wear", 1)
    made, _ = version("wear", ["load"], ["wear"], taught[0], taught[1])
    assert json.loads(json.dumps(made.settings["sensors"])) == list(manifest.settings["sensors"])
    assert np.allclose(made.settings["bounds"]["above"], manifest.settings["bounds"]["above"], atol=1), (
        "make it anew: python tests/models/test_life.py"
    )


if __name__ == "__main__":
    import shutil

    shutil.rmtree(SAMPLES / "wear", ignore_errors=True)
    Store(SAMPLES).add(*sample())
    Store(SAMPLES).promote("wear", 1)
    (SAMPLES / "wear" / ".lock").unlink()
