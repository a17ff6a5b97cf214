"""Categorize: near-duplicate messages into one category, and a score for messages such as were hardly ever seen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.types as pt
from pydantic import Field as Setting

from tocsin.bases import added, promised, require
from tocsin.batch import Batch, in_words, short_id
from tocsin.contracts import Operator
from tocsin.errors import SchemaError
from tocsin.kernels import score_of
from tocsin.state import Remembered

ADDED = (
    pa.field("category", pa.string()),
    pa.field("category_text", pa.string()),
    pa.field("category_count", pa.int64()),
    pa.field("score", pa.float64()),
)
TEXT_MAX = 2_000
"""Characters of a message that are looked at."""
SEEN_MAX = 64
"""How often a category was seen before is told apart up to here."""
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+")
_CATEGORIES = Remembered("categories")


@dataclass(slots=True)
class Category:
    """Messages that are nearly the same."""

    id: str
    text: str
    """The first of them."""
    words: frozenset[str]
    count: int = 0
    last: int = 0
    """Which message of its key the last of them was."""


@dataclass(slots=True)
class MessageMemory:
    """What is remembered of one key's messages."""

    messages: int = 0
    categories: dict[str, Category] = field(default_factory=dict)
    by_word: dict[str, set[str]] = field(default_factory=dict)
    seen: list[int] = field(default_factory=lambda: [0] * (SEEN_MAX + 1))
    """How many messages came whose category had been seen so often before."""

    def nearest(self, words: frozenset[str], similarity: float) -> Category | None:
        """Returns the category that shares most words; None if it shares less than ``similarity`` of all of both."""
        shared = Counter(id for word in words for id in self.by_word.get(word, ()))
        best, most = None, similarity
        for id, count in shared.items():
            category = self.categories[id]
            alike = count / (len(words) + len(category.words) - count)
            if alike > most or (alike == most and (best is None or category.id < best.id)):
                best, most = category, alike
        return best

    def begin(self, text: str, words: frozenset[str]) -> Category:
        """Returns a new category, which this message is the first of."""
        category = Category(short_id(self.messages, text), text, words)
        self.remember(category)
        return category

    def remember(self, category: Category) -> None:
        self.categories[category.id] = category
        for word in category.words:
            self.by_word.setdefault(word, set()).add(category.id)

    def forget_oldest(self) -> None:
        """Forget the category that was met longest ago."""
        oldest = min(self.categories.values(), key=lambda category: (category.last, category.id))
        del self.categories[oldest.id]
        for word in oldest.words:
            self.by_word[word].discard(oldest.id)
            if not self.by_word[word]:
                del self.by_word[word]

    def rarity(self, count: int) -> float:
        """Returns which share of all messages was of a category seen so rarely before, this one counted: a p-value."""
        return (1 + sum(self.seen[: min(count, SEEN_MAX) + 1])) / (1 + self.messages)


class Categorize(Operator):
    """Puts messages that are nearly the same into one category, and scores those that are rare, without being taught.

    Each row gets ``category`` (an id that stays), ``category_text`` (the first message of it), ``category_count`` (how
    many messages of it there have been, this one too) and ``score``. Numbers do not tell messages apart, nor do capital
    letters; two messages are nearly the same if they share ``similarity`` of their words (Jaccard 1901).

    The score is 75 where only ``rarity`` of this key's messages were of a category that had been seen so rarely before
    (a conformal p-value, so that in a log where every third message is new, a new one is no news). It is null for the
    first ``learn`` messages. Messages of all machines are compared where all rows have one key: `rekey` before.

    Examples
    --------
    >>> log = rows({"text": ["Cyl 2 gasket leaking", "Rudder cable frayed", "cyl 4 gasket is leaking", None]})
    >>> feed(Categorize(), log)["category_text"].to_pylist()
    ['Cyl 2 gasket leaking', 'Rudder cable frayed', 'Cyl 2 gasket leaking', None]
    """

    SHORTHAND: ClassVar[str | None] = "of"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({"learn": 10}, {"categories_max": 2, "learn": 10, "rarity": 0.1})
    KEEPS_STATE: ClassVar[Sequence[str]] = ("rarity", "learn", "similarity", "categories_max")

    of: str = "text"
    """The column with the message."""
    similarity: float = Setting(0.6, gt=0, le=1)
    """The share of the words of both messages that they must have in common."""
    rarity: float = Setting(0.01, gt=0, lt=0.5)
    """The share of messages so rare that the score reaches 75."""
    learn: int = Setting(200, ge=10)
    """How many messages of a key come before the first score."""
    categories_max: int = Setting(1_000, ge=2, le=20_000)
    """How many categories of a key are remembered; the one that was met longest ago is forgotten first."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        kind = require(input, self.of, self.name()).type
        if not (pt.is_string(kind) or pt.is_large_string(kind) or pt.is_dictionary(kind)):
            raise SchemaError(
                f"{self.name()} needs text in column '{self.of}', which is {in_words(kind)}; name another with of"
            )
        return added(input, ADDED, self.name())

    def initial(self) -> dict[str, MessageMemory]:
        return {}

    def step(self, state: dict[str, MessageMemory], batch: Batch) -> tuple[dict[str, MessageMemory], Sequence[Batch]]:
        rows = batch.rows
        keys, texts = rows.column("key").cast(pa.string()).to_pylist(), rows.column(self.of).cast(pa.string())
        # A loop over rows: 15 to 40 µs a message, by how many categories share a word with it.
        told = [self._judge(state, key, text) for key, text in zip(keys, texts.to_pylist(), strict=True)]
        columns = [pa.array([row[i] for row in told], new.type) for i, new in enumerate(ADDED)]
        left = pa.RecordBatch.from_arrays([*rows.columns, *columns], schema=promised(self, rows.schema))
        return state, (batch.with_rows(left),)

    def _judge(
        self, state: dict[str, MessageMemory], key: str, text: str | None
    ) -> tuple[str | None, str | None, int | None, float | None]:
        words = frozenset(_WORD.findall(_NUMBER.sub("0", (text or "")[:TEXT_MAX].lower())))
        if text is None or not words:
            return None, None, None, None
        log_of = state.setdefault(key, MessageMemory())
        category = log_of.nearest(words, self.similarity) or log_of.begin(text[:TEXT_MAX], words)
        score = None
        if log_of.messages >= self.learn:
            score = float(score_of(log(log_of.rarity(category.count)) / log(self.rarity)))
        log_of.seen[min(category.count, SEEN_MAX)] += 1
        log_of.messages += 1
        category.count, category.last = category.count + 1, log_of.messages
        while len(log_of.categories) > self.categories_max:
            log_of.forget_oldest()
        return category.id, category.text, category.count, score

    def dump(self, state: dict[str, MessageMemory]) -> pa.Table:
        notes = [
            {
                "messages": one.messages,
                "seen": one.seen,
                "categories": [[c.id, c.text, c.count, c.last, sorted(c.words)] for c in one.categories.values()],
            }
            for one in state.values()
        ]
        return _CATEGORIES.dump(pa.table({"key": pa.array(list(state), pa.string())}), notes, 0)

    def load(self, table: pa.Table) -> dict[str, MessageMemory]:
        state: dict[str, MessageMemory] = {}
        for key, note in zip(table.column("key").to_pylist(), _CATEGORIES.load(table)[0], strict=True):
            state[key] = MessageMemory(note["messages"], seen=note["seen"])
            for id, text, count, last, words in note["categories"]:
                state[key].remember(Category(id, text, frozenset(words), count, last))
        return state
