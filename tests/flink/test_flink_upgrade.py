"""A job that goes on with a changed pipeline: what did not change keeps what it has learned."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_flink import Attempt, run
from timed_readings import write_readings

from tocsin import Pipeline, read
from tocsin.engine import source_task
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.remembered import Change
from tocsin.errors import StateMismatch
from tocsin.flink import reading
from tocsin.pipeline.plan import Plan

SECONDS, MACHINES = 200, 5


def plan_of(folder: Path, data: Path, *, before: tuple[Any, ...] = (), every: str = "7s", more: bool = False) -> Plan:
    """Two streams with windows; ``before`` stands before the first one's, ``every`` is the other's."""
    count = {"compute": {"n": "count(value)", "value": "max(value)"}}
    streams: dict[str, Any] = {
        "same": {"steps": [*before, {"window": {"every": "20s", **count}}], "sinks": [{"delta": "same"}]},
        "other": {"steps": [{"window": {"every": every, **count}}], "sinks": [{"delta": "other"}]},
    }
    if more:
        streams["added"] = {"from": "same", "sinks": [{"delta": "added"}]}
    return Pipeline.model_validate(
        {
            "name": "parts", "source": {"files": {"path": str(data)}}, "key": "m", "folder": str(folder),
            "decode": {"json": {"columns": {"m": "category", "t": "timestamp", "value": "float"}}},
            "time": {"column": "t", "lateness": "2s"}, "streams": streams,
        }
    ).plan()  # fmt: skip


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(source_task, "ROWS_MAX", 50)
    monkeypatch.setattr(reading, "ROWS_AT_ONCE", 50)
    return write_readings(tmp_path / "in.ndjson", SECONDS, MACHINES)


def bag(table: str, folder: Path) -> Counter[str]:
    return Counter(str(sorted(row.items())) for row in read(table, folder).to_pylist())


def test_what_did_not_change_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    EmbeddedRunner(plan_of(tmp_path / "embedded", data)).run()
    wanted = bag("same", tmp_path / "embedded")
    rng, folder = random.Random(3), tmp_path / "flink"
    last, _ = run(plan_of(folder, data, before=({"keep": "value > 0"},)), rng, until=lambda number: number >= 5)
    assert last is not None
    assert 0 < bag("same", folder).total() < wanted.total()
    # A step more before it, so that it has another place; another limit, for which nothing is remembered; the other
    # stream's windows are of another length.
    before = ({"derive": {"half": "value / 2"}}, {"keep": "value > -1"})
    changed = plan_of(folder, data, before=before, every="11s", more=True)
    with pytest.raises(StateMismatch, match=r"what 'other.0.window' remembered .* --forget other.0.window"):
        Attempt(changed, last, rng, Change("2"))
    run(changed, rng, last, Change("2", ("other.0.window",)), name="two")
    assert bag("same", folder) == wanted
    assert 0 < bag("added", folder).total() < wanted.total()
    counted = sum(row["n"] for row in read("other", folder).to_pylist())
    # What the forgotten windows held is lost, and nothing else: less than a length and a lateness of each machine.
    assert MACHINES * (SECONDS - 7 - 20) < counted < MACHINES * SECONDS


def test_a_step_that_comes_back_as_it_was_finds_what_was_set_aside(data: Path, tmp_path: Path) -> None:
    EmbeddedRunner(plan_of(tmp_path / "embedded", data)).run()
    rng, folder = random.Random(4), tmp_path / "flink"
    last, _ = run(plan_of(folder, data), rng, until=lambda number: number >= 3)
    assert last is not None
    last, _ = run(
        plan_of(folder, data, every="11s"), rng, last, Change("2", ("other.0.window",)), "two",
        until=lambda number: number >= last.number + 1,
    )  # fmt: skip
    assert last is not None
    attempt = Attempt(plan_of(folder, data), last, rng, Change("3"), "three")  # what was set aside fits again
    attempt.close()
    run(plan_of(folder, data), rng, last, Change("3"), "three")
    assert bag("same", folder) == bag("same", tmp_path / "embedded")
