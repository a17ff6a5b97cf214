import json
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from plant import wait_for

from tocsin.batch import KEY, TIME, Batch, as_keys, as_times
from tocsin.engine.feed import COUNTERS, HEADER, ROWS, Feed, connect, listen, thinned


def readings(keys: list[str], first: int = 0, **columns: pa.Array) -> pa.RecordBatch:
    given = {"value": pa.array(np.arange(first, first + len(keys), dtype=float)), **columns}
    schema = pa.schema([KEY, TIME, *(pa.field(name, column.type) for name, column in given.items())])
    times = as_times(np.arange(first, first + len(keys)) * 1_000_000)
    return pa.RecordBatch.from_arrays([as_keys(pa.array(keys)), times, *given.values()], schema=schema)


class Page:
    """A page that reads frames, when it is told to."""

    def __init__(self, path: Path) -> None:
        self.listener = listen(path)
        self.listener.settimeout(10)
        self.connection: socket.socket | None = None

    def accept(self) -> "Page":
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(10)
        return self

    def frame(self) -> tuple[int, bytes]:
        length, kind = HEADER.unpack(self._read(HEADER.size))
        return kind, self._read(length)

    def rows(self) -> tuple[str, pa.Table]:
        kind, body = self.frame()
        assert kind == ROWS
        with pa.ipc.open_stream(body) as stream:
            return stream.schema.metadata[b"stream"].decode(), stream.read_all()

    def _read(self, count: int) -> bytes:
        assert self.connection is not None
        data = b""
        while len(data) < count:
            part = self.connection.recv(count - len(data))
            assert part, "the feed hung up"
            data += part
        return data

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.listener.close()


@pytest.fixture
def page(tmp_path: Path):
    page = Page(tmp_path / "page.sock")
    yield page
    page.close()


def test_all_rows_of_a_quiet_stream_arrive_in_order(page: Page, tmp_path: Path) -> None:
    feed = Feed(tmp_path / "page.sock", every_s=0.02)
    page.accept()
    wait_for(lambda: feed.listening)
    feed.offer("readings", Batch(readings(["a", "b"])))
    feed.offer("readings", Batch(readings(["a"], first=2)))
    feed.close()
    name, rows = page.rows()
    values = rows["value"].to_pylist()
    if len(values) < 3:  # the first batch went with an earlier tick
        values += page.rows()[1]["value"].to_pylist()
    assert (name, values, rows.schema.field("key").type) == ("readings", [0.0, 1.0, 2.0], pa.string())


def test_counters_arrive_as_json(page: Page, tmp_path: Path) -> None:
    feed = Feed(tmp_path / "page.sock", every_s=0.02)
    page.accept()
    feed.counters({"rows_in": {"plant": 7}})
    assert page.frame() == (COUNTERS, json.dumps({"rows_in": {"plant": 7}}).encode())
    feed.close()


def test_a_page_that_does_not_read_never_holds_the_engine_up(page: Page, tmp_path: Path) -> None:
    feed = Feed(tmp_path / "page.sock", every_s=0.01, timeout_s=0.2, rows_max=100)
    page.accept()
    wait_for(lambda: feed.listening)
    rows = Batch(readings([f"k{i}" for i in range(500)], text=pa.array(["x" * 1000] * 500)))
    slowest = 0.0
    ends = time.monotonic() + 1.0
    while time.monotonic() < ends:
        begun = time.thread_time()
        feed.offer("readings", rows)
        slowest = max(slowest, time.thread_time() - begun)
        waiting = feed._waiting.get("readings")
        assert waiting is None or waiting.rows <= 100 * 8 + 500
        time.sleep(0.001)
    feed.close()
    assert slowest < 0.05
    assert not any(thread.name == "feed" for thread in threading.enumerate())


def test_what_flows_before_the_first_page_waits_for_it_within_bounds(tmp_path: Path) -> None:
    feed = Feed(tmp_path / "page.sock", every_s=0.01, rows_max=10)
    feed.offer("alarms", Batch(readings(["a"])))
    for _ in range(500):
        feed.offer("readings", Batch(readings(["a", "b"])))
    assert feed._waiting["readings"].rows <= 10 * 8 + 2
    page = Page(tmp_path / "page.sock").accept()
    assert {page.rows()[0], page.rows()[0]} == {"alarms", "readings"}
    page.close()
    feed.close()


def test_once_a_page_has_gone_nothing_is_kept_and_a_later_page_is_found(tmp_path: Path) -> None:
    feed = Feed(tmp_path / "page.sock", every_s=0.01)
    for _ in range(2):  # the page is started, ends, and is started again
        page = Page(tmp_path / "page.sock").accept()
        wait_for(lambda: feed.listening)
        feed.offer("readings", Batch(readings(["a"])))
        assert page.rows()[0] == "readings"
        page.close()
        wait_for(lambda: feed.offer("readings", Batch(readings(["a"]))) or not feed.listening)
        wait_for(lambda: not feed._waiting)
        feed.offer("readings", Batch(readings(["a"])))
        assert not feed._waiting
    feed.close()


def test_only_the_streams_that_are_asked_for(page: Page, tmp_path: Path) -> None:
    feed = Feed(tmp_path / "page.sock", streams=["windows"], every_s=0.02)
    page.accept()
    wait_for(lambda: feed.listening)
    feed.offer("readings", Batch(readings(["a"])))
    feed.offer("windows", Batch(readings(["b"])))
    assert page.rows()[0] == "windows"
    feed.close()


def test_a_long_folder_is_no_hindrance(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    listener = listen(folder / "page.sock")
    connect(folder / "page.sock", 1.0).close()
    assert ((folder / "page.sock").stat().st_mode & 0o077) == 0
    listener.close()


def test_of_too_many_rows_the_newest_of_each_key_and_signal_stay() -> None:
    signals = pa.array(["x", "y"] * 5000)
    rows = thinned([readings([f"k{i // 2 % 10}" for i in range(10_000)], signal=signals)], 2000)
    assert rows.num_rows == 20
    assert sorted(rows["value"].to_pylist()) == [float(v) for v in range(9980, 10_000)]


def test_of_too_many_alarms_the_newest_row_of_each_stays() -> None:
    columns = {"id": [f"a{i % 300}" for i in range(900)], "state": ["ACTIVE_UNACK"] * 900}
    rows = thinned(
        [readings(["k"] * 900, **{n: pa.array(c) for n, c in columns.items()}, ring=pa.array([True] * 900))], 500
    )
    assert rows.num_rows == 300
    assert rows["value"].to_pylist() == [float(v) for v in range(600, 900)]


def test_quiet_keys_are_seen_beside_busy_ones() -> None:
    rows = thinned([readings(["quiet"] + ["busy"] * 7000)], 1000)
    assert rows["key"].to_pylist() == ["quiet", "busy"]


def test_lists_and_bytes_stay_behind() -> None:
    given = readings(["a"], list=pa.array([[1.0]]), raw=pa.array([b"x"]), word=pa.array(["w"]))
    assert thinned([given], 10).column_names == ["key", "time", "value", "word"]


def test_a_changed_schema_drops_the_older_rows() -> None:
    changed = readings(["b"], more=pa.array([1]))
    assert thinned([readings(["a"]), changed], 10)["key"].to_pylist() == ["b"]
