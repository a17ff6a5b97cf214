"""The page on forecasting: what it shows runs, and gives the figures that it states."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from page_of_docs import PageOfDocs

from tocsin.cli import main
from tocsin.lake.read import read

PAGE = PageOfDocs("forecasting")


def test_what_the_page_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (data,), (pipeline, steps) = PAGE.shown("python"), PAGE.shown("yaml")
    exec(data, {})
    (tmp_path / "heating.yaml").write_text(pipeline)
    (tmp_path / "heating-steps.yaml").write_text(steps)
    printed = []
    for line in "".join(PAGE.shown("sh")).splitlines():
        done = CliRunner().invoke(main, shlex.split(line)[1:])
        assert done.exit_code == 0, done.output
        printed.append(done.output)
    told = re.search(r"It gives ([\d.]+) against ([\d.]+), and ([\d.]+) of the readings", PAGE.text)
    assert told is not None
    for figure in told.groups():
        assert figure in printed[2], printed[2]
    (verdict,) = re.findall(r"^It says: (.*)\.$", PAGE.text, re.MULTILINE)
    assert verdict in printed[4]
    assert (tmp_path / "report.html").exists()
    forecast = read("forecast").sort_by("time")
    assert forecast.num_rows == 120 * 24 - 6
    ahead, yhat, hour = forecast["ahead"].to_numpy(), forecast["yhat"].to_numpy(), forecast["time"].to_numpy()
    follows = np.diff(hour) == np.timedelta64(1, "h")
    assert (ahead[:-1][follows] == yhat[1:][follows]).all(), "yhat is what was given out as ahead"
    assert np.isnan(yhat[1:][~follows]).all()
