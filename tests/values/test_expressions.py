"""Expressions give what DuckDB gives, but null where DuckDB has an error, infinity or NaN."""

from __future__ import annotations

import math
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from tocsin.errors import ConfigError, SchemaError, UnknownName
from tocsin.testing import rows
from tocsin.values.expressions import condition, expression

SAMPLE = rows(
    {
        "a": [1, 2, None, -7, 0],
        "b": [2.5, 0.0, 1.0, None, -2.5],
        "s": ["Pump", "x", None, "fan", "Ünï"],
        "f": [True, False, None, True, False],
        "n": [5, 3, 2, -2, 1],
        "Ax.1": [1.0, None, 3.0, 4.0, 5.0],
    }
)
LIKE_DUCKDB = """
a + n * 2 - 1 | -a | -b + 3 | a / n | a // n | a % n | b % 2 | pow(a, 2) | a ** 2 | mod(a, 2) | (a + b) * 2 | 1.5e3
abs(b) > 1.29 | a > 1 and f | a > 1 or f | not f | f and null | f or null | a <> 1 | a != 1 | b = -2.5 | a = b
a is null | a is not null | f is true | f is not true | a is distinct from n | a between 1 and 2
a not between 1 and 2 | a in (1, 2) | a not in (1, 2.5) | s in ('Pump', 'fan') | a in (1, null)
case when a > 1 then 'hi' when a < 0 then 'lo' else 'mid' end | case when a > 1 then 1 end
case a when 1 then 'one' else 'other' end | if(a > 1, 1, 2) | coalesce(a, n) | coalesce(b, 0) | nullif(a, 1)
cast(b as int) | cast(a as text) | cast('2' as int) + a | a::double | cast(f as int) | try_cast(s as int)
round(b) | round(b, 1) | round(a) | floor(b) | ceil(b) | sign(b) | exp(a) | sqrt(abs(b)) | ln(n * n + 1)
log10(n * n + 1) | log(n * n + 1) | log2(n * n + 1) | sin(b) | least(a, b, 1) | greatest(a, n) | isnan(b)
lower(s) | upper(s) | length(s) | concat(s, '-', a) | s like 'P%' | s not like '%n' | s ilike 'p%'
substring(s, 2, 2) | substr(s, 2) | trim(s) | replace(s, 'P', 'p') | regexp_matches(s, '^[a-zA-Z]+$')
contains(s, 'u') | starts_with(s, 'P') | s > 'a' | key = 'machine'
extract(hour from time) | extract(dow from time) | dayofweek(time) | extract(isodow from time) | hour(time) | year(time)
epoch(time) | time > '2026-01-01T00:00:02Z' | time >= timestamp '2026-01-01 00:00:02' | "Ax.1" * 2 | true | 1 + 1
"""


def _same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float | int) and isinstance(b, float | int) and math.isclose(a, b))


@pytest.mark.parametrize(
    "text", [e.strip() for e in LIKE_DUCKDB.replace("\n", "|").split("|") if e.strip()] + ["s || '-'"]
)
def test_like_duckdb(text: str) -> None:
    t = pa.Table.from_batches([SAMPLE])
    with duckdb.connect() as db:
        db.execute("set timezone = 'UTC'")
        wanted = [row[0] for row in db.register("t", t).execute(f"select {text} from t").fetchall()]
    found = expression(text)(SAMPLE).to_pylist()
    assert all(map(_same, found, wanted)), f"{found} instead of {wanted}"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a / 0", [None] * 5),
        ("a // 0", [None] * 5),
        ("a % 0", [None] * 5),
        ("sqrt(b)", [math.sqrt(2.5), 0.0, 1.0, None, None]),
        ("ln(a)", [0.0, math.log(2), None, None, None]),
        ("4611686018427387904 + 4611686018427387904 * a", [None, None, None, None, 4611686018427387904]),
        ("cast(1e300 as int)", [None] * 5),
        ("cast('yesterday' as timestamp)", [None] * 5),
        ("total('Ax*')", [1.0, None, 3.0, 4.0, 5.0]),
        ("total('?')", [8.5, 5.0, 3.0, -9.0, -1.5]),
        ("extract(hour from time at time zone 'Asia/Tokyo')", [9] * 5),
    ],
)
def test_where_duckdb_differs(text: str, wanted: list[Any]) -> None:
    assert expression(text)(SAMPLE).to_pylist() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("fetch > 1", ConfigError, 'a column of the name fetch is written "fetch"'),
        ("a >", ConfigError, "'a >' is not an expression"),
        ("select 1", ConfigError, "cannot stand in an expression"),
        ("a; drop table x", ConfigError, "cannot stand in an expression"),
        ("a > (select 1)", ConfigError, "cannot stand in an expression"),
        ("__import__('os')", UnknownName, "there is no function '__import__'"),
        ("flor(a)", UnknownName, "did you mean 'floor'?"),
        ("avg(a)", UnknownName, "there is no function 'avg'"),
        ("valu + 1", SchemaError, "there is no column 'valu'"),
        ("s + 1", SchemaError, "s is string, 1 is int64; what is there is \\[key: .*, a: int64"),
        ("s > 1", SchemaError, "s is string"),
        ("f + 1", SchemaError, "f is bool"),
        ("a and f", SchemaError, "a is int64"),
        ("null", SchemaError, "always null"),
        ("total('zz*')", SchemaError, "fits no column"),
        ("time > 'noon'", SchemaError, "'noon' is not a time"),
        ("regexp_matches(s, '(')", ConfigError, "is not a pattern"),
        ("cast(a as blob)", UnknownName, "there is no type 'varbinary'"),
    ],
)
def test_what_does_not_fit_is_said_before_data_flows(text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        expression(text).type_in(SAMPLE.schema)


def test_a_condition_is_true_or_false() -> None:
    with pytest.raises(SchemaError, match="must be true or false"):
        condition("a + 1", SAMPLE.schema)


@pytest.mark.parametrize("name", ["load", "set", "copy", "use", "show", "comment", "begin", "update", "desc", "reset"])
def test_a_column_named_as_a_command(name: str) -> None:
    assert expression(f"{name} > 1")(rows({name: [1, 2]})).to_pylist() == [False, True]
