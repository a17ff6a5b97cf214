"""What operators do reaches the steps that listen, once, also across a restart."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import simulated_parts as parts

from tocsin.batch import ACTIONS, ACTIONS_SCHEMA, OUT, Batch
from tocsin.ends import OneSplit
from tocsin.engine.actions import Actions, append_action
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.pipeline.plan import SinkNode, Step
from tocsin.testing import read_from


class Deeds(parts.Odd):
    """Gives each action as a row."""

    ACCEPTS_ACTIONS: ClassVar[bool] = True

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        return ACTIONS_SCHEMA

    def step(self, state: None, batch: Batch) -> tuple[None, Sequence[Batch]]:
        if batch.port == ACTIONS:
            return None, [batch.on_port(OUT)]
        return None, []


class Endless(parts.Lines):
    """Never ends, and gives nothing; tells the runner to stop after some polls."""

    stop: Any

    def open(self, world: Any) -> Any:
        return OneSplit(lambda offset: EndlessReader(self.stop))  # type: ignore[arg-type, return-value]


class EndlessReader:
    def __init__(self, stop: Any) -> None:
        self.stop = stop

    def poll(self, rows_max: int, timeout_s: float) -> None:
        time.sleep(timeout_s)
        self.stop()

    def acknowledge(self, offset: Any) -> None:
        pass

    def counters(self) -> dict[str, int]:
        return {}

    def progress(self) -> None:
        return None

    def close(self) -> None:
        pass


def test_log(tmp_path: Path) -> None:
    log = read_from(Actions(state_folder=tmp_path))
    assert log.poll(10, 0.0) is None
    append_action(tmp_path, 5, "pump/hot", "acknowledge", "anna", "seen")
    append_action(tmp_path, 6, "pump/hot", "shelve", "anna", "", 99)
    polled = log.poll(10, 0.0)
    assert polled is not None
    rows, offset = polled[0].rows, polled[1]
    assert rows.schema == ACTIONS_SCHEMA
    assert rows["action"].to_pylist() == ["acknowledge", "shelve"]
    assert rows["until"].cast(pa.int64()).to_pylist() == [None, 99]
    assert offset == 2
    assert log.poll(10, 0.0) is None
    log.close()
    again = read_from(Actions(state_folder=tmp_path), 1)
    assert again.poll(10, 0.0) == (Batch(rows.slice(1)), 2)
    again.close()


def test_a_log_from_before_alarms_were_given_to_people_goes_on(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "actions.db")) as db, db:
        db.execute(
            "create table actions (number integer primary key autoincrement, time_us integer not null, "
            "alarm text not null, action text not null, by text not null, reason text not null, until_us integer)"
        )
        db.execute("insert into actions values (1, 5, 'pump/hot', 'acknowledge', 'anna', 'seen', null)")
    append_action(tmp_path, 6, "pump/hot", "assign", "anna", "", assignee="bob")
    log = read_from(Actions(state_folder=tmp_path))
    polled = log.poll(10, 0.0)
    log.close()
    assert polled is not None
    assert polled[0].rows["assignee"].to_pylist() == ["", "bob"]


def test_each_action_passes_once(tmp_path: Path) -> None:
    table: dict[int, list[dict[str, Any]]] = {}
    runner: list[EmbeddedRunner] = []
    polls = [0]

    def stop() -> None:
        polls[0] += 1
        if polls[0] > 4:  # more than the time between two looks at the actions
            runner[-1].stop()

    bell = parts.Bell.model_construct(rung=[])
    plan = parts.plan(tmp_path, Endless.model_construct(lines={"0": ()}, stop=stop), lambda _: bell, bell)
    plan = replace(
        plan,
        steps=(Step("deeds", Deeds(), (("in", OUT),), parts.ROWS, {OUT: ACTIONS_SCHEMA}),),
        sinks=(SinkNode("deeds", (("deeds", OUT),), parts.Kept.model_construct(table=table), ACTIONS_SCHEMA),),
        streams={},
    )
    for name in ("one", "two"):
        append_action(plan.state_folder, 1, "a", name, "me", "")
        polls[0] = 0
        runner.append(EmbeddedRunner(plan))
        runner[-1].run()
    assert [row["action"] for rows in table.values() for row in rows] == ["one", "two"]
