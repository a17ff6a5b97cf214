"""What operators do with alarms (acknowledge, shelve ...): written by the page and the CLI, read by the runner."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa

from tocsin.batch import ACTIONS_SCHEMA

_TABLE = """
create table if not exists actions (
    number integer primary key autoincrement, time_us integer not null, alarm text not null, action text not null,
    by text not null, reason text not null, until_us integer
)
"""


def append_action(
    state_folder: Path, time_us: int, alarm: str, action: str, by: str, reason: str, until_us: int | None = None
) -> int:
    """Write down one action, durably; any process may. The pipeline sees it within its next poll. Gives its number."""
    with _opened(state_folder) as db, db:
        cursor = db.execute(
            "insert into actions (time_us, alarm, action, by, reason, until_us) values (?, ?, ?, ?, ?, ?)",
            (time_us, alarm, action, by, reason, until_us),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid


@contextmanager
def _opened(state_folder: Path) -> Iterator[sqlite3.Connection]:
    state_folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(state_folder / "actions.db", timeout=5.0)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")
        db.execute(_TABLE)
        yield db


class ActionLog:
    """The runner's end: a replayable partition whose offset is the action's number."""

    def __init__(self, state_folder: Path, after: int) -> None:
        self.offset = after
        with _opened(state_folder):
            self._db = sqlite3.connect(state_folder / "actions.db", timeout=5.0)

    def poll(self) -> pa.RecordBatch | None:
        """What was done since the last call."""
        query = (
            "select time_us, alarm, action, by, reason, until_us, number from actions where number > ? order by number"
        )
        found = self._db.execute(query, (self.offset,)).fetchall()
        if not found:
            return None
        *columns, numbers = zip(*found, strict=True)
        self.offset = numbers[-1]
        arrays = [
            pa.array(c, pa.int64() if field.type == ACTIONS_SCHEMA.field("time").type else field.type).cast(field.type)
            for c, field in zip(columns, ACTIONS_SCHEMA, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=ACTIONS_SCHEMA)

    def close(self) -> None:
        self._db.close()
