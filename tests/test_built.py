"""A wheel says which commit it was made from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hatchling.builders.wheel import WheelBuilder

from tocsin.cli import main
from tocsin.kernels import BROUGHT_FOR
from tocsin.serve import built

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this tree is no git repository")
def test_a_wheel_tells_its_commit(tmp_path: Path) -> None:
    (made,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    with zipfile.ZipFile(made) as wheel:
        told = json.loads(wheel.read("tocsin/commit.json"))
    command = ["git", "-C", ROOT, "show", "-s", "--format=%h %cs", "HEAD"]
    assert [told["commit"], told["day"]] == subprocess.check_output(command, text=True).split()


BUILD = "import sys; sys.path.insert(0, 'packaging'); import backend; print(backend.build_wheel(sys.argv[1]))"
PLANT = """
name: first
folder: {folder}/{format}
source: {{files: "{folder}/in.{format}"}}
decode: {{{format}: {{columns: {{machine: text, t: timestamp, celsius: float}}}}}}
key: machine
time: t
watch: {{of: celsius{detector}}}
"""


@pytest.mark.skipif(platform.machine() not in BROUGHT_FOR, reason="no machine code is brought for this machine")
def test_a_first_start_from_a_wheel_has_nothing_to_compile(tmp_path: Path) -> None:
    """The wheel is built as pip builds it, and a pipeline run from it with an empty cache of machine code."""
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / built.stdout.split()[-1]) as wheel:
        wheel.extractall(tmp_path / "installed")
    rows = [(f"press-{at % 5}", f"2026-11-24T06:{at // 60:02}:{at % 60:02}Z", 20 + at % 7 / 10) for at in range(900)]
    (tmp_path / "in.csv").write_text("machine,t,celsius\n" + "".join(f"{m},{t},{c}\n" for m, t, c in rows))
    lines = [json.dumps({"machine": m, "t": t, "celsius": c}) for m, t, c in rows]
    (tmp_path / "in.json").write_text("\n".join(lines) + "\n")
    for format, detector in (("csv", ""), ("json", ", detector: ewma")):
        path = tmp_path / f"{format}.yaml"
        path.write_text(PLANT.format(folder=tmp_path, format=format, detector=detector))
        told = {"PYTHONPATH": str(tmp_path / "installed"), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "tocsin.cli", "run", str(path)]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | told, capture_output=True, text=True, check=True)
        assert "900" in done.stdout + done.stderr, done
        assert "compiling" not in done.stderr
        assert not list(tmp_path.glob("cache/**/*.nbc"))


def test_the_version_comes_with_its_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "(from a source tree)" in CliRunner().invoke(main, ["--version"]).output
    monkeypatch.setattr(built, "files", lambda package: tmp_path)
    (tmp_path / "commit.json").write_text('{"commit": "1a2b3c4", "day": "2026-11-28"}')
    built.built.cache_clear()
    assert str(built.built()) == "build 1a2b3c4 of 2026-11-28"
    built.built.cache_clear()
