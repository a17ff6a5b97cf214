"""CSV: lines of a declared dialect."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from tocsin.batch import Ints, times_us
from tocsin.decode._base import Decoder, raw
from tocsin.decode._builder import Builder, Decoded, from_text, merged, utf8
from tocsin.decode._layout import END, KINDS, SKIP, Layout, Scan, offsets, ready, unit_code, zone_mode
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects

csv.field_size_limit(2**31 - 1)  # the limit is payload_max
_BOM = 0xEF


class Csv(Decoder):
    """Lines of fields between delimiters to typed rows; a record holds one line or several.

    Use it for CSV files and for devices that send bare lines. The dialect is declared, never guessed: a line with
    another number of fields, or ``21,5`` where the decimal is a point, is set aside with its reason and costs no other
    line. Fields in quotes may hold delimiters and, within one record, line ends. Clean lines cost 0.1 to 0.2 µs, those
    with quotes some 5 µs.

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
    )

    delimiter: str = ","
    """What stands between fields."""
    quote: str = '"'
    """What stands around fields that hold delimiters; empty for none."""
    decimal: str = "."
    """What stands before the fraction of a number."""
    fields: tuple[str, ...] = ()
    """All fields of a line in order, by name, where not all are columns; else they are the columns in their order."""
    header: bool = False
    """Whether each record begins with a line of names. (A header at the start of a file is the source's to skip.)"""

    @model_validator(mode="after")
    def _dialect_is_possible(self) -> Csv:
        for name, mark in (("delimiter", self.delimiter), ("quote", self.quote or "'"), ("decimal", self.decimal)):
            if len(mark) != 1 or not mark.isascii() or mark.isalnum() or mark in "\r\n":
                raise ValueError(f"{name} must be one ASCII character, no letter, digit or line end; it is {mark!r}")
        if len({self.delimiter, self.quote, self.decimal}) < 3:
            raise ValueError("delimiter, quote and decimal must differ")
        if self.fields and (lacking := [p for p in self._paths() if p not in self.fields]):
            raise ValueError(f"column '{lacking[0]}' is not among the fields {', '.join(self.fields)}")
        return self

    def initial(self) -> list[Layout]:
        """The layouts of clean lines, by how a line ends; none where lines must be read one by one."""
        names = self._names()
        if self.header or len(names) == 1:
            return []
        return [self._layout(names, end) for end in (b"", b"\n", b"\r\n")]

    def decode(self, state: list[Layout], payloads: pa.Array, numbers: Ints | None, rejects: Rejects) -> Decoded:
        ends = offsets(payloads)
        scan = Scan(payloads, ends, [KINDS[column.type] for column in self.columns.values()])
        if len(payloads):
            firsts = np.frombuffer(scan.data, np.uint8)[ends[:-1]]
            scan.left = np.flatnonzero(firsts != _BOM)
            state = (
                []
                if not ready(len(payloads))
                else sorted(state, key=lambda layout: layout.end != _line_end(payloads[0].as_py()))
            )
        for layout in state:
            if len(scan.left):
                scan.run(layout, False, ord(self.delimiter), ord(self.quote or self.delimiter), ord(self.decimal))
        zones = [column.zone for column in self.columns.values()]
        if scan.matched.all():
            return Decoded(scan.arrays(zones), None)
        builder = Builder(self.columns, rejects)
        for i in np.flatnonzero(~scan.matched).tolist():  # some 5 us a line
            self._read(i, i if numbers is None else int(numbers[i]), payloads[i].as_py(), builder, rejects)
        return merged(scan.arrays(zones), np.flatnonzero(scan.matched), builder)

    def _read(self, origin: int, row: int, payload: bytes, builder: Builder, rejects: Rejects) -> None:
        """Add the lines of one record, strictly."""
        names, count = self._names(), 0
        try:
            for fields in self._lines(utf8(payload)):
                count += 1
                if self.header and count == 1:
                    names = tuple(fields)
                    continue
                line = self.delimiter.join(fields).encode()
                try:
                    builder.add(origin, row, self._values(names, fields), None if count == 1 else line)
                except Bad as bad:
                    rejects.add(row, bad, None if count == 1 else line)
        except Bad as bad:
            rejects.add(row, bad)
            return
        if count <= int(self.header):
            rejects.add(row, Bad("empty", "no line"))

    def _lines(self, text: str) -> Iterator[list[str]]:
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            strict=True,
        )
        try:
            yield from (fields for fields in reader if fields and (len(fields) > 1 or fields[0].strip()))
        except csv.Error as error:
            raise Bad("csv_shape", str(error)) from error

    def _values(self, names: tuple[str, ...], fields: list[str]) -> list[Any]:
        if len(fields) != len(names):
            raise Bad("csv_shape", f"{len(fields)} fields, not {len(names)}")
        by_name = dict(zip(names, fields, strict=True))
        return [
            from_text(name, column, by_name.get(path, ""), self.decimal)
            for (name, column), path in zip(self.columns.items(), self._paths(), strict=True)
        ]

    def _paths(self) -> list[str]:
        return [column.path or name for name, column in self.columns.items()]

    def _names(self) -> tuple[str, ...]:
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
