"""Fields whose names are not known beforehand: each number among them is a row, with the name of its signal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, field_validator, model_validator
from pydantic import Field as Setting

from tocsin.decode._base import Decoder
from tocsin.decode._builder import Builder
from tocsin.decode._columns import Column, columns_of
from tocsin.decode._paths import steps_of
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects
from tocsin.settings import Many
from tocsin.values.names import is_about_the_record

AUTO = "auto"
ABOUT_THE_RECORD = "about_the_record"
SIGNAL, VALUE = "signal", "value"
"""The columns of a row: the name of the field, and the number that stands in it."""
NAME_LENGTH_MAX = 128
_PLACE = re.compile(r"\{([A-Za-z_]\w*)(\.\.\.)?\}")
_MATCHES_MAX = 10_000
"""Of how many names it is remembered which pattern they fit, to save time."""


class _Fit(NamedTuple):
    """Which pattern a field's name fits."""

    parts: tuple[str | None, ...]
    """What stands at the names in braces of all patterns."""
    must_be_number: bool


class Origin(NamedTuple):
    """Where a row comes from."""

    record: int
    """Its number among the records that are decoded."""
    row: int
    """The record's row in the batch."""
    part: bytes | None
    """The row's own bytes, where a record holds several."""


class SignalDecoder(Decoder):
    """A decoder of records whose fields have names, not all of which need be known beforehand."""

    columns: Annotated[
        Mapping[str, Column],
        BeforeValidator(columns_of, json_schema_input_type=Literal["auto"] | dict[str, str | Column]),
    ]
    """Name and type (int, float, text, category, bool, timestamp) of each column, or its type with further settings;
    ``auto`` stands for none, and ``signals: auto``."""
    signals: Many[str] = ()
    """Further fields, each of which becomes a row of its own, with the columns ``signal`` (its name) and ``value``:
    ``auto`` for every field with a number that is no column, or patterns of names. In ``Ax_J{n}.{what}`` the names in
    braces become columns, too; ``{name...}`` goes over dots."""
    signals_max: int = Setting(1_000, ge=1)
    """How many signals a machine may have (see `new_signals`, which tells each new one)."""

    signals_exclude: Many[str] = ()
    """Fields that are no signals though they fit: names, or patterns of names; ``about_the_record`` for all whose names
    are those of ids, counters, qualities and radio, as `tocsin watch` tells them."""

    @model_validator(mode="before")
    @classmethod
    def _auto(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("columns") == AUTO:
            return {"signals": AUTO, **given, "columns": {}}
        return given

    @field_validator("signals")
    @classmethod
    def _patterns_are_right(cls, signals: tuple[str, ...]) -> tuple[str, ...]:
        for text in signals:
            if pattern_of(text) is None:
                raise ValueError(f"{text!r}: write auto, a name, or a pattern of names such as Ax_J{{n}}.{{what}}")
        return signals

    @field_validator("signals_exclude")
    @classmethod
    def _exceptions_are_right(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for text in names:
            if text == AUTO or pattern_of(text) is None:
                raise ValueError(
                    f"{text!r}: write names, patterns of names such as debug.{{name}}, or about_the_record"
                )
        return names

    def behind(self) -> Mapping[str, Any]:
        return {"new_signals": {"most": self.signals_max}} if self.signals else {}

    @cached_property
    def made(self) -> Mapping[str, Column]:
        if not self.signals:
            return self.told
        names = self._patterns[1]
        everywhere = [set(pattern.groupindex) for pattern in self._patterns[0]]
        named = {name: Column(type="category", optional=not all(name in one for one in everywhere)) for name in names}
        return {**self.told, SIGNAL: Column(type="category"), **named, VALUE: Column(type="float")}

    @cached_property
    def _patterns(self) -> tuple[tuple[re.Pattern[str], ...], tuple[str, ...]]:
        """The patterns, and the names in their braces."""
        patterns = _all_of(self.signals)
        return patterns, tuple(dict.fromkeys(name for pattern in patterns for name in pattern.groupindex))

    @cached_property
    def _measured(self) -> Column:
        """What a field is read as: missing values leave no row."""
        return Column(type="float", optional=True, null=self.null)

    @cached_property
    def _taken(self) -> frozenset[str]:
        """The fields that are columns."""
        paths = (column.path or name for name, column in self.columns.items())
        return frozenset(".".join(step for step in steps_of(path) if step != "$") for path in paths)

    @cached_property
    def _fits(self) -> dict[str, _Fit | None]:
        return {}

    def _fit(self, name: str) -> _Fit | None:
        """Returns what a field's name fits; None where it is a column, or fits nothing."""
        if name in self._fits:
            return self._fits[name]
        made = None
        if name not in self._taken and not self._is_excluded(name):
            patterns, names = self._patterns
            for text, pattern in zip(self.signals, patterns, strict=True):
                if match := pattern.fullmatch(name):
                    parts = match.groupdict()
                    made = _Fit(tuple(parts.get(each) for each in names), must_be_number=text != AUTO)
                    break
        if len(self._fits) >= _MATCHES_MAX:
            self._fits.clear()
        self._fits[name] = made
        return made

    def _is_excluded(self, name: str) -> bool:
        if ABOUT_THE_RECORD in self.signals_exclude and is_about_the_record(name):
            return True
        return any(pattern.fullmatch(name) for pattern in _all_of(self.signals_exclude))

    def add(
        self, builder: Builder, rejects: Rejects, origin: Origin, values: list[Any],
        fields: Iterable[tuple[str, Any]], value_of: Callable[[str, Column, Any], Any],
    ) -> None:  # fmt: skip
        """Add a row with the values of the columns; with ``signals`` one for each of the fields that is a signal.

        A field that cannot be read is set aside alone. Raises `Bad` if no field is a signal.
        """
        record, row, part = origin
        if not self.signals:
            builder.add(record, row, values, part)
            return
        is_empty = True
        for name, given in fields:
            fit = self._fit(name)
            if fit is None:
                continue
            try:
                if len(name) > NAME_LENGTH_MAX or not name.isprintable():
                    raise Bad("encoding", f"a name of more than {NAME_LENGTH_MAX} characters, or with unseen ones")
                number = value_of(name, self._measured, given)
            except Bad as bad:
                if bad.reason == "type" and not fit.must_be_number:
                    continue
                is_empty = False
                rejects.add(row, bad, part)
                continue
            is_empty = False
            if number is not None:
                builder.add(record, row, [*values, name, *fit.parts, number], part)
        if is_empty:
            raise Bad("missing_field", f"no field is a signal ({', '.join(self.signals)})")


def _all_of(texts: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(pattern for text in texts if (pattern := pattern_of(text)) is not None)


def pattern_of(text: str) -> re.Pattern[str] | None:
    """Returns a pattern of names: ``{name}`` stands for anything without a dot, ``{name...}`` for anything.

    None if braces are not in pairs around a word. Raises ValueError where a name in braces cannot be a column.

    Examples
    --------
    >>> pattern_of("Ax_J{n}.{what}").fullmatch("Ax_J3.Torque").groupdict()
    {'n': '3', 'what': 'Torque'}
    """
    if text == AUTO:
        return re.compile(".+", re.DOTALL)
    made, at, seen = "", 0, set[str]()
    for place in _PLACE.finditer(text):
        name = place[1]
        if name in seen or name in (SIGNAL, VALUE):
            raise ValueError(f"{text!r} has {{{name}}} twice, or it is taken; call it otherwise")
        seen.add(name)
        made += re.escape(text[at : place.start()]) + (f"(?P<{name}>.+)" if place[2] else f"(?P<{name}>[^.]+)")
        at = place.end()
    if not text or set(text[at:]) & set("{}") or set(_PLACE.sub("", text)) & set("{}"):
        return None
    return re.compile(made + re.escape(text[at:]), re.DOTALL)
