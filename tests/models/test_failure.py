"""Failure within a horizon: what leaks is left out, ONNX is what was taught, what is said is what happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pumps import pumps
from sklearn.metrics import average_precision_score, roc_auc_score

from tocsin.errors import ConfigError, CorruptState
from tocsin.estimate.failure_probability import FailureProbability
from tocsin.models import SAMPLES
from tocsin.models.contributions import TreeContributions
from tocsin.models.failure import FailurePredictor, FailureTraining, _boosted, _parted, train_on
from tocsin.models.manifest import MODEL, Manifest
from tocsin.models.proof import figures, reliability
from tocsin.models.store import Store
from tocsin.models.trees_onnx import tree_attributes
from tocsin.notify.alarm import Alarm
from tocsin.testing import feed, rows


def training(store: Path, **dataset: Any) -> FailureTraining:
    return FailureTraining.model_validate(
        {
            "kind": "failure", "name": "pump", "store": store,
            "model": {"trees": 30, "leaves": 6, "learning_rate": 0.2},
            "dataset": {"query": "from pumps", "target": "fails", "features": ["vibration", "age"], "horizon": "1h"}
            | dataset,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[FailureTraining, Manifest]:
    settings = training(tmp_path_factory.mktemp("models"))
    return settings, train_on(settings, pumps(), {"pumps": 4})


def test_it_is_better_than_the_plain_methods_and_says_what_happens(taught: tuple[FailureTraining, Manifest]) -> None:
    settings, manifest = taught
    assert manifest.is_better
    assert manifest.baselines.keys() == {"logistic", "base_rate"}
    assert manifest.data["tables"] == {"pumps": 4}
    other = pumps(20_000, seed=9)
    given = rows({"vibration": other["vibration"].to_pylist(), "age": other["age"].to_pylist()})
    step = FailureProbability(model="pump", version=1, store=str(settings.store))
    said = feed(step, given)["failure_probability"].to_numpy()
    for row in reliability(other["fails"].to_numpy(), said):
        if row["rows"] > 300:
            assert row["happened"] == pytest.approx(row["said"], abs=0.06)


def test_onnx_says_what_the_library_says_also_where_numbers_are_missing(
    taught: tuple[FailureTraining, Manifest],
) -> None:
    settings, manifest = taught
    features, outcome, parts, _ = _parted(settings.dataset, pumps(), {})
    teach = parts["train"]
    trees = _boosted(settings.model).fit(features[teach], outcome[teach])
    calibration = manifest.settings["calibration"]
    wanted = calibration["slope"] * trees.predict(features, raw_score=True) + calibration["offset"]
    predictor = FailurePredictor.open(Store(settings.store), "pump", 1)
    assert np.isnan(features[:, 1]).any()
    assert np.allclose(predictor.probability(features), 1 / (1 + np.exp(-wanted)), atol=1e-5)
    assert predictor.probability(features[:1])[0] == predictor.probability(features[:9])[0]
    never = features[:3].copy()
    never[1, 0] = np.nan
    assert np.isnan(predictor.probability(never)).tolist() == [False, True, False]


def test_contributions_are_the_librarys_shap_values(taught: tuple[FailureTraining, Manifest]) -> None:
    settings, manifest = taught
    features, outcome, parts, _ = _parted(settings.dataset, pumps(), {})
    teach = parts["train"]
    trees = _boosted(settings.model).fit(features[teach], outcome[teach])
    wanted = manifest.settings["calibration"]["slope"] * trees.predict(features[:500], pred_contrib=True)[:, :-1]
    predictor = FailurePredictor.open(Store(settings.store), "pump", 1)
    probability = predictor.probability(features[:500])
    over = probability > manifest.settings["base_rate"]
    said = predictor.contributions(features[:500], probability)
    assert 20 < over.sum() < 400
    assert np.allclose(said[over], wanted[over], atol=1e-9)
    assert np.isnan(said[~over]).all()


def test_shap_values_of_deep_trees_where_much_is_missing() -> None:
    """A way that asks a feature several times, a column with nothing, a feature of no use, a tree of one leaf."""
    from lightgbm import LGBMRegressor

    random = np.random.default_rng(2)
    x = np.float32(random.normal(size=(1500, 7))).astype(np.float64)
    y = x[:, 0] * x[:, 1] + np.sin(3 * x[:, 2]) + (x[:, 3] > 0) * x[:, 4]
    x[random.uniform(size=x.shape) < 0.1] = np.nan
    x[:, 6] = np.nan
    for settings in ({"n_estimators": 12, "num_leaves": 60, "min_child_samples": 3}, {"min_child_samples": 1500}):
        trees = LGBMRegressor(n_jobs=1, verbose=-1, **settings).fit(x, y)
        ours = TreeContributions(tree_attributes(trees.booster_.dump_model()), x.shape[1])
        wanted = trees.predict(x[:60], pred_contrib=True)
        assert np.allclose(ours(x[:60]), wanted[:, :-1], atol=1e-9), settings
    with pytest.raises(CorruptState, match="holds no trees"):
        TreeContributions.read(b"{}", 7, "models/pump/1/trees.json")


def test_an_alarm_says_what_raises_it(taught: tuple[FailureTraining, Manifest]) -> None:
    settings, _ = taught
    given = rows({"vibration": [1.0, 6.0, 1.0], "age": [3.0, 40.0, 3.0]})
    judged = feed(FailureProbability(model="pump", version=1, store=str(settings.store)), given)
    shares = np.array(judged["contributions"][1].as_py())
    batch = judged.combine_chunks().to_batches()[0]
    assert judged["contributions"].is_valid().to_pylist() == [False, True, False]
    told = feed(Alarm(rule="likely", of="failure_probability", high=0.5), batch).to_pylist()
    assert [row["event"] for row in told] == ["raised", "cleared"]
    vibration = 100 * shares[0] / shares.sum()
    words = [f"vibration {vibration:.0f} %", f"age {100 - vibration:.0f} %"]
    if vibration < 50:
        words.reverse()
    assert told[0]["message"].endswith(
        f"high (failure_probability {told[0]['value']:.6g}), raised by {', '.join(words)}"
    )
    assert json.loads(told[0]["evidence"])["contributions"] == ", ".join(words)
    assert "raised by" not in told[1]["message"]
    of_another = feed(Alarm(rule="old", of="age", high=30), batch).to_pylist()[0]
    assert "raised by" not in of_another["message"], "nothing has contributed to a reading"


def test_a_version_without_its_trees_has_no_contributions(
    taught: tuple[FailureTraining, Manifest], tmp_path: Path
) -> None:
    settings, manifest = taught
    files = Store(settings.store).files("pump", 1)
    Store(tmp_path).add(manifest, {MODEL: files[MODEL]})
    given = rows({"vibration": [6.0], "age": [40.0]})
    said = feed(FailureProbability(model="pump", version=1, store=str(tmp_path)), given)
    assert (said["failure_probability"][0].as_py() > 0.5, said["contributions"].to_pylist()) == (True, [None])


def test_rows_that_know_what_lies_behind_a_border_are_left_out(tmp_path: Path) -> None:
    data = training(tmp_path, horizon="24h").dataset
    _, _, parts, about = _parted(data, pumps(), {})
    ends = {part: (int(places[0]), int(places[-1])) for part, places in parts.items()}
    assert ends["validate"][0] - ends["train"][1] == 25
    assert ends["test"][0] - ends["validate"][1] == 25
    assert ends["test"][1] == 6_000 - 1 - 24
    assert about["rows"] == 6_000 - 24


def test_what_judges_neither_teaches_nor_calibrates(tmp_path: Path) -> None:
    table = pumps()
    turned = table["fails"].to_numpy().copy()
    turned[-700:] = ~turned[-700:]
    other = table.set_column(table.column_names.index("fails"), "fails", pa.array(turned))
    first, second = (train_on(training(tmp_path), one, {}) for one in (table, other))
    assert first.files == second.files
    assert first.settings["logistic"] == second.settings["logistic"]
    assert first.metrics["brier"] < second.metrics["brier"]


def test_figures_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    outcome, said = random.uniform(size=500) < 0.2, np.round(random.uniform(size=500), 2)
    own = figures(outcome, said)
    assert own["auc"] == pytest.approx(roc_auc_score(outcome, said))
    assert own["average_precision"] == pytest.approx(average_precision_score(outcome, said))


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        ({"features": ["vibration", "fails"]}, "'fails' is the target and a feature, too"),
        ({"target": "age", "features": ["vibration"]}, "target 'age' has other values than 0 and 1"),
        ({"features": ["heat"]}, "the query gives no column 'heat'"),
        ({"test_from": "2024-07-20"}, "of either outcome are needed"),
    ],
)
def test_what_cannot_teach_is_refused(tmp_path: Path, dataset: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        train_on(training(tmp_path, **dataset), pumps(), {})


def test_the_sample_that_is_shipped_is_made_by_this_code(taught: tuple[FailureTraining, Manifest]) -> None:
    shipped, made = Store(SAMPLES).show("pump", 1), taught[1]
    assert shipped.inputs == made.inputs, "make it anew: python tests/models/test_failure.py"
    assert shipped.metrics["brier"] == pytest.approx(made.metrics["brier"], rel=0.05)


if __name__ == "__main__":
    import shutil

    shutil.rmtree(SAMPLES / "pump", ignore_errors=True)
    train_on(training(SAMPLES), pumps(), {})
    Store(SAMPLES).promote("pump", 1)
    (SAMPLES / "pump" / ".lock").unlink()
