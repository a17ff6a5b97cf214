"""Texts that come from devices, made safe for a terminal, a message and a spreadsheet."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs a cell that begins so."""
_QUOTE = "'"
UTF16_BYTES = 128
"""How much of a text's beginning shows whether it is in UTF-16."""


def utf16_of(head: bytes) -> str | None:
    """Returns the codec of text in UTF-16, known by its mark or else by its zeros; None for any other text.

    Text of plants has blanks, digits and commas between its words. Each of them has a byte of zero in UTF-16, always on
    the same side, and none in any other encoding but UTF-32.

    Examples
    --------
    >>> [utf16_of(text) for text in ("\ufeffa".encode("utf-16-le"), "a;1".encode("utf-16-be"), b"a;1")]
    ['utf-16', 'utf-16-be', None]
    """
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    pairs = head[: min(len(head) // 2 * 2, UTF16_BYTES)]
    first, second = pairs[::2].count(0), pairs[1::2].count(0)
    codec, zeros, others = ("utf-16-le", second, first) if second > first else ("utf-16-be", first, second)
    if zeros * 8 < len(pairs) // 2 or zeros <= 4 * others:
        return None
    text = pairs.decode(codec, "replace")
    return codec if text and all(c.isprintable() or c in "\t\r\n" for c in text) else None


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
