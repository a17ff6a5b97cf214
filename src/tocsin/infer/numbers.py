"""How numbers are written: which mark stands before the fraction, and which between thousands."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PLAIN = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_GROUPED = {
    mark: re.compile(rf"[+-]?\d{{1,3}}(?:{re.escape(mark)}\d{{3}})+(?:[.,]\d+)?") for mark in ".,' \u00a0\u202f"
}
_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_POINT = re.compile(r"[+-]?\d*\.\d+(?:[eE][+-]?\d+)?")
NOT_A_NUMBER = frozenset(("nan", "inf", "-inf", "infinity", "-infinity", "null", "n/a", "#n/a", "na", "-", "none"))
"""Words that stand for a number that there is none."""


def number_style(cells: Iterable[str], delimiter: str = "") -> tuple[str, str]:
    """Return the mark before a fraction and the one between thousands (empty: none), of cells that may be numbers.

    Where fields are apart by commas, ``"1,200"`` is rather English than German; ``"20,05"`` has a fraction anywhere.

    Examples
    --------
    >>> number_style(["1.120,75", "3,5"]), number_style(["1,120.75"]), number_style(["20.5"]), number_style(["1.234"])
    ((',', '.'), ('.', ','), ('.', ''), ('.', ''))
    """
    texts = [cell.strip() for cell in cells]
    for decimal, marks in ((",", ".' \u00a0\u202f"), (".", ",' \u00a0\u202f")):
        for mark in marks:
            both = [t for t in texts if _GROUPED[mark].fullmatch(t)]
            if any(decimal in t.replace(mark, "") for t in both):
                return decimal, mark
    commas = sum(bool(_COMMA.fullmatch(t)) for t in texts)
    points = sum(bool(_POINT.fullmatch(t)) for t in texts)
    if commas > points:
        if delimiter == "," and all(_GROUPED[","].fullmatch(t) for t in texts if _COMMA.fullmatch(t)):
            return ".", ","
        is_grouped = points and all(_GROUPED["."].fullmatch(t) for t in texts if _POINT.fullmatch(t))
        return ",", "." if is_grouped else ""
    return ".", ""


def as_number(text: str, decimal: str = ".", thousands: str = "") -> float | None:
    """Return the number that a text says in a style, None if it is none.

    Examples
    --------
    >>> as_number("1.120,75", ",", "."), as_number("n/a"), as_number("1,5")
    (1120.75, None, None)
    """
    plain = text.strip()
    if thousands and thousands in plain and _GROUPED[thousands].fullmatch(plain):
        plain = plain.replace(thousands, "")
    if decimal != ".":
        if "." in plain:
            return None
        plain = plain.replace(decimal, ".")
    return float(plain) if _PLAIN.fullmatch(plain) else None


def may_be_number(text: str) -> bool:
    """Return whether a text is a number in some style, or a word for one that is missing."""
    plain = text.strip()
    return (
        plain.lower() in NOT_A_NUMBER
        or _PLAIN.fullmatch(plain) is not None
        or _COMMA.fullmatch(plain) is not None
        or any(grouped.fullmatch(plain) for grouped in _GROUPED.values())
    )
