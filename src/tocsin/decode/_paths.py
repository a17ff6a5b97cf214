"""Paths through nested values: keys and places, by dots."""

from __future__ import annotations

import re
from typing import Any

from tocsin.decode._reasons import Bad
from tocsin.decode._values import kind

NAME, ELEMENT = "@key", "@value"
"""Paths of what stands around a row: its name in an object of rows (its number in an array), and the row itself."""


def steps_of(path: str) -> tuple[str, ...]:
    """The keys of a path; a dot behind a backslash is part of a key."""
    return tuple(step.replace("\\.", ".") for step in re.split(r"(?<!\\)\.", path))


def at_path(value: Any, steps: tuple[str, ...]) -> Any:
    """What stands at a path, None if nothing does."""
    keys = where(value, steps)
    for key in keys or ():
        value = value[key]
    return None if keys is None else value


def where(value: Any, steps: tuple[str, ...]) -> tuple[Any, ...] | None:
    """The keys and places by which a path goes; where nothing is nested so, a key may itself have dots in it."""
    if not steps:
        return ()
    if isinstance(value, list):
        if not steps[0].isdecimal() or int(steps[0]) >= len(value):
            return None
        rest = where(value[int(steps[0])], steps[1:])
        return None if rest is None else (int(steps[0]), *rest)
    if not isinstance(value, dict):
        return None
    for count in range(1, len(steps) + 1):
        key = ".".join(steps[:count])
        if key in value and (rest := where(value[key], steps[count:])) is not None:
            return key, *rest
    return None


def value_at(steps: tuple[str, ...], element: Any, record: Any, name: str | None) -> Any:
    """What stands at a column's path: from its row on, or with ``$`` in front from the record."""
    if steps == (NAME,):
        return name
    if steps == (ELEMENT,):
        return element
    return at_path(record, steps[1:]) if steps[0] == "$" else at_path(element, steps)


def elements_at(record: Any, path: str) -> list[tuple[str, Any]]:
    """The rows at a path, each with its name in an object, or its number in an array."""
    rows = at_path(record, tuple(step for step in steps_of(path) if step != "$"))
    if isinstance(rows, dict):
        return list(rows.items())
    if not isinstance(rows, list):
        raise Bad("shape", f"an array, or an object of rows, is wanted at {path}, not {kind(rows)}")
    return [(str(n), element) for n, element in enumerate(rows)]
