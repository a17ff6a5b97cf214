"""A mistake in a pipeline file is told in one sentence with its file, line, place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tocsin.errors import ConfigError
from tocsin.pipeline.model import Pipeline
from tocsin.pipeline.yamlfile import load, load_with_plan

RIGHT = """\
name: humidity
checkpoint: 1s
source:
  files: {path: in.csv}
decode:
  csv: {delimiter: ";", columns: {device: text, ts: timestamp, humidity: int}}
key: device
time: {column: ts, lateness: 5s}
streams:
  readings: {sinks: [delta: readings]}
  dry:
    from: readings
    steps:
      - keep: humidity < 20
    sinks: [delta: dry]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "pipeline.yaml"
    path.write_text(text)
    return path


def test_a_right_file_compiles(tmp_path: Path) -> None:
    pipeline, plan = load_with_plan(written(tmp_path, RIGHT))
    assert [step.id for step in plan.steps] == ["dry.0.keep"]
    assert plan.steps[0].schemas["out"].names == ["key", "time", "humidity"]
    assert [target.id for target in plan.sinks] == [
        "readings.0.delta",
        "dry.0.delta",
        "quarantine",
    ]
    assert pipeline.plan().prints() == plan.prints()


def test_the_same_in_python_and_back_through_json(tmp_path: Path) -> None:
    pipeline = load(written(tmp_path, RIGHT))
    again = Pipeline.model_validate_json(pipeline.model_dump_json(by_alias=True))
    assert again.plan().prints() == pipeline.plan().prints()


MISTAKES = [
    ("humidity < 20", "humidty < 20", 14, "streams.dry.steps.0", "humidity"),
    ("- keep: humidity < 20", "- kep: x", 14, "streams.dry.steps.0", "did you mean 'keep'"),
    ("- keep: humidity < 20", "- window: {every: 20 apples}", 14, "streams.dry.steps.0.window.every", "20s"),
    ("- keep: humidity < 20", "- window: {evry: 20s}", 14, "streams.dry.steps.0.window.evry", "there are: "),
    ("from: readings", "from: reading", 12, "streams.dry.from", "did you mean 'readings'"),
    ("from: readings", "from: readings.lat", 12, "streams.dry.from", "port"),
    ("from: readings", "from: dry", 12, "streams.dry.from", "circle"),
    ("key: device", "key: machine", 7, "key", "machine"),
    ("name: humidity", "name: ../../x", 1, "name", "not a name"),
    ("checkpoint: 1s", "chekpoint: 1s", 2, "chekpoint", "no such setting"),
    ("sinks: [delta: dry]", "sinks: [delt: dry]", 15, "streams.dry.sinks.0", "did you mean 'delta'"),
    ("lateness: 5s", 'lateness: "${LATENESS_NOT_SET}"', 8, "time.lateness", "LATENESS_NOT_SET is not set"),
    ("lateness: 5s", 'lateness: "${file:/no/such}"', 8, "time.lateness", "cannot read /no/such"),
    ("streams:", "streams: [", 11, "", "not YAML"),
]


@pytest.mark.parametrize(("right", "wrong", "line", "place", "remedy"), MISTAKES, ids=[m[1] for m in MISTAKES])
def test_a_mistake_is_told(tmp_path: Path, right: str, wrong: str, line: int, place: str, remedy: str) -> None:
    path = written(tmp_path, RIGHT.replace(right, wrong, 1))
    with pytest.raises(ConfigError) as caught:
        load(path)
    told = str(caught.value)
    assert told.startswith(f"{path}:{line}: {place}"), told
    assert remedy in told
    assert "\n" not in told


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = RIGHT.replace("name: humidity", "name: X").replace("- keep: humidity < 20", "- kep: x")
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    assert len(str(caught.value).splitlines()) == 2


def test_variables_files_and_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "name").write_text("wet\n")
    monkeypatch.setenv("LATENESS", "7s")
    text = RIGHT.replace("humidity\n", f"${{file:{tmp_path}/name}}\n", 1).replace("5s", '"${LATENESS:-1s}"')
    pipeline = load(written(tmp_path, text), {"checkpoint": "5s", "streams.dry.steps.0.keep": "humidity > 90"})
    assert pipeline.name == "wet"
    assert pipeline.checkpoint == 5_000_000
    assert "7s" in pipeline.model_dump_json()
    assert "humidity > 90" in pipeline.model_dump_json()
