"""What operators do with alarms (acknowledge, shelve ...): written by the page and the CLI, read by the runner."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from tocsin.batch import ACTIONS_SCHEMA, Batch
from tocsin.contracts import Offset, Source
from tocsin.ends import OneSplit
from tocsin.engine import audit
from tocsin.engine.audit import Actor
from tocsin.world import Clock, World


def append_action(
    state_folder: Path,
    time_us: int,
    alarm: str,
    action: str,
    by: str,
    reason: str,
    until_us: int | None = None,
    actor: Actor | None = None,
    assignee: str = "",
) -> int:
    """Write down one action and its row of the audit, durably; any process may. Returns its number.

    The pipeline sees it within its next poll. ``actor`` is who does it, if not the user who runs this process.
    """
    actor = actor or audit.this_user()
    with audit.opened(state_folder) as db, db:
        db.execute("begin immediate")
        cursor = db.execute(
            "insert into actions (time_us, alarm, action, by, reason, until_us, assignee) values (?, ?, ?, ?, ?, ?, ?)",
            (time_us, alarm, action, by, reason, until_us, assignee),
        )
        number = cursor.lastrowid
        assert number is not None
        details = {"number": number, "by": by, "reason": reason, "until_us": until_us}
        if assignee:
            details["assignee"] = assignee
        audit.chain(db, time_us, actor, action, alarm, json.dumps(details))
        return number


class Actions(Source):
    """What operators do, as a source with one split whose offset is the action's number."""

    state_folder: Path
    """Where the actions are written down."""

    def output_schema(self) -> pa.Schema:
        return ACTIONS_SCHEMA

    def open(self, world: World) -> OneSplit:
        return OneSplit(lambda offset: ActionReader(self.state_folder, int(offset or 0), world.clock))


class ActionReader:
    """Looks for new actions every few milliseconds."""

    def __init__(self, state_folder: Path, after: int, clock: Clock) -> None:
        self._after, self._clock = after, clock
        with audit.opened(state_folder):
            self._db = sqlite3.connect(state_folder / "actions.db", timeout=5.0, check_same_thread=False)

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        query = (
            "select time_us, alarm, action, by, reason, until_us, assignee, number from actions where number > ? "
            "order by number limit ?"
        )
        actions = self._db.execute(query, (self._after, rows_max)).fetchall()
        if not actions:
            self._clock.sleep(timeout_s)
            return None
        *columns, numbers = zip(*actions, strict=True)
        self._after = numbers[-1]
        arrays = [
            pa.array(c, pa.int64() if field.type == ACTIONS_SCHEMA.field("time").type else field.type).cast(field.type)
            for c, field in zip(columns, ACTIONS_SCHEMA, strict=True)
        ]
        return Batch(pa.RecordBatch.from_arrays(arrays, schema=ACTIONS_SCHEMA)), self._after

    def acknowledge(self, offset: Offset) -> None:
        """The actions stay where they are."""

    def counters(self) -> Mapping[str, int]:
        return {}

    def progress(self) -> tuple[int, int] | None:
        return None

    def close(self) -> None:
        self._db.close()
