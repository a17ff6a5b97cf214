"""What the engine may send, and what must not bring the page down; what the lake still knows."""

import asyncio
import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from tocsin.batch import KEY, TIME, as_keys
from tocsin.engine.feed import connect, listen
from tocsin.engine.wire import COUNTERS, FRAME_BYTES_MAX, HEADER, ROWS, StreamColumns, describe, encode_rows, frame
from tocsin.output.delta import Delta
from tocsin.serve.app import hear
from tocsin.serve.following import LakeFollower
from tocsin.serve.lanes import heard, lanes
from tocsin.serve.live import NEVER_S, Live
from tocsin.serve.past import newest
from tocsin.serve.scores import Grid, ScoreCells
from tocsin.serve.signal_lanes import signal_lanes
from tocsin.testing import world

GOOD = pa.table({"key": ["p"], "time": pa.array([1], pa.timestamp("us", tz="UTC")), "x": [1.0]})
LACKING = StreamColumns(name="s", kind="readings", values=("y",))
TEXT = StreamColumns(name="s", kind="readings", values=("key",))


def encode(name: str, rows: pa.Table) -> bytes:
    return encode_rows(describe(name, rows.schema), rows)


async def after(folder: Path, *sent: bytes) -> Live:
    """What the page knows when engines have sent these bytes, one after the other, and gone."""
    live = Live()
    async with await asyncio.start_unix_server(partial(hear, live), sock=listen(folder / "page.sock")):
        for data in sent:
            connection = connect(folder / "page.sock", 5)
            await asyncio.to_thread(connection.sendall, data)
            connection.shutdown(1)
            connection.settimeout(5)
            assert await asyncio.to_thread(connection.recv, 1) == b"", "the page hangs up when it is done"
            connection.close()
    return live


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        frame(ROWS, b"not arrow"),
        frame(ROWS, encode("s", GOOD)[:-40]),
        frame(ROWS, encode("s", GOOD))[:-10],
        frame(ROWS, encode_rows(LACKING, GOOD)),
        frame(ROWS, encode_rows(TEXT, GOOD)),
        frame(ROWS, encode_rows(StreamColumns(name="s", kind="alarms"), GOOD)),
        frame(COUNTERS, b'{"rows_in": {"a": "many"}}'),
        frame(COUNTERS, b'{"rows_of_tomorrow": 1}'),
        frame(COUNTERS, b"not json"),
        frame(COUNTERS, b"\xff"),
        frame(COUNTERS, b"[]"),
        frame(COUNTERS, b"5"),
        HEADER.pack(FRAME_BYTES_MAX + 1, ROWS),
        frame(99, b"a kind of tomorrow"),
    ],
)
def test_garbage_ends_one_connection_and_nothing_else(tmp_path: Path, garbage: bytes) -> None:
    good = frame(COUNTERS, json.dumps({"rows_in": {"a": 5}}).encode()) + frame(ROWS, encode("readings", GOOD))
    live = asyncio.run(after(tmp_path, garbage, good))
    assert live.engines == 0
    assert live.figures().rows_in == 5
    assert list(live.machines["p"].series)[-1] == ("readings", "x")


def keep(folder: Path, name: str, rows: pa.Table, epoch: int = 1) -> None:
    schema = pa.schema([KEY, TIME, *list(rows.schema)[2:]])
    batch = pa.RecordBatch.from_arrays(
        [as_keys(rows["key"].combine_chunks()), *(c.combine_chunks() for c in rows.columns[1:])], schema=schema
    )
    writer = Delta(path=name).open(world(folder, "test"), schema)
    writer.publish(epoch, [writer.stage(epoch, [batch])])
    writer.close()


def test_the_past_comes_from_the_lake(tmp_path: Path) -> None:
    times = pa.array([3, 1, 2], pa.timestamp("us", tz="UTC"))
    keep(tmp_path, "readings", pa.table({"key": ["p"] * 3, "time": times, "x": [3.0, 1.0, 2.0]}))
    keep(tmp_path, "odd name", pa.table({"key": ["p"], "time": times[:1], "y": [1.0]}))
    states = {"id": ["a", "b", "a"], "state": ["CLEARED_ACK", "ACTIVE_UNACK", "ACTIVE_UNACK"], "ring": [True] * 3}
    states |= {name: [""] * 3 for name in ("rule", "severity", "mode", "event", "message")} | {"number": [3, 1, 2]}
    keep(tmp_path, "alarms", pa.table({"key": ["p"] * 3, "time": times, **states}))
    (tmp_path / "broken" / "_delta_log").mkdir(parents=True)
    found = list(newest(tmp_path))
    assert {stream.name: rows for stream, rows in found}["readings"]["x"].to_pylist() == [1.0, 2.0, 3.0]
    live = Live()
    for stream, rows in found:
        live.take(stream, rows, now_s=NEVER_S)
    assert {alarm.id: alarm.state for alarm in live.alarms.by_id.values()} == {"a": "CLEARED_ACK", "b": "ACTIVE_UNACK"}
    assert {signal for _, signal in live.machines["p"].series} == {"x", "y"}
    assert [stream.name for stream, _ in newest(tmp_path, [StreamColumns(name="alarms", kind="alarms")])] == ["alarms"]


def test_what_a_table_does_not_say_of_its_verdicts_comes_from_the_plan(tmp_path: Path) -> None:
    times = pa.array([1], pa.timestamp("us", tz="UTC"))
    keep(tmp_path, "judged", pa.table({"key": ["p"], "time": times, "x": [1.0], "y": [2.0], "expected": [1.5]}))
    planned = StreamColumns(name="judged", kind="readings", values=("x", "y", "z"), judged="y", band=("expected",))
    assert [stream.judged for stream, _ in newest(tmp_path)] == [""]
    ((stream, _),) = newest(tmp_path, [planned])
    assert (stream.judged, stream.values) == ("y", ("x", "y")), "a column that came later is not in the table yet"


def test_what_is_judged_and_not_kept_is_shown_by_the_readings_that_it_is_made_of(tmp_path: Path) -> None:
    times = pa.array([1, 2], pa.timestamp("us", tz="UTC"))
    keep(tmp_path, "readings", pa.table({"key": ["p"] * 2, "time": times, "x": [1.0, 2.0], "speed": [9.0, 9.0]}))
    keep(tmp_path, "anomalies", pa.table({"key": ["p"], "time": times[:1], "x": [1.0], "score": [80.0]}))
    judged = StreamColumns(
        name="judged", kind="readings", values=("x",), judged="x", band=(("score", "score"),), tables=("readings",)
    )
    ((stream, rows),) = newest(tmp_path, [judged])
    assert (stream.name, stream.values, rows["x"].to_pylist()) == ("judged", ("x",), [1.0, 2.0])
    assert "x" not in stream.judged, "they are not judged"
    of_its_own = describe("readings", rows.schema)
    assert [stream.name for stream, _ in newest(tmp_path, [judged, of_its_own])] == ["readings"], "not twice"
    live = Live()
    for stream, rows in newest(tmp_path, [judged]):
        live.take(stream, rows, now_s=NEVER_S)
    assert [*live.machines["p"].series] == [("judged", "x")]
    follower = LakeFollower(tmp_path, [judged])
    keep(tmp_path, "readings", pa.table({"key": ["q"], "time": times[:1], "x": [5.0], "speed": [1.0]}), epoch=2)
    ((stream, rows),) = follower.take()
    assert (stream.name, rows["x"].to_pylist()) == ("judged", [5.0])


def test_where_no_scores_are_kept_but_those_of_anomalies_the_lanes_show_these(tmp_path: Path) -> None:
    times = pa.array([1_000_000, 61_000_000], pa.timestamp("us", tz="UTC"))
    keep(tmp_path, "anomalies", pa.table({"key": ["p"], "time": times[1:], "x": [1.0], "y": [2.0], "score": [80.0]}))
    judged = StreamColumns(name="judged", kind="readings", values=("x", "y"), judged="y")
    told = lanes(tmp_path, [judged], heard(Live()), ScoreCells(), Grid.over(0, 120_000, 2), 0, 10)
    assert [(lane.machine, lane.cells) for lane in told.lanes] == [("p", [-1, 4])]
    told = signal_lanes(tmp_path, [judged], heard(Live()), (), "p", Grid.over(0, 120_000, 2))
    assert [(lane.signal, lane.cells) for lane in told.lanes] == [("y", [-1, 4])]
