"""Reading the lake: tables by name, and SQL that sees nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import polars
import pyarrow as pa
import pytest

from tocsin.errors import ConfigError, CorruptState, UnknownName
from tocsin.lake.read import query, read, tables
from tocsin.output.delta import Delta
from tocsin.testing import world

ROBOT = "::[scararobot]Ax_J1.ActualPosition"


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    for path, n in (("lake/readings", 4), ("lake/alarms", 1), ("old/alarms", 2)):
        rows = pa.record_batch(
            {"key": ["a", "b", "a", "c"][:n], "oil temp": [1.0, 2.0, 3.0, 4.0][:n], ROBOT: [1, 2, 3, 4][:n]}
        )
        writer = Delta(path=path, partition_by=("key",)).open(world(tmp_path, "p"), rows.schema)
        writer.publish(1, [writer.stage(1, [rows])])
    return tmp_path


def test_read_gives_the_names_that_came(lake: Path) -> None:
    table = read("readings", lake)
    assert table.column_names == ["key", "oil temp", ROBOT]
    assert sorted(table["oil temp"].to_pylist()) == [1, 2, 3, 4]
    assert table.to_pandas().shape == (4, 3)
    assert polars.from_arrow(table).shape == (4, 3)


def test_tables_of_one_name_go_by_their_path(lake: Path) -> None:
    assert sorted(tables(lake)) == ["lake/alarms", "old/alarms", "readings"]
    assert read("old/alarms", lake).num_rows == 2
    with pytest.raises(UnknownName, match="did you mean 'readings'"):
        read("reading", lake)


def test_sql_over_all_tables(lake: Path) -> None:
    found = query('select key, sum("oil temp") as total from readings group by key order by key', lake)
    assert found.to_pydict() == {"key": ["a", "b", "c"], "total": [4.0, 2.0, 4.0]}
    assert query(f'select max("{ROBOT}") as m from READINGS', lake)["m"].to_pylist() == [4]
    joined = query('select count(*) n from readings r join "old/alarms" a using (key)', lake)
    assert joined["n"].to_pylist() == [3]
    assert query("select 1 as one", lake / "nowhere")["one"].to_pylist() == [1]


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('/etc/passwd', sep=':')",
        "select * from '/etc/passwd'",
        "select * from glob('/etc/*')",
        "copy (select 1) to '/tmp/tocsin-test-copy'",
        "attach '/tmp/tocsin-test.db'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "set memory_limit = '100GB'",
        "select * from lake",
        "select * from sys",
        "selec 1",
    ],
)
def test_sql_sees_nothing_else(lake: Path, sql: str) -> None:
    with pytest.raises(ConfigError):
        query(sql, lake)


def test_a_query_has_a_time_and_a_memory(lake: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"longer than 0\.3 s"):
        query("select sum(a.range * b.range) from range(100000000) a, range(100000000) b", lake, timeout_s=0.3)
    assert time.monotonic() - start < 20
    with pytest.raises(ConfigError, match="memory"):
        query("select list(range) from range(100000000)", lake, memory="50MB")


def test_an_unknown_table_is_named_with_those_there_are(lake: Path) -> None:
    with pytest.raises(ConfigError, match=r"there are these tables: .*readings"):
        query("select * from anomalies", lake)


def test_a_flipped_bit_is_found_and_not_believed(lake: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = lake / "lake" / "readings"
    writer = Delta(path="lake/readings", partition_by=("key",)).open(world(lake, "q"), read("readings", lake).schema)
    rows = pa.record_batch({"key": ["a"] * 500, "oil temp": [i * 0.25 for i in range(500)], ROBOT: list(range(500))})
    for epoch in range(40):
        writer.publish(epoch, [writer.stage(epoch, [rows])])
    victim = table / next(path for path in writer.log.snapshot.files if path.endswith(".parquet") and "000020" in path)
    sound = victim.read_bytes()
    found = 0
    for place in range(200, 2000, 50):
        victim.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
        with pytest.raises(CorruptState, match="readings"):
            read("readings", lake)
        with pytest.raises(ConfigError):
            query(
                'select sum("oil temp"), sum(len(key)), sum("::[scararobot]Ax_J1.ActualPosition") from readings', lake
            )
        found += 1
    assert found == 36
    writer.housekeep()
    assert "not merged" in caplog.text
    writer.publish(41, [writer.stage(41, [rows])])
    victim.write_bytes(sound)
    writer._added_since_compaction = 32
    writer.housekeep()
    assert len(writer.log.snapshot.files) < 10
    assert read("readings", lake).num_rows == 4 + 41 * 500
