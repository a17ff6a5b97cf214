"""Before a start each end is asked whether it can work at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tocsin.cli import main
from tocsin.engine.counters import Counters
from tocsin.engine.recovery import Effects, check_ends, start
from tocsin.errors import ConfigError
from tocsin.pipeline.yamlfile import load_with_plan

PIPELINE = """
name: plant
folder: {folder}
source: {source}
streams:
  readings:
    sinks: [{sink}]
"""
BROKER = "mqtts://127.0.0.1:8883"
WRONG = [
    ("host", "delta: ../elsewhere", r"\.\./elsewhere.*leaves the data folder"),
    ("host", "files: ../elsewhere", r"\.\./elsewhere.*leaves the data folder"),
    ("host", "notify: {to: 'sclack://a/b/c'}", "notify cannot send to"),
    ("host", f"mqtt: {{url: '{BROKER}', topic: a, tls: {{ca: /nowhere/ca.pem}}}}", "/nowhere/ca.pem"),
]


def written(tmp_path: Path, source: str, sink: str) -> Path:
    file = tmp_path / "plant.yaml"
    file.write_text(PIPELINE.format(folder=tmp_path / "data", source=source, sink=sink))
    return file


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("source", "sink", "told"), WRONG)
def test_an_end_that_cannot_work_is_named_and_nothing_is_written(
    source: str, sink: str, told: str, tmp_path: Path
) -> None:
    file = written(tmp_path, source, sink)
    _, plan = load_with_plan(file)
    with pytest.raises(ConfigError, match=f"{plan.sinks[0].id}.*{told}"):
        check_ends(plan, Effects())
    with pytest.raises(ConfigError, match=told):
        start(plan, Effects(), Counters())
    assert not plan.state_folder.exists()
    done = CliRunner().invoke(main, ["check", str(file)])
    assert done.exit_code != 0
    assert plan.sinks[0].id in done.output


def test_the_missing_certificate_of_a_source_is_named(tmp_path: Path) -> None:
    source = f"{{mqtt: {{url: '{BROKER}', topic: a, client_id: c, tls: {{ca: /nowhere/ca.pem}}}}}}"
    file = written(tmp_path, source, "delta: here")
    file.write_text(
        file.read_text().replace("streams:", "decode: {json: {columns: {key: text, v: float}}}\nkey: key\nstreams:")
    )
    done = CliRunner().invoke(main, ["check", str(file)])
    assert done.exit_code != 0
    assert "/nowhere/ca.pem" in done.output.replace("\n", "")


def test_ends_that_can_work_pass(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["check", str(written(tmp_path, "host", "delta: here"))])
    assert done.exit_code == 0, done.output
