"""Protobuf as Confluent's serializers write it, and by a descriptor file."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from held_schemas import Held
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from tocsin.batch import OUT, RAW, Batch
from tocsin.decode._base import raw
from tocsin.decode._descriptors import class_named, read_set
from tocsin.decode.protobuf import EXAMPLE, Protobuf
from tocsin.errors import ConfigError, SourceError, Unavailable

COMMON = """syntax = "proto3"; package plant; enum Kind { UNKNOWN = 0; PUMP = 1; } message Place { string hall = 1; }"""
READING = """syntax = "proto3"; package plant; import "plant_common.proto"; import "google/protobuf/timestamp.proto";
message Reading { message Motor { double celsius = 1; } string machine = 1; Motor motor = 2; Kind kind = 3;
google.protobuf.Timestamp at = 4; repeated double values = 5; Place place = 6; } message Other { string name = 1; }"""
# What the library of Confluent (2.16.1) has written for a registry (Apicurio 3.3.3), by these two schemas, and what the
# registry gives for a schema that this library registered. The number of the schema is 4.
CONFLUENTS = bytes.fromhex(
    "0000000004000a05707265737312090900000000008034401801220b08a5ebdcca06108094ef3a2a10000000000000f83f00000000000004"
    "4032070a056e6f727468"
)
OTHER = bytes.fromhex("000000000402020a0178")
MOTOR = bytes.fromhex("0000000004040000090000000000001c40")
DESCRIBED_COMMON = (
    "ChJwbGFudF9jb21tb24ucHJvdG8SBXBsYW50IhUKBVBsYWNlEgwKBGhhbGwYASABKAkqHQoES2luZBILCgdVTktOT1dOEAASCAoEUFVNUBABYgZw"
    "cm90bzM="
)
DESCRIBED = (
    "ChNwbGFudF9yZWFkaW5nLnByb3RvEgVwbGFudBoScGxhbnRfY29tbW9uLnByb3RvGh9nb29nbGUvcHJvdG9idWYvdGltZXN0YW1wLnByb3RvIskB"
    "CgdSZWFkaW5nEg8KB21hY2hpbmUYASABKAkSIwoFbW90b3IYAiABKAsyFC5wbGFudC5SZWFkaW5nLk1vdG9yEhkKBGtpbmQYAyABKA4yCy5wbGFu"
    "dC5LaW5kEiYKAmF0GAQgASgLMhouZ29vZ2xlLnByb3RvYnVmLlRpbWVzdGFtcBIOCgZ2YWx1ZXMYBSADKAESGwoFcGxhY2UYBiABKAsyDC5wbGFu"
    "dC5QbGFjZRoYCgVNb3RvchIPCgdjZWxzaXVzGAEgASgBIhUKBU90aGVyEgwKBG5hbWUYASABKAliBnByb3RvMw=="
)
MAY = {"optional": True}
COLUMNS = {
    "machine": {"type": "category", **MAY},
    "celsius": {"path": "motor.celsius", "type": "float", **MAY},
    "kind": {"type": "text", **MAY},
    "at": {"type": "timestamp", **MAY},
    "second": {"path": "values.1", "type": "float", **MAY},
    "hall": {"path": "place.hall", "type": "text", **MAY},
}
WHOLE = {
    "machine": "press",
    "celsius": 20.5,
    "kind": "PUMP",
    "at": datetime.datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=datetime.UTC),
    "second": 2.5,
    "hall": "north",
}
IMPORTS = [{"name": "plant_common.proto", "subject": "plant/common", "version": 1}]


def schema(text: str, references: Any = None) -> tuple[int, Any]:
    return 200, {"schema": text, "schemaType": "PROTOBUF", **({"references": references} if references else {})}


@pytest.fixture
def held() -> Iterator[Held]:
    with Held() as holds:
        holds.answers["/schemas/ids/4"] = schema(DESCRIBED, IMPORTS)
        holds.answers["/subjects/plant%2Fcommon/versions/1"] = schema(DESCRIBED_COMMON)
        yield holds


def read(decoder: Protobuf, payloads: list[bytes], state: Any = None) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows, and of those set aside the reason with its detail."""
    _, batches = decoder.step(decoder.initial() if state is None else state, Batch(raw(payloads)))
    by_port = {batch.port: batch.rows for batch in batches}
    aside = by_port["rejected"].to_pylist() if "rejected" in by_port else []
    return by_port[OUT].drop_columns(["received"]).to_pylist(), [f"{row['reason']}: {row['detail']}" for row in aside]


def test_what_confluents_library_writes(held: Held) -> None:
    decoder = Protobuf(columns=COLUMNS, registry={"url": held.url, "user": "u", "password": "p"})
    state = decoder.initial()
    assert read(decoder, [CONFLUENTS, CONFLUENTS], state) == ([WHOLE, WHOLE], [])
    read(decoder, [CONFLUENTS], state)
    assert held.asked == [("/schemas/ids/4", "Basic dTpw"), ("/subjects/plant%2Fcommon/versions/1", "Basic dTpw")]


def test_the_message_is_the_one_at_its_place(held: Held) -> None:
    decoder = Protobuf(
        columns={"name": {"type": "text", **MAY}, "celsius": {"type": "float", **MAY}}, registry={"url": held.url}
    )
    assert read(decoder, [OTHER, MOTOR])[0] == [{"name": "x", "celsius": None}, {"name": None, "celsius": 7.0}]


@pytest.mark.parametrize("common", [COMMON, DESCRIBED_COMMON], ids=["text", "described"])
def test_a_schema_that_was_registered_as_text_is_compiled(held: Held, common: str) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    held.answers["/schemas/ids/4"] = schema(READING, IMPORTS)
    held.answers["/subjects/plant%2Fcommon/versions/1"] = schema(common)
    held.answers["/schemas/ids/5"] = schema("message Broken {")
    decoder = Protobuf(columns=COLUMNS, registry={"url": held.url})
    rows, aside = read(decoder, [CONFLUENTS, CONFLUENTS.replace(b"\4", b"\5", 1)])
    assert rows == [WHOLE]
    assert len(aside) == 1
    assert aside[0].startswith("protobuf_schema: 5.proto:")


def test_bad_records_cost_no_good_ones(held: Held) -> None:
    held.answers["/schemas/ids/1"] = (200, {"schema": '{"type": "string"}'})
    held.answers["/schemas/ids/2"] = schema(DESCRIBED)
    first, second, unknown = (b"\0" + n.to_bytes(4, "big") for n in (1, 2, 9))
    four = CONFLUENTS[:5]
    bad = [unknown + b"\0", first + b"\0", second + b"\0", b"{}", four, four + b"\2\6", four + b"\x80", CONFLUENTS[:-1]]
    rows, aside = read(Protobuf(columns=COLUMNS, registry={"url": held.url}), [*bad, OTHER, CONFLUENTS])
    assert rows[-1] == WHOLE
    assert aside.pop().startswith("protobuf_value: no plant.Reading: ")
    assert aside == [
        "protobuf_schema: the registry knows no schema 9",
        "protobuf_schema: schema 1 is Avro, not Protobuf",
        "protobuf_schema: 2.proto imports plant_common.proto, which is not there",
        "protobuf_header: a zero byte and the number of a schema should stand in front",
        "protobuf_header: the place of the message in its schema should stand behind the schema's number",
        "protobuf_header: the schema has no message at 3",
        "protobuf_header: the place of the message in its schema should stand behind the schema's number",
    ]


def test_a_registry_that_is_busy_is_waited_for_and_one_that_refuses_is_told(held: Held) -> None:
    decoder = Protobuf(columns=COLUMNS, registry={"url": held.url})
    held.status = 503
    with pytest.raises(Unavailable, match="busy"):
        read(decoder, [CONFLUENTS])
    held.status = 403
    with pytest.raises(SourceError, match="check user and password"):
        read(decoder, [CONFLUENTS])


# --------------------------------------------------------------------------------------------------------------- files


def described(folder: Path, *fields: tuple[str, Any, str], syntax: str = "proto3") -> str:
    """Write descriptors of a message ``t.M`` with these fields, by name, type and label; return the path."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="m.proto", package="t", syntax=syntax)
    for name in ("duration", "struct", "wrappers"):
        file.dependency.append(f"google/protobuf/{name}.proto")
    file.enum_type.add(name="E").value.add(name="OFF", number=0)
    message = file.message_type.add(name="M")
    entry = message.nested_type.add(name="NamedEntry")
    entry.options.map_entry = True
    for number, (name, kind) in enumerate((("key", kinds.TYPE_STRING), ("value", kinds.TYPE_DOUBLE)), 1):
        entry.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    for number, (name, kind, label) in enumerate(fields, 1):
        of = {"type": kind} if isinstance(kind, int) else {"type_name": kind}
        if isinstance(kind, str):
            of["type"] = kinds.TYPE_ENUM if kind == ".t.E" else kinds.TYPE_MESSAGE
        message.field.add(name=name, number=number, label=getattr(kinds, f"LABEL_{label}"), **of)
    path = folder / "m.desc"
    path.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    return str(path)


def test_values_of_every_kind(tmp_path: Path) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    path = described(
        tmp_path,
        ("whole", kinds.TYPE_UINT64, "OPTIONAL"),
        ("data", kinds.TYPE_BYTES, "OPTIONAL"),
        ("state", ".t.E", "OPTIONAL"),
        ("took", ".google.protobuf.Duration", "OPTIONAL"),
        ("held", ".google.protobuf.DoubleValue", "OPTIONAL"),
        ("more", ".google.protobuf.Struct", "OPTIONAL"),
        ("named", ".t.M.NamedEntry", "REPEATED"),
        ("ratio", kinds.TYPE_DOUBLE, "OPTIONAL"),
    )
    may: dict[str, Any] = {"type": "float", **MAY}
    columns: dict[str, Any] = {"whole": "int", "data": "text", "state": "text", "took": may, "held": may, "ratio": may}
    columns |= {"x": {"path": "more.a.0.x", **may}, "pump": {"path": "named.pump", **may}}
    decoder = Protobuf(columns=columns, descriptor=path, message="t.M")
    make = class_named(read_set(Path(path).read_bytes())[0], "t.M")
    message = make(whole=7, data=b"\1\2", state=5, took={"seconds": 2, "nanos": 500_000_000}, held={"value": 0.0})
    message.more.update({"a": [{"x": 4.0}]})
    message.named["pump"], message.ratio = 1.5, float("nan")
    defaults = {
        "whole": 0,
        "data": "",
        "state": "OFF",
        "took": None,
        "held": None,
        "ratio": 1.0,
        "x": None,
        "pump": None,
    }
    huge = make(whole=2**63)
    rows, aside = read(decoder, [one.SerializeToString() for one in (message, make(ratio=1.0), huge)])
    whole = {"whole": 7, "data": "AQI=", "state": "5", "took": 2.5, "held": 0.0, "ratio": None, "x": 4.0, "pump": 1.5}
    assert rows == [whole, defaults]
    assert aside == ["number_range: whole does not fit 64 bits"]


def test_a_repeated_field_is_rows_and_a_bad_one_costs_no_other(tmp_path: Path) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    path = described(tmp_path, ("machine", kinds.TYPE_STRING, "OPTIONAL"), ("values", kinds.TYPE_DOUBLE, "REPEATED"))
    columns = {"machine": {"path": "$.machine", "type": "text"}, "n": {"path": "@key", "type": "text"}, "v": "float"}
    columns["v"] = {"path": "@value", "type": "float"}
    decoder = Protobuf(columns=columns, descriptor=path, message="t.M", rows="values")
    make = class_named(read_set(Path(path).read_bytes())[0], "t.M")
    rows, aside = read(decoder, [make(machine="a", values=[1.0, float("inf"), 3.0]).SerializeToString()])
    assert rows == [{"machine": "a", "n": "0", "v": 1.0}, {"machine": "a", "n": "2", "v": 3.0}]
    assert len(aside) == 1
    assert aside[0].startswith("json_nonfinite: row 1: v is NaN or infinite")


def test_a_field_that_is_required_or_of_another_message_is_told(tmp_path: Path) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    path = described(tmp_path, ("n", kinds.TYPE_INT32, "REQUIRED"), syntax="proto2")
    decoder = Protobuf(columns={"n": "int"}, descriptor=path, message="t.M")
    assert read(decoder, [b"\x08\x07"]) == ([{"n": 7}], [])
    assert read(decoder, [b"\x10\x07"])[1] == ["protobuf_value: lacks n"]
    decoder = Protobuf(columns={"machine": "text"}, descriptor=EXAMPLE, message="plant.Reading")
    assert read(decoder, [b"\x78\x07"])[1] == ["protobuf_value: no plant.Reading: it has none of its fields"]


@given(st.binary(min_size=1, max_size=60))
@example(b"\x12\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x10\x01")
def test_whatever_comes_is_a_row_or_set_aside(payload: bytes) -> None:
    columns = {"machine": "text", "at": {"type": "timestamp", **MAY}, "value": {"type": "float", **MAY}}
    rows, aside = read(Protobuf(columns=columns, descriptor=EXAMPLE, message="plant.Reading"), [payload])
    assert len(rows) + len(aside) == 1


def test_settings_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="give either registry, or descriptor and message"):
        Protobuf(columns=COLUMNS, descriptor=EXAMPLE)
    with pytest.raises(ValidationError, match="remove descriptor and message"):
        Protobuf(columns=COLUMNS, registry={"url": "http://host"}, message="plant.Reading")
    (tmp_path / "bad").write_bytes(b"syntax")
    for name, message, told in (
        (str(tmp_path / "none"), "a.B", "cannot be read .* make it with: protoc"),
        (str(tmp_path / "bad"), "a.B", "no set of descriptors; make it with: protoc"),
        (EXAMPLE, "plant.Redding", "there is no message 'plant.Redding' in .* there are plant.Reading"),
    ):
        with pytest.raises(ConfigError, match=told):
            Protobuf(columns=COLUMNS, descriptor=name, message=message).output_schema(RAW)
