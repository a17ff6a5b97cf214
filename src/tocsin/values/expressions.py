"""SQL expressions over the columns of a batch: parsed by a library, worked out by Arrow, never by ``eval``.

The rules are DuckDB's, but that nothing is ever an error once the types fit: what has no answer is null.

- ``/`` divides as floats; by zero gives null, as do ``//`` and ``%``. A root or logarithm that does not exist, an
  integer that does not fit, a text that cannot be cast: null.
- Null is unknown: it makes null of all it touches, but ``null and false`` is false and ``null or true`` is true.
- NaN is neither less, nor equal, nor more than anything.
- Names with other characters than letters, digits and ``_`` stand in double quotes: ``"Ax_J1.Position" > 3``.
- ``total('Ax_*')`` is the sum of all numeric columns whose name fits the pattern (``*`` any text, ``?`` one sign).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.batch import empty, floats
from tocsin.errors import ConfigError, SchemaError, UnknownName
from tocsin.values.conversion import TYPES, convert

Value = Any
"""An Arrow array, or a scalar where it does not depend on the row."""
Run = Callable[[pa.RecordBatch], Value]


@lru_cache(maxsize=1024)
def expression(text: str) -> Expression:
    """The expression of a text; the same one for the same text."""
    return Expression(text)


class Expression:
    """An SQL expression, ready to be worked out on any batch with its columns.

    Examples
    --------
    >>> from tocsin.testing import rows
    >>> expression("abs(z) > 1.29")(rows({"z": [1.0, -2.0, None]})).to_pylist()
    [False, True, None]
    """

    def __init__(self, text: str) -> None:
        import sqlglot
        from sqlglot.errors import SqlglotError

        try:
            tree = sqlglot.parse_one(text, dialect="duckdb")
        except SqlglotError as error:
            where = (getattr(error, "errors", None) or [{}])[0]
            said = where.get("description") or str(error)
            raise ConfigError(f"'{text}' is not an expression: {said} (column {where.get('col', '?')})") from error
        self.text = text
        self._run = _compile(tree)

    def __call__(self, rows: pa.RecordBatch) -> pa.Array:
        value = self._run(rows)
        if isinstance(value, pa.Scalar):
            return pa.repeat(value, rows.num_rows)
        return value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value

    def type_in(self, schema: pa.Schema) -> pa.DataType:
        """The type of its values, or a `SchemaError` that says what does not fit."""
        found = self(empty(schema)).type
        if pt.is_null(found):
            raise SchemaError(f"'{self.text}' is always null; give it a type: cast(null as double)")
        return found


def condition(text: str, schema: pa.Schema) -> Expression:
    """An expression that must be true or false."""
    found = expression(text)
    if not pt.is_boolean(kind := found.type_in(schema)):
        raise SchemaError(f"'{text}' must be true or false, it is {kind}; compare it with something")
    return found


# --------------------------------------------------------------------------------------------------------- compiling


def _compile(node: Any) -> Run:
    """A tree of the parser as a tree of functions."""
    if node.key in _NODES:
        return _NODES[node.key](node)
    if node.key in _FUNCTIONS:
        return _call(node, _FUNCTIONS[node.key], *_arguments(node))
    if hasattr(node, "sql_name"):  # a function that the parser knows, but not we
        raise UnknownName("function", node.sql_name().lower(), NAMES)
    raise ConfigError(f"'{node.sql(dialect='duckdb')}' cannot stand in an expression")


def _arguments(node: Any) -> list[Any]:
    """Its operands, in order."""
    listed = (value if isinstance(value, list) else [value] for value in node.args.values())
    return [item for items in listed for item in items if hasattr(item, "key")]


def _call(node: Any, function: Callable[..., Value], *arguments: Any) -> Run:
    runs = [_compile(argument) for argument in arguments]
    text = node.sql(dialect="duckdb")

    def run(rows: pa.RecordBatch) -> Value:
        values = [r(rows) for r in runs]
        try:
            return function(*values)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, TypeError) as error:
            types = ", ".join(
                f"{argument.sql(dialect='duckdb')} is {value.type}"
                for argument, value in zip(arguments, values, strict=True)
            )
            raise SchemaError(f"'{text}' cannot be worked out: {types}; what is there is [{_there(rows)}]") from error

    return run


def _there(rows: pa.RecordBatch) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in rows.schema)


def _column(node: Any) -> Run:
    name = ".".join(part.name for part in node.parts)

    def run(rows: pa.RecordBatch) -> Value:
        try:
            column = rows.column(name)
        except KeyError:
            raise SchemaError(str(UnknownName("column", name, rows.schema.names))) from None
        kind = column.type
        if pt.is_dictionary(kind):
            return column.dictionary_decode()
        if pt.is_integer(kind) and kind.bit_width < 64:
            return column.cast(pa.int64())
        if pt.is_uint64(kind) or (pt.is_floating(kind) and kind.bit_width < 64):
            return column.cast(pa.float64(), safe=False)
        return column

    return run


def _literal(node: Any) -> Run:
    if node.is_string:
        value = pa.scalar(node.this)
    else:
        number = float(node.this) if re.search(r"[.eE]", node.this) else int(node.this)
        value = pa.scalar(number if abs(number) < 2**63 else float(number))
    return lambda rows: value


def _negative(node: Any) -> Run:
    if node.this.key == "literal" and not node.this.is_string:
        value = pc.negate(_literal(node.this)(None))
        return lambda rows: value
    return _call(node, _arithmetic(pc.subtract, pc.subtract_checked, _minus_first), node.this)


def _minus_first(function: Callable[..., Value], *values: Value) -> Value:
    return function(pa.scalar(0, values[0].type), *values) if len(values) == 1 else function(*values)


# --------------------------------------------------------------------------------------------------- what it works out


def _finite(value: Value) -> Value:
    return pc.if_else(pc.is_finite(value), value, None)


def _number(value: Value) -> Value:
    if not (pt.is_integer(value.type) or pt.is_floating(value.type)):
        raise TypeError
    if isinstance(value, pa.Scalar):  # which has no unsafe cast
        return pa.scalar(float(value.as_py()) if value.is_valid else None, pa.float64())
    return value if pt.is_float64(value.type) else value.cast(pa.float64(), safe=False)


def _logic(function: Callable[..., Value]) -> Callable[..., Value]:
    return lambda *values: function(*(v.cast(pa.bool_()) if pt.is_null(v.type) else v for v in values))


def _arithmetic(
    plain: Callable[..., Value], checked: Callable[..., Value], call: Callable[..., Value] | None = None
) -> Callable[..., Value]:
    def run(*values: Value) -> Value:
        apply = call or (lambda function, *v: function(*v))
        try:
            return apply(checked, *values)
        except pa.ArrowInvalid:  # somewhere an integer does not fit: null there
            size = pc.abs(apply(plain, *[_number(v) for v in values]))
            return pc.if_else(pc.less(size, 2.0**63), apply(plain, *values), None)

    return run


def _divide(a: Value, b: Value) -> Value:
    return _finite(pc.divide(_number(a), _number(b)))


def _whole_divide(a: Value, b: Value) -> Value:
    if pt.is_integer(a.type) and pt.is_integer(b.type):
        return pc.divide(a, pc.if_else(pc.equal(b, 0), None, b))
    return _finite(pc.floor(pc.divide(_number(a), _number(b))))


def _modulo(a: Value, b: Value) -> Value:
    if pt.is_integer(a.type) and pt.is_integer(b.type):
        b = pc.if_else(pc.equal(b, 0), None, b)
        return pc.subtract(a, pc.multiply(b, pc.divide(a, b)))
    a, b = _number(a), _number(b)
    return _finite(pc.subtract(a, pc.multiply(b, pc.trunc(pc.divide(a, b)))))


def _compare(function: Callable[..., Value]) -> Callable[..., Value]:
    def run(a: Value, b: Value) -> Value:
        return function(*_times_alike(a, b))

    return run


def _times_alike(a: Value, b: Value) -> tuple[Value, Value]:
    """A text beside a time is read as a time."""
    if pt.is_timestamp(a.type) and pt.is_string(b.type) and isinstance(b, pa.Scalar):
        return a, _time(b)
    if pt.is_timestamp(b.type) and pt.is_string(a.type) and isinstance(a, pa.Scalar):
        return _time(a), b
    return a, b


def _time(text: pa.Scalar) -> pa.Scalar:
    found = convert(pa.array([text.as_py()], pa.string()), TYPES["timestamp"])[0]
    if not found.is_valid:
        raise SchemaError(f"'{text.as_py()}' is not a time; write it as 2026-01-31T12:00:00Z")
    return found


def _between(value: Value, low: Value, high: Value) -> Value:
    at_least, at_most = _compare(pc.greater_equal), _compare(pc.less_equal)
    return pc.and_kleene(at_least(value, low), at_most(value, high))


def _in(value: Value, *others: Value) -> Value:
    found = _compare(pc.equal)(value, others[0])
    for other in others[1:]:
        found = pc.or_kleene(found, _compare(pc.equal)(value, other))
    return found


def _is(value: Value, other: Value) -> Value:
    if pt.is_null(other.type):
        return pc.is_null(value)
    return pc.fill_null(pc.equal(value, other), False)


def _distinct(a: Value, b: Value) -> Value:
    different = pc.fill_null(pc.not_equal(a, b), True)
    return pc.and_not(different, pc.and_(pc.is_null(a), pc.is_null(b)))


def _if(test: Value, then: Value, otherwise: Value) -> Value:
    return pc.if_else(pc.fill_null(test, False), then, otherwise)


def _round(value: Value, digits: Value | None = None) -> Value:
    if pt.is_integer(value.type):
        return value
    places = 0 if digits is None else digits.as_py()
    return pc.round(_number(value), ndigits=places, round_mode="half_towards_infinity")


def _to_whole(function: Callable[..., Value]) -> Callable[..., Value]:
    return lambda value, *_: value if pt.is_integer(value.type) else function(_number(value))


def _positive(function: Callable[..., Value]) -> Callable[[Value], Value]:
    return lambda value: _finite(function(_number(value)))


def _log(node: Any) -> Run:
    if node.expression is None:
        return _call(node, _positive(pc.log10), node.this)
    return _call(node, lambda base, value: _finite(pc.logb(_number(value), _number(base))), node.this, node.expression)


def _text(value: Value) -> Value:
    return value if pt.is_string(value.type) else value.cast(pa.string())


def _substring(value: Value, start: Value, length: Value | None = None) -> Value:
    begin = max(start.as_py() - 1, 0)
    return pc.utf8_slice_codeunits(value, begin, None if length is None else begin + length.as_py())


def _like(node: Any) -> Run:
    if node.expression.key != "literal":
        raise ConfigError(f"the pattern in '{node.sql()}' must be a text in quotes")
    like = partial(pc.match_like, pattern=node.expression.name, ignore_case=node.key == "ilike")
    return _call(node, (lambda value: pc.invert(like(value))) if node.args.get("negate") else like, node.this)


def _matches(function: Callable[..., Value]) -> Callable[[Any], Run]:
    def build(node: Any) -> Run:
        if node.expression.key != "literal":
            raise ConfigError(f"the pattern in '{node.sql()}' must be a text in quotes")
        run = partial(function, pattern=node.expression.name)
        try:
            run(pa.array([""]))
        except pa.ArrowInvalid as error:
            raise ConfigError(f"'{node.expression.name}' is not a pattern: {error}") from error
        return _call(node, run, node.this)

    return build


def _replace(value: Value, old: Value, new: Value) -> Value:
    return pc.replace_substring(value, old.as_py(), new.as_py())


_PARTS: Mapping[str, Callable[[Value], Value]] = {
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
_SAME_PART = {"dayofweek": "dow", "dayofmonth": "day", "dayofyear": "doy", "weekofyear": "week", "timetounix": "epoch"}


def _extract(node: Any) -> Run:
    name = str(node.name or node.this.name).lower()
    if name not in _PARTS:
        raise UnknownName("part of a time", name, _PARTS)
    return _call(node, _PARTS[name], node.expression)


def _in_zone(node: Any) -> Run:
    kind = pa.timestamp("us", tz=node.args["zone"].name)
    return _call(node, lambda value: value.cast(kind), node.this)


_CASTS = {
    "tinyint": "int", "smallint": "int", "int": "int", "bigint": "int", "float": "float", "double": "float",
    "decimal": "float", "boolean": "bool", "text": "text", "varchar": "text", "timestamp": "timestamp",
    "timestamptz": "timestamp", "timestampntz": "timestamp",
}  # fmt: skip


def _cast(node: Any) -> Run:
    name = node.to.this.value.lower()
    if name not in _CASTS:
        raise UnknownName("type", name, {"int", "float", "double", "boolean", "text", "timestamp"})
    kind = TYPES[_CASTS[name]]

    def run(value: Value) -> Value:
        if isinstance(value, pa.Scalar):
            return convert(pa.array([value.as_py()], value.type), kind)[0]
        return convert(value, kind)

    return _call(node, run, node.this)


def _case(node: Any) -> Run:
    tests = list(node.args["ifs"])
    otherwise = node.args.get("default")

    def run(*values: Value) -> Value:
        end = 2 * len(tests)
        found = values[end] if otherwise is not None else pa.scalar(None)
        for i in reversed(range(0, end, 2)):
            test = values[i] if node.this is None else pc.equal(values[-1], values[i])
            found = _if(test, values[i + 1], found)
        return found

    parts = [part for test in tests for part in (test.this, test.args["true"])]
    return _call(
        node, run, *parts, *([otherwise] if otherwise is not None else []), *([node.this] if node.this else [])
    )


def _if_node(node: Any) -> Run:
    otherwise = node.args.get("false")
    if otherwise is None:
        return _call(node, lambda test, then: _if(test, then, None), node.this, node.args["true"])
    return _call(node, _if, node.this, node.args["true"], otherwise)


def _total(node: Any) -> Run:
    arguments = node.expressions
    if len(arguments) != 1 or arguments[0].key != "literal":
        raise ConfigError(f"total needs one pattern in quotes, such as total('axis_*'); it is '{node.sql()}'")
    pattern = str(arguments[0].name)
    fits = re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)

    def run(rows: pa.RecordBatch) -> Value:
        columns = [
            rows.column(i)
            for i, field in enumerate(rows.schema)
            if fits.fullmatch(field.name) and (pt.is_floating(field.type) or pt.is_integer(field.type))
        ]
        if not columns:
            raise SchemaError(f"total('{pattern}') fits no column with numbers; what is there is [{_there(rows)}]")
        numbers = np.stack([floats(column) for column in columns])
        known = ~np.isnan(numbers)
        return pa.array(np.where(known, numbers, 0.0).sum(axis=0), mask=~known.any(axis=0))

    return run


def _anonymous(node: Any) -> Run:
    name = node.name.lower()
    if name == "total":
        return _total(node)
    if name in _FUNCTIONS:
        return _call(node, _FUNCTIONS[name], *node.expressions)
    raise UnknownName("function", name, NAMES)


def _of(function: Callable[..., Value]) -> Callable[[Any], Run]:
    """A node whose operands, in order, are the function's arguments."""
    return lambda node: _call(node, function, *_arguments(node))


_NODES: Mapping[str, Callable[[Any], Run]] = {
    "column": _column,
    "literal": _literal,
    "boolean": lambda node: partial(_constant, pa.scalar(bool(node.this))),
    "null": lambda node: partial(_constant, pa.scalar(None)),
    "paren": lambda node: _compile(node.this),
    "neg": _negative,
    "add": _of(_arithmetic(pc.add, pc.add_checked)),
    "sub": _of(_arithmetic(pc.subtract, pc.subtract_checked)),
    "mul": _of(_arithmetic(pc.multiply, pc.multiply_checked)),
    "div": _of(_divide),
    "intdiv": _of(_whole_divide),
    "mod": _of(_modulo),
    "pow": _of(lambda a, b: _finite(pc.power(_number(a), _number(b)))),
    "eq": _of(_compare(pc.equal)),
    "neq": _of(_compare(pc.not_equal)),
    "gt": _of(_compare(pc.greater)),
    "gte": _of(_compare(pc.greater_equal)),
    "lt": _of(_compare(pc.less)),
    "lte": _of(_compare(pc.less_equal)),
    "between": lambda node: _call(node, _between, node.this, node.args["low"], node.args["high"]),
    "in": lambda node: _call(node, _in, node.this, *node.expressions),
    "is": _of(_is),
    "nullsafeneq": _of(_distinct),
    "nullsafeeq": _of(lambda a, b: pc.invert(_distinct(a, b))),
    "and": _of(_logic(pc.and_kleene)),
    "or": _of(_logic(pc.or_kleene)),
    "not": _of(_logic(pc.invert)),
    "dpipe": _of(lambda a, b: pc.binary_join_element_wise(_text(a), _text(b), "")),
    "like": _like,
    "ilike": _like,
    "regexplike": _matches(pc.match_substring_regex),
    "contains": _matches(pc.match_substring),
    "startswith": _matches(pc.starts_with),
    "endswith": _matches(pc.ends_with),
    "cast": _cast,
    "trycast": _cast,
    "case": _case,
    "if": _if_node,
    "extract": _extract,
    "attimezone": _in_zone,
    "log": _log,
    "anonymous": _anonymous,
}

_FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "abs": lambda value: pc.abs(value),
    "sign": lambda value: pc.sign(value),
    "round": _round,
    "floor": _to_whole(pc.floor),
    "ceil": _to_whole(pc.ceil),
    "trunc": _to_whole(pc.trunc),
    "sqrt": _positive(pc.sqrt),
    "exp": _positive(pc.exp),
    "ln": _positive(pc.ln),
    "sin": _positive(pc.sin),
    "cos": _positive(pc.cos),
    "tan": _positive(pc.tan),
    "atan": _positive(pc.atan),
    "atan2": lambda a, b: _finite(pc.atan2(_number(a), _number(b))),
    "least": lambda *values: pc.min_element_wise(*values),
    "greatest": lambda *values: pc.max_element_wise(*values),
    "coalesce": lambda *values: pc.coalesce(*values),
    "nullif": lambda a, b: _if(pc.equal(a, b), None, a),
    "isnan": lambda value: pc.is_nan(value),
    "isinf": lambda value: pc.is_inf(value),
    "lower": lambda value: pc.utf8_lower(value),
    "upper": lambda value: pc.utf8_upper(value),
    "trim": lambda value: pc.utf8_trim_whitespace(value),
    "length": lambda value: pc.utf8_length(value).cast(pa.int64()),
    "replace": _replace,
    "substring": _substring,
    "concat": lambda *values: pc.binary_join_element_wise(*map(_text, values), "", null_handling="skip"),
    **{name: _PARTS[name] for name in ("year", "month", "day", "hour", "minute", "second", "quarter", "week")},
    **{name: _PARTS[part] for name, part in _SAME_PART.items()},
}

NAMES: Sequence[str] = sorted(
    {*_FUNCTIONS, "pow", "log10", "log", "total", "if", "extract", "regexp_matches", "contains", "starts_with", "epoch"}
    - {"timetounix"}
)
"""The functions there are."""


def _constant(value: pa.Scalar, rows: pa.RecordBatch) -> Value:
    return value


__all__ = ["NAMES", "Expression", "condition", "expression"]
