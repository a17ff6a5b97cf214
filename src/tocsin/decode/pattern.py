"""Pattern: lines of text by a regular expression, or by grok."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field as Setting
from pydantic import model_validator

from tocsin.batch import times_us
from tocsin.decode._base import Decoder, Records, raw
from tocsin.decode._builder import Decoded, from_text
from tocsin.decode._by_line import decoded_by_line
from tocsin.decode._columns import Column
from tocsin.decode._grok import expanded
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects


class Pattern(Decoder):
    r"""Lines of a log, a row each, by a pattern: what its named groups hold becomes columns.

    Groups are written as in a regular expression, ``(?P<celsius>[0-9.]+)``, or by grok's names,
    ``%{NUMBER:celsius}``; a column takes the group of its name, or of its ``path``. The pattern may stand anywhere in
    a line, unless it begins with ``^`` or ends with ``$``. A line that it does not fit is ``pattern_syntax``. Some
    30 µs a line; the expressions are RE2's, which know no look-ahead, and which no line makes slow.

    Examples
    --------
    >>> columns = {"machine": "category", "celsius": "float"}
    >>> log = raw([b"12:00 press INFO t=20.5", b"12:01 press INFO door open"])
    >>> step = Pattern(pattern="%{TIME} %{WORD:machine} %{LOGLEVEL} t=%{NUMBER:celsius}", columns=columns)
    >>> feed(step, log).select(["machine", "celsius"]).to_pylist()
    [{'machine': 'press', 'celsius': 20.5}]
    >>> feed(step, log, port="rejected")["reason"].to_pylist()
    ['pattern_syntax']
    """

    EXAMPLES: ClassVar[Any] = (
        {
            "pattern": r"%{TIMESTAMP_ISO8601:ts} %{WORD:m} v=%{NUMBER:v}?",
            "columns": {"m": "category", "ts": "timestamp", "v": {"type": "float", "optional": True}},
        },
    )

    pattern: str = Setting(min_length=1)
    """The pattern, with a named group for each column."""
    patterns: Mapping[str, str] = {}
    """Further names for grok, as ``{UNIT: "bar|mbar"}``."""
    decimal: str = Setting(".", pattern="^[.,]$")
    """What stands before decimals."""

    @model_validator(mode="after")
    def _has_the_columns(self) -> Pattern:
        try:
            made = pc.extract_regex(pa.array([""]), self._expression)
        except pa.ArrowInvalid as error:
            raise ValueError(f"pattern: {error}") from error
        groups = [field.name for field in made.type]
        for name, column in self.columns.items():
            if (wanted := column.path or name) not in groups:
                raise ValueError(
                    f"the pattern has no group '{wanted}' for column '{name}'; it has {', '.join(groups) or 'none'}"
                )
        return self

    @cached_property
    def _expression(self) -> str:
        return expanded(self.pattern, self.patterns)

    def decode(self, state: None, records: Records, rejects: Rejects) -> Decoded:
        return decoded_by_line(self.told, "", records, rejects, lambda line: False, self._parts, self._value)

    def _parts(self, line: str) -> Mapping[str, Any]:
        held = pc.extract_regex(pa.array([line]), self._expression)[0].as_py()
        if held is None:
            raise Bad("pattern_syntax", f"{line[:100]!r} does not fit the pattern")
        return dict(held)

    def _value(self, name: str, column: Column, text: Any) -> Any:
        return from_text(name, column, (text or "").strip(), self.decimal)

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        lines = []
        for i, (value, us) in enumerate(zip(rows.column("value").to_pylist(), times_us(rows).tolist(), strict=True)):
            stamp = pa.scalar(us, pa.timestamp("us", "UTC")).as_py().isoformat()
            lines.append(("?" if i % 10 == 3 else f"{stamp} m{i % 3} v={'' if value is None else value}").encode())
        return raw(lines, "log.txt", 0)


__all__ = ["Pattern"]
