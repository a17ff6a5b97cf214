"""Training: what is written as ONNX is what was learnt, together is as alone, interrupted is as in one go."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from trained import series, training

from tocsin.cli import main
from tocsin.errors import ConfigError
from tocsin.models.forecaster import Forecaster
from tocsin.models.recurrent import GATES, to_onnx
from tocsin.models.runtime import ModelSession
from tocsin.models.store import Store
from tocsin.models.train import Training, train_on
from tocsin.models.training import read_training
from tocsin.models.training import train as retrain

onnx = pytest.importorskip("onnx")
fit = pytest.importorskip("tocsin.models.fit", exc_type=Exception)


def weights(cell: str, models: int | None = None, units: int = 5, inputs: int = 3) -> dict[str, np.ndarray]:
    random, gates = np.random.default_rng(1), GATES[cell] * units
    shapes = {"w": (gates, inputs), "r": (gates, units), "b": (gates,), "out": (units,), "bias": ()}
    before = () if models is None else (models,)
    return {name: random.normal(0, 0.6, before + shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("cell", sorted(GATES))
def test_the_graph_says_what_the_net_says(cell: str) -> None:
    own = weights(cell)
    content = to_onnx(cell, own, 7)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    windows = np.random.default_rng(2).normal(size=(20, 7, 3)).astype(np.float32)
    (said,) = ModelSession(content, cell).run({"window": windows})
    np.testing.assert_allclose(said[:, 0], fit.forward(cell, own, windows), atol=1e-5)


@pytest.mark.parametrize("cell", sorted(GATES))
def test_the_graph_of_many_machines_uses_the_weights_of_one(cell: str) -> None:
    many = weights(cell, models=3)
    content = to_onnx(cell, many, 4)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    windows = np.random.default_rng(2).normal(size=(20, 4, 3)).astype(np.float32)
    for k in range(3):
        (said,) = ModelSession(content, cell).run({"window": windows, "key": np.array([k])})
        own = {name: values[k] for name, values in many.items()}
        np.testing.assert_allclose(said[:, 0], fit.forward(cell, own, windows), atol=1e-5)


@pytest.mark.parametrize("cell", sorted(GATES))
def test_the_gradient_is_that_of_differences(cell: str) -> None:
    import jax

    own = weights(cell)
    windows = np.random.default_rng(2).normal(size=(9, 6, 3)).astype(np.float32)
    slope = jax.grad(lambda w: (fit.forward(cell, w, windows) ** 2).sum())(own)
    for name in ("w", "r", "b"):
        at = (1, 2)[: own[name].ndim]
        sums = []
        for change in (-0.01, 0.01):
            moved = {key: values.copy() for key, values in own.items()}
            moved[name][at] += change
            sums.append(float((np.asarray(fit.forward(cell, moved, windows), np.float64) ** 2).sum()))
        assert slope[name][at] == pytest.approx((sums[1] - sums[0]) / 0.02, rel=0.02, abs=0.01)


def lesson(seed: int, windows: int = 100) -> object:
    random = np.random.default_rng(seed)
    value = np.sin(np.arange(150) / 5 + seed) + 0.1 * random.normal(size=150)
    changes = np.append(np.diff(value), 0).astype(np.float32)
    ends = np.arange(7, 149)
    return fit.Lesson(value[:, None].astype(np.float32), changes, ends[:windows], ends[100:])


def test_together_each_learns_what_it_learns_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In groups of two, side by side, the last one filled up, against groups of one."""
    recipe = fit.Recipe(cell="lstm", units=4, epochs=6, patience=2, batch=20, learning_rate=0.05)
    lessons = [lesson(0, windows=65), lesson(1), lesson(2, windows=60)]
    told: list[float] = []
    monkeypatch.setattr(fit, "TOGETHER_BYTES", 2 * 4 * 20 * 4 * 4)
    together = fit.teach(lessons, 8, recipe, told=lambda share, loss: told.append(share))
    assert len({one.loss for one in together}) == 3
    assert told == sorted(told)
    monkeypatch.setattr(fit, "TOGETHER_BYTES", 1)
    for own, alone in zip(together, fit.teach(lessons, 8, recipe), strict=True):
        assert own.loss == pytest.approx(alone.loss, rel=1e-4)
        for name, values in alone.weights.items():
            np.testing.assert_allclose(own.weights[name], values, atol=1e-4)


def test_interrupted_it_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = fit.Recipe(cell="gru", units=4, epochs=6, patience=6, batch=20)
    (whole,) = fit.teach([lesson(1)], 8, recipe)
    told: list[float] = []

    def stop(share: float, loss: float) -> None:
        told.append(share)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit.teach([lesson(1)], 8, recipe, tmp_path, stop)
    (again,) = fit.teach([lesson(1)], 8, recipe, tmp_path, lambda share, loss: told.append(share))
    assert told == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    for name, values in whole.weights.items():
        assert np.array_equal(again.weights[name], values)


def test_a_model_is_trained_proven_kept_and_not_promoted(tmp_path: Path) -> None:
    settings = training(tmp_path, cell="gru")
    manifest = train_on(settings, series(settings))
    store = Store(tmp_path)
    assert store.champion("load") is None
    assert manifest.metrics["rmse"] < 0.5 * manifest.baselines["persistence"]["rmse"]
    assert manifest.baselines["seasonal_naive"]["rmse"] > manifest.baselines["persistence"]["rmse"]
    assert 0.8 < manifest.metrics["coverage"] < 0.98
    assert manifest.data["tables"] == {"plant": 3}
    assert (manifest.window, manifest.horizon, manifest.inputs) == (6, 1, ("load", "outside"))
    made = series(settings)
    said = Forecaster.open(store, "load", 1).predict(made.windows(made.test))
    rmse = float(np.sqrt(np.mean((said - made.targets(made.test)) ** 2)))
    assert rmse == pytest.approx(manifest.metrics["rmse"], rel=1e-6)
    again = train_on(settings, series(settings))
    assert (again.version, again.files) == (2, manifest.files)  # the same seed and data, the same net
    assert not list(tmp_path.glob("load/.training*"))


def test_each_machine_may_have_a_net_of_its_own(tmp_path: Path) -> None:
    settings = training(tmp_path, per_key=True, epochs=4)
    made = series(settings)
    manifest = train_on(settings, made)
    model = Forecaster.open(Store(tmp_path), "load", manifest.version)
    assert model.keys == {"m0": 0, "m1": 1}
    windows = made.windows(made.test[:4])
    first, second = (model.predict(windows, np.full(4, k)) for k in (0, 1))
    assert (first != second).all()
    assert np.isnan(model.predict(windows, np.full(4, -1))).all()


def test_scaling_and_choice_know_nothing_of_the_part_that_judges(tmp_path: Path) -> None:
    settings = training(tmp_path, epochs=2)
    made = series(settings)
    values = made.values.copy()
    values[made.times >= made.test_us] *= 100
    first, second = train_on(settings, made), train_on(settings, replace(made, values=values))
    assert first.files == second.files
    assert first.scaling == second.scaling
    assert first.metrics["rmse"] != second.metrics["rmse"]


def test_the_file_and_its_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "load.yaml"
    file.write_text(
        "name: load\ndataset: {query: select 1, target: load, validate_from: 2026-01-02}\nmodel: {units: 3}\n"
    )
    read = read_training(file, {"model.units": "8"})
    assert isinstance(read, Training)
    assert (read.model.units, read.dataset.validate_from) == (8, "2026-01-02")
    with pytest.raises(ConfigError, match=r"model\.cell: .*'rnn', 'lstm' or 'gru'"):
        read_training(file, {"model.cell": "tcn"})
    result = CliRunner().invoke(main, ["train", str(file), "--set", f"folder={tmp_path}"])
    assert result.exit_code == 2
    assert "the query gives no column 'load'" in result.output
    with pytest.raises(ConfigError, match="no kind of training 'failur'; did you mean 'failure'"):
        read_training(file, {"kind": "failur"})
    file.write_text("- 1\n")
    with pytest.raises(ConfigError, match="a mapping with name and dataset"):
        read_training(file, {})


def test_the_command_trains_and_promotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trained

    plant = trained.plant()
    monkeypatch.setattr("tocsin.models.dataset.snapshot", lambda query, folder: (plant, {"plant": 3}))
    file = tmp_path / "load.yaml"
    file.write_text(training(tmp_path, cell="rnn").model_dump_json())
    result = CliRunner().invoke(main, ["train", str(file), "--promote"])
    assert result.exit_code == 0, result.output
    assert json.loads(next(line for line in result.output.splitlines() if line.startswith("{")))["version"] == 1
    assert "load is better than persistence" in result.output
    assert Store(tmp_path).champion("load") == 1
    assert retrain(file).version == 2
