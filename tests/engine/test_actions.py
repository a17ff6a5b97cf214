"""What operators do reaches the steps that listen, once, also across a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import simulated_parts as parts

from tocsin.batch import ACTIONS, ACTIONS_SCHEMA, OUT, Batch
from tocsin.engine.actions import ActionLog, append_action
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.pipeline.plan import Outlet, Step


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

    def open(self, partition: str, offset: Any) -> Any:
        return EndlessReader(self.stop)


class EndlessReader:
    def __init__(self, stop: Any) -> None:
        self.stop = stop

    def poll(self, rows_max: int, timeout_s: float) -> None:
        self.stop()

    def commit(self, offset: Any) -> None:
        pass

    def close(self) -> None:
        pass


def test_log(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, 0)
    assert log.poll() is None
    append_action(tmp_path, 5, "pump/hot", "acknowledge", "anna", "seen")
    append_action(tmp_path, 6, "pump/hot", "shelve", "anna", "", 99)
    rows = log.poll()
    assert rows is not None
    assert rows.schema == ACTIONS_SCHEMA
    assert rows["action"].to_pylist() == ["acknowledge", "shelve"]
    assert rows["until"].cast(pa.int64()).to_pylist() == [None, 99]
    assert log.poll() is None
    log.close()
    again = ActionLog(tmp_path, 1)
    assert again.poll() == rows.slice(1)
    again.close()


def test_each_action_passes_once(tmp_path: Path) -> None:
    table: dict[int, list[dict[str, Any]]] = {}
    runner: list[EmbeddedRunner] = []
    polls = [0]

    def stop() -> None:
        polls[0] += 1
        if polls[0] > 60:  # more than the time between two looks at the actions
            runner[-1].stop()

    bell = parts.Bell.model_construct(rung=[])
    plan = parts.plan(tmp_path, Endless.model_construct(lines={"0": ()}, stop=stop), lambda _: bell, bell)
    plan = replace(
        plan,
        steps=(Step("deeds", Deeds(), (("in", OUT),), parts.ROWS, {OUT: ACTIONS_SCHEMA}),),
        outlets=(Outlet("deeds", (("deeds", OUT),), parts.Kept.model_construct(table=table), ACTIONS_SCHEMA),),
        streams={},
    )
    for name in ("one", "two"):
        append_action(plan.state_folder, 1, "a", name, "me", "")
        polls[0] = 0
        runner.append(EmbeddedRunner(plan))
        runner[-1].run()
    assert [row["action"] for rows in table.values() for row in rows] == ["one", "two"]
