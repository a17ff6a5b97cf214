"""Times in other forms than RFC 3339: those that can only mean one thing are read; others by a format that is told.

`rewritten` knows the forms of `FORMS`; `parse_format` reads a form that a user has written down; `advice` says what to
do about a text that neither can read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

FORMS: Mapping[str, str] = {
    "2026-01-31T12:00:00.123Z": "RFC 3339 and ISO 8601; also with a blank, a comma, no seconds, no zone or only a date",
    "2026-01-31T12:00:00+01:00[Europe/Berlin]": "RFC 9557: the offset counts",
    "2026-01-31 12:00:00 UTC": "a zone in words: UTC or GMT",
    "2026-01-31T24:00:00Z": "the end of a day",
    "2026/1/31 12:00:00": "the year first, with any of - / . between, and without leading zeros",
    "20260131T120000Z": "ISO 8601 without marks",
    "2026-W05-6T12:00:00Z": "ISO 8601 by week and day of the week",
    "2026-031T12:00:00Z": "ISO 8601 by day of the year",
    "Sat, 31 Jan 2026 12:00:00 GMT": "RFC 5322, as in e-mail and HTTP; also 31-Jan-2026",
    "Jan 31 2026 12:00:00": "the month by its English name",
    "Sat Jan 31 12:00:00 2026": "as C and Unix tools print it",
    "DT#2026-01-31-12:00:00": "IEC 61131-3, as controllers write it",
}
"""Forms that are read without being told, and what they are."""

_ZONE = r"(?P<zone>[Zz]|UTC|GMT|[+-]\d\d(?::?\d\d)?)?(?:\[[\w/+-]+\])?"
_TIME = r"(?P<H>\d{1,2}):(?P<M>\d\d)(?::(?P<S>\d\d)(?:[.,](?P<f>\d+))?)?"
_COMPACT = r"(?P<H>\d\d)(?P<M>\d\d)(?:(?P<S>\d\d)(?:[.,](?P<f>\d+))?)?"
_SHAPES = tuple(
    re.compile(shape + r"\s*" + _ZONE)
    for shape in (
        r"(?P<Y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})(?:[Tt _]\s*" + _TIME + ")?",
        r"(?P<Y>\d{4})(?P<m>\d\d)(?P<d>\d\d)T" + _COMPACT,
        r"(?P<Y>\d{4})-?W(?P<week>\d\d)-?(?P<weekday>\d)(?:T" + _TIME + ")?",
        r"(?P<Y>\d{4})-(?P<j>\d{3})(?:T" + _TIME + ")?",
        r"(?:[A-Za-z]{3,9},?\s+)?(?P<d>\d{1,2})[ -](?P<b>[A-Za-z]{3,9})[ -](?P<Y>\d{4})(?:\s+" + _TIME + ")?",
        r"(?:[A-Za-z]{3,9},?\s+)?(?P<b>[A-Za-z]{3,9})\.?\s+(?P<d>\d{1,2}),?\s+(?P<Y>\d{4})(?:\s+" + _TIME + ")?",
        r"(?:[A-Za-z]{3}\s+)?(?P<b>[A-Za-z]{3})\s+(?P<d>\d{1,2})\s+" + _TIME + r"\s+(?P<Y>\d{4})",
        r"L?(?:DT|DATE_AND_TIME)#(?P<Y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})-" + _TIME,
    )
)
_MONTHS = {
    name: number
    for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)  # noqa: SIM905
}


def rewritten(text: str) -> str | None:
    """Returns a time of one of the `FORMS` as RFC 3339, None if it is of none or no time at all.

    Examples
    --------
    >>> rewritten("Thu, 01 Jan 2026 12:00:00 GMT"), rewritten("2026-W01-4T12:00:00Z"), rewritten("01/02/2026")
    ('2026-01-01T12:00:00.000000+00:00', '2026-01-01T12:00:00.000000+00:00', None)
    """
    stripped = text.strip()
    for shape in _SHAPES:
        if match := shape.fullmatch(stripped):
            try:
                return _rfc3339({name: value for name, value in match.groupdict().items() if value is not None})
            except (ValueError, OverflowError):  # no such day, or one beyond the calendar
                return None
    return None


def _rfc3339(parts: Mapping[str, str]) -> str:
    year = int(parts["Y"])
    if "week" in parts:
        day = date.fromisocalendar(year, int(parts["week"]), int(parts["weekday"]))
    elif "j" in parts:
        day = date(year, 1, 1) + timedelta(int(parts["j"]) - 1)
        if day.year != year:
            raise ValueError
    else:
        month = int(parts["m"]) if "m" in parts else _MONTHS.get(parts["b"][:3].lower(), 0)
        day = date(year, month, int(parts["d"]))
    hour, minute, second = (int(parts.get(name, 0)) for name in "HMS")
    if hour == 24 and minute == second == 0 and not int(parts.get("f", 0)):
        day, hour = day + timedelta(1), 0
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError
    zone = parts.get("zone", "")
    offset = zone if zone[:1] in ("+", "-") else "+00:00" if zone else ""
    return f"{day}T{hour:02}:{minute:02}:{second:02}.{parts.get('f', '0')[:6]:0<6}{offset}"


# -------------------------------------------------------------------------------------------------------- by a format

_DIRECTIVES: Mapping[str, str] = {
    "Y": r"(?P<Y>\d{4})", "y": r"(?P<y>\d{2})", "m": r"(?P<m>\d{1,2})", "b": r"(?P<b>[A-Za-z]{3})",
    "d": r"(?P<d>\d{1,2})",
    "B": r"(?P<b>[A-Za-z]{3,9})", "e": r"\s?(?P<d>\d{1,2})", "j": r"(?P<j>\d{1,3})", "H": r"(?P<H>\d{1,2})",
    "I": r"(?P<I>\d{1,2})", "p": r"(?P<p>[AaPp]\.?[Mm]\.?)", "M": r"(?P<M>\d{1,2})", "S": r"(?P<S>\d{1,2})",
    "f": r"(?P<f>\d{1,9})", "z": r"(?P<z>[Zz]|[+-]\d{2}:?\d{2}|[+-]\d{2})", "Z": r"(?P<z>UTC|GMT|Z)",
    "a": r"[A-Za-z]{2,3}", "A": r"[A-Za-z]{3,9}", "%": "%",
}  # fmt: skip
_SHORT: Mapping[str, str] = {"T": "%H:%M:%S", "R": "%H:%M", "F": "%Y-%m-%d", "D": "%m/%d/%y"}


@lru_cache(maxsize=256)
def format_pattern(format: str) -> str:
    """Returns a format as a regular expression; ValueError with what is wrong about it.

    Examples
    --------
    >>> format_pattern("%d.%m.%Y")
    '^(?P<d>\\\\d{1,2})\\\\.(?P<m>\\\\d{1,2})\\\\.(?P<Y>\\\\d{4})$'
    """
    spelled = re.sub(r"%([TRFD])", lambda match: _SHORT[match[1]], format)
    pattern = ""
    for part in re.findall(r"%.?|\s+|[^%\s]+", spelled):
        if part[0] == "%":
            if part[1:] not in _DIRECTIVES:
                known = " ".join(f"%{name}" for name in (*_DIRECTIVES, *_SHORT))
                raise ValueError(f"format {format!r}: there is no '{part}'; there are {known}")
            pattern += _DIRECTIVES[part[1:]]
        else:
            pattern += r"\s+" if part.isspace() else re.escape(part)
    names = re.findall(r"\?P<(\w+)>", pattern)
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"format {format!r} says '%{twice[0]}' twice")
    has_day = "j" in names or ("d" in names and ("m" in names or "b" in names))
    if not has_day or not {"Y", "y"} & set(names):
        raise ValueError(f"format {format!r} has no whole date; it needs year, month and day, as %Y-%m-%d")
    return f"^{pattern}$"


def parse_format(
    column: pa.Array, format: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Returns times in microseconds, which of them could be read, and which name no zone.

    Examples
    --------
    >>> us, known, local = parse_format(pa.array(["25.03.2026 14:30:05", "noon"]), "%d.%m.%Y %H:%M:%S")
    >>> us[0], known.tolist(), local[0]
    (np.int64(1774449005000000), [True, False], np.True_)
    """
    parts = pc.extract_regex(pc.utf8_trim_whitespace(column), format_pattern(format))
    known = np.asarray(parts.is_valid().to_numpy(zero_copy_only=False), bool)
    texts = {field.name: pc.struct_field(parts, field.name).fill_null("") for field in parts.type}

    def number(name: str, otherwise: int) -> npt.NDArray[np.int64]:
        if name not in texts:
            return np.full(len(column), otherwise, np.int64)
        digits = pc.if_else(pc.equal(texts[name], ""), str(otherwise), texts[name])
        return np.asarray(digits.cast(pa.int64()).to_numpy(zero_copy_only=False))

    year = number("Y", 1970)
    if "y" in texts:
        year = number("y", 70) + np.where(number("y", 70) < 69, 2000, 1900)
    month = number("m", 1)
    if "b" in texts:
        names = pc.utf8_lower(pc.utf8_slice_codeunits(texts["b"], 0, 3)).to_pylist()
        month = np.array([_MONTHS.get(name, 0) for name in names], np.int64)
    known &= (month >= 1) & (month <= 12)
    months = ((year - 1970) * 12 + np.clip(month, 1, 12) - 1).astype("datetime64[M]")
    day = number("j" if "j" in texts else "d", 1)
    if "j" in texts:
        months = (year - 1970).astype("datetime64[Y]").astype("datetime64[M]")
    first = months.astype("datetime64[D]")
    last = (months + (12 if "j" in texts else 1)).astype("datetime64[D]") - first
    known &= (day >= 1) & (day <= last.astype(np.int64))
    hour, minute, second = number("H", 0), number("M", 0), number("S", 0)
    if "I" in texts:
        half = number("I", 12)
        known &= (half >= 1) & (half <= 12)
        halves = texts["p"].to_pylist() if "p" in texts else [""] * len(column)
        hour = half % 12 + np.array([12 * text.lower().startswith("p") for text in halves], np.int64)
    known &= (hour <= 23) & (minute <= 59) & (second <= 60)
    us = (first.astype(np.int64) + day - 1) * 86_400_000_000 + hour * 3_600_000_000 + minute * 60_000_000
    us += np.minimum(second, 59) * 1_000_000
    if "f" in texts:
        padded = pc.utf8_slice_codeunits(pc.utf8_rpad(texts["f"], 9, "0"), 0, 6)
        us += padded.cast(pa.int64()).to_numpy(zero_copy_only=False)
    local = np.full(len(column), "z" not in texts)
    if "z" in texts:
        us -= np.array([_offset_us(zone) for zone in texts["z"].to_pylist()], np.int64)
    return us, known, local


def _offset_us(zone: str) -> int:
    if zone[:1] not in ("+", "-"):
        return 0
    digits = zone[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:] or 0)
    return (minutes if zone[0] == "+" else -minutes) * 60_000_000


# ------------------------------------------------------------------------------------------------------------- advice

_PART_OF_FORMAT: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"^(\d{1,2})([./-])(\d{1,2})\2(\d{4}|\d{2})", lambda m: _day_or_month(m)),
    (r"\d{1,2}:\d\d:\d\d[.,]\d+", lambda m: "%H:%M:%S" + re.sub(r"[\d:]+", "", m[0])[:1] + "%f"),
    (r"\d{1,2}:\d\d:\d\d", lambda m: "%H:%M:%S"),
    (r"\d{1,2}:\d\d", lambda m: "%H:%M"),
)


def _day_or_month(match: re.Match[str]) -> str:
    month_first = int(match[3]) > 12 or (match[2] == "/" and int(match[1]) <= 12)
    year = "%Y" if len(match[4]) == 4 else "%y"
    return match[2].join(("%m", "%d", year) if month_first else ("%d", "%m", year))


def advice(text: str, reason: str = "ts_syntax", format: str | None = None) -> str:
    """Returns what is the matter with a text that is no time, and the setting that may help.

    Examples
    --------
    >>> advice("01.02.2026 12:00:00")
    'may mean the day or the month first: say which, as format: "%d.%m.%Y %H:%M:%S"'
    >>> advice("1767268800123")
    'is a number: say its unit, as unit: ms (or s, us, ns, auto)'
    """
    plain = text.strip()
    if reason == "ts_zone":
        return "names no zone: set zone, as zone: Europe/Berlin or zone: UTC"
    if reason == "ts_range" and re.fullmatch(r"(19|2[01])\d{12}", plain):
        return 'is no number since 1970: if it is a date and a time, say so, as format: "%Y%m%d%H%M%S"'
    if reason == "ts_range":
        return "lies before 1970 or after 2199; if it is a number, is its unit right?"
    if reason != "ts_syntax":
        return ""
    if format is not None:
        return f"is not written as format says, {format!r}"
    if re.fullmatch(r"\d{8}(\.0*)?", plain):
        return 'may be a date or a number of seconds: say which, as format: "%Y%m%d", or unit: s'
    if re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", plain):
        return "is a number: say its unit, as unit: ms (or s, us, ns, auto)"
    if re.match(r"\d{1,2}([./-])\d{1,2}\1(\d{4}|\d{2})\b", plain):
        guess = plain
        for pattern, part in _PART_OF_FORMAT:
            guess = re.sub(pattern, part, guess, count=1)
        return f'may mean the day or the month first: say which, as format: "{guess}"'
    if re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?([.,]\d+)?", plain):
        return "has no date; if that stands in another column, name both, as column: [date, time]"
    if any(shape.fullmatch(plain) for shape in _SHAPES):
        return "is of a known form, but there is no such day or hour"
    return 'is of no form that is known: say how it is written, as format: "%d.%m.%Y %H:%M:%S"'
