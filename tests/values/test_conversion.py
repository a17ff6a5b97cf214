"""Values of one type made into another."""

from __future__ import annotations

import pyarrow as pa

from tocsin.values.conversion import convert


def test_text_becomes_an_integer_exactly_or_null() -> None:
    ends = ["9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809"]
    text = ["1663830966276000001", *ends, " +7 ", "007", "-0", "1.0", ""]
    wanted = [1663830966276000001, 2**63 - 1, None, -(2**63), None, 7, 7, 0, None, None]
    assert convert(pa.array(text), pa.int64()).to_pylist() == wanted
