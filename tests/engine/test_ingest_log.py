"""The ingest log: what is synced comes back, a torn tail is cut off, a damaged middle is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import simulated_parts as parts

from tocsin.batch import END, RAW, Batch, empty
from tocsin.engine.ingest_log import SYNC_AFTER_S, SYNC_BYTES, IngestLog, LoggedReader
from tocsin.errors import CorruptState, DurabilityError
from tocsin.world import SystemDisk


def batch(*payloads: bytes) -> Batch:
    return Batch(parts.raw(payloads))


def payloads(log: IngestLog, after: int = 0) -> list[list[bytes]]:
    return [frame.content()[0].rows["payload"].to_pylist() for frame in log.after(after)]


def written(folder: Path, count: int, segment_bytes: int = 1 << 20) -> IngestLog:
    log = IngestLog(folder, SystemDisk(), segment_bytes)
    for i in range(count):
        log.append(batch(b"%d" % i), {"at": i})
        log.sync()
    return log


@pytest.mark.parametrize("segment_bytes", [1, 3_000, 1 << 20])
def test_comes_back_with_the_readers_offset(tmp_path: Path, segment_bytes: int) -> None:
    written(tmp_path, 10, segment_bytes)
    log = IngestLog(tmp_path, SystemDisk(), segment_bytes)
    assert log.seq == log.durable == 10
    assert payloads(log, 4) == [[b"%d" % i] for i in range(4, 10)]
    assert log.tail is not None
    found, offset = log.tail.content()
    assert offset == {"at": 9}
    assert found.rows.schema.equals(RAW, check_metadata=True)
    assert found == batch(b"9")


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_torn_tail_is_cut_off(tmp_path: Path, cut: int) -> None:
    written(tmp_path, 3)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    log = IngestLog(tmp_path, SystemDisk())
    assert payloads(log) == [[b"0"], [b"1"]]
    log.append(batch(b"again"), None)
    assert payloads(IngestLog(tmp_path, SystemDisk())) == [[b"0"], [b"1"], [b"again"]]


def test_a_hole_in_what_was_never_synced_is_a_torn_tail(tmp_path: Path) -> None:
    log = written(tmp_path, 2)
    (path,) = tmp_path.iterdir()
    begin = path.stat().st_size
    log.append(batch(b"lost"), None)
    log.append(batch(b"later"), None)
    data = bytearray(path.read_bytes())
    data[begin + 5 : begin + 100] = bytes(95)
    path.write_bytes(data)
    assert payloads(IngestLog(tmp_path, SystemDisk())) == [[b"0"], [b"1"]]


def test_damage_to_what_was_synced_is_refused(tmp_path: Path) -> None:
    written(tmp_path, 5)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptState, match="damaged although it was on disk"):
        IngestLog(tmp_path, SystemDisk())
    assert path.read_bytes() == data, "nothing may be touched"


def test_a_missing_segment_is_refused(tmp_path: Path) -> None:
    written(tmp_path, 5, 1)
    sorted(tmp_path.iterdir())[2].unlink()
    with pytest.raises(CorruptState, match="hole"):
        IngestLog(tmp_path, SystemDisk(), 1)


def test_a_log_whose_fsync_failed_stays_failed(tmp_path: Path) -> None:
    """The system tells of it once; a second fsync returns 0, and would be acknowledged."""

    class Lying(SystemDisk):
        calls = 0

        def sync(self, path: Path) -> None:
            self.calls += 1
            if self.calls == 1:
                raise DurabilityError("simulated")

    log = IngestLog(tmp_path, Lying())
    log.append(batch(b"lost"), None)
    for _ in range(2):
        with pytest.raises(DurabilityError):
            log.sync()
    assert log.durable == 0


def test_forgets_whole_segments_but_the_last_two(tmp_path: Path) -> None:
    log = written(tmp_path, 6, 1)
    log.forget(3)
    assert len(list(tmp_path.iterdir())) == 3
    log.forget(6)
    assert len(list(tmp_path.iterdir())) == 2
    assert IngestLog(tmp_path, SystemDisk(), 1).seq == 6


class OnceReader:
    """Gives each message once; remembers what was acknowledged."""

    def __init__(self, state: Any, offset: Any) -> None:
        self.state = state
        state["opened"].append(offset)

    def poll(self, rows_max: int, timeout_s: float) -> Any:
        if not self.state["messages"]:
            return None
        message = self.state["messages"].pop(0)
        if message is None:
            return Batch(empty(RAW), END), "end"
        return batch(message), message.decode()

    def counters(self) -> dict[str, int]:
        return {}

    def progress(self) -> None:
        return None

    def acknowledge(self, offset: Any) -> None:
        self.state["acknowledged"].append(offset)

    def close(self) -> None:
        pass


class Still:
    """A clock that is set by hand."""

    now_s = 0.0

    def now_us(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def reader(folder: Path, state: Any, after: int | None, clock: Still | None = None) -> LoggedReader:
    log = IngestLog(folder, SystemDisk())
    return LoggedReader(log, lambda offset: OnceReader(state, offset), "0", after, clock or Still())


def test_many_messages_share_an_fsync(tmp_path: Path) -> None:
    state: Any = {"messages": [b"a", b"b", b"c", b"d" * SYNC_BYTES, b"e"], "acknowledged": [], "opened": []}
    clock = Still()
    log = reader(tmp_path, state, None, clock)
    log.poll(10, 0)
    log.poll(10, 0)
    assert state["acknowledged"] == []
    clock.sleep(SYNC_AFTER_S)
    log.poll(10, 0)
    assert state["acknowledged"] == ["c"], "all together, as soon as the first has waited long enough"
    log.poll(10, 0)
    assert len(state["acknowledged"]) == 2, "at once, if it is much"
    log.poll(10, 0)
    clock.sleep(SYNC_AFTER_S)
    assert log.poll(10, 0) is None
    assert state["acknowledged"][2:] == ["e"], "also if nothing more comes"


def test_reader_replays_then_goes_on(tmp_path: Path) -> None:
    state: Any = {"messages": [b"a", b"b"], "acknowledged": [], "opened": []}
    first = reader(tmp_path, state, None)
    found = [first.poll(10, 0), first.poll(10, 0)]
    assert state["acknowledged"] == []
    first.settle()
    first.confirm()
    assert state["acknowledged"] == ["b"]
    offsets = [polled[1] for polled in found if polled]
    state["messages"] = [b"c", None]
    second = reader(tmp_path, state, offsets[0])
    rows = []
    for _ in range(3):
        polled = second.poll(10, 0)
        assert polled is not None
        rows += polled[0].rows["payload"].to_pylist()
    assert rows == [b"b", b"c"]
    assert polled is not None
    assert polled[0].watermark_us == END
    second.settle()
    assert state["opened"] == [None, "b"]
    third = reader(tmp_path, state, polled[1] - 1)
    last = third.poll(10, 0)
    assert last is not None
    assert last[0].watermark_us == END
    assert third.poll(10, 0) is None
    assert len(state["opened"]) == 2, "what has ended is not opened again"


def test_checkpoint_beyond_the_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptState, match="ends at 0"):
        reader(tmp_path, {"messages": [], "acknowledged": [], "opened": []}, 3)


def test_frames_are_plain_arrow(tmp_path: Path) -> None:
    written(tmp_path, 1)
    (path,) = tmp_path.iterdir()
    table = pa.ipc.open_stream(path.read_bytes()[28:]).read_all()
    assert table["payload"].to_pylist() == [b"0"]


def test_replay_puts_small_frames_together(tmp_path: Path) -> None:
    log = IngestLog(tmp_path, SystemDisk(), 4_000)
    for i in range(300):
        log.append(batch(b"%d" % i), None)
    other = batch(b"other")
    renamed = other.rows.rename_columns(["payload", "topic", "position", "received"]).append_column(
        "more", pa.array([1])
    )
    log.append(Batch(renamed), None)
    log.sync()
    again = reader(tmp_path, {"messages": [], "acknowledged": [], "opened": []}, 10)
    polled = [again.poll(200, 0), again.poll(200, 0), again.poll(200, 0), again.poll(200, 0)]
    assert [None if p is None else (len(p[0]), p[1]) for p in polled] == [(200, 210), (90, 300), (1, 301), None]
    assert polled[0] is not None
    assert polled[0][0].rows["payload"].to_pylist() == [b"%d" % i for i in range(10, 210)]
    assert polled[0][0].schema == RAW
