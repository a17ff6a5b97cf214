"""Pivot: one row for each instant, in time order, whatever the order of arrival."""

from __future__ import annotations

import pytest

from tocsin.batch import Batch
from tocsin.condition.pivot import Pivot
from tocsin.errors import SchemaError
from tocsin.testing import BEGIN_US, feed, rows

STEP = Pivot(signal="tag", value="value", columns={"a": "::[arm]a", "b": "::[arm]b"})


@pytest.mark.parametrize("chop", [1, 2, None])
def test_the_rows_of_an_instant_become_one(chop: int | None) -> None:
    long = rows(
        {
            "key": ["x", "x", "y", "x", "x", "y", "x"],
            "time": [1, 0, 0, 0, 2, 0, 2],
            "tag": ["::[arm]a", "::[arm]b", "::[arm]a", "::[arm]a", "::[arm]a", "other", "::[arm]a"],
            "value": [1.0, 2.0, 3.0, None, 5.0, 6.0, 7.0],
        }
    )
    left = feed(STEP, long, chop=chop).to_pylist()
    found = sorted((r["key"], r["time"].second, r["a"], r["b"]) for r in left)
    assert found == [("x", 0, None, 2.0), ("x", 1, 1.0, None), ("x", 2, 7.0, None), ("y", 0, 3.0, None)]
    assert [r["time"].second for r in left] == sorted(r["time"].second for r in left)


def test_a_row_waits_for_the_watermark_and_what_comes_later_is_late() -> None:
    state, left = STEP.step(
        STEP.initial(),
        Batch(rows({"time": [1, 2], "tag": ["::[arm]a"] * 2, "value": [1.0, 2.0]}), BEGIN_US + 2_000_000),
    )
    assert left[-1].rows["a"].to_pylist() == [1.0]
    state, left = STEP.step(
        state, Batch(rows({"time": [1], "tag": ["::[arm]b"], "value": [9.0]}), BEGIN_US + 3_000_000)
    )
    assert [(b.port, len(b)) for b in left] == [("late", 1), ("out", 1)]


def test_signals_have_names() -> None:
    with pytest.raises(SchemaError, match="needs names in column 'value'"):
        Pivot(signal="value", value="value", columns=["a"]).output_schema(rows({"value": [1.0]}).schema)
