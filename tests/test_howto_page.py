"""The page of tasks: each pipeline that it shows is one, each link leads somewhere, each command exists."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from page_of_docs import PageOfDocs

from tocsin.cli import main
from tocsin.lake.read import read

DOCS = Path(__file__).parent.parent / "docs"
PAGE = PageOfDocs("howto")
BEGIN = datetime(2026, 3, 1, 6, tzinfo=UTC)


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise's matter
@pytest.mark.parametrize("text", PAGE.shown("yaml"), ids=lambda text: text.split()[1])
def test_each_file_is_a_pipeline(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "BROKER_PASSWORD": "a",
        "MAIL_PASSWORD": "b",
        "SLACK_URL": "slack://TokenAAAA/TokenBBBB/TokenCCCCCCCCCCCCCCCCCC",
    }
    for name, value in {**secrets, "TEAMS_URL": "https://teams.example/hook"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shown.yaml").write_text(text)
    done = CliRunner().invoke(main, ["check", "shown.yaml"])
    assert done.exit_code == 0, done.output


def shown(name: str, *changes: tuple[str, str]) -> str:
    """The file of a task, by its name, with another source and nobody to be told elsewhere."""
    (text,) = (one for one in PAGE.shown("yaml") if one.startswith(f"name: {name}\n"))
    for pattern, there in changes:
        text, count = re.subn(pattern, lambda _, there=there: there, text)
        assert count == 1, pattern
    return text


def run(text: str) -> None:
    Path("shown.yaml").write_text(text)
    done = CliRunner().invoke(main, ["run", "shown.yaml"])
    assert done.exit_code == 0, done.output


def rung() -> list[dict[str, Any]]:
    return [row for row in read("alarms").sort_by("time").to_pylist() if row["ring"]]


FILES = (r"source: \{mqtt: .*\}\}\n", 'source: {files: {path: "*/*/telemetry", format: ndjson}}\n')
CONSOLE = (r"notify: \{to: (?:\[.*?\]|\".*?\"),", "notify: {to: console,")


def report(machine: str, rows: list[dict[str, Any]]) -> None:
    """Let a machine report under the name of its topic, in this folder."""
    Path(f"plant/{machine}").mkdir(parents=True)
    Path(f"plant/{machine}/telemetry").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_decimal_comma_is_read_as_the_task_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("werk").mkdir()
    lines = ["Anlage;Zeit;Druck", "Presse 1;24.11.2026 06:00:00;1.120,75", "Presse 1;24.11.2026 06:00:10;"]
    Path("werk/a.csv").write_text("\n".join(lines) + "\n")
    run(shown("werk", (", follow: true", "")))
    kept = read("readings").sort_by("time").select(["key", "time", "druck"]).to_pylist()
    assert kept == [
        {"key": "Presse 1", "time": datetime(2026, 11, 24, 5, 0, second, tzinfo=UTC), "druck": pressure}
        for second, pressure in ((0, 1120.75), (10, None))
    ]


def test_a_machine_that_is_no_longer_as_it_was_rings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(1).normal(0, 1, (900, 2))
    for machine, hotter in (("a", 0), ("b", 15)):
        rows = [
            {"ts": f"{BEGIN + timedelta(seconds=i):%FT%TZ}", "celsius": 60 + noise[i, 0], "vibration": 3 + noise[i, 1]}
            for i in range(900)
        ]
        report(machine, [row | {"celsius": row["celsius"] + hotter * (i > 800)} for i, row in enumerate(rows)])
    run(shown("watched", FILES, CONSOLE))
    assert [row["key"] for row in rung()] == ["b"]


def test_what_stops_reporting_rings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for machine, silence in (("a", range(0)), ("b", range(300, 590))):
        seconds = (i for i in range(600) if i not in silence)
        report(machine, [{"ts": f"{BEGIN + timedelta(seconds=i):%FT%TZ}", "celsius": 60.5} for i in seconds])
    run(shown("silent", FILES, CONSOLE))
    (alarm,) = rung()
    assert (alarm["key"], alarm["time"]) == ("b", BEGIN + timedelta(seconds=299 + 120, microseconds=1))


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGE.text):
        assert (DOCS / target).exists(), target


def test_commands_and_options_exist() -> None:
    for command in set(re.findall(r"`tocsin (\w+)", PAGE.text)):
        assert command in main.commands, command
    options = {param.opts[0] for param in main.commands["query"].params}
    assert "--format" in options
