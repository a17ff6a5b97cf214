"""Topic names and filters: what is valid, and what matches what."""

from __future__ import annotations

from tocsin.errors import ConfigError

FORBIDDEN_IN_IDS = frozenset("+#/\0")
"""What an id must not contain to stand in a topic: it could name, or listen to, what belongs to another."""


def valid_name(topic: str) -> bool:
    """Whether a message may be published to this topic."""
    return 0 < len(topic.encode()) <= 65535 and not any(c in topic for c in "+#\0")


def valid_filter(pattern: str) -> bool:
    """Whether one may subscribe to this.

    Examples
    --------
    >>> [valid_filter(f) for f in ("plant/+/telemetry", "plant/#", "#", "plant/a+", "plant/#/a", "")]
    [True, True, True, False, False, False]
    """
    if not 0 < len(pattern.encode()) <= 65535 or "\0" in pattern:
        return False
    levels = pattern.split("/")
    return all(
        ("+" not in level or level == "+") and ("#" not in level or (level == "#" and i == len(levels) - 1))
        for i, level in enumerate(levels)
    )


def require_filter(pattern: str) -> str:
    """The filter, or a `ConfigError` that says what is wrong with it."""
    if not valid_filter(pattern):
        raise ConfigError(
            f"{pattern!r} is not a topic filter; '+' stands for one whole level, '#' for the rest: plant/+/telemetry"
        )
    return pattern


def matches(pattern: str, topic: str) -> bool:
    """Whether a filter covers a topic; wildcards at the start do not cover ``$SYS`` and its like.

    Examples
    --------
    >>> [matches("plant/+/t", "plant/a/t"), matches("plant/#", "plant"), matches("+", "a/b"), matches("#", "$SYS/x")]
    [True, True, False, False]
    """
    if topic[:1] == "$" and pattern[:1] in ("+", "#"):
        return False
    want, have = pattern.split("/"), topic.split("/")
    for i, level in enumerate(want):
        if level == "#":
            return True
        if i == len(have) or (level not in ("+", have[i])):
            return False
    return len(want) == len(have)
