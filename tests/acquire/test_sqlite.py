"""Source `sqlite`, beside what the kit of all sources checks."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tocsin.acquire.sqlite import Sqlite
from tocsin.cli import main
from tocsin.errors import TocsinError, Unavailable
from tocsin.lake.read import read
from tocsin.testing import read_from, world


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "plant.db")) as opened:
        opened.execute('create table "a table" (id integer primary key, at real, machine text, "it""s" any)')
        opened.executemany(
            'insert into "a table" (at, machine, "it""s") values (?, ?, ?)',
            [(1.5, "p1", 7), (1.5, "p2", "on"), (None, "p3", None), (2.0, "p1", b"\xff"), (3.0, "p1", float("inf"))],
        )
        opened.commit()
        yield opened


def _rows(source: Sqlite, offset: Any = None, rows_max: int = 100) -> tuple[list[dict[str, Any]], Any]:
    reader = read_from(source, offset)
    with closing(reader):
        taken = reader.poll(rows_max, 30)
        assert taken is not None
        batch, after = taken
        return [json.loads(payload) for payload in batch.rows["payload"].to_pylist()], after


def test_each_row_is_a_record_of_whatever_types_it_has(database: sqlite3.Connection, tmp_path: Path) -> None:
    rows, _ = _rows(Sqlite(path=tmp_path / "plant.db", table="a table"))
    assert [row['it"s'] for row in rows] == [7, "on", None, "/w==", None]
    assert rows[0] == {"id": 1, "at": 1.5, "machine": "p1", 'it"s': 7}


def test_a_cursor_of_several_columns_goes_on_within_equal_ones(database: sqlite3.Connection, tmp_path: Path) -> None:
    source = Sqlite(path=tmp_path / "plant.db", query='select * from "a table" where at < 3', cursor=["at", "id"])
    first, offset = _rows(source, rows_max=1)
    database.execute("""insert into "a table" (at, machine) values (2.5, 'p9')""")
    database.commit()
    rest, _ = _rows(source, json.loads(json.dumps(offset)))
    assert [row["id"] for row in first + rest] == [1, 2, 4, 6]  # 3 has no time


def test_who_writes_for_long_is_waited_for(
    database: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.acquire.sqlite.BUSY_S", 0.01)
    source = Sqlite(path=tmp_path / "plant.db", table="a table")
    database.execute("begin exclusive")
    with pytest.raises(Unavailable, match="is held by the program that writes it"):
        _rows(source)
    database.execute("rollback")
    assert len(_rows(source)[0]) == 5


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"table": "t"}, "no such table: t; its tables are \\[a table\\]"),
        ({"table": "a table", "cursor": "nix"}, "there is no column 'nix' to follow by; there are \\[id, at, machine"),
        ({"query": "select from", "cursor": "id"}, "its tables are|cannot be read"),
        ({"query": 'delete from "a table"', "cursor": "id"}, "write one statement that asks for rows"),
        ({"query": "select 1", "table": "t"}, "set either table or query"),
        ({"query": "select 1"}, "cursor needs a column"),
    ],
)
def test_what_cannot_be_read_is_named(
    database: sqlite3.Connection, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises((TocsinError, ValueError), match=told):
        Sqlite(path=tmp_path / "plant.db", **settings).check(world())


def test_a_file_of_something_else_is_told(tmp_path: Path) -> None:
    (tmp_path / "plant.db").write_text("no database at all " * 100)
    with pytest.raises(TocsinError, match="file is not a database"):
        Sqlite(path=tmp_path / "plant.db", table="t").check(world())


def test_a_table_is_watched_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("logger.db")) as opened, opened:
        opened.execute("create table readings (id integer primary key, ts text, machine text, temperature real)")
        rows = [(f"2026-11-01T06:{n // 60:02}:{n % 60:02}Z", f"p{n % 3}", 20 + n % 7 / 10) for n in range(600)]
        opened.executemany("insert into readings (ts, machine, temperature) values (?, ?, ?)", rows)
    said = CliRunner().invoke(main, ["watch", "logger.db", "--no-page"])
    assert "name a table in it: sqlite://logger.db/TABLE" in said.stderr
    done = CliRunner().invoke(main, ["init", "sqlite://logger.db/readings", "--folder", "lake"], input="\n" * 9)
    assert done.exit_code == 0, done.output
    file = Path("readings.yaml")
    file.write_text(file.read_text().replace("follow: true", "follow: false"))
    done = CliRunner().invoke(main, ["run", str(file)])
    assert done.exit_code == 0, done.output
    assert read("readings", tmp_path / "lake").num_rows == 600
