"""JSON: objects, arrays, nested fields; strict."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tocsin.batch import times_us
from tocsin.decode._base import DEPTH_MAX, Records, raw
from tocsin.decode._builder import INT_END, Builder, Decoded, float_of, merged, utf8
from tocsin.decode._layout import END, KINDS, SKIP, Layout, Scan, offsets, ready, unit_code, zone_mode
from tocsin.decode._paths import ELEMENT, elements_at, steps_of, value_at, where
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects
from tocsin.decode._signals import Origin, SignalDecoder
from tocsin.decode._values import HUGE, NAN, from_value, kind

LAYOUTS_MAX = 8
"""How many layouts of records are remembered; records of others are parsed one by one."""
LEARN_MAX = 64
"""How many records are looked at to learn layouts, before giving up."""
FIELDS_MAX, FIELD_LENGTH_MAX = 1_000, 128
"""How many names of fields are remembered, to count those that no column takes, and of what length."""


class Json(SignalDecoder):
    """One JSON object a record (or an array of rows in it) to typed rows.

    Use it for NDJSON files and JSON over MQTT, Kafka or HTTP. Fields that are not declared are passed over. It is
    strict: a field twice, an integer beyond 64 bits, text for a number are set aside with their reason, and cost no
    other row; NaN and infinities are null where a column is ``optional``. A path goes through nested fields by dots;
    where there are none, ``a.b`` also finds a key with a dot in it, and ``a\\.b`` only that. Several optional columns
    may have one path and different types: a value goes to those that it fits.

    Records that are laid out like earlier ones cost 0.1 to 0.2 µs; others (escapes in text, fields in ever new orders)
    some 10 µs. Not for JSON that spans several records.

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
        {"columns": {"ts": "timestamp"}, "signals": ["auto"]},
    )

    rows: str | None = None
    """Where the array of rows stands in a record, as ``data.points``, or an object of rows by name; ``$`` if it is the
    record itself. Paths of columns then start at a row, or with ``$.`` at the record; ``@key`` is the row's name."""

    def initial(self) -> _Layouts:
        return _Layouts(self)

    def counters(self, state: _Layouts) -> dict[str, int]:
        return {} if self.signals else {"unknown_fields": state.unknown_fields()}

    def decode(self, state: _Layouts, records: Records, rejects: Rejects) -> Decoded:
        payloads = records.payloads
        scan = state.scan(payloads) if self.rows is None and not self.signals else None
        left = np.arange(len(payloads)) if scan is None else scan.left
        if scan is not None and not len(left):
            return Decoded(scan.arrays(state.zones), None)
        builder = Builder(self.made, rejects)
        for i in left.tolist():  # 5 to 10 us a record
            row = records.row(i)
            payload = payloads[i].as_py()
            try:
                record = parse(payload)
                if self.rows is None:
                    state.meet(record)
                    values = self._values(record, record)
                    self.add(builder, rejects, Origin(i, row, None), values, _leaves(record), from_value)
                    continue
                elements = elements_at(record, self.rows)
            except Bad as bad:
                rejects.add(row, bad)
                continue
            for name, element in elements:
                try:
                    values = self._values(element, record, name)
                    origin = Origin(i, row, _text(element) if len(elements) > 1 else None)
                    self.add(builder, rejects, origin, values, _leaves(element), from_value)
                except Bad as bad:
                    rejects.add(row, Bad(bad.reason, f"row {name}: {bad.detail}"), _text(element))
        if scan is None:
            return Decoded(*builder.finish())
        return merged(scan.arrays(state.zones), np.flatnonzero(scan.matched), builder)

    def _values(self, element: Any, record: Any, name_in_rows: str | None = None) -> list[Any]:
        """The columns' values of one row."""
        if self.rows is None and not isinstance(element, dict):
            raise Bad("shape", f"an object is wanted, not {kind(element)}")
        if not isinstance(element, dict | list) and not self._takes_values:
            raise Bad("shape", f"an object is wanted, not {kind(element)}")
        values: list[Any] = []
        others: dict[str, Bad] = {}
        for (name, column), steps in zip(self.told.items(), self._paths, strict=True):
            value = value_at(steps, element, record, name_in_rows)
            try:
                values.append(from_value(name, column, value))
            except Bad as bad:
                if bad.reason != "type" or not column.optional or self._paths.count(steps) == 1:
                    raise
                values.append(None)  # another column of the same path may take it
                others[name] = bad
        for name, refused in others.items():
            steps = self._paths[list(self.told).index(name)]
            if all(value is None for value, path in zip(values, self._paths, strict=True) if path == steps):
                raise refused
        return values

    @cached_property
    def _paths(self) -> list[tuple[str, ...]]:
        return [steps_of(column.path or name) for name, column in self.columns.items()]

    @cached_property
    def _takes_values(self) -> bool:
        return (ELEMENT,) in self._paths

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        lines = []
        for i, (value, us) in enumerate(zip(rows.column("value").to_pylist(), times_us(rows).tolist(), strict=True)):
            stamp = np.datetime_as_string(np.datetime64(us, "us"), "ms") + "Z"
            record = {"machine": f"m{i % 3}", "ts": stamp, "value": value, "n": i, "data": {"values": [i / 7, 1]}}
            lines.append(b"{" if i % 10 == 3 else json.dumps(record).encode())
        return raw(lines, "plant/north/t", 0)


# ------------------------------------------------------------------------------------------------- one by one, strictly


def _leaves(value: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """All fields of an object and of those in it, with their names by dots; lists are passed over."""
    if isinstance(value, dict):
        for name, inner in value.items():
            path = f"{before}.{name}" if before else name
            if isinstance(inner, dict):
                yield from _leaves(inner, path)
            elif not isinstance(inner, list):
                yield path, inner


_BARE_NAN = re.compile(
    r'"(?:[^"\\]|\\.)*+"|[+-]?\b(?:nan|infinity|inf|1\.#(?:qnan|snan|ind|inf))\b', re.IGNORECASE | re.DOTALL
)
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
        plain = _BARE_NAN.sub(lambda match: match[0] if match[0][0] == '"' else "NaN", text)
        try:
            value = _DECODER.decode(plain) if plain != text else None
        except json.JSONDecodeError:
            plain = text
        if plain == text:
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
        return HUGE
    number = int(text)
    return number if -INT_END <= number < INT_END else HUGE


def _constant(text: str) -> Any:
    return NAN


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=float_of, parse_constant=_constant
)


def _text(element: Any) -> bytes:
    return json.dumps(element, ensure_ascii=False, default=str).encode("utf-8", "replace")


# ------------------------------------------------------------------------------------------------------- all at once


class _Layouts:
    """What was learnt about how records are laid out: saves time, and changes nothing."""

    def __init__(self, decoder: Json) -> None:
        self._decoder = decoder
        self._columns = dict(decoder.told)
        self._kinds = [KINDS[column.type] for column in decoder.columns.values()]
        self.zones = [column.zone for column in decoder.columns.values()]
        # Not where two columns come from one place.
        self._suits = len(set(decoder._paths)) == len(self._kinds) and not decoder.is_read_one_by_one
        self._layouts: list[Layout] = []
        self._tries = 0
        self._tops = {steps[steps[0] == "$"] for steps in decoder._paths if steps != ("$",)}
        self._met: set[str] = set()

    def meet(self, record: Any) -> None:
        """Remember the fields of a record, which may be new."""
        if isinstance(record, dict) and not record.keys() <= self._met and len(self._met) < FIELDS_MAX:
            self._met.update(name for name in record if len(name) <= FIELD_LENGTH_MAX)

    def unknown_fields(self) -> int:
        """Returns how many fields there are, of all records so far, that no column takes."""
        return len(self._met - self._tops)

    def scan(self, payloads: pa.Array) -> Scan | None:
        if not self._suits or not len(payloads):
            return None
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
            if not isinstance(record, dict) or not payload.startswith((b"{", b" ", b"\t")):
                return None
        except Bad:
            return None
        paths = [steps[1:] if steps[0] == "$" else steps for steps in self._decoder._paths]
        slots = {where(record, steps): c for c, steps in enumerate(paths)}
        return self._layout(payload.decode(), slots)

    def _layout(self, text: str, slots: Mapping[tuple[Any, ...] | None, int]) -> Layout | None:
        """The layout of a record that is known to be good, and whose columns stand at certain paths."""
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
                c = slots.get(tuple(path))
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
