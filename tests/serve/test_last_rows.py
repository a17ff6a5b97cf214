"""Last rows of a part: kept only while somebody looks, few, and as JSON has them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from plant import wait_for

from tocsin.batch import KEY, OUT, REJECTED, TIME, Batch, as_keys, as_times, rejected
from tocsin.engine.feed import SOCKET, PageFeed, listen
from tocsin.engine.last_rows import ROWS_MAX, TEXT_MAX, LastRowsKept, told
from tocsin.engine.wire import (
    HEADER,
    LAST_ROWS,
    LOOK,
    LastRows,
    RowColumn,
    decode_last_rows,
    encode_looked_at,
    frame,
)


def readings(first: int, count: int, **columns: pa.Array) -> Batch:
    given = columns or {"value": pa.array([float(first + i) for i in range(count)])}
    schema = pa.schema([KEY, TIME, *(pa.field(name, column.type) for name, column in given.items())])
    times = as_times(pa.array(range(first, first + count)).to_numpy() * 1_000_000)
    return Batch(pa.RecordBatch.from_arrays([as_keys(pa.array(["a"] * count)), times, *given.values()], schema=schema))


def test_only_the_newest_rows_are_kept_and_only_of_what_is_looked_at() -> None:
    kept = LastRowsKept()
    kept.look_at(["hot.0.keep"])
    for first in range(0, 90, 9):
        kept.add("hot.0.keep", readings(first, 9))
    (rows,) = kept.take()
    assert (rows.part, rows.port, len(rows.rows)) == ("hot.0.keep", OUT, ROWS_MAX)
    assert [row[2] for row in rows.rows] == [float(value) for value in range(89, 69, -1)]
    assert rows.columns[1:] == [RowColumn("time", "time"), RowColumn("value", "number")]
    assert rows.rows[0][:2] == ["a", "1970-01-01T00:01:29.000000Z"]
    assert kept.take() == [], "nothing has come since"
    kept.look_at(["plant"])
    kept.look_at(["hot.0.keep"])
    kept.add("hot.0.keep", readings(100, 1))
    assert len(kept.take()[0].rows) == 1, "what came before nobody looked is gone"
    kept.forget()
    assert kept.parts == frozenset()


def test_a_large_batch_costs_a_view_of_its_end() -> None:
    kept, batch = LastRowsKept(), readings(0, 100_000)
    before = pa.total_allocated_bytes()
    kept.add("plant", batch)
    assert pa.total_allocated_bytes() == before
    assert [row[2] for row in kept.take()[0].rows][:2] == [99_999.0, 99_998.0]


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        (pa.array([float("nan")]), None),
        (pa.array([2**60]), str(2**60)),
        (pa.array([7]), 7),
        (pa.array([True]), True),
        (pa.array([None], pa.string()), None),
        (pa.array(["x" * 1000]), "x" * (TEXT_MAX - 1) + "…"),
        (pa.array(["word"]).dictionary_encode(), "word"),
        (pa.array([b"\xffraw"]), "�raw"),
        (pa.array([[1.5, 2.0]]), "[1.5, 2.0]"),
        (pa.array([list(range(4096))]), "[0, 1, 2, 3, 4, 5, 6, 7] of 4096"),
        (pa.array([None], pa.list_(pa.float64())), None),
        (pa.array([{"a": 1}]), '{"a":1}'),
    ],
)
def test_cells_are_as_json_has_them_and_short(column: pa.Array, cell: object) -> None:
    rows = told(("plant", OUT), [readings(0, 1, x=column).rows])
    assert rows.rows[0][2] == cell


def test_of_a_row_that_was_set_aside_the_reason_comes_first() -> None:
    aside = rejected(
        pa.array([""]), as_times(pa.array([0]).to_numpy()), ["json_syntax"], ["a brace is missing"], [b'{"t":']
    )
    rows = told(("plant", REJECTED), [aside])
    assert [column.name for column in rows.columns][:3] == ["reason", "detail", "payload"]
    assert rows.rows[0][:3] == ["json_syntax", "a brace is missing", '{"t":']


@pytest.fixture
def connected(tmp_path: Path) -> Iterator[Callable[[], tuple[PageFeed, socket.socket]]]:
    listener = listen(tmp_path / SOCKET)
    listener.settimeout(10)
    feed = PageFeed(tmp_path / SOCKET, every_s=0.01)
    page, _ = listener.accept()
    page.settimeout(10)
    wait_for(lambda: feed.listening)
    yield lambda: (feed, page)
    page.close()
    feed.close()
    listener.close()


def read(page: socket.socket) -> tuple[int, bytes]:
    length, kind = HEADER.unpack(page.recv(HEADER.size, socket.MSG_WAITALL))
    return kind, page.recv(length, socket.MSG_WAITALL)


def test_the_page_says_what_it_looks_at_and_gets_its_rows(
    connected: Callable[[], tuple[PageFeed, socket.socket]],
) -> None:
    feed, page = connected()
    assert not feed.looked_at
    asked = frame(LOOK, encode_looked_at({"plant"}))
    page.sendall(asked[:3])  # in two pieces
    page.sendall(asked[3:])
    wait_for(lambda: feed.looked_at == {"plant"})
    feed.look("plant", readings(4, 1))
    kind, body = read(page)
    assert kind == LAST_ROWS
    rows = decode_last_rows(body)
    assert isinstance(rows, LastRows)
    assert (rows.part, [row[2] for row in rows.rows]) == ("plant", [4.0])
    page.sendall(frame(LOOK, encode_looked_at(())))
    wait_for(lambda: not feed.looked_at)


@pytest.mark.parametrize("nonsense", [frame(99, b"[]"), frame(LOOK, b"{}"), HEADER.pack(2**30, LOOK)])
def test_what_nobody_understands_ends_the_connection_and_nothing_else(
    connected: Callable[[], tuple[PageFeed, socket.socket]], nonsense: bytes
) -> None:
    feed, page = connected()
    page.sendall(nonsense)
    assert page.recv(1) == b""
    assert not feed.looked_at
