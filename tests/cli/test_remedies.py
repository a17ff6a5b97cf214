"""What a message advises is done here, and works; a remedy that is not tried is a guess."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from press import give, rows, tocsin

from tocsin.lake.read import read


@pytest.fixture
def press(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A pipeline that has run once, with 100 rows or as many as are asked for; a backup of all; and 50 more to read."""
    give(tmp_path, getattr(request, "param", 100))
    tocsin("run", tmp_path / "p.yaml")
    shutil.copytree(tmp_path / "lake", tmp_path / "backup")
    give(tmp_path, 50)
    return tmp_path


def run(press: Path, *words: str, code: int = 0) -> str:
    return tocsin("run", press / "p.yaml", *words, code=code)


def restored(press: Path, *parts: str) -> None:
    """Put back what the backup has of these."""
    for part in parts:
        shutil.rmtree(press / "lake" / part)
        shutil.copytree(press / "backup" / part, press / "lake" / part)


def damage_the_database(press: Path) -> None:
    for path in (press / "lake" / ".state").glob("checkpoints.db-*"):
        path.unlink()
    (press / "lake" / ".state" / "checkpoints.db").write_bytes(b"rust" * 1_000)


def damage_a_checkpoint(press: Path) -> None:
    with closing(sqlite3.connect(press / "lake" / ".state" / "checkpoints.db", isolation_level=None)) as db:
        db.execute("update epochs set checkpoint = replace(checkpoint, 's1', 's9')")


def damage_a_state(press: Path) -> None:
    for path in (press / "lake" / ".state").glob("*.state"):
        path.write_bytes(path.read_bytes()[:-9] + b"rust" * 3)


def lose_a_state(press: Path) -> None:
    for path in (press / "lake" / ".state").glob("*.state"):
        path.unlink()


@pytest.mark.parametrize("press", [2_000], indirect=True)
@pytest.mark.parametrize("harm", [damage_the_database, damage_a_checkpoint, damage_a_state, lose_a_state])
def test_damaged_state(press: Path, harm: Callable[[Path], None]) -> None:
    harm(press)
    said = run(press, code=1)
    assert "restore a backup of the state folder and the tables from the same time" in said
    assert "or move both away to start afresh" in said
    before = shutil.copytree(press / "lake", press / "damaged")
    shutil.rmtree(press / "lake")  # one remedy
    shutil.copytree(press / "backup", press / "lake")
    run(press)
    assert rows(press / "lake") == 2_050
    shutil.rmtree(press / "lake")  # the other
    shutil.copytree(before, press / "lake")
    (press / "lake").rename(press / "away")
    run(press)
    assert rows(press / "lake") == 2_050


def test_tables_and_state_of_different_times(press: Path) -> None:
    run(press)
    assert rows(press / "lake") == 150
    restored(press, ".state")  # the tables are ahead of it
    said = run(press, code=1)
    assert "restore both from the same time, or give the pipeline another name" in said
    restored(press, "readings", "quarantine")
    run(press)
    assert rows(press / "lake") == 150
    restored(press, ".state")
    run(press, "--set", "name=other")  # it reads what its state does not know
    assert rows(press / "lake") == 150 + 50


def test_a_sink_that_is_away_gets_its_rows_from_the_next_run(press: Path) -> None:
    (press / "lake" / "readings" / "_delta_log").rename(press / "log")
    (press / "lake" / "readings" / "_delta_log").touch()  # no folder any more
    said = run(press, code=1)
    assert "move that file away" in said
    (press / "lake" / "readings" / "_delta_log").unlink()
    (press / "log").rename(press / "lake" / "readings" / "_delta_log")
    run(press)
    assert rows(press / "lake") == 150


def test_a_column_of_another_type(press: Path) -> None:
    text = (press / "p.yaml").read_text()
    changed = text.replace("force: float", "force: {type: text, optional: true}")
    (press / "p.yaml").write_text(changed)
    (press / "2.ndjson").write_text('{"machine": "a", "force": "1.5"}\n' * 50)
    said = run(press, code=2)
    assert "column 'force' is double in the table and string in what should be written" in said
    assert "cast it, rename it, or write to a new table" in said
    steps = {
        "cast": "[cast: {force: float}]",
        "rename": "[select: [key, time, {force_text: force}]]",
    }
    for name, step in steps.items():
        folder = press / name
        shutil.copytree(press / "backup", folder)
        (press / "p.yaml").write_text(changed.replace("    sinks:", f"    steps: {step}\n    sinks:"))
        tocsin("run", press / "p.yaml", "--set", f"folder={folder}")
        assert read("readings", folder).num_rows == 150, name
    (press / "p.yaml").write_text(changed.replace("delta: readings", "delta: readings_text"))
    run(press)
    assert read("readings_text", press / "lake").num_rows == 50


def test_another_partition(press: Path) -> None:
    text = (press / "p.yaml").read_text()
    (press / "p.yaml").write_text(text.replace("delta: readings", "delta: {path: readings, partition_by: [key]}"))
    said = run(press, code=1)
    advice = re.search(r"is partitioned by (\[.*?\]), not by .*; set partition_by", said)
    assert advice is not None
    (press / "p.yaml").write_text(
        text.replace("delta: readings", f"delta: {{path: readings, partition_by: {advice[1]}}}")
    )
    run(press)
    assert rows(press / "lake") == 150


def test_an_entry_of_the_log_that_is_none(press: Path) -> None:
    log = press / "lake" / "readings" / "_delta_log"
    (log / f"{9:020d}.json").write_text(json.dumps({"commitInfo": {}}))  # somebody left a hole
    said = run(press, code=1)
    assert "is missing; bring it back from a backup" in said
    (log / f"{9:020d}.json").unlink()
    run(press)
    first = log / f"{0:020d}.json"
    kept = first.read_bytes()
    first.write_bytes(kept[:40])  # a bad block, say
    said = run(press, code=1)
    assert "0.json is not a log entry: the table is damaged; bring it back from a backup" in said
    first.write_bytes(kept)
    run(press)
    assert rows(press / "lake") == 150


def test_a_table_that_is_not_there_is_named_with_those_that_are(press: Path) -> None:
    said = tocsin("query", "select * from reading", "--folder", press / "lake", code=2)
    assert "there are these tables: late_s1, quarantine, readings" in said


def test_what_summary_and_repair_say_can_be_typed(press: Path) -> None:
    said = run(press)
    look = re.search(r"look: tocsin (.*)", said)
    assert look is not None
    tocsin(*shlex.split(look[1]))


def test_a_source_file_that_is_not_there_is_said_at_once(press: Path) -> None:
    text = (press / "p.yaml").read_text()
    (press / "p.yaml").write_text(text.replace("2.ndjson", "3.ndjson"))
    said = run(press, code=1)
    assert f"no file matches {press}/3.ndjson; correct path:, or let it wait for one by follow: true" in said
    assert "going back to the last checkpoint" not in said, "trying again would be vain"
    (press / "3.ndjson").write_text('{"machine": "a", "force": 1.5}\n')
    run(press)


def test_tables_are_asked_from_a_folder_beside_them(press: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (press / "beside").mkdir()
    monkeypatch.chdir(press / "beside")
    tocsin("query", "select * from readings", "--folder", "../lake")
