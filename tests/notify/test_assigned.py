"""The stream that the docs show tells of an alarm that is given to somebody, once the pipeline takes it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner
from page_of_docs import PageOfDocs

from tocsin.cli import main

PIPELINE = """
name: plant
source: {files: in.ndjson}
decode: {json: {columns: {machine: text, t: timestamp, celsius: float}}}
key: machine
time: t
streams:
  alarms: {steps: [{alarm: {rule: hot, of: celsius, high: 80}}], sinks: [{delta: alarms}]}
"""


def tocsin(*words: str) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise's matter
def test_an_alarm_that_is_given_to_somebody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ({"machine": "oven", "t": f"2026-03-01T00:00:{i:02}Z", "celsius": 60 + i} for i in range(40))
    Path("in.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (given,) = (text for text in PageOfDocs("page").shown("yaml") if text.startswith("given:"))
    Path("plant.yaml").write_text(PIPELINE + textwrap.indent(given, "  "))
    assert "is given to" not in tocsin("run", "plant.yaml")
    tocsin("alarms", "assign", "hot:oven", "ann", "--by", "bob")
    assert "oven: hot is given to ann by bob" in tocsin("run", "plant.yaml")
