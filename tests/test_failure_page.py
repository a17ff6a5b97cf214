"""The page on failures within a horizon: what it shows runs, and the report has what it promises."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from page_of_docs import PageOfDocs

from tocsin.cli import main
from tocsin.models.store import Store

PAGE = PageOfDocs("failure")


def test_what_the_page_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (data,), files = PAGE.shown("python"), PAGE.shown("yaml")
    exec(data, {})
    for name, content in zip(("pumps.yaml", "pump-failure.yaml", "steps.yaml"), files, strict=True):
        (tmp_path / name).write_text(content)
    printed = []
    for line in "".join(PAGE.shown("sh")).splitlines():
        command, _, out = line.partition(" > ")
        done = CliRunner().invoke(main, shlex.split(command)[1:])
        assert done.exit_code == 0, done.output
        if out:
            (tmp_path / out).write_text(done.stdout)
        printed.append(done.output)
    manifest = Store().show("pump-failure", 1)
    assert manifest.is_better
    assert manifest.data["tables"].keys() == {"pumps"}
    assert "pump-failure 1 is better than" in printed[-1]
    assert "Reliability" in (tmp_path / "report.html").read_text(encoding="utf-8")
