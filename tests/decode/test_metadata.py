"""What a record carries beside its payload becomes columns; one without them costs no other."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tocsin.batch import KEY_TYPE, OUT, RAW, RAW_WITH_METADATA, REJECTED, Batch, as_times
from tocsin.decode._base import raw
from tocsin.decode.csv import Csv
from tocsin.decode.json import Json
from tocsin.errors import SchemaError

METADATA = {"machine": "key", "at": "sent", "unit": "attributes.unit"}
DECODERS = {
    "json": (Json(columns={"value": "int"}, metadata=METADATA), lambda n: b'{"value": %d}' % n),
    "csv": (Csv(columns={"value": "int"}, header=False, metadata=METADATA), lambda n: b"%d" % n),
}
Carried = tuple[bytes | None, int | None, dict[str, bytes] | None]


def records(payloads: list[bytes], carried: list[Carried]) -> pa.RecordBatch:
    keys, sent, attributes = ([one[i] for one in carried] for i in range(3))
    pairs = [None if one is None else list(one.items()) for one in attributes]
    columns = [
        pa.array(keys, pa.binary()),
        pa.array(sent, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
        pa.array(pairs, RAW_WITH_METADATA.field("attributes").type),
    ]
    return pa.RecordBatch.from_arrays([*raw(payloads).columns, *columns], schema=RAW_WITH_METADATA)


def decoded(decoder: Any, rows: pa.RecordBatch) -> tuple[list[Any], list[Any]]:
    """Returns the rows, and position and reason of those set aside."""
    _, batches = decoder.step(decoder.initial(), Batch(rows))
    by_port = {batch.port: batch.rows for batch in batches}
    by_port[OUT].validate(full=True)
    assert by_port[OUT].schema.equals(decoder.output_schema(rows.schema))
    rejected = by_port[REJECTED].to_pylist() if REJECTED in by_port else []
    return by_port[OUT].drop_columns(["received"]).to_pylist(), [(r["position"], r["reason"]) for r in rejected]


@pytest.mark.parametrize("format", DECODERS)
def test_key_time_and_attributes_become_columns(format: str) -> None:
    decoder, line = DECODERS[format]
    rows, rejected = decoded(
        decoder, records([line(1), line(2)], [(b"pump", 5, {"unit": b"bar", "x": b"\xff"}), (b"fan", 6, None)])
    )
    times = as_times([5, 6]).to_pylist()
    assert rows == [
        {"value": 1, "machine": "pump", "at": times[0], "unit": "bar"},
        {"value": 2, "machine": "fan", "at": times[1], "unit": None},
    ]
    assert not rejected
    assert decoder.decoded_schema.field("machine").type == KEY_TYPE


@pytest.mark.parametrize("format", DECODERS)
@given(
    carried=st.lists(
        st.tuples(
            st.none() | st.sampled_from([b"pump", b"", b"a\0", b"\xff", "Lüfter".encode()]),
            st.none() | st.integers(0, 2**40),
            st.none() | st.dictionaries(st.sampled_from(["unit", "more"]), st.sampled_from([b"bar", b"\xc3", b""])),
        ),
        max_size=12,
    ),
    broken=st.sets(st.integers(0, 11)),
)
def test_one_record_set_aside_costs_no_other(format: str, carried: list[Carried], broken: set[int]) -> None:
    decoder, line = DECODERS[format]
    payloads = [b"{" if i in broken else line(i) for i in range(len(carried))]
    expected, reasons = [], []
    for i, (key, sent, attributes) in enumerate(carried):
        unit = (attributes or {}).get("unit")
        if key in (b"\xff", b"a\0"):
            reasons.append((i, "encoding"))
        elif key is None or sent is None:
            reasons.append((i, "missing_field"))
        elif unit == b"\xc3":
            reasons.append((i, "encoding"))
        elif i in broken:
            reasons.append((i, {"json": "json_syntax", "csv": "type"}[format]))
        else:
            unit_text = None if unit is None else unit.decode()
            at = as_times([sent]).to_pylist()[0]
            expected.append({"value": i, "machine": key.decode(), "at": at, "unit": unit_text})
    rows, rejected = decoded(decoder, records(payloads, carried))
    assert rows == expected
    assert rejected == reasons


def test_a_key_that_is_a_column_named_key_needs_no_other_setting() -> None:
    decoder = Json(columns={"value": "int"}, metadata={"key": "key", "time": "sent"})
    rows, _ = decoded(decoder, records([b'{"value": 1}'], [(b"pump", 7, None)]))
    assert rows == [{"value": 1, "key": "pump", "time": as_times([7]).to_pylist()[0]}]


def test_records_without_metadata_cannot_fill_its_columns() -> None:
    with pytest.raises(SchemaError, match=r"metadata: machine: records of this source carry nothing beside"):
        DECODERS["json"][0].output_schema(RAW)
    assert Json(columns={"value": "int"}).output_schema(RAW_WITH_METADATA).names == ["value", "received"]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"machine": "header"}, "say key, sent, or attributes. and a name"),
        ({"machine": "attributes."}, "say key, sent, or attributes. and a name"),
        ({"a b": "key"}, "'a b' cannot be the name of a column"),
    ],
)
def test_what_metadata_cannot_be(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Json(columns={"value": "int"}, metadata=metadata)


def test_a_name_that_is_a_column_already_is_refused() -> None:
    with pytest.raises(SchemaError, match="two columns 'value'"):
        Json(columns={"value": "int"}, metadata={"value": "key"}).output_schema(RAW_WITH_METADATA)
