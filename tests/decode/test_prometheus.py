"""Prometheus text, as its specification shows it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.batch import OUT, Batch
from tocsin.decode._base import raw
from tocsin.decode.prometheus import Prometheus

COLUMNS = {
    "metric": {"path": "@name", "type": "category"},
    "v": {"path": "@value", "type": "float", "optional": True},
    "at": {"path": "@time", "type": "timestamp", "optional": True},
    "code": {"type": "text", "optional": True},
}
PAGE = """# HELP http_requests_total The total number of HTTP requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3 1395066363000
msdos_file_access_time_seconds{path="C:\\\\DIR\\\\FILE.TXT",code="a \\"b\\" }\\n"} 1.458255915e9
metric_without_timestamp_and_labels 12.47
something_weird{problem="division by zero"} +Inf -3982045
no_number{} NaN
"""


def read(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    decoder = Prometheus(columns=COLUMNS)
    _, batches = decoder.step(None, Batch(raw([text.encode()])))
    by_port = {b.port: b.rows for b in batches}
    rejected = by_port["rejected"]["reason"].to_pylist() if "rejected" in by_port else []
    return by_port[OUT].drop_columns(["received"]).to_pylist(), rejected


def test_the_page_of_the_specification() -> None:
    rows, rejected = read(PAGE)
    assert [(r["metric"], r["v"], r["code"]) for r in rows] == [
        ("http_requests_total", 1027.0, "200"), ("http_requests_total", 3.0, "400"),
        ("msdos_file_access_time_seconds", 1458255915.0, 'a "b" }\n'),
        ("metric_without_timestamp_and_labels", 12.47, None), ("no_number", None, None),
    ]  # fmt: skip
    assert rows[0]["at"].isoformat() == "2014-03-17T14:26:03+00:00"
    assert rejected == ["ts_range"]


@pytest.mark.parametrize("line", ["a", 'a{b="c" 1', "a{b=c} 1", "a x", "1a 2", "a 1 2 3", "a 1 1.2.3"])
def test_what_is_refused(line: str) -> None:
    assert read(line) == ([], ["prometheus_syntax"])


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_exception_leaves_the_decoder(payloads: list[bytes]) -> None:
    decoder = Prometheus(columns=COLUMNS)
    decoder.step(None, Batch(raw(payloads)))
