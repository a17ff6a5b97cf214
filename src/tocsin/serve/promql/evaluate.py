"""Evaluate a PromQL expression at the points of a grid."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import promql_parser as ql

from tocsin.batch import Floats, Ints
from tocsin.serve.promql.data import Metric, metrics, read
from tocsin.serve.promql.ranges import FUNCTIONS, over_range
from tocsin.serve.promql.series import NAME, Bools, Labels, Line, Samples, at_points

LOOKBACK_MS = 300_000
Value = Floats | list[Line]
"""A scalar at each point, or lines."""


class BadQuery(Exception):
    """A question that cannot be answered, in the asker's words."""


@dataclass(frozen=True)
class Question:
    """An expression, and when: ascending times in milliseconds, shape (points,)."""

    expression: str
    grid_ms: Ints


def evaluate(folder: Path, question: Question) -> Value:
    """Returns what an expression is at each point.

    Raises
    ------
    BadQuery
        It is not PromQL, or needs something that is not known here; the sentence says what.
    """
    try:
        tree = ql.parse(question.expression)
    except ValueError as error:
        raise BadQuery(f"parse error: {error}") from error
    return _Evaluation(folder, question.grid_ms, list(metrics(folder))).value(tree)


def selected(expression: str) -> Any:
    """Returns the selector that a text is; `BadQuery` if it is anything else."""
    try:
        tree = ql.parse(expression)
    except ValueError as error:
        raise BadQuery(f"parse error: {error}") from error
    if not isinstance(tree, ql.VectorSelector):
        raise BadQuery(f"{expression} is no selector of series")
    return tree


def matcher(selector: Any) -> Callable[[Labels], bool]:
    """Returns whether labels match a selector."""
    wanted = [(one.name, one.op, one.value) for one in selector.matchers.matchers]
    if selector.name:
        wanted.append((NAME, ql.MatchOp.Equal, selector.name))

    def matches(labels: Labels) -> bool:
        for name, op, value in wanted:
            have = labels.get(name, "")
            fits = have == value if op in (ql.MatchOp.Equal, ql.MatchOp.NotEqual) else bool(re.fullmatch(value, have))
            if fits == (op in (ql.MatchOp.NotEqual, ql.MatchOp.NotRe)):
                return False
        return True

    return matches


def could_be(metric: Metric, selector: Any) -> bool:
    """Returns whether a metric may have series that match, judged by its name alone."""
    names = [one for one in selector.matchers.matchers if one.name == NAME]
    if selector.name and selector.name != metric.name:
        return False
    return all(_name_fits(one, metric.name) for one in names)


def _name_fits(one: Any, name: str) -> bool:
    if one.op in (ql.MatchOp.Equal, ql.MatchOp.NotEqual):
        return bool((name == one.value) == (one.op == ql.MatchOp.Equal))
    return bool(bool(re.fullmatch(one.value, name)) == (one.op == ql.MatchOp.Re))


@dataclass(frozen=True)
class _Evaluation:
    folder: Path
    grid: Ints
    known: Sequence[Metric]

    def value(self, tree: Any) -> Value:
        match tree:
            case ql.NumberLiteral():
                return np.full(len(self.grid), float(tree.val))
            case ql.ParenExpr():
                return self.value(tree.expr)
            case ql.UnaryExpr():
                return _mapped(self.value(tree.expr), lambda values: -values)
            case ql.VectorSelector():
                return [at_points(one, self._shifted(tree), LOOKBACK_MS) for one in self._samples(tree, LOOKBACK_MS)]
            case ql.Call():
                return self._call(tree.func.name, list(tree.args))
            case ql.AggregateExpr():
                return self._aggregate(tree)
            case ql.BinaryExpr():
                return self._binary(tree)
        raise BadQuery(f"{type(tree).__name__} is not known here: {tree}")

    def _shifted(self, selector: Any) -> Ints:
        if selector.at is not None:
            raise BadQuery("@ is not known here; choose the time of the question")
        offset = selector.offset
        return self.grid if offset is None else self.grid - round(offset.total_seconds() * 1000)

    def _samples(self, selector: Any, range_ms: int) -> list[Samples]:
        grid = self._shifted(selector)
        wanted = [metric for metric in self.known if could_be(metric, selector)]
        return read(self.folder, wanted, matcher(selector), int(grid[0]) - range_ms, int(grid[-1]))

    def _call(self, name: str, arguments: list[Any]) -> Value:
        if name in FUNCTIONS:
            selector = arguments[0]
            if not isinstance(selector, ql.MatrixSelector):
                raise BadQuery(f"{name} needs a range, as {name}(metric[5m])")
            range_ms = round(selector.range.total_seconds() * 1000)
            vector = selector.vector_selector
            lines = [over_range(name, one, self._shifted(vector), range_ms) for one in self._samples(vector, range_ms)]
            return [line for line in lines if line.present.any()]
        if name == "time":
            return self.grid / 1000
        if name in ("vector", "scalar"):
            return self._converted(name, self.value(arguments[0]))
        if name == "absent":
            here = np.zeros(len(self.grid), bool)
            for line in self._lines(arguments[0]):
                here |= line.present
            return [Line(_named_by(arguments[0]), np.ones(len(self.grid)), ~here)]
        if name in ("sort", "sort_desc"):
            return self._lines(arguments[0])
        if name in _MATH:
            more = [float(self._scalar(one)[0]) for one in arguments[1:]]
            return _mapped(self._lines(arguments[0]), lambda values: _MATH[name](values, *more))
        raise BadQuery(f"function {name} is not known here; there are {', '.join(sorted([*FUNCTIONS, *_MATH]))}")

    def _converted(self, name: str, value: Value) -> Value:
        if name == "vector":
            return [Line({}, value, np.ones(len(self.grid), bool))] if isinstance(value, np.ndarray) else value
        if isinstance(value, np.ndarray):
            return value
        return value[0].values if len(value) == 1 else np.full(len(self.grid), np.nan)

    def _lines(self, tree: Any) -> list[Line]:
        value = self.value(tree)
        if isinstance(value, np.ndarray):
            raise BadQuery(f"{tree} is a number, where series are needed")
        return value

    def _scalar(self, tree: Any) -> Floats:
        value = self.value(tree)
        if not isinstance(value, np.ndarray):
            raise BadQuery(f"{tree} are series, where a number is needed")
        return value

    def _aggregate(self, tree: Any) -> Value:
        name, lines = str(tree.op), self._lines(tree.expr)
        groups: dict[tuple[tuple[str, str], ...], list[Line]] = {}
        for line in lines:
            groups.setdefault(tuple(sorted(_kept(line.labels, tree.modifier).items())), []).append(line)
        if name in ("topk", "bottomk"):
            count = int(self._scalar(tree.param)[0])
            return [one for group in groups.values() for one in _extreme(group, count, largest=name == "topk")]
        if name not in _AGGREGATES:
            raise BadQuery(f"{name} is not known here; there are {', '.join(sorted(_AGGREGATES))}, topk and bottomk")
        made = []
        for labels, group in groups.items():
            present: Bools = np.array([line.present for line in group])
            values = np.where(present, np.array([line.values for line in group]), np.nan)
            here: Bools = np.asarray(present.any(axis=0))
            out = np.full(len(self.grid), np.nan)
            if here.any():
                out[here] = _AGGREGATES[name](values[:, here], present[:, here])
            made.append(Line(dict(labels), out, here))
        return made

    def _binary(self, tree: Any) -> Value:
        op, left, right = str(tree.op), self.value(tree.lhs), self.value(tree.rhs)
        modifier = tree.modifier
        if op in ("and", "or", "unless"):
            return _set_operation(op, _as_lines(left, op), _as_lines(right, op), modifier)
        as_bool = modifier is not None and modifier.return_bool
        if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
            return np.asarray(_OPERATORS[op](left, right), np.float64)
        if isinstance(left, np.ndarray):
            return [_combined(op, one, left, one.values, one.present, one, as_bool) for one in _as_lines(right, op)]
        if isinstance(right, np.ndarray):
            return [_combined(op, one, one.values, right, one.present, one, as_bool) for one in left]
        return _matched(op, left, right, modifier, as_bool)


def _named_by(tree: Any) -> Labels:
    """The labels that a selector names outright: those of what is absent."""
    if not isinstance(tree, ql.VectorSelector):
        return {}
    return {one.name: one.value for one in tree.matchers.matchers if one.op == ql.MatchOp.Equal and one.name != NAME}


def _kept(labels: Labels, modifier: Any) -> dict[str, str]:
    """The labels that an aggregation or a match goes by."""
    if modifier is None:
        return {}
    names = set(modifier.labels)
    include = "By" in str(modifier.type) or "Include" in str(modifier.type)
    return {n: v for n, v in labels.items() if n != NAME and (n in names) == include}


def _matched(op: str, left: list[Line], right: list[Line], modifier: Any, as_bool: bool) -> list[Line]:
    """Lines of both sides with the same labels, one to one."""
    if modifier is not None and "OneToOne" not in str(modifier.card):
        raise BadQuery("group_left and group_right are not known here")
    others: dict[tuple[tuple[str, str], ...], Line] = {}
    for line in right:
        signature = _signature(line, modifier)
        if signature in others:
            raise BadQuery("several series on the right have the same labels; name the labels with on(...)")
        others[signature] = line
    made = []
    for line in left:
        other = others.get(_signature(line, modifier))
        if other is not None:
            present = line.present & other.present
            made.append(_combined(op, line, line.values, other.values, present, line, as_bool))
    return made


def _signature(line: Line, modifier: Any) -> tuple[tuple[str, str], ...]:
    matching = None if modifier is None else modifier.matching
    labels = {n: v for n, v in line.labels.items() if n != NAME} if matching is None else _kept(line.labels, matching)
    return tuple(sorted(labels.items()))


def _combined(op: str, line: Line, a: Floats, b: Floats, present: Bools, kept: Line, as_bool: bool) -> Line:
    with np.errstate(all="ignore"):
        result = _OPERATORS[op](a, b)
    if op not in _COMPARISONS:
        return line.with_values(result, present)
    if as_bool:
        return line.with_values(result.astype(np.float64), present)
    return line.with_values(kept.values, present & result, keep_name=True)


def _set_operation(op: str, left: list[Line], right: list[Line], modifier: Any) -> list[Line]:
    def covered(line: Line, others: list[Line]) -> Bools:
        same = [one.present for one in others if _signature(one, modifier) == _signature(line, modifier)]
        return np.any(same, axis=0) if same else np.zeros(len(line.present), bool)

    if op == "or":
        return left + [r.with_values(r.values, r.present & ~covered(r, left), keep_name=True) for r in right]
    wanted = op == "and"
    kept = [(line, covered(line, right) == wanted) for line in left]
    return [line.with_values(line.values, line.present & here, keep_name=True) for line, here in kept]


def _as_lines(value: Value, op: str) -> list[Line]:
    if isinstance(value, np.ndarray):
        raise BadQuery(f"{op} needs series on both sides")
    return value


def _mapped(value: Value, change: Callable[[Floats], Floats]) -> Value:
    with np.errstate(all="ignore"):
        if isinstance(value, np.ndarray):
            return change(value)
        return [line.with_values(change(line.values)) for line in value]


def _extreme(group: list[Line], count: int, *, largest: bool) -> list[Line]:
    values = np.array([np.where(line.present, line.values, -np.inf if largest else np.inf) for line in group])
    rank = np.argsort(np.argsort(-values if largest else values, axis=0, kind="stable"), axis=0, kind="stable")
    kept = [(line, line.present & (rank[i] < count)) for i, line in enumerate(group)]
    return [line.with_values(line.values, here, keep_name=True) for line, here in kept if here.any()]


_COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
_OPERATORS: Mapping[str, Callable[[Floats, Floats], Any]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "%": np.fmod, "^": np.power,
    "==": np.equal, "!=": np.not_equal, ">": np.greater, "<": np.less, ">=": np.greater_equal, "<=": np.less_equal,
}  # fmt: skip
_MATH: Mapping[str, Callable[..., Any]] = {
    "abs": np.abs, "ceil": np.ceil, "floor": np.floor, "sqrt": np.sqrt, "exp": np.exp, "ln": np.log, "log2": np.log2,
    "log10": np.log10, "sgn": np.sign,
    "round": lambda values, to=1.0: np.floor(values / to + 0.5) * to,
    "clamp": lambda values, low, high: np.clip(values, low, high),
    "clamp_min": lambda values, low: np.maximum(values, low),
    "clamp_max": lambda values, high: np.minimum(values, high),
}  # fmt: skip
_AGGREGATES: Mapping[str, Callable[[Floats, Bools], Any]] = {
    "sum": lambda values, present: np.nansum(values, axis=0),
    "avg": lambda values, present: np.nanmean(values, axis=0),
    "min": lambda values, present: np.nanmin(values, axis=0),
    "max": lambda values, present: np.nanmax(values, axis=0),
    "count": lambda values, present: present.sum(axis=0),
    "stddev": lambda values, present: np.nanstd(values, axis=0),
    "stdvar": lambda values, present: np.nanvar(values, axis=0),
    "group": lambda values, present: np.ones(values.shape[1]),
}
