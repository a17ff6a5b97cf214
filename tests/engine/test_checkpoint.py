"""The checkpoint store and the state files."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest

from tocsin.contracts import Checkpoint, Message, Staged, StepState
from tocsin.engine.checkpoint import SqliteStore, delete_states, read_states, state_files, write_states
from tocsin.errors import AlreadyRunning, CorruptState
from tocsin.world import SystemDisk


def test_what_is_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    assert store.last() is None
    written = Checkpoint(
        epoch=2,
        watermarks={"a/0": 5},
        offsets={"a/0": {"line": 3}},
        states={"sum": StepState("x:0:9", "abc", "fp", "set")},
        staged={"t": [Staged(2, {"part": "p"}, 100)], "u": [Staged(2, {}, 60, b"a stream of rows")]},
        published={"t": 1},
    )
    store.commit(Checkpoint(1), {})
    store.commit(written, {"bell": [Message("1", b"one"), Message("2", b"two")]})
    store.close()
    store = SqliteStore(tmp_path)
    assert store.last() == written
    assert store.pending("bell", 10) == [Message("1", b"one"), Message("2", b"two")]
    store.delivered("bell", ["1"])
    assert store.pending("bell", 10) == [Message("2", b"two")]
    store.commit(Checkpoint(3), {"bell": [Message("1", b"one"), Message("3", b"three")]})
    assert [m.id for m in store.pending("bell", 10)] == ["2", "3"], "a known id is not sent again"
    assert store.pending("other", 10) == []
    store.close()


def test_a_store_of_the_version_before_held_no_rows_and_can(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    staged = [Staged(1, {"part": "p"}, 100)]
    store.commit(Checkpoint(1, staged={"t": staged}), {})
    store.close()
    with sqlite3.connect(tmp_path / "checkpoints.db") as db:
        db.execute("alter table staged drop column rows")
    db.close()
    store = SqliteStore(tmp_path)
    last = store.last()
    assert last is not None
    assert last.staged == {"t": staged}
    staged.append(Staged(2, {}, 60, b"a stream of rows"))
    store.commit(Checkpoint(2, staged={"t": staged}), {})
    assert store.last() == Checkpoint(2, staged={"t": staged})
    store.close()


def test_the_log_of_the_database_is_folded_while_epochs_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.engine.checkpoint._FOLD_BYTES", 1 << 20)
    store = SqliteStore(tmp_path)
    staged = [Staged(epoch, {}, 0, bytes(100_000)) for epoch in range(1, 101)]
    for one in staged:
        store.commit(Checkpoint(one.epoch, staged={"t": [one]}, published={"t": one.epoch - 1}), {})
        if store._folding.ident is not None:
            store._folding.join()
    assert (tmp_path / "checkpoints.db-wal").stat().st_size < 3 << 20
    assert store.last() == Checkpoint(100, staged={"t": staged[-1:]}, published={"t": 99})
    store.close()


def test_keeps_two_epochs(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    for epoch in range(1, 10):
        store.commit(Checkpoint(epoch), {})
    store.close()
    with sqlite3.connect(tmp_path / "checkpoints.db") as db:
        assert db.execute("select epoch from epochs order by epoch").fetchall() == [(8,), (9,)]
    db.close()


def test_a_changed_checkpoint_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.commit(Checkpoint(1, offsets={"a": 10}), {})
    store.close()
    with sqlite3.connect(tmp_path / "checkpoints.db") as db:
        db.execute("update epochs set checkpoint = replace(checkpoint, '10', '11')")
    db.close()
    store = SqliteStore(tmp_path)
    with pytest.raises(CorruptState, match="checksum"):
        store.last()
    store.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints.db").write_bytes(b"x" * 8192)
    with pytest.raises(CorruptState, match="damaged"):
        SqliteStore(tmp_path)


def _hold(folder: Path, ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    SqliteStore(folder)
    ready.set()
    done.wait(30)
    os._exit(0)


def test_another_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(30)
    with pytest.raises(AlreadyRunning, match=f"process {process.pid}"):
        SqliteStore(tmp_path)
    process.kill()
    process.join()
    SqliteStore(tmp_path).close()


def test_states_come_back_and_damage_is_named(tmp_path: Path) -> None:
    disk = SystemDisk()
    tables = {"sum": pa.table({"key": ["a"], "n": [1]}), "ewma": pa.table({"key": ["a", "b"], "m": [0.5, 1.5]})}
    places = write_states(disk, tmp_path, 7, tables)
    assert read_states(disk, tmp_path, places) == tables
    newer = {**places, **write_states(disk, tmp_path, 8, {"sum": pa.table({"key": ["a"], "n": [2]})})}
    delete_states(disk, tmp_path, state_files(newer))
    assert read_states(disk, tmp_path, newer)["ewma"] == tables["ewma"]
    (name,) = state_files({"sum": newer["sum"]})
    data = bytearray((tmp_path / name).read_bytes())
    data[-20] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorruptState, match="'sum'"):
        read_states(disk, tmp_path, newer)
    (tmp_path / name).unlink()
    with pytest.raises(CorruptState, match="gone"):
        read_states(disk, tmp_path, newer)


def test_small_states_need_no_file_and_damage_is_named(tmp_path: Path) -> None:
    disk = SystemDisk()
    tables = {"sum": pa.table({"key": ["a"], "n": [1]}), "ewma": pa.table({"key": ["a", "b"], "m": [0.5, 1.5]})}
    places = write_states(disk, tmp_path, 7, tables, held_bytes=1 << 20)
    assert (list(tmp_path.iterdir()), state_files(places)) == ([], set())
    assert read_states(disk, tmp_path, places) == tables
    assert state_files(write_states(disk, tmp_path, 8, tables, held_bytes=100)) == {"000000000008.state"}
    damaged = {**places, "sum": places["sum"]._replace(place=places["ewma"].place)}
    with pytest.raises(CorruptState, match=r"'sum' in .*checkpoints\.db"):
        read_states(disk, tmp_path, damaged)
