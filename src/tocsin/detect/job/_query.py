"""A datafeed's query, compiled into a predicate over rows: the part of Elasticsearch's query language that filters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import translate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.detect.job._fields import Mask, any_of, find, mask, numbers, texts
from tocsin.detect.job._query_string import parse_query_string
from tocsin.errors import ConfigError, UnknownName

Predicate = Callable[[pa.RecordBatch], Mask]
OPTIONS = ("boost", "_name")
KNOWN = (
    "match_all", "match_none", "term", "terms", "match", "match_phrase", "match_phrase_prefix", "match_bool_prefix",
    "multi_match", "exists", "bool", "range", "wildcard", "prefix", "regexp", "query_string", "simple_query_string",
    "constant_score", "dis_max", "function_score", "nested", "boosting", "ids",
)  # fmt: skip


def compile_query(query: Mapping[str, Any], place: str = "query") -> Predicate:
    """The predicate of a query; `ConfigError` with its place if it cannot be understood."""
    if not isinstance(query, Mapping):
        raise ConfigError(f"{place}: a query is an object such as {{'match_all': {{}}}}, not {query!r}")
    kinds = [kind for kind in query if kind not in OPTIONS]
    if not kinds:
        return _all
    if len(kinds) > 1:
        return _every([compile_query({kind: query[kind]}, place) for kind in kinds])
    kind, body = kinds[0], query[kinds[0]]
    place = f"{place}.{kind}"
    match kind:
        case "match_all":
            return _all
        case "match_none":
            return _none
        case "bool":
            return _bool(_object(body, place), place)
        case "constant_score":
            return compile_query(_object(body, place).get("filter", {}), f"{place}.filter")
        case "function_score" | "nested":
            return compile_query(_object(body, place).get("query", {}), f"{place}.query")
        case "boosting":
            return compile_query(_object(body, place).get("positive", {}), f"{place}.positive")
        case "dis_max":
            return _some([compile_query(q, f"{place}.queries") for q in _object(body, place).get("queries", [])], 1)
        case "exists":
            return _exists(str(_object(body, place).get("field")))
        case "query_string" | "simple_query_string":
            return _query_string(_object(body, place), place)
        case "multi_match":
            names = [str(f).split("^")[0] for f in _object(body, place).get("fields", [])]
            return _some([_field_query("match", name, {"query": body.get("query")}, place) for name in names], 1)
        case "ids":
            return _field_query("terms", "_id", _object(body, place).get("values", []), place)
    if kind not in KNOWN:
        raise ConfigError(f"{place}: {UnknownName('query', kind, KNOWN)}")
    fields = {name: value for name, value in _object(body, place).items() if name not in OPTIONS}
    if len(fields) != 1:
        raise ConfigError(f"{place}: names one field, here there are [{', '.join(fields)}]")
    ((name, value),) = fields.items()
    return _field_query(kind, name, value, place)


def _field_query(kind: str, name: str, value: Any, place: str) -> Predicate:
    place = f"{place}.{name}"
    options = value if isinstance(value, Mapping) else {}
    said = next((options[k] for k in ("value", "query", "wildcard") if k in options), value if not options else None)
    blind = bool(options.get("case_insensitive"))
    match kind:
        case "term":
            return on(name, equals([said], blind))
        case "terms":
            if not isinstance(value, list | tuple):
                raise ConfigError(f"{place}: terms takes a list of values, not {value!r}")
            return on(name, equals(value, False))
        case "match" | "match_bool_prefix":
            every = str(options.get("operator", "or")).lower() == "and"
            if not re.search(r"\s", str(said)):
                return on(name, phrase(said, prefix=kind == "match_bool_prefix"))
            return on(name, matches(said, every, prefix=kind == "match_bool_prefix"))
        case "match_phrase" | "match_phrase_prefix":
            return on(name, phrase(said, prefix=kind == "match_phrase_prefix"))
        case "range":
            return on(name, in_range(options, place))
        case "prefix":
            return on(name, pattern("^" + re.escape(str(said)), blind))
        case "wildcard":
            return on(name, pattern(wildcard(str(said)), blind))
        case _:
            try:
                re.compile(str(said))
            except re.error as error:
                raise ConfigError(f"{place}: {said!r} is no regular expression ({error})") from error
            return on(name, pattern(f"^(?:{said})$", blind))


def wildcard(text: str) -> str:
    r"""``a*b?`` as a regular expression; ``\*`` is a star itself."""
    parts = re.findall(r"\\?.|\\", text, re.S)
    return "^" + "".join({"*": ".*", "?": "."}.get(p) or re.escape(p[-1]) for p in parts) + "$"


def on(name: str, test: Callable[[pa.Array], Mask]) -> Predicate:
    """A predicate about one field; ``*`` in its name means any of the fields that fit."""

    def applies(rows: pa.RecordBatch) -> Mask:
        if "*" in name:
            fitting = [c for c in rows.schema.names if re.fullmatch(translate(name), c)]
            columns = [find(rows, c) for c in fitting]
        else:
            columns = [find(rows, name)]
        hit = np.zeros(rows.num_rows, bool)
        for column in columns:
            if column is not None:
                hit |= any_of(column, test)
        return hit

    return applies


def equals(values: Sequence[Any], blind: bool) -> Callable[[pa.Array], Mask]:
    """Whether a value is one of these: as numbers in a column of numbers, else as text."""

    def test(column: pa.Array) -> Mask:
        if pt.is_boolean(column.type):
            wanted = [str(v).lower() == "true" for v in values if str(v).lower() in ("true", "false")]
            return mask(pc.is_in(column, value_set=pa.array(wanted, pa.bool_())))
        if pt.is_timestamp(column.type) or pt.is_integer(column.type) or pt.is_floating(column.type):
            time = pt.is_timestamp(column.type)
            wanted_numbers = np.array([as_number(v, time) for v in values], np.float64)
            return np.asarray(np.isin(numbers(column), wanted_numbers[~np.isnan(wanted_numbers)]), bool)
        words = texts(column)
        wanted_texts = [_text(v) for v in values]
        if blind:
            words, wanted_texts = pc.utf8_lower(words), [w.lower() for w in wanted_texts]
        return mask(pc.is_in(words, value_set=pa.array(wanted_texts, pa.string()))) & ~_nulls(words)

    return test


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def matches(said: Any, every: bool, prefix: bool = False) -> Callable[[pa.Array], Mask]:
    """The whole value, or some (every) word of it, in any case: the rows do not say which fields are analysed."""
    same = equals([said], False)
    words = tokens(str(said))

    def test(column: pa.Array) -> Mask:
        hit = same(column)
        if not (pt.is_string(column.type) or pt.is_large_string(column.type)) or not words:
            return hit
        lower = pc.utf8_lower(column)
        end = "" if prefix else _WORD_END
        each = [mask(pc.match_substring_regex(lower, _WORD_BEGIN + re.escape(w) + end)) for w in words]
        return np.asarray(hit | (np.logical_and.reduce(each) if every else np.logical_or.reduce(each)), bool)

    return test


def phrase(said: Any, prefix: bool = False) -> Callable[[pa.Array], Mask]:
    """The words next to one another, in any case."""
    same = equals([said], False)
    words = tokens(str(said))
    sought = _WORD_BEGIN + r"[^\pL\pN_]+".join(map(re.escape, words)) + ("" if prefix else _WORD_END)

    def test(column: pa.Array) -> Mask:
        hit = same(column)
        if (pt.is_string(column.type) or pt.is_large_string(column.type)) and words:
            hit |= mask(pc.match_substring_regex(pc.utf8_lower(column), sought))
        return hit

    return test


_WORD_BEGIN, _WORD_END = r"(?:^|[^\pL\pN_])", r"(?:$|[^\pL\pN_])"


def tokens(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"\w+(?:[.']\w+)*", text.lower())


def pattern(regex: str, blind: bool) -> Callable[[pa.Array], Mask]:
    """Whether the text matches a regular expression."""
    sought = ("(?is)" if blind else "(?s)") + regex
    return lambda column: mask(pc.match_substring_regex(texts(column), sought))


def in_range(bounds: Mapping[str, Any], place: str) -> Callable[[pa.Array], Mask]:
    """Whether a value lies between bounds; times compare as times, texts as texts."""
    bounds = dict(bounds)
    # Elasticsearch before 8 also knew from, to and whether each is included.
    for old, new in (("from", "gte" if bounds.get("include_lower", True) else "gt"),
                     ("to", "lte" if bounds.get("include_upper", True) else "lt")):  # fmt: skip
        if bounds.get(old) is not None:
            bounds[new] = bounds[old]
    limits = [(sign, bounds[sign]) for sign in ("gt", "gte", "lt", "lte") if bounds.get(sign) is not None]
    # Bounds relative to now say which part of an index to search; a stream has no such part.
    limits = [(sign, limit) for sign, limit in limits if not str(limit).startswith("now")]
    for sign, limit in limits:
        if isinstance(limit, Mapping | list):
            raise ConfigError(f"{place}.{sign}: a bound is a number, a time or a text, not {limit!r}")
    compare = {"gt": np.greater, "gte": np.greater_equal, "lt": np.less, "lte": np.less_equal}
    compare_text = {"gt": pc.greater, "gte": pc.greater_equal, "lt": pc.less, "lte": pc.less_equal}

    def test(column: pa.Array) -> Mask:
        as_text = pt.is_string(column.type) and not all(isinstance(v, int | float) for _, v in limits)
        if as_text:
            hit = ~_nulls(column)
            for sign, limit in limits:
                hit = hit & mask(compare_text[sign](column, pa.scalar(str(limit))))
            return hit
        values = numbers(column)
        hit = ~np.isnan(values)
        for sign, limit in limits:
            hit = hit & compare[sign](values, as_number(limit, pt.is_timestamp(column.type)))
        return hit

    return test


def as_number(value: Any, time: bool = False) -> float:
    """A value of a query as a number; a time in seconds since 1970 (its numbers are milliseconds)."""
    if isinstance(value, bool | int | float):
        return float(value) / (1000 if time else 1)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    try:
        return float(value) / (1000 if time else 1)
    except (TypeError, ValueError):
        try:
            return as_number(datetime.fromisoformat(str(value).replace("Z", "+00:00")))
        except ValueError:
            return float(np.nan)


def _nulls(column: pa.Array) -> Mask:
    return np.asarray(column.is_null().to_numpy(zero_copy_only=False), bool)


def _all(rows: pa.RecordBatch) -> Mask:
    return np.ones(rows.num_rows, bool)


def _none(rows: pa.RecordBatch) -> Mask:
    return np.zeros(rows.num_rows, bool)


def _every(parts: Sequence[Predicate]) -> Predicate:
    return lambda rows: np.logical_and.reduce([np.ones(rows.num_rows, bool), *(part(rows) for part in parts)])


def _some(parts: Sequence[Predicate], count: int) -> Predicate:
    return lambda rows: np.sum([np.zeros(rows.num_rows, int), *(part(rows) for part in parts)], axis=0) >= count


def _not(part: Predicate) -> Predicate:
    return lambda rows: ~part(rows)


def _exists(name: str) -> Predicate:
    def test(rows: pa.RecordBatch) -> Mask:
        if name == "*":
            return np.ones(rows.num_rows, bool)
        column = find(rows, name)
        if column is None:
            return np.zeros(rows.num_rows, bool)
        present = ~_nulls(column)
        if pt.is_list(column.type) or pt.is_large_list(column.type):
            present &= mask(pc.greater(pc.list_value_length(column), 0))
        return present

    return test


def _bool(body: Mapping[str, Any], place: str) -> Predicate:
    def listed(name: str) -> list[Predicate]:
        given = body.get(name) or []
        given = given if isinstance(given, list | tuple) else [given]
        return [compile_query(q, f"{place}.{name}[{i}]") for i, q in enumerate(given)]

    stray = set(body) - {
        "must",
        "filter",
        "should",
        "must_not",
        "minimum_should_match",
        "adjust_pure_negative",
        *OPTIONS,
    }
    if stray:
        raise ConfigError(f"{place}: bool has must, filter, should and must_not, not '{min(stray)}'")
    needed, options = [*listed("must"), *listed("filter")], listed("should")
    excluded = [_not(part) for part in listed("must_not")]
    default = 0 if needed or not options else 1
    least = _least(body.get("minimum_should_match", default), len(options), place)
    return _every([*needed, *excluded, *([_some(options, least)] if options and least > 0 else [])])


def _least(said: Any, count: int, place: str) -> int:
    match = re.fullmatch(r"(-?\d+)(%?)", str(said).strip())
    if not match:
        raise ConfigError(f"{place}.minimum_should_match: {said!r} is no number and no percentage such as 75%")
    least = int(int(match[1]) * count / 100) if match[2] else int(match[1])
    return count + least if least < 0 else least


def _object(body: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise ConfigError(f"{place}: an object is wanted, not {body!r}")
    return body


def _query_string(body: Mapping[str, Any], place: str) -> Predicate:
    fields = [str(f).split("^")[0] for f in body.get("fields", [body.get("default_field", "*")])]
    every = str(body.get("default_operator", "or")).lower() == "and"
    tree = parse_query_string(str(body.get("query", "*")), fields, every, f"{place}.query")
    return compile_query(tree, place)
