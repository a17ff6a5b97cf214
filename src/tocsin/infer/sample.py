"""A sample of a source, and the rows that a format makes of it, as all conclusions see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

VALUES_MAX = 500
"""How many values of a field are looked at."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One message with its topic, or the beginning of one file with its path below the folder that is read."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class Sample:
    """What was seen of a source: messages, or the beginnings of files."""

    pieces: Sequence[Piece]
    is_files: bool = False


@dataclass(frozen=True)
class SampledField:
    """What stands at one path: its value in each row (None where it is missing), and the same as numbers."""

    path: str
    values: Sequence[Any]
    numbers: Sequence[float | None]
    is_quoted: bool = False
    """Whether numbers stand in quotes where others do not, as in JSON."""
    share: float = 0.8
    """Which share of the values has to be numbers for all to be."""

    @cached_property
    def given(self) -> list[Any]:
        """The values that are there, the first `VALUES_MAX`."""
        return [value for value in self.values if value is not None and value != ""][:VALUES_MAX]

    @property
    def rows(self) -> int:
        """How many rows were looked at for `given`, if all of them have a value."""
        return min(len(self.values), VALUES_MAX)

    @cached_property
    def known(self) -> list[float]:
        """The numbers that are there."""
        return [number for number in self.numbers if number is not None][:VALUES_MAX]

    @cached_property
    def is_number(self) -> bool:
        """Whether nearly all values are numbers; words between them stand for what is missing."""
        return bool(self.known) and len(self.known) >= self.share * len(self.given)

    @cached_property
    def words(self) -> list[str]:
        """Texts between numbers, each once."""
        pairs = zip(self.values, self.numbers, strict=True)
        return list(dict.fromkeys(str(value) for value, number in pairs if number is None and value not in (None, "")))

    @cached_property
    def is_whole(self) -> bool:
        """Whether all numbers are whole ones."""
        return all(number == int(number) for number in self.known if abs(number) < 1e18)

    @cached_property
    def distinct(self) -> list[Any]:
        """The values, each once, in their order."""
        return list(dict.fromkeys(str(value) for value in self.given))

    @property
    def name(self) -> str:
        """The last step of the path."""
        return last_step(self.path)


@dataclass(frozen=True)
class Form:
    """A format that was recognised: which decoder with which settings, and the rows it makes of the sample."""

    decoder: str
    settings: Mapping[str, Any]
    topics: Sequence[str]
    """The topic of each row."""
    fields: Sequence[SampledField]
    reasons: Sequence[str]
    files: Mapping[str, Any] = field(default_factory=dict)
    """Settings of source `files`."""
    decimal: str = "."
    units: Mapping[str, str] = field(default_factory=dict)
    """By path, where the sample says it."""

    def get(self, path: str) -> SampledField:
        """Return the field at a path; KeyError if there is none."""
        for one in self.fields:
            if one.path == path:
                return one
        raise KeyError(path)


def last_step(path: str) -> str:
    """Return what is behind the last dot that stands behind no backslash; places in lists keep their name.

    Examples
    --------
    >>> last_step("uplink.payload.temperature"), last_step("axes.0"), last_step("a\\\\.b")
    ('temperature', 'axes.0', 'a.b')
    """
    steps = path.replace("\\.", "\0").split(".")
    last = ".".join(steps[-2:]) if steps[-1].isdigit() and len(steps) > 1 else steps[-1]
    return last.replace("\0", ".")


def spoken(names: Sequence[str], most: int = 6) -> str:
    """Return some names as one text, and how many there are if not all are told."""
    told = ", ".join(names[:most])
    return told if len(names) <= most else f"{told} and {len(names) - most} more"
