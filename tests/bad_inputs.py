"""What devices really send: a table of bad input, and what must become of it.

The numbers are those of the catalogue of bad input. A reason of None means that the row is good.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tocsin.batch import OUT, REJECTED, Batch
from tocsin.decode._base import Decoder, raw
from tocsin.decode.csv import Csv
from tocsin.decode.json import Json
from tocsin.decode.xml import Xml

COLUMNS: Mapping[str, Any] = {
    "machine": "category",
    "n": "int",
    "value": {"type": "float", "optional": True},
    "ok": {"type": "bool", "optional": True},
    "note": {"type": "text", "optional": True},
    "ts": {"type": "timestamp", "optional": True},
    "at": {"type": "timestamp", "unit": "s", "optional": True},
}
JSON = Json(columns=COLUMNS)
PACKED = Json(columns=COLUMNS, compression="gzip")
CSV = Csv(columns={k: COLUMNS[k] for k in ("machine", "n", "value", "note")}, delimiter=";")
XML = Xml(columns={k: COLUMNS[k] for k in ("machine", "n", "value")}, rows="row")

GOOD: Mapping[str, bytes] = {
    "json": b'{"machine": "m1", "n": 1, "value": 1.5}',
    "csv": b"m1;1;1.5;",
    "xml": b"<a><row><machine>m1</machine><n>1</n><value>1.5</value></row></a>",
    "gzip": gzip.compress(b'{"machine": "m1", "n": 1, "value": 1.5}'),
}
DECODERS: Mapping[str, Decoder] = {"json": JSON, "csv": CSV, "xml": XML, "gzip": PACKED}


@dataclass(frozen=True)
class Case:
    """One bad payload among good ones."""

    number: int
    what: str
    kind: str
    payload: bytes
    reason: str | None

    def run(self) -> tuple[list[Any], list[Any]]:
        """The rows and the rejected rows, of the payload between good neighbours."""
        good, decoder = GOOD[self.kind], DECODERS[self.kind]
        batch = Batch(raw([good] * 3 + [self.payload] + [good] * 3))
        _, batches = decoder.step(decoder.initial(), batch)
        rows: list[Any] = []
        rejected: list[Any] = []
        for left in batches:
            left.rows.validate(full=True)
            assert left.port in (OUT, REJECTED)
            (rows if left.port == OUT else rejected).extend(left.rows.to_pylist())
        return rows, rejected


def _json(number: int, what: str, payload: bytes | Mapping[str, Any], reason: str | None) -> Case:
    if isinstance(payload, Mapping):
        payload = json.dumps({"machine": "m1", "n": 1, **payload}).encode()
    return Case(number, what, "json", payload, reason)


def _row(inner: str) -> bytes:
    return b"<a><row><machine>m1</machine><n>1</n>" + inner.encode() + b"</row></a>"


_LAUGHS = b'<!DOCTYPE a [<!ENTITY l0 "ha">' + b"".join(
    b'<!ENTITY l%d "%s">' % (i, b"&l%d;" % (i - 1) * 10) for i in range(1, 10)
) + b"]><a>&l9;</a>"  # fmt: skip

_QUADRATIC = b'<!DOCTYPE a [<!ENTITY x "' + b"y" * 100_000 + b'">]><a>' + b"&x;" * 20_000 + b"</a>"

CASES: Sequence[Case] = (
    _json(1, "cut off after a comma", b'{"machine": "m1", ', "json_syntax"),
    _json(1, "cut off in a text", b'{"machine": "m', "json_syntax"),
    _json(1, "single quotes", b"{'machine': 'm1'}", "json_syntax"),
    _json(1, "no JSON at all", b"\x7fELF\x02\x01", "json_syntax"),
    _json(1, "a leading zero", b'{"machine": "m1", "n": 01, "value": 1.5}', "json_syntax"),
    _json(1, "a leading zero of a float", b'{"machine": "m1", "n": 1, "value": -01.5}', "json_syntax"),
    _json(1, "no digit after the point", b'{"machine": "m1", "n": 1, "value": 1.}', "json_syntax"),
    _json(1, "no digit before the point", b'{"machine": "m1", "n": 1, "value": .5}', "json_syntax"),
    _json(1, "no digit in the exponent", b'{"machine": "m1", "n": 1, "value": 1e+}', "json_syntax"),
    _json(1, "a plus sign", b'{"machine": "m1", "n": +1, "value": 1.5}', "json_syntax"),
    _json(1, "only a minus sign", b'{"machine": "m1", "n": -, "value": 1.5}', "json_syntax"),
    _json(19, "control character in a name", b'{"machine": "m\x01", "n": 1, "value": 1.5}', "json_syntax"),
    _json(19, "a tab in a name", b'{"machine": "machine\t1", "n": 1, "value": 1.5}', "json_syntax"),
    _json(20, "trueish", b'{"machine": "m1", "n": 1, "ok": truth}', "json_syntax"),
    _json(3, "NaN", b'{"machine": "m1", "n": 1, "value": NaN}', None),
    _json(3, "NaN where it may not be", b'{"machine": "m1", "n": NaN}', "json_nonfinite"),
    _json(3, "Infinity", b'{"machine": "m1", "n": 1, "value": Infinity}', None),
    _json(3, "-Infinity where no column is", b'{"machine": "m1", "n": 1, "x": -Infinity}', None),
    _json(4, "1e400", b'{"machine": "m1", "n": 1, "value": 1e400}', "number_range"),
    _json(4, "-1e400", b'{"machine": "m1", "n": 1, "value": -1e400}', "number_range"),
    _json(4, "1e-400", b'{"machine": "m1", "n": 1, "value": 1e-400}', "number_range"),
    _json(4, "-0.001e-400", b'{"machine": "m1", "n": 1, "value": -0.001e-400}', "number_range"),
    _json(4, "1e-400 for an integer", b'{"machine": "m1", "n": 1e-400, "value": 1}', "number_range"),
    _json(4, "0e-400", b'{"machine": "m1", "n": 1, "value": 0e-400}', None),
    _json(4, "the smallest float", b'{"machine": "m1", "n": 1, "value": 5e-324}', None),
    _json(6, "integer of 2^63", {"n": 2**63}, "number_range"),
    _json(6, "integer of -2^63 - 1", {"n": -(2**63) - 1}, "number_range"),
    _json(6, "integer of 2^64 for a float", {"value": 2**64}, "number_range"),
    _json(6, "integer of 2^63 - 1", {"n": 2**63 - 1}, None),
    _json(7, "integer of 5,000 digits", b'{"machine": "m1", "n": ' + b"7" * 5000 + b"}", "number_range"),
    _json(7, "integer of 200,000 digits", b'{"machine": "m1", "n": ' + b"7" * 200_000 + b"}", "number_range"),
    _json(7, "fraction of 200,000 digits", b'{"machine": "m1", "n": 1, "value": 0.' + b"7" * 200_000 + b"}", None),
    _json(8, "a field twice", b'{"machine": "m1", "n": 1, "n": 2}', "duplicate_key"),
    _json(8, "a nested field twice", b'{"machine": "m1", "n": 1, "x": {"y": 1, "y": 1}}', "duplicate_key"),
    _json(8, "a field twice, once escaped", b'{"machine": "m1", "n": 1, "\\u006e": 2}', "duplicate_key"),
    _json(9, "5,000 arrays deep", b'{"machine": "m1", "n": 1, "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "depth"),
    _json(9, "100,000 arrays deep, never closed", b"[" * 100_000, "depth"),
    _json(9, "40,000 objects deep", b'{"a":' * 40_000, "depth"),
    _json(9, "brackets in a text", {"note": "[" * 5000}, None),
    _json(10, "text of 10 MB", b'{"note": "' + b"x" * 10_000_000 + b'"}', "too_large"),
    _json(11, "nothing", b"", "empty"),
    _json(11, "blanks", b" \r\n", "empty"),
    _json(12, "an array", b'[{"machine": "m1", "n": 1}]', "shape"),
    _json(12, "a number", b"21.5", "shape"),
    _json(12, "null", b"null", "shape"),
    _json(13, "two documents", b'{"machine": "m1", "n": 1}{"machine": "m1", "n": 1}', "json_syntax"),
    _json(13, "a comma before the end", b'{"machine": "m1", "n": 1,}', "json_syntax"),
    _json(13, "bytes after the end", b'{"machine": "m1", "n": 1} x', "json_syntax"),
    _json(14, "byte order mark", b'\xef\xbb\xbf{"machine": "m1", "n": 1}', None),
    _json(15, "UTF-16 with its mark", '{"machine": "m1", "n": 1}'.encode("utf-16"), None),
    _json(15, "UTF-16 without mark", '{"machine": "m1", "n": 1}'.encode("utf-16-le"), "encoding"),
    _json(15, "Latin-1", '{"machine": "\u00fc", "n": 1}'.encode("latin-1"), "encoding"),
    _json(16, "overlong UTF-8", b'{"machine": "\xc0\xaf", "n": 1}', "encoding"),
    _json(16, "UTF-8 cut off", b'{"machine": "\xe4\xb8", "n": 1}', "encoding"),
    _json(17, "lone surrogate", b'{"machine": "m1", "n": 1, "note": "\\ud800"}', "encoding"),
    _json(17, "lone surrogate where no column is", b'{"machine": "m1", "n": 1, "x": "\\udfff"}', "encoding"),
    _json(17, "pair of surrogates", b'{"machine": "m1", "n": 1, "note": "\\ud83d\\ude00"}', None),
    _json(18, "null character in a name", {"machine": "m\0"}, "encoding"),
    _json(18, "null character in text", {"note": "m\0"}, None),
    _json(19, "line feed in a text", b'{"machine": "m1", "n": 1, "note": "a\nb"}', "json_syntax"),
    _json(19, "colour codes, escaped", {"note": "\x1b[31mred"}, None),
    _json(20, "true for a number", {"value": True}, "type"),
    _json(20, "1 for a bool", {"ok": 1}, "type"),
    _json(21, "'21,5' for a number", {"value": "21,5"}, "type"),
    _json(21, "'0x1F' for an integer", {"n": "0x1F"}, "type"),
    _json(21, "'1e3 ' for a number", {"value": "1e3 "}, "type"),
    _json(21, "1.5 for an integer", {"n": 1.5}, "type"),
    _json(21, "1.0 for an integer", {"n": 1.0}, None),
    _json(22, "required field absent", b'{"machine": "m1"}', "missing_field"),
    _json(22, "required field null", {"n": None}, "missing_field"),
    _json(22, "optional field null", {"value": None}, None),
    _json(23, "unknown field", {"firmware": "1.2.3"}, None),
    _json(24, "number becomes text", {"value": "high"}, "type"),
    _json(24, "number becomes an object", {"value": {"v": 1}}, "type"),
    _json(25, "device null", {"machine": None}, "missing_field"),
    _json(30, "milliseconds for seconds", {"at": 1767225600123}, "ts_range"),
    _json(31, "time of 1e18 s", {"at": 10**18}, "ts_range"),
    _json(31, "time of 1e20 s", {"at": 10**20}, "number_range"),
    _json(31, "time of 1e300 s", {"at": 1e300}, "ts_range"),
    _json(31, "year 9999", {"ts": "9999-12-31T23:59:59Z"}, "ts_range"),
    _json(33, "1969", {"ts": "1969-12-31T23:59:59Z"}, "ts_range"),
    _json(33, "minus one second", {"at": -1}, "ts_range"),
    _json(35, "local time without zone", {"ts": "2026-01-01 00:00:00"}, "ts_zone"),
    _json(36, "leap second", {"ts": "2016-12-31T23:59:60Z"}, None),
    _json(36, "30 February", {"ts": "2026-02-30T00:00:00Z"}, "ts_syntax"),
    _json(36, "no time", {"ts": "yesterday"}, "ts_syntax"),
    _json(30, "a number where text is declared", {"ts": 1767225600}, "type"),
    _json(94, "-0.0", {"value": -0.0}, None),
    _json(94, "denormal", {"value": 1e-320}, None),
    Case(15, "UTF-16", "csv", "m1;1;1.5;x".encode("utf-16"), None),
    Case(16, "invalid UTF-8", "csv", b"m1;1;1.5;\xff", "encoding"),
    Case(14, "byte order mark", "csv", b"\xef\xbb\xbfm1;1;1.5;x", None),
    Case(11, "only a line end", "csv", b"\r\n", "empty"),
    Case(21, "comma for the decimal point", "csv", b"m1;1;21,5;", "type"),
    Case(21, "hexadecimal", "csv", b"m1;0x1F;1;", "type"),
    Case(21, "a blank behind a number", "csv", b"m1;1;1e3 ;", "type"),
    Case(21, "digits of another script", "csv", "m1;\u0661;1;".encode(), "type"),
    Case(3, "nan", "csv", b"m1;1;nan;", None),
    Case(4, "1e400", "csv", b"m1;1;1e400;", "number_range"),
    Case(4, "1e-400", "csv", b"m1;1;1e-400;", "number_range"),
    Case(4, "400 zeros behind the point, and a one", "csv", b"m1;1;0." + b"0" * 400 + b"1;", "number_range"),
    Case(6, "2^63", "csv", b"m1;9223372036854775808;1;", "number_range"),
    Case(7, "200,000 digits", "csv", b"m1;" + b"7" * 200_000 + b";1;", "number_range"),
    Case(18, "null character in a name", "csv", b"m\x001;1;1;", "encoding"),
    Case(25, "no device", "csv", b";1;1;", "missing_field"),
    Case(56, "a field too few", "csv", b"m1;1;1.5", "csv_shape"),
    Case(56, "a field too many", "csv", b"m1;1;1.5;;", "csv_shape"),
    Case(56, "another delimiter", "csv", b"m1,1,1.5,", "csv_shape"),
    Case(56, "a quote that never closes", "csv", b'm1;1;1.5;"open', "csv_shape"),
    Case(56, "text behind a closing quote", "csv", b'm1;1;1.5;"a"b', "csv_shape"),
    Case(56, "field of 200,000 characters", "csv", b"m1;1;1.5;" + b"x" * 200_000, None),
    Case(56, "line end within quotes", "csv", b'm1;1;1.5;"two\nlines"', None),
    Case(57, "a formula", "csv", b'm1;1;1.5;=HYPERLINK("http://x")', None),
    Case(58, "a billion laughs", "xml", _LAUGHS, "xml_dtd"),
    Case(59, "quadratic blow-up", "xml", _QUADRATIC, "xml_dtd"),
    Case(60, "external entity", "xml", b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "xml_dtd"),
    Case(60, "external document type", "xml", b'<!DOCTYPE a SYSTEM "http://169.254.169.254/x"><a/>', "xml_dtd"),
    Case(61, "60,000 elements deep", "xml", b"<a>" * 60_000, "depth"),
    Case(62, "unknown encoding", "xml", b'<?xml version="1.0" encoding="klingon"?><a/>', "encoding"),
    Case(62, "wrong encoding", "xml", b'<?xml version="1.0" encoding="utf-16"?><a/>', "encoding"),
    Case(62, "invalid UTF-8", "xml", b"<a>\xff</a>", "encoding"),
    Case(62, "namespaces", "xml", b'<p:a xmlns:p="urn:x"><p:row><p:machine>m1</p:machine><n>1</n></p:row></p:a>', None),
    Case(62, "CDATA", "xml", _row("<value><![CDATA[2.5]]></value>"), None),
    Case(62, "a field twice", "xml", _row("<value>1</value><value>2</value>"), "xml_shape"),
    Case(62, "no such element", "xml", b"<a><line/></a>", "xml_shape"),
    Case(1, "cut off", "xml", b"<a><row><machine>m1</machine>", "xml_syntax"),
    Case(1, "an entity that is not defined", "xml", _row("<value>&x;</value>"), "xml_syntax"),
    Case(21, "text for a number", "xml", _row("<value>warm</value>"), "type"),
    Case(10, "300 KB", "xml", b"<a>" + b" " * 300_000 + b"</a>", "too_large"),
    Case(11, "blanks", "xml", b"  \n ", "empty"),
    Case(63, "gzip bomb", "gzip", gzip.compress(bytes(200_000_000), 1)[:200_000], "too_large"),
    Case(63, "zlib bomb within the size, but 200-fold", "gzip", zlib.compress(b" " * 200_000), "too_large"),
    Case(63, "cut off", "gzip", gzip.compress(b'{"machine": "m1", "n": 1}')[:-9], "compression"),
    Case(63, "wrong checksum", "gzip", gzip.compress(b'{"machine": "m1", "n": 1}')[:-8] + bytes(8), "compression"),
    Case(63, "not packed", "gzip", b'{"machine": "m1", "n": 1}', "compression"),
    Case(63, "zlib instead of gzip", "gzip", zlib.compress(b'{"machine": "m1", "n": 1}'), None),
    Case(11, "packed nothing", "gzip", gzip.compress(b""), "empty"),
)  # fmt: skip

__all__ = ["CASES", "Case"]
