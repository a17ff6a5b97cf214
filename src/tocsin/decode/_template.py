"""Template of a decoder: copy it to a file named as the format. One line saying what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from tocsin.batch import times_us
from tocsin.decode._base import Decoder, Records, raw
from tocsin.decode._builder import Decoded, from_text
from tocsin.decode._by_line import decoded_by_line
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects


class Template(Decoder):
    """Lines of ``name=value`` with blanks between them. What is a row of it; when to use it, and when not.

    Examples
    --------
    >>> decoder, lines = Template(columns={"celsius": "float"}), raw([b"celsius=20.5 door=open", b"?"])
    >>> feed(decoder, lines)["celsius"].to_pylist()
    [20.5]
    >>> feed(decoder, lines, port="rejected")["reason"].to_pylist()
    ['shape']

    The standard that says how the format is written.
    """

    EXAMPLES: ClassVar[Any] = ({"columns": {"machine": "category", "at": "timestamp", "v": "float"}},)
    """Settings that the kit tries."""

    def decode(self, state: None, records: Records, rejects: Rejects) -> Decoded:
        """Required: a row for each line; what cannot be read is set aside with its reason, and costs no other row."""
        return decoded_by_line(self.told, "", records, rejects, lambda line: line.startswith("#"), _parts, from_text)

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Required: records of the format, some of them bad, that the kit feeds to it."""
        values = zip(rows.column("value").to_pylist(), times_us(rows).tolist(), strict=True)
        lines = [f"machine=m{i % 3} at={us / 1e6:.6f} v={value}".encode() for i, (value, us) in enumerate(values)]
        return raw([b"?" if i % 10 == 3 else line for i, line in enumerate(lines)], "plant/t", 0)


def _parts(line: str) -> Mapping[str, str]:
    """What stands in a line, by name; `Bad` if that is not how the format is written."""
    named = [word.partition("=") for word in line.split()]
    if not all(sign for _, sign, _ in named):
        raise Bad("shape", "words of name=value are wanted")
    return {name: value for name, _, value in named}
