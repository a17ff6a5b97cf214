"""The page to start from: the pipeline that it shows is right, and stands for what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from page_of_docs import PageOfDocs

from tocsin.cli import main


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise's matter
def test_the_file_is_right_and_can_be_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = (one for one in PageOfDocs("quickstart").shown("yaml") if one.startswith("# press.yaml"))
    Path("press.yaml").write_text(text)
    done = CliRunner().invoke(main, ["check", "press.yaml", "--expand"])
    assert done.exit_code == 0, done.output
    for stream in ("readings", "judged", "anomalies", "alarms", "bell"):
        assert f"\n  {stream}:\n" in done.stdout
