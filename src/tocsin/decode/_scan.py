"""The compiled scanner: records of a known layout, from bytes to numbers, codes and spans without a Python object.

A layout is what stands between the values: bytes that must be there exactly, compared eight at a time, and between
them slots. What does not fit to the last byte is left to the decoder's own parser, so the scanner may be narrow but
never generous: it takes nothing that the parser would not take, and gives the same values bit for bit.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tocsin.batch import TIME_TYPE, Codes, Ints
from tocsin.kernels import int64, kernel
from tocsin.values.bytes import byte_at, inner, padded, trailing_zeros, word_at
from tocsin.values.times import END_US, UNITS, epoch_us, resolve_zone, timestamp_tail, timestamp_us

Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_] | None
SKIP, INT, FLOAT, BOOL, TEXT, CATEGORY, TIME, END = range(8)
KINDS = {"int": INT, "float": FLOAT, "bool": BOOL, "text": TEXT, "category": CATEGORY, "timestamp": TIME}
_ARROW = {INT: pa.int64(), FLOAT: pa.float64(), TIME: TIME_TYPE}
FEW = 4
"""Up to so many rows a Python loop is cheaper than calling compiled ones."""
_SEED = int.from_bytes(os.urandom(7), "little")
"""Against names made to collide; codes do not depend on it."""
_POWERS = 10.0 ** np.arange(23)
_TAILS = np.array([(1 << (8 * n)) - 1 for n in range(8)], np.uint64)
_ONES, _HIGHS = 0x0101010101010101, 0x8080808080808080
ZONE_NONE, ZONE_UTC, ZONE_NAMED = range(3)


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
            number = float(self.data.slice(begin, end - begin).to_pybytes().replace(b",", b"."))
            if number - number != 0:
                self.matched[row] = False  # overflow: the decoder's parser gives the reason
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
            return _coded(self.data, values, null)
        if kind == TEXT:
            return _gathered(self.data, values >> 32, values & 0xFFFFFFFF, null)
        if kind == BOOL:
            return pa.array(values != 0, mask=null)
        if kind == TIME and zone_mode(zone) == ZONE_NAMED:
            local = np.ones(len(values), np.bool_) if null is None else ~null
            resolve_zone(values, np.zeros(len(values), np.int8), local, zone)
        valid = None if null is None else _bitmap(null)
        return pa.Array.from_buffers(_ARROW[kind], len(values), [valid, pa.py_buffer(values)])


_compiled, _lock = threading.Event(), threading.Lock()
_seen, _compiling = 0, False
WARM_ROWS, WAIT_ROWS = 500, 2_000
"""After so many records it is worth compiling; in a batch of so many, worth waiting for it."""


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
    found: Codes = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    found.flags.writeable = False  # one type, whatever the buffer is, so that one kernel serves
    return found


def zone_mode(zone: str | None) -> int:
    return ZONE_NONE if zone is None else ZONE_UTC if zone in ("UTC", "Etc/UTC", "Z") else ZONE_NAMED


def unit_code(unit: str | None) -> int:
    return UNITS.get(unit or "", 0)


def _bitmap(null: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(~null, bitorder="little"))


def _gathered(data: pa.Buffer, starts: Ints, lengths: Ints, null: Mask) -> pa.Array:
    """Spans of the payloads as a string array."""
    count = len(starts)
    ends = np.zeros(count + 1, np.int32)
    np.cumsum(lengths, out=ends[1:])
    text = np.empty(int(ends[-1]) + 8, np.uint8)
    gather(data.address, starts, lengths, text)
    valid = None if null is None else _bitmap(null)
    return pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(text), valid)


def _coded(data: pa.Buffer, spans: Ints, null: Mask) -> pa.Array:
    """Spans of the payloads as a dictionary array, words in order of first appearance."""
    count = len(spans)
    if count <= FEW:
        return _coded_few(data, spans, null)
    codes = np.empty(count, np.int32)
    table = np.empty(max(1 << (4 * count - 1).bit_length(), 64), np.int32)
    firsts, hashes = np.empty(count, np.int64), np.empty(count, np.uint64)
    words = codes_of(data.address, spans, codes, table, firsts, hashes, _SEED)
    firsts = firsts[:words]
    dictionary = _gathered(data, firsts >> 32, firsts & 0xFFFFFFFF, None)
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=null), dictionary, safe=False)


def _coded_few(data: pa.Buffer, spans: Ints, null: Mask) -> pa.Array:
    seen: dict[bytes, int] = {}
    text = memoryview(data)
    codes = [seen.setdefault(bytes(text[s >> 32 : (s >> 32) + (s & 0xFFFFFFFF)]), len(seen)) for s in spans.tolist()]
    ends = np.array([0, *accumulate(map(len, seen))], np.int32)
    words = pa.StringArray.from_buffers(len(seen), pa.py_buffer(ends), pa.py_buffer(b"".join(seen)))
    valid = None if null is None else _bitmap(null)
    indices = pa.Array.from_buffers(pa.int32(), len(spans), [valid, pa.py_buffer(np.array(codes, np.int32))])
    return pa.DictionaryArray.from_arrays(indices, words, safe=False)


@kernel
def gather(data: int, starts: Ints, lengths: Ints, text: npt.NDArray[np.uint8]) -> None:
    at = 0
    for i in range(len(starts)):
        start = data + starts[i]
        for j in range(lengths[i]):
            text[at + j] = byte_at(start + j)
        at += lengths[i]


@inner
def is_utf8(at: int, end: int) -> bool:
    """Whether bytes are well-formed UTF-8: no surrogates, nothing overlong, nothing beyond U+10FFFF."""
    while at < end:
        lead = byte_at(at)
        at += 1
        if lead < 0x80:
            continue
        more, low, high = 1, 0x80, 0xBF
        if lead < 0xC2 or lead > 0xF4:
            return False
        if lead >= 0xF0:
            more = 3
            low = 0x90 if lead == 0xF0 else 0x80
            high = 0x8F if lead == 0xF4 else 0xBF
        elif lead >= 0xE0:
            more = 2
            low = 0xA0 if lead == 0xE0 else 0x80
            high = 0x9F if lead == 0xED else 0xBF
        if at + more > end or byte_at(at) < low or byte_at(at) > high:
            return False
        for i in range(1, more):
            if byte_at(at + i) & 0xC0 != 0x80:
                return False
        at += more
    return True


@inner
def text_end(at: int, end: int, stop: int, escape: int) -> int:
    """Where a text ends; -1 if it is not UTF-8.

    It ends before the ``stop`` byte, an ``escape``, a control character, or with the record.
    """
    ones, highs = np.uint64(_ONES), np.uint64(_HIGHS)
    stops, escapes = np.uint64(stop) * ones, np.uint64(escape) * ones
    controls = np.uint64(0x20) * ones
    begin, beyond = at, np.uint64(0)
    while True:
        word = word_at(at)
        x, y = word ^ stops, word ^ escapes
        marks = (((x - ones) & ~x) | ((y - ones) & ~y) | ((word - controls) & ~word)) & highs
        n = 8
        if marks:
            n = trailing_zeros(marks) >> 3
        if at + n >= end:
            n = end - at
        if n < 8:
            word &= _TAILS[n]
        if n:
            beyond |= word
            at += n
        if at >= end or n < 8:
            break
    if beyond & highs and not is_utf8(begin, at):
        return -1
    return at


@inner
def digits_in(word: np.uint64) -> int:
    """How many bytes from the first on are digits."""
    x = word ^ np.uint64(0x3030303030303030)
    others = ((x & np.uint64(0x7F7F7F7F7F7F7F7F)) + np.uint64(0x7676767676767676) | x) & np.uint64(_HIGHS)
    return trailing_zeros(others) >> 3 if others else 8


@inner
def short_number(word: np.uint64, point: int) -> tuple[int, int, int]:
    """Length of a number of at most seven bytes at the start of a word, minus its decimals, and its digits; or 0."""
    size = digits_in(word)
    if size == 0 or size == 8 or (size > 1 and word & np.uint64(0xFF) == np.uint64(48)):
        return 0, 0, 0
    digits, decimals = size, 0
    if word >> np.uint64(8 * size) & np.uint64(0xFF) == np.uint64(point):
        word = word & _TAILS[size] | word >> np.uint64(8) & ~_TAILS[size]  # without the point
        digits = digits_in(word & _TAILS[7])
        decimals = digits - size
        if decimals == 0 or digits == 7:
            return 0, 0, 0
        size = digits + 1
    word = (word & _TAILS[digits]) - (np.uint64(0x3030303030303030) & _TAILS[digits])
    word <<= np.uint64(64 - 8 * digits)
    word = word * np.uint64(10) + (word >> np.uint64(8))  # pairs of digits, then fours, then all eight
    pairs = np.uint64(0x000000FF000000FF)
    low = (word & pairs) * np.uint64(100 + (1_000_000 << 32))
    high = (word >> np.uint64(16) & pairs) * np.uint64(1 + (10_000 << 32))
    return size, -decimals, int64(low + high >> np.uint64(32))


@inner
def seconds_us(word: np.uint64) -> int:
    """Microseconds of ``:SS.fffZ``; -1 if it is anything else."""
    shape = np.uint64(0x5A3030302E30303A)
    digits = word & np.uint64(0x000F0F0F000F0F00)
    beyond = digits + np.uint64(0x0006060600060600) & np.uint64(0x0010101000101000)
    if word & np.uint64(0xFFF0F0F0FFF0F0FF) != shape or beyond:
        return -1
    x = int64(digits)
    seconds = (x >> 8 & 15) * 10 + (x >> 16 & 15)
    if seconds > 59:
        return -1
    return seconds * 1_000_000 + (x >> 32 & 15) * 100_000 + (x >> 40 & 15) * 10_000 + (x >> 48 & 15) * 1_000


@inner
def number_end(at: int, end: int, point: int) -> tuple[int, int, int, int]:
    """Where a JSON number ends, its digits as an integer, the power of ten, and what it is; -1 if it is none.

    What it is: 0 an integer, 1 a float, 2 a number of more digits than the integer holds.
    """
    no = (-1, 0, 0, 0)
    mantissa, power, digits, what = 0, 0, 0, 0
    if end - at >= 8:
        size, dot, mantissa = short_number(word_at(at), point)
        if size > 0 and (byte_at(at + size) | 32) != 101:
            return at + size, mantissa, dot, 1 if dot else 0
        mantissa = 0
    first = at
    while at < end and 48 <= byte_at(at) <= 57:
        mantissa = mantissa * 10 + byte_at(at) - 48
        at += 1
    digits = at - first
    if digits == 0 or (digits > 1 and byte_at(first) == 48):
        return no
    if at < end and byte_at(at) == point:
        at += 1
        dot = at
        while at < end and 48 <= byte_at(at) <= 57:
            mantissa = mantissa * 10 + byte_at(at) - 48
            at += 1
        if at == dot:
            return no
        power = dot - at
        digits += at - dot
        what = 1
    if at < end and (byte_at(at) | 32) == 101:
        at += 1
        negative = False
        if at < end and (byte_at(at) == 43 or byte_at(at) == 45):
            negative = byte_at(at) == 45
            at += 1
        exponent, start = 0, at
        while at < end and 48 <= byte_at(at) <= 57:
            exponent = min(exponent * 10 + byte_at(at) - 48, 100_000)
            at += 1
        if at == start:
            return no
        power += -exponent if negative else exponent
        what = 1
    return at, mantissa, power, 2 if digits > 18 else what


@kernel
def codes_of(
    data: int, spans: Ints, codes: npt.NDArray[np.int32], table: npt.NDArray[np.int32], firsts: Ints, hashes: Words,
    seed: int,
) -> int:  # fmt: skip
    """Code each text by first appearance; a hit is verified byte by byte. Returns how many words there are.

    A span is start << 32 | length. The table (a power of two, at least four times the rows) is used as far as needed.
    """
    size, count = 64, 0
    table[:size] = -1
    for row in range(len(spans)):
        span = spans[row]
        at, length = data + (span >> 32), span & 0xFFFFFFFF
        h = np.uint64(length ^ seed)
        for i in range(0, length, 8):
            word = word_at(at + i)
            if length - i < 8:
                word &= _TAILS[length - i]
            h = (h ^ word) * np.uint64(0xD6E8FEB86659FD93)
            h ^= h >> np.uint64(32)
        slot = np.int64(h & np.uint64(size - 1))
        code = np.int64(table[slot])
        while code >= 0:
            if hashes[code] == h and firsts[code] & 0xFFFFFFFF == length:
                i, other = 0, data + (firsts[code] >> 32)
                while i + 8 <= length and word_at(at + i) == word_at(other + i):
                    i += 8
                if i + 8 > length and (word_at(at + i) ^ word_at(other + i)) & _TAILS[length - i] == 0:
                    break
            slot = np.int64((slot + 1) & (size - 1))
            code = np.int64(table[slot])
        if code < 0:
            code = np.int64(count)
            table[slot] = code
            firsts[code], hashes[code] = span, h
            count += 1
            if 2 * count > size:
                size *= 2
                table[:size] = -1
                for c in range(count):
                    slot = np.int64(hashes[c] & np.uint64(size - 1))
                    while table[slot] >= 0:
                        slot = np.int64((slot + 1) & (size - 1))
                    table[slot] = c
        codes[row] = code
    return count


@kernel
def scan(
    data: int, ends: npt.NDArray[np.int32], rows: Ints, ops: npt.NDArray[np.int64], literals: Words, quoted: bool,
    stop: int, escape: int, point: int, values: Ints, floats: npt.NDArray[np.float64], null: npt.NDArray[np.bool_],
    matched: npt.NDArray[np.bool_], hard: Ints,
) -> int:  # fmt: skip
    """Match rows against a layout; values of those that fit to the last byte are written. Returns how many are hard.

    ``quoted`` is JSON: text stands in quotes, null is a word. Else (CSV) text goes to the ``stop`` byte, null is
    nothing. Text with an ``escape`` byte never fits.
    """
    head_1, head_2, head_us = np.uint64(0), np.uint64(0), int64(0)  # date, hour and minute as last read
    hards = 0
    for r in range(len(rows)):
        row = rows[r]
        at, end, fits, hards_before = data + ends[row], data + ends[row + 1], True, hards
        for o in range(len(ops)):
            w = ops[o, 2]
            for _ in range(ops[o, 3]):
                fits = fits and word_at(at) == literals[w]
                at += 8
                w += 1
            tail = ops[o, 4]
            if tail:
                fits = fits and (word_at(at) ^ literals[w]) & _TAILS[tail] == 0
                at += tail
            kind, column, optional = ops[o, 0], ops[o, 1], ops[o, 5] != 0
            if not fits or at > end:
                fits = False
                break
            if kind == 7:
                fits = at == end
                break
            if at == end:
                if quoted or not optional:
                    fits = False
                    break
                if kind != 0:
                    null[column, row], values[column, row] = True, 0
                continue
            first = byte_at(at)
            # null, where it is allowed
            if quoted and first == 110:
                fits = optional and word_at(at) & _TAILS[4] == np.uint64(0x6C6C756E)
                at += 4
                if not fits:
                    break
                if kind != 0:
                    null[column, row], values[column, row] = True, 0
                continue
            if not quoted and (first == stop or first == 10 or first == 13):
                if not optional:
                    fits = False
                    break
                if kind != 0:
                    null[column, row], values[column, row] = True, 0
                continue
            # true and false
            if kind == 3 or (kind == 0 and quoted and (first == 116 or first == 102)):
                word = word_at(at)
                if word & _TAILS[4] == np.uint64(0x65757274):
                    at += 4
                elif word & _TAILS[5] == np.uint64(0x65736C6166):
                    at += 5
                else:
                    fits = False
                    break
                if kind == 3:
                    values[column, row] = first == 116
                continue
            # text
            texts = kind >= 4 or kind == 0
            if texts and ((quoted and first == 34) or (not quoted and not (kind == 6 and ops[o, 6]))):
                begin = at + 1 if quoted else at
                quick = -1  # most times differ from the last one in their seconds only
                if kind == 6 and end - begin >= 24 and word_at(begin) == head_1 and word_at(begin + 8) == head_2:
                    quick = seconds_us(word_at(begin + 16))
                at = text_end(begin if quick < 0 else begin + 24, end, stop, escape)
                if at < 0 or (quoted and (at >= end or byte_at(at) != 34)):
                    fits = False
                    break
                if at != begin + 24:
                    quick = -1
                if kind == 4 or kind == 5:
                    values[column, row] = ((begin - data) << 32) | (at - begin)
                elif kind == 6:
                    if quick >= 0:
                        us, code = head_us + quick, 0
                    elif at - begin > 16 and word_at(begin) == head_1 and word_at(begin + 8) == head_2:
                        us, code = timestamp_tail(begin + 16, at, head_us)
                    else:
                        us, code = timestamp_us(begin, at)
                        if at - begin > 16 and code != 2:
                            head_1, head_2 = word_at(begin), word_at(begin + 8)
                            head_us = timestamp_us(begin, begin + 16)[0]
                    local = code == 64
                    zone = ops[o, 7]
                    if (code and not local) or (local != (zone == 2) and not (local and zone == 1)):
                        fits = False
                        break
                    margin = 86_400_000_000 if zone == 2 else 0  # a local time moves by less than a day
                    if us < margin or us >= END_US - margin:
                        fits = False
                        break
                    values[column, row] = us
                if quoted:
                    at += 1
                continue
            if kind == 4 or kind == 5 or (kind == 6 and (not ops[o, 6] or ops[o, 7] == 2)):
                fits = False
                break
            # numbers
            begin = at
            if first == 45:
                at += 1
            at, mantissa, power, what = number_end(at, end, point)
            if at < 0:
                fits = False
                break
            if kind == 1:
                if what:
                    fits = False
                    break
                values[column, row] = -mantissa if first == 45 else mantissa
            elif kind == 2:
                if what == 2 and power == 0:
                    fits = False  # an integer that may not fit 64 bits
                    break
                if what < 2 and mantissa <= 9_007_199_254_740_992 and -22 <= power <= 22:
                    number = mantissa / _POWERS[-power] if power < 0 else mantissa * _POWERS[power]
                    floats[column, row] = (-number if first == 45 else number) + 0.0
                else:
                    hard[hards, 0], hard[hards, 1], hard[hards, 2], hard[hards, 3] = (
                        column,
                        row,
                        begin - data,
                        at - data,
                    )
                    hards += 1
            elif kind == 6:
                us, code = epoch_us(begin, at, ops[o, 6])
                if code or us < 0 or us >= END_US:
                    fits = False
                    break
                values[column, row] = us
        if fits:
            matched[row] = True
        else:
            hards = hards_before
            for c in range(len(values)):
                null[c, row] = False
    return hards
