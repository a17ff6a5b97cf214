"""Explanations: the feature that matters is named, what leaks is told, and what judges teaches nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner

import tocsin
from tocsin.cli import main
from tocsin.errors import ConfigError

MODELS = ("logistic regression", "decision tree", "boosted trees")


def frame(rows: int = 2000, seed: int = 1) -> pd.DataFrame:
    """Failures by torque and by one of three types; noise says nothing."""
    random = np.random.default_rng(seed)
    torque, noise = random.normal(size=(2, rows))
    kind = random.choice(["L", "M", "H"], rows)
    chance = 1 / (1 + np.exp(3 - 2.5 * torque - 1.5 * (kind == "L")))
    return pd.DataFrame({"torque": torque, "noise": noise, "kind": kind, "failed": random.random(rows) < chance})


def test_what_matters_comes_first_and_noise_last() -> None:
    made = tocsin.explain(frame(), target="failed")
    assert made.features == ("torque", "noise", "kind"), "the three texts are one feature"
    for name in (*MODELS, "SHAP share"):
        by_feature = dict(zip(made.importance["feature"].to_pylist(), made.importance[name].to_pylist(), strict=True))
        assert max(by_feature, key=lambda feature: by_feature[feature]) == "torque"
    base, *models = made.models.to_pylist()
    assert all(row["brier"] < base["brier"] and row["average_precision"] > 2 * base["base_rate"] for row in models)
    assert made.in_words(int(made.probability.argmax())).startswith("torque")
    assert len(made.rows) == 600
    assert made.rows.min() == 1400
    assert abs(made.probability.mean() - made.outcome.mean()) < 0.05


def test_rows_that_judge_teach_nothing() -> None:
    given = frame()
    turned = given.copy()
    turned.loc[1400:, "failed"] = ~turned.loc[1400:, "failed"]
    made, other = (tocsin.explain(one, target="failed") for one in (given, turned))
    assert (made.probability == other.probability).all()


def test_rows_are_split_by_time_and_those_without_a_target_are_left_out() -> None:
    given = frame().assign(time=pd.date_range("2026-01-01", periods=2000, freq="h"))
    given["failed"] = given["failed"].astype("boolean")
    given.loc[3, "failed"] = pd.NA
    made = tocsin.explain(given.iloc[::-1].reset_index(drop=True), target="failed", time="time")
    assert made.left_out == 1
    assert made.rows.max() == 599
    assert "time" not in made.features


def test_a_leak_is_named() -> None:
    given = frame()
    given["repaired"] = given["failed"].astype(float)
    assert tocsin.explain(given, target="failed").leaks == {"repaired": 1.0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"failed": "yes"}, "a target is 0 and 1"),
        ({"failed": False}, "is the same in all"),
        ({"kind": [str(i) for i in range(2000)]}, "explain nothing"),
    ],
)
def test_what_cannot_be_explained_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tocsin.explain(pa.table(frame().assign(**change)), target="failed")


def test_the_command_writes_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    given = frame().rename(columns={"torque": "<torque>"})
    given["failed"] = given["failed"].astype(int)
    given.to_csv(tmp_path / "data.csv", index=False)
    page = tmp_path / "page.html"
    made = CliRunner().invoke(main, ["explain", str(tmp_path / "data.csv"), "--target", "failed", "-o", str(page)])
    assert made.exit_code == 0, made.output
    text = page.read_text()
    assert "&lt;torque&gt;" in text
    assert "Reliability" in text
    assert "<script src" not in text
    wrong = CliRunner().invoke(main, ["explain", str(tmp_path / "data.csv"), "--target", "fialed"])
    assert wrong.exit_code == 2
    assert "there is no column 'fialed'" in wrong.output
