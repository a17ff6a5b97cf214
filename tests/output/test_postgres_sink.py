"""Sink `postgres` over a real server: what it keeps, what it changes, what it sets aside, and when it waits."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from postgres_server import PASSWORD, USER, Postgres

from tocsin.engine.sink_task import SinkTask
from tocsin.errors import ConfigError, MissingExtra, SchemaError, SinkError, Unavailable
from tocsin.output.postgres import Postgres as Sink
from tocsin.postgres.bookkeeping import Bookkeeping
from tocsin.postgres.writing import TableWriter
from tocsin.testing import refusal, rows, world
from tocsin.world import World

Row = Mapping[str, Any]


class Database:
    """A schema of its own at the server, and the sink's table in it."""

    def __init__(self, server: Postgres) -> None:
        self.server, self.schema = server, server.schema()

    def sink(self, **settings: Any) -> Sink:
        return Sink(
            **{"url": self.server.url, "user": USER, "password": PASSWORD, "table": f"{self.schema}.t", **settings}
        )

    @contextmanager
    def opened(self, batch: pa.RecordBatch, place: World | None = None, **settings: Any) -> Iterator[TableWriter]:
        sink = self.sink(**settings)
        sink.accepts(batch.schema)
        writer = sink.open(place or world(), batch.schema)
        with closing(writer):
            yield writer

    def put(self, *batches: pa.RecordBatch, place: World | None = None, **settings: Any) -> Mapping[str, int]:
        """Publish each batch as the next epoch of a writer; return what it counts."""
        with self.opened(batches[0], place, **settings) as writer:
            first = (writer.published() or 0) + 1
            for epoch, batch in enumerate(batches, first):
                writer.publish(epoch, [writer.stage(epoch, [batch])])
            return writer.counters()

    def make(self, statement: str) -> None:
        """Run a statement in which ``{t}`` is the table."""
        self.server.execute(statement.replace("{t}", f"{self.schema}.t"))

    def rows(self, columns: str = "*", of: str = "t", by: str = "1") -> Sequence[Any]:
        return self.server.execute(f"select {columns} from {self.schema}.{of} order by {by}")

    def types(self) -> Mapping[str, str]:
        query = """select attname, format_type(atttypid, atttypmod) from pg_attribute
            where attrelid = %s::regclass and attnum > 0 and not attisdropped"""
        return {str(name): str(type) for name, type in self.server.execute(query, f"{self.schema}.t")}

    def rejected(self) -> list[tuple[str, str]]:
        return [(str(why), str(what)) for why, what in self.rows("reason, contents", "tocsin_rejected", "at, contents")]


@pytest.fixture
def database(postgres: Postgres) -> Database:
    return Database(postgres)


def values(*of: Any, **more: Any) -> pa.RecordBatch:
    return rows({"value": pa.array(of), **more})


INSTANTS = [datetime(2026, 1, 2, 3, 4, 5, 678901), None, datetime(1969, 1, 1)]
KEPT: Mapping[str, tuple[pa.Array, str]] = {
    "whole": (pa.array([2**63 - 1, None, -(2**63)]), "bigint"),
    "unsigned": (pa.array([2**64 - 1, 0, None], pa.uint64()), "numeric(20,0)"),
    "double": (pa.array([0.1, 5e-324, float("-inf")]), "double precision"),
    "single": (pa.array([0.1, None, 1.0], pa.float32()), "real"),
    "half": (pa.array([0.5, None, 1.0], pa.float16()), "real"),
    "logical": (pa.array([True, False, None]), "boolean"),
    "words": (pa.array(['a "b", \\N\n\\.', "", None]), "text"),
    "category": (pa.array(["a", "a", None]).dictionary_encode(), "text"),
    "raw": (pa.array([b"\x00\xff", b"", None]), "bytea"),
    "day": (pa.array([date(2026, 2, 3), date(1, 1, 1), None]), "date"),
    "instant": (pa.array(INSTANTS, pa.timestamp("us", "Asia/Tokyo")), "timestamp with time zone"),
    "local": (pa.array(INSTANTS, pa.timestamp("us")), "timestamp without time zone"),
    "lasting": (pa.array([timedelta(days=-9), timedelta(milliseconds=1), None], pa.duration("ms")), "interval"),
    "money": (pa.array([Decimal("1.50"), Decimal("-99999999.99"), None], pa.decimal128(10, 2)), "numeric(10,2)"),
    "several": (pa.array([[1.5, None, float("inf")], [], None]), "double precision[]"),
    "texts": (pa.array([['a"\\,{}', None, "NULL", ""], [], None]), "text[]"),
    "fields": (pa.array([{"x": 0.5, "y": [1]}, {"x": None, "y": []}, None]), "jsonb"),
    "nested": (pa.array([[[1], []], [], None]), "jsonb"),
}


@pytest.mark.parametrize("name", KEPT)
def test_each_type_is_kept_whole(database: Database, name: str) -> None:
    column, type = KEPT[name]
    database.put(rows({"n": [0, 1, 2], name: column}))
    assert database.types()[name] == type
    kept = [value for (value,) in database.rows(f'"{name}"', by="n")]
    assert pa.array(kept, column.type) == column if name == "single" else kept == column.to_pylist()


def test_maps_become_objects_and_what_is_no_number_becomes_text(database: Database) -> None:
    mapping = pa.array([[("a", 1.0)], [("b", float("nan"))], None], pa.map_(pa.string(), pa.float64()))
    database.put(rows({"n": [0, 1, 2], "mapping": mapping}))
    assert [value for (value,) in database.rows("mapping", by="n")] == [{"a": 1.0}, {"b": "NaN"}, None]


LOSING = (pa.timestamp("ns"), pa.duration("ns"), pa.time64("ns"), pa.map_(pa.int64(), pa.string()))


@pytest.mark.parametrize("type", [*LOSING, pa.month_day_nano_interval(), pa.list_(pa.timestamp("ns"))])
def test_a_type_that_would_lose_something_is_refused_by_name(type: pa.DataType) -> None:
    schema = pa.schema([("odd", type)])
    with pytest.raises(SchemaError, match="odd"):
        Sink(url="postgresql://db/plant", table="t").accepts(schema)


@pytest.mark.parametrize("name", ["x" * 64, "ü" * 32, "ctid", "", "a\0b"])
def test_a_name_that_the_server_would_change_is_refused(name: str) -> None:
    with pytest.raises(SchemaError, match="cannot name a column"):
        Sink(url="postgresql://db/plant", table="t").accepts(pa.schema([(name, pa.int64())]))


def test_any_other_name_is_taken_as_it_is(database: Database) -> None:
    odd = 'Oil "°C"; drop table t; -- {} %s %(x)s $1'
    database.put(values(1, **{odd: ["a"]}), table=f'{database.schema}.T "x"; {{}}', upsert=["key", odd])
    assert database.rows(of='"T ""x""; {}"')[0][2:] == (1, "a")
    tables = "select relname from pg_class where relnamespace = %s::regnamespace and relkind = 'r'"
    names = {str(name) for (name,) in database.server.execute(tables, database.schema)}
    assert names == {'T "x"; {}', "tocsin_epochs", "tocsin_history", "tocsin_rejected"}


def test_a_missing_schema_is_made(database: Database) -> None:
    new = f"{database.schema}_new"
    database.put(values(1), table=f"{new}.t")
    assert database.server.execute(f"select value from {new}.t") == [(1,)]


# rows that replace others


def test_upsert_keeps_the_last_row_of_each_key(database: Database) -> None:
    def batch(*of: tuple[str, int]) -> pa.RecordBatch:
        return rows({"key": [k for k, _ in of], "time": [0] * len(of), "value": [v for _, v in of]})

    database.put(batch(("a", 1), ("b", 2), ("a", 3)), batch(("b", 4), ("c", 5), ("c", 6)), upsert=["key", "time"])
    assert database.rows("key, value") == [("a", 3), ("b", 4), ("c", 6)]


def test_upsert_by_all_columns_is_no_error(database: Database) -> None:
    batch = rows({"key": ["a", "a"], "time": [0, 0]})
    database.put(batch, batch, upsert=["key", "time"])
    assert database.rows("key") == [("a",)]


def test_a_row_whose_key_is_null_is_set_aside(database: Database) -> None:
    database.make(
        "create table {t} (key text, time timestamptz, id bigint, value bigint); create unique index on {t} (id)"
    )
    counted = database.put(values(1, 2, id=[7, None]), upsert="id")
    assert database.rows("id, value") == [(7, 1)]
    assert counted == {"rejected": 1}
    assert "'id' is null" in database.rejected()[0][0]


def test_the_last_row_that_is_good_counts(database: Database) -> None:
    """A refused row hides none that came before it."""
    database.make("create table {t} (key text primary key, time timestamptz, value varchar(2))")
    batch = rows({"key": ["a", "a", "b"], "value": ["ok", "long", "ok"]})
    database.put(batch, upsert="key")
    assert database.rows("key, value") == [("a", "ok"), ("b", "ok")]
    assert "too long" in database.rejected()[0][0]


def test_upsert_without_a_unique_index_is_refused_with_the_remedy(database: Database) -> None:
    database.put(values(1))
    with pytest.raises(SinkError, match=r"create unique index on") as refused:
        database.put(values(1), upsert=["key", "time"])
    database.server.execute(str(refused.value).partition("make one: ")[2])
    database.put(values(2), upsert=["key", "time"])
    assert database.rows("value") == [(2,)]


# what is changed about the table


def test_a_new_column_is_added_and_noted(database: Database) -> None:
    place = world()
    database.put(values(1), place=place)
    database.put(values(2, more=["a"]), place=place)
    assert database.rows("value, more", by="value") == [(1, None), (2, "a")]
    changes = [change for (change,) in database.rows("change", "tocsin_history", "at")]
    assert changes[-1] == "added column more"
    assert "created with column value" in changes


def test_a_type_that_has_grown_makes_its_column_wider(database: Database) -> None:
    place = world()
    database.put(rows({"n": pa.array([1], pa.int16()), "x": pa.array([0.5], pa.float32())}), place=place)
    database.put(rows({"n": [2**40], "x": [0.1]}), place=place)
    assert database.rows("n, x") == [(1, 0.5), (2**40, 0.1)]
    assert database.types()["n"] == "bigint"
    changes = [change for (change,) in database.rows("change", "tocsin_history", "at")]
    assert "widened column n from smallint to bigint" in changes


@pytest.mark.parametrize("comes", [pa.array(["a"]), pa.array([0.5]), pa.array([True])])
def test_a_type_of_another_kind_is_refused_and_changes_nothing(database: Database, comes: pa.Array) -> None:
    place = world()
    database.put(values(2**60), place=place)
    with pytest.raises(SinkError, match=r"has column 'value' as bigint, what comes is"):
        database.put(rows({"value": comes}), place=place)
    assert database.rows("value") == [(2**60,)]
    assert database.types()["value"] == "bigint"
    database.put(rows({"value": comes}), table=f"{database.schema}.another")
    database.put(values(5), place=place)  # as if a step had cast it
    database.make("alter table {t} alter column value type text")
    database.put(rows({"value": comes.cast(pa.string())}), place=place)
    assert len(database.rows("value")) == 3


def test_a_column_of_nulls_waits_for_its_type(database: Database) -> None:
    place = world()
    database.put(rows({"n": [1], "value": pa.nulls(1)}), place=place)
    database.put(rows({"n": [2], "value": [0.5]}), place=place)
    assert database.rows("n, value") == [(1, None), (2, 0.5)]


def test_a_column_that_no_longer_comes_stays(database: Database) -> None:
    place = world()
    database.put(values(1, more=["a"]), place=place)
    database.put(values(2), place=place)
    assert database.rows("value, more", by="value") == [(1, "a"), (2, None)]


def test_a_column_that_must_be_given_is_named(database: Database) -> None:
    database.make("create table {t} (key text, batch_number bigint not null)")
    with pytest.raises(SinkError, match="batch_number"):
        database.put(values(1))
    database.put(values(1, batch_number=[7]))  # as if a step had added it
    database.make("alter table {t} alter column batch_number set default 0")
    database.put(values(1), place=world(name="without"))


def test_a_view_is_no_table(database: Database) -> None:
    database.make("create view {t} as select 1 as value")
    with pytest.raises(SinkError, match="is no table; name another in the setting table"):
        database.put(values(1))
    database.put(values(1), table=f"{database.schema}.another")


# rows that the server refuses


def test_what_others_made_is_left_and_rows_that_do_not_fit_are_set_aside(database: Database) -> None:
    database.make("create table {t} (value smallint check (value <> 13), name varchar(3))")
    names = ["abc", "ok", "too long", "nul\0", "ok", "ok", None]
    counted = database.put(values(1, 2, 3, 4, 2**20, 13, None, name=names))
    assert database.rows("value, name") == [(1, "abc"), (2, "ok"), (None, None)]
    assert database.types()["value"] == "smallint"
    assert counted == {"rejected": 4}
    reasons = [reason for reason, _ in database.rejected()]
    for part in ("too long for type character varying(3)", "0x00", "out of range", "check constraint"):
        assert any(part in reason for reason in reasons), part
    assert any('"name": "nul\\u0000"' in contents for _, contents in database.rejected())


@pytest.mark.parametrize("settings", [{}, {"upsert": "n"}], ids=["append", "upsert"])
def test_a_bad_row_among_many_costs_its_neighbours_nothing(database: Database, settings: Mapping[str, Any]) -> None:
    count, bad = 150_000, {0, 70_000, 70_001, 149_999}
    names = [f"n{i}\0" if i in bad else f"n{i}" for i in range(count)]
    database.put(rows({"n": range(count), "name": names}), **settings)
    assert database.rows("count(*), count(distinct n)") == [(count - 4, count - 4)]
    assert len(database.rejected()) == 4
    assert database.rows("epoch", "tocsin_epochs") == [(1,)]


def test_a_row_that_others_values_and_enums_refuse(database: Database) -> None:
    kind = f"{database.schema}.state"
    database.make(f"create type {kind} as enum ('run', 'stop'); create table {{t}} (state {kind}, id uuid, more jsonb)")
    database.put(
        rows({
            "state": ["run", "walk", "stop", "stop"],
            "id": ["11111111-2222-3333-4444-555555555555", None, "no uuid", None],
            "more": ['{"a": 1}', None, None, "{"],
        })
    )  # fmt: skip
    assert database.rows("state::text, more") == [("run", {"a": 1})]
    assert len(database.rejected()) == 3


def test_a_trigger_may_refuse_a_row(database: Database) -> None:
    database.put(values(0))
    database.make(
        f"create function {database.schema}.no() returns trigger language plpgsql as "
        "$$ begin if new.value = 2 then raise 'two is not wanted'; end if; return new; end $$; "
        f"create trigger no before insert on {{t}} for each row execute function {database.schema}.no()"
    )
    database.put(values(1, 2, 3), place=world(name="other/part"))
    assert database.rows("value", by="value") == [(0,), (1,), (3,)]
    assert database.rejected()[0][0] == "two is not wanted"


def test_a_constraint_that_is_checked_late_is_checked_for_each_row(database: Database) -> None:
    database.make("create table {t} (value bigint, unique (value) deferrable initially deferred)")
    database.put(values(1, 1, 2))
    assert database.rows("value", by="value") == [(1,), (2,)]
    assert "duplicate key" in database.rejected()[0][0]


def test_what_is_set_aside_comes_once(database: Database) -> None:
    place = world()
    with database.opened(values("a\0"), place) as writer:
        token = writer.stage(1, [values("a\0")])
        writer.publish(1, [token])
        writer.publish(1, [token])
    assert len(database.rejected()) == 1


# exactly once


def test_rows_and_epoch_come_together_or_not_at_all(database: Database) -> None:
    place = world()
    database.put(values(1), place=place)
    database.make(
        f"create function {database.schema}.no() returns trigger language plpgsql as $$ begin raise 'no'; end $$; "
        f"create trigger no before insert or update on {database.schema}.tocsin_epochs "
        f"for each row execute function {database.schema}.no()"
    )
    with pytest.raises(SinkError, match="refuses: no"):
        database.put(values(2, 3), place=place)
    assert database.rows("value") == [(1,)]
    database.make(f"drop trigger no on {database.schema}.tocsin_epochs")
    database.put(values(2, 3), place=place)
    assert database.rows("value", by="value") == [(1,), (2,), (3,)]


def test_a_transaction_whose_connection_was_lost_may_still_get_through(database: Database) -> None:
    """Its rows are not written again, though the table was asked before it ended."""
    place = world()
    database.put(values(1), place=place)
    books = Bookkeeping(place.name, database.schema, "t")
    outcome: list[BaseException] = []
    with database.opened(values(2), place) as writer, database.server.connect() as lost:
        assert writer.published() == 1
        tokens = [writer.stage(epoch, [values(epoch)]) for epoch in (2, 3)]
        lost.autocommit = False
        books.lock(lost)
        lost.execute(f"insert into {database.schema}.t (key, time, value) values ('machine', now(), 2)")
        books.reach(lost, 2)

        def publish() -> None:
            try:
                writer.publish(3, tokens)
            except Unavailable as error:
                outcome.append(error)

        thread = threading.Thread(target=publish)
        thread.start()
        while not database.server.execute("select 1 from pg_locks where locktype = 'advisory' and not granted"):
            assert thread.is_alive(), "it did not wait"
        lost.commit()
        thread.join()
    assert outcome, "it wrote what had got through"
    with database.opened(values(2), place) as again:
        assert again.published() == 2
        again.publish(3, tokens[1:])
    assert database.rows("value", by="value") == [(1,), (2,), (3,)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_goes_away_is_waited_for(database: Database, number: signal.Signals) -> None:
    place = world()
    sink, batch = database.sink(), values(1)
    task = SinkTask("readings.0.postgres", sink, batch.schema, place)
    task.recover([], None)
    task.commit(task.stage(1, [values(1)]))
    assert task.step()
    database.server.stop(number)
    for epoch in (2, 3):
        task.commit(task.stage(epoch, [values(epoch)]))
    assert not task.step()
    assert "is away" in (task.reason or "")
    database.server.start()
    task.drain(30)
    task.close()
    assert task.published == 3
    assert database.rows("value", by="value") == [(1,), (2,), (3,)]


def test_a_lock_that_others_hold_is_told(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from tocsin.postgres import settings

    monkeypatch.setattr(settings, "_SESSION", settings._SESSION.replace("'30s'", "'50ms'"))
    place = world()
    database.put(values(1), place=place)
    with database.server.connect() as other, other.transaction():
        other.execute(f"lock table {database.schema}.t")
        with pytest.raises(Unavailable, match="lock timeout"):
            database.put(values(2), place=place)
    database.put(values(3), place=place)
    assert database.rows("value", by="value") == [(1,), (3,)]


def test_a_commit_is_durable_before_rows_are_let_go(database: Database) -> None:
    database.server.execute("alter role tocsin set synchronous_commit = off")
    try:
        connection = database.sink().connect(Path(), SinkError)
        assert connection.execute("show synchronous_commit").fetchone() == ("on",)
        connection.close()
    finally:
        database.server.execute("alter role tocsin reset synchronous_commit")


# settings


def test_a_wrong_password_is_refused_and_not_told(database: Database) -> None:
    with pytest.raises(SinkError, match="password authentication failed") as refused:
        database.put(values(1), password="open sesame")
    assert not isinstance(refused.value, Unavailable)
    assert "sesame" not in str(refused.value)
    assert "sesame" not in repr(database.sink(password="open sesame"))


def test_a_database_that_does_not_exist_is_named(database: Database) -> None:
    with pytest.raises(SinkError, match="nowhere") as refused:
        database.put(values(1), url=database.server.url.replace("/postgres", "/nowhere"))
    assert not isinstance(refused.value, Unavailable)


def test_a_right_that_is_missing_is_named(database: Database) -> None:
    database.server.execute("do $$ begin create role reader login password 'r'; exception when others then end $$")
    with pytest.raises(SinkError, match="permission denied") as refused:
        database.put(values(1), user="reader", password="r")
    assert not isinstance(refused.value, Unavailable)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"url": "http://db/plant"}, "postgresql://host"),
        ({"url": "postgresql://db"}, "postgresql://host"),
        ({"url": "postgresql://me:secret@db/plant"}, "settings user and password"),
        ({"table": "a.b.c"}, "schema.table"),
        ({"table": "tocsin_epochs"}, "schema.table"),
        ({"table": "x" * 64}, "cannot name"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: Mapping[str, Any], word: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=word) as refused:
        Sink(**{"url": "postgresql://db/plant", "table": "t", **settings})
    assert "secret" not in str(refused.value).split("input_value")[0]


@pytest.mark.parametrize(
    "settings", [{"upsert": "nope"}, {"surrogates": "nope"}, {"surrogates": "value"}, {"retention": "1d"}]
)
def test_columns_that_do_not_come_are_named(settings: Mapping[str, Any]) -> None:
    sink = Sink(url="postgresql://db/plant", table="t", **settings)
    with pytest.raises(SchemaError, match=r"nope|value|time"):
        sink.accepts(pa.schema([("key", pa.string()), ("value", pa.int64())]))


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    sink = Sink(url="postgresql://db/plant", table="t")
    with pytest.raises(MissingExtra, match=r"pip install 'tocsin\[postgres\]'"):
        sink.check(world())


def test_certificates_that_are_not_there_are_named_by_check() -> None:
    sink = Sink(url="postgresql://db/plant", table="t", tls={"ca": "nowhere.pem"})
    assert "nowhere.pem" in refusal(lambda: sink.check(world()))


# what else it offers


def test_texts_may_be_kept_as_numbers(database: Database) -> None:
    place = world()
    settings: Any = {"surrogates": "key", "upsert": ["key", "time"]}
    database.put(rows({"key": ["a", "b", "a"], "value": [1, 2, 3]}), place=place, **settings)
    database.put(rows({"key": ["c", "a"], "value": [4, 5]}), place=place, **settings)
    joined = f"select d.value, t.value from {database.schema}.t t join {database.schema}.t_key d on d.id = t.key_id"
    assert database.server.execute(f"{joined} order by 2") == [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("a", 5)]
    assert database.types()["key_id"] == "integer"
    assert database.rows("count(*)", "t_key") == [(3,)]


def test_rows_older_than_the_retention_are_deleted(database: Database) -> None:
    now = datetime.now(UTC)
    batch = rows({"time": [now - timedelta(days=40), now - timedelta(days=20)], "value": [1, 2]})
    with database.opened(batch, retention="30d") as writer:
        writer.publish(1, [writer.stage(1, [batch])])
        writer.housekeep()
    assert database.rows("value") == [(2,)]
