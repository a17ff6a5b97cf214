"""The page on watch: what it shows runs, and says what it states."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from page_of_docs import PageOfDocs

from tocsin.cli import main

PAGE = PageOfDocs("watch")


def test_what_the_page_on_watch_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (data,) = PAGE.shown("python")
    exec(data, {})
    printed = ""
    for line in "".join(PAGE.shown("sh")).splitlines():
        done = CliRunner().invoke(main, shlex.split(line)[1:])
        assert done.exit_code == 0, done.output
        printed += done.output
    for text in PAGE.shown("text"):
        for line in text.splitlines():
            assert line in printed
    assert re.search(r"Presse 2 +\S* *2000", printed)


def test_the_page_counts_the_samples_that_there_are() -> None:
    samples = len(list((Path(__file__).parent / "infer" / "samples").iterdir()))
    assert (
        f"of {samples} devices' formats in `tests/infer/samples`, written down from their documentation, {samples}."
        in PAGE.text
    )
