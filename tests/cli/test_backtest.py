"""`tocsin backtest`: figures against plain sums, the report, and what a mistake is told."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tocsin.cli import main
from tocsin.cli.backtest import backtest

HOURS = 24 * 100


def steps(folder: Path, text: str = "forecast: {of: heat, every: 1h, season: 24, inputs: outside}") -> Path:
    path = folder / "steps.yaml"
    path.write_text(text)
    return path


def heating(folder: Path, name: str = "heating.csv") -> Path:
    """Two sites, heated by the weather of the hour before, with a shift; every hundredth reading is lost."""
    random = np.random.default_rng(4)
    hours = np.datetime64("2026-01-01T00", "h") + np.arange(HOURS)
    lines = []
    for site in ("north", "south"):
        outside = np.cumsum(random.normal(0, 1, HOURS)) * 0.3
        heat = 100 - 5 * np.r_[0, outside[:-1]] + 20 * (np.arange(HOURS) % 24 > 12) + random.normal(0, 1, HOURS)
        for i, hour in enumerate(hours):
            lines.append(f"{hour}:00:00Z,{site},{'' if i % 100 == 50 else round(heat[i], 2)},{outside[i]:.2f}")
    path = folder / name
    path.write_text("\n".join(["time,site,heat,outside", *sorted(lines)]))
    return path


def plain(values: Sequence[float | None], lower: Sequence[float | None], upper: Sequence[float | None]) -> float:
    """The mean quantile loss of both bounds, written out."""
    losses = []
    for y, low, high in zip(values, lower, upper, strict=True):
        assert y is not None
        assert low is not None
        assert high is not None
        losses.append(0.05 * (y - low) if y >= low else 0.95 * (low - y))
        losses.append(0.95 * (y - high) if y >= high else 0.05 * (high - y))
    return math.fsum(losses) / len(losses)


def test_figures_against_plain_sums(tmp_path: Path) -> None:
    made = backtest(steps(tmp_path), heating(tmp_path), since="2026-02-10", key="site")
    assert made.names == ("ridge", "persistence", "seasonal_naive")
    rows = made.scored
    assert made.times[rows].min() == np.datetime64("2026-02-10T00", "us").astype(np.int64)
    said = made.said["ridge"]
    y, yhat = made.y[rows].tolist(), said.yhat[rows].tolist()
    lower, upper = said.lower[rows].tolist(), said.upper[rows].tolist()
    first = made.overall().to_pylist()[0]
    assert first["readings"] == len(y) > 2000
    assert first["rmse"] == pytest.approx(math.sqrt(sum((a - b) ** 2 for a, b in zip(y, yhat, strict=True)) / len(y)))
    assert first["mae"] == pytest.approx(sum(abs(a - b) for a, b in zip(y, yhat, strict=True)) / len(y))
    assert first["pinball"] == pytest.approx(plain(y, lower, upper))
    assert first["covered"] == pytest.approx(sum(a <= b <= c for a, b, c in zip(lower, y, upper, strict=True)) / len(y))
    assert first["width"] == pytest.approx(sum(b - a for a, b in zip(lower, upper, strict=True)) / len(y))
    for table in (made.overall(), made.by_month()):
        assert sum(table["readings"].to_pylist()) % len(y) == 0
    assert made.by_month().num_rows == 2
    assert made.by_month()["from"][0].as_py() == "2026-02-10 00:00"


def test_the_last_reading_is_that_of_the_same_series_and_the_same_readings_count_for_all(tmp_path: Path) -> None:
    made = backtest(steps(tmp_path), heating(tmp_path), since="2026-02-10", key="site")
    keys = np.array(made.keys.cast(pa.string()).to_pylist())
    for site in ("north", "south"):
        own = keys == site
        y, yhat = made.y[own], made.said["persistence"].yhat[own]
        together = np.diff(made.times[own]) == 3_600_000_000
        assert np.array_equal(y[:-1][together], yhat[1:][together], equal_nan=True)
    assert len({row["readings"] for row in made.overall().to_pylist()}) == 1


def test_what_it_prints_and_the_report(tmp_path: Path) -> None:
    data = heating(tmp_path, "<b>heating.csv")
    out = tmp_path / "report.html"
    done = CliRunner().invoke(
        main, ["backtest", str(steps(tmp_path)), str(data), "--key", "site", "-o", str(out), "--format", "json"]
    )
    assert done.exit_code == 0, done.output
    assert "ridge is better than persistence" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["forecaster"] for line in lines[:3]] == ["ridge", "persistence", "seasonal_naive"]
    assert lines[0]["ratio"] < 0.7
    assert 0.88 < lines[0]["covered"] < 0.92
    text = out.read_text()
    body = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "ridge is better than persistence" in body
    assert "<b>heating" not in body
    assert "&lt;b&gt;heating" in body
    assert not re.findall(r"(?:src|href)\s*=", body), "it must work offline"
    assert f"<td>{lines[0]['rmse']:.4g}</td>" in body
    assert text.count("plotly-graph-div") == 4


def test_what_is_not_better_is_told(tmp_path: Path) -> None:
    job = steps(tmp_path, "forecast: {of: heat, season: 7, method: seasonal_naive}")
    done = CliRunner().invoke(main, ["backtest", str(job), str(heating(tmp_path)), "--key", "site"])
    assert done.exit_code == 0
    assert "seasonal_naive is NOT better than persistence" in done.stderr


def test_steps_before_and_a_bare_name(tmp_path: Path) -> None:
    data = heating(tmp_path)
    job = steps(tmp_path, "- derive: {heat: heat * 2}\n- forecast: {of: heat, every: 1h}\n")
    doubled = backtest(job, data, key="site").overall().to_pylist()
    bare = backtest(Path("forecast"), data, value="heat", key="site").overall().to_pylist()
    assert [row["forecaster"] for row in bare] == ["ridge", "persistence"]
    # Without `every` a row without a number is a gap all the same, so that both forecast the same.
    assert doubled[0]["rmse"] == pytest.approx(2 * bare[0]["rmse"])


@pytest.mark.parametrize(
    ("job", "options", "says"),
    [
        ("novelty", [], "end with forecast"),
        ("forecast: {of: pressure}", [], "'pressure'"),
        ("forecast: {of: heat}", ["--since", "yesterday"], "2026-01-31"),
        ("forecast: {of: heat}", ["--since", "2027-01-01"], "earlier --since"),
        ("forecast: {of: heat}", ["--key", "hall"], "'hall'"),
        ("forecast: {of: heat}", ["-o", "nowhere/report.html"], "make it first"),
        ("[{keep: heat > 1e9}, {forecast: {of: heat}}]", [], "no row"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tmp_path: Path, job: str, options: list[str], says: str) -> None:
    done = CliRunner().invoke(main, ["backtest", str(steps(tmp_path, job)), str(heating(tmp_path)), *options])
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_model_is_judged_by_rows_from_when_it_says(trained: Path) -> None:
    words = ["backtest", str(model(trained)), str(trained / "plant.parquet"), "--key", "machine", "--since"]
    refused = CliRunner().invoke(main, [*words, "2020-09-14"]).stderr
    told = re.search(r"rows before (\S+) taught .*; judge it by those from then on", refused)
    assert told is not None, refused
    done = CliRunner().invoke(main, [*words, told[1]])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of `plant`, two versions of which one is the champion, and the plant as a file."""
    pytest.importorskip("jax")
    from models.trained import plant, series, training

    from tocsin.models.store import Store
    from tocsin.models.train import train_on

    folder = tmp_path_factory.mktemp("trained")
    for epochs in (15, 1):
        settings = training(folder / "models", epochs=epochs)
        train_on(settings, series(settings))
    Store(folder / "models").promote("load", 1)
    pq.write_table(plant(), folder / "plant.parquet")
    return folder


def model(folder: Path, more: str = "") -> Path:
    return steps(folder, f"model: {{model: load, store: '{folder / 'models'}'{more}}}")


def test_a_trained_model_stands_beside_plain_ones_after_its_training_only(trained: Path) -> None:
    from tocsin.models.store import Store

    made = backtest(model(trained), trained / "plant.parquet", key="machine")
    manifest = Store(trained / "models").show("load", 1)
    assert made.names == ("load 1", "persistence", "seasonal_naive", "ridge")
    begin = f"{np.datetime64(int(made.times[made.scored].min()), 'us').astype('datetime64[s]')}Z"
    assert begin >= manifest.data["test_from"]
    told = {row["forecaster"]: row for row in made.overall().to_pylist()}
    # What was said of it after training, over the same hours but for those that the others say nothing of.
    assert told["load 1"]["rmse"] == pytest.approx(manifest.metrics["rmse"], rel=0.05)
    assert told["seasonal_naive"]["rmse"] == pytest.approx(manifest.baselines["seasonal_naive"]["rmse"], rel=0.05)
    assert told["load 1"]["readings"] > 0.9 * manifest.metrics["readings"]
    assert 0.8 < told["load 1"]["covered"] <= 1
    late = backtest(model(trained), trained / "plant.parquet", since="2020-10-06", key="machine")
    assert 0 < late.scored.sum() < made.scored.sum()


def test_a_model_that_is_not_better_says_so_and_its_shadow_is_judged_too(trained: Path) -> None:
    made = backtest(model(trained, ", shadow: 2"), trained / "plant.parquet", key="machine")
    assert made.names[:2] == ("load 1", "load 2 (shadow)")
    rmse = {row["forecaster"]: row["rmse"] for row in made.overall().to_pylist()}
    assert rmse["load 2 (shadow)"] > rmse["load 1"]
    best = min(rmse, key=lambda name: rmse[name])
    assert ("NOT" in made.verdict()) == (best != "load 1")


@pytest.mark.parametrize(
    ("since", "store", "says"),
    [
        ("2020-09-14", "models", "taught the model"),
        ("2021-01-01", "models", "readings after what taught it"),
        (None, "nowhere", "tocsin train"),
    ],
)
def test_what_taught_a_model_cannot_judge_it(trained: Path, since: str | None, store: str, says: str) -> None:
    options = ["--since", since] if since else []
    job = steps(trained, f"model: {{model: load, store: '{trained / store}'}}")
    done = CliRunner().invoke(
        main, ["backtest", str(job), str(trained / "plant.parquet"), "--key", "machine", *options]
    )
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
