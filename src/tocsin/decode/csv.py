"""CSV: lines of a declared dialect, their columns found by the names in the file's header or by their order."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator, model_validator

from tocsin.batch import HEADER, Ints, times_us
from tocsin.decode._base import Records, raw
from tocsin.decode._builder import Builder, Decoded, from_text, joined, merged, utf8
from tocsin.decode._columns import WORDS, Column
from tocsin.decode._layout import END, KINDS, SKIP, Layout, Scan, offsets, ready, unit_code, zone_mode
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects
from tocsin.decode._signals import Origin, SignalDecoder

csv.field_size_limit(2**31 - 1)  # the limit is payload_max
_BOM = 0xEF
FILES_MAX = 10_000
"""Of how many files the header is remembered; beyond, those that began longest ago are forgotten."""
LAYOUTS_MAX = 256
"""Of how many different headers the layout of clean lines is remembered."""


@dataclass(slots=True)
class Head:
    """What is known of a file from its first lines."""

    names: tuple[str, ...] | None = None
    """The names in its header; None while that is still to come."""
    lines: int = 0
    """How many of its lines have passed, as far as it matters."""


@dataclass(slots=True)
class Csvs:
    """The files that are being read, by topic; and the layouts of clean lines, by the names of their fields."""

    heads: dict[str, Head] = field(default_factory=dict)
    layouts: dict[tuple[str, ...], list[Layout]] = field(default_factory=dict)

    def begin(self, topic: str, is_named: bool, order: tuple[str, ...]) -> None:
        """A file begins, with a header or else with fields in this order."""
        self.heads.pop(topic, None)
        self.heads[topic] = Head(None if is_named else order)
        while len(self.heads) > FILES_MAX:
            del self.heads[next(iter(self.heads))]


class Csv(SignalDecoder):
    """Lines of fields between delimiters to typed rows; a record holds one line or several.

    Use it for CSV files and for devices that send bare lines. Where a file has a header, columns are found by its
    names, in any order, each file by its own; a line without a header has its fields in the order of the columns. The
    dialect is declared, never guessed: a line with another number of fields, or ``21,5`` where the decimal is a point,
    is set aside with its reason and costs no other line. Fields in quotes may hold delimiters and, within one record,
    line ends. Clean lines cost 0.1 to 0.2 µs, those with quotes or thousands some 5 µs.

    Examples
    --------
    >>> decoder = Csv(delimiter=";", columns={"distance": "int", "humidity": "float"})
    >>> records = raw([b"12;48.5", b"13;n/a", b"14"])
    >>> feed(decoder, records).select(["distance", "humidity"]).to_pylist()
    [{'distance': 12, 'humidity': 48.5}]
    >>> feed(decoder, records, port="rejected")["reason"].to_pylist()
    ['type', 'csv_shape']

    RFC 4180.
    """

    EXAMPLES: ClassVar[Any] = (
        {"columns": {"machine": "category", "ts": "timestamp", "value": {"type": "float", "optional": True}}},
        {"columns": {"value": {"type": "text", "optional": True}}, "fields": ["m", "ts", "value"], "delimiter": ","},
        {"columns": {"m": "category"}, "fields": ["m", "ts", "value"], "signals": ["v{rest}", "auto"]},
    )

    delimiter: str = ","
    """What stands between fields; a blank stands for any run of blanks and tabs."""
    quote: str = '"'
    """What stands around fields that hold delimiters; empty for none."""
    decimal: str = "."
    """What stands before the fraction of a number; that may be the delimiter, where such numbers stand in quotes."""
    thousands: str = ""
    """What stands between groups of three digits, as ``.`` in 1.234,5."""
    fields: tuple[str, ...] = ()
    """All fields of a line in order, by name, where not all are columns and no header names them."""
    header: Literal["first", "each", "none"] = "first"
    """Where names stand: in the ``first`` line of each file (its source says which that is; devices send none), at the
    beginning of ``each`` record, or nowhere (``none``)."""
    skip: int | tuple[int, ...] = 0
    """How many lines at the beginning of each file to pass over; or which of its lines, as ``[2]`` for a line of
    units below the header."""
    comment: str = ""
    """What a line begins with that is to be passed over, as ``#``."""

    @field_validator("header", mode="before", json_schema_input_type=bool | Literal["first", "each", "none"])
    @classmethod
    def _yes_or_no(cls, header: Any) -> Any:
        return ("first" if header else "none") if isinstance(header, bool) else header

    @model_validator(mode="after")
    def _dialect_is_possible(self) -> Csv:
        for name, mark in (("delimiter", self.delimiter), ("quote", self.quote or "'"), ("decimal", self.decimal)):
            if len(mark) != 1 or not mark.isascii() or mark.isalnum() or mark in "\r\n":
                raise ValueError(f"{name} must be one ASCII character, no letter, digit or line end; it is {mark!r}")
        if self.quote in (self.delimiter, self.decimal) or (self.delimiter == self.decimal and not self.quote):
            raise ValueError("delimiter, quote and decimal must differ; without quotes delimiter and decimal, too")
        if len(self.thousands) > 1 or self.thousands.isalnum() or self.thousands in (self.decimal, "+", "-"):
            raise ValueError(f"thousands must be one character, and not that of decimal; it is {self.thousands!r}")
        if self.fields and (lacking := [p for p in self._paths() if p not in self.fields]):
            raise ValueError(f"column '{lacking[0]}' is not among the fields {', '.join(self.fields)}")
        return self

    # --------------------------------------------------------------------------------------------------------- state

    def initial(self) -> Csvs:
        return Csvs()

    def dump(self, state: Csvs) -> pa.Table:
        heads = list(state.heads.values())
        return pa.table(
            {
                "key": pa.array(list(state.heads), pa.string()),
                "names": pa.array([head.names for head in heads], pa.list_(pa.string())),
                "lines": pa.array([head.lines for head in heads], pa.int64()),
            }
        )

    def load(self, table: pa.Table) -> Csvs:
        if "names" not in table.column_names:  # of a time when headers were not read
            return Csvs()
        rows = table.to_pylist()
        return Csvs({r["key"]: Head(None if r["names"] is None else tuple(r["names"]), r["lines"]) for r in rows})

    # -------------------------------------------------------------------------------------------- which line is what

    def decode(self, state: Csvs, records: Records, rejects: Rejects) -> Decoded:
        if not len(records.payloads):
            return self._read_lines(state, None, records, None, rejects)
        topics, positions = records.batch.column("topic"), records.batch.column("position")
        if records.numbers is not None:
            topics, positions = (column.take(pa.array(records.numbers)) for column in (topics, positions))
        at = positions.to_numpy()
        is_start = at == HEADER if self.skip == 0 else at <= 0
        if not state.heads and not self.comment and not is_start.any():
            return self._read_lines(state, None, records, None, rejects)
        codes = topics.indices.to_numpy(zero_copy_only=False)
        is_one = bool((codes == codes[0]).all())
        head = state.heads.get(str(topics.dictionary[int(codes[0])].as_py())) if is_one else None
        if head is not None and not self.comment and not is_start.any() and self._is_past(head):
            return self._read_lines(state, head.names, records, None, rejects)
        parts = []
        for code in [codes[0]] if is_one else np.unique(codes):
            rows = np.flatnonzero(codes == code)
            topic = str(topics.dictionary[int(code)].as_py())
            for n, part in enumerate(np.split(rows, np.flatnonzero(is_start[rows]))):
                if n:
                    state.begin(topic, self.header == "first" and at[part[0]] == HEADER, self._order())
                if len(part):
                    parts.append(self._part(state, state.heads.get(topic), records, part, rejects))
        return joined(parts)

    def _part(self, state: Csvs, head: Head | None, records: Records, rows: Ints, rejects: Rejects) -> Decoded:
        """Lines of one file: those at its beginning by themselves, then all others."""
        if self.comment:
            comments = pc.starts_with(records.payloads.take(pa.array(rows)), pattern=self.comment)
            rows = rows[~np.asarray(comments.to_numpy(zero_copy_only=False), bool)]
        if head is None:
            return self._read_lines(state, None, records, rows, rejects)
        readings, taken = [], 0
        while taken < len(rows) and not self._is_past(head):
            head.lines += 1
            if head.lines not in self._passed:
                if head.names is None:
                    head.names = self._header(records, int(rows[taken]), rejects)
                else:
                    readings.append(rows[taken])
            taken += 1
        rows = np.concatenate([np.array(readings, np.int64), rows[taken:]])
        return self._read_lines(state, head.names, records, rows, rejects)

    @cached_property
    def _passed(self) -> Sequence[int]:
        return range(1, self.skip + 1) if isinstance(self.skip, int) else self.skip

    def _is_past(self, head: Head) -> bool:
        """Whether all that stands at the beginning of a file has been read."""
        return head.names is not None and head.lines >= max(self._passed, default=0)

    def _header(self, records: Records, i: int, rejects: Rejects) -> tuple[str, ...]:
        """The names in a header line; one without a required column is set aside, as are all lines below it."""
        names: tuple[str, ...] = ()
        try:
            names = tuple(name.strip() for name in next(self.fields_of(utf8(records.payloads[i].as_py())), ()))
            self._check(names)
        except Bad as bad:
            rejects.add(records.row(i), bad)
        return names

    def _check(self, names: tuple[str, ...]) -> None:
        """`Bad` if lines below a header of these names cannot be read."""
        for column, path in zip(self.columns.values(), self._paths(), strict=True):
            if names.count(path) > 1:
                raise Bad("csv_header", f"the header names '{path}' twice")
            if path not in names and not column.optional:
                said = f"the header has no '{path}'; it has {', '.join(names)[:300]}"
                raise Bad("csv_header", f"{said} (for a file without a header say header: none)")

    # ---------------------------------------------------------------------------------------------------- its fields

    def _read_lines(
        self, state: Csvs, header: tuple[str, ...] | None, records: Records, rows: Ints | None, rejects: Rejects
    ) -> Decoded:
        """The readings in some lines, whose fields are named by a header, or else in their order."""
        names = self._order() if header is None else header
        try:
            if header is not None and header != self._order():
                self._check(names)
        except Bad as bad:
            rows = np.arange(len(records.payloads)) if rows is None else rows
            for i in rows.tolist():
                rejects.add(records.row(i), bad)
            rows = rows[:0]
        payloads = records.payloads
        if rows is not None and len(rows) < len(payloads):
            beside = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
            payloads = payloads.slice(rows[0], len(rows)) if beside else payloads.take(pa.array(rows))
        if self.delimiter == " ":
            payloads = self._without_runs(payloads)
        if self.signals:
            return self._by_signal(names, records, payloads, rows, rejects, header is not None)
        scan = self._scan(state, names, payloads, header is not None)
        zones = [column.zone for column in self.columns.values()]
        if scan.matched.all() and rows is None:
            return Decoded(scan.arrays(zones), None)
        builder = Builder(self.told, rejects)
        origins = np.arange(len(payloads)) if rows is None else rows
        for i in np.flatnonzero(~scan.matched).tolist():  # some 5 us a line
            origin = int(origins[i])
            self._read(names, origin, records.row(origin), payloads[i].as_py(), builder, rejects, header is not None)
        return merged(scan.arrays(zones), origins[scan.matched], builder)

    def _by_signal(
        self, names: tuple[str, ...], records: Records, payloads: pa.Array, rows: Ints | None, rejects: Rejects,
        is_header: bool,
    ) -> Decoded:  # fmt: skip
        """A row for each signal of each line."""
        builder = Builder(self.made, rejects)
        origins = np.arange(len(payloads)) if rows is None else rows
        for origin, payload in zip(origins.tolist(), payloads.to_pylist(), strict=True):
            self._read(names, origin, records.row(origin), payload, builder, rejects, is_header)
        return Decoded(*builder.finish())

    def _scan(self, state: Csvs, names: tuple[str, ...], payloads: pa.Array, is_header: bool) -> Scan:
        """What the compiled loop can read."""
        ends = offsets(payloads)
        scan = Scan(payloads, ends, [KINDS[column.type] for column in self.columns.values()])
        if not len(payloads) or not ready(len(payloads)):
            return scan
        firsts = np.frombuffer(scan.data, np.uint8)[ends[:-1]]
        suits = firsts != _BOM
        if is_header and all(column.type in WORDS for column in self.columns.values()):
            # A header that is repeated further down would be taken for a reading.
            suits &= ~np.asarray(pc.starts_with(payloads, pattern=names[0]).to_numpy(zero_copy_only=False), bool)
        scan.left = np.flatnonzero(suits)
        for layout in sorted(
            self._layouts(state, names), key=lambda layout: layout.end != _line_end(payloads[0].as_py())
        ):
            if len(scan.left):
                scan.run(layout, False, ord(self.delimiter), ord(self.quote or self.delimiter), ord(self.decimal))
        return scan

    def _layouts(self, state: Csvs, names: tuple[str, ...]) -> list[Layout]:
        """The layouts of clean lines, by how a line ends; none where lines must be read one by one."""
        if names not in state.layouts:
            if len(state.layouts) >= LAYOUTS_MAX:
                state.layouts.clear()
            is_in_quotes = self.delimiter == self.decimal  # are numbers
            one_by_one = self.header == "each" or len(names) == 1 or self.is_read_one_by_one or is_in_quotes
            ends = () if one_by_one else (b"", b"\n", b"\r\n")
            state.layouts[names] = [self._layout(names, end) for end in ends]
        return state.layouts[names]

    def _without_runs(self, payloads: pa.Array) -> pa.Array:
        """Lines with one blank in place of each run of blanks and tabs, and none at their ends."""
        single = pc.replace_substring_regex(payloads, pattern=r"[ \t]+", replacement=" ")
        single = pc.replace_substring_regex(single, pattern=r"^ | (\r?\n?)$", replacement=r"\1")
        if not self.quote:
            return single
        return pc.if_else(pc.match_substring(payloads, pattern=self.quote), payloads, single)

    def _read(
        self, names: tuple[str, ...], origin: int, row: int, payload: bytes, builder: Builder, rejects: Rejects,
        is_header: bool,
    ) -> None:  # fmt: skip
        """Add the lines of one record, strictly."""
        count = 0
        try:
            for fields in self.fields_of(utf8(payload)):
                count += 1
                if self.header == "each" and count == 1:
                    names = tuple(fields)
                    continue
                if is_header and tuple(name.strip() for name in fields) == names:
                    continue  # a logger that began again
                line = self.delimiter.join(fields).encode()
                try:
                    values, at = self._values(names, fields), Origin(origin, row, None if count == 1 else line)
                    self.add(builder, rejects, at, values, zip(names, fields, strict=True), self._number)
                except Bad as bad:
                    rejects.add(row, bad, None if count == 1 else line)
        except Bad as bad:
            rejects.add(row, bad)
            return
        if count <= int(self.header == "each"):
            rejects.add(row, Bad("empty", "no line"))

    def fields_of(self, text: str) -> Iterator[list[str]]:
        if self.delimiter == " ":
            text = re.sub(r"[ \t]+(?=\r?\n|$)", "", text)
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            skipinitialspace=self.delimiter == " ",
            strict=True,
        )
        try:
            yield from (fields for fields in reader if fields and (len(fields) > 1 or fields[0].strip()))
        except csv.Error as error:
            raise Bad("csv_shape", str(error)) from error

    def _number(self, name: str, column: Column, text: str) -> Any:
        return from_text(name, column, text, self.decimal, self.thousands)

    def _values(self, names: tuple[str, ...], fields: list[str]) -> list[Any]:
        if len(fields) != len(names):
            raise Bad("csv_shape", f"{len(fields)} fields, not {len(names)}")
        by_name = dict(zip(names, fields, strict=True))
        return [
            from_text(name, column, by_name.get(path, ""), self.decimal, self.thousands)
            for (name, column), path in zip(self.told.items(), self._paths(), strict=True)
        ]

    def _paths(self) -> list[str]:
        return [column.path or name for name, column in self.columns.items()]

    def _order(self) -> tuple[str, ...]:
        return self.fields or tuple(self._paths())

    def _layout(self, names: tuple[str, ...], end: bytes) -> Layout:
        layout, literal = Layout(), b""
        at = {path: c for c, path in enumerate(self._paths())}
        columns = list(self.columns.values())
        for name in names:
            if name in at:
                column = columns[at[name]]
                settings = (int(column.optional), unit_code(column.unit), zone_mode(column.zone))
                layout.add(literal, KINDS[column.type], at[name], settings)
            else:
                layout.add(literal, SKIP)
            literal = self.delimiter.encode()
        layout.add(end, END)
        layout.end = end
        return layout

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        lines = []
        for i, (value, us) in enumerate(zip(rows.column("value").to_pylist(), times_us(rows).tolist(), strict=True)):
            stamp = np.datetime_as_string(np.datetime64(us, "us"), "ms") + "Z"
            line = f"m{i % 3},{stamp},{'' if value is None else value}"
            lines.append((line + (",more" if i % 10 == 3 else "") + ("\n" if i % 2 else "")).encode())
        return raw(lines, "lines.csv", 0)


def _line_end(line: bytes) -> bytes:
    return b"\r\n" if line.endswith(b"\r\n") else b"\n" if line.endswith(b"\n") else b""
