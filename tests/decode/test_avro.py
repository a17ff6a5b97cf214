"""Avro as Confluent's serializers write it, against a registry of the tests."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import fastavro
import pytest
from held_schemas import Held
from pydantic import ValidationError

from tocsin.batch import OUT, Batch
from tocsin.decode._base import raw
from tocsin.decode.avro import Avro
from tocsin.errors import SourceError, Unavailable

TIME = {"type": "long", "logicalType": "timestamp-millis"}
V1 = {"type": "record", "name": "R", "fields": [{"name": "m", "type": "string"}, {"name": "n", "type": "int"}]}
V2 = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "m", "type": {"type": "enum", "name": "E", "symbols": ["pump", "press"]}},
        {"name": "n", "type": "double"},
        {"name": "at", "type": ["null", TIME]},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}},
        {"name": "d", "type": {"type": "record", "name": "D", "fields": [{"name": "x", "type": "float"}]}},
    ],
}
MAY = {"optional": True}
COLUMNS = {
    "m": "category",
    "n": "float",
    "at": {"type": "timestamp", **MAY},
    "day": {"type": "timestamp", "zone": "UTC", **MAY},
    "price": {"type": "float", **MAY},
    "x": {"path": "d.x", "type": "float", **MAY},
}
AT = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.fixture
def held() -> Iterator[Held]:
    with Held() as holds:
        holds.answers["/schemas/ids/1"] = (200, {"schema": json.dumps(V1)})
        holds.answers["/schemas/ids/2"] = (200, {"schema": json.dumps(V2)})
        yield holds


def written(number: int, schema: Any, value: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return b"\0" + number.to_bytes(4, "big") + out.getvalue()


OLD = written(1, V1, {"m": "pump", "n": 3})
NEW = written(2, V2, {"m": "press", "n": 1.5, "at": AT, "day": AT.date(), "price": Decimal("12.34"), "d": {"x": 0.5}})


def read(decoder: Avro, state: Any, payloads: list[bytes]) -> tuple[list[dict[str, Any]], list[str]]:
    _, batches = decoder.step(state, Batch(raw(payloads)))
    by_port = {b.port: b.rows for b in batches}
    rejected = by_port["rejected"]["reason"].to_pylist() if "rejected" in by_port else []
    return by_port[OUT].drop_columns(["received"]).to_pylist(), rejected


def test_two_versions_of_a_schema_and_their_types(held: Held) -> None:
    decoder = Avro(columns=COLUMNS, registry={"url": held.url, "user": "u", "password": "p"})
    state = decoder.initial()
    rows, rejected = read(decoder, state, [OLD, NEW, OLD])
    day = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    old = {"m": "pump", "n": 3.0, "at": None, "day": None, "price": None, "x": None}
    assert rows == [old, {"m": "press", "n": 1.5, "at": AT, "day": day, "price": 12.34, "x": 0.5}, old]
    assert not rejected
    read(decoder, state, [OLD, NEW])
    assert held.asked == [(f"/schemas/ids/{n}", "Basic dTpw") for n in (1, 2)]


def test_bad_records_cost_no_good_ones(held: Held) -> None:
    held.answers["/schemas/ids/3"] = (200, {"schemaType": "PROTOBUF", "schema": "syntax"})
    held.answers["/schemas/ids/4"] = (200, {"schema": '{"type": "nonsense"}'})
    numbers = [b"\0" + n.to_bytes(4, "big") for n in (9, 3, 4)]
    decoder = Avro(columns=COLUMNS, registry={"url": held.url})
    rows, rejected = read(decoder, decoder.initial(), [*numbers, b"{}", NEW[:-1], OLD + b"?", b"\0\0", OLD])
    assert [row["m"] for row in rows] == ["pump"]
    assert rejected == ["avro_schema"] * 3 + ["avro_header", "avro_value", "avro_value", "avro_header"]


def test_a_registry_that_is_busy_is_waited_for_and_one_that_refuses_is_told(held: Held) -> None:
    decoder = Avro(columns=COLUMNS, registry={"url": held.url})
    state = decoder.initial()
    held.status = 503
    with pytest.raises(Unavailable, match="busy"):
        read(decoder, state, [OLD])
    held.status = 401
    with pytest.raises(SourceError, match="check user and password"):
        read(decoder, state, [OLD])
    held.status = None
    assert len(read(decoder, state, [OLD])[0]) == 1


def test_settings_name_the_remedy() -> None:
    with pytest.raises(ValidationError, match="give either registry, or writer_schema"):
        Avro(columns=COLUMNS)
    with pytest.raises(ValidationError, match="do not belong in the url"):
        Avro(columns=COLUMNS, registry={"url": "http://me:secret@host"})
