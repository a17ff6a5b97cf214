"""The page on downtime and OEE: all that it shows runs and gives what it says."""

from __future__ import annotations

import doctest
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from page_of_docs import PageOfDocs

from tocsin.cli import main
from tocsin.lake.read import read

PAGE = PageOfDocs("downtime")


def typed(block: str) -> list[str]:
    """What the commands of a block print."""
    commands: list[list[str]] = []
    for word in shlex.split(block):
        if word == "tocsin":
            commands.append([])
        else:
            commands[-1].append(word)
    printed = []
    for command in commands:
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
        printed.append(done.output)
    return printed


def test_what_the_page_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (data,), (pipeline,), (python,) = PAGE.shown("json"), PAGE.shown("yaml"), PAGE.shown("python")
    (tmp_path / "press.ndjson").write_text(data)
    (tmp_path / "downtime.yaml").write_text(pipeline)
    run, queries = PAGE.shown("sh")
    assert "0.667" in typed(run)[1]
    line, pareto = typed(queries)
    assert "hall" in line
    assert pareto.index("jam") < pareto.index("slip")
    (row,) = read("oee").to_pylist()
    # Of 7.5 hours without cleaning it ran 6.5, slips included, and made 920 parts, of which 900 were good.
    assert row["oee"] == pytest.approx(6.5 / 7.5 * (920 * 20 / (6.5 * 3600)) * (900 / 920))
    assert (row["total"], row["good"], row["stops"]) == (920, 900, 1)
    examples = doctest.DocTestParser().get_doctest(python, {}, "downtime.md", "downtime.md", 0)
    assert doctest.DocTestRunner().run(examples) == doctest.TestResults(failed=0, attempted=len(examples.examples))
