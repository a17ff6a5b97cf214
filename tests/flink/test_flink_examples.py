"""Every example where keys are spread: the rows of one process, or of one that is killed; or it is refused by name."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import example_inputs
import pytest
from example_inputs import EXAMPLES
from fake_flink import run
from forked_engine import ROWS, Engines, forget_packages, in_tables
from ruamel.yaml import YAML

from tocsin import read
from tocsin.engine import source_task
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.keyed import refusals
from tocsin.flink import reading
from tocsin.models import SAMPLES
from tocsin.output.delta import Delta
from tocsin.pipeline.plan import Plan
from tocsin.pipeline.yamlfile import load_with_plan

FOLDER = Path(__file__).parents[2] / "examples"
SOURCE_KEYS = ("source", "decode", "key", "time")
DEATHS = (2, 5, 8)
"""After so many writes each life ends; the next one ends by itself."""


def described(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


PIPELINES = {
    str(path.relative_to(FOLDER).with_suffix("")): path
    for path in sorted(FOLDER.rglob("*.yaml"))
    if {"streams", "watch"} & set(described(path))
}


def test_each_pipeline_among_the_examples_is_here() -> None:
    assert set(EXAMPLES) == set(PIPELINES)


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


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    made = Engines()
    yield made
    made.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are small, so that there is much to interrupt and to bring out of order."""
    monkeypatch.setattr(source_task, "ROWS_MAX", ROWS)
    monkeypatch.setattr(reading, "ROWS_AT_ONCE", ROWS)


@pytest.mark.usefixtures("surroundings", "small")
@pytest.mark.parametrize("name", EXAMPLES)
def test_its_rows_are_the_same_wherever_it_runs(name: str, engines: Engines, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    (tmp_path / "recorded").mkdir()
    patches = example.sources(tmp_path / "recorded")
    as_it_stands = load_with_plan(PIPELINES[name], {"folder": str(tmp_path / "none")})[1]
    assert named(as_it_stands) == list(example.refused)
    file = written(name, patches, example.settings, tmp_path)
    plan = planned(file, tmp_path / "flink")
    assert named(plan) == list(example.stays)
    if example.stays:
        return
    EmbeddedRunner(planned(file, tmp_path / "embedded")).run()
    ends = engines.live(file, tmp_path / "killed", [*DEATHS, None])
    assert ends == [-signal.SIGKILL] * len(DEATHS) + [0]
    happened = run(plan, random.Random(len(name)))[1]
    assert happened.total() > happened["goes on"], happened
    wanted = rows_of(plan, tmp_path / "embedded")
    assert {table for table, rows in wanted.items() if not rows and not is_aside(table)} == set(example.silent)
    for other in ("killed", "flink"):
        for table, rows in rows_of(plan, tmp_path / other).items():
            assert not wanted[table] - rows, f"{other}, {table}: lost"
            assert not rows - wanted[table], f"{other}, {table}: doubled, or wrong"


def named(plan: Plan) -> list[str]:
    """Returns the parts that are refused."""
    return [sentence.partition(":")[0] for sentence in refusals(plan)]


def written(name: str, patches: Mapping[str, Any], settings: Mapping[str, str], folder: Path) -> Path:
    """Returns the example's file with other sources, and settings, as its user would write it."""
    pipeline = described(PIPELINES[name])
    for source, patch in patches.items():
        (pipeline if source == "source" else pipeline["sources"][source]).update(patch)
    for dotted, value in settings.items():
        place, steps = pipeline, [int(step) if step.isdecimal() else step for step in dotted.split(".")]
        for step in steps[:-1]:
            place = place[step]
        place[steps[-1]] = YAML(typ="safe").load(value)
    file = folder / "example.yaml"
    with file.open("w") as out:
        YAML().dump(pipeline, out)
    return file


def planned(file: Path, folder: Path) -> Plan:
    return in_tables(load_with_plan(file, {"folder": str(folder)})[1])


def rows_of(plan: Plan, folder: Path) -> dict[str, Counter[str]]:
    """Returns all rows of all tables; what was set aside bears the time of its arrival, which no two runs share."""
    tables = sorted({target.part.path for target in plan.sinks if isinstance(target.part, Delta)})
    bags = {table: Counter[str]() for table in tables}
    for table in tables:
        if (folder / table / "_delta_log").is_dir():
            for row in read(table, folder).to_pylist():
                kept = {name: value for name, value in row.items() if "sha256" not in row or name != "time"}
                bags[table][str(sorted(kept.items()))] += 1
    return bags


def is_aside(table: str) -> bool:
    return table == "quarantine" or table.startswith("late_")
