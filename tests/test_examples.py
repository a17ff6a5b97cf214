"""Every example is a right pipeline, for tocsin and for an editor that knows its JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def schema() -> Any:
    """The schema's validator: the schema takes seconds to make and to check."""
    made = json_schema()
    kind = jsonschema.validators.validator_for(made)
    kind.check_schema(made)
    return kind(made)


def test_examples_fit_the_schema_and_what_does_not_exist_does_not(schema: Any) -> None:
    for path in EXAMPLES:
        as_json = json.loads(json.dumps(YAML(typ="safe").load(path), default=str))
        assert not list(schema.iter_errors(as_json)), path
    assert not schema.is_valid({"name": "x", "source": {"host": {"evry": "1s"}}, "streams": {}})
