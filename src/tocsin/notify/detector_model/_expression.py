"""The expression language of AWS IoT Events: parsed once, compiled to closures; never `eval`.

What the operators and functions do stands in `_values`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from tocsin.errors import ConfigError, UnknownName
from tocsin.notify.detector_model._values import (
    FUNCTIONS,
    LEVELS,
    TEXT_MAX,
    UNARY,
    UNDEFINED,
    UNEQUAL,
    EvaluationError,
    Undefined,
    Value,
    bounded,
    is_number,
    needs,
    negative,
    require_boolean,
    text_of,
)

DEPTH_MAX: Final = 32
"""Deepest nesting of an expression."""
OPERATORS_MAX: Final = 300
"""Most operators in one expression (the service takes conditions of at most 512 characters)."""


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
        """Returns whether a timer has run out; true once."""


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
        """Returns its value as a condition: whatever is not true is false."""
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
    """Returns a path as one name: ``sensorData.temperatures[2]``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


# -------------------------------------------------------------------------------------------------------------- parser

_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"\d+(\.\d+)?([eE][-+]?\d{1,3})?|\.\d+([eE][-+]?\d{1,3})?")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r"&&|\|\||==|!=|<=|>=|[|^&<>+\-*/]")
_INDEX = re.compile(r"\[\s*(\d{1,9})\s*\]")
_ASKING = ("timeout", "triggerType", "currentInput", "isNull", "isUndefined")
_BY_SMALL_LETTERS = {name.lower(): name for name in (*FUNCTIONS, *_ASKING)}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


class _Parser:
    """Recursive descent over the text; every method leaves ``at`` behind what it read and returns a closure."""

    def __init__(self, text: str, target: Expression, null_is_absent: bool) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.operators = 0
        self.target = target
        self.null_is_absent = null_is_absent

    def whole(self) -> Closure:
        closure = self._or()
        self._space()
        if self.at < len(self.text):
            raise self._wrong("there is more than one expression, or an operator is missing")
        return closure

    def plain_text(self) -> Closure:
        """Returns text without quotes, in which ``${...}`` is replaced."""
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
        """Returns the operator that follows, or nothing."""
        self._space()
        operator = _OPERATOR.match(self.text, self.at)
        return operator[0] if operator else ""

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
        if level == len(LEVELS):
            return self._unary()
        left = self._level(level + 1)
        while (sign := self._peek()) in LEVELS[level]:
            self.at += len(sign)
            self._count()
            left = _apply(LEVELS[level][sign], left, self._level(level + 1))
        return left

    def _unary(self) -> Closure:
        signs = []
        while True:
            self._space()
            sign = self.text[self.at : self.at + 1]
            if sign not in UNARY:
                break
            signs.append(UNARY[sign])
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
            return bounded(value)  # type: ignore[no-any-return]
        except EvaluationError as error:
            raise self._wrong(f"the number {text[:30]} is too large ({error})") from None

    def _pieces(self, quote: str | None) -> Closure:
        """Returns the rest of a text up to its quote (or the end): plain pieces and ``${expression}``."""
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
            self.target.inputs.add(name)
            self.target.references.add((name, tuple(path)))
            return _input(name, path_text(tuple(path)))
        if self._skip("$variable."):
            name = self._identifier()
            self.target.variables.add(name)
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
        wanted = FUNCTIONS[name][0] if name in FUNCTIONS else 1
        if len(arguments) != wanted:
            raise self._wrong(f"{name}() takes {wanted} argument{'s' if wanted > 1 else ''}, not {len(arguments)}")
        if name in FUNCTIONS:
            function = FUNCTIONS[name][1]
            return _apply(function, *arguments) if wanted == 2 else _apply_one(function, *arguments)
        return self._ask(name, arguments[0])

    def _type_word(self) -> Closure:
        """Returns the first argument of convert(): a bare word, or an expression that gives it."""
        self._space()
        word = _IDENTIFIER.match(self.text, self.at)
        if word and word[0].lower() in ("string", "boolean", "decimal"):
            self.at = word.end()
            return _constant(word[0])
        return self._or()

    def _ask(self, name: str, argument: Closure) -> Closure:
        """Returns the functions that look at the detector rather than at values alone."""
        absent_too = self.null_is_absent
        match name:
            case "isUndefined":
                return lambda s: (v := argument(s)).__class__ is Undefined or (absent_too and v is None)
            case "isNull":
                return lambda s: argument(s) is None
            case "timeout":
                constant = getattr(argument, "constant", None)
                if isinstance(constant, str):
                    self.target.timers.add(constant)
                return lambda s: s.elapsed(_text(argument(s), "timeout()"))
            case "triggerType":
                return lambda s: _text(argument(s), "triggerType()").lower() == s.trigger.lower()
            case _:
                constant = getattr(argument, "constant", None)
                if isinstance(constant, str):
                    self.target.inputs.add(constant)
                return lambda s: _text(argument(s), "currentInput()") == s.current


def _text(value: Value, function: str) -> str:
    return value if isinstance(value, str) else needs(function, "a String", value)


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
    if hasattr(argument, "constant") and function is negative:
        return _constant(-argument.constant) if is_number(argument.constant) else lambda s: function(argument(s))
    return lambda scope: function(argument(scope))


def _joined(pieces: Sequence[str | Closure]) -> Closure:
    def evaluate(scope: Scope) -> Value:
        text = "".join([piece if isinstance(piece, str) else text_of(piece(scope)) for piece in pieces])
        if len(text) > TEXT_MAX:
            raise EvaluationError(f"the text is longer than {TEXT_MAX} characters")
        return text

    return evaluate


def _both(left: Closure, right: Closure) -> Closure:
    def evaluate(scope: Scope) -> Value:
        a = left(scope)
        if a is False:
            return False
        if a is not True and a is not UNEQUAL:
            require_boolean(a, "&&")
            return UNDEFINED
        b = right(scope)
        if b is True:
            return a
        require_boolean(b, "&&")
        return b

    return evaluate


def _either(left: Closure, right: Closure) -> Closure:
    def evaluate(scope: Scope) -> Value:
        a = left(scope)
        if a is True:
            return True
        require_boolean(a, "||")
        b = right(scope)
        if b is True:
            return True
        require_boolean(b, "||")
        return False

    return evaluate
