"""keep, derive, select, cast, explode: what each does to its columns."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pydantic import ValidationError

from tocsin.condition.cast import Cast
from tocsin.condition.derive import Derive
from tocsin.condition.explode import Explode
from tocsin.condition.keep import Keep
from tocsin.condition.select import Select
from tocsin.errors import SchemaError
from tocsin.testing import feed, rows


def test_what_is_unknown_is_not_kept() -> None:
    z = rows({"z": [None, float("nan"), 2.0, -3.0]})
    assert feed(Keep(where="z > 1"), z)["z"].to_pylist() == [2.0]
    assert feed(Keep(where="not z > 1"), z).num_rows == 2  # NaN is not more than 1; null is unknown
    with pytest.raises(SchemaError, match="must be true or false"):
        Keep(where="z + 1").output_schema(z.schema)


def test_the_sum_of_a_robots_axes() -> None:
    names = [f"::[scararobot]Ax_J{i}.ActualPosition" for i in range(1, 30)]
    arm = rows({name: [float(i), None] for i, name in enumerate(names)} | {"::[scararobot]Status": ["ok", "ok"]})
    left = feed(Derive(columns={"Total": "total('::[scararobot]*')"}), arm)
    assert left["Total"].to_pylist() == [sum(range(29)), None]


def test_derived_columns_replace_and_build_on_each_other() -> None:
    left = feed(Derive(columns={"a": "a * 2", "b": "a + 1"}), rows({"a": [1, 2]}))
    assert left.to_pydict()["a"] == [2, 4]
    assert left.to_pydict()["b"] == [3, 5]
    with pytest.raises(ValidationError, match="'time' cannot be derived"):
        Derive(columns={"time": "now"})
    with pytest.raises(SchemaError, match="b: there is no column 'c'"):
        Derive(columns={"b": "c"}).output_schema(rows({"a": [1]}).schema)


def test_select_renames_and_refuses_key() -> None:
    assert feed(Select(columns={"celsius": "a"}), rows({"a": [1], "b": [2]})).schema.names == ["key", "time", "celsius"]
    with pytest.raises(SchemaError, match="cannot call a column 'time'"):
        Select(columns={"time": "a"}).output_schema(rows({"a": [1]}).schema)


def test_cast_sets_aside_the_row_that_does_not_fit_and_only_it() -> None:
    sent = rows({"n": ["1", "0x1F", "21,5", "", None, "9" * 19], "on": ["yes", "no", "on", "1", "off", "true"]})
    step = Cast(columns={"n": "int", "on": "bool"})
    assert feed(step, sent)["n"].to_pylist() == [1, None]
    assert feed(step, sent)["on"].to_pylist() == [True, False]
    assert feed(step, sent, port="rejected")["reason"].to_pylist() == ["type"] * 4
    floats = rows({"x": [2.5, 3.5, float("nan"), 1e300]})
    assert feed(Cast(columns={"x": "int"}), floats)["x"].to_pylist() == [2, 4]


def test_shorter_lists_are_filled_with_null() -> None:
    given = rows({"a": [[1, 2], [], None, [3]], "b": [[1.5], [2.5], [], [3.5]], "c": ["w", "x", "y", "z"]})
    left = feed(Explode(), given)
    assert left["a"].to_pylist() == [1, 2, None, 3]
    assert left["b"].to_pylist() == [1.5, None, 2.5, 3.5]
    assert left["c"].to_pylist() == ["w", "w", "x", "z"]
    assert left.schema.field("a").type == pa.int64()
