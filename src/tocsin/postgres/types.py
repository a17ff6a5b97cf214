"""PostgreSQL's types: which one keeps a column of Arrow, and which other one, already there, can take it as well."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.types as pt

from tocsin.errors import SchemaError

if TYPE_CHECKING:
    from psycopg.sql import Composable

JSON = "jsonb"
TEXT = "text"
_SCALARS = {
    pa.bool_(): "boolean",
    pa.int8(): "smallint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.uint8(): "smallint",
    pa.uint16(): "integer",
    pa.uint32(): "bigint",
    pa.uint64(): "numeric(20,0)",
    pa.float16(): "real",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.string(): TEXT,
    pa.large_string(): TEXT,
    pa.string_view(): TEXT,
    pa.binary(): "bytea",
    pa.large_binary(): "bytea",
    pa.binary_view(): "bytea",
    pa.date32(): "date",
    pa.date64(): "date",
    pa.time32("s"): "time without time zone",
    pa.time32("ms"): "time without time zone",
    pa.time64("us"): "time without time zone",
}
_INTEGERS = ("smallint", "integer", "bigint")
_NUMERIC = re.compile(r"numeric(?:\((\d+),(-?\d+)\))?")
_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}
_NUMERIC_DIGITS_MAX = 1000


def sql_type(type: pa.DataType, column: str, server: str = "PostgreSQL") -> str | None:
    """Return the type that keeps a column, as PostgreSQL writes it; None for one that holds nothing but nulls.

    Lists of plain values become arrays; structs, maps and lists of these ``jsonb``.

    Raises
    ------
    SchemaError
        There is none; the sentence names ``column`` and the ``server``.

    Examples
    --------
    >>> sql_type(pa.float64(), "speed"), sql_type(pa.list_(pa.string()), "tags"), sql_type(pa.null(), "unknown")
    ('double precision', 'text[]', None)
    """
    if pt.is_null(type):
        return None
    if pt.is_dictionary(type):
        return sql_type(type.value_type, column, server)
    plain = _plain(type)
    if plain is not None:
        return plain
    if _is_list(type):
        element = _plain(type.value_type.value_type if pt.is_dictionary(type.value_type) else type.value_type)
        if element is not None:
            return f"{element}[]"
    if _fits_json(type):
        return JSON
    raise SchemaError(f"{server} cannot hold column '{column}' of type {type}; cast it first")


def _plain(type: pa.DataType) -> str | None:
    """Return the type of a single value; None for lists, structs and what cannot be held."""
    if type in _SCALARS:
        return _SCALARS[type]
    if pt.is_fixed_size_binary(type):
        return "bytea"
    if pt.is_timestamp(type) and type.unit != "ns":
        return "timestamp with time zone" if type.tz is not None else "timestamp without time zone"
    if pt.is_duration(type) and type.unit != "ns":
        return "interval"
    if pt.is_decimal(type):
        return f"numeric({max(type.precision, type.precision - type.scale)},{max(type.scale, 0)})"
    return None


def _is_list(type: pa.DataType) -> bool:
    return bool(pt.is_list(type) or pt.is_large_list(type) or pt.is_fixed_size_list(type))


def _fits_json(type: pa.DataType) -> bool:
    """Return whether values of the type can be written as JSON and read back without a loss."""
    if pt.is_struct(type):
        return all(_fits_json(field.type) for field in type)
    if pt.is_map(type):
        return _plain(type.key_type) == TEXT and _fits_json(type.item_type)
    if _is_list(type) or pt.is_dictionary(type):
        return _fits_json(type.value_type)
    return pt.is_null(type) or _plain(type) is not None


class ColumnFit(Enum):
    """How a column that comes fits the one that is there."""

    WHOLE = "every value can be kept"
    IN_PART = "some values cannot: their rows are set aside"
    NOT = "the two are of different kinds"


def fit(comes: str, there: str, *, is_enum: bool = False) -> ColumnFit:
    """Return how values of one type fit a column of another; both as PostgreSQL writes them.

    Examples
    --------
    >>> fit("integer", "bigint").name, fit("text", "character varying(5)").name, fit("text", "boolean").name
    ('WHOLE', 'IN_PART', 'NOT')
    """
    if comes.endswith("[]") and there.endswith("[]"):
        return fit(comes[:-2], there[:-2])
    if comes == there:
        return ColumnFit.WHOLE
    if comes in _INTEGERS or comes.startswith("numeric"):
        return _fit_of_a_number(comes, there)
    whole = {
        "real": ("double precision",),
        TEXT: ("character varying", "json", JSON),
        JSON: ("json",),
    }
    if there in whole.get(comes, ()):
        return ColumnFit.IN_PART if there in ("json", JSON) and comes == TEXT else ColumnFit.WHOLE
    narrow = comes == TEXT and (is_enum or there.startswith("character varying(") or there == "uuid")
    return ColumnFit.IN_PART if narrow else ColumnFit.NOT


def _fit_of_a_number(comes: str, there: str) -> ColumnFit:
    """Return how a whole number or a decimal fits."""
    if comes in _INTEGERS and there in _INTEGERS:
        return ColumnFit.WHOLE if _INTEGERS.index(comes) <= _INTEGERS.index(there) else ColumnFit.IN_PART
    if comes in ("smallint", "integer") and there == "double precision":
        return ColumnFit.WHOLE
    known = _NUMERIC.fullmatch(there)
    if known is None:
        return ColumnFit.NOT
    if known[1] is None:
        return ColumnFit.WHOLE
    digits, scale = (_DIGITS[comes], 0) if comes in _DIGITS else _size(comes)
    there_digits, there_scale = _size(there)
    if there_scale < scale:
        return ColumnFit.NOT  # the server would round
    return ColumnFit.WHOLE if there_digits - there_scale >= digits - scale else ColumnFit.IN_PART


def _size(numeric: str) -> tuple[int, int]:
    """Return how many digits a ``numeric(p,s)`` has, and how many of them after the point."""
    match = _NUMERIC.fullmatch(numeric)
    if match is None or match[1] is None:
        return _NUMERIC_DIGITS_MAX, 0
    return int(match[1]), int(match[2])


def widened(comes: str, there: str) -> str | None:
    """Return the type that keeps both what is there and what comes; None where there is none.

    Examples
    --------
    >>> widened("double precision", "integer"), widened("numeric(10,3)", "numeric(10,2)"), widened("text", "bigint")
    ('double precision', 'numeric(11,3)', None)
    """
    if comes.endswith("[]") and there.endswith("[]"):
        wider = widened(comes[:-2], there[:-2])
        return None if wider is None else f"{wider}[]"
    if fit(there, comes) is ColumnFit.WHOLE:
        return comes
    if comes.startswith("numeric(") and there.startswith("numeric("):
        (digits, scale), (there_digits, there_scale) = _size(comes), _size(there)
        after = max(scale, there_scale)
        before = max(digits - scale, there_digits - there_scale)
        return f"numeric({before + after},{after})" if before + after <= _NUMERIC_DIGITS_MAX else None
    return None


def type_sql(type: str) -> Composable:
    """Return one of our types as SQL."""
    from psycopg import sql

    if type.endswith("[]"):
        return sql.SQL("{}[]").format(type_sql(type[:-2]))
    if type.startswith("numeric("):
        digits, scale = _size(type)
        return sql.SQL("numeric({}, {})").format(sql.Literal(digits), sql.Literal(scale))
    return sql.SQL(" ").join(sql.SQL(_WORDS[word]) for word in type.split())


_WORDS = {
    word: word
    for word in (
        "boolean", "smallint", "integer", "bigint", "numeric", "real", "double", "precision", "text", "bytea", "date",
        "time", "timestamp", "with", "without", "zone", "interval", "jsonb",
    )
}  # fmt: skip
