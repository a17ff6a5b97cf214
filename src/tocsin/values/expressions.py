"""SQL expressions over the columns of a batch: parsed by a library, worked out by Arrow, never by ``eval``.

The rules are those of DuckDB, except that nothing is ever an error once the types fit: what has no answer is null.

- ``/`` divides as floats; by zero gives null, as do ``//`` and ``%``. A root or logarithm that does not exist, an
  integer that does not fit, a text that cannot be cast: null.
- Null is unknown: it makes null of all it touches, but ``null and false`` is false and ``null or true`` is true.
- NaN is neither less, nor equal, nor more than anything.
- Names with other characters than letters, digits and ``_`` stand in double quotes: ``"Ax_J1.Position" > 3``.
- ``total('Ax_*')`` is the sum of all numeric columns whose name fits the pattern (``*`` any text, ``?`` one sign).
"""

from __future__ import annotations

import logging
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
from tocsin.values.computing import (
    FUNCTIONS,
    PARTS_OF_TIME,
    Value,
    arithmetic,
    as_number,
    as_text,
    between,
    comparison,
    divide,
    finite,
    is_distinct,
    is_in,
    is_same,
    logic,
    minus_first,
    modulo,
    positive,
    where,
    whole_divide,
)
from tocsin.values.conversion import TYPES, convert

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
        self.text = text
        self._run = _compile(_parsed(text))

    def __call__(self, rows: pa.RecordBatch) -> pa.Array:
        value = self._run(rows)
        if isinstance(value, pa.Scalar):
            return pa.repeat(value, rows.num_rows)
        return value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value

    def type_in(self, schema: pa.Schema) -> pa.DataType:
        """The type of its values, or a `SchemaError` that says what does not fit."""
        kind = self(empty(schema)).type
        if pt.is_null(kind):
            raise SchemaError(f"'{self.text}' is always null; give it a type: cast(null as double)")
        return kind


def condition(text: str, schema: pa.Schema) -> Expression:
    """An expression that must be true or false."""
    compiled = expression(text)
    if not pt.is_boolean(kind := compiled.type_in(schema)):
        raise SchemaError(f"'{text}' must be true or false, it is {kind}; compare it with something")
    return compiled


# --------------------------------------------------------------------------------------------------------- compiling


def _parsed(text: str) -> Any:
    """The tree of an expression. In brackets, for else a column named load, set or copy would begin a command."""
    import sqlglot
    from sqlglot.dialects.duckdb import DuckDB
    from sqlglot.errors import SqlglotError

    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of commands; we refuse them
    try:
        tree = sqlglot.parse_one(f"({text}\n)", dialect="duckdb")
        if tree.key == "paren":
            return tree.this
    except SqlglotError:
        pass  # what is wrong is told of the text as it is
    word = text.split(maxsplit=1)[0] if text.strip() else ""
    hint = f'; a column of the name {word} is written "{word}"' if word.upper() in DuckDB.Tokenizer.KEYWORDS else ""
    try:
        parsed = sqlglot.parse_one(text, dialect="duckdb")
    except SqlglotError as error:
        where = (getattr(error, "errors", None) or [{}])[0]
        said = where.get("description") or str(error)
        raise ConfigError(f"'{text}' is not an expression: {said} (column {where.get('col', '?')}){hint}") from error
    if parsed.key == "command" or hint:
        raise ConfigError(f"'{text}' cannot stand in an expression: it is a command{hint}")
    return parsed


def _compile(node: Any) -> Run:
    """A tree of the parser as a tree of functions."""
    if node.key in _NODES:
        return _NODES[node.key](node)
    if node.key in FUNCTIONS:
        return _call(node, FUNCTIONS[node.key], *_arguments(node))
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
    return _call(node, arithmetic(pc.subtract, pc.subtract_checked, minus_first), node.this)


def _log(node: Any) -> Run:
    if node.expression is None:
        return _call(node, positive(pc.log10), node.this)
    return _call(
        node, lambda base, value: finite(pc.logb(as_number(value), as_number(base))), node.this, node.expression
    )


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


def _extract(node: Any) -> Run:
    name = str(node.name or node.this.name).lower()
    if name not in PARTS_OF_TIME:
        raise UnknownName("part of a time", name, PARTS_OF_TIME)
    return _call(node, PARTS_OF_TIME[name], node.expression)


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
        value = values[end] if otherwise is not None else pa.scalar(None)
        for i in reversed(range(0, end, 2)):
            test = values[i] if node.this is None else pc.equal(values[-1], values[i])
            value = where(test, values[i + 1], value)
        return value

    parts = [part for test in tests for part in (test.this, test.args["true"])]
    return _call(
        node, run, *parts, *([otherwise] if otherwise is not None else []), *([node.this] if node.this else [])
    )


def _if_node(node: Any) -> Run:
    otherwise = node.args.get("false")
    if otherwise is None:
        return _call(node, lambda test, then: where(test, then, None), node.this, node.args["true"])
    return _call(node, where, node.this, node.args["true"], otherwise)


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
    if name in FUNCTIONS:
        return _call(node, FUNCTIONS[name], *node.expressions)
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
    "add": _of(arithmetic(pc.add, pc.add_checked)),
    "sub": _of(arithmetic(pc.subtract, pc.subtract_checked)),
    "mul": _of(arithmetic(pc.multiply, pc.multiply_checked)),
    "div": _of(divide),
    "intdiv": _of(whole_divide),
    "mod": _of(modulo),
    "pow": _of(lambda a, b: finite(pc.power(as_number(a), as_number(b)))),
    "eq": _of(comparison(pc.equal)),
    "neq": _of(comparison(pc.not_equal)),
    "gt": _of(comparison(pc.greater)),
    "gte": _of(comparison(pc.greater_equal)),
    "lt": _of(comparison(pc.less)),
    "lte": _of(comparison(pc.less_equal)),
    "between": lambda node: _call(node, between, node.this, node.args["low"], node.args["high"]),
    "in": lambda node: _call(node, is_in, node.this, *node.expressions),
    "is": _of(is_same),
    "nullsafeneq": _of(is_distinct),
    "nullsafeeq": _of(lambda a, b: pc.invert(is_distinct(a, b))),
    "and": _of(logic(pc.and_kleene)),
    "or": _of(logic(pc.or_kleene)),
    "not": _of(logic(pc.invert)),
    "dpipe": _of(lambda a, b: pc.binary_join_element_wise(as_text(a), as_text(b), "")),
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

NAMES: Sequence[str] = sorted(
    {*FUNCTIONS, "pow", "log10", "log", "total", "if", "extract", "regexp_matches", "contains", "starts_with", "epoch"}
    - {"timetounix"}
)
"""The functions there are."""


def _constant(value: pa.Scalar, rows: pa.RecordBatch) -> Value:
    return value


__all__ = ["NAMES", "Expression", "condition", "expression"]
