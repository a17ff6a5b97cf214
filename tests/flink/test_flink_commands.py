"""The commands for Flink, as far as they go without it: each refusal is one sentence."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner
from servers import free_port

from tocsin import Pipeline
from tocsin.cli import main
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.keyed import refusals
from tocsin.errors import ForeignCommit, StateMismatch, Unavailable
from tocsin.flink.cluster import Cluster
from tocsin.flink.runner import FlinkRunner
from tocsin.pipeline.plan import Plan

EXAMPLE = Path(__file__).parents[2] / "examples" / "population.yaml"


def pipeline(folder: Path, **more: object) -> Pipeline:
    (folder / "in.ndjson").write_text('{"m": "a", "v": 1}\n')
    return Pipeline.model_validate(
        {
            "name": "hot", "source": {"files": {"path": str(folder / "in.ndjson")}}, "key": "m",
            "decode": {"json": {"columns": {"m": "text", "v": "float"}}}, "folder": str(folder / "data"),
            "streams": {"hot": {"sinks": [{"delta": "hot"}]}}, **more,
        }
    )  # fmt: skip


def test_what_cannot_run_there_is_refused_before_anything_is_submitted() -> None:
    done = CliRunner().invoke(main, ["run", str(EXAMPLE), "--on", "flink"])
    assert done.exit_code == 2
    assert "on flink: results.1.job" in done.output


@pytest.mark.skipif(find_spec("pyflink") is not None, reason="Flink is installed here")
def test_without_flink_the_extra_is_named(tmp_path: Path) -> None:
    plan = pipeline(tmp_path).plan()
    with pytest.raises(Exception, match=r"tocsin\[flink\]"):
        FlinkRunner(tmp_path / "x.yaml", {}, plan, "localhost:1").run()
    done = CliRunner().invoke(main, ["flink", "up", "--folder", str(tmp_path / "cluster")])
    assert "pip install 'tocsin[flink]'" in done.output


def test_a_page_and_an_address_without_a_port_are_refused() -> None:
    done = CliRunner().invoke(main, ["run", str(EXAMPLE), "--on", "flink", "--page"])
    assert (done.exit_code, "tocsin serve" in done.output) == (2, True)
    done = CliRunner().invoke(main, ["run", str(EXAMPLE), "--on", "flink", "--jobmanager", "here"])
    assert (done.exit_code, "write the address of its web interface, as localhost:8081" in done.output) == (2, True)
    done = CliRunner().invoke(main, ["run", str(EXAMPLE), "--on", "flink", "--jobmanager", "localhost:8081"])
    assert "write the address" not in done.output


def test_a_cluster_that_is_not_there_says_so(tmp_path: Path) -> None:
    place = ["--folder", str(tmp_path), "--port", str(free_port())]
    done = CliRunner().invoke(main, ["flink", "status", *place])
    assert (done.exit_code, "tocsin flink up" in done.output) == (1, True)
    done = CliRunner().invoke(main, ["flink", "down", *place])
    assert (done.exit_code, "none was running" in done.output) == (0, True)


def test_a_process_that_has_another_number_now_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / "pids" / "jobmanager").write_text(f"{os.getpid()} 1.00")
    assert Cluster(tmp_path).process("jobmanager") is None


def test_sinks_and_sources_that_it_has_no_door_for_are_named(tmp_path: Path) -> None:
    sinks = [
        {"files": {"path": "hot", "format": "csv"}},
        {"postgres": {"url": "postgresql://db/plant", "table": "hot", "load": "all"}},
        *({"delta": "s3://bucket/hot"}, {"kafka": {"brokers": "broker:9092", "topic": "hot"}}, {"notify": "console"}),
        {"postgres": {"url": "postgresql://db/plant", "table": "cold"}},
    ]
    said = refusals(pipeline(tmp_path, streams={"hot": {"sinks": sinks}}).plan())
    assert [one.partition(":")[0] for one in said] == ["hot.0.files", "hot.1.postgres"]


def test_what_ran_embedded_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = pipeline(tmp_path).plan()
    EmbeddedRunner(plan).run()
    runner = FlinkRunner(tmp_path / "x.yaml", {}, plan, "localhost:1")
    monkeypatch.setattr("tocsin.flink.runner.flink_home", lambda: tmp_path)
    with pytest.raises(StateMismatch, match="has run embedded"):
        runner.run()
    (tmp_path / "elsewhere").mkdir()
    elsewhere = pipeline(tmp_path / "elsewhere").plan()
    with pytest.raises(Unavailable, match="start one with tocsin flink up, or give another address with --jobmanager"):
        FlinkRunner(tmp_path / "x.yaml", {}, elsewhere, "localhost:1").run()


def test_rows_without_a_checkpoint_are_not_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = pipeline(tmp_path).plan()
    EmbeddedRunner(plan).run()
    for one in plan.state_folder.glob("*.db*"):
        one.unlink()
    monkeypatch.setattr("tocsin.flink.runner.flink_home", lambda: tmp_path)
    monkeypatch.setattr("tocsin.flink.rest.Rest.overview", lambda self: {})
    with pytest.raises(ForeignCommit, match="stands at epoch"):
        FlinkRunner(tmp_path / "x.yaml", {}, plan, "localhost:1").run()
    (tmp_path / "elsewhere").mkdir()
    elsewhere = FlinkRunner(tmp_path / "x.yaml", {}, pipeline(tmp_path / "elsewhere").plan(), "localhost:1")
    elsewhere._refuse_other_rows()


def a_job_that_was_cancelled(
    plan: Plan, prints: dict[str, list[str]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let there be a record of a job whose steps had these prints, its checkpoint, and a cluster that ended it."""
    folder = plan.state_folder / "flink"
    (folder / "checkpoints" / "a" / "chk-7").mkdir(parents=True)
    (folder / "checkpoints" / "a" / "chk-7" / "_metadata").touch()
    record = {"run": "one", "job": "a", "groups": 32, "prints": prints, "numbers": {}}
    (folder / "run.json").write_text(json.dumps(record))
    monkeypatch.setattr("tocsin.flink.runner.flink_home", lambda: home)
    monkeypatch.setattr("tocsin.flink.rest.Rest.overview", lambda self: {})
    monkeypatch.setattr("tocsin.flink.rest.Rest.state", lambda self, job: "CANCELED")


def test_a_step_that_has_changed_is_named_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = {"window": {"every": "5s", "compute": {"n": "count(v)"}}}
    plan = pipeline(tmp_path, streams={"counted": {"steps": [window], "sinks": [{"delta": "counted"}]}}).plan()
    (step,) = [step.id for step in plan.steps]
    a_job_that_was_cancelled(plan, {step: ["another", "one"]}, tmp_path, monkeypatch)
    with pytest.raises(StateMismatch, match=f"run with --forget {step}"):
        FlinkRunner(tmp_path / "x.yaml", {}, plan, "localhost:1").run()


def test_keys_that_would_be_spread_otherwise_are_named_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_signal = {"steps": [{"rekey": "{key}/{m2}"}], "sinks": [{"delta": "hot"}]}
    decode = {"json": {"columns": {"m": "text", "m2": {"type": "text", "optional": True}, "v": "float"}}}
    plan = pipeline(tmp_path, streams={"hot": by_signal}, decode=decode).plan()
    a_job_that_was_cancelled(plan, {}, tmp_path, monkeypatch)
    with pytest.raises(StateMismatch, match=r"spread its keys by the whole key, .* by the first step of its path"):
        FlinkRunner(tmp_path / "x.yaml", {}, plan, "localhost:1").run()


def test_the_newest_checkpoint_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    plan = pipeline(tmp_path).plan()
    runner = FlinkRunner(tmp_path / "x.yaml", {}, plan, "localhost:1")
    assert runner.last_checkpoint() is None
    for job, number, whole in (("b", 9, True), ("a", 10, True), ("a", 11, False)):
        folder = plan.state_folder / "flink" / "checkpoints" / job / f"chk-{number}"
        folder.mkdir(parents=True)
        if whole:
            (folder / "_metadata").touch()
    newest = runner.last_checkpoint()
    assert newest is not None
    assert newest.name == "chk-10"
