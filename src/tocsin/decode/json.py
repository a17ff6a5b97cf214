"""JSON: objects, arrays, nested fields; strict."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tocsin.batch import Ints, times_us
from tocsin.decode._base import DEPTH_MAX, Decoder, raw
from tocsin.decode._builder import INT_END, Builder, Decoded, finite, merged, utf8, without_null
from tocsin.decode._columns import Column
from tocsin.decode._layout import END, KINDS, SKIP, Layout, Scan, offsets, ready, unit_code, zone_mode
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects

LAYOUTS_MAX = 8
"""How many layouts of records are remembered; records of others are parsed one by one."""
LEARN_MAX = 64
"""How many records are looked at to learn layouts, before giving up."""
FIELDS_MAX, FIELD_LENGTH_MAX = 1_000, 128
"""How many names of fields are remembered, to count those that no column takes, and of what length."""


class Json(Decoder):
    """One JSON object a record (or an array of rows in it) to typed rows.

    Use it for NDJSON files and JSON over MQTT, Kafka or HTTP. Fields that are not declared are passed over. It is
    strict: a field twice, NaN, an integer beyond 64 bits, text for a number are set aside with their reason, and cost
    no other row. Records that are laid out like earlier ones cost 0.1 to 0.2 µs; others (escapes in text, fields in
    ever new orders) some 10 µs. Not for JSON that spans several records.

    Examples
    --------
    >>> decoder = Json(columns={"machine": "category", "celsius": {"path": "data.t", "type": "float"}})
    >>> good, bad = b'{"machine": "pump", "data": {"t": 21.5}}', b'{"machine": "pump", "data": {"t": NaN}}'
    >>> records = raw([good, bad])
    >>> feed(decoder, records).select(["machine", "celsius"]).to_pylist()
    [{'machine': 'pump', 'celsius': 21.5}]
    >>> feed(decoder, records, port="rejected")["reason"].to_pylist()
    ['json_nonfinite']

    RFC 8259.
    """

    EXAMPLES: ClassVar[Any] = (
        {"columns": {"machine": "category", "ts": "timestamp", "value": {"type": "float", "optional": True}}},
        {"columns": {"data.values.0": "float", "n": "int"}, "topic": "plant/{site}/+"},
    )

    rows: str | None = None
    """Where the array of rows stands in a record, as ``data.points``; ``$`` if the record is the array. Paths of
    columns then start at a row, or with ``$.`` at the record."""

    def initial(self) -> _Layouts:
        return _Layouts(self)

    def counters(self, state: _Layouts) -> dict[str, int]:
        return {"unknown_fields": state.unknown_fields()}

    def decode(self, state: _Layouts, payloads: pa.Array, numbers: Ints | None, rejects: Rejects) -> Decoded:
        scan = state.scan(payloads) if self.rows is None else None
        left = np.arange(len(payloads)) if scan is None else scan.left
        if scan is not None and not len(left):
            return Decoded(scan.arrays(state.zones), None)
        builder = Builder(self.columns, rejects)
        for i in left.tolist():  # 5 to 10 us a record
            row = i if numbers is None else int(numbers[i])
            payload = payloads[i].as_py()
            try:
                record = parse(payload)
                if self.rows is None:
                    state.meet(record)
                    builder.add(i, row, self._values(record, record))
                    continue
                elements = _elements(record, self.rows)
            except Bad as bad:
                rejects.add(row, bad)
                continue
            for n, element in enumerate(elements):
                try:
                    builder.add(i, row, self._values(element, record), _text(element) if len(elements) > 1 else None)
                except Bad as bad:
                    rejects.add(row, Bad(bad.reason, f"row {n}: {bad.detail}"), _text(element))
        if scan is None:
            return Decoded(*builder.finish())
        return merged(scan.arrays(state.zones), np.flatnonzero(scan.matched), builder)

    def _values(self, element: Any, record: Any) -> list[Any]:
        """The columns' values of one row."""
        if not isinstance(element, dict) and (self.rows is None or not isinstance(element, list)):
            raise Bad("shape", f"an object is wanted, not {_kind(element)}")
        return [
            _value(name, column, _at(record if steps[0] == "$" else element, steps[steps[0] == "$" :]))
            for (name, column), steps in zip(self.columns.items(), self._paths(), strict=True)
        ]

    def _paths(self) -> list[list[str]]:
        return [_steps(name, column) for name, column in self.columns.items()]

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        lines = []
        for i, (value, us) in enumerate(zip(rows.column("value").to_pylist(), times_us(rows).tolist(), strict=True)):
            stamp = np.datetime_as_string(np.datetime64(us, "us"), "ms") + "Z"
            record = {"machine": f"m{i % 3}", "ts": stamp, "value": value, "n": i, "data": {"values": [i / 7, 1]}}
            lines.append(b"{" if i % 10 == 3 else json.dumps(record).encode())
        return raw(lines, "plant/north/t", 0)


# ------------------------------------------------------------------------------------------------- one by one, strictly


class _Huge:
    """An integer beyond 64 bits."""


_HUGE = _Huge()
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(payload: bytes) -> Any:
    """A payload's value; `Bad` for all that strict JSON forbids, and for what is nested too deep."""
    if payload.count(b"[") + payload.count(b"{") > DEPTH_MAX:
        _check_depth(payload)
    text = utf8(payload)
    if not text.strip():
        raise Bad("empty", "nothing but blanks")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise Bad("json_syntax", str(error)) from error
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as error:
            raise Bad("encoding", "a lone surrogate") from error
    return value


def _check_depth(payload: bytes) -> None:
    depth = 0
    for token in _TOKENS.finditer(payload):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth > DEPTH_MAX:
                raise Bad("depth", f"nested more than {DEPTH_MAX} deep")
        elif token[0] in (b"]", b"}"):
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Bad("duplicate_key", f"{twice[:100]!r} stands twice")
    return fields


def _integer(text: str) -> Any:
    if len(text) > 20:
        return _HUGE
    number = int(text)
    return number if -INT_END <= number < INT_END else _HUGE


def _constant(text: str) -> Any:
    raise Bad("json_nonfinite", f"{text} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)


def _steps(name: str, column: Column) -> list[str]:
    return (column.path or name).split(".")


def _at(value: Any, steps: list[str]) -> Any:
    """What stands at a path, None if nothing does."""
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _elements(record: Any, path: str) -> list[Any]:
    elements = _at(record, [step for step in path.split(".") if step != "$"])
    if not isinstance(elements, list):
        raise Bad("shape", f"an array is wanted at {path}, not {_kind(elements)}")
    return elements


def _value(name: str, column: Column, value: Any) -> Any:
    """The value as its column's type (a timestamp as text); `Bad` if it is of another."""
    if value is None:
        if column.optional:
            return None
        raise Bad("missing_field", f"{name} is required")
    if value is _HUGE and column.type in ("int", "float", "timestamp"):
        raise Bad("number_range", f"{name} does not fit 64 bits")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match column.type:
        case "int" if number and (isinstance(value, int) or (value.is_integer() and abs(value) < INT_END)):
            return int(value)
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
    raise Bad("type", f"{name} should be {column.type}, not {_kind(value)}")


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "text", bool: "a bool", type(None): "null", _Huge: "a number"}
    return kinds.get(type(value), "a number")


def _text(element: Any) -> bytes:
    return json.dumps(element, ensure_ascii=False, default=str).encode("utf-8", "replace")


# ------------------------------------------------------------------------------------------------------- all at once


class _Layouts:
    """What was learnt about how records are laid out: saves time, and changes nothing."""

    def __init__(self, decoder: Json) -> None:
        self._decoder = decoder
        self._columns = dict(decoder.columns)
        self._slots = {tuple(steps): c for c, steps in enumerate(decoder._paths())}
        self._kinds = [KINDS[column.type] for column in decoder.columns.values()]
        self.zones = [column.zone for column in decoder.columns.values()]
        self._layouts: list[Layout] = []
        self._tries = 0
        self._tops = {steps[steps[0] == "$"] for steps in decoder._paths() if steps != ["$"]}
        self._met: set[str] = set()

    def meet(self, record: Any) -> None:
        """Remember the fields of a record, which may be new."""
        if isinstance(record, dict) and not record.keys() <= self._met and len(self._met) < FIELDS_MAX:
            self._met.update(name for name in record if len(name) <= FIELD_LENGTH_MAX)

    def unknown_fields(self) -> int:
        """Returns how many fields there are, of all records so far, that no column takes."""
        return len(self._met - self._tops)

    def scan(self, payloads: pa.Array) -> Scan | None:
        if len(self._slots) < len(self._kinds) or not len(payloads):
            return None  # two columns from one place
        if not ready(len(payloads)):
            return None
        scan = Scan(payloads, offsets(payloads), self._kinds)
        for layout in self._layouts:
            if len(scan.left):
                scan.run(layout, quoted=True)
        skipped = 0
        while len(scan.left) > skipped and len(self._layouts) < LAYOUTS_MAX and self._tries < LEARN_MAX:
            self._tries += 1
            before = len(scan.left)
            layout_learnt = self._learn(payloads[int(scan.left[skipped])].as_py())
            if layout_learnt is not None:
                scan.run(layout_learnt, quoted=True)
            if layout_learnt is None or len(scan.left) == before:
                skipped += 1
            else:
                self._layouts.append(layout_learnt)
        return scan

    def _learn(self, payload: bytes) -> Layout | None:
        try:
            record = parse(payload)
            self.meet(record)
            self._decoder._values(record, record)
            if not isinstance(record, dict) or payload.startswith(b"\xef"):
                return None
        except Bad:
            return None
        return self._layout(payload.decode())

    def _layout(self, text: str) -> Layout | None:
        """The layout of a record that is known to be good."""
        layout, literal = Layout(), 0
        names = list(self._columns)
        path: list[Any] = []
        seen: set[int] = set()
        for token in _LEXER.finditer(text):
            kind, at = token.lastgroup, token.start()
            if kind == "open":
                path.append(0 if token[0] == "[" else None)
            elif kind == "close":
                path.pop()
            elif token[0] == ",":
                path[-1] = path[-1] + 1 if isinstance(path[-1], int) else None
            elif path and path[-1] is None:
                path[-1] = json.loads(token[0])
            elif kind == "scalar":
                c = self._slots.get(tuple(map(str, path)))
                before = text[literal:at].encode()
                if c is None:
                    layout.add(before, SKIP)
                else:
                    column = self._columns[names[c]]
                    settings = (int(column.optional), unit_code(column.unit), zone_mode(column.zone))
                    layout.add(before, self._kinds[c], c, settings)
                    seen.add(c)
                literal = token.end()
        layout.add(text[literal:].encode(), END)
        missing = [c for c in range(len(names)) if c not in seen and not self._columns[names[c]].optional]
        return None if missing else layout


_LEXER = re.compile(
    r'(?P<open>[\[{])|(?P<close>[\]}])|(?P<comma>,)|(?P<scalar>"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null)'
)

__all__ = ["Json"]
