"""Influx line protocol, as its specification shows it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.batch import OUT, Batch
from tocsin.decode._base import raw
from tocsin.decode.influx import Influx

OPTIONAL = {"optional": True}
COLUMNS = {
    "what": {"path": "@measurement", "type": "text"},
    "at": {"path": "@time", "type": "timestamp", **OPTIONAL},
    "site": {"type": "category", **OPTIONAL},
    "v": {"type": "float", **OPTIONAL},
    "n": {"type": "int", **OPTIONAL},
    "ok": {"type": "bool", **OPTIONAL},
    "note": {"type": "text", **OPTIONAL},
}


def read(*lines: str, **settings: Any) -> tuple[list[dict[str, Any]], list[str]]:
    decoder = Influx(columns=COLUMNS, **settings)
    _, batches = decoder.step(None, Batch(raw([line.encode() for line in lines])))
    by_port = {b.port: b.rows for b in batches}
    rejected = by_port["rejected"]["reason"].to_pylist() if "rejected" in by_port else []
    rows = by_port[OUT].drop_columns(["received"]).to_pylist()
    return [{k: v for k, v in row.items() if v is not None} for row in rows], rejected


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("m v=1", {"what": "m", "v": 1.0}),
        ("m,site=hall\\ 1,x=y v=20.5,n=5i,ok=t", {"what": "m", "site": "hall 1", "v": 20.5, "n": 5, "ok": True}),
        ("a\\,b\\ c v=-1e3,ok=FALSE", {"what": "a,b c", "v": -1000.0, "ok": False}),
        ('m note="a \\"b\\", c=d \\\\",v=2', {"what": "m", "note": 'a "b", c=d \\', "v": 2.0}),
        ("m n=9223372036854775807i", {"what": "m", "n": 2**63 - 1}),
        ("m v=NaN,n=3u", {"what": "m", "n": 3}),
    ],
)
def test_a_line(line: str, wanted: dict[str, Any]) -> None:
    assert read(line) == ([wanted], [])


def test_times_and_several_lines_in_a_record() -> None:
    rows, rejected = read("# from telegraf\nm v=1 1767268800000000001\n\nm v=2 1767268801000000000\nm v\n")
    assert [row["at"].isoformat() for row in rows] == ["2026-01-01T12:00:00+00:00", "2026-01-01T12:00:01+00:00"]
    assert rejected == ["influx_syntax"]
    assert read("m v=1 1767268800", precision="s")[0] == [{"what": "m", "v": 1.0, "at": rows[0]["at"]}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("m", "influx_syntax"), ("m v=", "influx_syntax"), ("m,site v=1", "influx_syntax"), ("m v=x", "influx_syntax"),
        ("m n=9223372036854775808i", "number_range"), ('m v="1"', "type"),
        ("m v=1 99999999999999999999", "number_range"),
        ("m v=1 -1", "ts_range"),
    ],
)  # fmt: skip
def test_what_is_refused(line: str, reason: str) -> None:
    assert read(line) == ([], [reason])


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_exception_leaves_the_decoder(payloads: list[bytes]) -> None:
    decoder = Influx(columns=COLUMNS)
    decoder.step(None, Batch(raw(payloads)))
