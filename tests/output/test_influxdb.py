"""Points in a real InfluxDB: each once, what is refused set aside, whoever is away waited for."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import httpx
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from servers import InfluxDb, free_port

from tocsin.batch import OUT, Batch
from tocsin.decode._base import raw
from tocsin.decode.influx import Influx
from tocsin.errors import SchemaError, SinkError, Unavailable
from tocsin.influxdb import settings
from tocsin.output._lines import to_lines
from tocsin.output.influxdb import Influxdb
from tocsin.testing import rows, world

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8) | st.sampled_from(["a b", "x,y=z", "\\", ""])


@given(
    st.lists(
        st.tuples(
            TEXT,
            st.none() | TEXT | st.sampled_from(['say "x"', "a\\b", "line\nend"]),
            st.none() | st.floats(),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.booleans(),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_our_own_decoder_reads_what_is_written(values: list[tuple[Any, ...]]) -> None:
    keys, texts, numbers, integers, truths = (list(column) for column in zip(*values, strict=True))
    columns = {
        "key": pa.array([f"k{key}k" for key in keys]),
        "text": pa.array(texts, pa.string()),
        "number": pa.array(numbers, pa.float64()),
        "whole": pa.array(integers, pa.int64()),
        "truth": pa.array(truths, pa.bool_()),
        "more": [1] * len(values),
    }
    lines = to_lines(pa.Table.from_batches([rows(columns)]), "m 1", ["key"])
    decoder = Influx(
        columns={
            "time": {"path": "@time", "type": "timestamp"},
            "key": "text",
            "text": {"type": "text", "optional": True},
            "number": {"type": "float", "optional": True},
            "whole": {"type": "int", "optional": True},
            "truth": {"type": "bool", "optional": True},
        }
    )
    _, batches = decoder.step(
        None, Batch(raw([line.replace("\n", "\x85x").encode() for line in lines if "\n" not in line]))
    )
    read = next(batch.rows for batch in batches if batch.port == OUT).to_pylist()
    expected = [
        (f"k{key}k", text, None if number is None or number - number != 0 else number + 0.0, whole, truth)
        for key, text, number, whole, truth in values
        if text is None or not set(text) & set("\n\x85\u2028\u2029\x1c\x1d\x1e\x0b\x0c")
    ]
    assert [(row["key"], row["text"], row["number"], row["whole"], row["truth"]) for row in read] == expected


@pytest.fixture
def sink(influxdb: InfluxDb, request: pytest.FixtureRequest) -> Influxdb:
    return Influxdb(
        url=influxdb.url, database="plant", user="tocsin", password=influxdb.PASSWORD, measurement=request.node.name
    )


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "TIMEOUT_S", 2.0)


def publish(sink: Influxdb, batch: pa.RecordBatch, epoch: int = 1, place: Any = None) -> dict[str, int]:
    with closing(sink.open(place or world(), batch.schema)) as writer:
        writer.publish(epoch, [writer.stage(epoch, [batch])])
        return dict(writer.counters())


def test_values_arrive_as_their_types(influxdb: InfluxDb, sink: Influxdb) -> None:
    batch = rows({"key": ["press, 1"], "celsius": [20.5], "n": [2**62], "text": ['say "x" \\'], "ok": [True]})
    publish(sink, batch)
    (row,) = influxdb.ask(f'SELECT * FROM "{sink.measurement}"')
    time = row.pop("time")
    assert row == {"key": "press, 1", "celsius": 20.5, "n": 2**62, "text": 'say "x" \\', "ok": True}
    assert time == 1767225600000000000


def test_a_line_that_is_refused_is_set_aside_and_costs_no_other(influxdb: InfluxDb, sink: Influxdb) -> None:
    publish(sink, rows({"key": ["a"], "n": [1]}))
    place, count = world(), 200
    counted = publish(
        sink, rows({"key": ["b"] * count, "m": [1.0] * count, "n": [float(i) for i in range(count)]}), place=place
    )
    assert counted["lines_refused"] == count  # n is an integer there: each of these lines is refused
    mixed = pa.table({"key": ["c", "d"], "time": rows({"v": [1, 2]})["time"], "m": [1.0, 2.0]}).to_batches()[0]
    assert publish(sink, mixed, 2, place)["lines_refused"] == 0
    kept = influxdb.ask(f'SELECT m FROM "{sink.measurement}"')
    assert [row["m"] for row in kept] == [1.0, 2.0]
    aside = influxdb.ask(f"SELECT * FROM quarantine WHERE table = '{sink.measurement}'")
    assert len(aside) == count
    assert "field type conflict" in aside[0]["reason"]
    assert aside[0]["line"].startswith(sink.measurement)


def test_some_lines_of_a_request_are_refused(influxdb: InfluxDb, sink: Influxdb) -> None:
    publish(sink, rows({"key": ["a"], "n": [1]}))
    columns = {
        "key": ["b"] * 100,
        "m": [float(i) for i in range(100)],
        "n": [None if i != 37 else 0.5 for i in range(100)],
    }
    assert publish(sink, rows(columns))["lines_refused"] == 1
    kept = influxdb.ask(f'SELECT m FROM "{sink.measurement}"')
    assert sorted(row["m"] for row in kept) == [float(i) for i in range(100) if i != 37]


def test_rows_without_a_value_are_counted(sink: Influxdb) -> None:
    assert publish(sink, rows({"value": [1.0, None, float("nan")]}))["rows_without_value"] == 2


def test_a_server_that_is_away_is_waited_for(fast: None) -> None:
    away = Influxdb(url=f"http://127.0.0.1:{free_port()}", database="plant", measurement="m")
    with pytest.raises(Unavailable, match=away.url):
        publish(away, rows({"value": [1.0]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"database": "nowhere"}, "create 'nowhere' there"),
        ({"password": "wrong"}, "check user and password"),
    ],
)
def test_a_refusal_says_what_to_do(sink: Influxdb, change: dict[str, str], message: str) -> None:
    wrong = Influxdb.model_validate({**sink.model_dump(), "password": InfluxDb.PASSWORD, **change})
    with pytest.raises(SinkError, match=message) as refused:
        publish(wrong, rows({"value": [1.0]}))
    assert not isinstance(refused.value, Unavailable)
    assert "wrong" not in str(refused.value)
    publish(sink, rows({"value": [1.0]}))


def test_who_is_given_the_right_to_write_writes(influxdb: InfluxDb, sink: Influxdb) -> None:
    influxdb.ask("create user writes with password 'writes-only'")
    own = Influxdb.model_validate({**sink.model_dump(), "user": "writes", "password": "writes-only"})
    with pytest.raises(SinkError, match=r"403.*; give the user or token the right to write"):
        publish(own, rows({"value": [1.0]}))
    influxdb.ask("grant write on plant to writes")
    publish(own, rows({"value": [1.0]}))


def test_version_2_is_asked_as_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(204 if len(asked) > 1 else 429, headers={"retry-after": "7"})

    sink = Influxdb(url="http://influx", bucket="hall", org="plant", token="secret", measurement="m")
    client = httpx.Client(
        base_url=sink.url, headers=sink.client(world().given).headers, transport=httpx.MockTransport(answer)
    )
    monkeypatch.setattr(Influxdb, "client", lambda self, given: client)
    writer = sink.open(world(), rows({"value": [1.0]}).schema)
    token = writer.stage(1, [rows({"value": [1.0]})])
    with pytest.raises(Unavailable) as busy:
        writer.publish(1, [token])
    assert busy.value.retry_after_s == 7.0
    writer.publish(1, [token])
    assert (asked[1].url.path, dict(asked[1].url.params)) == (
        "/api/v2/write",
        {"org": "plant", "bucket": "hall", "precision": "ns"},
    )
    assert asked[1].headers["authorization"] == "Token secret"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "influx:8086"}, "not the address of a server"),
        ({"url": "http://u:p@influx"}, "do not belong in the url"),
        ({"bucket": "b"}, "either a database"),
        ({"measurement": "quarantine"}, "a measurement is a name"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Influxdb.model_validate({"url": "http://influx", "database": "d", "measurement": "m", **settings})


def test_columns_that_cannot_be_kept_are_named() -> None:
    sink = Influxdb(url="http://influx", database="d", measurement="m", tags=["key", "area"])
    with pytest.raises(SchemaError, match="no column 'area'"):
        sink.accepts(rows({"value": [1.0]}).schema)
    with pytest.raises(SchemaError, match="at least one field"):
        sink.accepts(rows({"area": ["a"]}).schema)
    with pytest.raises(SchemaError, match=r"cannot keep column 'v' of type list"):
        sink.accepts(rows({"area": ["a"], "v": [[1.0]]}).schema)
