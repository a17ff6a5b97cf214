"""Every example is a right pipeline, for tocsin and for an editor that knows its JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from tocsin.models import SAMPLES
from tocsin.pipeline.reference import json_schema
from tocsin.pipeline.yamlfile import load_with_plan

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("kafka/*.yaml")])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_right(path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.stem == "postgres":  # the server says which columns there are
        for name, value in request.getfixturevalue("postgres").variables().items():
            monkeypatch.setenv(name, value)
    if path.stem == "downtime-flink":
        monkeypatch.setenv("TOCSIN_KAFKA_PASSWORD", "any")
        monkeypatch.setenv("TOCSIN_KAFKA_CA", str(request.getfixturevalue("certificates") / "ca.pem"))
    if path.stem == "influxdb":
        monkeypatch.setenv("TOCSIN_INFLUX_PASSWORD", "any")
    if path.stem == "maintenance_log":
        monkeypatch.setenv("TOCSIN_MODELS", str(SAMPLES))
    if path.stem == "pollution":
        monkeypatch.chdir(FOLDER)  # it names a detector model beside it
    _, plan = load_with_plan(path)
    assert plan.sinks


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_fits_the_schema(path: Path) -> None:
    as_json = json.loads(json.dumps(YAML(typ="safe").load(path), default=str))
    jsonschema.validate(as_json, json_schema())


def test_schema_refuses_what_does_not_exist() -> None:
    wrong = {"name": "x", "source": {"host": {"evry": "1s"}}, "streams": {}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, json_schema())
