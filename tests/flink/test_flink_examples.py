"""Every example where keys are spread: the rows of one process, or of one that is killed; or it is refused by name."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_inputs import EXAMPLES
from fake_flink import run
from forked_engine import ROWS, Engines
from tried_examples import PIPELINES, is_aside, named, planned, rows_of, surroundings, written

from tocsin.engine import source_task
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.flink import reading
from tocsin.pipeline.yamlfile import load_with_plan

__all__ = ["surroundings"]
DEATHS = (3, 7)
"""After so many writes a life ends, if it comes so far; the last one ends by itself."""


def test_each_pipeline_among_the_examples_is_here() -> None:
    assert set(EXAMPLES) == set(PIPELINES)


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
    file = written(name, example, tmp_path)
    as_it_stands = load_with_plan(PIPELINES[name], {"folder": str(tmp_path / "none")})[1]
    assert named(as_it_stands) == list(example.refused)
    plan = planned(file, tmp_path / "embedded")
    assert named(plan) == list(example.stays)
    if example.stays:
        return
    EmbeddedRunner(plan).run()
    ends = engines.live(file, tmp_path / "killed", [*DEATHS, None])
    assert (ends[0], ends[-1]) == (-signal.SIGKILL, 0)
    assert set(ends) == {-signal.SIGKILL, 0}
    crashed = run_with_a_crash(file, tmp_path)
    wanted = rows_of(plan, tmp_path / "embedded")
    assert not {table for table, rows in wanted.items() if not rows and not is_aside(table)}, "they prove nothing"
    for other in (tmp_path / "killed", crashed):
        for table, rows in rows_of(plan, other).items():
            assert not wanted[table] - rows, f"{other}, {table}: lost"
            assert not rows - wanted[table], f"{other}, {table}: doubled, or wrong"


def run_with_a_crash(file: Path, folder: Path) -> Path:
    """Run it as a cluster would, until a run had a crash: a short one may have none. Returns where its tables are."""
    for seed in range(20):
        place = folder / f"flink{seed}"
        happened = run(planned(file, place), random.Random(seed))[1]
        if happened.total() > happened["goes on"]:
            return place
    raise AssertionError("nothing ever crashes")
