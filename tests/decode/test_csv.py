"""Clean lines are scanned, others parsed: the same rows either way, and the dialect is held to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tocsin.batch import HEADER, OUT, REJECTED, Batch
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


def decoded(payloads: list[bytes], decoder: Csv) -> tuple[list[Any], list[Any]]:
    """Rows and (position, reason) of the rejected ones."""
    _, batches = decoder.step(decoder.initial(), Batch(raw(payloads)))
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
    scanned = decoded(payloads, decoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Csv, "_layouts", lambda *_: [])
        assert repr(scanned) == repr(decoded(payloads, decoder))


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=40), max_size=5), st.booleans())
def test_no_exception_leaves_the_decoder(payloads: list[bytes], each: bool) -> None:
    header = "each" if each else "first"
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
    decoder = Csv(columns={"b": "int"}, header="each")
    rows, rejected = decoded([b"a,b\n1,2\n3,4\n", b"b,a\n5,6", b"a,b\n", b"x\n7"], decoder)
    assert [r["b"] for r in rows] == [2, 4, 5]
    assert rejected == [(2, "empty"), (3, "missing_field")]


def test_a_decimal_comma_stands_in_quotes_between_commas() -> None:
    decoder = Csv(columns={"id": "text", "v": "float"}, decimal=",")
    rows, rejected = decoded([b'a,"20,05"\n', b"b,7\n", b"c,20,05\n", b'd,"1.5"\n'], decoder)
    assert [(r["id"], r["v"]) for r in rows] == [("a", 20.05), ("b", 7.0)]
    assert rejected == [(2, "csv_shape"), (3, "type")]


def test_impossible_dialects_are_refused() -> None:
    for settings_ in ({"delimiter": "a"}, {"decimal": ",", "quote": ""}, {"delimiter": '"'}, {"fields": ("x",)}):
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


def lines(text: str, name: str = "a.csv", position: int = 0, *, header: bool = True) -> pa.RecordBatch:
    """Lines as a source of files gives them."""
    payloads = [line.encode() for line in text.splitlines(keepends=True)]
    batch = raw(payloads, name)
    positions = position + np.cumsum([0, *map(len, payloads)])[:-1]
    if header and position == 0:
        positions[0] = HEADER
    return batch.set_column(2, "position", pa.array(positions))


def read(decoder: Csv, *batches: pa.RecordBatch) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Rows without their arrival, and (reason, payload) of the rejected ones, over a restart after each batch."""
    state = decoder.initial()
    rows: list[dict[str, Any]] = []
    rejected = []
    for batch in batches:
        state, out = decoder.step(decoder.load(decoder.dump(state)), Batch(batch))
        for b in out:
            if b.port == OUT:
                rows += b.rows.drop_columns(["received"]).to_pylist()
            else:
                rejected += [(r["reason"], r["payload"].decode()) for r in b.rows.to_pylist()]
    return rows, rejected


NAMED = Csv(columns={"m": "category", "t": "float", "v": "float", "n": {"type": "int", "optional": True}})


def test_columns_go_by_the_names_of_each_file() -> None:
    first, second = "m,t,v\na,1,2\na,3,4\n", "v,x,m,t,n\n6,0,a,5,7\n"
    rows, rejected = read(NAMED, lines(first), lines(second, "b.csv"), lines("a,8,9\n", "a.csv", 30))
    assert [(r["t"], r["v"], r["n"]) for r in rows] == [(1, 2, None), (3, 4, None), (5, 6, 7), (8, 9, None)]
    assert rejected == []
    together = pa.Table.from_batches([lines(first), lines(second, "b.csv")]).combine_chunks()
    assert read(NAMED, together.unify_dictionaries().to_batches()[0])[0] == rows[:3]


def test_a_header_without_a_required_column_sets_its_file_aside_and_says_why() -> None:
    rows, rejected = read(
        NAMED, lines("m,p,v\na,1,2\n"), lines("a,3,4\n", position=13), lines("m,t,v\na,1,2\n", "b.csv")
    )
    assert [r["t"] for r in rows] == [1.0]
    assert rejected == [("csv_header", "m,p,v\n"), ("csv_header", "a,1,2\n"), ("csv_header", "a,3,4\n")]


@pytest.mark.parametrize("header", ["none", False])
def test_without_a_header_the_first_line_is_a_reading(header: Any) -> None:
    decoder = Csv(columns={"a": "int", "b": "int"}, header=header)
    assert [r["a"] for r in read(decoder, lines("1,2\n3,4\n"))[0]] == [1, 3]
    assert [r["a"] for r in read(Csv(columns=decoder.columns), lines("1,2\n3,4\n", header=False))[0]] == [1, 3]


def test_a_header_that_is_repeated_is_no_reading() -> None:
    for columns in ({"a": "int", "b": "int"}, {"a": "text", "b": "category"}):
        rows, rejected = read(Csv(columns=columns), lines("b,a\n1,2\nb,a\n3,4\n" * 3))
        assert ([str(r["a"]) for r in rows], rejected) == (["2", "4"] * 3, [])


def test_lines_around_the_header_are_passed_over() -> None:
    decoder = Csv(columns={"b": "int"}, skip=[1, 3], comment="#")
    text = "Logger 7\n# made by hand\na,b\nmm,kWh\n1,2\n# pause\n3,4\n"
    for batches in ([lines(text)], [lines(text).slice(i, 1) for i in range(7)]):
        assert ([r["b"] for r in read(decoder, *batches)[0]], read(decoder, *batches)[1]) == ([2, 4], [])
    plain = Csv(columns={"a": "int", "b": "int"}, skip=2, header="none")
    assert [r["b"] for r in read(plain, lines("x\ny\n1,2\n3,4\n"))[0]] == [2, 4]


def test_words_for_null() -> None:
    columns = {
        "v": {"type": "float", "optional": True},
        "s": {"type": "text", "optional": True, "null": "off"},
        "n": "int",
    }
    decoder = Csv(columns=columns, null=["-999", "#"])
    rows, rejected = read(decoder, lines("NaN,off,1\n-999,x,2\n-,#,3\n1,nan,4\n-inf,-,5\n2,y,#\n", header=False))
    assert [(r["v"], r["s"], r["n"]) for r in rows] == [
        (None, None, 1), (None, "x", 2), (None, None, 3), (1.0, "nan", 4), (None, "-", 5),
    ]  # fmt: skip
    assert [reason for reason, _ in rejected] == ["missing_field"]
    required = Csv(columns={"s": "category", "n": "int"}, null="off")
    rows, rejected = read(required, lines("a,1\noff,2\nb,3\n", header=False))
    assert ([r["n"] for r in rows], rejected) == ([1, 3], [("missing_field", "off,2\n")])


def test_null_may_be_written_as_yaml_reads_it() -> None:
    decoder = Csv.model_validate({"columns": {"n": {"type": "int", "optional": True, None: "x"}}, None: [-999, "y"]})
    assert decoder.told["n"].null == ("-999", "y", "x")
    assert [r["n"] for r in read(decoder, lines("-999,\n1\nx\n".replace(",", ""), header=False))[0]] == [None, 1, None]


def test_numbers_of_a_german_spreadsheet() -> None:
    decoder = Csv(columns={"v": "float", "n": "int"}, delimiter=";", decimal=",", thousands=".")
    rows, rejected = read(
        decoder, lines("1.234,56;1.000\n-12.345.678,5;7\n3,5;12.34\n1.23,4;1\n1,2.345;1\n", header=False)
    )
    assert [(r["v"], r["n"]) for r in rows] == [(1234.56, 1000), (-12345678.5, 7)]
    assert [reason for reason, _ in rejected] == ["type"] * 3


def test_runs_of_blanks_are_one_delimiter() -> None:
    decoder = Csv(columns={"a": "category", "b": "int", "c": "float"}, delimiter=" ")
    rows, rejected = read(decoder, lines(' 1   2 3.5  \n1\t2\t4.5\r\n"x  y" 3  5.5 \n1 2\n', header=False))
    assert [(r["a"], r["b"], r["c"]) for r in rows] == [("1", 2, 3.5), ("1", 2, 4.5), ("x  y", 3, 5.5)]
    assert [reason for reason, _ in rejected] == ["csv_shape"]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-be", "shift_jis", "latin-1"])
def test_other_encodings(encoding: str) -> None:
    word = "\u96fb\u5727" if encoding == "shift_jis" else "\u00d6l"
    decoder = Csv(columns={"s": "text", "n": "int"}, encoding=encoding)
    assert decoded([f"{word},1".encode(encoding), b"ab,2"], decoder)[0][0]["s"] == word
    if encoding == "shift_jis":
        assert decoded([b"\xff\xff,1"], decoder) == ([], [(0, "encoding")])
    with pytest.raises(ValidationError, match="there is no encoding"):
        Csv(columns={"n": "int"}, encoding="cp0")


def test_times_of_a_format_and_numbers_with_their_unit() -> None:
    columns = {"t": {"type": "timestamp", "format": "%d.%m.%Y %H:%M:%S", "zone": "Europe/Berlin"}, "u": "timestamp"}
    decoder = Csv(columns=columns)
    _, batches = decoder.step(
        decoder.initial(), Batch(raw([b"25.03.2026 14:30:05,2026-01-01T00:00:00Z", b"x,1767225600"]))
    )
    (bad,) = batches[0].rows.to_pylist()
    assert batches[1].rows["t"][0].as_py().isoformat() == "2026-03-25T13:30:05+00:00"
    assert "is not written as format says" in bad["detail"]
    _, (rejected, _) = decoder.step(decoder.initial(), Batch(raw([b"25.03.2026 14:30:05,1767225600"])))
    assert "unit: ms" in rejected.rows["detail"][0].as_py()
