"""The columns that a decoder is told to make: their types, where each stands, and how its values are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BeforeValidator, field_validator, model_validator

from tocsin.batch import KEY_TYPE, TIME_TYPE
from tocsin.settings import Settings
from tocsin.values.time_forms import format_pattern

COLUMN_TYPES: Mapping[str, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "category": KEY_TYPE,
    "bool": pa.bool_(),
    "timestamp": TIME_TYPE,
}


WORDS = ("text", "category")
NO_NUMBERS = frozenset(
    [
        "nan",
        "+nan",
        "-nan",
        "inf",
        "+inf",
        "-inf",
        "infinity",
        "+infinity",
        "-infinity",
        "null",
        "n/a",
        "#n/a",
        "na",
        "-",
    ]
)
"""What programs write for a number that there is none; in small letters."""


def _words(value: Any) -> Any:
    """One word or several; a number, as -999, is a word, too."""
    listed = value if isinstance(value, list | tuple) else [value]
    return tuple(str(word) if isinstance(word, int | float) and not isinstance(word, bool) else word for word in listed)


NullWords = Annotated[
    tuple[str, ...], BeforeValidator(_words, json_schema_input_type=str | float | tuple[str | float, ...])
]


def null_is_a_name(given: Any) -> Any:
    """In YAML a bare ``null`` is no text, not even as the name of a setting."""
    if isinstance(given, Mapping) and None in given:
        return {"null" if name is None else name: value for name, value in given.items()}
    return given


class Column(Settings):
    """One column: its type, and where in a record it stands."""

    type: Literal["int", "float", "text", "category", "bool", "timestamp"]
    """``category`` is text of few different values, such as names; ``timestamp`` is a time as text or a number."""
    path: str | None = None
    """Where it stands, if not under its own name: ``a.b.c`` for nested fields, ``values.0`` for a place in an array; in
    CSV it is the name in the header."""
    optional: bool = False
    """Whether it may be missing; then it is null."""
    null: NullWords = ()
    """Further words that stand for a missing value here, as ``UNAVAILABLE``; see the decoder's ``null``."""
    unit: Literal["s", "ms", "us", "ns", "auto"] | None = None
    """For a timestamp: unit of numbers since 1970; ``auto`` guesses it by their size."""
    zone: str | None = None
    """For a timestamp: zone of times that name none, as ``Europe/Berlin``."""
    format: str | None = None
    """For a timestamp: how it is written, as ``%d.%m.%Y %H:%M:%S``."""

    _null = model_validator(mode="before")(null_is_a_name)

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, format: str | None) -> str | None:
        if format is not None:
            format_pattern(format)
        return format

    def is_missing(self, text: str) -> bool:
        """Returns whether a text stands for no value: a word of ``null``, or what is no number where one may miss."""
        return text in self.null or (self.optional and self.type not in WORDS and text.lower() in NO_NUMBERS)

    @cached_property
    def null_numbers(self) -> frozenset[float]:
        """The words of ``null`` that are numbers, as -999, where numbers are wanted."""
        words = () if self.type in WORDS else self.null
        return frozenset(float(word) for word in words if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?", word))

    @property
    def arrow(self) -> pa.DataType:
        return COLUMN_TYPES[self.type]


def columns_of(value: Any) -> Any:
    """Returns columns as they are given, by names that a column can have."""
    if not isinstance(value, Mapping):
        return value
    named: dict[str, Any] = {}
    for name, spec in value.items():
        slug = re.sub(r"\W+", "_", str(name)).strip("_")
        settings = {"type": spec} if isinstance(spec, str) else spec
        if slug != name and isinstance(settings, Mapping):
            settings = {"path": str(name), **settings}
        if not slug or slug.casefold() in {other.casefold() for other in named}:
            raise ValueError(f"column '{name}' is called '{slug}', which is taken or empty; name it and give its path")
        named[slug] = settings
    return named


Columns = Annotated[Mapping[str, Column], BeforeValidator(columns_of, json_schema_input_type=dict[str, str | Column])]
