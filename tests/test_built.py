"""A wheel says which commit it was made from."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hatchling.builders.wheel import WheelBuilder

from tocsin.cli import main
from tocsin.serve import built

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this tree is no git repository")
def test_a_wheel_tells_its_commit(tmp_path: Path) -> None:
    (made,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    with zipfile.ZipFile(made) as wheel:
        told = json.loads(wheel.read("tocsin/commit.json"))
    command = ["git", "-C", ROOT, "show", "-s", "--format=%h %cs", "HEAD"]
    assert [told["commit"], told["day"]] == subprocess.check_output(command, text=True).split()


def test_the_version_comes_with_its_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "(from a source tree)" in CliRunner().invoke(main, ["--version"]).output
    monkeypatch.setattr(built, "files", lambda package: tmp_path)
    (tmp_path / "commit.json").write_text('{"commit": "1a2b3c4", "day": "2026-11-28"}')
    built.built.cache_clear()
    assert str(built.built()) == "build 1a2b3c4 of 2026-11-28"
    built.built.cache_clear()
