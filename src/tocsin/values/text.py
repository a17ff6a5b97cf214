"""Texts that come from devices, made safe for a terminal, a message and a spreadsheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs a cell that begins so."""
_QUOTE = "'"


def printable(text: str) -> str:
    """Returns text whose control characters are spelt out: a device's name must not move the cursor or forge a line.

    Examples
    --------
    >>> printable("a\\x1b[31m\\nb")
    'a\\\\x1b[31m\\\\nb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def unformula(text: str) -> str:
    """Returns text for a CSV cell, behind ``'`` where a spreadsheet would run it as a formula.

    Examples
    --------
    >>> unformula("=1+1"), unformula("pump")
    ("'=1+1", 'pump')
    """
    return _QUOTE + text if text.startswith(_FORMULA) else text


def unformula_column(column: pa.Array) -> pa.Array:
    """Returns a column of text, each as `unformula` has it."""
    import pyarrow.compute as pc

    dangerous = pc.match_substring_regex(column, "^[" + "".join(map(_escaped, _FORMULA)) + "]")
    return pc.if_else(dangerous, pc.binary_join_element_wise(_QUOTE, column, ""), column)


def _escaped(character: str) -> str:
    return "\\" + character if character in "-^]\\" else character
