"""The expression language of AWS IoT Events: parsed once, compiled to closures; never `eval`.

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
from typing import Any, Final, NoReturn, Protocol

from tocsin.errors import ConfigError, UnknownName

INTEGER_MAX: Final = 2**63 - 1
TEXT_MAX: Final = 65_536
"""Longest text that an expression may make: a variable that is added to itself must not fill the memory."""
DEPTH_MAX: Final = 32
"""Deepest nesting of an expression."""
OPERATORS_MAX: Final = 300
"""Most operators in one expression (the service takes conditions of at most 512 characters)."""


class Undefined:
    """Data that is not there; one object."""

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED: Final = Undefined()
UNEQUAL: Final = Undefined()
"""What ``!=`` gives for undefined data: true as a condition, false as part of ``||``."""


class EvaluationError(Exception):
    """An expression that cannot be evaluated for this message; the text says why."""


class ExpressionError(ConfigError):
    """An expression that is not of the language; the text says where and why."""


class Scope(Protocol):
    """What an expression may look at."""

    variables: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    """By input, the referenced attributes of its last message, by path."""
    trigger: str
    current: str | None

    def elapsed(self, timer: str) -> bool:
        """Whether a timer has run out; true once."""


Value = Any  # int, float, str, bool, UNDEFINED, UNEQUAL, None (JSON null), or a list or mapping of a message
Closure = Callable[[Scope], Value]
Path = tuple[str | int, ...]


class Expression:
    """A compiled expression, and what it refers to."""

    __slots__ = ("evaluate", "inputs", "references", "text", "timers", "variables")

    def __init__(self, text: str, *, null_is_absent: bool = False) -> None:
        self.text = text
        self.references: set[tuple[str, Path]] = set()
        self.inputs: set[str] = set()
        self.variables: set[str] = set()
        self.timers: set[str] = set()
        self.evaluate: Closure = _Parser(text, self, null_is_absent).whole()

    def is_true(self, scope: Scope) -> bool:
        """As a condition: whatever is not true is false."""
        value = self.evaluate(scope)
        return value is True or value is UNEQUAL


class Template(Expression):
    """A parameter of an action: an expression if written as one, else plain text in which ``${...}`` is replaced."""

    __slots__ = ()

    def __init__(self, text: str, *, null_is_absent: bool = False) -> None:
        if _WRITTEN_AS_EXPRESSION.match(text):
            super().__init__(text, null_is_absent=null_is_absent)
            return
        self.text = text
        self.references, self.inputs, self.variables, self.timers = set(), set(), set(), set()
        self.evaluate = _Parser(text, self, null_is_absent).plain_text()


_WRITTEN_AS_EXPRESSION = re.compile(r"\s*(['\"]|\$input\.|\$variable\.|[A-Za-z]+\()")


def path_text(path: Path) -> str:
    """A path as one name: ``sensorData.temperatures[2]``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def type_name(value: Value) -> str:
    """The service's word for a value's type."""
    if isinstance(value, bool):
        return "Boolean"
    names = {int: "Integer", float: "Decimal", str: "String", type(None): "null", Undefined: "undefined"}
    return names.get(type(value), "JSON")


def text_of(value: Value) -> str:
    """A value as it stands in a text."""
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


def _absent(value: Value) -> bool:
    return value is None or value.__class__ is Undefined


def _is_number(value: Value) -> bool:
    return value.__class__ is int or value.__class__ is float


def _incompatible(sign: str, a: Value, b: Value) -> NoReturn:
    raise EvaluationError(f"the types {type_name(a)} and {type_name(b)} do not go together with {sign}")


def _bounded(value: Value) -> Value:
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
            return _bounded(combine(a, b))
        return UNDEFINED if _absent(a) or _absent(b) else _incompatible(name, a, b)

    return apply


def _ordered(name: str, compare: Callable[[Any, Any], bool]) -> Callable[[Value, Value], Value]:
    def apply(a: Value, b: Value) -> Value:
        left, right = a.__class__, b.__class__
        if ((left is float or left is int) and (right is float or right is int)) or (left is str and right is str):
            return compare(a, b)
        return UNDEFINED if _absent(a) or _absent(b) else _incompatible(name, a, b)

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
    return (_is_number(a) and _is_number(b)) or (a.__class__ is b.__class__ and a.__class__ in (str, bool))


def _equal(a: Value, b: Value) -> Value:
    if _comparable(a, b):
        return a == b
    return False if _absent(a) or _absent(b) else _incompatible("==", a, b)


def _unequal(a: Value, b: Value) -> Value:
    if _comparable(a, b):
        return a != b
    return UNEQUAL if _absent(a) or _absent(b) else _incompatible("!=", a, b)


def _bitwise(sign: str, combine: Callable[[int, int], int]) -> Callable[[Value, Value], Value]:
    def apply(a: Value, b: Value) -> Value:
        if a.__class__ is int and b.__class__ is int:
            return combine(a, b)
        return UNDEFINED if _absent(a) or _absent(b) else _incompatible(sign, a, b)

    return apply


_or_bits, _xor_bits, _and_bits = (
    _bitwise("|", operator.or_),
    _bitwise("^", operator.xor),
    _bitwise("&", operator.and_),
)

# Loosest first. && and || are compiled on their own, because they look at their right side only when they must.
_LEVELS: Sequence[dict[str, Callable[[Value, Value], Value]]] = (
    {"|": _or_bits},
    {"^": _xor_bits},
    {"&": _and_bits},
    {"==": _equal, "!=": _unequal},
    {"<=": _less_or_equal, ">=": _greater_or_equal, "<": _less, ">": _greater},
    {"+": _add, "-": _subtract},
    {"*": _multiply, "/": _divide},
)


def _truth(value: Value, sign: str) -> None:
    """Refuse what is neither a Boolean nor absent."""
    if value.__class__ is not bool and not _absent(value):
        raise EvaluationError(f"{sign} needs Booleans, not {type_name(value)}")


def _both(left: Closure, right: Closure) -> Closure:
    def evaluate(scope: Scope) -> Value:
        a = left(scope)
        if a is False:
            return False
        if a is not True and a is not UNEQUAL:
            _truth(a, "&&")
            return UNDEFINED
        b = right(scope)
        if b is True:
            return a
        _truth(b, "&&")
        return b

    return evaluate


def _either(left: Closure, right: Closure) -> Closure:
    def evaluate(scope: Scope) -> Value:
        a = left(scope)
        if a is True:
            return True
        _truth(a, "||")
        b = right(scope)
        if b is True:
            return True
        _truth(b, "||")
        return False

    return evaluate


def _not(value: Value) -> Value:
    if value.__class__ is bool:
        return not value
    return UNDEFINED if _absent(value) else _needs("!", "a Boolean", value)


def _negative(value: Value) -> Value:
    if _is_number(value):
        return _bounded(-value)
    return UNDEFINED if _absent(value) else _needs("-", "a number", value)


def _not_bits(value: Value) -> Value:
    if value.__class__ is int:
        return ~value
    return UNDEFINED if _absent(value) else _needs("~", "an Integer", value)


def _needs(what: str, wanted: str, value: Value) -> NoReturn:
    raise EvaluationError(f"{what} needs {wanted}, not {type_name(value)}")


_UNARY: dict[str, Callable[[Value], Value]] = {"!": _not, "-": _negative, "~": _not_bits}

# ----------------------------------------------------------------------------------------------------------- functions


def _convert(kind: Value, value: Value) -> Value:
    if _absent(value):
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
        if _is_number(value):
            return value
        if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
            return _bounded(float(value))
    if wanted not in ("string", "boolean", "decimal"):
        raise EvaluationError(f"convert() makes a String, Boolean or Decimal, not {kind!r}")
    raise EvaluationError(f"convert() cannot make a {kind} of the {type_name(value)} {str(value)[:40]!r}")


_DECIMAL = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?")


def _of_strings(test: Callable[[str, str], bool]) -> Callable[[Value, Value], Value]:
    return lambda a, b: test(a, b) if isinstance(a, str) and isinstance(b, str) else UNDEFINED


def _of_integers(combine: Callable[[int, int], int]) -> Callable[[Value, Value], Value]:
    return lambda a, b: combine(a, b) if a.__class__ is int and b.__class__ is int else UNDEFINED


_FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "convert": (2, _convert),
    "startsWith": (2, _of_strings(str.startswith)),
    "endsWith": (2, _of_strings(str.endswith)),
    "contains": (2, _of_strings(str.__contains__)),
    "bitor": (2, _of_integers(operator.or_)),
    "bitand": (2, _of_integers(operator.and_)),
    "bitxor": (2, _of_integers(operator.xor)),
    "bitnot": (1, lambda a: ~a if a.__class__ is int else UNDEFINED),
}
_ASKING = ("timeout", "triggerType", "currentInput", "isNull", "isUndefined")
_BY_SMALL_LETTERS = {name.lower(): name for name in (*_FUNCTIONS, *_ASKING)}

# -------------------------------------------------------------------------------------------------------------- parser

_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"\d+(\.\d+)?([eE][-+]?\d{1,3})?|\.\d+([eE][-+]?\d{1,3})?")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r"&&|\|\||==|!=|<=|>=|[|^&<>+\-*/]")
_INDEX = re.compile(r"\[\s*(\d{1,9})\s*\]")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


class _Parser:
    """Recursive descent over the text; every method leaves ``at`` behind what it read and returns a closure."""

    def __init__(self, text: str, found: Expression, null_is_absent: bool) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.operators = 0
        self.found = found
        self.null_is_absent = null_is_absent

    def whole(self) -> Closure:
        closure = self._or()
        self._space()
        if self.at < len(self.text):
            raise self._wrong("there is more than one expression, or an operator is missing")
        return closure

    def plain_text(self) -> Closure:
        """Text without quotes, in which ``${...}`` is replaced."""
        return self._pieces(None)

    def _wrong(self, why: str) -> ExpressionError:
        return ExpressionError(f"{why}, at position {self.at} of: {self.text[:200]}")

    def _count(self) -> None:
        self.operators += 1
        if self.operators > OPERATORS_MAX:
            raise self._wrong(f"it has more than {OPERATORS_MAX} operators")

    def _space(self) -> None:
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # it always matches

    def _peek(self) -> str:
        """The operator that follows, or nothing."""
        self._space()
        found = _OPERATOR.match(self.text, self.at)
        return found[0] if found else ""

    def _skip(self, wanted: str) -> bool:
        self._space()
        if self.text.startswith(wanted, self.at):
            self.at += len(wanted)
            return True
        return False

    def _expect(self, wanted: str) -> None:
        if not self._skip(wanted):
            raise self._wrong(f"here '{wanted}' is missing")

    def _or(self) -> Closure:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise self._wrong(f"it is nested deeper than {DEPTH_MAX} levels")
        left = self._and()
        while self._peek() == "||":
            self.at += 2
            self._count()
            left = _either(left, self._and())
        self.depth -= 1
        return left

    def _and(self) -> Closure:
        left = self._level(0)
        while self._peek() == "&&":
            self.at += 2
            self._count()
            left = _both(left, self._level(0))
        return left

    def _level(self, level: int) -> Closure:
        if level == len(_LEVELS):
            return self._unary()
        left = self._level(level + 1)
        while (sign := self._peek()) in _LEVELS[level]:
            self.at += len(sign)
            self._count()
            left = _apply(_LEVELS[level][sign], left, self._level(level + 1))
        return left

    def _unary(self) -> Closure:
        signs = []
        while True:
            self._space()
            sign = self.text[self.at : self.at + 1]
            if sign not in _UNARY:
                break
            signs.append(_UNARY[sign])
            self._count()
            self.at += 1
        closure = self._primary()
        for apply in reversed(signs):
            closure = _apply_one(apply, closure)
        return closure

    def _primary(self) -> Closure:
        first = self.text[self.at : self.at + 1]
        if first == "(":
            self.at += 1
            closure = self._or()
            self._expect(")")
            return closure
        if first in ("'", '"'):
            self.at += 1
            return self._pieces(first)
        if first == "$":
            return self._reference()
        if number := _NUMBER.match(self.text, self.at):
            self.at = number.end()
            return _constant(self._number(number[0]))
        if word := _IDENTIFIER.match(self.text, self.at):
            self.at = word.end()
            if word[0].lower() in ("true", "false"):
                return _constant(word[0].lower() == "true")
            return self._call(word[0])
        raise self._wrong("here a value is missing" if first in ("", ")", ",") else f"'{first}' cannot stand here")

    def _number(self, text: str) -> int | float:
        value = int(text) if text.isdigit() and len(text) < 20 else float(text)
        try:
            return _bounded(value)  # type: ignore[no-any-return]
        except EvaluationError as error:
            raise self._wrong(f"the number {text[:30]} is too large ({error})") from None

    def _pieces(self, quote: str | None) -> Closure:
        """The rest of a text up to its quote (or the end): plain pieces and ``${expression}``."""
        pieces: list[str | Closure] = []
        plain: list[str] = []
        while True:
            char = self.text[self.at : self.at + 1]
            if char == "":
                if quote:
                    raise self._wrong(f"the text that begins with {quote} has no end")
                break
            if char == quote:
                self.at += 1
                break
            if self.text.startswith("${", self.at):
                self.at += 2
                pieces += ["".join(plain), self._or()]
                plain = []
                self._expect("}")
            elif char == "\\" and quote:
                escaped = self.text[self.at + 1 : self.at + 2]
                plain.append(_ESCAPES.get(escaped, escaped))
                self.at += 2
            else:
                plain.append(char)
                self.at += 1
        if not pieces:
            return _constant("".join(plain))
        return _joined([*pieces, "".join(plain)])

    def _reference(self) -> Closure:
        if self._skip("$input."):
            name = self._identifier()
            path: list[str | int] = []
            while True:
                if index := _INDEX.match(self.text, self.at):
                    path.append(int(index[1]))
                    self.at = index.end()
                elif self.text.startswith(".", self.at):
                    self.at += 1
                    path.append(self._identifier())
                else:
                    break
            self.found.inputs.add(name)
            self.found.references.add((name, tuple(path)))
            return _input(name, path_text(tuple(path)))
        if self._skip("$variable."):
            name = self._identifier()
            self.found.variables.add(name)
            return lambda scope: scope.variables.get(name, UNDEFINED)
        raise self._wrong("a reference begins with $input. or $variable.")

    def _identifier(self) -> str:
        if self.text.startswith("`", self.at):
            end = self.text.find("`", self.at + 1)
            if end <= self.at + 1:
                raise self._wrong("a name in backticks has no end, or is empty")
            name, self.at = self.text[self.at + 1 : end], end + 1
            return name
        word = _IDENTIFIER.match(self.text, self.at)
        if not word:
            raise self._wrong("here a name is missing (other characters than letters, digits and _ need backticks)")
        self.at = word.end()
        return word[0]

    def _call(self, word: str) -> Closure:
        name = _BY_SMALL_LETTERS.get(word.lower())
        if not self._skip("("):
            raise self._wrong(f"'{word}' is no value; text stands in quotes, a variable begins with $variable.")
        if name is None:
            raise ExpressionError(f"{UnknownName('function', word, _BY_SMALL_LETTERS.values())}, in: {self.text[:200]}")
        arguments: list[Closure] = []
        while not self._skip(")"):
            if arguments:
                self._expect(",")
            arguments.append(self._type_word() if name == "convert" and not arguments else self._or())
        wanted = _FUNCTIONS[name][0] if name in _FUNCTIONS else 1
        if len(arguments) != wanted:
            raise self._wrong(f"{name}() takes {wanted} argument{'s' if wanted > 1 else ''}, not {len(arguments)}")
        if name in _FUNCTIONS:
            function = _FUNCTIONS[name][1]
            return _apply(function, *arguments) if wanted == 2 else _apply_one(function, *arguments)
        return self._ask(name, arguments[0])

    def _type_word(self) -> Closure:
        """The first argument of convert(): a bare word, or an expression that gives it."""
        self._space()
        word = _IDENTIFIER.match(self.text, self.at)
        if word and word[0].lower() in ("string", "boolean", "decimal"):
            self.at = word.end()
            return _constant(word[0])
        return self._or()

    def _ask(self, name: str, argument: Closure) -> Closure:
        """The functions that look at the detector rather than at values alone."""
        absent_too = self.null_is_absent
        match name:
            case "isUndefined":
                return lambda s: (v := argument(s)).__class__ is Undefined or (absent_too and v is None)
            case "isNull":
                return lambda s: argument(s) is None
            case "timeout":
                constant = getattr(argument, "constant", None)
                if isinstance(constant, str):
                    self.found.timers.add(constant)
                return lambda s: s.elapsed(_text(argument(s), "timeout()"))
            case "triggerType":
                return lambda s: _text(argument(s), "triggerType()").lower() == s.trigger.lower()
            case _:
                constant = getattr(argument, "constant", None)
                if isinstance(constant, str):
                    self.found.inputs.add(constant)
                return lambda s: _text(argument(s), "currentInput()") == s.current


def _text(value: Value, function: str) -> str:
    return value if isinstance(value, str) else _needs(function, "a String", value)


def _constant(value: Value) -> Closure:
    def evaluate(scope: Scope) -> Value:
        return value

    evaluate.constant = value  # type: ignore[attr-defined]
    return evaluate


def _input(name: str, path: str) -> Closure:
    def evaluate(scope: Scope) -> Value:
        message = scope.inputs.get(name)
        return UNDEFINED if message is None else message.get(path, UNDEFINED)

    return evaluate


def _apply(function: Callable[[Value, Value], Value], left: Closure, right: Closure) -> Closure:
    if hasattr(right, "constant"):
        value = right.constant
        return lambda scope: function(left(scope), value)
    return lambda scope: function(left(scope), right(scope))


def _apply_one(function: Callable[[Value], Value], argument: Closure) -> Closure:
    if hasattr(argument, "constant") and function is _negative:
        return _constant(-argument.constant) if _is_number(argument.constant) else lambda s: function(argument(s))
    return lambda scope: function(argument(scope))


def _joined(pieces: Sequence[str | Closure]) -> Closure:
    def evaluate(scope: Scope) -> Value:
        text = "".join([piece if isinstance(piece, str) else text_of(piece(scope)) for piece in pieces])
        if len(text) > TEXT_MAX:
            raise EvaluationError(f"the text is longer than {TEXT_MAX} characters")
        return text

    return evaluate
