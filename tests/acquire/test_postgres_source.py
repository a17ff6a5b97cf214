"""Source `postgres` over a real server: types, order, what is seen late, and what cannot be read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from datetime import time as clock_time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from postgres_server import PASSWORD, USER, Postgres

from tocsin.acquire.postgres import Postgres as Source
from tocsin.batch import END, TIME_TYPE
from tocsin.contracts import Offset, Reader
from tocsin.errors import ConfigError, SourceError, Unavailable
from tocsin.pipeline.model import Pipeline
from tocsin.postgres import following
from tocsin.testing import read_from

PATIENCE_S = 20.0


class Database:
    """A schema of its own at the server, with a table ``t``."""

    def __init__(self, server: Postgres) -> None:
        self.server, self.table = server, f"{server.schema()}.t"

    def make(self, *statements: str) -> None:
        """Run statements in which ``{t}`` is the table."""
        for statement in statements:
            self.server.execute(statement.replace("{t}", self.table))

    def source(self, **settings: Any) -> Source:
        what = {} if "query" in settings else {"table": self.table}
        return Source(
            **{"url": self.server.url, "user": USER, "password": PASSWORD, "every": "10ms", **what, **settings}
        )


@pytest.fixture
def database(postgres: Postgres) -> Database:
    return Database(postgres)


def polled(reader: Reader, rows_max: int = 1_000) -> Iterator[tuple[pa.RecordBatch, Offset]]:
    """What comes, to the end; or for as long as the caller wants more."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        one = reader.poll(rows_max, 0.1)
        if one is not None:
            yield one[0].rows, one[1]
            if one[0].watermark_us == END:
                return
    pytest.fail("it never came")


def read(source: Source) -> Sequence[Mapping[str, Any]]:
    with closing(read_from(source)) as reader:
        return [row for rows, _ in polled(reader) for row in rows.to_pylist()]


def wait_until(true: Callable[[], object]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, "it did not come about"
        time.sleep(0.01)


TYPES: Mapping[str, tuple[str, pa.DataType, Any]] = {
    "boolean 'true'": ("boolean", pa.bool_(), True),
    "32767": ("smallint", pa.int16(), 32767),
    "-2147483648": ("integer", pa.int32(), -(2**31)),
    "9223372036854775807": ("bigint", pa.int64(), 2**63 - 1),
    "0.1": ("double precision", pa.float64(), 0.1),
    "'-infinity'": ("double precision", pa.float64(), float("-inf")),
    "0.5": ("real", pa.float32(), 0.5),
    "-1.50": ("numeric(10,2)", pa.decimal128(10, 2), Decimal("-1.50")),
    "'NaN'": ("numeric(10,2)", pa.decimal128(10, 2), None),
    "0.12345678901234567890123456789": ("numeric", pa.string(), "0.12345678901234567890123456789"),
    "''": ("text", pa.string(), ""),
    "E'a \"b\",\\n\\\\.\\n\\\\N'": ("text", pa.string(), 'a "b",\n\\.\n\\N'),
    "'ab'": ("varchar(5)", pa.string(), "ab"),
    "'\\x00ff'": ("bytea", pa.binary(), b"\x00\xff"),
    "date '1900-02-03'": ("date", pa.date32(), date(1900, 2, 3)),
    "date 'infinity'": ("date", pa.date32(), None),
    "time '23:59:59.999999'": ("time", pa.time64("us"), clock_time(23, 59, 59, 999999)),
    "time '24:00'": ("time", pa.time64("us"), None),
    "'2026-01-02 03:04:05.678901+02'": ("timestamptz", TIME_TYPE, datetime(2026, 1, 2, 1, 4, 5, 678901, UTC)),
    "'1969-12-31 23:59:59.999999'": ("timestamp", pa.timestamp("us"), datetime(1969, 12, 31, 23, 59, 59, 999999)),
    "timestamptz 'infinity'": ("timestamptz", TIME_TYPE, None),
    "'{\"a\": [1]}'": ("jsonb", pa.string(), '{"a": [1]}'),
    "'{1,NULL}'": ("integer[]", pa.string(), "[1,null]"),
    "'11111111-2222-3333-4444-555555555555'": ("uuid", pa.string(), "11111111-2222-3333-4444-555555555555"),
    "'1 day'": ("interval", pa.string(), "1 day"),
}  # fmt: skip


@pytest.mark.parametrize("value", TYPES)
def test_each_type_is_read_as_what_it_is(database: Database, value: str) -> None:
    type, arrow, expected = TYPES[value]
    database.make(f"create table {{t}} (id int, v {type})", f"insert into {{t}} values (1, {value}), (2, null)")
    source = database.source(cursor="id")
    assert source.output_schema().field("v").type == arrow
    assert [row["v"] for row in read(source)] == [expected, None]


def test_a_time_before_christ_is_read(database: Database) -> None:
    database.make("create table {t} (id int, v timestamptz)", "insert into {t} values (1, '0044-03-15 BC')")
    with closing(read_from(database.source(cursor="id"))) as reader:
        rows, _ = next(polled(reader))
    assert rows["v"].cast(pa.int64())[0].as_py() < -62_135_596_800_000_000


def test_rows_that_are_equal_in_time_are_neither_lost_nor_doubled(database: Database) -> None:
    """From the position after every row, the rest is the same."""
    database.make(
        "create table {t} (id int, changed timestamptz)",
        "insert into {t} select n, timestamptz '2026-01-01' + (n / 7) * interval '1 us' from generate_series(0, 99) n",
    )
    source = database.source(cursor=["changed", "id"])
    with closing(read_from(source)) as reader:
        first = [(row["id"], offset) for rows, offset in polled(reader, rows_max=1) for row in rows.to_pylist()]
    assert [id for id, _ in first] == list(range(100))
    for id, offset in first[::9]:
        with closing(read_from(source, json.loads(json.dumps(offset)))) as reader:
            rest = [row["id"] for rows, _ in polled(reader) for row in rows.to_pylist()]
        assert rest == list(range(id + 1, 100))


def test_pages_are_cut_anywhere(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAGE_ROWS", (1, 3, 5))
    monkeypatch.setattr(following, "PAGE_BYTES", 20)
    database.make(
        "create table {t} (id int, v text)", "insert into {t} select n, repeat('x', n) from generate_series(0, 40) n"
    )
    assert [row["id"] for row in read(database.source(cursor="id"))] == list(range(41))


def test_a_cursor_that_does_not_tell_rows_apart_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a page is cut between the two."""
    monkeypatch.setattr(following, "PAGE_ROWS", (1, 2, 2))
    database.make(
        "create table {t} (id int, row bigint generated always as identity primary key)",
        "insert into {t} (id) values (1), (2), (2), (3)",
    )
    with pytest.raises(SourceError, match=r"two rows have the same \(id\) = \(2\)"):
        read(database.source(cursor="id"))
    assert [row["id"] for row in read(database.source(cursor=["id", "row"]))] == [1, 2, 2, 3]


def test_what_is_committed_late_is_waited_for(database: Database) -> None:
    """A row that was numbered first and seen second comes, and comes first."""
    database.make("create table {t} (id bigint generated always as identity primary key, v text)")
    with closing(read_from(database.source(cursor="id", follow=True))) as reader:
        with database.server.connect() as slow, slow.transaction():
            slow.execute(f"insert into {database.table} (v) values ('slow')")
            database.make("insert into {t} (v) values ('quick')")
            assert reader.poll(10, 0.5) is None, "it went past a row that nobody could see yet"
        assert next(polled(reader))[0]["v"].to_pylist() == ["slow", "quick"]
        assert reader.counters() == {"overtaken": 0}


def test_whoever_writes_for_long_is_named_and_waited_for(database: Database) -> None:
    database.make("create table {t} (id bigint generated always as identity primary key, v text)")
    source = database.source(cursor="id", follow=True, patience="100ms")
    with database.server.connect() as slow, slow.transaction():
        slow.execute(f"insert into {database.table} (v) values ('slow')")
        database.make("insert into {t} (v) values ('quick')")
        for _ in range(2):
            with closing(read_from(source)) as reader, pytest.raises(Unavailable, match=str(slow.info.backend_pid)):
                next(polled(reader))
    with closing(read_from(source)) as reader:
        assert next(polled(reader))[0]["v"].to_pylist() == ["slow", "quick"]


def test_whoever_only_sits_there_is_waited_for_once(database: Database) -> None:
    database.make("create table {t} (id bigint generated always as identity primary key, v text)")
    source = database.source(cursor="id", follow=True, patience="100ms")
    with closing(read_from(source)) as reader, database.server.connect() as idle, idle.transaction():
        idle.execute(f"select * from {database.table}")
        for word in ("one", "two"):
            database.make(f"insert into {{t}} (v) values ('{word}')")
            assert next(polled(reader))[0]["v"].to_pylist() == [word]
        assert reader.counters() == {"overtaken": 1}
        idle.execute(f"insert into {database.table} (v) values ('at last')")
        database.make("insert into {t} (v) values ('three')")
        with pytest.raises(Unavailable, match="has not committed"):
            next(polled(reader))


def test_what_is_prepared_is_waited_for(database: Database) -> None:
    if int(database.server.execute("show max_prepared_transactions")[0][0]) == 0:
        pytest.fail("the server of the tests must take prepared transactions")
    database.make("create table {t} (id bigint generated always as identity primary key, v text)")
    name = database.table
    with database.server.connect() as slow:
        slow.execute("begin")
        slow.execute(f"insert into {name} (v) values ('slow')")
        slow.execute(f"prepare transaction '{name}'")
    database.make("insert into {t} (v) values ('quick')")
    with closing(read_from(database.source(cursor="id", follow=True))) as reader:
        assert reader.poll(10, 0.5) is None
        database.make(f"commit prepared '{name}'")
        assert next(polled(reader))[0]["v"].to_pylist() == ["slow", "quick"]


def test_rows_are_followed_as_they_change(database: Database) -> None:
    database.make(
        "create table {t} (id int primary key, changed bigint, v text)",
        "insert into {t} values (1, 1, 'a'), (2, 2, 'b')",
    )
    with closing(read_from(database.source(cursor=["changed", "id"], follow=True))) as reader:
        come = polled(reader)
        assert next(come)[0]["v"].to_pylist() == ["a", "b"]
        database.make("update {t} set changed = 3, v = 'A' where id = 1")
        assert next(come)[0]["v"].to_pylist() == ["A"]


def test_rows_without_a_cursor_are_passed_over_with_a_word(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.make("create table {t} (a int, b int)", "insert into {t} values (1, 1), (1, null), (null, 3), (2, 2)")
    assert [row["b"] for row in read(database.source(cursor=["a", "b"]))] == [1, 2]
    assert "without a value in the cursor" in caplog.text


def test_a_query_is_taken_as_it_is(database: Database) -> None:
    database.make("create table {t} (id int, v text)", "insert into {t} values (1, '5%'), (2, '{}'), (3, '%s')")
    query = f"select id, v || '%%' as \"Odd {{}} %s\" from {database.table} where v like '%' order by id desc; "
    assert [row["Odd {} %s"] for row in read(database.source(query=query, cursor="id"))] == ["5%%%", "{}%%", "%s%%"]


def test_a_query_that_writes_is_refused(database: Database) -> None:
    database.make(
        "create table {t} (id int)",
        "create function {t}_f() returns int language sql as 'insert into {t} values (1) returning id'",
    )
    with pytest.raises(SourceError, match="read-only transaction"):
        read(database.source(query=f"select {database.table}_f() as id", cursor="id"))
    assert database.server.execute(f"select * from {database.table}") == []


def test_an_empty_table_ends_at_once(database: Database) -> None:
    database.make("create table {t} (id int)")
    assert read(database.source(cursor="id")) == []


def test_columns_that_change_while_it_reads_are_told(database: Database) -> None:
    database.make("create table {t} (id int, v int)", "insert into {t} values (1, 1)")
    source = database.source(cursor="id", follow=True)
    assert source.output_schema().names == ["id", "v"]
    with closing(read_from(source)) as reader:
        come = polled(reader)
        next(come)
        database.make("alter table {t} alter v type text", "insert into {t} values (2, 'a')")
        with pytest.raises(SourceError, match="no longer what they were; start again"):
            next(come)
    assert [row["v"] for row in read(database.source(cursor="id"))] == ["1", "a"]
    with closing(read_from(source)) as reader:
        database.make("alter table {t} drop v")
        with pytest.raises(SourceError, match="v"):
            next(polled(reader))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"table": "nowhere.t"}, "nowhere.t"),
        ({"query": "select 1 as id fro m"}, "syntax error"),
        ({"cursor": "changed"}, "no column 'changed'"),
        ({"password": "sesame"}, "password authentication failed"),
    ],
)
def test_what_cannot_be_read_is_named(database: Database, settings: Mapping[str, Any], word: str) -> None:
    database.make("create table {t} (id int)")
    with pytest.raises((SourceError, ConfigError), match=word) as refused:
        database.source(**{"cursor": "id", **settings}).output_schema()
    assert "sesame" not in str(refused.value)


WRONG = ({}, {"cursor": [], "table": "t"}, {"table": "a.b.c"}, {"table": "t", "query": "select 1"})


@pytest.mark.parametrize("settings", WRONG)
def test_settings_that_cannot_work_are_refused(settings: Mapping[str, Any]) -> None:
    with pytest.raises((ConfigError, ValueError)):
        Source(**{"url": "postgresql://db/plant", "cursor": "id", **settings})


def test_closing_ends_what_the_server_does(database: Database) -> None:
    def sleeps() -> bool:
        busy = "select query from pg_stat_activity where state = 'active' and pid <> pg_backend_pid()"
        return any("pg_sleep(600)" in query for (query,) in database.server.execute(busy))

    query = "select 1 as id from (select pg_sleep(600)) as s"
    with closing(read_from(database.source(query=query, cursor="id"))) as reader:
        assert reader.poll(1, 0.0) is None
        wait_until(sleeps)
    wait_until(lambda: not sleeps())


@pytest.mark.parametrize(("given", "says"), [({"time": "at"}, "which machine"), ({"key": "id"}, "when a row happened")])
def test_a_pipeline_is_asked_for_the_key_and_the_time(database: Database, given: Mapping[str, Any], says: str) -> None:
    database.make("create table {t} (id int, at timestamptz)")
    streams = {"rows": {"sinks": [{"delta": "rows"}]}}
    settings = {"url": database.server.url, "user": USER, "password": PASSWORD, "table": database.table, "cursor": "id"}
    source = {"postgres": settings}
    with pytest.raises(ConfigError, match=f"the column that says {says}"):
        Pipeline.model_validate({"name": "x", "source": source, "streams": streams, **given}).plan()
