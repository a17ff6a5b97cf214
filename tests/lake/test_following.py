"""A table read as it grows: every row once, whatever is merged, cleaned or added beside it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tocsin.errors import SourceError
from tocsin.lake import maintenance
from tocsin.lake.following import Place, TableFollower
from tocsin.lake.log import Log
from tocsin.output.delta import Delta, DeltaWriter
from tocsin.testing import world
from tocsin.world import SystemDisk

DISK = SystemDisk()


def table(folder: Path) -> DeltaWriter:
    made = Delta(path=str(folder)).open(world(), pa.schema([("n", pa.int64())]))
    assert isinstance(made, DeltaWriter)
    return made


def add(writer: DeltaWriter, epoch: int, *numbers: int) -> None:
    writer.publish(epoch, [writer.stage(epoch, [pa.record_batch({"n": pa.array(numbers, pa.int64())})])])


def rest(follower: TableFollower) -> list[int]:
    numbers: list[int] = []
    while (rows := follower.take()) is not None:
        numbers += rows["n"].to_pylist()
    return numbers


def test_what_was_there_comes_first_and_then_what_is_added(tmp_path: Path) -> None:
    writer = table(tmp_path)
    for number in range(5):
        add(writer, number + 1, number)
    follower = TableFollower(tmp_path, DISK)
    assert rest(follower) == [0, 1, 2, 3, 4]
    add(writer, 6, 5, 6)
    assert rest(follower) == [5, 6]
    assert rest(TableFollower(tmp_path, DISK, follower.place)) == []


def test_every_place_gives_the_rest_though_files_are_merged_meanwhile(tmp_path: Path) -> None:
    writer = table(tmp_path)
    for number in range(4):
        add(writer, number + 1, number)
    follower, places = TableFollower(tmp_path, DISK), list[Place]()
    for _ in range(4):
        assert follower.take() is not None
        assert follower.place is not None
        places.append(follower.place)
    maintenance.compact(writer.log, "merged", 2, 1 << 20)
    add(writer, 5, 4)
    for number, place in enumerate(places):
        assert rest(TableFollower(tmp_path, DISK, place)) == list(range(number + 1, 5))
    assert rest(follower) == [4]
    assert sorted(rest(TableFollower(tmp_path, DISK))) == [0, 1, 2, 3, 4]


def test_a_table_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    follower = TableFollower(tmp_path, DISK)
    assert (follower.take(), follower.place) == (None, None)
    add(table(tmp_path), 1, 7)
    assert rest(follower) == [7]


def test_a_column_that_is_added_is_there_from_then_on(tmp_path: Path) -> None:
    add(table(tmp_path), 1, 1)
    follower = TableFollower(tmp_path, DISK)
    assert rest(follower) == [1]
    schema = pa.schema([("n", pa.int64()), ("m", pa.int64())])
    wider = Delta(path=str(tmp_path)).open(world(), schema)
    wider.publish(2, [wider.stage(2, [pa.record_batch({"n": [2], "m": [3]}, schema=schema)])])
    rows = follower.take()
    while rows is not None and not rows.num_rows:
        rows = follower.take()
    assert rows is not None
    assert rows.to_pylist() == [{"n": 2, "m": 3}]


def test_entries_that_are_gone_are_told_and_not_passed_over(tmp_path: Path) -> None:
    writer = table(tmp_path)
    add(writer, 1, 1)
    follower = TableFollower(tmp_path, DISK)
    assert rest(follower) == [1]
    add(writer, 2, 2)
    add(writer, 3, 3)
    Log(tmp_path, DISK).entry(writer.log.snapshot.version - 1).unlink()
    with pytest.raises(SourceError, match="has been cleaned away; give the sink"):
        follower.take()
