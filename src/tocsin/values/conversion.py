"""Values of one type made into another, row by row: what cannot be converted becomes null, and nothing is an error."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.batch import TIME_TYPE
from tocsin.errors import SchemaError
from tocsin.values.times import parse_times

TYPES: Mapping[str, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "text": pa.string(),
    "timestamp": TIME_TYPE,
}
"""The types that a user names."""

_WHOLE = r"^\s*[+-]?0*[0-9]{1,19}\s*$"
_NUMBER = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*$"
_TRUE, _FALSE = pa.array(["true", "t", "yes", "on", "1"]), pa.array(["false", "f", "no", "off", "0"])
_INT_END = 2.0**63
_INT_LEAST, _INT_MOST = (pa.scalar(Decimal(n), pa.decimal128(38, 0)) for n in (-(2**63), 2**63 - 1))


def convert(column: pa.Array, type: pa.DataType) -> pa.Array:
    """The column as one of `TYPES`, null where a value does not fit.

    A number becomes an integer by rounding (half to even).

    Examples
    --------
    >>> convert(pa.array(["21.5", "21,5", "1e400", "1e-400", None]), pa.float64()).to_pylist()
    [21.5, None, None, None, None]
    >>> convert(pa.array([2.5, 1e300]), pa.int64()).to_pylist()
    [2, None]
    """
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type == type:
        return column
    if pt.is_null(column.type):
        return pa.nulls(len(column), type)
    if pt.is_string(type):
        return column.cast(type)
    if pt.is_timestamp(type):
        return _timestamp(column)
    if pt.is_string(column.type) or pt.is_large_string(column.type):
        return _from_text(column.cast(pa.string()), type)
    if not (pt.is_integer(column.type) or pt.is_floating(column.type) or pt.is_boolean(column.type)):
        raise SchemaError(f"a column of {column.type} cannot become {type}")
    if pt.is_floating(type):
        return column.cast(type, safe=False)
    if pt.is_boolean(type):
        return pc.not_equal(column, 0)
    return _whole(column)


def _whole(column: pa.Array) -> pa.Array:
    if pt.is_uint64(column.type):
        column = pc.if_else(pc.less(column, pa.scalar(2**63, pa.uint64())), column, None)
    if not pt.is_floating(column.type):
        return column.cast(pa.int64())
    rounded = pc.round(column.cast(pa.float64()), round_mode="half_to_even")
    fits = pc.and_(pc.greater_equal(rounded, -_INT_END), pc.less(rounded, _INT_END))
    return pc.if_else(fits, rounded, None).cast(pa.int64())


def _from_text(column: pa.Array, type: pa.DataType) -> pa.Array:
    if pt.is_boolean(type):
        lower = pc.utf8_lower(pc.utf8_trim_whitespace(column))
        known = pc.if_else(pc.is_in(lower, value_set=_FALSE), False, None)
        return pc.if_else(pc.is_in(lower, value_set=_TRUE), True, known)
    pattern = _NUMBER if pt.is_floating(type) else _WHOLE
    plain = pc.if_else(pc.match_substring_regex(column, pattern), column, None)
    # Arrow reads a number without blanks and without a plus before it.
    plain = pc.utf8_ltrim(pc.utf8_trim_whitespace(plain), "+")
    if pt.is_floating(type):
        numbers = plain.cast(type)
        vanished = pc.and_(pc.equal(numbers, 0), pc.match_substring_regex(plain, r"^[^eE]*[1-9]"))
        return pc.if_else(pc.and_(pc.is_finite(numbers), pc.invert(vanished)), numbers, None)
    wide = pc.replace_substring_regex(plain, r"^(-?)0+([0-9])", r"\1\2").cast(pa.decimal128(38, 0))
    fits = pc.and_(pc.greater_equal(wide, _INT_LEAST), pc.less_equal(wide, _INT_MOST))
    return pc.if_else(fits, wide, None).cast(type)


def _timestamp(column: pa.Array) -> pa.Array:
    return parse_times(column, unit="auto" if not pt.is_timestamp(column.type) else None, zone="UTC")[0]


def named(name: str) -> pa.DataType:
    """The type that a user's name for it stands for."""
    if name not in TYPES:
        raise SchemaError(f"there is no type '{name}'; there are: {', '.join(TYPES)}")
    return TYPES[name]


__all__ = ["TYPES", "convert", "named"]
