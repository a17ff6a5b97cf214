"""Multivariate: against a reference in plain numpy, and its place in the Skoltech benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data_folder import DATA

from tocsin.condition.derive import Derive
from tocsin.condition.keep import Keep
from tocsin.detect.multivariate import Multivariate
from tocsin.notify.alarm import Alarm
from tocsin.serve.alarm_list import AlarmList
from tocsin.testing import feed, rows

ROOT = Path(__file__).parent.parent.parent


def test_against_numpy() -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(300, 3)) @ random.normal(size=(3, 3))
    verdict = feed(Multivariate(of=("a", "b", "c"), learn=200, span=4), rows(dict(zip("abc", x.T, strict=True))))
    center = np.median(x[:200], axis=0)
    scaled = (x - center) / (1.4826 * np.median(np.abs(x[:200] - center), axis=0))
    smooth, last = [], scaled[0]
    for row in scaled:
        last = last + 0.4 * (row - last)
        smooth.append(last)
    off = np.array(smooth) - np.mean(smooth[:200], axis=0)
    variances, directions = np.linalg.eigh(np.cov(np.array(smooth[:200]).T))
    variances, along = variances[::-1], off @ directions[:, ::-1]
    k = min(int(np.searchsorted(np.cumsum(variances) / variances.sum(), 0.97)) + 1, 2)
    t2, spe = (along[:, :k] ** 2 / variances[:k]).sum(1), (along[:, k:] ** 2).sum(1)
    np.testing.assert_allclose(verdict["t2"].to_numpy()[200:], (t2 / np.quantile(t2[:200], 0.99))[200:], rtol=1e-6)
    np.testing.assert_allclose(verdict["spe"].to_numpy()[200:], (spe / np.quantile(spe[:200], 0.99))[200:], rtol=1e-6)
    total = verdict["t2"].to_numpy() + verdict["spe"].to_numpy()
    parts = np.array(verdict["contributions"].to_pylist()[200:])
    np.testing.assert_allclose(parts.sum(axis=1), total[200:], rtol=1e-6)


def test_an_alarm_on_its_score_says_what_raises_it_also_behind_other_steps() -> None:
    random = np.random.default_rng(5)
    a, b, c = random.normal(size=(3, 600))
    c[500:] += 8
    steps = (
        Multivariate(of=("a", "b", "c"), learn=300),
        Derive(columns={"double": "2 * a"}),
        Keep(where="score is not null"),
        Alarm(rule="strange", score=75),
    )
    left = rows({"a": a, "b": b, "c": c})
    for step in steps:
        left = feed(step, left).combine_chunks().to_batches()[0]
    first = left.to_pylist()[0]
    assert first["event"] == "raised"
    assert ", raised by c " in first["message"]
    words = json.loads(first["evidence"])["contributions"]
    assert first["message"].endswith(f", raised by {words}")
    assert words.startswith("c ")
    shown = AlarmList()
    shown.take(pa.Table.from_batches([left]))
    (one,) = shown.by_id.values()
    assert one.contributions == json.loads(left.to_pylist()[-1]["evidence"]).get("contributions", "")


def test_names_the_signal_that_is_off() -> None:
    random = np.random.default_rng(5)
    a, b, c = random.normal(size=(3, 600))
    c[500:] += 8
    verdict = feed(Multivariate(of=("a", "b", "c")), rows({"a": a, "b": b, "c": c}))
    assert set(verdict["cause"].to_pylist()[520:]) == {"c"}
    assert all(verdict["abnormal"].to_pylist()[520:])


def test_a_row_with_a_hole_has_no_verdict_and_teaches_nothing() -> None:
    a, b = np.random.default_rng(5).normal(size=(2, 500))
    whole = feed(Multivariate(of=("a", "b"), learn=100), rows({"a": a, "b": b}))
    a2, b2 = np.insert(a, 50, np.nan), np.insert(b, 50, 1.0)
    holed = feed(Multivariate(of=("a", "b"), learn=100), rows({"a": a2, "b": b2}))
    assert holed["score"][50].as_py() is None
    assert holed["score"].to_pylist()[51:] == whole["score"].to_pylist()[50:]


@pytest.mark.skipif(not (DATA / "skab").is_dir(), reason="SKAB is not in the data folder ($TOCSIN_DATA)")
def test_skoltech_benchmark() -> None:
    bench = subprocess.run(
        [sys.executable, ROOT / "bench" / "skab.py", DATA / "skab"], capture_output=True, text=True, check=True
    )
    figures = json.loads(bench.stdout.splitlines()[-1])
    ours = figures["multivariate"]
    assert ours["f1"] >= 0.78 > figures["everything_anomalous"]["f1"]
    assert ours["far_percent"] <= 25
    assert ours["mar_percent"] <= 23
