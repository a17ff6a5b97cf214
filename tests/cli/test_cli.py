"""The command line, as a person types it: alarms, and what other systems exported."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import press
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from written_actions import ActionLog

from tocsin.cli import main
from tocsin.cli.tables import show, write
from tocsin.domain.alarms import OPERATOR_ACTIONS, operator_action
from tocsin.notify.alarm import Alarm
from tocsin.output.delta import Delta
from tocsin.testing import feed, rows, world


def tocsin(*words: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a pipeline leaves: a table of alarms, of which the pump's is open, and its state."""
    readings = rows({"key": ["fan", "fan", "pump"], "value": [90.0, 10.0, 95.0]}, every_s=10)
    found = feed(Alarm(rule="hot", high=80), readings)
    writer = Delta(path="alarms").open(world(tmp_path, "test"), found.schema)
    writer.publish(1, [writer.stage(1, found.to_batches())])
    writer.close()
    (tmp_path / ".state").mkdir()
    return tmp_path


def actions(folder: Path) -> list[dict[str, object]]:
    log = ActionLog(folder / ".state", 0)
    done = log.poll()
    log.close()
    return [] if done is None else done.to_pylist()


def listed(folder: Path, *words: str) -> list[dict[str, object]]:
    done = tocsin("alarms", "list", "--folder", folder, "--format", "json", *words)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_alarms_are_listed_in_every_format(folder: Path) -> None:
    found = {row["key"]: row for row in listed(folder)}
    assert set(found) == {"fan", "pump"}
    assert found["pump"]["state"] == "ACTIVE_UNACK"
    shown = tocsin("alarms", "list", "--folder", folder).stdout
    assert "ACTIVE_UNACK" in shown
    assert str(found["pump"]["id"]) in shown
    cells = list(csv.DictReader(io.StringIO(tocsin("alarms", "list", "--folder", folder, "--format", "csv").stdout)))
    assert [row["key"] for row in cells] == [row["key"] for row in listed(folder)]


@pytest.mark.parametrize(("command", "action"), [(action.command, action.name) for action in OPERATOR_ACTIONS])
def test_an_action_reaches_the_log(folder: Path, command: str, action: str) -> None:
    id = listed(folder)[0]["id"]
    known = operator_action(action)
    assert known is not None
    until = ["--until", "2999-01-31T18:00Z"] if known.detector and known.timed else []
    words = {"": ["--reason", "known"], "person": ["bob", "--reason", "known"], "text": ["known"]}[known.asks]
    tocsin("alarms", *command.split(), id, *words, "--folder", folder, "--by", "ann", *until)
    (done,) = actions(folder)
    assert {name: done[name] for name in ("action", "by", "reason")} == {
        "action": action, "by": "ann", "reason": "known",
    }  # fmt: skip
    place = f"hot:{listed(folder)[0]['key']}"
    assert done["alarm"] == (f"{place}#{id}" if known.remarks else place if known.detector else id)
    assert (done["until"] is not None) == bool(until)
    assert done["assignee"] == ("bob" if known.asks == "person" else "")


def test_shelving_for_and_until(folder: Path) -> None:
    before = datetime.now(UTC)
    tocsin("alarms", "shelve", "hot:pump", "--folder", folder, "--by", "ann", "--for", "1h30m")
    tocsin("alarms", "shelve", "hot:pump", "--folder", folder, "--by", "ann", "--until", "2999-01-31T18:00Z")
    first, second = (done["until"] for done in actions(folder))
    assert isinstance(first, datetime)
    assert timedelta(hours=1.5) <= first - before < timedelta(hours=1.6)
    assert second == datetime(2999, 1, 31, 18, tzinfo=UTC)


def test_an_alarm_may_be_shelved_before_it_has_ever_rung(folder: Path) -> None:
    tocsin("alarms", "shelve", "cold:pump", "--folder", folder, "--by", "ann", "--for", "1h")
    assert actions(folder)[0]["alarm"] == "cold:pump"


def test_who_does_it_is_the_login_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "bob")
    tocsin("alarms", "ack", "hot:pump", "--folder", folder)
    assert actions(folder)[0]["by"] == "bob"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["ack", "nosuchid", "--by", "ann"], "there is no alarm 'nosuchid'"),
        (["ack", "hot:nobody", "--by", "ann"], "there is no alarm 'hot:nobody'"),
        (["unshelve", "cold:pump", "--by", "ann"], "there is no alarm 'cold:pump'"),
        (["ack", "hot:pump", "--by", "ann", "--table", "none"], "there is no alarm 'hot:pump'"),
        (["ack", "hot:pump", "--by", " "], "say who"),
        (["comment", "hot:pump", " "], "a comment needs words"),
        (["assign", "hot:pump", " "], "say whom the alarm is for"),
        (["shelve", "hot:pump", "--by", "ann", "--for", "soon"], "write it as 20s"),
        (["shelve", "hot:pump", "--by", "ann", "--until", "soon"], "write it as 2026"),
        (["shelve", "hot:pump", "--by", "ann", "--until", "2001-01-01T00:00Z"], "is over"),
        (["shelve", "hot:pump", "--by", "ann", "--for", "1h", "--until", "2999-01-01"], "either --until or --for"),
        (["list", "--table", "alarm"], "did you mean 'alarms'"),
    ],
)
def test_mistakes_are_told_in_a_sentence_and_nothing_is_done(folder: Path, words: list[str], remedy: str) -> None:
    assert remedy in tocsin("alarms", *words, "--folder", folder, code=2).stderr
    assert actions(folder) == []


def test_acting_in_a_wrong_folder_makes_none(tmp_path: Path) -> None:
    done = tocsin("alarms", "ack", "hot:pump", "--folder", tmp_path / "elsewhere", code=2)
    assert "--folder" in done.stderr
    assert not (tmp_path / "elsewhere").exists()


def test_key_figures(folder: Path) -> None:
    (figures,) = map(json.loads, tocsin("alarms", "kpis", "--folder", folder, "--format", "json").stdout.splitlines())
    assert figures["raised"] == 2
    shown = tocsin("alarms", "kpis", "--folder", folder, "--format", "csv").stdout
    assert "raised,2" in shown.splitlines()
    assert "flood_percent_of_time" in tocsin("alarms", "kpis", "--folder", folder).stdout


MODEL = {
    "detectorModelName": "Pump",
    "detectorModelDefinition": {
        "initialStateName": "Usual",
        "states": [
            {
                "stateName": "Usual",
                "onInput": {
                    "events": [
                        {
                            "eventName": "hot",
                            "condition": "$input.Readings.value > 80",
                            "actions": [{"sns": {"targetArn": "arn:aws:sns:eu-west-1:1:people"}}],
                        }
                    ]
                },
            }
        ],
    },
    "key": "machine",
    "evaluationMethod": "BATCH",
}


def test_import_of_detector_models_writes_what_check_takes(tmp_path: Path) -> None:
    (tmp_path / "exported.json").write_text(json.dumps(MODEL))
    done = tocsin("import", "iot-events", tmp_path / "exported.json", "--folder", tmp_path / "here")
    written = sorted((tmp_path / "here").iterdir())
    assert sorted(done.stdout.split()) == [str(path) for path in written]
    assert {path.suffix for path in written} == {".json", ".yaml"}
    assert "a right detector model" in tocsin("check", next(p for p in written if p.suffix == ".json")).stdout


def test_import_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "exported.json").write_text(json.dumps(MODEL))
    tocsin("import", "iot-events", tmp_path / "exported.json", "--folder", tmp_path / "here")
    pipeline = next((tmp_path / "here").glob("*.yaml"))
    pipeline.write_text("mine")
    next((tmp_path / "here").glob("*.json")).unlink()
    done = tocsin("import", "iot-events", tmp_path / "exported.json", "--folder", tmp_path / "here", code=2)
    assert "is there already" in done.stderr
    assert pipeline.read_text() == "mine"
    assert list((tmp_path / "here").iterdir()) == [pipeline]


def test_import_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    assert "bad.json" in tocsin("import", "iot-events", tmp_path / "bad.json", code=2).stderr
    assert "none.json" in tocsin("import", "iot-events", tmp_path / "none.json", code=2).stderr


def test_a_table_for_a_pipe_is_not_broken(folder: Path) -> None:
    message = str(listed(folder)[0]["message"])
    assert len(message) < 40
    assert message in tocsin("alarms", "list", "--folder", folder).stdout


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show(pa.table({":x:": [":smile: [b]x[/b]"]}), ":x:")
    printed = capsys.readouterr().out
    assert printed.count(":x:") == 2
    assert ":smile: [b]x[/b]" in printed


def test_other_programs_get_values_whole_and_people_texts(capsys: pytest.CaptureFixture[str]) -> None:
    text, numbers = "pump abnormal: pressure jumped above its usual 4.8 to 5.2", list(range(9))
    given = pa.table({"raw": [b"x" * 60], "numbers": [numbers], "text": [text]})
    write(given, "csv")
    (_, line) = csv.reader(io.StringIO(capsys.readouterr().out))
    assert line == ["x" * 60, str(numbers), text]
    write(given, "json")
    assert json.loads(capsys.readouterr().out) == {"raw": "x" * 60, "numbers": numbers, "text": text}
    write(given, "table")
    shown = capsys.readouterr().out
    assert text in shown
    assert "x" * 39 + "…" in shown
    assert "[0, 1, 2, 3, 4, 5, ...]" in shown


def test_alarms_are_listed_without_columns_that_say_nothing(folder: Path) -> None:
    (head, *_) = [line for line in tocsin("alarms", "list", "--folder", folder).output.splitlines() if " id " in line]
    assert "message" in head
    assert "assignee" not in head


def test_a_preview_of_what_has_not_come_yet_says_so(tmp_path: Path) -> None:
    press.give(tmp_path, 1)
    file = tmp_path / "p.yaml"
    file.write_text(
        file.read_text().replace(f"{tmp_path}/1.ndjson", f"{{path: {tmp_path}/later/*.ndjson, follow: true}}")
    )
    assert "s1.files: no row came within 0.2 s (--wait)" in press.tocsin("preview", file, "--wait", "0.2")
    press.give(tmp_path, 1)
    assert "no row" not in press.tocsin("preview", file, "--wait", "0.2")


def test_the_shell_can_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    completes = {"_TOCSIN_COMPLETE": "bash_complete", "COMP_WORDS": "tocsin back", "COMP_CWORD": "1"}
    done = CliRunner().invoke(main, [], prog_name="tocsin", env=completes)
    assert done.output.split() == ["plain,backtest", "plain,backup"]


def test_settings_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    press.give(tmp_path, 3)
    monkeypatch.setenv("TOCSIN_SET", f"folder={tmp_path / 'elsewhere'} memory=2MiB")
    press.tocsin("run", tmp_path / "p.yaml")
    assert press.rows(tmp_path / "elsewhere") == 3
    monkeypatch.setenv("TOCSIN_SET", "foldr=there")
    assert "foldr: there is no such setting here" in press.tocsin("check", tmp_path / "p.yaml", code=2)
