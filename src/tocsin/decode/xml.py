"""XML: repeated elements to rows; no entities, no document types."""

from __future__ import annotations

from typing import Any, ClassVar
from xml.parsers import expat

import numpy as np
import pyarrow as pa

from tocsin.batch import times_us
from tocsin.decode._base import DEPTH_MAX, Decoder, Records, raw
from tocsin.decode._builder import Builder, Decoded, from_text, utf8
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects

_ENCODING_ERRORS = {
    expat.errors.codes[expat.errors.XML_ERROR_UNKNOWN_ENCODING],
    expat.errors.codes[expat.errors.XML_ERROR_INCORRECT_ENCODING],
}
_BLANK = expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS]
_TOKEN = expat.errors.codes[expat.errors.XML_ERROR_INVALID_TOKEN]


ANY, OWN_TEXT, OWN_NAME = "*", ".", "name()"


class Xml(Decoder):
    """One row for each element of a name, from the elements and attributes in it.

    Use it for exports of historians and controllers, and for MTConnect. Columns are found by the names of the elements
    inside: ``a.b`` for nested ones, ``@a`` for an attribute, ``.`` for the element's own text, ``name()`` for its
    name, ``$.Device.@name`` for an attribute of the nearest ``Device`` around it. Namespaces are passed over. Document
    types and entities are refused before they can do harm, as are more than 32 levels. A bad element is set aside and
    its siblings go on. Not for mixed text, and slow beside JSON: some 10 µs a row.

    Examples
    --------
    >>> decoder = Xml(rows="Reading", columns={"Tag": "category", "Value": "float"})
    >>> records = raw([b"<a><Reading><Tag>J1</Tag><Value>1.5</Value></Reading><Reading><Tag>J2</Tag></Reading></a>"])
    >>> feed(decoder, records).select(["Tag", "Value"]).to_pylist()
    [{'Tag': 'J1', 'Value': 1.5}]
    >>> feed(decoder, records, port="rejected")["reason"].to_pylist()
    ['missing_field']

    XML 1.0 (fifth edition).
    """

    EXAMPLES: ClassVar[Any] = (
        {"rows": "Reading", "columns": {"Tag": "category", "Value": {"type": "float", "optional": True}}},
        {"columns": {"Reading.@id": "int", "Reading.TimeStamp": "timestamp"}},
    )

    rows: str | tuple[str, ...] | None = None
    """Name of the element that is repeated, one a row, or several names; ``*`` takes every element that has no other
    inside. If none is named, the whole document is one row."""

    def decode(self, state: None, records: Records, rejects: Rejects) -> Decoded:
        builder = Builder(self.told, rejects)
        wanted = frozenset([self.rows] if isinstance(self.rows, str) else self.rows or ())
        told = None if self.encoding == "utf-8" else "utf-8"  # what it is in by now, whatever the document says
        around = any((column.path or name).startswith("$.") for name, column in self.columns.items())
        for i, payload in enumerate(records.payloads.to_pylist()):  # expat calls back: some 10 us a row
            row = records.row(i)
            document = Document(wanted, payload, around=around, encoding=told)
            document.read()
            for element, begin, end in document.elements:
                part = payload[begin:end] if self.rows is not None else None
                try:
                    builder.add(i, row, self._values(element), part)
                except Bad as bad:
                    rejects.add(row, bad, part)
            if document.bad is not None:
                rejects.add(row, document.bad)
            elif not document.elements:
                rejects.add(row, Bad("xml_shape", f"no element {' or '.join(sorted(wanted))}"))
        return Decoded(*builder.finish())

    def _values(self, element: dict[str, str | None]) -> list[Any]:
        values = []
        for name, column in self.told.items():
            text = element.get(column.path or name, "")
            if text is None:
                raise Bad("xml_shape", f"{column.path or name} stands twice in one element")
            values.append(from_text(name, column, text.strip()))
        return values

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        documents = []
        for i, (value, us) in enumerate(zip(rows.column("value").to_pylist(), times_us(rows).tolist(), strict=True)):
            stamp = np.datetime_as_string(np.datetime64(us, "us"), "ms") + "Z"
            value = "" if value is None else value
            inner = (
                f'<Reading id="{i}"><Tag>J{i % 3}</Tag><Value>{value}</Value><TimeStamp>{stamp}</TimeStamp></Reading>'
            )
            documents.append(f"<export>{inner}{'' if i % 10 == 3 else '</export>'}".encode())
        return raw(documents, "export.xml", 0)


class Document:
    """One document under expat: the elements of a name, each as its fields by path (None where one stands twice)."""

    def __init__(self, wanted: frozenset[str], payload: bytes, *, around: bool, encoding: str | None = None) -> None:
        self.elements: list[tuple[dict[str, str | None], int, int]] = []
        self.bad: Bad | None = None
        self._wanted = wanted
        self._payload = payload
        self._around, self._encoding = around, encoding
        self._attributes: list[dict[str, str]] = []
        self._path: list[str] = []
        self._text: list[list[str]] = []
        self._fields: dict[str, str | None] | None = None
        self._base = self._begin = 0

    def read(self) -> None:
        self._parser = parser = expat.ParserCreate(self._encoding)
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        try:
            parser.Parse(self._payload, True)
        except Bad as bad:
            self.bad = bad
        except expat.ExpatError as error:
            self.bad = Bad(self._reason(error.code), str(error))
        except (ValueError, LookupError) as error:  # an encoding that Python does not know, or not a character map
            self.bad = Bad("encoding", str(error))

    def _reason(self, code: int) -> str:
        if code == _BLANK and not self._payload.strip():
            return "empty"
        if code == _TOKEN and b"encoding" not in self._payload[:100]:
            try:
                utf8(self._payload)
            except Bad as bad:
                return bad.reason
        return "encoding" if code in _ENCODING_ERRORS else "xml_syntax"

    def _doctype(self, name: str, *_: Any) -> None:
        raise Bad("xml_dtd", f"document type {name[:100]}")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(":")[2]
        self._path.append(local)
        self._text.append([])
        if len(self._path) > DEPTH_MAX:
            raise Bad("depth", f"nested more than {DEPTH_MAX} deep")
        if ANY in self._wanted or (self._fields is None and (not self._wanted or local in self._wanted)):
            self._fields, self._base, self._begin = {}, len(self._path), self._parser.CurrentByteIndex
            if self._around:
                for outer, given in zip(self._path, self._attributes, strict=False):
                    self._fields |= {f"$.{outer}.@{key.rpartition(':')[2]}": text for key, text in given.items()}
        self._attributes.append(attributes)
        if self._fields is not None:
            for key, value in attributes.items():
                self._put([*self._path[self._base :], "@" + key.rpartition(":")[2]], value)

    def _characters(self, text: str) -> None:
        if self._text:
            self._text[-1].append(text)

    def _end(self, name: str) -> None:
        text = "".join(self._text.pop())
        self._attributes.pop()
        if self._fields is not None:
            if len(self._path) == self._base:
                end = self._payload.find(b">", self._parser.CurrentByteIndex) + 1
                self._fields[OWN_TEXT], self._fields[OWN_NAME] = text, self._path[-1]
                self.elements.append((self._fields, self._begin, end))
                self._fields = None
            else:
                self._put(self._path[self._base :], text)
        self._path.pop()

    def _put(self, path: list[str], text: str) -> None:
        assert self._fields is not None
        where = ".".join(path)
        self._fields[where] = None if where in self._fields else text
