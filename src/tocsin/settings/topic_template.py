"""A topic in which columns of a row stand, as ``plant/{key}/state``."""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter

from tocsin.errors import ConfigError


def require_template(topic: str, is_name: Callable[[str], object], remedy: str) -> str:
    """Returns the template; `ConfigError` with the remedy if no values of its columns can make a name of a topic.

    ``is_name`` says whether a topic may have a name. A column stands in braces, by its name alone.
    """
    try:
        parts = list(Formatter().parse(topic))
    except ValueError as error:
        raise ConfigError(f"{topic!r}: {error}") from error
    plain = "".join(text + ("x" if name is not None else "") for text, name, _, _ in parts)
    if not is_name(plain) or any(spec or change or name == "" for _, name, spec, change in parts):
        raise ConfigError(f"{topic!r} {remedy}")
    return topic


def template_columns(topic: str) -> list[str]:
    """Returns the columns that stand in a template.

    Examples
    --------
    >>> template_columns("plant/{key}/{state}")
    ['key', 'state']
    """
    return [name for _, name, _, _ in Formatter().parse(topic) if name is not None]
