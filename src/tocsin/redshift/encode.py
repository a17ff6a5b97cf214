"""Rows as Redshift's COPY reads them: CSV, in which a null is a text of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.postgres.encode import json_text, plain_text
from tocsin.redshift.types import SUPER, VARBYTE, sql_type

NULL = "@NULL@"
"""Stands for a null. COPY takes an empty field of a text for an empty text, so there has to be such a word."""


def texts(column: pa.Array) -> pa.Array:
    """Return a column as text that Redshift reads as `types.sql_type` of its type; nulls stay.

    Examples
    --------
    >>> texts(pa.array([b"\\x00\\xff", None])).to_pylist(), texts(pa.array([["a", None]])).to_pylist()
    (['00ff', None], ['["a",null]'])
    """
    type = column.type
    if pt.is_dictionary(type):
        return texts(column.cast(type.value_type))
    kept_as = sql_type(type, "")
    if kept_as == SUPER:
        return json_text(column)
    if kept_as == VARBYTE:
        return pa.array([None if value is None else value.hex() for value in column.to_pylist()], pa.string())
    text = plain_text(column)
    if pt.is_timestamp(type) and type.tz is not None:
        return pc.replace_substring(text, " ", "T")  # ISO 8601, which COPY knows with a Z at its end
    if pt.is_floating(type):
        for plain, word in (("nan", "NaN"), ("inf", "Infinity")):
            text = pc.replace_substring(text, plain, word)
    return text


def null_word(columns: Sequence[pa.Array]) -> str:
    """Return a word that no value equals.

    Examples
    --------
    >>> null_word([pa.array(["a", None])]), null_word([pa.array(["@NULL@"])])
    ('@NULL@', '@NULL@@')
    """
    word = NULL
    while any(pc.any(pc.equal(column, word)).as_py() for column in columns):
        word += "@"
    return word


def csv(columns: Sequence[pa.Array], null: str) -> bytes:
    """Return columns of text as lines of CSV, each with its end; what is null is the given word, without quotes.

    Examples
    --------
    >>> print(csv([pa.array(['a "b" c', None]), pa.array(["", "1.5"])], "@NULL@").decode(), end="")
    "a ""b"" c",""
    @NULL@,"1.5"
    """
    quote, nothing, comma, end = (pa.scalar(sign, pa.large_string()) for sign in ('"', "", ",", "\n"))
    fields = []
    for column in columns:
        escaped = pc.replace_substring(column.cast(pa.large_string()), '"', '""')
        fields.append(pc.fill_null(pc.binary_join_element_wise(quote, escaped, quote, nothing), null))
    lines = pc.binary_join_element_wise(*fields, comma)
    lines = pc.binary_join_element_wise(lines, end, nothing)
    return bytes(lines.buffers()[2])  # one behind the other, as they stand in memory


def encoded(column: pa.Array) -> tuple[pa.Array, Mapping[int, str]]:
    """Return a column as `texts`, and the places of values that are no text for COPY, each with the reason.

    Examples
    --------
    >>> encoded(pa.array(["a", "b\\0"]))[1]
    {1: 'a text holds a NUL character'}
    """
    try:
        text = texts(column)
    except (ValueError, OverflowError) as error:
        if len(column) == 1:
            return pa.nulls(1, pa.string()), {0: f"it cannot be written as text: {error}"}
        half = len(column) // 2
        (first, bad), (second, worse) = encoded(column[:half]), encoded(column[half:])
        return pa.concat_arrays([first, second]), {**bad, **{half + at: why for at, why in worse.items()}}
    holds_nul = pc.fill_null(pc.match_substring(text, "\0"), False)
    return text, {int(at): "a text holds a NUL character" for at in pc.indices_nonzero(holds_nul).to_pylist()}
