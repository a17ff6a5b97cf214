"""The columns that a decoder is told to make: their types, where each stands, and how its values are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BeforeValidator

from tocsin.batch import KEY_TYPE, TIME_TYPE
from tocsin.settings import Settings

TYPES: Mapping[str, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "category": KEY_TYPE,
    "bool": pa.bool_(),
    "timestamp": TIME_TYPE,
}


class Column(Settings):
    """One column: its type, and where in a record it stands."""

    type: Literal["int", "float", "text", "category", "bool", "timestamp"]
    """``category`` is text of few different values, such as names; ``timestamp`` is RFC 3339 or an epoch number."""
    path: str | None = None
    """Where it stands, if not under its own name: ``a.b.c`` for nested fields, ``values.0`` for a place in an array."""
    optional: bool = False
    """Whether it may be missing; then it is null."""
    unit: Literal["s", "ms", "us", "ns", "auto"] | None = None
    """Unit of epoch numbers, for a timestamp."""
    zone: str | None = None
    """Zone of local times, as ``Europe/Berlin``, for a timestamp."""

    @property
    def arrow(self) -> pa.DataType:
        return TYPES[self.type]


def _columns(value: Any) -> Any:
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


Columns = Annotated[Mapping[str, Column], BeforeValidator(_columns, json_schema_input_type=dict[str, str | Column])]
