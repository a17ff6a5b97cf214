"""Clean lines are scanned, others parsed: the same rows either way, and the dialect is held to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tocsin.batch import OUT, REJECTED, Batch
from tocsin.decode._base import raw
from tocsin.decode._layout import END, Layout, Scan, offsets
from tocsin.decode._scan import FLOAT
from tocsin.decode.csv import Csv

COLUMNS = {
    "machine": "category",
    "ts": {"type": "timestamp", "zone": "UTC"},
    "value": {"type": "float", "optional": True},
    "n": {"type": "int", "optional": True},
    "ok": {"type": "bool", "optional": True},
    "note": {"type": "text", "optional": True},
}


def decoded(payloads: list[bytes], decoder: Csv, *, scanned: bool = True) -> tuple[list[Any], list[Any]]:
    """Rows and (position, reason) of the rejected ones."""
    _, batches = decoder.step(decoder.initial() if scanned else [], Batch(raw(payloads)))
    by_port = {b.port: b.rows for b in batches}
    by_port[OUT].validate(full=True)
    rejected = by_port.get(REJECTED)
    pairs = [] if rejected is None else [(r["position"], r["reason"]) for r in rejected.to_pylist()]
    return by_port[OUT].to_pylist(), pairs


FIELD = st.one_of(
    st.sampled_from(["", "m1", "21.5", "-0", "007", "+3", "1e3", "1e400", "0x1F", "21,5", " 1", "true", "True", "1",
                     "2026-01-01", "2026-01-01 00:00:00", "2026-01-01T00:00:00Z", '"a;b"', '"a""b"', '"open', 'a"b',
                     "9223372036854775807", "9223372036854775808", "-9223372036854775808", "nan", "inf", "\ufeff",
                     "Stra\u00dfe", "a\tb", "a\x00b", "0.1234567890123456789", "5.", ".5", "1_0", "\u0661"]),
    st.floats().map(repr), st.integers().map(str), st.text(max_size=6),
)  # fmt: skip
LINES = st.builds(
    lambda fields, end: (";".join(fields) + end).encode("utf-8", "surrogatepass"),
    st.lists(FIELD, min_size=5, max_size=7), st.sampled_from(["", "\n", "\r\n", "\n\n", "\nm2;2026-01-01;1;1;1;x"]),
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(LINES, max_size=6), st.sampled_from([".", ","]))
def test_scanner_and_parser_agree(payloads: list[bytes], decimal: str) -> None:
    decoder = Csv(columns=COLUMNS, delimiter=";", decimal=decimal)
    assert repr(decoded(payloads, decoder)) == repr(decoded(payloads, decoder, scanned=False))


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=40), max_size=5), st.booleans())
def test_no_exception_leaves_the_decoder(payloads: list[bytes], header: bool) -> None:
    decoder = Csv(columns={"a": "int", "b": {"type": "text", "optional": True}}, header=header)
    _, rejected = decoded(payloads, decoder)
    assert {i for i, p in enumerate(payloads) if not p} <= {i for i, _ in rejected}


def test_quotes_and_several_lines_in_one_record() -> None:
    decoder = Csv(columns={"a": "int", "b": "text"})
    rows, rejected = decoded([b'1,"x, ""y""\nz"\n2,plain\nbad,1\n3,w'], decoder)
    assert [(r["a"], r["b"]) for r in rows] == [(1, 'x, "y"\nz'), (2, "plain"), (3, "w")]
    assert rejected == [(0, "type")]


def test_fields_that_are_no_columns_are_passed_over() -> None:
    decoder = Csv(columns={"v": {"path": "value (mm)", "type": "float"}}, fields=("id", "value (mm)", ""))
    rows, _ = decoded([b"a,1.5,\n", b"b,2.5,x\n"], decoder)
    assert [r["v"] for r in rows] == [1.5, 2.5]


def test_a_header_in_each_record_names_the_fields() -> None:
    decoder = Csv(columns={"b": "int"}, header=True)
    rows, rejected = decoded([b"a,b\n1,2\n3,4\n", b"b,a\n5,6", b"a,b\n", b"x\n7"], decoder)
    assert [r["b"] for r in rows] == [2, 4, 5]
    assert rejected == [(2, "empty"), (3, "missing_field")]


def test_impossible_dialects_are_refused() -> None:
    for settings_ in ({"delimiter": "a"}, {"delimiter": ",", "decimal": ","}, {"delimiter": '"'}, {"fields": ("x",)}):
        with pytest.raises(ValidationError):
            Csv.model_validate({"columns": {"v": "int"}, **settings_})


def test_a_number_beyond_a_float_is_tried_again_without_writing_elsewhere() -> None:
    payloads = pa.array([b"1e400"], pa.binary())
    tried = Scan(payloads, offsets(payloads), [FLOAT])
    guard = np.full((8, 4), -7)
    tried.hard = guard[:1]
    layout = Layout()
    layout.add(b"", FLOAT, 0)
    layout.add(b"", END)
    for _ in range(4):
        tried.run(layout, quoted=False, stop=44, escape=34)
    assert not tried.matched.any()
    assert (guard[1:] == -7).all()
