"""The grammar of the Influx line protocol, for the decoder that reads it and the server that takes it.

InfluxData, "Line protocol" (version 2).
"""

from __future__ import annotations

import re

WORD = r"(?:[^,= \\]|\\.)+"
LINE = re.compile(
    rf"(?P<measurement>(?:[^, \\]|\\.)+)(?P<tags>(?:,{WORD}={WORD})*) +"
    rf'(?P<fields>{WORD}=(?:"(?:[^"\\]|\\.)*"|[^, "]+)(?:,{WORD}=(?:"(?:[^"\\]|\\.)*"|[^, "]+))*)'
    r"(?: +(?P<time>-?\d+))? *",
    re.DOTALL,
)
"""A line without its end: measurement, tags, fields, and a time where there is one."""
