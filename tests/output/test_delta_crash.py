"""A crash at each disk call of a Delta table's life changes nothing in the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from tocsin.lake.log import Log
from tocsin.output.delta import Delta, DeltaWriter
from tocsin.testing import world
from tocsin.world import SystemDisk

CALLS = ("write", "sync", "sync_folder", "link", "rename", "unlink", "make_folder")
CALLS_MAX = 230
EPOCHS = 20


class Crash(Exception):
    pass


class CrashingDisk(SystemDisk):
    """Stops at one call: before it, or after half of what a write has to write."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left


def _crashing(name: str) -> Any:
    def call(self: CrashingDisk, *args: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            if name == "write":
                SystemDisk.write(self, args[0], memoryview(args[1])[: len(args[1]) // 2])
            raise Crash
        return None if name.startswith("sync") else getattr(SystemDisk, name)(self, *args)

    return call


for call in CALLS:
    setattr(CrashingDisk, call, _crashing(call))


def rows(epoch: int) -> pa.RecordBatch:
    return pa.record_batch({"key": ["a", "b"], "value": [epoch, epoch + 0.5]})


def live(disk: SystemDisk, folder: Path, durable: dict[int, Any]) -> None:
    """What the runner does, with ``durable`` as its commit point; may be called again after a crash."""
    sink = Delta(path="t", partition_by=("key",))
    writer: DeltaWriter = sink.open(world(folder, "app", disk), rows(0).schema)
    last = max(durable, default=0)
    found = writer.published()
    assert found in ((last, last - 1) if last > 1 else (last or None, None))
    if last:
        writer.publish(last, durable[last])
    writer.discard(durable.get(last, ()))
    for epoch in range(last + 1, EPOCHS):
        durable[epoch] = [writer.stage(epoch, [rows(epoch)])]
        writer.publish(epoch, durable[epoch])
        if epoch % 6 == 0:
            writer.housekeep()


@pytest.mark.parametrize("offset", [0, 2])
def test_a_crash_at_each_call_changes_nothing(tmp_path: Path, offset: int) -> None:
    crashes = 0
    for at in range(offset, CALLS_MAX, 5):
        folder, durable = tmp_path / str(at), dict[int, Any]()
        try:
            live(CrashingDisk(at), folder, durable)
        except Crash:
            crashes += 1
            try:
                live(CrashingDisk(at % 23), folder, durable)
            except Crash:
                live(SystemDisk(), folder, durable)
        table = deltalake.DeltaTable(folder / "t")
        expected = sorted(v for epoch in range(1, EPOCHS) for v in (epoch, epoch + 0.5))
        assert sorted(table.to_pyarrow_table()["value"].to_pylist()) == expected
        snapshot = Log(folder / "t", SystemDisk(), "app").snapshot
        assert {p.name for p in (folder / "t").glob("*.parquet")} == snapshot.files.keys() | snapshot.removed.keys()
        assert not [p.name for p in (folder / "t" / "_delta_log").iterdir() if p.name.endswith(".tmp")]
    assert crashes > 40
