"""Values that a parser has read (numbers, text, truth) as the type of their column."""

from __future__ import annotations

from typing import Any

import numpy as np

from tocsin.decode._builder import Tiny, finite, without_null
from tocsin.decode._columns import WORDS, Column
from tocsin.decode._reasons import Bad


class Huge:
    """An integer beyond 64 bits."""


class NoNumber:
    """NaN or an infinity, where there should be a number."""


HUGE, NAN = Huge(), NoNumber()
EXACT_FLOAT = 2**53 - 1
"""Integers up to here are floats exactly."""


def from_value(name: str, column: Column, value: Any) -> Any:
    """Returns the value as its column's type (a timestamp as text); `Bad` if it is of another."""
    if value is None:
        if column.optional:
            return None
        raise Bad("missing_field", f"{name} is required")
    if value is HUGE and column.type in ("int", "float", "timestamp"):
        raise Bad("number_range", f"{name} does not fit 64 bits")
    if isinstance(value, Tiny) and column.type in ("int", "float", "timestamp"):
        finite(name, value)
    if value is NAN and not column.optional:
        raise Bad("json_nonfinite", f"{name} is NaN or infinite; if it may be missing, say optional: true")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    words = isinstance(value, str) and column.type not in WORDS and column.is_missing(value)
    if value is NAN or words or (number and value in column.null_numbers):
        if column.optional:
            return None
        raise Bad("missing_field", f"{name} is required, and {value!r}")
    match column.type:
        case "int" if isinstance(value, int) and number:
            return value
        case "int" if number and value.is_integer() and abs(value) <= EXACT_FLOAT:
            return int(value)
        case "int" if number and value.is_integer():
            raise Bad("number_range", f"{name}: written with a fraction or an exponent, so many digits are not exact")
        case "int" if number and value in (np.inf, -np.inf):
            raise Bad("number_range", f"{name} does not fit 64 bits")
        case "float" if number:
            return finite(name, float(value))
        case "bool" if isinstance(value, bool):
            return value
        case "text" if isinstance(value, str):
            return value
        case "category" if isinstance(value, str):
            return without_null(name, value)
        case "timestamp" if isinstance(value, str):
            return value
        case "timestamp" if number and column.unit is not None:
            return str(value) if isinstance(value, int) else f"{finite(name, value):.6f}"
    remedy = ": say its unit, as unit: ms (or s, us, ns, auto)" if number and column.type == "timestamp" else ""
    raise Bad("type", f"{name} should be {column.type}, not {kind(value)}{remedy}")


def kind(value: Any) -> str:
    """Returns what a value is, in words."""
    kinds = {
        dict: "an object",
        list: "an array",
        str: "text",
        bool: "a bool",
        type(None): "null",
        Huge: "a number",
        NoNumber: "NaN",
    }
    return kinds.get(type(value), "a number")
