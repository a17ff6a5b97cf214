"""What records of one layout look like, and the columns of a batch that the scanner fills.

A layout is what stands between the values: bytes that must be there exactly, compared eight at a time, and between
them slots. What does not fit to the last byte is left to the decoder's own parser, so the scanner may be narrow but
never generous: it takes nothing that the parser would not take, and gives the same values bit for bit.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tocsin.batch import TIME_TYPE, Codes, Ints
from tocsin.decode._builder import vanishes
from tocsin.decode._scan import BOOL, CATEGORY, END, FLOAT, INT, SKIP, TEXT, TIME, ZONE_NAMED, ZONE_NONE, ZONE_UTC, scan
from tocsin.decode._spans import FEW, LENGTH, Mask, Words, bitmap, names, texts
from tocsin.values.bytes import padded
from tocsin.values.times import UNITS, resolve_zone

KINDS = {"int": INT, "float": FLOAT, "bool": BOOL, "text": TEXT, "category": CATEGORY, "timestamp": TIME}
_ARROW = {INT: pa.int64(), FLOAT: pa.float64(), TIME: TIME_TYPE}


@dataclass(slots=True)
class Layout:
    """Literal bytes, each followed by a slot; the last by the record's end."""

    ops: list[list[int]] = field(default_factory=list)
    literals: list[int] = field(default_factory=list)
    present: set[int] = field(default_factory=set)
    end: bytes = b""
    _packed: tuple[Any, Words] | None = None

    def add(self, literal: bytes, kind: int, column: int = 0, settings: tuple[int, int, int] = (1, 0, 0)) -> None:
        """``settings`` are: whether null is allowed, unit and zone mode of a time."""
        full, tail = divmod(len(literal), 8)
        self.ops.append([kind, column, len(self.literals), full, tail, *settings])
        padded = literal + b"\0" * (8 - tail)
        self.literals += np.frombuffer(padded, np.uint64).tolist()
        if kind not in (SKIP, END):
            self.present.add(column)

    def packed(self) -> tuple[Any, Words]:
        if self._packed is None:
            self._packed = np.array(self.ops, np.int64), np.array(self.literals, np.uint64)
        return self._packed


class Scan:
    """One batch under the scanner: values of all rows matched so far."""

    def __init__(self, payloads: pa.Array, ends: npt.NDArray[np.int32], kinds: list[int]) -> None:
        count = len(payloads)
        self.kinds = kinds
        self.data = padded(payloads.buffers()[2], int(ends[-1]))
        self.ends = ends
        self.values = np.empty((len(kinds), count), np.int64)
        self.null = np.zeros((len(kinds), count), np.bool_)
        self.matched = np.zeros(count, np.bool_)
        self.left = np.arange(count)
        self.hard = np.empty((count * max(kinds.count(FLOAT), 1), 4), np.int64)

    def run(self, layout: Layout, quoted: bool, stop: int = 34, escape: int = 92, point: int = 46) -> None:
        """Try a layout on the rows that none has matched yet."""
        before = self.left
        ops, literals = layout.packed()
        more = scan(
            self.data.address, self.ends, before, ops, literals, quoted, stop, escape, point,
            self.values, self.values.view(np.float64), self.null, self.matched, self.hard,
        )  # fmt: skip
        if more:
            self._parse_hard(more)
        matched = self.matched[before]
        if np.count_nonzero(matched) == len(matched):
            self.left = before[:0]
            if len(layout.present) == len(self.kinds):
                return
        elif matched.any():
            self.left = before[~matched]
            before = before[matched]
        else:
            return
        for column in range(len(self.kinds)):
            if column not in layout.present:
                self.null[column, before] = True
                self.values[column, before] = 0

    def _parse_hard(self, more: int) -> None:
        """Floats of too many digits for the exact short cut, by Python's own parser."""
        floats = self.values.view(np.float64)
        for column, row, begin, end in self.hard[:more].tolist():  # 0.3 us a number
            text = self.data.slice(begin, end - begin).to_pybytes().replace(b",", b".").decode()
            number = float(text)
            if number - number != 0 or (number == 0 and vanishes(text)):
                self.matched[row] = False  # too large or too small: the decoder's parser gives the reason
            floats[column, row] = number + 0.0

    def arrays(self, zones: list[str | None]) -> list[pa.Array]:
        """The columns, of the rows matched."""
        values, null = self.values, self.null
        if np.count_nonzero(self.matched) < len(self.matched):
            values, null = values.compress(self.matched, 1), null.compress(self.matched, 1)
        masks = null if np.count_nonzero(null) else None
        return [
            self._array(kind, values[c], None if masks is None or not masks[c].any() else masks[c], zones[c])
            for c, kind in enumerate(self.kinds)
        ]

    def _array(self, kind: int, values: Ints, null: Mask, zone: str | None) -> pa.Array:
        if kind == CATEGORY:
            return names(self.data, values, null)
        if kind == TEXT:
            return texts(self.data, values >> 32, values & LENGTH, null)
        if kind == BOOL:
            return pa.array(values != 0, mask=null)
        if kind == TIME and zone_mode(zone) == ZONE_NAMED:
            local = np.ones(len(values), np.bool_) if null is None else ~null
            resolve_zone(values, np.zeros(len(values), np.int8), local, zone)
        valid = None if null is None else bitmap(null)
        return pa.Array.from_buffers(_ARROW[kind], len(values), [valid, pa.py_buffer(values)])


_compiled, _lock = threading.Event(), threading.Lock()
_seen, _compiling = 0, False
WARM_ROWS, WAIT_ROWS = 500, 2_000
"""After this many records it is worth compiling; in a batch of this many, worth waiting for it."""


def ready(rows: int) -> bool:
    """Whether the scanner can take a batch.

    Compiling it, once after installation, takes seconds of CPU. That is done in the background, and meanwhile small
    batches are parsed one by one, to the same rows.
    """
    global _seen, _compiling
    if _compiled.is_set():
        return True
    with _lock:
        # Not in the first batch, unless it is large: what else it needs compiled must not wait for the scanner.
        start = not _compiling and (_seen >= WARM_ROWS or rows >= WAIT_ROWS)
        _seen, _compiling = _seen + rows, _compiling or start
    if start:
        threading.Thread(target=_compile, name="tocsin-compile", daemon=True).start()
    return rows >= WAIT_ROWS and _compiled.wait()


def _compile() -> None:
    try:
        payloads = pa.array([b"0"] * (FEW + 1), pa.binary())
        one = Scan(payloads, offsets(payloads), [CATEGORY])
        layout = Layout()
        layout.add(b"", CATEGORY, 0)
        layout.add(b"", END)
        one.run(layout, quoted=False, stop=44, escape=34)
        one.arrays([None])
    finally:
        _compiled.set()  # if it failed, the first batch raises what is wrong


def offsets(array: pa.Array) -> Codes:
    """Where each payload begins in the array's data, and where the last one ends."""
    ends: Codes = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    ends.flags.writeable = False  # one type, whatever the buffer is, so that one kernel serves
    return ends


def zone_mode(zone: str | None) -> int:
    """Returns how the scanner treats times that name no zone."""
    return ZONE_NONE if zone is None else ZONE_UTC if zone in ("UTC", "Etc/UTC", "Z") else ZONE_NAMED


def unit_code(unit: str | None) -> int:
    """Returns the number of a unit of epoch numbers, 0 for none."""
    return UNITS.get(unit or "", 0)


__all__ = ["END", "KINDS", "SKIP", "Layout", "Scan", "offsets", "ready", "unit_code", "zone_mode"]
