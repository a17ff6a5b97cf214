"""The backtest of a failure probability: figures, reliability plot, and what is refused, by the shipped sample."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pumps import pumps

from tocsin.cli import main
from tocsin.models import SAMPLES
from tocsin.models.store import Store


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """Steps that end with the shipped model, and a file with what happened to pumps it has not seen."""
    pq.write_table(pumps(3_000, seed=8, start_us=1_730_000_000_000_000), tmp_path / "pumps.parquet")
    file = tmp_path / "steps.yaml"
    file.write_text(f"failure_probability: {{model: pump, store: {SAMPLES}}}\n")
    return file


def test_figures_stand_beside_plain_methods_and_the_report_has_the_reliability_plot(steps: Path) -> None:
    data, report = steps.with_name("pumps.parquet"), steps.with_name("report.html")
    result = CliRunner().invoke(main, ["backtest", str(steps), str(data), "--format", "json", "-o", str(report)])
    assert result.exit_code == 0, result.output
    told = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    brier = {row["model"]: row["brier"] for row in told if "model" in row}
    assert brier["pump 1"] < brier["logistic"] < brier["base_rate"]
    ranges = [row for row in told if "to" in row]
    assert sum(row["rows"] for row in ranges) == 2_999  # what happened in the hour after the last one is not known
    assert all(row["lower"] <= row["happened"] <= row["upper"] for row in ranges)
    assert "pump 1 is better than logistic" in result.stderr
    assert "Reliability" in report.read_text(encoding="utf-8")


def test_rows_that_taught_do_not_judge(steps: Path) -> None:
    data = steps.with_name("pumps.parquet")
    since = Store(SAMPLES).show("pump", 1).data["validate_from"]
    result = CliRunner().invoke(main, ["backtest", str(steps), str(data), "--since", since])
    assert result.exit_code == 2
    assert "taught the model or calibrated it" in result.output
    begin = re.search(r"rows before (\S+) taught", result.output)
    assert begin is not None, result.output
    result = CliRunner().invoke(main, ["backtest", str(steps), str(data), "--since", begin[1]])
    assert result.exit_code == 0, result.output


def test_later_rows_judge_where_nothing_is_known_of_the_last_ones(steps: Path) -> None:
    data = steps.with_name("pumps.parquet")
    last = pq.read_table(data)["time"][-1].as_py()
    result = CliRunner().invoke(main, ["backtest", str(steps), str(data), "--since", last.isoformat()])
    assert "on no row has a probability and an outcome; give later rows" in result.output
    pq.write_table(pumps(3_500, seed=8, start_us=1_730_000_000_000_000), data)
    result = CliRunner().invoke(main, ["backtest", str(steps), str(data), "--since", last.isoformat()])
    assert result.exit_code == 0, result.output


def test_what_happened_must_be_in_the_file(steps: Path) -> None:
    data = steps.with_name("pumps.parquet")
    pq.write_table(pq.read_table(data).drop_columns(["fails"]), data)
    result = CliRunner().invoke(main, ["backtest", str(steps), str(data)])
    assert result.exit_code == 2
    assert "no column 'fails' reaches failure_probability" in result.output
