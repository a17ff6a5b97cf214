"""Repeated elements to rows, and nothing that makes a parser explode."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.batch import OUT, REJECTED, Batch
from tocsin.decode._base import raw
from tocsin.decode.xml import Xml

ROBOT = Xml(
    rows="HistoricalTextData",
    columns={"TagName": "category", "Status": {"type": "text", "optional": True}, "TagValue": "float",
             "TimeStamp": "timestamp"},
)  # fmt: skip


def decoded(payloads: list[bytes], decoder: Xml = ROBOT) -> tuple[list[Any], list[Any]]:
    _, batches = decoder.step(None, Batch(raw(payloads)))
    by_port = {b.port: b.rows for b in batches}
    by_port[OUT].validate(full=True)
    rejected = by_port.get(REJECTED)
    pairs = [] if rejected is None else [(r["position"], r["reason"]) for r in rejected.to_pylist()]
    return by_port[OUT].to_pylist(), pairs


def element(value: object, tag: str = "::[scararobot]Ax_J1.ActualPosition") -> bytes:
    return (
        f"<HistoricalTextData><TagName>{tag}</TagName><Status>Good</Status><TagValue>{value}</TagValue>"
        "<TimeStamp>2026-01-01T00:00:00Z</TimeStamp></HistoricalTextData>"
    ).encode()


def test_one_row_for_each_element_and_a_bad_one_costs_no_sibling() -> None:
    document = b'<?xml version="1.0"?><e xmlns="urn:x">' + element(1.5) + element("n/a") + element(-2) + b"</e>"
    rows, rejected = decoded([document])
    assert [r["TagValue"] for r in rows] == [1.5, -2.0]
    assert rejected == [(0, "type")]
    _, (bad, _) = ROBOT.step(None, Batch(raw([document])))
    assert bad.rows.column("payload").to_pylist() == [element("n/a")]


def test_what_was_complete_before_the_document_broke_is_kept() -> None:
    rows, rejected = decoded([b"<e>" + element(1) + b"<Hist"])
    assert len(rows) == 1
    assert rejected == [(0, "xml_syntax")]


def test_attributes_nesting_namespaces_and_other_encodings() -> None:
    decoder = Xml(rows="p", columns={"id": {"path": "@id", "type": "int"}, "v": {"path": "q.v", "type": "text"}})
    text = (
        '<?xml version="1.0" encoding="iso-8859-1"?><n:a><n:p n:id="4"><q><v><![CDATA[<\u00e9>]]></v></q></n:p></n:a>'
    )
    rows, rejected = decoded([text.encode("iso-8859-1")], decoder)
    assert not rejected
    assert [(r["id"], r["v"]) for r in rows] == [(4, "<\u00e9>")]


PIECES = st.sampled_from(
    [b"<HistoricalTextData>", b"</HistoricalTextData>", b"<TagValue>1</TagValue>", b"<TagName>a</TagName>", b"<", b">",
     b"<!DOCTYPE x>", b"<?xml version='1.0' encoding='utf-16'?>", b"&amp;", b"&x;", b"\xff", b"<a>", b"</a>", b" ",
     b"<![CDATA[", b"]]>", b"<!--", b"-->", element(1)]
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(st.lists(PIECES | st.binary(max_size=5), max_size=12).map(b"".join), max_size=4))
def test_no_exception_leaves_the_decoder(payloads: list[bytes]) -> None:
    rows, rejected = decoded([*payloads, b"<e>" + element(7) + b"</e>"])
    assert rows[-1]["TagValue"] == 7.0
    assert len(rejected) >= sum(not p for p in payloads)


MTCONNECT = b"""<S xmlns:m="urn:x"><Header sender="cell"/><D name="VMC"><C name="X"><Samples>
<m:Position dataItemId="x2">12.5</m:Position><Load dataItemId="x3">UNAVAILABLE</Load></Samples></C>
<C name="C"><Events><Execution dataItemId="p1">ACTIVE</Execution></Events></C></D></S>"""


def mtconnect(rows: Any, **value: Any) -> tuple[list[dict[str, Any]], list[str]]:
    columns = {
        "id": {"path": "@dataItemId", "type": "text"},
        "kind": {"path": "name()", "type": "category"},
        "axis": {"path": "$.C.@name", "type": "text"},
        "machine": {"path": "$.D.@name", "type": "text"},
        "value": {"path": ".", "optional": True, **value},
    }
    decoder = Xml(rows=rows, columns=columns)
    _, batches = decoder.step(decoder.initial(), Batch(raw([MTCONNECT])))
    by_port = {b.port: b.rows for b in batches}
    rejected = by_port["rejected"]["reason"].to_pylist() if "rejected" in by_port else []
    return by_port[OUT].drop_columns(["received"]).to_pylist(), rejected


def test_own_text_and_attributes_of_what_is_around() -> None:
    position = {"id": "x2", "kind": "Position", "axis": "X", "machine": "VMC", "value": 12.5}
    assert mtconnect("Position", type="float") == ([position], [])
    load = {"id": "x3", "kind": "Load", "axis": "X", "machine": "VMC", "value": None}
    assert mtconnect(["Position", "Load"], type="float", null="UNAVAILABLE") == ([position, load], [])


def test_every_element_that_has_none_inside() -> None:
    rows, rejected = mtconnect("*", type="text")
    assert [(r["id"], r["axis"], r["value"]) for r in rows] == [
        ("x2", "X", "12.5"), ("x3", "X", "UNAVAILABLE"), ("p1", "C", "ACTIVE"),
    ]  # fmt: skip
    assert rejected == ["missing_field"]  # the header


def test_an_encoding_that_is_told_counts_more_than_what_the_document_says() -> None:
    decoder = Xml(rows="r", columns={"v": "text"}, encoding="cp1252")
    document = '<?xml version="1.0" encoding="utf-8"?><a><r><v>\u00d6l</v></r></a>'.encode("cp1252")
    _, batches = decoder.step(decoder.initial(), Batch(raw([document])))
    assert batches[-1].rows["v"].to_pylist() == ["\u00d6l"]
