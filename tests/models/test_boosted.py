"""Forecasters of boosted trees: the graph says what LightGBM says, and whatever runs a net runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trained import plant, series, training

from tocsin.edge.bundle import pack, unpack
from tocsin.errors import ConfigError
from tocsin.estimate.model import Model
from tocsin.models import boosted
from tocsin.models.boosted import Boosted
from tocsin.models.forecaster import Forecaster
from tocsin.models.runtime import ModelSession
from tocsin.models.store import Store
from tocsin.models.train import Training, train_on
from tocsin.models.training import read_training
from tocsin.testing import feed, rows

onnx = pytest.importorskip("onnx")
pytest.importorskip("lightgbm")


def trees(store: Path, seed: int = 0) -> Training:
    model = Boosted(trees=300, patience=20, learning_rate=0.1, seed=seed)
    return training(store).model_copy(update={"model": model})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with trees that were taught on the plant, promoted."""
    settings = trees(tmp_path_factory.mktemp("models"))
    kept = Store(settings.store)
    kept.promote("load", train_on(settings, series(settings)).version)
    return kept


def seen(window: np.ndarray) -> list[float]:
    """What is looked at of one input of six periods, as sums."""
    last = window[-1]
    changes = [last - window[-1 - lag] for lag in (1, 2, 4, 5)]
    return [last, *changes, *(np.mean(window[-count:]) for count in (2, 4, 6))]


def test_features_against_plain_sums() -> None:
    windows = np.random.default_rng(1).normal(size=(3, 6, 2)).astype(np.float32)
    wanted = [[value for column in window.T for value in seen(column.astype(np.float64))] for window in windows]
    np.testing.assert_array_equal(boosted.features(windows), np.array(wanted).astype(np.float32))
    assert boosted.looks(1).tolist() == [[1.0]]


@pytest.mark.parametrize("window", [1, 6, 24])
def test_the_graph_says_what_the_trees_say(tmp_path: Path, window: int) -> None:
    settings = trees(tmp_path)
    settings = settings.model_copy(update={"dataset": settings.dataset.model_copy(update={"window": window})})
    made = series(settings)
    mean, scale = np.array([50.0, 0.0]), np.array([4.0, 1.0])
    grown = boosted.grow(made, (mean, scale, 2.0), Boosted(trees=150, patience=150, leaves=31, learning_rate=0.2))
    assert grown.num_trees() > 5
    content = boosted.to_onnx(grown.dump_model(), window, 2)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    windows = ((made.windows(made.test) - mean) / scale).astype(np.float32)
    (said,) = ModelSession(content, "trees").run({"window": windows})
    assert said.std() > 0.1
    np.testing.assert_allclose(said[:, 0], grown.predict(boosted.features(windows)), atol=1e-5)


def test_they_are_trained_proven_and_kept_as_a_net_is(store: Store) -> None:
    settings = trees(store.folder)
    manifest, made = store.followed("load"), series(settings)
    assert manifest.metrics["rmse"] < 0.7 * manifest.baselines["persistence"]["rmse"]
    assert {"persistence", "seasonal_naive"} == manifest.baselines.keys()
    assert 0.8 < manifest.metrics["coverage"] < 0.98
    assert 10 < manifest.settings["learnt_trees"] < 300, "the part to validate said when to stop"
    assert list(manifest.files) == ["model.onnx"]
    said = Forecaster.open(store, "load", manifest.version).predict(made.windows(made.test))
    rmse = float(np.sqrt(np.mean((said - made.targets(made.test)) ** 2)))
    assert rmse == pytest.approx(manifest.metrics["rmse"], rel=1e-6)
    assert train_on(settings, made).files == manifest.files, "the same seed and data, the same trees"
    other = trees(store.folder, seed=1)
    assert train_on(other, series(other)).files != manifest.files


def test_they_know_nothing_of_the_part_that_judges(store: Store) -> None:
    settings = trees(store.folder)
    made = series(settings)
    values = made.values.copy()
    values[made.times >= made.test_us] *= 100
    manifest = train_on(settings, replace(made, values=values))
    assert manifest.files == store.followed("load").files
    assert manifest.metrics["rmse"] != store.followed("load").metrics["rmse"]


def test_step_and_device_say_what_the_model_says(store: Store) -> None:
    version = store.followed("load").version
    model = Forecaster.open(store, "load", version)
    one = plant(keys=1).slice(0, 80)
    given = rows({name: one[name].combine_chunks() for name in ("load", "outside")} | {"time": np.arange(80) * 3600.0})
    left = feed(Model(model="load", store=str(store.folder)), given, chop=7)
    values = np.stack([left[name].to_numpy() for name in ("load", "outside")], axis=1)
    wanted = model.predict(np.stack([values[at - 5 : at + 1] for at in range(5, 80)]))
    np.testing.assert_allclose(left["ahead"].to_numpy()[5:], wanted)
    assert np.isnan(left["ahead"].to_numpy()[:5]).all()
    device = unpack(pack(store, "load", version, b"k" * 32, 1), b"k" * 32).start()
    np.testing.assert_array_equal(device.predict(values[None, :6]), wanted[:1])


def test_the_file_and_its_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "load.yaml"
    file.write_text("name: load\ndataset: {query: select 1, target: load}\nmodel: {trees: 500, leaves: 7}\n")
    read = read_training(file, {"model.leaf_rows": "50"})
    assert isinstance(read, Training)
    assert read.model == Boosted(trees=500, leaves=7, leaf_rows=50)
    assert Training.model_validate_json(read.model_dump_json()) == read
    with pytest.raises(ConfigError, match=r"yaml: model\.leaves: Input should be greater than or equal to 2"):
        read_training(file, {"model.leaves": "1"})
    with pytest.raises(ConfigError, match=r"yaml: model\.units: Extra inputs are not permitted"):
        read_training(file, {"model.units": "8"})
