"""Sparkplug B, message by message: values of all types, aliases, sequence numbers, births and deaths."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.batch import REJECTED, Batch
from tocsin.decode._base import raw
from tocsin.decode.sparkplug import Sparkplug
from tocsin.sparkplug.nodes import MISSED, STATE_TOPIC, EdgeNode
from tocsin.sparkplug.payload import TYPES, payload_class

AT_MS = 1_767_268_800_000
RECEIVED_US = AT_MS * 1000 + 5_000_000
CELSIUS = {"name": b"celsius", "alias": 1, "datatype": 10, "double_value": 20.5}


def packed(seq: int | None = None, *metrics: dict[str, Any], at_ms: int = AT_MS, **more: Any) -> bytes:
    given = {"timestamp": at_ms, "metrics": metrics, **more} | ({} if seq is None else {"seq": seq})
    data: bytes = payload_class()(**given).SerializeToString()
    return data


def bdseq(number: int) -> dict[str, Any]:
    return {"name": b"bdSeq", "datatype": 8, "long_value": number}


class Decoded:
    """A decoder with its state, and what has left it."""

    def __init__(self, **settings: Any) -> None:
        self.decoder = Sparkplug(**settings)
        self.state = self.decoder.initial()
        self.reasons: list[str] = []
        self.details: list[str] = []

    def __call__(self, topic: str, payload: bytes) -> list[dict[str, Any]]:
        """The rows of one message, after the state has been through a file."""
        self.state = self.decoder.load(self.decoder.dump(self.state))
        name = topic if topic.startswith("$") or "STATE" in topic else f"spBv1.0/{topic}"
        self.state, left = self.decoder.step(self.state, Batch(raw([payload], name, RECEIVED_US)))
        self.reasons = [r for out in left if out.port == REJECTED for r in out.rows["reason"].to_pylist()]
        self.details = [d for out in left if out.port == REJECTED for d in out.rows["detail"].to_pylist()]
        rows: list[dict[str, Any]] = left[-1].rows.to_pylist()
        return rows

    def born(self, *metrics: dict[str, Any], number: int = 3) -> Decoded:
        self("g/NBIRTH/n", packed(0, bdseq(number)))
        self("g/DBIRTH/n/d", packed(1, *metrics))
        return self

    def data(self, seq: int, **metric: Any) -> list[tuple[Any, ...]]:
        rows = self("g/DDATA/n/d", packed(seq, metric))
        return [(row["metric"], row["value"], row["quality"]) for row in rows]


def value(kind: str, **metric: Any) -> Any:
    """The value, or else the text, of a metric of a type; the reason for which it is set aside."""
    decoded = Decoded()
    rows = decoded("g/NBIRTH/n", packed(0, {"name": b"m", "datatype": TYPES.index(kind), **metric}))
    if decoded.reasons:
        return decoded.reasons[0]
    return rows[1]["value"] if rows[1]["text"] is None else rows[1]["text"]


@pytest.mark.parametrize(
    ("kind", "field", "sent", "wanted"),
    [
        ("Int8", "int_value", 0xFFFFFFFB, -5), ("Int8", "int_value", 0xFB, -5), ("Int8", "int_value", 127, 127),
        ("Int8", "int_value", 0x80, -128), ("Int8", "int_value", 300, "sparkplug_value"),
        ("Int16", "int_value", 0xFFFF8000, -32768), ("Int16", "int_value", 0x8000, -32768),
        ("Int32", "int_value", 2**32 - 1, -1), ("Int32", "long_value", 2**64 - 1, -1),
        ("Int64", "long_value", 2**64 - 5, -5), ("Int64", "long_value", 2**63, "-9223372036854775808"),
        ("UInt8", "int_value", 255, 255), ("UInt8", "int_value", 256, "sparkplug_value"),
        ("UInt32", "long_value", 2**32 - 1, 2**32 - 1), ("UInt64", "long_value", 2**64 - 1, "18446744073709551615"),
        ("UInt64", "long_value", 2**53, float(2**53)), ("UInt64", "long_value", 2**53 + 1, "9007199254740993"),
        ("Float", "float_value", 0.5, 0.5), ("Double", "float_value", 0.5, 0.5),
        ("Double", "double_value", 1e300, 1e300), ("Double", "int_value", 1, "sparkplug_value"),
        ("Boolean", "boolean_value", True, 1.0),
        ("Boolean", "int_value", 1, "sparkplug_value"), ("String", "string_value", "ä".encode(), "ä"),
        ("String", "string_value", b"\xff", "encoding"), ("String", "string_value", b"", ""),
        ("DateTime", "long_value", AT_MS + 7, "2026-01-01T12:00:00.007Z"),
        ("DateTime", "long_value", 2**64 - 1, "1969-12-31T23:59:59.999Z"),
        ("DateTime", "long_value", 2**62, "sparkplug_value"), ("Bytes", "bytes_value", b"\0\1\xff", "AAH/"),
        ("UUID", "string_value", b"0191b0a4", "0191b0a4"), ("File", "bytes_value", b"", ""),
        ("DataSet", "dataset_value", b"", "sparkplug_type"), ("Template", "template_value", b"\0", "sparkplug_type"),
        ("PropertySet", "bytes_value", b"", "sparkplug_type"), ("Unknown", "bytes_value", b"", "sparkplug_type"),
        ("Unknown", "double_value", 2.5, 2.5), ("Int8Array", "bytes_value", b"\xfb\1", "[-5, 1]"),
        ("Int64Array", "bytes_value", b"\xff" * 8, "[-1]"), ("FloatArray", "bytes_value", b"\0\0\xc0\x7f", "[null]"),
        ("Int16Array", "bytes_value", b"\0", "sparkplug_value"), ("StringArray", "bytes_value", b"a\0\0", '["a", ""]'),
        ("BooleanArray", "bytes_value", b"\x03\0\0\0\xa0", "[true, false, true]"),
        ("BooleanArray", "bytes_value", b"\xff\0\0\0\0", "sparkplug_value"),
        ("DateTimeArray", "bytes_value", bytes(8), '["1970-01-01T00:00:00.000Z"]'),
    ],
)  # fmt: skip
def test_values(kind: str, field: str, sent: Any, wanted: Any) -> None:
    assert value(kind, **{field: sent}) == wanted


@pytest.mark.parametrize(
    "metric", [{"is_null": True}, {"double_value": float("nan")}, {"double_value": float("inf")}, {}]
)
def test_without_a_value_the_quality_is_bad(metric: dict[str, Any]) -> None:
    row = Decoded()("g/NBIRTH/n", packed(0, {"name": b"m", "datatype": 10, **metric}))[1]
    assert (row["value"], row["text"], row["quality"]) == (None, None, "bad")


@pytest.mark.parametrize(
    ("code", "quality", "kept"),
    [(192, "good", 1.0), (0, "bad", None), (500, "stale", None), (64, "uncertain", 1.0), (216, "good", 1.0),
     (24, "bad", None), (512, "bad", None)],
)  # fmt: skip
def test_quality_goes_by_the_property(code: int, quality: str, kept: float | None) -> None:
    properties = {"keys": [b"unit", b"Quality"], "values": [{"string_value": b"C"}, {"type": 3, "int_value": code}]}
    metric = {"name": b"m", "datatype": 10, "double_value": 1.0, "properties": properties}
    row = Decoded()("g/NBIRTH/n", packed(0, metric))[1]
    assert (row["quality"], row["value"]) == (quality, kept)


def test_time_is_that_of_the_metric_else_of_the_payload_else_of_arrival() -> None:
    decoded = Decoded()
    own = {**CELSIUS, "timestamp": AT_MS + 1}
    at = [row["at"] for row in decoded("g/NBIRTH/n", packed(0, own, CELSIUS))]
    assert at == [datetime.fromtimestamp(ms / 1000, UTC) for ms in (AT_MS, AT_MS + 1, AT_MS)]
    assert decoded("g/NDATA/n", packed(1, CELSIUS, at_ms=0))[0]["at"].timestamp() == RECEIVED_US / 1e6
    decoded("g/NDATA/n", packed(2, {**CELSIUS, "timestamp": 2**63}))
    assert decoded.reasons == ["ts_range"]
    assert decoded("g/NDEATH/n", packed(None, bdseq(0)))[0]["at"].timestamp() == RECEIVED_US / 1e6


def test_aliases_are_those_of_the_last_birth_of_the_device() -> None:
    decoded = Decoded().born(CELSIUS)
    assert decoded.data(2, alias=1, double_value=21.0) == [("celsius", 21.0, "good")]
    assert decoded.data(3, alias=2, double_value=21.0) == []
    assert decoded.reasons == ["sparkplug_birth"]
    decoded("g/NBIRTH/n", packed(0, bdseq(3)))
    assert decoded.data(1, alias=1, double_value=22.0) == []
    assert decoded.reasons == ["sparkplug_birth"], "a node's birth is none of its devices'"
    decoded("g/DBIRTH/n/d", packed(2, {**CELSIUS, "name": b"bar"}))
    assert decoded.data(3, alias=1, double_value=23.0) == [("bar", 23.0, "good")]
    assert decoded.data(4, name=b"new", datatype=3, int_value=7) == [("new", 7.0, "good")]


def test_what_comes_before_its_birth_is_set_aside() -> None:
    decoded = Decoded()
    for topic in ("g/NDATA/n", "g/DBIRTH/n/d", "g/DDATA/n/d"):
        assert decoded(topic, packed(1, CELSIUS)) == []
        assert decoded.reasons == ["sparkplug_birth"]


def test_after_a_gap_what_an_alias_means_is_uncertain_until_it_is_filled_or_born_anew() -> None:
    decoded = Decoded().born(CELSIUS)
    assert decoded.data(4, alias=1, double_value=1.0) == [("celsius", 1.0, "uncertain")]
    assert decoded.data(5, name=b"celsius", double_value=1.0) == [("celsius", 1.0, "good")]
    assert decoded.data(3, alias=1, double_value=2.0) == [("celsius", 2.0, "uncertain")]
    assert decoded.data(2, alias=1, double_value=3.0) == [("celsius", 3.0, "good")], "late ones fill it"
    assert decoded.data(200, alias=1, double_value=4.0)[0][2] == "uncertain"
    assert decoded.data(201, alias=1, double_value=4.0)[0][2] == "uncertain"
    assert Decoded().born(CELSIUS).data(2, alias=1, double_value=3.0)[0][2] == "good"


def test_after_a_new_connection_aliases_are_uncertain() -> None:
    decoded = Decoded().born(CELSIUS)
    assert decoded(STATE_TOPIC, MISSED) == []
    assert decoded.data(2, alias=1, double_value=1.0) == [("celsius", 1.0, "uncertain")]
    decoded.born(CELSIUS)
    assert decoded.data(2, alias=1, double_value=1.0) == [("celsius", 1.0, "good")]
    assert decoded("spBv1.0/STATE/other", b'{"online": true, "timestamp": 1}') == []
    assert decoded.reasons == []


def test_a_node_counts_to_255() -> None:
    node = EdgeNode(None, 0)
    assert not any(node.advance(n % 256) for n in range(1, 600))
    assert node.is_sure
    assert node.advance(1)


def test_deaths() -> None:
    decoded = Decoded().born(CELSIUS, number=3)
    assert decoded("g/NDEATH/n", packed(None, bdseq(2))) == [], "the will of a connection before this one"
    rows = decoded("g/DDEATH/n/d", packed(2))
    assert [(r["machine"], r["event"], r["metric"], r["quality"], r["value"]) for r in rows] == [
        ("g/n/d", "death", None, "stale", None),
        ("g/n/d", "death", "celsius", "stale", None),
    ]
    decoded("g/DBIRTH/n/d", packed(3, CELSIUS))
    rows = decoded("g/NDEATH/n", packed(None, bdseq(3)))
    assert [(r["machine"], r["metric"]) for r in rows] == [("g/n", None), ("g/n/d", None), ("g/n/d", "celsius")]
    assert decoded.data(4, alias=1, double_value=1.0) == []
    assert decoded.reasons == ["sparkplug_birth"]
    assert [r["machine"] for r in decoded("g/NDEATH/unknown", packed(None, bdseq(1)))] == ["g/unknown"]


def test_one_bad_metric_costs_no_other() -> None:
    decoded = Decoded()
    bad = [{"name": b"\xff", "datatype": 10}, {"name": b"t", "datatype": 19, "template_value": b""}, {"alias": 8}]
    rows = decoded("g/NBIRTH/n", packed(0, *bad, CELSIUS))
    assert [row["metric"] for row in rows] == [None, "celsius"]
    assert decoded.reasons == ["encoding", "sparkplug_type", "sparkplug_birth"]
    assert decoded.details[1:] == ["t: Template is not read", "no name, and the birth of g/n has no such alias"]


def test_what_is_no_message_of_a_node() -> None:
    decoded = Decoded(payload_max="100 B")
    for topic, payload, reason in (
        ("g/NDATA/n", b"", "empty"),
        ("g/NDATA/n", bytes(101), "too_large"),
        ("g/NDATA/n", b"\xff", "sparkplug_payload"),
        ("g/NDATA/n/d", packed(1), "topic"),
        ("g/DDATA/n", packed(1), "topic"),
        ("g/NONE/n", packed(1), "topic"),
        ("$elsewhere", packed(1), "topic"),
        ("g/NBIRTH/n", packed(0, uuid=b"SPBV1.0_COMPRESSED", body=b"no"), "compression"),
        ("g/NBIRTH/n", packed(0, uuid=b"SPBV1.0_COMPRESSED", body=zlib.compress(bytes(1000))), "compression"),
        ("g/NBIRTH/n", packed(0, uuid=b"SPBV1.0_COMPRESSED", body=zlib.compress(b"\xff")), "sparkplug_payload"),
    ):
        assert decoded(topic, payload) == []
        assert decoded.reasons == [reason], topic
    for topic in ("g/NCMD/n", "g/DCMD/n/d"):
        assert decoded(topic, b"anything") == []
        assert decoded.reasons == []


@given(
    st.lists(st.tuples(st.sampled_from(["NBIRTH/n", "NDATA/n", "DBIRTH/n/d", "DDATA/n/d", "NDEATH/n"]), st.binary()))
)
def test_nothing_that_comes_is_an_error(messages: list[tuple[str, bytes]]) -> None:
    decoded = Decoded()
    for topic, payload in messages:
        decoded(f"g/{topic}", payload)
    assert isinstance(decoded.decoder.dump(decoded.state), pa.Table)
