"""JSON and XML: what stands where, and which list or element holds the rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tocsin.decode._reasons import Bad
from tocsin.decode.json import parse
from tocsin.decode.xml import Document
from tocsin.infer.numbers import as_number
from tocsin.infer.sample import Form, Piece, SampledField
from tocsin.infer.time import is_time
from tocsin.infer.vocabulary import is_time_name
from tocsin.values.names import is_about_the_record

FIELDS_MAX, LIST_MAX, DEPTH_MAX, ROWS_MAX = 400, 16, 8, 3_000
"""Bounds of what is looked at: fields, elements of a list of numbers that are fields, levels, rows."""
NAME = re.compile(
    r"^(?:id|n|name|tag\w*|tag_?name|signal\w*|sensor\w*|metric\w*|measurement|channel\w*|kanal|variable\w*|point\w*|item\w*|"
    r"node\w*|property\w*|parameter\w*|key|quantity|dataitemid|displayname|typ|field|messstelle|symbol)$",
    re.IGNORECASE,
)
"""What the name of a signal is called, where each row has the value of one."""
VALUE = re.compile(
    r"^(?:v|val|value\w*|\w*value|wert|messwert|reading|y|data|number|result|vl|valor|magnitude|valeur|_value)$",
    re.IGNORECASE,
)
"""What the value is called then."""


def json_form(pieces: Sequence[Piece]) -> Form | None:
    """Return the form of JSON records, None where most are none; a bare number or word is none, either."""
    records = []
    for piece in pieces:
        try:
            records.append((piece.topic, parse(piece.payload)))
        except Bad:
            continue
    nested = [(topic, record) for topic, record in records if isinstance(record, dict | list)]
    if len(nested) * 2 <= len(pieces) or not nested:
        return None
    rows = _rows_path(nested)
    made = [(topic, row) for topic, record in nested for row in _elements(record, rows)][:ROWS_MAX]
    reasons = [f"JSON, {len(nested)} of {len(pieces)} records in the sample"]
    if rows is not None:
        where = f"'{rows}'" if rows != "$" else "the list" if isinstance(nested[0][1], list) else "the object"
        reasons.append(f"a row for each element of {where}")
    return Form(
        "json", {"rows": rows} if rows is not None else {}, [topic for topic, _ in made], _fields(made), reasons
    )


def _fields(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[SampledField]:
    paths = list(dict.fromkeys(path for _, row in rows for path in row))[:FIELDS_MAX]
    fields = []
    for path in paths:
        values = [row.get(path) for _, row in rows]
        texts = [value for value in values if isinstance(value, str) and value.strip()]
        plain = [value for value in values if _is_plain_number(value)]
        is_quoted = bool(texts) and not plain and all(as_number(text) is not None for text in texts)
        fields.append(SampledField(path, values, [_number(value, is_quoted=is_quoted) for value in values], is_quoted))
    return fields


def _number(value: Any, *, is_quoted: bool) -> float | None:
    if _is_plain_number(value):
        return float(value)
    return as_number(value) if is_quoted and isinstance(value, str) else None


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def flat(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield path and value of each scalar; of lists only short ones of scalars, and the first of those with objects."""
    if isinstance(value, dict) and depth < DEPTH_MAX:
        for key, inner in value.items():
            step = str(key).replace(".", "\\.")
            yield from flat(inner, f"{path}.{step}" if path else step, depth + 1)
    elif isinstance(value, list) and depth < DEPTH_MAX:
        for i, inner in enumerate(value[: LIST_MAX if len(value) <= LIST_MAX else 0]):
            yield from flat(inner, f"{path}.{i}" if path else str(i), depth + 1)
    elif path and isinstance(value, str | int | float | bool | None):
        yield path, value


def _elements(record: Any, rows: str | None) -> list[dict[str, Any]]:
    """The rows of one record, each by path as the decoder takes it."""
    if rows is None:
        return [dict(flat(record))] if isinstance(record, dict) else []
    if rows == "$" and isinstance(record, dict):
        inner = [(key, dict(flat(one)) if isinstance(one, dict) else {"@value": one}) for key, one in record.items()]
        return [{"@key": key, **one} for key, one in inner]
    listed = record
    for step in [] if rows == "$" else rows.split("."):
        listed = listed.get(step) if isinstance(listed, dict) else None
    if not isinstance(listed, list):
        return []
    around = {}
    if isinstance(record, dict):
        around = {f"$.{path}": v for path, v in flat(record) if not path.startswith(f"{rows}.")}
    elements = [dict(flat(one)) for one in listed]
    if rows == "$" and len(elements) > 1:
        only_first = elements[0].keys() - {path for one in elements[1:] for path in one}
        around = {f"$.0.{path}": elements[0][path] for path in only_first}
        elements[0] = {path: v for path, v in elements[0].items() if path not in only_first}
    return [{**around, **one} for one in elements]


def _rows_path(records: Sequence[tuple[str, Any]]) -> str | None:
    """Where the list of rows is, None where each record is one row."""
    if sum(isinstance(record, list) for _, record in records) * 2 > len(records):
        return "$"
    objects = [record for _, record in records if isinstance(record, dict)]
    if all(len(record) > 2 and all(map(is_time, record)) for record in objects):
        return "$"
    counted = Counter(path for record in objects for path in _lists(record))
    best: tuple[int, str] | None = None
    for path, times in counted.items():
        if times * 2 < len(objects):
            continue
        elements = [e for record in objects for e in _elements(record, path)]
        outside = {
            p for record in objects for p, v in flat(record)
            if _is_plain_number(v) and not p.startswith(f"{path}.") and not _is_beside(p)
        }  # fmt: skip
        inner = [{p: v for p, v in e.items() if not p.startswith("$.")} for e in elements]
        named = inner and all(any(NAME.match(p) for p in e) and any(VALUE.match(p) for p in e) for e in inner)
        numbers = sum(any(_is_plain_number(v) and not is_time_name(p) for p, v in e.items()) for e in inner)
        if not inner or (outside and not (named and len(inner) > len(outside))) or numbers == 0:
            continue
        if best is None or numbers > best[0]:
            best = numbers, path
    return None if best is None else best[1]


def _is_beside(path: str) -> bool:
    return is_time_name(path.rpartition(".")[2]) or is_about_the_record(path) or bool(re.search(r"\.\d+\.", path))


def _lists(value: Any, path: str = "", depth: int = 0) -> Iterator[str]:
    """Paths of lists of objects, or of lists of lists."""
    if not isinstance(value, dict) or depth >= DEPTH_MAX:
        return
    for key, inner in value.items():
        if "." in str(key):
            continue
        where = f"{path}.{key}" if path else str(key)
        if isinstance(inner, list) and inner and all(isinstance(one, dict | list) for one in inner):
            yield where
        yield from _lists(inner, where, depth + 1)


# ---------------------------------------------------------------------------------------------------------------- XML


def xml_form(pieces: Sequence[Piece]) -> Form | None:
    """Return the form of XML documents, None where they are none: rows are the elements that hold numbers and times."""
    payloads = [piece for piece in pieces if piece.payload.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")]
    if len(payloads) * 2 <= len(pieces) or not payloads:
        return None
    names = Counter(
        name
        for p in payloads
        for name in re.findall(r"<(?:\w+:)?([A-Za-z_][\w.-]*)", p.payload.decode("utf-8", "replace"))
    )
    leaves = _numeric_leaves(payloads)
    best: tuple[tuple[float, float], str, list[tuple[str, dict[str, Any]]]] | None = None
    for name, count in names.items():
        rows = _xml_rows(payloads, frozenset([name]), around=False)
        score = _worth(rows)
        if score > 0 and (best is None or (score, count) > best[0]):
            best = (score, float(count)), name, rows
    if best is not None and best[0][0] >= 2:
        reasons = [f"XML, a row for each <{best[1]}>"]
        return Form("xml", {"rows": best[1]}, [t for t, _ in best[2]], _xml_fields(best[2]), reasons)
    if leaves:
        rows = _xml_rows(payloads, frozenset(leaves), around=True)
        reasons = [f"XML, a row for each element with a number ({', '.join(leaves[:5])})"]
        return Form("xml", {"rows": leaves}, [t for t, _ in rows], _xml_fields(rows), reasons)
    rows = _xml_rows(payloads, frozenset(), around=False)
    return Form("xml", {}, [t for t, _ in rows], _xml_fields(rows), ["XML, a row for each document"]) if rows else None


def _worth(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> float:
    """How much elements of one name look like rows: with numbers inside, with a time, and several of them."""
    if not rows:
        return 0.0
    inner = [{p: v for p, v in row.items() if "." not in p and p not in (".", "name()") and v} for _, row in rows[:50]]
    numbers = sum(any(as_number(v) is not None for p, v in row.items() if not p.startswith("@")) for row in inner)
    times = sum(any(is_time(v) for v in row.values()) for row in inner)
    whole = sum(bool(row.get(".", "").strip()) is False for _, row in rows[:50])
    share = min(numbers, whole) / len(inner)
    return share + times / len(inner) + 0.5 * (len(rows) > 1) if share > 0.5 else 0.0


def _numeric_leaves(pieces: Sequence[Piece]) -> list[str]:
    """Names of elements whose own text is a number, and which carry their time or name as attributes."""
    names: Counter[str] = Counter()
    for _, row in _xml_rows(pieces, frozenset(["*"]), around=False):
        if as_number(row.get(".", "")) is not None and any(path.startswith("@") for path in row):
            names[row["name()"]] += 1
    return list(names)


def _xml_rows(pieces: Sequence[Piece], wanted: frozenset[str], *, around: bool) -> list[tuple[str, dict[str, Any]]]:
    rows = []
    for piece in pieces:
        document = Document(wanted, piece.payload, around=around)
        document.read()
        for element, _, _ in document.elements:
            rows.append((piece.topic, {path: text.strip() for path, text in element.items() if text is not None}))
    return rows[:ROWS_MAX]


def _xml_fields(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[SampledField]:
    paths = list(dict.fromkeys(path for _, row in rows for path in row))[:FIELDS_MAX]
    return [
        SampledField(path, values, [as_number(value or "") for value in values])
        for path in paths
        for values in ([row.get(path) or None for _, row in rows],)
    ]
