import socket
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from plant import wait_for

from tocsin.bases import VERDICT, judging
from tocsin.batch import KEY, TIME, Batch, as_keys, as_times
from tocsin.engine import feed as feeding
from tocsin.engine.feed import PageFeed, connect, listen, thinned
from tocsin.engine.wire import COUNTERS, HEADER, ROWS, Counted, decode_counted, decode_rows, describe


def readings(keys: list[str], first: int = 0, **columns: pa.Array) -> pa.RecordBatch:
    given = {"value": pa.array(np.arange(first, first + len(keys), dtype=float)), **columns}
    schema = pa.schema([KEY, TIME, *(pa.field(name, column.type) for name, column in given.items())])
    times = as_times(np.arange(first, first + len(keys)) * 1_000_000)
    return pa.RecordBatch.from_arrays([as_keys(pa.array(keys)), times, *given.values()], schema=schema)


def thin(batches: list[pa.RecordBatch], rows_max: int) -> pa.Table:
    return thinned(describe("readings", batches[-1].schema), batches, rows_max).rows


class Reader:
    """A page that reads frames, when it is told to."""

    def __init__(self, path: Path) -> None:
        self.listener = listen(path)
        self.listener.settimeout(10)
        self.connection: socket.socket | None = None

    def accept(self) -> "Reader":
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(10)
        return self

    def frame(self) -> tuple[int, bytes]:
        length, kind = HEADER.unpack(self._read(HEADER.size))
        return kind, self._read(length)

    def rows(self) -> tuple[str, pa.Table]:
        kind, body = self.frame()
        assert kind == ROWS
        stream, rows, _ = decode_rows(body)
        return stream.name, rows

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
    page = Reader(tmp_path / "page.sock")
    yield page
    page.close()


def test_all_rows_of_a_quiet_stream_arrive_in_order(page: Reader, tmp_path: Path) -> None:
    feed = PageFeed(tmp_path / "page.sock", every_s=0.02)
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


def test_counters_arrive_as_json(page: Reader, tmp_path: Path) -> None:
    feed = PageFeed(tmp_path / "page.sock", every_s=0.02)
    page.accept()
    feed.counters({"rows_in": {"plant": 7}})
    kind, body = page.frame()
    assert kind == COUNTERS
    assert decode_counted(body) == Counted(rows_in={"plant": 7})
    feed.close()


def test_counters_that_nobody_knows_are_refused_where_they_are_made(tmp_path: Path) -> None:
    feed = PageFeed(tmp_path / "page.sock")
    with pytest.raises(msgspec.ValidationError, match="rows_out"):
        feed.counters({"rows_out": {"readings": "many"}})
    with pytest.raises(msgspec.ValidationError, match="temperature"):
        feed.counters({"temperature": 20})
    feed.close()


def test_counters_go_on_where_rows_cost_too_much(page: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "_SHARE_MAX", 1e-9)  # after the first rows it would be years until the next
    feed = PageFeed(tmp_path / "page.sock", every_s=0.01)
    page.accept()
    wait_for(lambda: feed.listening)
    feed.offer("readings", Batch(readings(["a"])))
    for _ in range(3):
        feed.counters({})
        assert page.frame()[0] == COUNTERS, "they tell that the engine is alive"
    assert feed._waiting
    feed.close()


def test_what_a_verdict_is_about_travels_with_the_rows(page: Reader, tmp_path: Path) -> None:
    numbers = {name: pa.array([1.0]) for name in ("t_in", "t_out", *(field.name for field in VERDICT))}
    feed = PageFeed(tmp_path / "page.sock", every_s=0.02)
    page.accept()
    wait_for(lambda: feed.listening)
    for column in ("t_in", "t_out"):  # two detectors whose streams are united
        rows = readings(["a"], **numbers)
        kept = [field for field in rows.schema if field.name not in {f.name for f in VERDICT}]
        schema = pa.schema([*kept, *judging(VERDICT, column)])
        feed.offer("judged", Batch(pa.RecordBatch.from_arrays(rows.columns, schema=schema)))
    feed.close()
    assert [decode_rows(page.frame()[1])[0].judged for _ in range(2)] == ["t_in", "t_out"]


def test_a_page_that_does_not_read_never_holds_the_engine_up(page: Reader, tmp_path: Path) -> None:
    feed = PageFeed(tmp_path / "page.sock", every_s=0.01, timeout_s=0.2, rows_max=100)
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
    feed = PageFeed(tmp_path / "page.sock", every_s=0.01, rows_max=10)
    feed.offer("alarms", Batch(readings(["a"])))
    for _ in range(500):
        feed.offer("readings", Batch(readings(["a", "b"])))
    assert feed._waiting["readings"].rows <= 10 * 8 + 2
    page = Reader(tmp_path / "page.sock").accept()
    assert {page.rows()[0], page.rows()[0]} == {"alarms", "readings"}
    page.close()
    feed.close()


def test_once_a_page_has_gone_nothing_is_kept_and_a_later_page_is_found(tmp_path: Path) -> None:
    feed = PageFeed(tmp_path / "page.sock", every_s=0.01)
    for _ in range(2):  # the page is started, ends, and is started again
        page = Reader(tmp_path / "page.sock").accept()
        wait_for(lambda: feed.listening)
        feed.offer("readings", Batch(readings(["a"])))
        assert page.rows()[0] == "readings"
        page.close()
        wait_for(lambda: feed.offer("readings", Batch(readings(["a"]))) or not feed.listening)
        wait_for(lambda: not feed._waiting)
        feed.offer("readings", Batch(readings(["a"])))
        assert not feed._waiting
    feed.close()


def test_only_the_streams_that_are_asked_for(page: Reader, tmp_path: Path) -> None:
    feed = PageFeed(tmp_path / "page.sock", streams=["windows"], every_s=0.02)
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
    rows = thin([readings([f"k{i // 2 % 10}" for i in range(10_000)], signal=signals)], 2000)
    assert rows.num_rows == 20
    assert sorted(rows["value"].to_pylist()) == [float(v) for v in range(9980, 10_000)]


def test_of_too_many_alarms_the_newest_row_of_each_stays() -> None:
    texts = ("rule", "severity", "state", "mode", "event", "message")
    columns = {"id": [f"a{i % 300}" for i in range(900)], **{name: [""] * 900 for name in texts}, "number": range(900)}
    rows = thin(
        [readings(["k"] * 900, **{n: pa.array(c) for n, c in columns.items()}, ring=pa.array([True] * 900))], 500
    )
    assert rows.num_rows == 300
    assert rows["value"].to_pylist() == [float(v) for v in range(600, 900)]


def test_quiet_keys_are_seen_beside_busy_ones() -> None:
    rows = thin([readings(["quiet"] + ["busy"] * 7000)], 1000)
    assert rows["key"].to_pylist() == ["quiet", "busy"]


@pytest.mark.parametrize("pairs", [5000, 20_000, 41_000])
def test_of_too_many_keys_and_signals_all_take_turns_and_the_page_is_told(pairs: int) -> None:
    keys, signals = [f"k{i // 20}" for i in range(pairs)], pa.array([f"s{i % 20}" for i in range(pairs)])
    seen: set[tuple[str, str]] = set()
    turns = 0
    while len(seen) < pairs and turns < 2 * pairs / 2000:  # each time the same keys and signals in the same order
        given = readings(keys, first=turns * pairs, signal=signals)
        told = thinned(describe("readings", given.schema), [given], 2000, turns)
        assert told.rows.num_rows == 2000
        assert told.in_turn == min(pairs, 16_000)
        assert min(told.rows["value"].to_pylist()) >= turns * pairs, "what is sent is of this time"
        seen |= set(zip(told.rows["key"].to_pylist(), told.rows["signal"].to_pylist(), strict=True))
        turns += 1
    assert len(seen) == pairs


def test_what_is_heard_of_few_keys_takes_no_turns() -> None:
    given = readings(["a", "b"] * 50_000)
    for turn in range(3):
        told = thinned(describe("readings", given.schema), [given], 2000, turn)
        assert (told.in_turn, told.rows["value"].to_pylist()) == (0, [99_998.0, 99_999.0])


def test_each_turn_of_a_stream_goes_on_where_the_one_before_ended(page: Reader, tmp_path: Path) -> None:
    feed = PageFeed(tmp_path / "page.sock", every_s=0.01, rows_max=10)
    page.accept()
    wait_for(lambda: feed.listening)
    seen: set[str] = set()
    for _ in range(3):
        feed.offer("readings", Batch(readings([f"k{i:02}" for i in range(30)])))
        kind, body = page.frame()
        _, rows, in_turn = decode_rows(body)
        assert (kind, in_turn) == (ROWS, 30)
        seen |= set(rows["key"].to_pylist())
    assert len(seen) == 30
    feed.close()


def test_only_what_is_shown_is_sent() -> None:
    given = readings(["a"], list=pa.array([[1.0]]), raw=pa.array([b"x"]), word=pa.array(["w"]))
    assert thin([given], 10).column_names == ["key", "time", "value"]


def test_a_changed_schema_drops_the_older_rows() -> None:
    changed = readings(["b"], more=pa.array([1]))
    assert thin([readings(["a"]), changed], 10)["key"].to_pylist() == ["b"]
