"""The expression language of detector models, against what the service's guide says of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.notify.detector_model._expression import (
    DEPTH_MAX,
    OPERATORS_MAX,
    Expression,
    ExpressionError,
    Template,
    path_text,
)
from tocsin.notify.detector_model._values import UNDEFINED, EvaluationError


class Given:
    """A scope with one input, some variables, and a timer that has run out."""

    def __init__(self, trigger: str = "Message", current: str | None = "In") -> None:
        self.variables: dict[str, Any] = {"n": 7, "x": 2.5, "s": "abc", "b": True, "kind": "Decimal", "a b": 1}
        self.inputs = {
            "In": {"i": 13, "five": 5, "d": 10.01, "t": "offline", "nothing": None, "list[1]": 4, "o.p": "deep"},
            "With space": {"motor id": "A32"},
        }
        self.trigger = trigger
        self.current = current
        self.due = {"t1"}

    def elapsed(self, timer: str) -> bool:
        found = timer in self.due
        self.due.discard(timer)
        return found


def value(text: str, scope: Given | None = None, **settings: Any) -> Any:
    return Expression(text, **settings).evaluate(scope or Given())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # literals
        ("12", 12), ("1.5", 1.5), ("1e3", 1000.0), ("true", True), ("FALSE", False), ("'a'", "a"), ('"a"', "a"),
        (r'"say \"hi\""', 'say "hi"'), ("''", ""), (" 'it''", None),
        # arithmetic
        ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("7 - 2 - 1", 4), ("-3 + 1", -2), ("- -3", 3), ("2 * -3", -6),
        ("7 / 2", 3), ("-7 / 2", -3), ("9 / 3", 3), ("7 / 2.0", 3.5), ("7.0 / 2", 3.5), ("1.0 * 7 / 2", 3.5),
        ("1 + 0.5", 1.5), ("$variable.n + 1", 8), ("$variable.n / 2", 3),
        # text
        ("'my' + 'string'", "mystring"), ("$variable.s + 'd'", "abcd"),
        # bits
        ("13 | 5", 13), ("13 & 5", 5), ("13 ^ 5", 8), ("~13", -14), ("1 | 2 ^ 2 & 3", 1),
        ("bitor($input.In.i, $input.In.five)", 13), ("bitand(13, 5)", 5), ("bitxor(13, 5)", 8), ("bitnot(13)", -14),
        ("bitor(1.5, 2)", UNDEFINED), ("bitnot('x')", UNDEFINED),
        # comparison
        ("1 < 2", True), ("2 <= 2", True), ("1 == 1.0", True), ("'a' == \"a\"", True), ("'a' < 'b'", True),
        ("true == true", True), ("1 != 2", True), ("$input.In.d >= 10", True), ("1 + 1 == 2 && 3 > 2", True),
        # Boolean
        ("!true", False), ("!!true", True), ("true && false", False), ("false || true", True),
        ("true || false && false", True), ("!(1 > 2)", True),
        # functions
        ("startsWith($input.In.t, \"off\")", True), ("endsWith($input.In.t, 'line')", True),
        ("contains($input.In.t, 'fli')", True), ("contains('abc', 'x')", False), ("startsWith(1, 'a')", UNDEFINED),
        ("convert(String, true)", "true"), ("convert(String, 1.5)", "1.5"), ("convert(String, 12)", "12"),
        ("convert(Boolean, 'false')", False), ("convert(Decimal, '12.5')", 12.5),
        ("convert($variable.kind, '1.5') + 1", 2.5), ("convert('String', 1)", "1"),
        ("isNull($input.In.nothing)", True), ("isNull($input.In.absent)", False), ("isNull($input.In.i)", False),
        ("isUndefined($input.In.nothing)", False), ("isUndefined($input.In.absent)", True),
        ("isUndefined($variable.never)", True), ("isUndefined($variable.n)", False),
        ("isUndefined($variable.never + 1)", True), ("isNull($input.In.nothing) == false", False),
        ("triggerType(\"Message\")", True), ("triggerType('Timer')", False), ("triggerType(\"MESSAGE\")", True),
        ("currentInput(\"In\")", True), ("currentInput('Other')", False), ("timeout(\"t1\")", True),
        ("timeout('t2')", False),
        # references
        ("$input.In.list[1]", 4), ("$input.In.o.p", "deep"), ("$input.`With space`.`motor id`", "A32"),
        ("$variable.`a b` + 1", 2),
        # templates
        ("'${$input.In.d * 9 / 5 + 32} in Fahrenheit'", "50.018 in Fahrenheit"),
        ("'a ${1 + 1} b ${true}'", "a 2 b true"), ("'${'in' + 'ner'}!'", "inner!"),
        ("'{\"id\": \"${$variable.s}\", \"n\": ${$variable.n}}'", '{"id": "abc", "n": 7}'),
        ("'Table ' + $variable.s", "Table abc"),
    ],
)  # fmt: skip
def test_values(text: str, wanted: Any) -> None:
    if wanted is None:
        with pytest.raises(ExpressionError):
            Expression(text)
        return
    found = value(text)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    "text",
    [
        "1 / 0", "1.0 / 0", "0 / 0.0", "1 + 'a'", "'a' - 'b'", "true + false", "'a' > 1", "1 == 'a'", "true != 1",
        "!5", "-'a'", "~1.5", "1 && true", "'x' || true", "1.5 | 2", "convert(Decimal, 'abc')",
        "convert(Boolean, 'yes')",
        "convert(Decimal, true)", "convert('Integer', '1')", "timeout(5)",
        "9223372036854775807 + 1", "1e308 * 10", "'${$variable.never}'",
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_says_so_and_is_not_true(text: str) -> None:
    with pytest.raises(EvaluationError, match=r"\w{3}"):
        value(text)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("$variable.never > 1", False),
        ("$variable.never == 1", False),
        ("$variable.never != $variable.never", True),  # how the service's templates ask whether it was ever set
        ("$variable.n != $variable.n", False),
        ("!$variable.never", False),
        ("$variable.never > 1 || true", True),
        ("true || $variable.never > 1", True),
        ("$variable.never > 1 || $variable.never < 1", False),
        ("$variable.never != 1 || false", False),  # "that subexpression is treated as false"
        ("$variable.never != 1 && true", True),
        ("true && $variable.never", False),
        ("$variable.never && true", False),
        ("$input.Unheard.a > 1", False),
        ("$input.In.nothing > 1", False),
        ("$input.In.nothing == 1", False),
        ("$variable.n", False),  # not a Boolean: equivalent to false
        ("'true'", False),
    ],
)
def test_conditions_with_undefined_data(text: str, holds: bool) -> None:
    assert Expression(text).is_true(Given()) is holds


def test_a_timeout_is_true_once_and_lost_if_it_was_looked_at() -> None:
    scope = Given()
    both = Expression("timeout('t1') && $input.In.i > 100")
    assert not both.is_true(scope)
    assert not Expression("timeout('t1')").is_true(scope)
    late = Given()
    assert not Expression("$input.In.i > 100 && timeout('t1')").is_true(late)
    assert Expression("timeout('t1')").is_true(late), "the right side is not looked at when the left is false"


def test_a_null_cell_is_both_null_and_undefined() -> None:
    assert value("isUndefined($input.In.nothing)", null_is_absent=True) is True
    assert value("isNull($input.In.nothing)", null_is_absent=True) is True
    assert value("isUndefined($input.In.i)", null_is_absent=True) is False


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a value is missing"),
        ("1 +", "a value is missing"),
        ("(1", r"'\)' is missing"),
        ("1)", "more than one expression"),
        ("1 2", "more than one expression"),
        ("'abc", "has no end"),
        ("'${1'", "'}' is missing"),
        ("abc", "'abc' is no value"),
        ("$var.x", r"begins with \$input"),
        ("$input.In.", "a name is missing"),
        ("$input.In.``", "backticks"),
        ("contans('a', 'b')", "did you mean 'contains'"),
        ("contains('a')", "takes 2 arguments, not 1"),
        ("isNull()", "takes 1 argument, not 0"),
        ("1 % 2", "more than one expression"),
        ("99999999999999999999999", None),
        ("9" * 400, "too large"),
        ("(" * (DEPTH_MAX + 1) + "1" + ")" * (DEPTH_MAX + 1), "deeper than"),
        ("1" + "+1" * (OPERATORS_MAX + 1), "operators"),
        ("!" * (OPERATORS_MAX + 1) + "true", "operators"),
    ],
)
def test_mistakes_are_told_with_their_place(text: str, says: str | None) -> None:
    if says is None:
        assert Expression(text).evaluate(Given()) == 1e23
        return
    with pytest.raises(ExpressionError, match=says):
        Expression(text)


def test_parameters_may_be_plain_text_or_expressions() -> None:
    found = {text: Template(text).evaluate(Given()) for text in (
        "hvac/Heating/On", "Device_stolen", "arn:aws:sns:us-east-1:1:Topic", "plant/${$variable.s}/x", "$variable.s",
        "'topic/' + $variable.s", "123", 'convert(String, $variable.n)',
    )}  # fmt: skip
    assert list(found.values()) == [
        "hvac/Heating/On", "Device_stolen", "arn:aws:sns:us-east-1:1:Topic", "plant/abc/x", "abc", "topic/abc", "123",
        "7",
    ]  # fmt: skip


def test_what_it_refers_to_is_known() -> None:
    found = Expression("$input.A.b[0].c > $variable.v && timeout('t') && currentInput('B') && '${$input.C.d}' == 'x'")
    assert {(name, path_text(path)) for name, path in found.references} == {("A", "b[0].c"), ("C", "d")}
    assert found.inputs == {"A", "B", "C"}
    assert found.variables == {"v"}
    assert found.timers == {"t"}


SIGNS = """1 2.5 'a' "b" true ( ) + - * / < > <= >= == != && || ! ~ | & ^ , . [0] ${ } ' " ` $ \\ 1e999 é 🙂"""
NAMES = ["$input.In.i", "$variable.n", "$variable.never", "timeout(", "convert(", "isNull(", "contains(", "String"]
WORDS = st.sampled_from([*SIGNS.split(), *NAMES, " "])


@given(
    st.one_of(
        st.text(max_size=60), st.lists(WORDS, max_size=25).map(" ".join), st.lists(WORDS, max_size=25).map("".join)
    )
)
def test_no_text_does_more_than_be_refused(text: str) -> None:
    for kind in (Expression, Template):
        try:
            compiled = kind(text)
        except ExpressionError:
            continue
        try:
            found = compiled.evaluate(Given())
        except EvaluationError:
            continue
        assert found is None or found.__class__.__name__ in ("int", "float", "str", "bool", "Undefined", "list", "dict")


NUMBERS = st.one_of(st.integers(-(10**6), 10**6), st.floats(-1e6, 1e6).map(lambda x: round(x, 3)))


@given(NUMBERS, NUMBERS, st.sampled_from(["+", "-", "*", "/", "<", "<=", ">", ">=", "==", "!="]))
def test_numbers_behave_as_in_a_scalar_reference(a: float, b: float, operator: str) -> None:
    scope = Given()
    scope.variables |= {"a": a, "c": b}
    text = f"$variable.a {operator} $variable.c"
    if operator == "/" and b == 0:
        with pytest.raises(EvaluationError, match="division by zero"):
            value(text, scope)
        return
    whole = isinstance(a, int) and isinstance(b, int)
    reference = {
        "+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b,
        "/": lambda: int(abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1) if whole else a / b,
        "<": lambda: a < b, "<=": lambda: a <= b, ">": lambda: a > b, ">=": lambda: a >= b,
        "==": lambda: a == b, "!=": lambda: a != b,
    }[operator]()  # fmt: skip
    found = value(text, scope)
    assert found == reference
    assert type(found) is type(reference)
