"""The audit: an action and its row are one, and whatever is done to the rows afterwards is named."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tocsin.cli import main
from tocsin.engine.actions import append_action
from tocsin.engine.audit import Actor, AuditRow, newest, this_user, verify, write_down
from tocsin.errors import ConfigError

ANN = Actor("ann", "operator", "page")
Db = sqlite3.Connection


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Eight rows of the audit."""
    for i in range(4):
        write_down(tmp_path, ANN, "signed_in", f"10.0.0.{i}")
        append_action(tmp_path, 10 + i, f"hot:pump-{i}", "acknowledge", "ann", "seen", None, ANN)
    return tmp_path


def tamper(state: Path, how: Callable[[Db], object]) -> None:
    with closing(sqlite3.connect(state / "actions.db")) as db, db:
        how(db)


def copied(db: Db, number: int, to: int, **other: object) -> None:
    """Put a copy of a row in under another number."""
    names = [column[1] for column in db.execute("pragma table_info(audit)")]
    row = dict(zip(names, db.execute("select * from audit where number = ?", (number,)).fetchone(), strict=True))
    row |= {"number": to, **other}
    db.execute("insert into audit values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", tuple(row.values()))


def moved(db: Db, after: int, by: int) -> None:
    """Number the rows after this one anew."""
    numbers = [number for (number,) in db.execute("select number from audit where number > ? order by 1", (after,))]
    for number in reversed(numbers) if by > 0 else numbers:
        db.execute("update audit set number = number + ? where number = ?", (by, number))


def copy_inserted(db: Db) -> None:
    moved(db, 3, 1)
    copied(db, 3, 4)


def made_anew(db: Db, number: int, **other: object) -> None:
    """Change a row together with its hash."""
    row = replace(AuditRow(*db.execute("select * from audit where number = ?", (number,)).fetchone()), **other)
    db.execute("delete from audit where number = ?", (number,))
    row = replace(row, hash=row.digest(number))
    db.execute("insert into audit values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(row))


def fresh_inserted(db: Db) -> None:
    """A row that fits the one before it, with a right hash; only the one after it does not fit it."""
    moved(db, 3, 1)
    copied(db, 3, 4)
    (before,) = db.execute("select hash from audit where number = 3").fetchone()
    made_anew(db, 4, who="mallory", previous=before)


def test_an_action_and_its_row_of_the_audit_are_one(state: Path) -> None:
    rows = newest(state, 100)
    assert [row.number for row in rows] == list(range(8, 0, -1))
    last = rows[0]
    assert (last.who, last.role, last.through, last.what, last.subject) == (
        "ann",
        "operator",
        "page",
        "acknowledge",
        "hot:pump-3",
    )
    assert json.loads(last.details) == {"number": 4, "by": "ann", "reason": "seen", "until_us": None}
    assert verify(state).rows == 8
    assert not verify(state).fault


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda db: db.execute("update audit set who = 'bob' where number = 4"), "row 4 was changed"),
        (lambda db: db.execute("update audit set time_us = 1 where number = 1"), "row 1 was changed"),
        (lambda db: db.execute("update audit set details = '' where number = 8"), "row 8 was changed"),
        (lambda db: db.execute("update audit set hash = previous where number = 5"), "row 5 was changed"),
        (lambda db: made_anew(db, 4, who="bob"), "row 4 was changed"),
        (lambda db: db.execute("delete from audit where number = 3"), "row 3 was removed"),
        (lambda db: db.execute("delete from audit where number = 1"), "row 1 was removed"),
        (lambda db: db.execute("delete from audit where number >= 7"), "row 7 was removed"),
        (lambda db: (db.execute("delete from audit where number = 3"), moved(db, 3, -1)), "row 3 was removed"),
        (copy_inserted, "row 4 was inserted"),
        (fresh_inserted, "row 4 was inserted"),
        (lambda db: copied(db, 5, 9), "row 9 was changed or inserted"),
        (lambda db: copied(db, 5, 0), "row 0 was"),
    ],
)  # fmt: skip
def test_the_first_row_that_was_tampered_with_is_named(state: Path, how: Callable[[Db], object], said: str) -> None:
    tamper(state, how)
    verdict = verify(state)
    assert verdict.fault.startswith(said), verdict
    done = CliRunner().invoke(main, ["audit", "verify", "--folder", str(state.parent)])
    assert done.exit_code == 2, "there is no audit beside it"
    assert "say which with --folder" in done.output


def test_rows_that_are_made_anew_are_seen_by_a_head_noted_before(state: Path) -> None:
    head = verify(state).head
    assert not verify(state, head).fault

    def rewrite(db: Db) -> None:
        db.execute("delete from audit")
        db.execute("delete from sqlite_sequence where name = 'audit'")

    tamper(state, rewrite)
    for _ in range(8):
        write_down(state, ANN, "signed_in", "elsewhere")
    assert not verify(state).fault, "the chain in itself is right"
    assert verify(state, head).fault.startswith("row 8 or one before it was changed")
    assert "removed" in verify(state, "9:" + head.partition(":")[2]).fault
    with pytest.raises(ConfigError, match="NUMBER:HASH"):
        verify(state, "eight")


def test_the_command_line_names_it_and_fails(tmp_path: Path) -> None:
    write_down(tmp_path / ".state", ANN, "signed_in", "here")
    write_down(tmp_path / ".state", ANN, "sql", "json", "select 1")
    words = ["audit", "verify", "--folder", str(tmp_path)]
    right = CliRunner().invoke(main, words)
    assert (right.exit_code, right.stdout.strip()) == (0, verify(tmp_path / ".state").head)
    listed = CliRunner().invoke(main, ["audit", "list", "--folder", str(tmp_path), "--format", "json"])
    assert [json.loads(line)["details"] for line in listed.stdout.splitlines()] == ["select 1", ""]
    tamper(tmp_path / ".state", lambda db: db.execute("update audit set who = 'bob' where number = 2"))
    wrong = CliRunner().invoke(main, words)
    assert wrong.exit_code == 1
    assert "row 2 was changed" in wrong.stderr
    assert "the 1 rows before" in wrong.stderr


def test_a_damaged_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    write_down(tmp_path / ".state", ANN, "signed_in", "here")
    (tmp_path / ".state" / "actions.db").write_bytes(b"no database" * 999)
    done = CliRunner().invoke(main, ["audit", "verify", "--folder", str(tmp_path)])
    assert (done.exit_code, "cannot be read" in done.output) == (1, True), done.output
    (tmp_path / ".state" / "access.db").write_bytes(b"no database" * 999)
    done = CliRunner().invoke(main, ["access", "list", "--folder", str(tmp_path)])
    assert (done.exit_code, "cannot be read" in done.output) == (1, True), done.output


def test_many_processes_write_one_chain(tmp_path: Path) -> None:
    program = "import sys\nfrom pathlib import Path\nfrom tocsin.engine.audit import *\n" + (
        "for i in range(20): write_down(Path(sys.argv[1]), this_user(), 'tried', str(i))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    verdict = verify(tmp_path)
    assert (verdict.rows, verdict.fault) == (60, "")
    assert {row.who for row in newest(tmp_path, 60)} == {this_user().name}
