"""Models of texts: the ONNX model says what scikit-learn says; what is chosen, refused, and shipped as an example."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tocsin.errors import ConfigError
from tocsin.estimate.classify import Classify
from tocsin.models import SAMPLES
from tocsin.models.manifest import MODEL
from tocsin.models.store import Store
from tocsin.models.text import CANDIDATES, Candidate, TextClassifier, TextModel, train, version
from tocsin.testing import feed, refusal, rows

WORDS = {
    "hydraulics": "hydraulic pump leaking oil|oil pressure low at the pump|hose leaking hydraulic fluid|cylinder seal "
    "leaking oil|hydraulic fluid low, pump noisy|pressure valve of the pump stuck|oil leak at hose and valve",
    "electrical": "fuse blown, no power|power supply fuse blown again|motor cable burnt, no power|sensor cable broken"
    "|relay burnt, fuse replaced|no signal from sensor, cable loose|power relay and cable replaced",
    "mechanical": "bearing worn, noisy|gear tooth broken, gearbox noisy|bearing of gearbox worn out|shaft bent, "
    "bearing replaced|belt torn and shaft worn|gearbox shaft misaligned|belt and gear worn",
}
TEXTS = [text for texts in WORDS.values() for text in texts.split("|")]
CLASSES = [name for name, texts in WORDS.items() for _ in texts.split("|")]
ODD = ["", "  ", "nothing of it", "PUMP", "Öl leaking ÖL straße", "fuse\n\tblown!!! fuse FUSE", "pump_2 oil-pump 3"]
TWO = [i for i, name in enumerate(CLASSES) if name != "electrical"]


def loaded(model: TextModel) -> TextClassifier:
    manifest, files = version("trade", "text", model, (TEXTS, CLASSES))
    return TextClassifier(manifest, files, "here")


@pytest.mark.parametrize("candidate", [CANDIDATES[1], CANDIDATES[-2]], ids=lambda c: c.method)
@pytest.mark.parametrize("count", [2, 3])
def test_onnx_says_what_scikit_learn_says(candidate: Candidate, count: int) -> None:
    chosen = range(len(TEXTS)) if count == 3 else TWO
    model = train([TEXTS[i] for i in chosen], [CLASSES[i] for i in chosen], [candidate])
    texts = TEXTS + ODD + [" ".join(TEXTS) * 50]
    classes, confidence = loaded(model).classify(texts)
    known = np.asarray(model.vectoriser.transform(map(str.lower, texts)).getnnz(axis=1)) > 0
    assert [name is not None for name in classes] == known.tolist()
    wanted, shares = model.predict(texts), model.probabilities(texts).max(axis=1)
    assert [name for name in classes if name] == [name for name, some in zip(wanted, known, strict=True) if some]
    assert np.allclose(confidence[known], shares[known], atol=1e-5)
    assert np.isnan(confidence[~known]).all()
    assert model.classifier.predict(model.vectoriser.transform(texts[:3])).tolist() == wanted[:3]


def test_what_cross_validation_finds_best_is_chosen() -> None:
    useless = Candidate("linear", 1e6)
    model = train(TEXTS, CLASSES, [useless, CANDIDATES[1]])
    assert model.accuracies[useless] < model.accuracies[CANDIDATES[1]]
    assert model.chosen == CANDIDATES[1]


def test_same_texts_same_model() -> None:
    assert train(TEXTS, CLASSES).to_onnx() == train(TEXTS, CLASSES).to_onnx()


def test_confidence_is_that_of_held_back_texts() -> None:
    """Where texts say nothing of their class, a model that is sure of itself is wrong."""
    random = np.random.default_rng(3)
    texts = [" ".join(random.choice(["oil", "fuse", "gear", "pump", "belt"], 4)) for _ in range(300)]
    classes = random.choice(["a", "b"], 300).tolist()
    model = train(texts, classes, [Candidate("linear", 3e-5)])
    assert model.probabilities(texts).max(axis=1).mean() < 0.65


@pytest.mark.parametrize(
    ("texts", "classes", "said"),
    [
        (["a b", "c d"], ["x"], "2 texts and 1 classes"),
        (TEXTS[:5], CLASSES[:5], "two or more"),
        ([*TEXTS, "alone"], [*CLASSES, "lonely"], "class 'lonely' has 1 texts"),
    ],
)
def test_what_cannot_be_taught_is_refused(texts: list[str], classes: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train(texts, classes)


def sample_version() -> tuple[object, bytes]:
    manifest, files = version("trade", "text", train(TEXTS, CLASSES), (TEXTS, CLASSES), "trade")
    return manifest, files[MODEL]


def test_the_sample_that_is_shipped_is_made_by_this_code() -> None:
    kept = Store(SAMPLES).files("trade", 1)[MODEL]
    assert kept == sample_version()[1], "make it anew: python tests/models/test_text_models.py"


def test_a_model_that_is_not_there_is_told_before_data_flows(tmp_path: Path) -> None:
    given = rows({"text": ["pump"]}).schema
    assert "tocsin train" in refusal(lambda: Classify(model="none", store=str(tmp_path)).output_schema(given))
    assert "no version 7" in refusal(
        lambda: Classify(model="trade", version=7, store=str(SAMPLES)).output_schema(given)
    )
    store = Store(tmp_path)
    manifest, files = version("trade", "text", train(TEXTS, CLASSES), (TEXTS, CLASSES))
    store.add(manifest, files)
    assert "promote" in refusal(lambda: Classify(model="trade", store=str(tmp_path)).output_schema(given))
    store.promote("trade", 1)
    assert feed(Classify(model="trade", store=str(tmp_path)), rows({"text": ["pump leaking"]}))["class"][0].as_py()
    path = tmp_path / "trade" / "1" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kind": "forecaster"}))
    with pytest.raises(Exception, match="does not match its signature"):
        feed(Classify(model="trade", store=str(tmp_path)), rows({"text": ["pump"]}))


def test_below_the_confidence_wanted_there_is_no_class() -> None:
    log = rows({"text": ["hydraulic pump leaking oil", "noisy"]})
    step = Classify(model="trade", store=str(SAMPLES))
    sure, unsure = feed(step, log)["confidence"].to_pylist()
    limit = (sure + unsure) / 2
    left = feed(Classify(model="trade", store=str(SAMPLES), confidence_min=limit), log)
    assert left["class"].to_pylist() == ["hydraulics", None]
    assert left["confidence"].to_pylist() == [sure, unsure]


if __name__ == "__main__":
    import shutil

    shutil.rmtree(SAMPLES, ignore_errors=True)
    manifest, content = sample_version()
    Store(SAMPLES).add(manifest, {MODEL: content})  # type: ignore[arg-type]
    Store(SAMPLES).promote("trade", 1)
    (SAMPLES / "trade" / ".lock").unlink()
