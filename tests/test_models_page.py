"""The page on models: what it shows runs, and gives what it states."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from page_of_docs import PageOfDocs

from tocsin.cli import main
from tocsin.edge.device import DeviceSettings, Process
from tocsin.lake.read import read
from tocsin.models.store import Store

PAGE = PageOfDocs("models")


def test_what_the_page_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax")
    monkeypatch.chdir(tmp_path)
    exec(PAGE.shown("python")[0], {})
    for name, text in zip(("heating", "load", "live", "trees", "load-steps"), PAGE.shown("yaml"), strict=True):
        Path(f"{name}.yaml").write_text(text)
    printed = {}
    for line in "".join(PAGE.shown("sh")).splitlines():
        program, *words = shlex.split(line)
        if program == "tocsin":
            done = CliRunner().invoke(main, words)
            assert done.exit_code == 0, done.output
            printed[line] = done.output
        else:
            subprocess.run([program, *words], check=True, timeout=30)
    first = Store("models").show("load", 1)
    assert first.metrics["rmse"] < 0.5 * first.baselines["persistence"]["rmse"]
    assert first.data["tables"].keys() == {"heating"}
    judged = next(output for line, output in printed.items() if line.startswith("tocsin backtest"))
    assert "load 1 is better than" in judged
    assert "load 2 (shadow)" in judged
    assert "settings.units: 8 -> 12" in printed["tocsin models diff load 1 2"]
    forecasts = read("forecasts", "live-data")
    assert forecasts["version"].drop_null().unique().to_pylist() == [1]
    assert read("surprises", "live-data").num_rows < 0.2 * forecasts.num_rows
    (told,) = PAGE.shown("json")
    Path("edge.json").write_text(json.dumps(json.loads(told) | {"url": "mqtt://127.0.0.1:1"}))
    process = Process(DeviceSettings.read("edge.json"))
    process.turn(0.0)
    assert process.device.counts["bundles"] == 1
    process.close()
