"""Lines by a pattern: what the groups hold, what does not fit, and patterns that cannot be."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from pydantic import ValidationError

from tocsin.decode._base import raw
from tocsin.decode.pattern import Pattern
from tocsin.testing import feed

LOG = r"^%{TIMESTAMP_ISO8601:ts} \[%{DATA:m}\] %{LOGLEVEL:level} t=(?P<t>\S*)$"
COLUMNS: dict[str, Any] = {
    "ts": {"type": "timestamp", "zone": "Europe/Berlin"},
    "m": "text",
    "level": "category",
    "celsius": {"path": "t", "type": "float", "optional": True},
}


def read(step: Pattern, *lines: str) -> tuple[list[dict[str, Any]], list[str]]:
    given = raw([line.encode() for line in lines])
    good = feed(step, given).drop_columns(["received"]).to_pylist()
    return good, feed(step, given, port="rejected")["reason"].to_pylist()


def test_lines_of_a_log() -> None:
    good, bad = read(
        Pattern(pattern=LOG, columns=COLUMNS, decimal=","),
        "2026-03-01 12:00:00,123 [press 1] WARN t=20,5",
        "2026-03-01 12:00:01 [press 2] error t=",
        "2026-03-01 12:00:02 [press 2] error t=-",
        "what is this",
        "2026-03-01 12:00:03 [press 2] error t=hot",
    )
    assert [(row["m"], row["level"], row["celsius"]) for row in good] == [
        ("press 1", "WARN", 20.5),
        ("press 2", "error", None),
        ("press 2", "error", None),
    ]
    assert good[0]["ts"].isoformat() == "2026-03-01T11:00:00.123000+00:00"
    assert bad == ["pattern_syntax", "type"]


@pytest.mark.parametrize(
    ("pattern", "line", "wanted"),
    [
        ("%{NUMBER:x}", "-1.5e3", "-1.5e3"),
        ("%{INT:x}", "n=12", "12"),
        ("%{QS:x}", r'say "a \" b" now', r'"a \" b"'),
        ("%{IPORHOST:x}", "192.168.0.7", "192.168.0.7"),
        ("%{UUID:x}", "id 123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
        ("%{HTTPDATE:x}", "[10/Oct/2026:13:55:36 +0200]", "10/Oct/2026:13:55:36 +0200"),
        ("%{SYSLOGTIMESTAMP:x} ", "Mar  1 12:00:00 host", "Mar  1 12:00:00"),
        ("%{DATE_EU:x}", "on 31.01.2026", "31.01.2026"),
        ("a (?P<x>b+)", "a bbb", "bbb"),
        ("%{UNIT:x}", "3 mbar", "mbar"),
        (r"[(](?<x>(a|b)+)\(", "(abab(", "abab"),
    ],
)
def test_names_of_grok(pattern: str, line: str, wanted: str) -> None:
    good, bad = read(Pattern(pattern=pattern, patterns={"UNIT": "mbar|bar"}, columns={"x": "text"}), line)
    assert (good, bad) == ([{"x": wanted}], [])


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("%{NUMBR:x}", "there is no pattern %{NUMBR}; there are A, B, BASE10NUM"),
        ("(?P<x>a", "missing )"),
        ("(?P<y>a)", "the pattern has no group 'x' for column 'x'; it has y"),
        ("(?P<x>a)(?=b)", "invalid perl operator"),
        ("%{A:x}", "in a circle"),
    ],
)
def test_what_cannot_be_is_told(pattern: str, said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        Pattern(pattern=pattern, patterns={"A": "%{B}", "B": "%{A}"}, columns={"x": "text"})


def test_no_line_makes_it_slow() -> None:
    begin = time.process_time()
    assert read(Pattern(pattern="(?P<x>(a+)+)$", columns={"x": "text"}), "a" * 5_000 + "b")[1] == ["pattern_syntax"]
    assert time.process_time() - begin < 60  # by backtracking it would take longer than the world is old
