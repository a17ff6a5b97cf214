"""The page of tasks: each pipeline that it shows is one, each link leads somewhere, each command exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from page_of_docs import PageOfDocs

from tocsin.cli import main

DOCS = Path(__file__).parent.parent / "docs"
PAGE = PageOfDocs("howto")


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


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGE.text):
        assert (DOCS / target).exists(), target


def test_commands_and_options_exist() -> None:
    for command in set(re.findall(r"`tocsin (\w+)", PAGE.text)):
        assert command in main.commands, command
    options = {param.opts[0] for param in main.commands["query"].params}
    assert "--format" in options
