"""The log against delta-rs: whatever the two do in turn, both see the same table."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import deltalake
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.errors import SchemaError, SinkError
from tocsin.lake.files import dataset
from tocsin.lake.log import Log
from tocsin.lake.maintenance import checkpoint, clean_log, compact, vacuum
from tocsin.lake.schema import arrow_schema, new_fields, schema_string
from tocsin.output.delta import Delta
from tocsin.testing import world
from tocsin.world import SystemDisk

OPERATIONS = (
    "append", "append", "foreign append", "compact", "foreign compact", "checkpoint", "foreign checkpoint",
    "reopen", "add column", "vacuum", "foreign vacuum", "foreign delete", "clean log",
)  # fmt: skip


def rows(step: int, columns: int) -> pa.RecordBatch:
    more = {f"c{i}": pa.array([step] * 3) for i in range(columns)}
    return pa.record_batch({"key": ["a", "b", "a"], "value": pa.array([step, step + 0.25, step + 0.5]), **more})


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=14), st.booleans())
def test_our_snapshot_is_delta_rs_s(operations: list[str], partitioned: bool) -> None:
    with TemporaryDirectory() as name:
        folder, columns, epoch = Path(name), 0, 0
        sink = Delta(path="t", partition_by=("key",) if partitioned else ())

        def reopen():  # type: ignore[no-untyped-def]
            return sink.open(world(folder, "app"), rows(0, columns).schema)

        writer = reopen()
        for step, operation in enumerate(operations):
            table = deltalake.DeltaTable(folder / "t")
            match operation:
                case "append":
                    epoch += 1
                    writer.publish(epoch, [writer.stage(epoch, [rows(step, columns)])])
                case "foreign append":
                    deltalake.write_deltalake(table, pa.Table.from_batches([rows(step, columns)]), mode="append")
                case "compact":
                    writer.log.refresh()
                    compact(writer.log, "merged", 2, 2**20)
                case "foreign compact":
                    table.optimize.compact()
                case "checkpoint":
                    checkpoint(writer.log)
                case "foreign checkpoint":
                    table.create_checkpoint()
                case "reopen":
                    writer = reopen()
                case "add column":
                    columns += 1
                    writer = reopen()
                case "vacuum":
                    writer.log.refresh()
                    vacuum(writer.log, 0)
                case "foreign vacuum":
                    table.vacuum(0, enforce_retention_duration=False, dry_run=False)
                case "foreign delete":
                    table.delete("value < 3")
                case "clean log":
                    writer.log.refresh()
                    clean_log(writer.log, 0)
            writer.log.refresh()
            theirs = deltalake.DeltaTable(folder / "t")
            for ours in (writer.log, Log(folder / "t", SystemDisk())):
                assert ours.snapshot.version == theirs.version()
                assert {str(ours.data_path(p)) for p in ours.snapshot.files} == set(theirs.file_uris())
                assert ours.snapshot.transactions.get("app") == theirs.transaction_version("app")
                assert ours.snapshot.partition_columns == theirs.metadata().partition_columns
                assert arrow_schema(ours.snapshot.fields) == pa.schema(theirs.schema().to_arrow())
        order = [("value", "ascending"), ("key", "ascending")]
        mine = dataset(writer.log).to_table().sort_by(order)
        assert mine.equals(theirs.to_pyarrow_table().select(mine.column_names).sort_by(order).cast(mine.schema))


def table(folder: Path, commits: int) -> Log:
    log = Log(folder, SystemDisk(), "app")
    log.create(schema_string(new_fields(pa.schema({"a": pa.int64()}))), [])
    for version in range(commits):
        assert log.commit([{"txn": {"appId": "app", "version": version}}], lambda _: False)
    return log


def test_a_torn_last_entry_is_set_aside_by_a_writer_and_passed_over_by_a_reader(tmp_path: Path) -> None:
    log = table(tmp_path, 3)
    log.entry(4).write_bytes(b'{"txn": {"appId": "ap')
    assert Log(tmp_path, SystemDisk()).snapshot.version == 3
    again = Log(tmp_path, SystemDisk(), "app")
    assert again.snapshot.transactions == {"app": 2}
    assert again.commit([{"txn": {"appId": "app", "version": 3}}], lambda _: False)
    assert deltalake.DeltaTable(tmp_path).version() == 4


def test_damage_before_the_end_is_no_table(tmp_path: Path) -> None:
    log = table(tmp_path, 3)
    log.entry(2).write_bytes(b"")
    with pytest.raises(
        SinkError, match=r"2\.json is not a log entry: the table is damaged; bring it back from a backup"
    ):
        Log(tmp_path, SystemDisk(), "app")
    log.entry(2).unlink()
    with pytest.raises(SinkError, match="entry 2 is missing"):
        Log(tmp_path, SystemDisk(), "app")


@pytest.mark.parametrize("data", [b"", b"PAR1garbage", None])
def test_a_torn_checkpoint_is_passed_over_for_the_entries(tmp_path: Path, data: bytes | None) -> None:
    log = table(tmp_path, 3)
    checkpoint(log)
    path = log.path / f"{3:020d}.checkpoint.parquet"
    path.write_bytes(path.read_bytes()[:200] if data is None else data)
    (log.path / "_last_checkpoint").write_bytes(b"{")
    again = Log(tmp_path, SystemDisk(), "app")
    assert (again.snapshot.version, again.checkpoint_version, again.snapshot.transactions) == (3, -1, {"app": 2})


def test_what_needs_more_than_we_can_do_is_refused(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path, pa.table({"a": [1]}), configuration={"delta.enableDeletionVectors": "true"})
    log = Log(tmp_path / "x", SystemDisk())
    assert not log.exists
    with pytest.raises(SinkError, match="deletionVectors"):
        Log(tmp_path, SystemDisk(), "app")


def test_a_log_cannot_name_files_outside_of_the_table(tmp_path: Path) -> None:
    log = table(tmp_path, 0)
    for path in ("../secret.parquet", "a/%2e%2e/%2e%2e/b", "/etc/passwd", "file:///etc/passwd"):
        with pytest.raises(SinkError, match="outside of the table"):
            log.data_path(path)


def test_types_survive(tmp_path: Path) -> None:
    at = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    held = pa.table(
        {
            "decimal": pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)),
            "day": pa.array([date(2026, 3, 1), None]),
            "at": pa.array([at, None], pa.timestamp("us", tz="UTC")),
            "bytes": pa.array([b"\x00\xff", None]),
            "flag": pa.array([True, None]),
            "small": pa.array([1, None], pa.int8()),
            "list": pa.array([[1.0, None], None]),
            "struct": pa.array([{"x": 1, "y": "a"}, None]),
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        }
    )
    given = held.set_column(2, "at", held["at"].cast(pa.timestamp("ms", tz="Europe/Berlin"), safe=False))
    given = given.append_column("word", pa.array(["x", None]).dictionary_encode())
    writer = Delta(path=".").open(world(tmp_path, "app"), given.schema)
    writer.publish(1, [writer.stage(1, given.to_batches())])
    found = deltalake.DeltaTable(tmp_path).to_pyarrow_table()
    assert found["at"].to_pylist() == [at.replace(microsecond=123000), None]
    assert found["word"].to_pylist() == ["x", None]
    for name in held.column_names:
        if name != "at":
            assert found[name].to_pylist() == held[name].to_pylist()
    stats = json.loads(next(iter(writer.log.snapshot.files.values()))["stats"])
    assert (stats["numRecords"], stats["minValues"]["day"]) == (2, "2026-03-01")
    with pytest.raises(SchemaError, match="cannot hold column 'naive'"):
        new_fields(pa.schema({"naive": pa.timestamp("us")}))
