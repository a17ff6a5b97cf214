"""What operators and functions of expressions work out, with Arrow, on whole columns: null where there is no answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.errors import SchemaError
from tocsin.values.conversion import TYPES, convert

Value = Any
"""An Arrow array, or a scalar where it does not depend on the row."""


def minus_first(function: Callable[..., Value], *values: Value) -> Value:
    return function(pa.scalar(0, values[0].type), *values) if len(values) == 1 else function(*values)


def finite(value: Value) -> Value:
    return pc.if_else(pc.is_finite(value), value, None)


def as_number(value: Value) -> Value:
    if not (pt.is_integer(value.type) or pt.is_floating(value.type)):
        raise TypeError
    if isinstance(value, pa.Scalar):  # which has no unsafe cast
        return pa.scalar(float(value.as_py()) if value.is_valid else None, pa.float64())
    return value if pt.is_float64(value.type) else value.cast(pa.float64(), safe=False)


def logic(function: Callable[..., Value]) -> Callable[..., Value]:
    return lambda *values: function(*(v.cast(pa.bool_()) if pt.is_null(v.type) else v for v in values))


def arithmetic(
    plain: Callable[..., Value], checked: Callable[..., Value], call: Callable[..., Value] | None = None
) -> Callable[..., Value]:
    def run(*values: Value) -> Value:
        apply = call or (lambda function, *v: function(*v))
        try:
            return apply(checked, *values)
        except pa.ArrowInvalid:  # somewhere an integer does not fit: null there
            size = pc.abs(apply(plain, *[as_number(v) for v in values]))
            return pc.if_else(pc.less(size, 2.0**63), apply(plain, *values), None)

    return run


def divide(a: Value, b: Value) -> Value:
    return finite(pc.divide(as_number(a), as_number(b)))


def whole_divide(a: Value, b: Value) -> Value:
    if pt.is_integer(a.type) and pt.is_integer(b.type):
        return pc.divide(a, pc.if_else(pc.equal(b, 0), None, b))
    return finite(pc.floor(pc.divide(as_number(a), as_number(b))))


def modulo(a: Value, b: Value) -> Value:
    if pt.is_integer(a.type) and pt.is_integer(b.type):
        b = pc.if_else(pc.equal(b, 0), None, b)
        return pc.subtract(a, pc.multiply(b, pc.divide(a, b)))
    a, b = as_number(a), as_number(b)
    return finite(pc.subtract(a, pc.multiply(b, pc.trunc(pc.divide(a, b)))))


def comparison(function: Callable[..., Value]) -> Callable[..., Value]:
    def run(a: Value, b: Value) -> Value:
        return function(*times_alike(a, b))

    return run


def times_alike(a: Value, b: Value) -> tuple[Value, Value]:
    """A text beside a time is read as a time."""
    if pt.is_timestamp(a.type) and pt.is_string(b.type) and isinstance(b, pa.Scalar):
        return a, as_time(b)
    if pt.is_timestamp(b.type) and pt.is_string(a.type) and isinstance(a, pa.Scalar):
        return as_time(a), b
    return a, b


def as_time(text: pa.Scalar) -> pa.Scalar:
    time = convert(pa.array([text.as_py()], pa.string()), TYPES["timestamp"])[0]
    if not time.is_valid:
        raise SchemaError(f"'{text.as_py()}' is not a time; write it as 2026-01-31T12:00:00Z")
    return time


def between(value: Value, low: Value, high: Value) -> Value:
    at_least, at_most = comparison(pc.greater_equal), comparison(pc.less_equal)
    return pc.and_kleene(at_least(value, low), at_most(value, high))


def is_in(value: Value, *others: Value) -> Value:
    within = comparison(pc.equal)(value, others[0])
    for other in others[1:]:
        within = pc.or_kleene(within, comparison(pc.equal)(value, other))
    return within


def is_same(value: Value, other: Value) -> Value:
    if pt.is_null(other.type):
        return pc.is_null(value)
    return pc.fill_null(pc.equal(value, other), False)


def is_distinct(a: Value, b: Value) -> Value:
    different = pc.fill_null(pc.not_equal(a, b), True)
    return pc.and_not(different, pc.and_(pc.is_null(a), pc.is_null(b)))


def where(test: Value, then: Value, otherwise: Value) -> Value:
    return pc.if_else(pc.fill_null(test, False), then, otherwise)


def rounded(value: Value, digits: Value | None = None) -> Value:
    if pt.is_integer(value.type):
        return value
    places = 0 if digits is None else digits.as_py()
    return pc.round(as_number(value), ndigits=places, round_mode="half_towards_infinity")


def to_whole(function: Callable[..., Value]) -> Callable[..., Value]:
    return lambda value, *_: value if pt.is_integer(value.type) else function(as_number(value))


def positive(function: Callable[..., Value]) -> Callable[[Value], Value]:
    return lambda value: finite(function(as_number(value)))


def logarithm(base: Value, value: Value) -> Value:
    return finite(pc.logb(as_number(value), as_number(base)))


def as_text(value: Value) -> Value:
    return value if pt.is_string(value.type) else value.cast(pa.string())


def substring(value: Value, start: Value, length: Value | None = None) -> Value:
    begin = max(start.as_py() - 1, 0)
    return pc.utf8_slice_codeunits(value, begin, None if length is None else begin + length.as_py())


def replace_text(value: Value, old: Value, new: Value) -> Value:
    return pc.replace_substring(value, old.as_py(), new.as_py())


PARTS_OF_TIME: Mapping[str, Callable[[Value], Value]] = {
    "year": pc.year,
    "month": pc.month,
    "day": pc.day,
    "hour": pc.hour,
    "minute": pc.minute,
    "second": pc.second,
    "quarter": pc.quarter,
    "week": pc.iso_week,
    "doy": pc.day_of_year,
    "dow": partial(pc.day_of_week, count_from_zero=True, week_start=7),
    "isodow": partial(pc.day_of_week, count_from_zero=False, week_start=1),
    "epoch": lambda value: pc.divide(value.cast(pa.int64()).cast(pa.float64(), safe=False), 1e6),
}
OTHER_NAMES_OF_PARTS = {
    "dayofweek": "dow",
    "dayofmonth": "day",
    "dayofyear": "doy",
    "weekofyear": "week",
    "timetounix": "epoch",
}


FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "abs": arithmetic(pc.abs, pc.abs_checked),
    "sign": lambda value: pc.sign(value),
    "round": rounded,
    "floor": to_whole(pc.floor),
    "ceil": to_whole(pc.ceil),
    "trunc": to_whole(pc.trunc),
    "sqrt": positive(pc.sqrt),
    "exp": positive(pc.exp),
    "ln": positive(pc.ln),
    "sin": positive(pc.sin),
    "cos": positive(pc.cos),
    "tan": positive(pc.tan),
    "atan": positive(pc.atan),
    "atan2": lambda a, b: finite(pc.atan2(as_number(a), as_number(b))),
    "least": lambda *values: pc.min_element_wise(*values),
    "greatest": lambda *values: pc.max_element_wise(*values),
    "coalesce": lambda *values: pc.coalesce(*values),
    "nullif": lambda a, b: where(pc.equal(a, b), None, a),
    "isnan": lambda value: pc.is_nan(value),
    "isinf": lambda value: pc.is_inf(value),
    "lower": lambda value: pc.utf8_lower(value),
    "upper": lambda value: pc.utf8_upper(value),
    "trim": lambda value: pc.utf8_trim_whitespace(value),
    "length": lambda value: pc.utf8_length(value).cast(pa.int64()),
    "replace": replace_text,
    "substring": substring,
    "concat": lambda *values: pc.binary_join_element_wise(*map(as_text, values), "", null_handling="skip"),
    **{name: PARTS_OF_TIME[name] for name in ("year", "month", "day", "hour", "minute", "second", "quarter", "week")},
    **{name: PARTS_OF_TIME[part] for name, part in OTHER_NAMES_OF_PARTS.items()},
}
