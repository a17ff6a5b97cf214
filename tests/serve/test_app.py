"""What the engine may send, and what must not bring the page down; what the lake still knows."""

import asyncio
import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from tocsin.batch import KEY, TIME, as_keys
from tocsin.engine.feed import COUNTERS, FRAME_BYTES_MAX, HEADER, ROWS, connect, encode, frame, listen
from tocsin.output.delta import Delta
from tocsin.serve.app import hear
from tocsin.serve.live import NEVER_S, Live
from tocsin.serve.past import newest
from tocsin.testing import world

GOOD = pa.table({"key": ["p"], "time": pa.array([1], pa.timestamp("us", tz="UTC")), "x": [1.0]})


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
    assert live.status()["rows_in"] == 5
    assert [series.signal for series in live.series.values()][-1] == "x"


def keep(folder: Path, name: str, rows: pa.Table) -> None:
    schema = pa.schema([KEY, TIME, *list(rows.schema)[2:]])
    batch = pa.RecordBatch.from_arrays(
        [as_keys(rows["key"].combine_chunks()), *(c.combine_chunks() for c in rows.columns[1:])], schema=schema
    )
    writer = Delta(path=name).open(world(folder, "test"), schema)
    writer.publish(1, [writer.stage(1, [batch])])
    writer.close()


def test_the_past_comes_from_the_lake(tmp_path: Path) -> None:
    times = pa.array([3, 1, 2], pa.timestamp("us", tz="UTC"))
    keep(tmp_path, "readings", pa.table({"key": ["p"] * 3, "time": times, "x": [3.0, 1.0, 2.0]}))
    keep(tmp_path, "odd name", pa.table({"key": ["p"], "time": times[:1], "y": [1.0]}))
    states = {"id": ["a", "b", "a"], "state": ["CLEARED_ACK", "ACTIVE_UNACK", "ACTIVE_UNACK"], "ring": [True] * 3}
    keep(tmp_path, "alarms", pa.table({"key": ["p"] * 3, "time": times, **states}))
    (tmp_path / "broken" / "_delta_log").mkdir(parents=True)
    found = dict(newest(tmp_path))
    assert found["readings"]["x"].to_pylist() == [1.0, 2.0, 3.0]
    live = Live()
    for name, rows in found.items():
        live.take(name, rows, NEVER_S)
    assert {alarm["id"]: alarm["state"] for alarm in live.alarms.values()} == {"a": "CLEARED_ACK", "b": "ACTIVE_UNACK"}
    assert {series.signal for series in live.series.values()} == {"x", "y"}
    assert [name for name, _ in newest(tmp_path, ["alarms"])] == ["alarms"]
