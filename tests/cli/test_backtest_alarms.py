"""`tocsin backtest` of alarms: judged by labels that people gave, and a better limit in words."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from written_actions import ActionLog

from tocsin.batch import ACTIONS, START, Batch
from tocsin.cli import main
from tocsin.notify.alarm import Alarm
from tocsin.output.delta import Delta
from tocsin.serve import desk
from tocsin.testing import rows as made_rows
from tocsin.testing import stream, world

HOURS = 96
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
FALSE_PEAK, TRUE_PEAK = 86.0, 97.0


def value(hour: int) -> float:
    """Every sixth hour something that is nothing, every twelfth something real, for an hour."""
    return TRUE_PEAK if hour % 12 == 6 else FALSE_PEAK if hour % 12 == 0 and hour else 50.0


def readings(folder: Path) -> Path:
    lines = [f"{(BEGIN + timedelta(hours=h)).isoformat()},pump,{value(h)}" for h in range(HOURS)]
    path = folder / "readings.csv"
    path.write_text("\n".join(["time,machine,value", *lines]))
    return path


def job(folder: Path, text: str = "alarm: {rule: hot, high: 80}") -> Path:
    path = folder / "steps.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A folder whose alarms have all been labelled, through the log of actions and the step."""
    table = made_rows(
        {"key": ["pump"] * HOURS, "value": [value(h) for h in range(HOURS)]},
        every_s=3600.0,
    )
    shift = int(BEGIN.timestamp() * 1e6) - table.column("time").cast(pa.int64())[0].as_py()
    times = pa.compute.add(table.column("time").cast(pa.int64()), shift).cast(table.schema.field("time").type)
    table = table.set_column(table.schema.get_field_index("time"), table.schema.field("time"), times)
    alarm, log = Alarm(rule="hot", high=80), ActionLog(tmp_path / ".state", 0)
    state, batches = alarm.initial(), []
    for batch in stream(table, 1):
        state, out = alarm.step(state, batch)
        cleared = [row["id"] for one in out for row in one.rows.to_pylist() if row["event"] == "cleared"]
        for id in cleared:
            desk.act(tmp_path / ".state", id, "ack", "ann")
        if cleared and (actions := log.poll()) is not None:
            state, answered = alarm.step(state, Batch(actions, START, ACTIONS))
            out = [*out, *answered]
        batches += [one.rows for one in out if len(one)]
    write(tmp_path, 1, batches)
    for row in pa.Table.from_batches(batches).to_pylist():
        if row["event"] in ("raised", "reraised"):
            verdict = "true" if row["value"] == TRUE_PEAK else "false"
            done = tocsin("alarms", "label", verdict, row["id"], "--folder", str(tmp_path), "--by", "ann")
            assert done.exit_code == 0, done.output
    actions = log.poll()
    log.close()
    assert actions is not None
    state, out = alarm.step(alarm.load(alarm.dump(state)), Batch(actions, START, ACTIONS))
    write(tmp_path, 2, [one.rows for one in out if len(one)])
    return tmp_path


def write(folder: Path, epoch: int, batches: list[pa.RecordBatch]) -> None:
    writer = Delta(path="alarms").open(world(folder, "test"), batches[0].schema)
    writer.publish(epoch, [writer.stage(epoch, batches)])
    writer.close()


def tocsin(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_labels_of_earlier_occurrences_are_kept_and_change_no_state(plant: Path) -> None:
    labels = [r for r in desk.rows(plant).to_pylist() if r["event"].startswith("labelled_")]
    assert len(labels) == 15
    assert {r["by"] for r in labels} == {"ann"}
    assert len({r["id"] for r in labels}) == 15, "each is of its own occurrence, though all but one are over"
    assert len(desk.list_alarms(plant)) == 0
    (shown,) = desk.list_alarms(plant, everything=True).to_pylist()
    assert (shown["event"], shown["label"]) == ("acknowledged", "true")


def test_alarms_are_judged_and_a_limit_is_proposed_in_words(plant: Path) -> None:
    done = tocsin(
        "backtest", str(job(plant)), str(readings(plant)), "--key", "machine", "--since", "2026-03-03", "--folder",
        str(plant), "--format", "json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert (figures["alarms"], figures["unlabelled"]) == (8, 0)
    assert (figures["precision"], figures["recall"]) == (0.5, 1.0)
    assert figures["warning_h"] == 1.0
    assert figures["false_per_day"] == pytest.approx(4 / (47 / 24))
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("high ")]
    assert sentence == (
        "high 92 in place of 80: before 2026-03-03 00:00, by which it was chosen, 4 of 4 true alarms and 0 false ones "
        "(now 4 and 3); from then on 4 of 4 true alarms and 0 false ones (now 4 and 4). "
        "Nothing is changed by itself: write it into the file if you agree"
    )
    better = job(plant, "alarm: {rule: hot, high: 92}")
    done = tocsin("backtest", str(better), str(readings(plant)), "--key", "machine", "--folder", str(plant))
    assert "high 92: no other limit is better" in done.stderr


def test_without_labels_it_is_told_how_to_give_one(plant: Path) -> None:
    done = tocsin("backtest", str(job(plant)), str(readings(plant)), "--folder", str(plant))
    assert done.exit_code == 2
    assert "has no label for the keys (series)" in done.stderr
    assert "--key names the column with the machine" in done.stderr
    done = tocsin("backtest", str(job(plant)), str(readings(plant)), "--folder", str(plant), "-o", str(plant / "r"))
    assert "report of forecasts only" in done.stderr


def test_a_time_before_which_something_was_labelled_proposes_a_limit(plant: Path) -> None:
    words = ["backtest", str(job(plant)), str(readings(plant)), "--key", "machine", "--folder", str(plant), "--since"]
    done = tocsin(*words, "2026-03-01")
    assert "nothing was labelled before 2026-03-01 00:00: no limit is proposed; try a later --since" in done.stderr
    assert "high 92 in place of 80" in tocsin(*words, "2026-03-03").stderr


def test_a_label_names_an_alarm_that_is_known(plant: Path) -> None:
    done = tocsin("alarms", "label", "true", "hot:fan", "--folder", str(plant), "--by", "ann")
    assert done.exit_code == 2
    assert "hot:pump" in done.stderr
