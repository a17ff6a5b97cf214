"""Log messages into categories by the words that they share (``mlcategory``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

CATEGORIES_MAX = 1_000
CACHE_MAX = 20_000
LIKE = 0.7
"""Share of a message's words, by length, that it must have in common with its category."""
_WORD = re.compile(r"[A-Za-z_][\w.\-]*")
_CHANGING = re.compile(r"\d|^[a-f0-9]{8,}$", re.I)


class Messages:
    """The categories found so far; numbers, ids and times in a message do not count.

    Examples
    --------
    >>> seen = Messages({}, ())
    >>> [seen.category(text) for text in ("Node 3 started in 20 ms", "Node 17 started in 4 ms", "Disk full")]
    ['1', '1', '2']
    """

    def __init__(self, memory: dict[str, Any], filters: Sequence[str]) -> None:
        self.known: list[list[str]] = memory.setdefault("categories", [])
        self.filters = [re.compile(pattern) for pattern in filters]
        self._cache: dict[tuple[str, ...], str | None] = {}

    def category(self, text: str | None) -> str | None:
        """The number of a message's category, as text; None for no message, and beyond `CATEGORIES_MAX`."""
        if text is None:
            return None
        for pattern in self.filters:
            text = pattern.sub("", text)
        words = tuple(w for w in _WORD.findall(text[:10_000]) if not _CHANGING.search(w))
        if words not in self._cache:
            if len(self._cache) >= CACHE_MAX:
                self._cache.clear()
            self._cache[words] = self._found(words)
        return self._cache[words]

    def _found(self, words: Sequence[str]) -> str | None:
        best, like = -1, LIKE
        for at, category in enumerate(self.known):
            alike = _alike(words, category)
            if alike > like or (alike == like and best < 0):
                best, like = at, alike
        if best >= 0:
            kept = set(words)
            common = [w for w in self.known[best] if w in kept]
            if common or not words:
                self.known[best] = common
            return str(best + 1)
        if len(self.known) >= CATEGORIES_MAX:
            return None
        self.known.append(list(words))
        return str(len(self.known))


def _alike(words: Sequence[str], category: Sequence[str]) -> float:
    if not words or not category:
        return 1.0 if not words and not category else 0.0
    mine, theirs = set(words), set(category)
    common = sum(map(len, mine & theirs))
    return common / max(sum(map(len, mine)), sum(map(len, theirs)))
