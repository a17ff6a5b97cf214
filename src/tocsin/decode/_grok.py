"""Grok: patterns by name, as ``%{NUMBER:celsius}``, in a regular expression (RE2, so that no line can make it slow)."""

from __future__ import annotations

import re
from collections.abc import Mapping

_MONTH = r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:tember)?|Oct(?:ober)?"
PATTERNS: Mapping[str, str] = {
    "WORD": r"\w+",
    "NOTSPACE": r"\S+",
    "SPACE": r"\s*",
    "DATA": r".*?",
    "GREEDYDATA": r".*",
    "INT": r"[+-]?[0-9]+",
    "POSINT": r"[1-9][0-9]*",
    "NONNEGINT": r"[0-9]+",
    "NUMBER": r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?",
    "BASE10NUM": "%{NUMBER}",
    "BASE16NUM": r"[+-]?(?:0x)?[0-9A-Fa-f]+",
    "QUOTEDSTRING": r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""",
    "QS": "%{QUOTEDSTRING}",
    "UUID": r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "MAC": r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}",
    "IPV4": r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}",
    "IPV6": r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]+",
    "IP": "(?:%{IPV4}|%{IPV6})",
    "HOSTNAME": r"[0-9A-Za-z][0-9A-Za-z-]*(?:\.[0-9A-Za-z][0-9A-Za-z-]*)*",
    "IPORHOST": "(?:%{IP}|%{HOSTNAME})",
    "USERNAME": r"[a-zA-Z0-9._-]+",
    "USER": "%{USERNAME}",
    "PATH": r"(?:/[^\s]*|[A-Za-z]:\\[^\s]*)",
    "URI": r"[A-Za-z][A-Za-z0-9+.-]*://\S+",
    "LOGLEVEL": r"(?i:trace|debug|info(?:rmation)?|notice|warn(?:ing)?|err(?:or)?|crit(?:ical)?|alert|fatal|severe)",
    "MONTH": _MONTH + r"|Nov(?:ember)?|Dec(?:ember)?)",
    "MONTHNUM": r"(?:0?[1-9]|1[0-2])",
    "MONTHDAY": r"(?:0?[1-9]|[12][0-9]|3[01])",
    "DAY": r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*",
    "YEAR": r"[0-9]{4}",
    "HOUR": r"(?:2[0-4]|[01]?[0-9])",
    "MINUTE": r"[0-5][0-9]",
    "SECOND": r"(?:[0-5]?[0-9]|60)(?:[.,][0-9]+)?",
    "TIME": "%{HOUR}:%{MINUTE}(?::%{SECOND})?",
    "ISO8601_TIMEZONE": r"(?:Z|[+-][0-9]{2}:?[0-9]{2})",
    "TIMESTAMP_ISO8601": "%{YEAR}-%{MONTHNUM}-%{MONTHDAY}[T ]%{HOUR}:?%{MINUTE}(?::?%{SECOND})?%{ISO8601_TIMEZONE}?",
    "DATE_US": "%{MONTHNUM}[/-]%{MONTHDAY}[/-]%{YEAR}",
    "DATE_EU": "%{MONTHDAY}[./-]%{MONTHNUM}[./-]%{YEAR}",
    "SYSLOGTIMESTAMP": "%{MONTH} +%{MONTHDAY} %{TIME}",
    "HTTPDATE": "%{MONTHDAY}/%{MONTH}/%{YEAR}:%{TIME} %{INT}",
}
"""The names that are known; those of Elastic's grok, written for RE2."""
_NAMED = re.compile(r"%\{(\w+)(?::(\w+))?\}")
_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|\(\?<(?=[A-Za-z_])|\((?!\?)", re.DOTALL)
"""What is escaped, a class of characters, and the beginning of a group that has a name or none."""
DEPTH_MAX = 8


def _only_named(piece: re.Match[str]) -> str:
    """Groups without a name hold nothing; those of other dialects get theirs as RE2 writes it."""
    return {"(": "(?:", "(?<": "(?P<"}.get(piece[0], piece[0])


def expanded(pattern: str, own: Mapping[str, str]) -> str:
    """Returns a pattern with all names written out; `ValueError` for one that is not known.

    Examples
    --------
    >>> expanded("%{INT:n} %{UNIT}", {"UNIT": "bar|mbar"})
    '(?P<n>[+-]?[0-9]+) (?:bar|mbar)'
    """
    known = {**PATTERNS, **own}

    def written(match: re.Match[str]) -> str:
        name, column = match[1], match[2]
        if name not in known:
            raise ValueError(f"there is no pattern %{{{name}}}; there are {', '.join(sorted(known))}")
        return f"(?P<{column}>{known[name]})" if column else f"(?:{known[name]})"

    for _ in range(DEPTH_MAX):
        if not _NAMED.search(pattern):
            return _PIECE.sub(_only_named, pattern)
        pattern = _NAMED.sub(written, pattern)
    raise ValueError("the patterns name each other in a circle")
