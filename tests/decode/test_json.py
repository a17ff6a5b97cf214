"""The scanner gives what the strict parser gives, to the bit; and the strict parser refuses what it should."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tocsin.batch import OUT, REJECTED, Batch
from tocsin.decode._base import raw
from tocsin.decode._spans import codes_of
from tocsin.decode.json import Json

COLUMNS = {
    "machine": "category",
    "note": {"type": "text", "optional": True},
    "ts": "timestamp",
    "value": {"type": "float", "optional": True},
    "n": "int",
    "ok": {"type": "bool", "optional": True},
    "deep": {"path": "a.b.1", "type": "float", "optional": True},
}
DECODER = Json(columns=COLUMNS)
GOOD = {
    "machine": "pump-1", "note": "all is well here", "x": [1, {"y": None}], "ts": "2026-01-01T00:00:00.123Z",
    "value": 21.5, "n": 7, "ok": True, "a": {"b": [0, 2.25, "z"]},
}  # fmt: skip


def decoded(payloads: list[bytes], decoder: Json = DECODER) -> tuple[list[Any], list[Any]]:
    """Rows and (position, reason) of the rejected ones."""
    _, batches = decoder.step(decoder.initial(), Batch(raw(payloads)))
    by_port = {b.port: b.rows for b in batches}
    by_port[OUT].validate(full=True)
    rejected = by_port.get(REJECTED)
    pairs = [] if rejected is None else [(r["position"], r["reason"]) for r in rejected.to_pylist()]
    return by_port[OUT].to_pylist(), pairs


def one_by_one(payloads: list[bytes]) -> tuple[list[Any], list[Any]]:
    """The same with the scanner switched off: two columns from one place cannot be scanned."""
    plain = Json(columns=COLUMNS | {"twin": {"path": "n", "type": "int"}})
    rows, rejected = decoded(payloads, plain)
    return [{k: v for k, v in row.items() if k != "twin"} for row in rows], rejected


def same(a: Any, b: Any) -> bool:
    return repr(a) == repr(b)


VALUES = st.one_of(
    st.sampled_from([{}, [], {"v": 1}, [1, [2]], {"b": [1, 2]}, {"b": {"1": 4}}]),
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=12),
    st.floats(-1e3, 1e3).map(lambda x: round(x, 3)),
    st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:59.999999+05:30", "1969-01-01T00:00:00Z", "NaN"]),
)  # fmt: skip
FIELDS = st.sampled_from([*GOOD, "extra"])
RECORDS = st.dictionaries(FIELDS, VALUES, max_size=3).map(lambda change: GOOD | change)
DUMPS = st.builds(
    lambda record, spaced, escaped: json.dumps(
        record, separators=None if spaced else (",", ":"), ensure_ascii=escaped
    ).encode("utf-8", "surrogatepass"),
    RECORDS, st.booleans(), st.booleans(),
)  # fmt: skip


PIECES = [b"", b'"', b"\\", b"0", b"1", b".", b"-", b"e", b",", b"}", b"]", b" ", b"\n", b"\x00", b"\xff", b"\xc3",
          b"\xed\xa0\x80", b"\xc3\xa9", b"9" * 17, b'"n":1,', b"null", b"true"]  # fmt: skip


@st.composite
def near_misses(draw: st.DrawFn) -> bytes:
    """A record with a few bytes changed, doubled or dropped."""
    record = bytearray(draw(DUMPS))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(record) - 1))
        piece = draw(st.sampled_from(PIECES))
        record[at : at + draw(st.integers(0, 1))] = piece
    return bytes(record)


@settings(max_examples=300)
@given(st.lists(near_misses(), max_size=6))
def test_scanner_and_parser_agree(payloads: list[bytes]) -> None:
    payloads = [json.dumps(GOOD).encode(), *payloads, json.dumps(GOOD).encode()]
    assert same(decoded(payloads), one_by_one(payloads))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=6, max_size=12))
def test_floats_are_what_python_reads(values: list[float]) -> None:
    texts = [t for v in values for t in (repr(v), f"{v:.3f}", f"{v:e}", f"{v:.17g}")]
    payloads = [f'{{"v": {text}}}'.encode() for text in texts]
    rows, rejected = decoded(payloads, Json(columns={"v": "float"}))
    assert not rejected
    assert [row["v"].hex() for row in rows] == [(float(text) + 0.0).hex() for text in texts]


@given(st.lists(st.text(alphabet="ab\u00e9\u4e2d\U0001f600", max_size=20), min_size=5, max_size=300))
def test_text_of_any_length_and_alphabet_comes_through(texts: list[str]) -> None:
    payloads = [json.dumps({"c": t, "t": t}, ensure_ascii=False).encode() for t in texts]
    rows, _ = decoded(payloads, Json(columns={"c": "category", "t": "text"}))
    assert [(row["c"], row["t"]) for row in rows] == [(t, t) for t in texts]


def test_dictionaries_have_each_word_once() -> None:
    names = [f"machine-{i % 700}" for i in range(5000)]
    payloads = [b'{"m":"%s"}' % n.encode() for n in names]
    decoder = Json(columns={"m": "category"})
    _, (out,) = decoder.step(decoder.initial(), Batch(raw(payloads)))
    column = out.rows.column("m")
    assert column.to_pylist() == names
    assert column.dictionary.to_pylist() == [f"machine-{i}" for i in range(700)]


def test_names_of_the_same_hash_are_told_apart() -> None:
    def mixed(h: int, word: bytes) -> int:
        h = ((h ^ int.from_bytes(word, "little")) * 0xD6E8FEB86659FD93) % 2**64
        return h ^ (h >> 32)

    generator = random.Random(1)
    while True:  # some thousand tries: the second word makes good what the first one changes
        first, other = (bytes(generator.randrange(97, 123) for _ in range(8)) for _ in "ab")
        change = mixed(16, first) ^ mixed(16, other)
        second = (int.from_bytes(b"zzzzzzzz", "little") ^ change).to_bytes(8, "little")
        if all(b < 128 for b in second):
            break
    names = [first + b"zzzzzzzz", other + second]
    assert mixed(mixed(16, names[0][:8]), names[0][8:]) == mixed(mixed(16, names[1][:8]), names[1][8:])
    data = pa.py_buffer(b"".join(names) + bytes(8))
    spans, codes = np.array([16, 16 << 32 | 16, 16], np.int64), np.empty(3, np.int32)
    table, firsts, hashes = np.empty(64, np.int32), np.empty(3, np.int64), np.empty(3, np.uint64)
    assert codes_of(data.address, spans, codes, table, firsts, hashes, 0) == 2
    assert codes.tolist() == [0, 1, 0]


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=60) | st.text(max_size=40).map(lambda t: t.encode("utf-8", "replace")), max_size=5))
def test_no_exception_leaves_the_decoder(payloads: list[bytes]) -> None:
    rows, rejected = decoded(payloads)
    assert len(rows) + len(rejected) == len(payloads)


def test_good_rows_keep_their_order_around_bad_ones_and_other_layouts() -> None:
    generator = random.Random(3)
    payloads = []
    for i in range(500):
        record = GOOD | {"n": i}
        if i % 5 == 1:
            record = dict(sorted(record.items(), reverse=True))
        line = json.dumps(record).encode()
        payloads.append(line[: generator.randrange(1, 90)] if i % 7 == 3 else line)
    rows, rejected = decoded(payloads)
    assert [row["n"] for row in rows] == [i for i in range(500) if i % 7 != 3]
    assert rejected == [(i, "json_syntax") for i in range(500) if i % 7 == 3]


def test_a_slice_of_a_batch_is_decoded_as_itself() -> None:
    batch = raw([json.dumps(GOOD | {"n": i}).encode() for i in range(20)]).slice(7, 5)
    _, (out,) = DECODER.step(DECODER.initial(), Batch(batch))
    assert out.rows.column("n").to_pylist() == [7, 8, 9, 10, 11]


def test_rows_in_an_array() -> None:
    decoder = Json(
        columns={"device": {"path": "$.id", "type": "category"}, "t": {"path": "0", "type": "timestamp", "unit": "s"},
                 "v": {"path": "1", "type": "float"}},
        rows="data.points",
    )  # fmt: skip
    message = b'{"id": "d1", "data": {"points": [[1767225600, 1.5], [1767225601, "x"], [1767225602.5, 2]]}}'
    rows, rejected = decoded([message, b'{"id": "d2"}'], decoder)
    assert [(r["device"], r["v"]) for r in rows] == [("d1", 1.5), ("d1", 2.0)]
    assert rejected == [(0, "type"), (1, "shape")]
    rows, rejected = decoded([b'[{"n": 1}, {"n": 2}]'], Json(columns={"n": "int"}, rows="$"))
    assert [r["n"] for r in rows] == [1, 2]
    assert not rejected


def test_topic_columns_are_shared_words() -> None:
    decoder = Json(columns={"n": "int"}, topic="plant/{machine}/+")
    batch = raw([b'{"n": 1}', b'{"n": 2}'], "plant/pump/telemetry")
    _, (out,) = decoder.step(None or decoder.initial(), Batch(batch))
    assert out.rows.column("machine").to_pylist() == ["pump", "pump"]
    assert out.schema.names == ["n", "machine", "received"]
    _, batches = decoder.step(decoder.initial(), Batch(raw([b'{"n": 1}'], "office/x")))
    assert [(b.port, len(b)) for b in batches] == [(REJECTED, 1), (OUT, 0)]


def test_a_name_may_stand_for_several_levels_of_a_topic() -> None:
    decoder = Json(columns={"n": "int"}, topic="shellies/{machine}/{signal...}")
    for topic, signal in (("shellies/p1/relay/0/power", "relay/0/power"), ("shellies/p1/temperature", "temperature")):
        _, (out,) = decoder.step(decoder.initial(), Batch(raw([b'{"n": 1}'], topic)))
        assert (out.rows["machine"][0].as_py(), out.rows["signal"][0].as_py()) == ("p1", signal)
    _, batches = decoder.step(decoder.initial(), Batch(raw([b'{"n": 1}'], "shellies/p1")))
    assert [(b.port, len(b)) for b in batches] == [(REJECTED, 1), (OUT, 0)]


@pytest.mark.parametrize(("unit", "value"), [("s", "1767225600.5"), ("ms", "1767225600500"), ("auto", "1767225600500")])
def test_epoch_numbers(unit: str, value: str) -> None:
    decoder = Json(columns={"t": {"type": "timestamp", "unit": unit}})
    rows, rejected = decoded([b'{"t": %s}' % value.encode()] * 6, decoder)
    assert not rejected
    assert {row["t"].isoformat() for row in rows} == {"2026-01-01T00:00:00.500000+00:00"}


def test_a_date_without_marks_is_no_number_of_seconds_whether_a_layout_was_learnt_or_not() -> None:
    decoder = Json(columns={"t": {"type": "timestamp", "unit": "auto"}})
    rows, rejected = decoded([b'{"t": 1767225600}'] * 6 + [b'{"t": 20260131}'] * 2, decoder)
    assert len(rows) == 6
    assert rejected == [(6, "ts_syntax"), (7, "ts_syntax")]


def test_local_times_in_their_zone() -> None:
    decoder = Json(columns={"t": {"type": "timestamp", "zone": "Europe/Berlin"}})
    rows, _ = decoded([b'{"t": "2026-07-01 12:00:00"}', b'{"t": "2026-07-01T10:00:00Z"}'] * 4, decoder)
    assert {row["t"].isoformat() for row in rows} == {"2026-07-01T10:00:00+00:00"}


def test_columns_of_odd_names_are_named_and_clashes_refused() -> None:
    assert list(Json(columns={"a.b c": "int"}).columns) == ["a_b_c"]
    with pytest.raises(ValidationError, match="taken"):
        Json(columns={"a": "int", "A": "int"})
    with pytest.raises(ValidationError, match="twice"):
        Json(columns={"a": "int"}, topic="{x}/{x}")


def test_minus_zero_is_zero() -> None:
    rows, _ = decoded(
        [b'{"v": -0.0}', b'{"v": -0}', b'{"v": -0.00000000000000000000e5}'] * 2, Json(columns={"v": "float"})
    )
    assert {math.copysign(1, row["v"]) for row in rows} == {1.0}


def rows_of(decoder: Json, *payloads: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and reasons, the same whether a layout was learnt or not."""
    records = raw([payload.encode() for payload in payloads])
    state, batches = decoder.step(decoder.initial(), Batch(records))
    again = decoder.step(state, Batch(records))[1]
    by_port = {b.port: b.rows for b in batches}
    assert [b.rows.to_pylist() for b in batches] == [b.rows.to_pylist() for b in again]
    rejected = by_port["rejected"]["reason"].to_pylist() if "rejected" in by_port else []
    return by_port["out"].drop_columns(["received"]).to_pylist(), rejected


def test_nan_is_null_beside_good_values() -> None:
    optional = {"type": "float", "optional": True}
    decoder = Json(columns={"t": {"path": "d.t", **optional}, "h": {"path": "d.h", **optional}, "n": "int"})
    words = ["nan", "-nan", "NaN", "Infinity", "-inf", '"nan"', '"-"', "1.#QNAN", "null"]
    rows, rejected = rows_of(decoder, *(f'{{"d": {{"t": {w}, "h": 48}}, "n": 1, "s": "a nan \\" inf"}}' for w in words))
    assert rows == [{"t": None, "h": 48.0, "n": 1}] * len(words)
    assert rejected == []
    assert rows_of(decoder, '{"d": {"h": nan}, "n": nan}', '{"n": banana}')[1] == ["json_nonfinite", "json_syntax"]
    assert rows_of(Json(columns={"v": optional}, null="-999"), '{"v": -999}', '{"v": "-999"}', '{"v": 1}')[0] == [
        {"v": None}, {"v": None}, {"v": 1.0},
    ]  # fmt: skip


def test_keys_with_dots_in_them() -> None:
    columns = {
        "speed": {"path": "plc/db1.speed", "type": "float"},
        "n": {"path": "a.b", "type": "int"},
        "e": {"path": "a\\.b", "type": "int"},
    }
    rows, _ = rows_of(Json(columns=columns), *['{"plc/db1.speed": 1.5, "a.b": 1, "a": {"b": 2}}'] * 20)
    assert rows == [{"speed": 1.5, "n": 2, "e": 1}] * 20
    assert rows_of(Json(columns={"v": {"path": "a.b.c", "type": "int"}}), '{"a": {"x": 1}, "a.b": {"c": 3}}')[0] == [
        {"v": 3}
    ]


def test_an_object_of_objects_as_rows() -> None:
    columns = {"drive": {"path": "@key", "type": "category"}, "ts": {"path": "$.ts", "type": "text"}, "amps": "float"}
    rows, rejected = rows_of(
        Json(columns=columns, rows="drives"),
        '{"ts": "x", "drives": {"M1": {"amps": 1}, "M 2.b": {"amps": 2}, "M3": 4}}',
    )
    assert rows == [{"drive": "M1", "ts": "x", "amps": 1.0}, {"drive": "M 2.b", "ts": "x", "amps": 2.0}]
    assert rejected == ["shape"]
    values = Json(
        columns={"name": {"path": "@key", "type": "text"}, "v": {"path": "@value", "type": "float"}}, rows="$"
    )
    assert rows_of(values, '{"a": 1, "b": 2.5}')[0] == [{"name": "a", "v": 1.0}, {"name": "b", "v": 2.5}]


def test_one_path_with_values_of_several_types() -> None:
    types = {"number": "float", "truth": "bool", "words": "text"}
    decoder = Json(columns={n: {"path": "v", "type": t, "optional": True} for n, t in types.items()})
    rows, rejected = rows_of(decoder, *(f'{{"v": {v}}}' for v in ("1450", "true", '"O1001"', "null", "[1]")))
    assert [(r["number"], r["truth"], r["words"]) for r in rows] == [
        (1450.0, None, None), (None, True, None), (None, None, "O1001"), (None, None, None),
    ]  # fmt: skip
    assert rejected == ["type"]


def test_an_integer_never_goes_through_a_float_that_does_not_hold_it() -> None:
    decoder = Json(columns={"n": "int"})
    texts = ["1663830966276000001", "9007199254740991.0", "1e3", "1663830966276000001.0", "1e18", "-1e300"]
    rows, rejected = rows_of(decoder, *(f'{{"n": {text}}}' for text in texts))
    assert [row["n"] for row in rows] == [1663830966276000001, 9007199254740991, 1000]
    assert rejected == ["number_range"] * 3


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_time_is_a_missing_one(text: str) -> None:
    payloads = [json.dumps({"ts": text, "at": text, "n": n}).encode() for n in range(3)]
    rows, rejected = decoded(payloads, Json(columns={"at": {"type": "timestamp", "optional": True}, "n": "int"}))
    assert ([row["at"] for row in rows], [row["n"] for row in rows], rejected) == ([None] * 3, [0, 1, 2], [])
    rows, rejected = decoded(payloads, Json(columns={"ts": "timestamp", "n": "int"}))
    assert (rows, rejected) == ([], [(0, "missing_field"), (1, "missing_field"), (2, "missing_field")])
