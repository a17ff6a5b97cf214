"""What a changed pipeline says on the command line, and that its remedies work as they are written there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tocsin.cli import main

FILE = """\
name: plant
folder: {folder}/lake
source: {{files: {folder}/in.ndjson}}
decode: {{json: {{columns: {{m: text, ts: timestamp, v: float}}}}}}
key: m
time: {{column: ts}}
streams:
  s:
    steps: [{{mad: {{of: v, learn: {learn}, width: {width}}}}}, {{keep: score > 0}}, {{select: [v]}}, {{ewma: v}}]
    sinks: [delta: s]
"""


def tocsin(*words: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def file(tmp_path: Path) -> Path:
    lines = [json.dumps({"m": "pump", "ts": f"2026-01-01T00:00:{i:02d}Z", "v": i}) for i in range(50)]
    (tmp_path / "in.ndjson").write_text("\n".join(lines))
    return change(tmp_path)


def change(folder: Path, learn: int = 30, width: float = 5.0) -> Path:
    path = folder / "pipeline.yaml"
    path.write_text(FILE.format(folder=folder, learn=learn, width=width))
    return path


def rows(file: Path) -> int:
    done = tocsin("query", "select count(*) n from s", "--folder", file.parent / "lake", "--format", "json")
    return int(json.loads(done.stdout)["n"])


def test_check_tells_what_a_start_would_keep_and_forget(file: Path) -> None:
    assert "remembered" not in tocsin("check", file).stderr, "there is no state yet"
    tocsin("run", file)
    told = tocsin("check", change(file.parent, width=3)).stderr
    assert "goes on with what s.0.mad, s.3.ewma, source.event_time, source.rekey remembered" in told
    assert "forget" not in told
    told = tocsin("check", change(file.parent, learn=20)).stderr
    assert "goes on with what s.3.ewma, source" in told
    assert "--forget s.0.mad" in told


@pytest.mark.parametrize("remedy", [0, 1])
def test_the_remedies_of_the_message_work(file: Path, remedy: int) -> None:
    tocsin("run", file)
    before = rows(file)
    refused = tocsin("run", change(file.parent, learn=20), code=1)
    options = re.findall(r"--forget-changed|--forget \S+", refused.stderr)
    assert options == ["--forget s.0.mad", "--forget-changed"]
    tocsin("run", file, *options[remedy].split())
    tocsin("run", file)
    assert rows(file) == before, "no row was read twice"


def test_a_step_that_is_not_there_is_told(file: Path) -> None:
    tocsin("run", file)
    assert "did you mean 's.0.mad'" in tocsin("run", file, "--forget", "s.0.mat", code=2).stderr
