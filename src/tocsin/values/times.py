"""Time stamps as devices write them: RFC 3339 and its relatives, and epoch numbers, to microseconds in UTC.

Each stamp that cannot be taken as it stands has one of `REASONS`. Those in `REFUSED` have no time; with the others the
time was made out, but is worth a flag: a leap second, an hour that happens twice or not at all in its zone.
"""

from __future__ import annotations

import re
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.batch import TIME_TYPE
from tocsin.errors import SchemaError
from tocsin.kernels import inner, kernel
from tocsin.values.bytes import byte_at, padded
from tocsin.values.time_forms import parse_format, rewritten

REASONS = ("", "ts_missing", "ts_syntax", "ts_range", "ts_zone", "ts_leap", "ts_fold", "ts_gap")
"""By code; ``ts_zone`` is local time where no zone is configured, ``ts_gap`` an hour that the clock skipped."""
MISSING, SYNTAX, RANGE, ZONE, LEAP, FOLD, GAP = range(1, 8)
REFUSED = REASONS[MISSING : ZONE + 1]
"""The reasons for which there is no time."""
END_US = 7_258_118_400_000_000
"""2200-01-01: times from there on, and before 1970, are ``ts_range``."""
DAY_US, HOUR_US, MINUTE_US, SECOND_US = 86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000
LOCAL = 64
"""Added to the code of a stamp that names no zone."""
UNREADABLE = (0, SYNTAX)
IMPOSSIBLE = -1_000_000
"""A number so low that no sum with it can be right."""
LETTER_T, SMALL_T, LETTER_Z, SMALL_Z = 84, 116, 90, 122
BLANK, PLUS, COMMA, MINUS, POINT, ZERO, NINE, COLON = 32, 43, 44, 45, 46, 48, 57, 58
"""Bytes of ASCII."""

SECONDS, MILLIS, MICROS, NANOS, AUTO = range(1, 6)
UNITS = {"s": SECONDS, "ms": MILLIS, "us": MICROS, "ns": NANOS, "auto": AUTO}
"""Units of epoch numbers; ``auto`` guesses by size, which is right for every time from 1973 to 5138."""
AUTO_MILLIS, AUTO_MICROS, AUTO_NANOS = 10**11, 10**14, 10**17
"""From these sizes on ``auto`` takes a number for milliseconds, microseconds and nanoseconds."""
DATES_US = (19_700_101 * 10**6, 22_000_000 * 10**6)
"""Seconds in this stretch may as well be dates without marks."""
DIGITS_MAX, TOO_LARGE = 8 * 10**17, 2**63 - 1
"""Below the first there is room for one more digit in 64 bits; the second stands for what has no room."""
_NUMBER_TYPES = (pt.is_integer, pt.is_floating, pt.is_decimal)


def parse_times(
    column: pa.Array, unit: str | None = None, zone: str | None = None, format: str | None = None
) -> tuple[pa.Array, pa.Array]:
    """Returns times (in microseconds, UTC; null where refused), and why each that is refused or flagged is so.

    ``unit`` (s, ms, us, ns or auto) is needed for epoch numbers; ``zone`` (as ``Europe/Berlin``) for local times. Of an
    hour that happens twice the first is taken. Text is of one of `time_forms.FORMS`, or written as ``format`` says.

    Examples
    --------
    >>> times, reasons = parse_times(pa.array(["2026-01-01T00:00:00.5Z", "2026-01-01 01:00:00+01:00", "noon"]))
    >>> times.cast(pa.int64()).to_pylist(), reasons.to_pylist()
    ([1767225600500000, 1767225600000000, None], [None, None, 'ts_syntax'])
    >>> parse_times(pa.array([1767225600123]), unit="ms")[0].cast(pa.int64()).to_pylist()
    [1767225600123000]
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pt.is_timestamp(column.type):
        us, codes = _from_timestamps(column)
    elif any(test(column.type) for test in _NUMBER_TYPES):
        us, codes = _from_numbers(column, unit)
    elif pt.is_string(column.type) or pt.is_large_string(column.type) or pt.is_null(column.type):
        us, codes = _from_text(column.cast(pa.string()), unit) if format is None else _by_format(column, format)
    else:
        raise SchemaError(f"a time must be text, a number or a timestamp; this column is {column.type}")
    if unit == "auto" and format is None:
        codes = np.where(_look_like_dates(column, us, codes), SYNTAX, codes)
    local = codes >= LOCAL
    if local.any():
        codes = np.where(local, codes - LOCAL, codes)
        resolve_zone(us, codes, local, zone)
    if column.null_count:
        codes = np.where(column.is_null().to_numpy(zero_copy_only=False), MISSING, codes)
    codes = np.where(((us < 0) | (us >= END_US)) & ((codes == 0) | (codes > ZONE)), RANGE, codes)
    refused = (codes >= MISSING) & (codes <= ZONE)
    return pa.array(us, pa.int64(), mask=refused if refused.any() else None).cast(TIME_TYPE), _reasons(codes)


def _look_like_dates(column: pa.Array, us: npt.NDArray[np.int64], codes: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """Which numbers are written as a date, 20260131, and not to be guessed to be seconds of August 1970."""
    dates = (us >= DATES_US[0]) & (us < DATES_US[1]) & (codes == 0)
    if dates.any() and pt.is_string(column.type):
        digits = pc.match_substring_regex(column, r"^\s*\d{8}(\.\d*)?\s*$").fill_null(False)
        dates &= digits.to_numpy(zero_copy_only=False)
    return dates if not pt.is_timestamp(column.type) else np.zeros(len(us), np.bool_)


def _reasons(codes: npt.NDArray[np.int8]) -> pa.Array:
    if not codes.any():
        return pa.nulls(len(codes), pa.string())
    return pa.array(np.array(REASONS, object)[codes], pa.string(), mask=codes == 0)


def _from_timestamps(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    scale = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}[column.type.unit]
    raw = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    limit = END_US // scale
    wrong = (raw > limit) | (raw < -limit) if column.type.unit != "ns" else False
    codes = np.where(wrong, RANGE, np.zeros(len(raw), np.int8)).astype(np.int8)
    us = raw // 1_000 if column.type.unit == "ns" else np.where(codes == 0, raw, 0) * scale
    if column.type.tz is None:
        codes = np.where(codes == 0, LOCAL, codes).astype(np.int8)
    return np.asarray(us), codes


def _from_numbers(column: pa.Array, unit: str | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    if unit not in UNITS:
        raise SchemaError(f"a time column of numbers needs its unit ({', '.join(UNITS)}); it is {unit!r}")
    if not pt.is_integer(column.type):
        raw = column.cast(pa.float64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)
        size = np.abs(raw)
        known = size < 9e18
        factor = _factors(np.where(known, size, 0), unit)
        scaled = np.where(known, raw, 0.0) * factor
        wrong = ~known | (np.abs(scaled) > END_US)
        return np.rint(np.where(wrong, 0.0, scaled)).astype(np.int64), np.where(wrong, RANGE, 0).astype(np.int8)
    raw = column.cast(pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)
    factor = _factors(np.abs(raw.astype(np.float64)), unit)
    wrong = np.abs(raw.astype(np.float64)) * factor > END_US
    whole = np.where(wrong, 0, raw)
    us = np.where(factor < 1, whole // 1_000, whole * np.maximum(factor, 1).astype(np.int64))
    return us, np.where(wrong, RANGE, 0).astype(np.int8)


def _factors(size: npt.NDArray[np.float64], unit: str) -> npt.NDArray[np.float64]:
    """Microseconds in one unit, for each number."""
    factors = np.array([1e6, 1e3, 1.0, 1e-3])
    if unit != "auto":
        return np.full(len(size), factors[UNITS[unit] - 1])
    return factors[np.searchsorted([AUTO_MILLIS, AUTO_MICROS, AUTO_NANOS], size, side="right")]


def _from_text(column: pa.Array, unit: str | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    us, codes = _as_they_stand(column, unit)
    strange = np.flatnonzero((codes == SYNTAX) & column.is_valid().to_numpy(zero_copy_only=False))
    if len(strange):  # some 5 us each
        said = column.take(pa.array(strange)).to_pylist()
        codes[strange[[not text.strip() for text in said]]] = MISSING
        texts = pa.array([rewritten(text) or _written_out(text) for text in said], pa.string())
        if texts.null_count < len(texts):
            again = texts.is_valid().to_numpy(zero_copy_only=False)
            us[strange[again]], codes[strange[again]] = _as_they_stand(texts.drop_null(), unit)
    return us, codes


def _written_out(text: str) -> str | None:
    """Returns a number with an exponent (1.7698608e9) without it, to the digit; None for any other text."""
    if re.fullmatch(r"\s*\d(\.\d{1,30})?[eE]\+?\d{1,2}\s*", text) is None:
        return None
    return f"{Decimal(text.strip()):f}"


def _as_they_stand(column: pa.Array, unit: str | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    us, codes = np.zeros(len(column), np.int64), np.zeros(len(column), np.int8)
    if len(column):
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
        ends.flags.writeable = False  # one type, whatever the buffer is, so that one kernel serves
        held = padded(data, int(ends[-1]))
        parse_text(held.address, ends, UNITS.get(unit or "", 0), us, codes)
    return us, codes


def _by_format(column: pa.Array, format: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    us, known, local = parse_format(column.cast(pa.string()), format)
    return np.where(known, us, 0), np.where(known, np.where(local, LOCAL, 0), SYNTAX).astype(np.int8)


def resolve_zone(
    us: npt.NDArray[np.int64], codes: npt.NDArray[np.int8], local: npt.NDArray[np.bool_], zone: str | None
) -> None:
    """Turn local times into UTC, in place."""
    if zone is None:
        codes[local] = np.where(codes[local] == SYNTAX, SYNTAX, ZONE)
        return
    if zone in ("UTC", "Etc/UTC", "Z"):
        return
    within = local & (us >= 0) & (us < END_US)
    naive = pa.array(us[within], pa.int64()).cast(pa.timestamp("us"))
    try:
        first = pc.assume_timezone(naive, zone, ambiguous="earliest", nonexistent="latest")
        second = pc.assume_timezone(naive, zone, ambiguous="latest", nonexistent="latest")
    except pa.ArrowInvalid as error:
        raise SchemaError(f"there is no time zone {zone!r}; name one as Europe/Berlin or UTC") from error
    back = pc.local_timestamp(first).cast(pa.int64()).to_numpy(zero_copy_only=False)
    earliest = first.cast(pa.int64()).to_numpy(zero_copy_only=False)
    flags = np.where(earliest != second.cast(pa.int64()).to_numpy(zero_copy_only=False), FOLD, 0)
    flags = np.where(back != us[within], GAP, flags)
    codes[within] = np.where(codes[within] == 0, flags, codes[within])
    us[within] = earliest


@inner
def days_of(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar, for years from 0 (Hinnant, "chrono-compatible algorithms")."""
    year -= 1 if month <= 2 else 0
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@inner
def _is_digit(at: int) -> bool:
    return bool(ZERO <= byte_at(at) <= NINE)


@inner
def _two(at: int) -> int:
    """Two digits as a number, or one so low that no sum with it can be right."""
    high, low = byte_at(at) - ZERO, byte_at(at + 1) - ZERO
    return high * 10 + low if 0 <= high <= 9 and 0 <= low <= 9 else IMPOSSIBLE


@inner
def timestamp_us(begin: int, end: int) -> tuple[int, int]:
    """Microseconds and code of ``YYYY-MM-DD[(T| )HH:MM[:SS[.fraction]][Z|±HH[[:]MM]]]`` (RFC 3339, ISO 8601).

    The code is 0, `LEAP` or `SYNTAX`, plus `LOCAL` if no zone is named. Digits beyond microseconds are cut off.
    """
    if end - begin < 10 or byte_at(begin + 4) != MINUS or byte_at(begin + 7) != MINUS:
        return UNREADABLE
    year = _two(begin) * 100 + _two(begin + 2)
    month, day = _two(begin + 5), _two(begin + 8)
    if year < 0 or month < 1 or month > 12 or day < 1 or day > 31:
        return UNREADABLE
    if day > 28 and (days_of(year + month // 12, month % 12 + 1, 1) - days_of(year, month, 1)) < day:
        return UNREADABLE
    us = days_of(year, month, day) * DAY_US
    if end - begin == 10:
        return us, LOCAL
    at = begin + 11
    mark = byte_at(begin + 10)
    if (mark != LETTER_T and mark != SMALL_T and mark != BLANK) or end < at + 5 or byte_at(at + 2) != COLON:
        return UNREADABLE
    hour, minute = _two(at), _two(at + 3)
    if hour < 0 or hour > 23 or minute < 0 or minute > 59:
        return UNREADABLE
    return timestamp_tail(at + 5, end, us + hour * HOUR_US + minute * MINUTE_US)


@inner
def timestamp_tail(at: int, end: int, us: int) -> tuple[int, int]:
    """The rest of a time stamp, from behind its minutes on, added to ``us``."""
    code = 0
    if at < end and byte_at(at) == COLON:
        if end < at + 3:
            return UNREADABLE
        second = _two(at + 1)
        at += 3
        fraction, unit = 0, SECOND_US // 10
        if at < end and (byte_at(at) == POINT or byte_at(at) == COMMA):
            at += 1
            first = at
            while at < end and _is_digit(at):
                fraction += (byte_at(at) - ZERO) * unit
                unit //= 10
                at += 1
            if at == first:
                return UNREADABLE
        if second == 60:
            second, fraction, code = 59, SECOND_US - 1, LEAP
        if second < 0 or second > 60:
            return UNREADABLE
        us += second * SECOND_US + fraction
    if at == end:
        return us, code + LOCAL
    offset = _offset_minutes(at, end)
    return (us - offset * MINUTE_US, code) if offset > IMPOSSIBLE else UNREADABLE


@inner
def _offset_minutes(at: int, end: int) -> int:
    """Minutes by which a zone lies ahead of UTC, written as ``Z``, ``±HH``, ``±HHMM`` or ``±HH:MM``."""
    sign = byte_at(at)
    if sign == LETTER_Z or sign == SMALL_Z:  # noqa: SIM109 (compiled)
        return 0 if end == at + 1 else IMPOSSIBLE
    if (sign != PLUS and sign != MINUS) or end < at + 3:
        return IMPOSSIBLE
    offset = _two(at + 1) * 60
    at += 3
    if at < end and byte_at(at) == COLON:
        at += 1
        if at == end:
            return IMPOSSIBLE
    if at < end:
        if end != at + 2:
            return IMPOSSIBLE
        minute = _two(at)
        offset += minute if minute < 60 else IMPOSSIBLE
    if offset < 0 or offset >= 1_440:
        return IMPOSSIBLE
    return offset if sign == PLUS else -offset


@inner
def epoch_us(begin: int, end: int, unit: int) -> tuple[int, int]:
    """Microseconds and code of an epoch number written as ``digits[.digits]``; ``unit`` as in `UNITS`.

    A number too large for its unit is `RANGE`, never cut down to one that fits.
    """
    value, at = 0, begin
    if end - begin > 1 and byte_at(begin) == MINUS and _is_digit(begin + 1):
        return 0, RANGE
    while at < end and _is_digit(at):
        value = value * 10 + byte_at(at) - ZERO if value < DIGITS_MAX else TOO_LARGE
        at += 1
    if at == begin:
        return UNREADABLE
    if unit == AUTO:
        unit = SECONDS + (value >= AUTO_MILLIS) + (value >= AUTO_MICROS) + (value >= AUTO_NANOS)
    scale = 1_000_000 if unit == SECONDS else (1_000 if unit == MILLIS else 1)
    out_of_range = value >= (END_US * 1_000 if unit == NANOS else END_US // scale)
    us = value // 1_000 if unit == NANOS else (0 if out_of_range else value * scale)
    if at < end:
        if byte_at(at) != POINT or at + 1 == end:
            return UNREADABLE
        at += 1
        while at < end:
            if not _is_digit(at):
                return UNREADABLE
            scale //= 10
            us += (byte_at(at) - ZERO) * scale if unit != NANOS else 0
            at += 1
    return us, RANGE if out_of_range else 0


@kernel
def parse_text(
    text: int, ends: npt.NDArray[np.int32], unit: int, us: npt.NDArray[np.int64], codes: npt.NDArray[np.int8]
) -> None:
    """`timestamp_us` of each row, or its epoch number where there is a unit (0: none)."""
    for row in range(len(us)):
        value, code = timestamp_us(text + ends[row], text + ends[row + 1])
        if code == SYNTAX and unit:
            value, code = epoch_us(text + ends[row], text + ends[row + 1], unit)
        us[row] = value
        codes[row] = code
