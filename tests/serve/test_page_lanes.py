"""Machines by time: how bad each part of a range was, from tables and from what is live."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tocsin.batch import as_keys
from tocsin.domain.alarm_rows import ALARM_SCHEMA
from tocsin.engine.wire import describe
from tocsin.output.delta import Delta
from tocsin.serve.lanes import Heard, Lasting, heard, lanes
from tocsin.serve.live import Live
from tocsin.serve.scores import Cells, Grid, ScoreCells
from tocsin.serve.signal_lanes import heard_of, signal_lanes
from tocsin.testing import world

BEGIN_MS = 1_772_323_200_000  # 2026-03-01T00:00:00Z
MINUTE_MS = 60_000
GRID = Grid.over(BEGIN_MS, BEGIN_MS + 10 * MINUTE_MS, 10)
NOTHING = Heard(frozenset(), {}, {})
ACTIVE, OVER = "ACTIVE_UNACK", "CLEARED_UNACK"


def at(minutes: list[float]) -> pa.Array:
    return pa.array([int((BEGIN_MS + minute * MINUTE_MS) * 1000) for minute in minutes], pa.timestamp("us", "UTC"))


def judged(keys: list[str], minutes: list[float], scores: list[float], **more: list[str]) -> pa.Table:
    numbers = {"value": [1.0] * len(keys), "score": scores}
    return pa.table({"key": keys, "time": at(minutes), **more, **numbers})


def alarm_rows(*told: tuple[str, str, str, float, str, int]) -> pa.Table:
    """Of each: id, key, severity, minute, state and number."""
    ids, keys, severities, minutes, states, numbers = (list(column) for column in zip(*told, strict=True))
    given = {"id": ids, "key": keys, "severity": severities, "time": at(minutes), "state": states, "number": numbers}
    given |= {"started": at([minutes[ids.index(id)] for id in ids]), "event": ["raised"] * len(ids)}
    columns = []
    for one in ALARM_SCHEMA:
        kind = one.type.value_type if pa.types.is_dictionary(one.type) else one.type
        empty = pa.array(["" if pa.types.is_string(kind) else None] * len(ids), kind)
        if pa.types.is_boolean(kind):
            empty = pa.array([True] * len(ids))
        column = given.get(one.name, empty)
        columns.append(column if isinstance(column, pa.Array) else pa.array(column, kind))
    return pa.table(columns, names=ALARM_SCHEMA.names)


def keep(folder: Path, name: str, rows: pa.Table) -> None:
    schema = pa.schema(
        [ALARM_SCHEMA.field("key"), ALARM_SCHEMA.field("time"), *list(rows.drop(["key", "time"]).schema)]
    )
    columns = [as_keys(rows["key"].combine_chunks()), *(rows[n].combine_chunks() for n in schema.names[1:])]
    writer = Delta(path=name).open(world(folder, "test"), schema)
    writer.publish(1, [writer.stage(1, [pa.RecordBatch.from_arrays(columns, schema=schema)])])
    writer.close()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calm, odd and wrong machines; keys that end in the signal; three alarms."""
    folder = tmp_path_factory.mktemp("lake")
    keep(folder, "judged", judged(["calm", "odd", "odd", "late"], [0.5, 2.5, 2.9, 50], [10.0, 60.0, 55.0, 99.0]))
    keys, signals = ["press/force", "press/stroke", "line/press"], ["force", "stroke", "force"]
    keep(folder, "long", judged(keys, [1.5, 1.7, 3.5], [20.0, 76.0, float("nan")], signal=signals))
    keep(
        folder,
        "alarms",
        alarm_rows(
            ("a", "odd", "minor", 4.5, ACTIVE, 1),
            ("a", "odd", "minor", 6.5, OVER, 2),
            ("a", "odd", "minor", 9.5, "CLEARED_ACK", 3),
            ("b", "press/force", "major", -5, ACTIVE, 4),
            ("b", "press/force", "major", 0.5, OVER, 5),
            ("c", "calm", "warning", 8.5, ACTIVE, 6),
            ("d", "late", "critical", -9, ACTIVE, 7),
            ("d", "late", "critical", -8, OVER, 8),
        ),
    )
    return folder


def test_each_cell_has_the_worst_of_alarms_and_scores_and_the_worst_machine_comes_first(lake: Path) -> None:
    told = lanes(lake, (), NOTHING, ScoreCells(), GRID, 0, 25)
    assert {lane.machine: lane.cells for lane in told.lanes} == {
        "press": [3, 4, -1, -1, -1, -1, -1, -1, -1, -1],
        "odd": [-1, -1, 1, -1, 2, 2, 2, -1, -1, -1],
        "calm": [0, -1, -1, -1, -1, -1, -1, -1, 1, 1],
    }
    assert [lane.machine for lane in told.lanes] == ["press", "odd", "calm"]
    assert (told.machines, told.note, told.begin_ms, told.cell_ms) == (3, "", BEGIN_MS, MINUTE_MS)
    odd = lanes(lake, (), NOTHING, ScoreCells(), GRID, 0, 25, lambda machine: machine == "odd")
    assert ([lane.machine for lane in odd.lanes], odd.machines) == (["odd"], 1)
    second = lanes(lake, (), NOTHING, ScoreCells(), GRID, 1, 1)
    assert ([lane.machine for lane in second.lanes], second.machines, second.first) == (["odd"], 3, 1)


def test_what_the_tables_do_not_hold_yet_comes_from_what_is_live(lake: Path) -> None:
    live = Live()
    rows = judged(["odd", "odd", "new"], [9.2, 9.4, 9.9], [80.0, float("nan"), 51.0])
    live.take(describe("judged", rows.schema), rows)
    known = alarm_rows(("a", "odd", "minor", 4.5, ACTIVE, 1), ("c", "calm", "warning", 8.7, OVER, 7))
    live.take(describe("alarms", known.schema), known)
    told = {lane.machine: lane.cells for lane in lanes(lake, (), heard(live), ScoreCells(), GRID, 0, 25).lanes}
    assert told["odd"] == [-1, -1, 1, -1, 2, 2, 2, -1, -1, 4], "the tables know since when an alarm is over"
    assert told["calm"][-2:] == [1, -1], "and what is live knows that another one is over by now"
    assert told["new"] == [-1] * 9 + [1]
    without = {lane.machine: lane.cells for lane in lanes(None, (), heard(live), ScoreCells(), GRID, 0, 25).lanes}
    assert without["new"] == told["new"]


def test_the_highest_score_of_each_minute_is_remembered_for_some_minutes() -> None:
    live = Live()
    for minute in range(40):
        rows = judged(["p"] * 3, [minute, minute + 0.2, minute + 0.4], [float(minute), 50.0 + minute, 3.0])
        live.take(describe("judged", rows.schema), rows)
    worst = live.machines["p"].worst
    assert len(worst) == 20
    assert worst[BEGIN_MS // MINUTE_MS + 39] == pytest.approx((89.0, BEGIN_MS + 39.2 * MINUTE_MS), rel=1e-12)
    assert np.all(np.diff(sorted(worst)) == 1)


def test_what_is_over_is_read_once_and_what_could_not_be_read_in_time_is_said(lake: Path, tmp_path: Path) -> None:
    rows = judged(["p", "p"], [1.0, 8.0], [60.0, 90.0])
    keep(tmp_path, "judged", rows)
    read, known, stream = ScoreCells(), {}, describe("judged", rows.schema)
    assert not read.take(tmp_path, stream, GRID, known, time.monotonic() - 1), "there was no time"
    assert known == {}
    assert read.take(tmp_path, stream, GRID, known, time.monotonic() + 30)
    assert known["p"].tolist() == [-1, 1, -1, -1, -1, -1, -1, -1, 4, -1]
    again: dict[str, Cells] = {}
    assert read.take(tmp_path / "is gone", stream, GRID, again, time.monotonic() + 30), "nothing has to be read"
    assert again["p"].tolist() == known["p"].tolist()
    shifted = Grid.over(BEGIN_MS + 2 * MINUTE_MS, BEGIN_MS + 12 * MINUTE_MS, 10)
    assert not read.take(tmp_path / "is gone", stream, shifted, again, time.monotonic() + 30), "two cells are new"


def test_cells_begin_at_multiples_of_their_length() -> None:
    grid = Grid.over(BEGIN_MS + 30_000, BEGIN_MS + 10 * MINUTE_MS + 30_000, 10)
    assert (grid.begin_ms, grid.cell_ms, grid.cells, grid.end_ms) == (
        BEGIN_MS,
        MINUTE_MS,
        11,
        BEGIN_MS + 11 * MINUTE_MS,
    )
    assert Grid.over(5, 6, 200) == Grid(5, 1, 1)


def test_the_signals_of_one_machine_have_lanes_by_what_their_stream_says_of_them(lake: Path, tmp_path: Path) -> None:
    told = signal_lanes(lake, (), NOTHING, (), "press", GRID)
    assert [(lane.signal, lane.cells) for lane in told.lanes] == [
        ("stroke", [-1, 4, -1, -1, -1, -1, -1, -1, -1, -1]), ("force", [3, 0, -1, -1, -1, -1, -1, -1, -1, -1]),
    ]  # fmt: skip
    assert {lane.machine for lane in told.lanes} == {"press"}
    keep(
        tmp_path,
        "wide",
        judged(["m", "m", "n"], [1.5, 2.5, 2.5], [90.0, 60.0, 99.0], signal=["a", "b", "a"], a=[1.0] * 3, b=[1.0] * 3),
    )
    live = Live()
    at_ms = BEGIN_MS + 5.5 * MINUTE_MS
    heard_now = [("b", np.array([80.0]), np.array([at_ms]))]
    alarms = Heard(
        frozenset(), {}, {"x": Lasting("m", "major", at_ms, None, "c"), "y": Lasting("n", "major", at_ms, None)}
    )
    told = signal_lanes(tmp_path, (), alarms, heard_now, "m", GRID)
    assert {lane.signal: [i for i, cell in enumerate(lane.cells) if cell > 0] for lane in told.lanes} == {
        "a": [1], "b": [2, 5], "c": [5, 6, 7, 8, 9],
    }  # fmt: skip
    rows = judged(["m"] * 2, [1.0, 2.0], [float("nan"), 70.0], signal=["a", "a"])
    live.take(describe("judged", rows.schema), rows)
    ((signal, scores, times),) = heard_of(live, "m")
    assert (signal, scores[1], times[1]) == ("a", 70.0, BEGIN_MS + 2 * MINUTE_MS)
    assert heard_of(live, "nobody") == []
