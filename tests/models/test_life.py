"""Remaining life: regimes, features, ONNX beside the libraries, what the bounds promise; the shipped sample."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tocsin.batch import Floats
from tocsin.errors import ConfigError
from tocsin.estimate.remaining_life import RemainingLife
from tocsin.models import SAMPLES
from tocsin.models.life import (
    Effort,
    LifeModel,
    LifePredictor,
    learn_bounds,
    nasa_score,
    remaining,
    rmse,
    train,
    version,
)
from tocsin.models.life_features import NEW, SPANS, Numbers, find_regimes
from tocsin.models.manifest import MODEL
from tocsin.models.store import Store
from tocsin.models.trees_onnx import at_most
from tocsin.testing import feed, rows

EFFORT = Effort(trees=120, rounds=40)


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


def sample() -> tuple[object, bytes]:
    units, load, wear = fleet()
    manifest, files = version("wear", ["load"], ["wear"], train(units, load, wear, effort=EFFORT), units)
    return manifest, files[MODEL]


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
    features = model.features(units, load, wear)
    of = units == 3
    z = model.regimes.scaled(load, wear)[of, 0]
    at = len(z) - 1
    means = []
    for span in SPANS:
        weights = (1 - 2 / (span + 1)) ** np.arange(at, -1, -1)
        means.append(np.sum(weights * z) / weights.sum())
    wanted = [at + 1, *means, means[1] - z[:NEW].mean()]
    assert np.allclose(features[of][at], wanted, rtol=1e-5)


def test_onnx_says_what_the_libraries_say(taught: tuple[LifeModel, Numbers, Floats, Floats]) -> None:
    model, units, load, wear = taught
    features = model.features(units, load, wear)
    predictor = LifePredictor(*version("wear", ["load"], ["wear"], model, units), "here")
    life, lower, upper = predictor.predict(features)
    assert np.allclose(life, model.predict(features), rtol=1e-4, atol=1e-3)
    assert np.all((lower <= life + 1e-9) | (lower <= upper))
    assert np.allclose(predictor.predict(features[:1])[0], life[:1], rtol=1e-6)
    features[2, 1] = np.nan
    assert np.isnan([part[2] for part in predictor.predict(features)]).all()


def test_the_stream_says_what_training_saw(taught: tuple[LifeModel, Numbers, Floats, Floats]) -> None:
    """Row by row, machines mixed, the step comes to the features and lives of the whole history."""
    model, units, load, wear = taught
    kept = Store(SAMPLES)
    predictor = LifePredictor.open(kept, "wear", 1)
    of = units < 3
    order = np.argsort(np.concatenate([np.arange((units == u).sum()) for u in range(3)]), kind="stable")
    given = rows({"key": [f"m{u}" for u in units[of][order]], "load": load[of, 0][order], "wear": wear[of, 0][order]})
    left = feed(RemainingLife(model="wear", store=str(SAMPLES)), given, chop=7)
    wanted = predictor.predict(model.features(units, load, wear))[0][of][order]
    assert np.allclose(left["rul"].to_numpy(), wanted, rtol=1e-4, atol=1e-3)
    assert left["rul_confidence"].unique().to_pylist() == [0.9]


def test_it_is_better_than_the_mean_life_on_machines_it_has_not_seen(
    taught: tuple[LifeModel, Numbers, Floats, Floats],
) -> None:
    model = taught[0]
    units, load, wear = fleet(seed=5)
    truth = remaining(units)
    assert rmse(model.predict(model.features(units, load, wear)), truth) < 0.7 * truth.std()


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
    manifest, content = sample()
    Store(SAMPLES).add(manifest, {MODEL: content})  # type: ignore[arg-type]
    Store(SAMPLES).promote("wear", 1)
    (SAMPLES / "wear" / ".lock").unlink()
