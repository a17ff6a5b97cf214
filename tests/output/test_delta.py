"""Sink `delta`, against delta-rs as the oracle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import deltalake
import numpy as np
import polars
import pyarrow as pa
import pytest

from tocsin.batch import KEY_TYPE, TIME_TYPE
from tocsin.errors import ForeignCommit, SchemaError, SinkError
from tocsin.lake.files import dataset
from tocsin.lake.log import Log
from tocsin.output.delta import Delta, DeltaWriter
from tocsin.testing import world
from tocsin.world import SystemDisk

DAY_US = 86_400_000_000


def readings(start: int, n: int, **more: pa.Array) -> pa.RecordBatch:
    at = np.arange(start, start + n)
    return pa.record_batch(
        {
            "key": pa.array([f"m{i % 3}" for i in at], pa.string()).dictionary_encode().cast(KEY_TYPE),
            "time": pa.array(at * 3_600_000_000, pa.int64()).cast(TIME_TYPE),
            "value": pa.array(at * 0.5),
            **more,
        }
    )


def open_writer(folder: Path, schema: pa.Schema, app: str = "p/s/0", **settings: object) -> DeltaWriter:
    return Delta(path="t", **settings).open(world(folder, app), schema)


def put(writer: DeltaWriter, epoch: int, *rows: pa.RecordBatch) -> None:
    writer.publish(epoch, [writer.stage(epoch, [batch]) for batch in rows])


def seen(folder: Path) -> pa.Table:
    return deltalake.DeltaTable(folder / "t").to_pyarrow_table().sort_by("time")


def same_as_delta_rs(writer: DeltaWriter, folder: Path) -> None:
    table = deltalake.DeltaTable(folder / "t")
    assert table.version() == writer.log.snapshot.version
    assert sorted(table.file_uris()) == sorted(str(folder / "t" / p) for p in writer.log.snapshot.files)
    assert (table.transaction_version(writer.app_id)) == writer.published()


def test_delta_rs_reads_what_we_write(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, readings(0, 1).schema)
    put(writer, 1, readings(0, 5), readings(5, 5))
    put(writer, 2, readings(10, 3))
    table = seen(tmp_path)
    assert table["value"].to_pylist() == [i * 0.5 for i in range(13)]
    assert table["key"].to_pylist() == [f"m{i % 3}" for i in range(13)]
    assert table.schema.field("time").type == TIME_TYPE
    same_as_delta_rs(writer, tmp_path)


def test_an_epoch_is_committed_once(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, readings(0, 1).schema)
    token = writer.stage(7, [readings(0, 5)])
    assert writer.published() is None
    writer.publish(7, [token])
    writer.publish(7, [token])
    again = open_writer(tmp_path, readings(0, 1).schema)
    again.publish(7, [token])
    assert again.published() == 7
    assert seen(tmp_path).num_rows == 5


def test_partitions_by_key_and_derived_day(tmp_path: Path) -> None:
    odd = pa.record_batch(
        {
            "key": pa.array(["a b", "ä/b%20=?*:", "../x", "z" * 300, "", None]).dictionary_encode().cast(KEY_TYPE),
            "time": pa.array(np.arange(6) * DAY_US // 2).cast(TIME_TYPE),
            "value": pa.array(np.arange(6.0)),
        }
    )
    writer = open_writer(tmp_path, odd.schema, partition_by=("key", "date"))
    put(writer, 1, odd)
    table = seen(tmp_path)
    assert table["value"].to_pylist() == [0, 1, 2, 3, 4, 5]
    assert table["key"].to_pylist() == ["a b", "ä/b%20=?*:", "../x", "z" * 300, None, None]
    assert [str(d) for d in table["date"].to_pylist()] == [f"1970-01-0{i // 2 + 1}" for i in range(6)]
    by_polars = polars.read_delta(str(tmp_path / "t")).sort("time")
    assert by_polars["key"].to_list() == table["key"].to_pylist()
    assert by_polars["date"].to_list() == table["date"].to_pylist()
    ours = dataset(Log(tmp_path / "t", SystemDisk())).to_table().sort_by("time")
    assert ours["key"].to_pylist() == table["key"].to_pylist()
    put(writer, 2, *(odd.slice(i, 1) for i in range(6) for _ in range(40)))
    writer.housekeep()
    assert len(writer.log.snapshot.files) < 20
    assert sorted(seen(tmp_path)["value"].to_pylist()) == sorted([i for i in range(6) for _ in range(41)])
    same_as_delta_rs(writer, tmp_path)


def test_new_columns_are_added_and_changed_types_refused(tmp_path: Path) -> None:
    put(open_writer(tmp_path, readings(0, 1).schema), 1, readings(0, 2))
    wide = readings(2, 2, quality=pa.array([1, 2]), tags=pa.array([["x"], None]))
    put(open_writer(tmp_path, wide.schema), 2, wide)
    put(open_writer(tmp_path, readings(0, 1).schema), 3, readings(4, 1))
    table = seen(tmp_path)
    assert table["quality"].to_pylist() == [None, None, 1, 2, None]
    assert table["tags"].to_pylist() == [None, None, ["x"], None, None]
    with pytest.raises(SchemaError, match="column 'value' is double in the table and string"):
        open_writer(tmp_path, pa.schema({"value": pa.string()}))
    with pytest.raises(SinkError, match="partitioned by"):
        open_writer(tmp_path, readings(0, 1).schema, partition_by=("key",))


def test_names_that_delta_cannot_hold_are_slugged_for_good(tmp_path: Path) -> None:
    robot = "::[scararobot]Ax_J1.ActualPosition"
    rows = readings(0, 2, **{robot: pa.array([1, 2]), "oil temp (°C)": pa.array([3, 4]), "Value": pa.array([5, 6])})
    writer = open_writer(tmp_path, rows.schema)
    put(writer, 1, rows)
    put(open_writer(tmp_path, rows.select(["Value", "time"]).schema), 2, rows.select(["Value", "time"]))
    table = seen(tmp_path)
    assert table.column_names == ["key", "time", "value", robot, "oil_temp__°C_", "Value_2"]
    assert sorted(table["Value_2"].to_pylist()) == [5, 5, 6, 6]


def test_delta_rs_works_beside_us(tmp_path: Path) -> None:
    schema = readings(0, 1).schema
    writer = open_writer(tmp_path, schema)
    for epoch in range(1, 30):
        put(writer, epoch, readings(epoch * 10, 10))
        if epoch % 7 == 0:
            foreign = pa.Table.from_batches([readings(epoch * 1_000, 3)])
            foreign = foreign.set_column(0, "key", foreign["key"].cast(pa.string()))
            deltalake.write_deltalake(tmp_path / "t", foreign, mode="append")
        if epoch % 11 == 0:
            deltalake.DeltaTable(tmp_path / "t").optimize.compact()
        if epoch % 13 == 0:
            deltalake.DeltaTable(tmp_path / "t").create_checkpoint()
            deltalake.DeltaTable(tmp_path / "t").vacuum(0, enforce_retention_duration=False, dry_run=False)
        writer.housekeep()
    expected = Counter(i * 0.5 for e in range(1, 30) for i in range(e * 10, e * 10 + 10))
    expected.update(i * 0.5 for e in (7, 14, 21, 28) for i in range(e * 1_000, e * 1_000 + 3))
    assert Counter(seen(tmp_path)["value"].to_pylist()) == expected
    same_as_delta_rs(writer, tmp_path)
    same_as_delta_rs(open_writer(tmp_path, schema), tmp_path)


def test_another_engine_under_our_name_is_refused(tmp_path: Path) -> None:
    schema = readings(0, 1).schema
    one, two = open_writer(tmp_path, schema), open_writer(tmp_path, schema)
    put(one, 1, readings(0, 1))
    with pytest.raises(ForeignCommit, match="another engine writes this table"):
        put(two, 1, readings(0, 1))
    assert seen(tmp_path).num_rows == 1
    other = open_writer(tmp_path, schema, app="other")
    put(other, 1, readings(0, 1))
    assert seen(tmp_path).num_rows == 2


def test_epochs_that_were_gathered_become_one_file_of_each_partition(tmp_path: Path) -> None:
    schema = readings(0, 1).schema
    writer = open_writer(tmp_path, schema, partition_by=("key",))
    tokens = [writer.stage(epoch, [readings(10 * epoch, 10)]) for epoch in range(1, 21)]
    staged = len([name for name in SystemDisk().names(tmp_path / "t") if name.endswith(".parquet")])
    writer.publish(20, tokens)
    names = [name for name in SystemDisk().names(tmp_path / "t") if name.endswith(".parquet")]
    keys = len(set(seen(tmp_path)["key"].to_pylist()))
    assert (len(names), staged) == (keys, 20 * keys)
    assert sorted(seen(tmp_path)["value"].to_pylist()) == [0.5 * i for i in range(10, 210)]
    assert writer.published() == 20
    same_as_delta_rs(open_writer(tmp_path, schema, partition_by=("key",)), tmp_path)
    again = open_writer(tmp_path, schema, partition_by=("key",))
    again.publish(20, tokens)  # a second call changes nothing
    again.discard(tokens)
    assert seen(tmp_path).num_rows == 200


def test_large_files_are_published_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.output.delta.MERGED_MAX", 100)
    writer = open_writer(tmp_path, readings(0, 1).schema)
    writer.publish(3, [writer.stage(epoch, [readings(epoch, 1)]) for epoch in (1, 2, 3)])
    assert len(writer.log.snapshot.files) == 3
    assert seen(tmp_path).num_rows == 3


def test_a_staged_file_that_is_damaged_keeps_no_other_from_the_table(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, readings(0, 1).schema)
    tokens = [writer.stage(epoch, [readings(epoch, 1)]) for epoch in (1, 2, 3)]
    (tmp_path / "t" / tokens[1]["adds"][0]["path"]).write_bytes(b"rust")
    writer.publish(3, tokens)
    assert writer.published() == 3
    assert len(writer.log.snapshot.files) == 3, "the damage is told to whoever reads it"


def test_what_merging_left_behind_is_deleted_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = readings(0, 1).schema
    writer = open_writer(tmp_path, schema)
    tokens = [writer.stage(epoch, [readings(epoch, 1)]) for epoch in (1, 2, 3)]
    with monkeypatch.context() as patch:
        patch.setattr(SystemDisk, "unlink", lambda self, path: None)  # it died here
        writer.publish(3, tokens)
    again = open_writer(tmp_path, schema)
    assert len([name for name in SystemDisk().names(tmp_path / "t") if name.endswith(".parquet")]) == 4
    again.discard([])
    assert len([name for name in SystemDisk().names(tmp_path / "t") if name.endswith(".parquet")]) == 1
    assert seen(tmp_path).num_rows == 3


def test_replaced_files_are_kept_for_hours(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, readings(0, 1).schema)
    start_us = writer.log.clock.now_us()

    class Later:
        hours = 0.0

        def now_us(self) -> int:
            return start_us + int(3.6e9 * self.hours)

    writer.log.clock = clock = Later()  # type: ignore[assignment]
    for epoch in range(1, 41):
        put(writer, epoch, readings(epoch, 1))
    files = []
    for clock.hours in (0.0, 3.5, 4.5):
        writer.housekeep()
        files.append(len([name for name in SystemDisk().names(tmp_path / "t") if name.endswith(".parquet")]))
    assert files == [41, 41, 1]
    assert seen(tmp_path).num_rows == 40


def test_what_was_staged_in_vain_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    schema = readings(0, 1).schema
    writer = open_writer(tmp_path, schema)
    for epoch in range(1, 41):
        put(writer, epoch, readings(epoch, 1))
    writer.housekeep()
    kept = writer.stage(41, [readings(41, 1)])
    writer.stage(41, [readings(50, 1)])
    before = set(SystemDisk().names(tmp_path / "t"))
    again = open_writer(tmp_path, schema)
    again.discard([kept])
    gone = before - set(SystemDisk().names(tmp_path / "t"))
    assert len(gone) == 1
    again.publish(41, [kept])
    assert seen(tmp_path).num_rows == 41


def test_housekeeping_keeps_files_and_log_small(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, readings(0, 1).schema, retention=0)
    for epoch in range(1, 201):
        put(writer, epoch, readings(epoch, 1))
        writer.housekeep()
    assert len(writer.log.snapshot.files) < 70
    writer._next_vacuum_us = 0
    writer.housekeep()
    names = SystemDisk().names(tmp_path / "t")
    assert len(names) == len(writer.log.snapshot.files) + 1
    assert len(SystemDisk().names(tmp_path / "t" / "_delta_log")) < 60
    assert seen(tmp_path).num_rows == 200
    same_as_delta_rs(open_writer(tmp_path, readings(0, 1).schema), tmp_path)
