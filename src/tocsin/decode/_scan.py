"""The compiled scanner: records of a known layout, from bytes to numbers, codes and spans without a Python object."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tocsin.batch import Ints
from tocsin.decode._spans import Words
from tocsin.decode._tokens import INTEGER, LONG, MINUS, number_end, seconds_us, text_end
from tocsin.kernels import inner, int64, kernel
from tocsin.values.bytes import LOW_BYTES, byte_at, word_at
from tocsin.values.times import AUTO, DATES_US, DAY_US, END_US, LOCAL, SYNTAX, epoch_us, timestamp_tail, timestamp_us

SKIP, INT, FLOAT, BOOL, TEXT, CATEGORY, TIME, END = range(8)
"""What a slot holds; `END` is where the record must end."""
OP_KIND, OP_COLUMN, OP_WORD, OP_WORDS, OP_TAIL, OP_OPTIONAL, OP_UNIT, OP_ZONE = range(8)
"""An operation: what its slot holds, for which column; the bytes before it (first word, whole words, bytes beyond
them); whether it may be null; unit and zone mode of a time."""
ZONE_NONE, ZONE_UTC, ZONE_NAMED = range(3)
"""What is made of a time that names no zone: nothing, or UTC, or it is local."""
QUOTE, LINE_FEED, RETURN = 34, 10, 13
LETTER_N, LETTER_T, LETTER_F = 110, 116, 102
WORD_NULL, WORD_TRUE, WORD_FALSE = 0x6C6C756E, 0x65757274, 0x65736C6166
"""The words of JSON as they stand in memory."""
NOT_NULL, MALFORMED = -1, -2
MINUTE_BYTES = 16
"""``YYYY-MM-DDTHH:MM``"""
STAMP_BYTES = 24
"""``YYYY-MM-DDTHH:MM:SS.fffZ``"""
EXACT_FLOAT, EXACT_POWER = 2**53, 22
"""Digits and powers of ten up to these are floats exactly, and so their product is rounded only once."""
_POWERS = 10.0 ** np.arange(EXACT_POWER + 1)


@inner
def null_end(at: int, end: int, quoted: bool, stop: int) -> int:
    """Where a null ends; `NOT_NULL`, or `MALFORMED` for what can be no value either."""
    if at == end:
        return MALFORMED if quoted else at
    first = byte_at(at)
    if quoted:
        if first != LETTER_N:
            return NOT_NULL
        return at + 4 if word_at(at) & LOW_BYTES[4] == np.uint64(WORD_NULL) else MALFORMED
    return at if first == stop or first == LINE_FEED or first == RETURN else NOT_NULL  # noqa: SIM109 (compiled)


@inner
def bool_end(at: int) -> int:
    """Where ``true`` or ``false`` ends; `MALFORMED` if it is neither."""
    word = word_at(at)
    if word & LOW_BYTES[4] == np.uint64(WORD_TRUE):
        return at + 4
    return at + 5 if word & LOW_BYTES[5] == np.uint64(WORD_FALSE) else MALFORMED


@inner
def zone_fits(us: int, code: int, zone: int) -> bool:
    """Whether a time with its code (see `timestamp_us`) can be taken as the zone mode says."""
    local = code == LOCAL
    if (code and not local) or (local != (zone == ZONE_NAMED) and not (local and zone == ZONE_UTC)):
        return False
    margin = DAY_US if zone == ZONE_NAMED else 0  # a local time moves by less than a day
    return margin <= us < END_US - margin


@inner
def time_of(begin: int, end: int, known: bool, head_us: int) -> tuple[int, int]:
    """`timestamp_us`, or only what follows the minute where that is known already."""
    if known and end - begin > MINUTE_BYTES:
        return timestamp_tail(begin + MINUTE_BYTES, end, head_us)
    return timestamp_us(begin, end)


@inner
def epoch_slot(begin: int, end: int, point: int, unit: int, zone: int) -> tuple[int, int]:
    """Where an epoch number ends (below 0 if it does not fit), and its time."""
    at = number_end(begin, end, point)[0]
    if at < 0 or zone == ZONE_NAMED:
        return MALFORMED, 0
    us, code = epoch_us(begin, at, unit)
    if unit == AUTO and DATES_US[0] <= us < DATES_US[1]:
        return MALFORMED, 0  # it may be a date without marks, which the decoder's own parser refuses
    return (MALFORMED if code or us < 0 or us >= END_US else at), us


@kernel
def scan(
    data: int, ends: npt.NDArray[np.int32], rows: Ints, ops: npt.NDArray[np.int64], literals: Words, quoted: bool,
    stop: int, escape: int, point: int, values: Ints, floats: npt.NDArray[np.float64], null: npt.NDArray[np.bool_],
    matched: npt.NDArray[np.bool_], hard: Ints,
) -> int:  # fmt: skip
    """Match rows against a layout; values of those that fit to the last byte are written. Returns how many are hard.

    ``quoted`` is JSON: text stands in quotes, null is a word. Else (CSV) text goes to the ``stop`` byte, null is
    nothing. Text with an ``escape`` byte never fits.

    It is one function because an array handed to another costs more than what is read in a slot.
    """
    head_1, head_2, head_us = np.uint64(0), np.uint64(0), int64(0)  # date, hour and minute as last read
    hards = 0
    for r in range(len(rows)):
        row = rows[r]
        at, end, fits, hards_before = data + ends[row], data + ends[row + 1], True, hards
        for o in range(len(ops)):
            # what stands before the slot
            w = ops[o, OP_WORD]
            for _ in range(ops[o, OP_WORDS]):
                fits = fits and word_at(at) == literals[w]
                at += 8
                w += 1
            tail = ops[o, OP_TAIL]
            if tail:
                fits = fits and (word_at(at) ^ literals[w]) & LOW_BYTES[tail] == 0
                at += tail
            kind, column = ops[o, OP_KIND], ops[o, OP_COLUMN]
            if not fits or at > end:
                fits = False
                break
            if kind == END:
                fits = at == end
                break
            # null
            after = null_end(at, end, quoted, stop)
            if after != NOT_NULL:
                fits = after != MALFORMED and ops[o, OP_OPTIONAL] != 0
                if not fits:
                    break
                at = after
                if kind != SKIP:
                    null[column, row], values[column, row] = True, 0
                continue
            first = byte_at(at)
            # true and false
            if kind == BOOL or (kind == SKIP and quoted and (first == LETTER_T or first == LETTER_F)):  # noqa: SIM109
                at = bool_end(at)
                if at == MALFORMED:
                    fits = False
                    break
                if kind == BOOL:
                    values[column, row] = first == LETTER_T
                continue
            # text and times
            is_number = INT <= kind <= BOOL or (kind == TIME and ops[o, OP_UNIT] != 0)
            if (quoted and first == QUOTE and not INT <= kind <= BOOL) or not (quoted or is_number):
                begin = at + 1 if quoted else at
                known, quick = False, -1  # most times differ from the last one in their seconds only
                if kind == TIME and end - begin >= STAMP_BYTES:
                    known = word_at(begin) == head_1 and word_at(begin + 8) == head_2
                    if known:
                        quick = seconds_us(word_at(begin + MINUTE_BYTES))
                at = text_end(begin if quick < 0 else begin + STAMP_BYTES, end, stop, escape)
                if at < 0 or (quoted and (at >= end or byte_at(at) != QUOTE)):
                    fits = False
                    break
                if kind == TIME:
                    us, code = head_us + quick, 0
                    if quick < 0 or at != begin + STAMP_BYTES:
                        us, code = time_of(begin, at, known, head_us)
                        if not known and at - begin > MINUTE_BYTES and code != SYNTAX:
                            head_1, head_2 = word_at(begin), word_at(begin + 8)
                            head_us = timestamp_us(begin, begin + MINUTE_BYTES)[0]
                    if not zone_fits(us, code, ops[o, OP_ZONE]):
                        fits = False
                        break
                    values[column, row] = us
                elif kind != SKIP:
                    values[column, row] = ((begin - data) << 32) | (at - begin)
                if quoted:
                    at += 1
                continue
            # numbers
            begin = at
            if not (is_number or kind == SKIP):
                at = MALFORMED
            elif kind == TIME:
                at, values[column, row] = epoch_slot(at, end, point, ops[o, OP_UNIT], ops[o, OP_ZONE])
            else:
                if first == MINUS:
                    at += 1
                at, mantissa, power, what = number_end(at, end, point)
                if kind == INT:
                    at = at if what == INTEGER else MALFORMED
                    values[column, row] = -mantissa if first == MINUS else mantissa
                elif kind == FLOAT:
                    if what == LONG and power == 0:
                        at = MALFORMED  # an integer of so many digits may not fit 64 bits
                    elif what != LONG and mantissa <= EXACT_FLOAT and -EXACT_POWER <= power <= EXACT_POWER:
                        number = mantissa / _POWERS[-power] if power < 0 else mantissa * _POWERS[power]
                        floats[column, row] = (-number if first == MINUS else number) + 0.0
                    elif at >= 0:
                        hard[hards, 0], hard[hards, 1] = column, row
                        hard[hards, 2], hard[hards, 3] = begin - data, at - data
                        hards += 1
            if at < 0:
                fits = False
                break
        if fits:
            matched[row] = True
        else:
            hards = hards_before
            for c in range(len(values)):
                null[c, row] = False
    return hards
