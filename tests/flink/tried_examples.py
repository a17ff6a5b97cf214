"""An example as it is tried where keys are spread: its file with other ends, what it needs around it, and its rows."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import example_inputs
import pytest
from example_inputs import Example
from forked_engine import forget_packages, in_tables
from ruamel.yaml import YAML

from tocsin import read
from tocsin.engine.keyed import refusals
from tocsin.flink.outbox import outbox_of
from tocsin.models import SAMPLES
from tocsin.output.delta import Delta
from tocsin.pipeline.plan import Plan
from tocsin.pipeline.yamlfile import load_with_plan

FOLDER = Path(__file__).parents[2] / "examples"
_VARIABLE = re.compile(r"\$\{(?:env:)?([^}:]+)(?::-([^}]*))?\}")


def described(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


PIPELINES = {
    str(path.relative_to(FOLDER).with_suffix("")): path
    for path in sorted(FOLDER.rglob("*.yaml"))
    if {"streams", "watch"} & set(described(path))
}
"""All pipelines in the folder, by their place in it."""


@pytest.fixture
def surroundings(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What an example needs around it: variables, a certificate, a model, the package whose parts it uses."""
    name = request.node.callspec.params["name"]
    monkeypatch.chdir(FOLDER)
    variables = {"TOCSIN_KAFKA_PASSWORD": "any", "TOCSIN_INFLUX_PASSWORD": "any", "TOCSIN_MODELS": str(SAMPLES)}
    if name == "downtime-flink":
        variables["TOCSIN_KAFKA_CA"] = str(request.getfixturevalue("certificates") / "ca.pem")
    if name == "scara/forecast":
        variables["TOCSIN_MODELS"] = str(tmp_path / "recorded" / "models")
    if name == "postgres":
        server = request.getfixturevalue("postgres")
        variables |= server.variables()
        insert = "insert into plant.events (machine, at, celsius) values (%s, %s, %s)"
        for machine, at, celsius in example_inputs.rows(["oven-1", "oven-2"], 150, step=2):
            server.execute(insert, machine, example_inputs.stamp(at), celsius)
    if name.startswith("plugin/"):
        (tmp_path / "acme_tocsin-1.0.0.dist-info").mkdir()
        project = (FOLDER / "plugin" / "pyproject.toml").read_text()
        points = project.partition("[project.entry-points.")[2].partition("[tool.")[0]
        points = "[" + points.replace('"', "").replace("[project.entry-points.", "[")
        (tmp_path / "acme_tocsin-1.0.0.dist-info" / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.syspath_prepend(str(FOLDER / "plugin"))
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    forget_packages()
    yield
    forget_packages()


def named(plan: Plan) -> list[str]:
    """Returns the parts that are refused."""
    return [sentence.partition(":")[0] for sentence in refusals(plan)]


def written(name: str, example: Example, folder: Path) -> Path:
    """Returns the example's file as its user would change it to play a recording: other sources, a table for each sink.

    Variables are as they are now: whoever runs it may have others.
    """
    (folder / "recorded").mkdir()
    pipeline = _filled(described(PIPELINES[name]))
    for source, patch in example.sources(folder / "recorded").items():
        (pipeline if source == "source" else pipeline["sources"][source]).update(patch)
    for dotted, value in example.settings.items():
        place, steps = pipeline, [int(step) if step.isdecimal() else step for step in dotted.split(".")]
        for step in steps[:-1]:
            place = place[step]
        place[steps[-1]] = YAML(typ="safe").load(value)
    for of, stream in pipeline["streams"].items():
        for number, sink in enumerate(stream.get("sinks", [])):
            (kind,) = sink
            if kind != "delta":
                stream["sinks"][number] = {"delta": f"{of}.{number}.{kind}"}
    file = folder / "example.yaml"
    with file.open("w") as out:
        YAML().dump(pipeline, out)
    return file


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _filled(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one) for one in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda named: os.environ.get(named[1], named[2] or ""), value)
    return value


def planned(file: Path, folder: Path) -> Plan:
    """Returns the plan; a channel that stands in no stream of the file, as that of ``watch:``, is a table, too."""
    return in_tables(load_with_plan(file, {"folder": str(folder)})[1])


def rows_of(plan: Plan, folder: Path, *, outboxes: bool = False) -> dict[str, Counter[str]]:
    """Returns all rows of all sinks by their tables; ``outboxes``: what was for a channel lies in its outbox.

    What was set aside bears the time of its arrival, which no two runs share.
    """
    bags: dict[str, Counter[str]] = {}
    for target in plan.sinks:
        assert isinstance(target.part, Delta)
        table = target.part.path
        place = folder / (outbox_of(target).path if outboxes and target.id.endswith(".notify") else table)
        bags[table] = Counter(str(sorted(row.items())) for row in _rows(place))
    return bags


def _rows(place: Path) -> Iterator[dict[str, Any]]:
    if (place / "_delta_log" / f"{0:020d}.json").exists():
        for row in read(place.name, place.parent).to_pylist():
            yield {name: value for name, value in row.items() if "sha256" not in row or name != "time"}


def is_aside(table: str) -> bool:
    return table == "quarantine" or table.startswith("late_")
