"""Prometheus text: samples of metrics with their labels."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pyarrow as pa

from tocsin.batch import times_us
from tocsin.decode._base import Decoder, Records, raw
from tocsin.decode._builder import Decoded, float_of
from tocsin.decode._by_line import TIME, decoded_by_line
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects
from tocsin.decode._values import NAN

NAME, VALUE = "@name", "@value"
_LABEL = r'[a-zA-Z_]\w*\s*=\s*"(?:[^"\\]|\\.)*"'
_SAMPLE = re.compile(
    rf"(?P<name>[a-zA-Z_:][\w:]*)\s*(?:\{{\s*(?P<labels>(?:{_LABEL}\s*(?:,\s*)?)*)\}})?\s*(?P<value>\S+)"
    r"(?:\s+(?P<time>-?[\d.]+))?(?:\s+#\s+\{.*)?\s*",
    re.DOTALL,
)
_PAIR = re.compile(r'([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPES = {"n": "\n", '"': '"', "\\": "\\"}


class Prometheus(Decoder):
    """Samples in Prometheus' text format, one row each, as exporters show them.

    A column takes the label of its name, else ``@name``, ``@value`` or ``@time`` (in milliseconds, unless the column
    says another ``unit``) by its ``path``. Comments, types and help are passed over. Some 10 µs a sample.

    Examples
    --------
    >>> value = {"path": "@value", "type": "float"}
    >>> columns = {"metric": {"path": "@name", "type": "category"}, "machine": "text", "v": value}
    >>> lines = raw([b'# TYPE celsius gauge', b'celsius{machine="press 1"} 20.5 1767268800000'])
    >>> feed(Prometheus(columns=columns), lines).select(["metric", "machine", "v"]).to_pylist()
    [{'metric': 'celsius', 'machine': 'press 1', 'v': 20.5}]

    Prometheus, "Text-based exposition format" (0.0.4).
    """

    EXAMPLES: ClassVar[Any] = (
        {
            "columns": {
                "m": "category",
                "ts": {"path": "@time", "type": "timestamp"},
                "v": {"path": "@value", "type": "float", "optional": True},
            }
        },
    )

    def decode(self, state: None, records: Records, rejects: Rejects) -> Decoded:
        return decoded_by_line(self.told, "ms", records, rejects, lambda line: line.lstrip().startswith("#"), parts_of)

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        lines = []
        for i, (value, us) in enumerate(zip(rows.column("value").to_pylist(), times_us(rows).tolist(), strict=True)):
            text = "" if i % 10 == 3 else "NaN" if value is None else value
            lines.append(f'w{{m="m{i % 3}"}} {text} {us // 1000}'.encode())
        return raw(lines, "metrics", 0)


def parts_of(line: str) -> dict[str, Any]:
    """What stands in a line, by name."""
    match = _SAMPLE.fullmatch(line.strip())
    if match is None:
        raise Bad("prometheus_syntax", 'not name{label="text"} value time')
    try:
        number = float_of(match["value"])
    except ValueError:
        raise Bad("prometheus_syntax", f"{match['value'][:100]!r} is no value") from None
    labels = {key: _plain(text) for key, text in _PAIR.findall(match["labels"] or "")}
    time = match["time"]
    if time is not None:
        time = int(time) if time.lstrip("-").isdecimal() and len(time) < 20 else _fraction(time)
    return {**labels, NAME: match["name"], VALUE: number if number - number == 0 else NAN, TIME: time}


def _fraction(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Bad("prometheus_syntax", f"{text[:100]!r} is no time") from None


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), text)


__all__ = ["Prometheus"]
