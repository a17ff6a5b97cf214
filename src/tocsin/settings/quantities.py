"""Durations and sizes as people write them: ``20s``, ``1h30m``, ``PT5M``, ``10MiB``."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS_US = {
    "us": 1,
    "µs": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|µs|ms|min|s|m|h|d|w)\s*")
_ISO = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_ISO_UNITS_US = (604_800_000_000, 86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000)
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def duration_us(value: Any) -> int:
    """Read a duration; a bare number is microseconds.

    Examples
    --------
    >>> duration_us("20s"), duration_us("1h30m"), duration_us("PT5M")
    (20000000, 5400000000, 300000000)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        iso = _ISO.fullmatch(value.strip())
        if iso and any(iso.groups()):
            return round(sum(float(n) * unit for n, unit in zip(iso.groups(), _ISO_UNITS_US, strict=True) if n))
        total, end = 0.0, 0
        for part in _PART.finditer(value):
            if part.start() != end:
                break
            total, end = total + float(part[1]) * _UNITS_US[part[2]], part.end()
        if end and end == len(value):
            return round(total)
    raise ValueError(f"{value!r} is not a duration; write it as 20s, 5m, 1h30m, 250ms or PT5M")


def duration_text(us: int) -> str:
    """Write a duration with the largest unit that divides it.

    Examples
    --------
    >>> duration_text(20_000_000), duration_text(90_000_000)
    ('20s', '90s')
    """
    for unit in ("d", "h", "m", "s", "ms"):
        if us and us % _UNITS_US[unit] == 0:
            return f"{us // _UNITS_US[unit]}{unit}"
    return f"{us}us"


def size_bytes(value: Any) -> int:
    """Read a size in bytes.

    Examples
    --------
    >>> size_bytes("10MiB"), size_bytes("64 kB"), size_bytes(512)
    (10485760, 64000, 512)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        unit = match[2].lower()
        if unit in _SIZES:
            return round(float(match[1]) * _SIZES[unit])
    raise ValueError(f"{value!r} is not a size; write it as 512, 64kB or 10MiB")


Duration = Annotated[
    int,
    BeforeValidator(duration_us),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["20s", "5m", "1h30m", "PT5M"]}),
]
"""A length of time: microseconds in Python, ``20s`` in YAML."""

Size = Annotated[
    int,
    BeforeValidator(size_bytes),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["64KiB", "10MiB"]}),
]
"""A number of bytes: an integer in Python, ``10MiB`` in YAML."""
