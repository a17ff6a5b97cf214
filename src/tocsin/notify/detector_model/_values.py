"""What expressions of AWS IoT Events compute with: values, operators and functions.

Written after the service's developer guide ("Expressions"). Where the guide leaves a choice, the choice is this:

- Integer division drops the fraction (7 / 2 is 3, -7 / 2 is -3); with a decimal on either side nothing is dropped.
- Undefined data (an attribute that did not come, a variable never set) makes arithmetic, order and ``!`` undefined; in
  ``&&``, and as a whole condition, undefined counts as false. ``==`` with it is false and ``!=`` is true: the service's
  own templates test ``$variable.x != $variable.x`` to learn whether x was ever set. As part of ``||`` a comparison with
  undefined data is false, ``!=`` as well, as the guide says.
- What cannot be evaluated at all (division by zero, a string compared with a number, a conversion that fails) raises
  `EvaluationError`: the condition counts as false, the action is left out, and the reason is reported.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

INTEGER_MAX: Final = 2**63 - 1
TEXT_MAX: Final = 65_536
"""Longest text that an expression may make: a variable that is added to itself must not fill the memory."""

Value = Any  # int, float, str, bool, UNDEFINED, UNEQUAL, None (JSON null), or a list or mapping of a message


class Undefined:
    """Data that is not there; one object."""

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED: Final = Undefined()
UNEQUAL: Final = Undefined()
"""What ``!=`` gives for undefined data: true as a condition, false as part of ``||``."""


class EvaluationError(Exception):
    """An expression that cannot be evaluated for this message; the text says why."""


def type_name(value: Value) -> str:
    """Returns the service's word for a value's type."""
    if isinstance(value, bool):
        return "Boolean"
    names = {int: "Integer", float: "Decimal", str: "String", type(None): "null", Undefined: "undefined"}
    return names.get(type(value), "JSON")


def text_of(value: Value) -> str:
    """Returns a value as it stands in a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if value is UNEQUAL:
        return "true"
    if value is None or value is UNDEFINED:
        raise EvaluationError("it has no value (undefined or null)")
    return json.dumps(value, ensure_ascii=False)


# ----------------------------------------------------------------------------------------------------------- operators


def absent(value: Value) -> bool:
    return value is None or value.__class__ is Undefined


def is_number(value: Value) -> bool:
    return value.__class__ is int or value.__class__ is float


def _incompatible(sign: str, a: Value, b: Value) -> NoReturn:
    raise EvaluationError(f"the types {type_name(a)} and {type_name(b)} do not go together with {sign}")


def bounded(value: Value) -> Value:
    if value.__class__ is int:
        if not -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
            raise EvaluationError("the result does not fit into 64 bits")
    elif value.__class__ is float and not math.isfinite(value):
        raise EvaluationError("the result is not a finite number")
    return value


def _arithmetic(name: str, combine: Callable[[Any, Any], Any]) -> Callable[[Value, Value], Value]:
    def apply(a: Value, b: Value) -> Value:
        left, right = a.__class__, b.__class__
        if (left is float or left is int) and (right is float or right is int):
            return bounded(combine(a, b))
        return UNDEFINED if absent(a) or absent(b) else _incompatible(name, a, b)

    return apply


def _ordered(name: str, compare: Callable[[Any, Any], bool]) -> Callable[[Value, Value], Value]:
    def apply(a: Value, b: Value) -> Value:
        left, right = a.__class__, b.__class__
        if ((left is float or left is int) and (right is float or right is int)) or (left is str and right is str):
            return compare(a, b)
        return UNDEFINED if absent(a) or absent(b) else _incompatible(name, a, b)

    return apply


_subtract, _multiply = _arithmetic("-", operator.sub), _arithmetic("*", operator.mul)
_add_numbers = _arithmetic("+", operator.add)
_less, _less_or_equal = _ordered("<", operator.lt), _ordered("<=", operator.le)
_greater, _greater_or_equal = _ordered(">", operator.gt), _ordered(">=", operator.ge)


def _add(a: Value, b: Value) -> Value:
    if a.__class__ is str and b.__class__ is str:
        if len(a) + len(b) > TEXT_MAX:
            raise EvaluationError(f"the text is longer than {TEXT_MAX} characters")
        return a + b
    return _add_numbers(a, b)


def _quotient(a: Any, b: Any) -> Any:
    if b == 0:
        raise EvaluationError("division by zero")
    if a.__class__ is int and b.__class__ is int:
        whole = abs(a) // abs(b)
        return whole if (a < 0) == (b < 0) else -whole
    return a / b


_divide = _arithmetic("/", _quotient)


def _comparable(a: Value, b: Value) -> bool:
    return (is_number(a) and is_number(b)) or (a.__class__ is b.__class__ and a.__class__ in (str, bool))


def _equal(a: Value, b: Value) -> Value:
    if _comparable(a, b):
        return a == b
    return False if absent(a) or absent(b) else _incompatible("==", a, b)


def _unequal(a: Value, b: Value) -> Value:
    if _comparable(a, b):
        return a != b
    return UNEQUAL if absent(a) or absent(b) else _incompatible("!=", a, b)


def _bitwise(sign: str, combine: Callable[[int, int], int]) -> Callable[[Value, Value], Value]:
    def apply(a: Value, b: Value) -> Value:
        if a.__class__ is int and b.__class__ is int:
            return combine(a, b)
        return UNDEFINED if absent(a) or absent(b) else _incompatible(sign, a, b)

    return apply


_or_bits, _xor_bits, _and_bits = (
    _bitwise("|", operator.or_),
    _bitwise("^", operator.xor),
    _bitwise("&", operator.and_),
)

# Loosest first. && and || are compiled on their own, because they look at their right side only when they must.
LEVELS: Sequence[dict[str, Callable[[Value, Value], Value]]] = (
    {"|": _or_bits},
    {"^": _xor_bits},
    {"&": _and_bits},
    {"==": _equal, "!=": _unequal},
    {"<=": _less_or_equal, ">=": _greater_or_equal, "<": _less, ">": _greater},
    {"+": _add, "-": _subtract},
    {"*": _multiply, "/": _divide},
)


def require_boolean(value: Value, sign: str) -> None:
    """Refuse what is neither a Boolean nor absent."""
    if value.__class__ is not bool and not absent(value):
        raise EvaluationError(f"{sign} needs Booleans, not {type_name(value)}")


def _not(value: Value) -> Value:
    if value.__class__ is bool:
        return not value
    return UNDEFINED if absent(value) else needs("!", "a Boolean", value)


def negative(value: Value) -> Value:
    if is_number(value):
        return bounded(-value)
    return UNDEFINED if absent(value) else needs("-", "a number", value)


def _not_bits(value: Value) -> Value:
    if value.__class__ is int:
        return ~value
    return UNDEFINED if absent(value) else needs("~", "an Integer", value)


def needs(what: str, wanted: str, value: Value) -> NoReturn:
    raise EvaluationError(f"{what} needs {wanted}, not {type_name(value)}")


UNARY: dict[str, Callable[[Value], Value]] = {"!": _not, "-": negative, "~": _not_bits}

# ----------------------------------------------------------------------------------------------------------- functions


def _convert(kind: Value, value: Value) -> Value:
    if absent(value):
        return UNDEFINED
    wanted = kind.lower() if isinstance(kind, str) else kind
    if wanted == "string" and value.__class__ in (bool, int, float, str):
        return text_of(value)
    if wanted == "boolean":
        if value.__class__ is bool:
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
    if wanted == "decimal":
        if is_number(value):
            return value
        if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
            return bounded(float(value))
    if wanted not in ("string", "boolean", "decimal"):
        raise EvaluationError(f"convert() makes a String, Boolean or Decimal, not {kind!r}")
    raise EvaluationError(f"convert() cannot make a {kind} of the {type_name(value)} {str(value)[:40]!r}")


_DECIMAL = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?")


def _of_strings(test: Callable[[str, str], bool]) -> Callable[[Value, Value], Value]:
    return lambda a, b: test(a, b) if isinstance(a, str) and isinstance(b, str) else UNDEFINED


def _of_integers(combine: Callable[[int, int], int]) -> Callable[[Value, Value], Value]:
    return lambda a, b: combine(a, b) if a.__class__ is int and b.__class__ is int else UNDEFINED


FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "convert": (2, _convert),
    "startsWith": (2, _of_strings(str.startswith)),
    "endsWith": (2, _of_strings(str.endswith)),
    "contains": (2, _of_strings(str.__contains__)),
    "bitor": (2, _of_integers(operator.or_)),
    "bitand": (2, _of_integers(operator.and_)),
    "bitxor": (2, _of_integers(operator.xor)),
    "bitnot": (1, lambda a: ~a if a.__class__ is int else UNDEFINED),
}
