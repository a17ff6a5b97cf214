"""The usual case in one block: it stands for streams that can be written out, and its mistakes have its lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tocsin.cli import main
from tocsin.errors import ConfigError
from tocsin.lake.read import query
from tocsin.pipeline.model import Pipeline
from tocsin.pipeline.yamlfile import load_with_plan

HEAD = """\
name: plant                      # our plant
folder: {folder}
source: {{files: {{path: {folder}/in.ndjson}}}}
decode: {{json: {{columns: {{machine: category, ts: timestamp}}, signals: auto}}}}
key: machine
time: {{column: ts, lateness: 5s}}
"""
WIDE = HEAD.replace("ts: timestamp}}, signals: auto", "ts: timestamp, t_in: float, t_out: float}}")


def invoked(*command: str) -> Result:
    return CliRunner().invoke(main, list(command))


def written(folder: Path, text: str) -> Path:
    (folder / "plant.yaml").write_text(text.format(folder=folder))
    return folder / "plant.yaml"


def test_what_it_stands_for_can_be_written_out_and_is_the_same_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_TEST_HOOK", "hook-secret")
    block = """\
watch:
  detector: {{health: {{learn: 50}}}}
  tell: ["https://example.com/${{env:TOCSIN_TEST_HOOK}}"]
"""
    file = written(tmp_path, HEAD + block)
    done = invoked("check", str(file), "--expand")
    assert done.exit_code == 0, done.output
    assert "# our plant" in done.stdout
    assert "watch:" not in done.stdout
    assert "hook-secret" not in done.output, "secrets stay where they are"
    (tmp_path / "expanded.yaml").write_text(done.stdout)
    (short, _), (long, _) = load_with_plan(file), load_with_plan(tmp_path / "expanded.yaml")
    assert short.model_dump_json(by_alias=True) == long.model_dump_json(by_alias=True)
    assert list(long.streams) == ["readings", "series", "judged", "anomalies", "alarms", "bell"]
    assert Pipeline.model_validate_json(short.model_dump_json(by_alias=True)) == short.model_copy(
        update={"watch": None}
    )


def test_it_runs_and_rings(tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(50, 1, 400) + 15 * (np.arange(400) > 300)
    rows = [{"machine": "m", "ts": f"2026-01-01T00:{i // 60:02}:{i % 60:02}Z", "t": v} for i, v in enumerate(values)]
    (tmp_path / "in.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = written(tmp_path, HEAD + "watch: {{detector: {{health: {{learn: 100}}}}}}\n")
    done = invoked("run", str(file))
    assert done.exit_code == 0, done.output
    told = query(
        "SELECT key, event, signal FROM alarms WHERE event IN ('raised', 'case_opened') ORDER BY number", tmp_path
    )
    assert {(row["key"], row["event"]) for row in told.to_pylist()} == {("m", "case_opened"), ("m/t", "raised")}
    assert query("SELECT count(*) AS n FROM readings", tmp_path).to_pylist() == [{"n": 400}]


def test_streams_of_ones_own_stand_beside_it(tmp_path: Path) -> None:
    block = "watch: {{of: [t_in, t_out], alarm: {{on_delay: 2s}}}}\n"
    own = block + "streams: {{hot: {{from: judged, steps: [keep: t_out > 90]}}}}\n"
    pipeline, plan = load_with_plan(written(tmp_path, WIDE + own))
    assert [step.id for step in plan.steps] == [
        "judged.0.health", "anomalies.0.keep", "alarms.0.alarm", "bell.0.keep", "hot.0.keep",
    ]  # fmt: skip
    assert pipeline.page.streams == ("judged", "alarms", "hot")


@pytest.mark.parametrize(
    ("block", "line", "said"),
    [
        ("watch:\n  of: t_in\n  detector: helth\n", 9, "watch.detector: there is no step 'helth'"),
        ("watch:\n  of: t_in\n  alarm: {{on_dely: 2s}}\n", 9, "watch.alarm.alarm.on_dely"),
        ("watch:\n  of: nothing\n", 7, "watch.detector: health needs column 'nothing'"),
        ("watch:\n  off: t_in\n", 8, "watch.off"),
        ("watch: {{}}\n", 7, "say with 'of' which columns are judged; what reaches it is [key, time, t_in, t_out]"),
        ("watch:\n  of: t_in\n  tell: {{text: '{{nope}}'}}\n", 9, "watch.tell: the text of notify names column 'nope'"),
        ("watch: {{of: t_in}}\nstreams: {{alarms: {{}}}}\n", 1, "watch: stands for a stream 'alarms', too"),
    ],
)
def test_mistakes_are_told_where_they_are_written(tmp_path: Path, block: str, line: int, said: str) -> None:
    file = written(tmp_path, WIDE + block)
    with pytest.raises(ConfigError) as told:
        load_with_plan(file)
    assert str(told.value).startswith(f"{file}:{line}: ")
    assert said in str(told.value)


def test_of_says_which_columns_are_judged(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="say with 'of' which columns are judged"):
        load_with_plan(written(tmp_path, WIDE + "watch: {{}}\n"))
    assert load_with_plan(written(tmp_path, WIDE + "watch: {{of: [t_in, t_out]}}\n"))[1].sinks


def test_check_says_what_columns_hold_as_people_do(tmp_path: Path) -> None:
    done = invoked("check", str(written(tmp_path, WIDE + "watch: {{of: t_in}}\n")))
    assert "source: key: text, time: time, t_in: number, t_out: number" in done.stdout
    assert not {"dictionary", "timestamp", "double", "int64"} & set(done.stdout.replace("[", " ").split())
