"""Where text and numbers end in a record, and what they are: compiled loops that only the scanner calls."""

from __future__ import annotations

import numpy as np

from tocsin.kernels import inner, int64
from tocsin.values.bytes import LOW_BYTES, byte_at, trailing_zeros, word_at

_ONES, _HIGHS = 0x0101010101010101, 0x8080808080808080
_ZEROS = 0x3030303030303030
"""The digit 0 in each byte."""
ZERO, NINE, PLUS, MINUS, LOWER_E, UPPER_TO_LOWER = 48, 57, 43, 45, 101, 32
"""Bytes of ASCII, and the bit that makes a capital letter a small one."""
NO_NUMBER = -1
INTEGER, FRACTION, LONG = range(3)
"""What a number is: an integer, one with a fraction or an exponent, one of more digits than 64 bits surely hold."""
EXACT_DIGITS = 18
EXPONENT_MAX = 100_000


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
            word &= LOW_BYTES[n]
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
    x = word ^ np.uint64(_ZEROS)
    others = ((x & np.uint64(0x7F7F7F7F7F7F7F7F)) + np.uint64(0x7676767676767676) | x) & np.uint64(_HIGHS)
    return trailing_zeros(others) >> 3 if others else 8


@inner
def short_number(word: np.uint64, point: int) -> tuple[int, int, int]:
    """Length of a number of at most seven bytes at the start of a word, minus its decimals, and its digits; or 0."""
    size = digits_in(word)
    if size == 0 or size == 8 or (size > 1 and word & np.uint64(0xFF) == np.uint64(ZERO)):
        return 0, 0, 0
    digits, decimals = size, 0
    if word >> np.uint64(8 * size) & np.uint64(0xFF) == np.uint64(point):
        word = word & LOW_BYTES[size] | word >> np.uint64(8) & ~LOW_BYTES[size]  # without the point
        digits = digits_in(word & LOW_BYTES[7])
        decimals = digits - size
        if decimals == 0 or digits == 7:
            return 0, 0, 0
        size = digits + 1
    word = (word & LOW_BYTES[digits]) - (np.uint64(_ZEROS) & LOW_BYTES[digits])
    word <<= np.uint64(64 - 8 * digits)
    word = word * np.uint64(10) + (word >> np.uint64(8))  # pairs of digits, then fours, then all eight
    pairs = np.uint64(0x000000FF000000FF)
    low = (word & pairs) * np.uint64(100 + (1_000_000 << 32))
    high = (word >> np.uint64(16) & pairs) * np.uint64(1 + (10_000 << 32))
    return size, -decimals, int64(low + high >> np.uint64(32))


@inner
def number_end(at: int, end: int, point: int) -> tuple[int, int, int, int]:
    """Where a JSON number without its sign ends, its digits as an integer, the power of ten, and what it is.

    The end is `NO_NUMBER` if it is none.
    """
    no = (NO_NUMBER, 0, 0, INTEGER)
    mantissa, power, digits, what = 0, 0, 0, INTEGER
    if end - at >= 8:
        size, dot, mantissa = short_number(word_at(at), point)
        if size > 0 and (byte_at(at + size) | UPPER_TO_LOWER) != LOWER_E:
            return at + size, mantissa, dot, FRACTION if dot else INTEGER
        mantissa = 0
    first = at
    while at < end and ZERO <= byte_at(at) <= NINE:
        mantissa = mantissa * 10 + byte_at(at) - ZERO
        at += 1
    digits = at - first
    if digits == 0 or (digits > 1 and byte_at(first) == ZERO):
        return no
    if at < end and byte_at(at) == point:
        at += 1
        dot = at
        while at < end and ZERO <= byte_at(at) <= NINE:
            mantissa = mantissa * 10 + byte_at(at) - ZERO
            at += 1
        if at == dot:
            return no
        power = dot - at
        digits += at - dot
        what = FRACTION
    if at < end and (byte_at(at) | UPPER_TO_LOWER) == LOWER_E:
        at, exponent = exponent_end(at + 1, end)
        if at < 0:
            return no
        power += exponent
        what = FRACTION
    return at, mantissa, power, LONG if digits > EXACT_DIGITS else what


@inner
def exponent_end(at: int, end: int) -> tuple[int, int]:
    """Where an exponent ends, and what it is; the end is `NO_NUMBER` if it is none."""
    negative = False
    if at < end and (byte_at(at) == PLUS or byte_at(at) == MINUS):
        negative = byte_at(at) == MINUS
        at += 1
    exponent, start = 0, at
    while at < end and ZERO <= byte_at(at) <= NINE:
        exponent = min(exponent * 10 + byte_at(at) - ZERO, EXPONENT_MAX)
        at += 1
    return (NO_NUMBER if at == start else at), (-exponent if negative else exponent)


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
