"""Influx line protocol: measurement, tags, fields and a time in one line."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

import pyarrow as pa

from tocsin.batch import times_us
from tocsin.decode._base import Decoder, Records, raw
from tocsin.decode._builder import INT_END, Decoded, float_of
from tocsin.decode._by_line import TIME, decoded_by_line
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects
from tocsin.decode._values import HUGE, NAN
from tocsin.values.line_protocol import LINE, WORD

MEASUREMENT = "@measurement"
_TAG = re.compile(rf",({WORD})=({WORD})", re.DOTALL)
_FIELD = re.compile(rf',?({WORD})=("(?:[^"\\]|\\.)*"|[^, "]+)', re.DOTALL)
_BOOLS = {word: word[0] in "tT" for word in ("t", "T", "true", "True", "TRUE", "f", "F", "false", "False", "FALSE")}


class Influx(Decoder):
    """Lines of the Influx line protocol, one row each, as Telegraf and many gateways send them.

    A column takes the field or tag of its name, else ``@measurement`` or ``@time`` by its ``path``. A record holds one
    line or several. Some 10 µs a line.

    Examples
    --------
    >>> columns = {"time": {"path": "@time", "type": "timestamp"}, "machine": "category", "celsius": "float"}
    >>> lines = raw([b"oven,machine=press\\\\ 1 celsius=20.5,n=5i 1767268800000000000"])
    >>> feed(Influx(columns=columns), lines).select(["machine", "celsius"]).to_pylist()
    [{'machine': 'press 1', 'celsius': 20.5}]

    InfluxData, "Line protocol" (version 2).
    """

    EXAMPLES: ClassVar[Any] = (
        {"columns": {"m": "category", "ts": {"path": "@time", "type": "timestamp"}, "v": "float"}},
    )

    precision: Literal["s", "ms", "us", "ns"] = "ns"
    """Unit of the time at the end of a line."""

    def decode(self, state: None, records: Records, rejects: Rejects) -> Decoded:
        return decoded_by_line(self.told, self.precision, records, rejects, lambda line: line.startswith("#"), parts_of)

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        lines = []
        for i, (value, us) in enumerate(zip(rows.column("value").to_pylist(), times_us(rows).tolist(), strict=True)):
            lines.append(f"w,m=m{i % 3} {'' if value is None else f'v={value}'},n={i}i {us * 1000}".encode())
        return raw(lines, "influx", 0)


def parts_of(line: str) -> dict[str, Any]:
    """What stands in a line, by name; a field hides a tag of its name."""
    match = LINE.fullmatch(line.strip("\r\n"))
    if match is None:
        raise Bad("influx_syntax", "not measurement,tag=text field=value time")
    parts: dict[str, Any] = {MEASUREMENT: _plain(match["measurement"])}
    for key, value in _TAG.findall(match["tags"]):
        parts[_plain(key)] = _plain(value)
    for key, value in _FIELD.findall(match["fields"]):
        parts[_plain(key)] = _value(value)
    if match["time"] is not None:
        parts[TIME] = _integer(match["time"])
    return parts


def _plain(text: str) -> str:
    return re.sub(r"\\([,= \\])", r"\1", text)


def _integer(digits: str) -> Any:
    number = int(digits) if len(digits) <= 20 else INT_END
    return number if -INT_END <= number < INT_END else HUGE


def _value(text: str) -> Any:
    if text[0] == '"':
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if text in _BOOLS:
        return _BOOLS[text]
    if re.fullmatch(r"[+-]?\d+[iu]", text):
        return _integer(text[:-1])
    try:
        number = float_of(text)
    except ValueError:
        raise Bad("influx_syntax", f"{text[:100]!r} is no value") from None
    return number if number - number == 0 else NAN


__all__ = ["Influx"]
