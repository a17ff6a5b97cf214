"""Rekey: say which machine or series a row belongs to."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from pydantic import Field as Setting
from pydantic import model_validator

from tocsin.bases import promised, require
from tocsin.batch import KEY, KEY_TYPE, REJECTED, REJECTED_SCHEMA, STEP, Batch
from tocsin.condition._rejects import rejected
from tocsin.contracts import Operator
from tocsin.errors import ConfigError, SchemaError
from tocsin.state import Columns

_JOINING = (
    r"\p{Arabic}\p{Syriac}\p{Mongolian}\p{Khmer}\p{Devanagari}\p{Bengali}\p{Gurmukhi}\p{Gujarati}\p{Oriya}\p{Tamil}"
    r"\p{Telugu}\p{Kannada}\p{Malayalam}\p{Sinhala}"
)
"""Scripts that are spelt with joiners."""
_UNSEEN = (
    r"[\p{Cc}\p{Zl}\p{Zp}\x{ad}\x{34f}\x{600}-\x{605}\x{61c}\x{115f}\x{1160}\x{17b4}\x{17b5}\x{180b}-\x{180f}\x{200b}"
    r"\x{200e}\x{200f}\x{202a}-\x{202e}\x{2060}-\x{206f}\x{2800}\x{3164}\x{feff}\x{ffa0}\x{fff0}-\x{fffb}\x{1bca0}-"
    r"\x{1bca3}\x{1d173}-\x{1d17a}\x{e0000}-\x{e0fff}]"
    rf"|(^|[^{_JOINING}])[\x{{200c}}\x{{200d}}]"
    r"|(^|[^\p{So}])[\x{fe00}-\x{fe0f}]"
)
"""Control characters, and those that are not seen or turn the text around them: Unicode's bidirectional controls,
tags, fillers and invisible operators; joiners, where the script has no use for them, and what chooses between forms of
a sign, where none is before it."""
_FINE, _MISSING, _CHARACTERS, _LENGTH, _LIMIT = range(5)
_REASONS = ("", "missing_key", "key_characters", "key_length", "key_limit")


class Rekey(Operator):
    """Make the column ``key``: the name of the machine or series that a row belongs to.

    One column becomes the key (and is no longer there under its old name); a template such as ``{site}/{machine}``
    puts it together from several, which stay. Keys are brought into Unicode's composed form (NFC), so that one name
    is one machine. Rows without a key, or with one that is no name, go to ``rejected``: ``missing_key`` (nothing but
    blanks, too), ``key_characters`` (control characters, and those that nobody sees or that turn the text around
    them), ``key_length``, ``key_limit`` (more machines than were allowed for).

    Not needed after a source that knows its machines (`host`, `simulate`).

    Examples
    --------
    >>> readings = rows({"machine": ["pump", "fan", ""], "value": [1, 2, 3]})
    >>> feed(Rekey(of="machine"), readings)["key"].to_pylist()
    ['pump', 'fan']
    >>> feed(Rekey(of="plant/{machine}"), readings)["key"].to_pylist()
    ['plant/pump', 'plant/fan']
    """

    SHORTHAND: ClassVar[str | None] = "of"
    TIMELESS: ClassVar[bool] = True
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"of": "text"},
        {"of": "{text}-{sequence}", "keys_max": 20},
        {"constant": "rig"},
    )
    KEEPS_STATE: ClassVar[Collection[str]] = ("keys_max", "length_max")

    of: str | None = Setting(None, min_length=1)
    """The column that names the machine, or a template of columns: ``{site}/{machine}``."""
    constant: str | None = Setting(None, min_length=1)
    """The name of the machine, where all rows are of one; no column is needed then."""
    keys_max: int = Setting(200_000, ge=1)
    """How many machines there may be; rows of further ones are set aside, so that made-up names cannot fill memory."""
    length_max: int = Setting(128, ge=1)
    """How many characters a key may have."""

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        return rows.drop_columns(["key", "time"])

    def _parts(self) -> list[str]:
        """The template's pieces: text, column, text, column, ..., text."""
        return re.split(r"\{([^{}]*)\}", self.of or "")

    @model_validator(mode="after")
    def _one_of_both(self) -> Rekey:
        if (self.of is None) == (self.constant is None):
            raise ValueError("name either the column that says which machine a row is of, or constant: NAME for all")
        return self

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        if self.of is None:
            return pa.schema([KEY, *(field for field in input if field.name != "key")])
        parts = self._parts()
        if len(parts) == 1 and set("{}") & set(self.of):
            raise ConfigError(f"'{self.of}' is no template; write columns in braces: {{site}}/{{machine}}")
        if len(parts) == 1 and self.of not in input.names:
            raise SchemaError(
                f"there is no column '{self.of}' to name the machine; there are [{', '.join(input.names)}]. Where all "
                f"rows are of one machine write key: {{constant: {self.of}}}"
            )
        for column in parts[1::2] or [self.of]:
            kind = require(input, column, self.name()).type
            if pt.is_floating(kind) or pt.is_nested(kind):
                raise SchemaError(f"a key is text or a whole number; column '{column}' is {kind}")
        dropped = {"key"} if len(parts) > 1 else {"key", self.of}
        return pa.schema([KEY, *(field for field in input if field.name not in dropped)])

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {REJECTED: REJECTED_SCHEMA}

    def meets(self) -> Literal["key", "path", "all"]:
        """A series of a machine, ``{key}/{signal}``, is where the machine is; any other key may be made of several."""
        return "path" if (self.of or "").startswith(f"{{key}}{STEP}") else "all"

    def initial(self) -> Columns:
        return Columns({})

    def dump(self, state: Columns) -> pa.Table:
        return state.dump()

    def load(self, table: pa.Table) -> Columns:
        return Columns.load({}, table)

    def step(self, state: Columns, batch: Batch) -> tuple[Columns, Sequence[Batch]]:
        rows = batch.rows
        schema = promised(self, rows.schema)
        keys, faults = self._admit(state, self._keys(rows))
        kept = [rows.column(field.name) for field in list(schema)[1:]]
        if faults is None:
            return state, (batch.with_rows(pa.RecordBatch.from_arrays([keys, *kept], schema=schema)),)
        good = pa.array(faults == _FINE)
        at = np.flatnonzero(faults)
        words = keys.take(pa.array(at)).to_pylist()
        bad = rejected(rows, at, [_REASONS[f] for f in faults[at]], [repr(w)[:200] if w else "" for w in words])
        out = pa.RecordBatch.from_arrays([column.filter(good) for column in (keys, *kept)], schema=schema)
        return state, (Batch(bad, batch.watermark_us, REJECTED), batch.with_rows(out))

    def _keys(self, rows: pa.RecordBatch) -> pa.Array:
        if self.of is None:
            return pa.repeat(pa.scalar(self.constant), len(rows)).dictionary_encode()
        parts = self._parts()
        if len(parts) == 1:
            column = rows.column(self.of)
            if not pt.is_dictionary(column.type):
                return column.cast(pa.string()).dictionary_encode()
            return column if column.type == KEY_TYPE else column.cast(KEY_TYPE)
        pieces = [
            pc.if_else(pc.equal(pc.utf8_trim_whitespace(text), ""), None, text) if i % 2 else text
            for i, text in enumerate(rows.column(p).cast(pa.string()) if i % 2 else p for i, p in enumerate(parts))
        ]
        return pc.binary_join_element_wise(*pieces, "").dictionary_encode()

    def _admit(self, state: Columns, keys: pa.Array) -> tuple[pa.Array, np.ndarray | None]:
        """The keys in composed form, and what is wrong with each row's (None: nothing is)."""
        if not keys.indices.null_count and self._plain(keys.dictionary):
            of_row, good = None, keys
        else:
            words, faults = self._faults(keys.dictionary)
            of_row = faults[keys.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)]
            good = keys = pa.DictionaryArray.from_arrays(keys.indices, words)
            if of_row.any():
                good = keys.filter(pa.array(of_row == _FINE))
        if len(state) + len(keys.dictionary) <= self.keys_max:
            state.slots(good)
        else:
            of_row = self._limited(state, keys, np.zeros(len(keys), np.int8) if of_row is None else of_row)
        return keys, of_row if of_row is not None and of_row.any() else None

    def _plain(self, words: pa.Array) -> bool:
        """Whether all are of printable ASCII and of the right length, as nearly always: a look at their bytes."""
        if words.null_count or not len(words):
            return False
        _, offsets, data = words.buffers()
        ends = np.frombuffer(offsets, np.int32)[words.offset : words.offset + len(words) + 1]
        sizes = np.diff(ends)
        if not 0 < sizes.min() <= sizes.max() <= self.length_max:
            return False
        text = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
        if text.min() < 0x20 or text.max() >= 0x7F:
            return False
        return not (text[ends[:-1] - ends[0]] == 0x20).any()  # may be nothing but blanks

    def _faults(self, words: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """Words in composed form, and what is wrong with each; the last stands for rows without a word."""
        # Not by Arrow, which leaves words as they are in the oldest version that is taken. These are few.
        words = pa.array([word if word is None else normalize("NFC", word) for word in words.to_pylist()], words.type)
        faults = np.zeros(len(words) + 1, np.int8)
        faults[-1] = _MISSING
        for fault, here in (
            (_LENGTH, pc.greater(pc.utf8_length(words), self.length_max)),
            (_CHARACTERS, pc.match_substring_regex(words, _UNSEEN)),
            (_MISSING, pc.equal(pc.utf8_trim_whitespace(words), "")),
        ):
            faults[:-1][pc.fill_null(here, fault == _MISSING).to_numpy(zero_copy_only=False)] = fault
        return words, faults

    def _limited(self, state: Columns, keys: pa.Array, faults: np.ndarray) -> np.ndarray:
        """Close to the limit: new names are taken in order of appearance while there is room."""
        fine = pa.array(faults == _FINE)
        known = pc.is_in(keys.dictionary, value_set=state.keys.names()).to_numpy(zero_copy_only=False)
        codes = keys.indices.fill_null(0).to_numpy(zero_copy_only=False)
        new, first = np.unique(codes[np.flatnonzero(fine.to_numpy(zero_copy_only=False) & ~known[codes])], True)
        fresh = keys.dictionary.take(pa.array(new[np.argsort(first)])).unique()
        room = fresh.slice(0, self.keys_max - len(state))
        state.slots(room)
        over = pc.is_in(keys.dictionary, value_set=fresh.slice(len(room))).to_numpy(zero_copy_only=False)
        return np.where((faults == _FINE) & over[codes], _LIMIT, faults)
