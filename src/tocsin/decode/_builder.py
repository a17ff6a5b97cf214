"""Rows made one by one, from records that no compiled loop could take."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.batch import Ints
from tocsin.decode._columns import WORDS, Column
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects
from tocsin.values.time_forms import advice
from tocsin.values.times import parse_times

INT_END = 2**63


@dataclass(frozen=True, slots=True)
class Decoded:
    """Columns as declared, and the record that each of their rows comes from (None: row i from record i)."""

    arrays: Sequence[pa.Array]
    origin: Ints | None


class Builder:
    """Rows made one by one, for records that no compiled loop could take; times are read all at once at the end."""

    def __init__(self, columns: Mapping[str, Column], rejects: Rejects) -> None:
        self._columns = columns
        self._rejects = rejects
        self._values: list[list[Any]] = []
        self._origin: list[int] = []
        self._batch_rows: list[int] = []
        self._parts: list[bytes | None] = []

    def add(self, origin: int, batch_row: int, values: list[Any], part: bytes | None = None) -> None:
        self._values.append(values)
        self._origin.append(origin)
        self._batch_rows.append(batch_row)
        self._parts.append(part)

    def __len__(self) -> int:
        return len(self._values)

    def finish(self) -> tuple[list[pa.Array], Ints]:
        """The columns, and the record that each row comes from."""
        stamps: dict[str, pa.Array] = {}
        good = np.ones(len(self._values), bool)
        for c, (name, column) in enumerate(self._columns.items()):
            if column.type != "timestamp":
                continue
            raw = [values[c] for values in self._values]
            stamps[name], reasons = parse_times(pa.array(raw, pa.string()), column.unit, column.zone, column.format)
            refused = np.array([v is not None for v in raw], bool)
            refused &= stamps[name].is_null().to_numpy(zero_copy_only=False)
            for i in np.flatnonzero(refused & good).tolist():
                reason, text = reasons[i].as_py(), str(raw[i])[:100]
                if reason == "ts_missing" and column.optional:
                    refused[i] = False
                    continue
                if reason == "ts_missing":
                    bad = Bad("missing_field", f"{name} is required, and empty")
                else:
                    bad = Bad(reason, f"{name}: {text!r} {advice(text, reason, column.format)}".rstrip())
                self._rejects.add(self._batch_rows[i], bad, self._parts[i])
            good &= ~refused
        keep = pa.array(good)
        arrays = []
        for c, (name, column) in enumerate(self._columns.items()):
            array = stamps.get(name)
            if array is None:
                made = pa.array(
                    [v[c] for v in self._values], pa.string() if column.type == "category" else column.arrow
                )
                array = made.dictionary_encode() if column.type == "category" else made
            arrays.append(array if good.all() else array.filter(keep))
        return arrays, np.array(self._origin, np.int64)[good]


def merged(fast: Sequence[pa.Array], matched: Ints, builder: Builder) -> Decoded:
    """Rows that a scanner took, and those taken one by one, in the order of their records."""
    slow, origin = builder.finish()
    if not len(origin):
        return Decoded(fast, matched)
    both = np.concatenate([matched, origin])
    order = np.argsort(both, kind="stable")
    at = pa.array(order)
    return Decoded([pa.concat_arrays([a, b]).take(at) for a, b in zip(fast, slow, strict=True)], both[order])


def joined(parts: Sequence[Decoded]) -> Decoded:
    """Rows of several parts of a batch, in the order of their records."""
    if len(parts) == 1:
        return parts[0]
    origin = np.concatenate([np.asarray(part.origin) for part in parts])
    order = np.argsort(origin, kind="stable")
    at = pa.array(order)
    columns = zip(*(part.arrays for part in parts), strict=True)
    return Decoded([pa.concat_arrays(list(column)).take(at) for column in columns], origin[order])


def from_text(name: str, column: Column, text: str, decimal: str = ".", thousands: str = "") -> Any:
    """Returns the value of a text field as its column's type (a timestamp stays text); `Bad` if it is none."""
    if not text or (column.type not in WORDS and column.is_missing(text)):
        if column.optional:
            return None
        raise Bad("missing_field", f"{name} is required, and {repr(text) if text else 'empty'}")
    match column.type:
        case "int":
            plain = without_thousands(text, thousands, decimal)
            if not _INT.fullmatch(plain):
                raise Bad("type", f"{name}: {text[:100]!r} is no int")
            if len(plain) > 400 or not -INT_END <= (number := int(plain)) < INT_END:
                raise Bad("number_range", f"{name}: {text[:100]} does not fit 64 bits")
            return number
        case "float":
            plain = without_thousands(text, thousands, decimal)
            if decimal != ".":
                plain = plain.replace(".", "x").replace(decimal, ".")
            if not _FLOAT.fullmatch(plain):
                raise Bad("type", f"{name}: {text[:100]!r} is no number{_hint(text, decimal, thousands)}")
            return finite(name, float_of(plain))
        case "bool":
            if text.lower() not in _BOOLS:
                raise Bad("type", f"{name}: {text[:100]!r} is neither true nor false")
            return _BOOLS[text.lower()]
        case "category":
            return without_null(name, text)
    return text


def without_thousands(text: str, mark: str, decimal: str) -> str:
    """Returns a number without the marks between its groups of three digits; as it is, if they stand elsewhere."""
    if not mark or mark not in text:
        return text
    whole, point, rest = text.partition(decimal)
    groups = whole.lstrip("+-").split(mark)
    if not 1 <= len(groups[0]) <= 3 or any(len(group) != 3 for group in groups[1:]) or mark in rest:
        return text
    return whole.replace(mark, "") + point + rest


def _hint(text: str, decimal: str, thousands: str) -> str:
    if decimal == "." and re.fullmatch(r"[+-]?[0-9]+,[0-9]+", text):
        return '; if the comma is its decimal point, set decimal: ","'
    if not thousands and (groups := re.fullmatch(r"[+-]?[0-9]{1,3}([.,' ])[0-9]{3}.*", text)) and groups[1] != decimal:
        return f'; if it has thousands apart, set thousands: "{groups[1]}"'
    return ""


_DIGIT = re.compile(r"^[^eE]*[1-9]")
_INT = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


class Tiny(float):
    """Zero, in place of a number that is not zero, but too small for a float."""


def float_of(text: str) -> float:
    """Returns the number that a text says, or `Tiny`.

    Examples
    --------
    >>> [isinstance(float_of(text), Tiny) for text in ("0e-400", "1e-400", "5e-324")]
    [False, True, False]
    """
    number = float(text)
    return Tiny() if number == 0 and vanishes(text) else number


def vanishes(text: str) -> bool:
    """Returns whether a number that has come out as zero has digits that say otherwise."""
    return _DIGIT.search(text) is not None


def finite(name: str, number: float) -> float:
    """The number, -0.0 as 0.0; `Bad` if it overflowed, or vanished."""
    if number in (np.inf, -np.inf):
        raise Bad("number_range", f"{name} does not fit a 64-bit float")
    if isinstance(number, Tiny):
        raise Bad("number_range", f"{name} is not zero, but too small for a 64-bit float")
    return number + 0.0


def without_null(name: str, text: str) -> str:
    if "\0" in text:
        raise Bad("encoding", f"{name}: a null character in a name")
    return text


def utf8(payload: bytes) -> str:
    """The text of a payload, without its byte order mark."""
    try:
        if payload.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return payload[: len(payload) // 2 * 2].decode("utf-16")  # a line end may be a single byte
        text = payload.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Bad(
            "encoding", f"not {error.encoding} at byte {error.start}; if it is another, name it: encoding: cp1252"
        ) from error
    if "\0" in text[:4]:
        raise Bad("encoding", "UTF-16 or UTF-32, or binary")
    return text
