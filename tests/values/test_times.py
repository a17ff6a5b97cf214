"""Time stamps against Python's own datetime and zoneinfo."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import SchemaError
from tocsin.values.times import END_US, parse_times

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = st.builds(lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-23 * 60 - 59, 23 * 60 + 59))
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2199, 12, 30), timezones=ZONES)


def us_of(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def one(value: object, unit: str | None = None, zone: str | None = None) -> tuple[int | None, str | None]:
    times, reasons = parse_times(pa.array([value]), unit, zone)
    return times.cast(pa.int64()).to_pylist()[0], reasons.to_pylist()[0]


@given(st.lists(MOMENTS, max_size=5), st.sampled_from("T t"))
def test_every_rfc3339_time_is_read(moments: list[datetime], mark: str) -> None:
    texts = [m.isoformat().replace("T", mark) for m in moments]
    times, reasons = parse_times(pa.array(texts, pa.string()))
    assert times.cast(pa.int64()).to_pylist() == [us_of(m) for m in moments]
    assert reasons.null_count == len(moments)


_LOOSE = re.compile(
    r"(\d{4})-(?:(\d{3})|(\d{1,2})-(\d{1,2}))(?:[T ](\d{1,2}):(\d{2})(?::(\d{2}))?)? ?(Z|[+-]\d{2}(?::?\d{2})?)?"
)


def read_slowly(text: str) -> datetime:
    """What a person reads: as Python does, or with the day of the year, single digits, or 24:00 for the day's end."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        match = _LOOSE.fullmatch(text)
        assert match is not None, f"nobody reads {text!r} as a time"
        year, of_year, month, day, hour, minute, second, zone = match.groups()
        first = datetime(int(year), 1, 1) if of_year else datetime(int(year), int(month), int(day))
        moment = first + timedelta(int(of_year or 1) - 1)
        moment += timedelta(hours=int(hour or 0), minutes=int(minute or 0), seconds=int(second or 0))
        if zone and zone != "Z":
            digits = zone[1:].replace(":", "").ljust(4, "0")
            offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
            moment -= offset if zone[0] == "+" else -offset
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["0001-000", "2026-000", "2026-366", "9999-12-31T24:00:00", "2026-13-1", "2026-W54-1"])
def test_a_day_that_does_not_exist_is_no_time(text: str) -> None:
    assert one(text, zone="UTC")[0] is None


@given(st.one_of(st.text(alphabet="0123456789-:T.Z+ a", max_size=30), st.from_regex(_LOOSE, fullmatch=True)))
def test_what_is_accepted_is_what_a_person_reads(text: str) -> None:
    found, reason = one(text, zone="UTC")
    if found is not None and reason is None and "." not in text:
        assert found == us_of(read_slowly(text.upper()))


@pytest.mark.parametrize(
    ("text", "unit", "zone", "us", "reason"),
    [
        ("2026-01-01T00:00:00.123Z", None, None, 1767225600123000, None),
        ("2026-01-01 00:00:00.123456789Z", None, None, 1767225600123456, None),
        ("2026-01-01T00:00:00,5Z", None, None, 1767225600500000, None),
        ("2026-01-01T00:00Z", None, None, 1767225600000000, None),
        ("2026-01-01T01:00:00+0100", None, None, 1767225600000000, None),
        ("2026-01-01T01:00:00+01", None, None, 1767225600000000, None),
        ("2025-12-31T23:59:60Z", None, None, 1767225599999999, "ts_leap"),
        ("2026-01-01", None, "UTC", 1767225600000000, None),
        ("2026-01-01 00:00:00", None, None, None, "ts_zone"),
        ("2026-01-01 01:00:00", None, "Europe/Berlin", 1767225600000000, None),
        ("2026-10-25 02:30:00", None, "Europe/Berlin", 1792888200000000, "ts_fold"),
        ("2026-03-29 02:30:00", None, "Europe/Berlin", 1774746000000000, "ts_gap"),
        ("2026-02-29T00:00:00Z", None, None, None, "ts_syntax"),
        ("2028-02-29T00:00:00Z", None, None, 1835395200000000, None),
        ("2026-13-01T00:00:00Z", None, None, None, "ts_syntax"),
        ("2026-12-32T00:00:00Z", None, None, None, "ts_syntax"),
        ("2026-01-01T24:00:00Z", None, None, 1767312000000000, None),
        ("2026-01-01T24:00:01Z", None, None, None, "ts_syntax"),
        ("2026-01-01T00:00:61Z", None, None, None, "ts_syntax"),
        ("2026-01-01T00:00:00.Z", None, None, None, "ts_syntax"),
        ("2026-01-01T00:00:00+01:", None, None, None, "ts_syntax"),
        ("2026-01-01T00:00:00Zx", None, None, None, "ts_syntax"),
        ("2026-01-01T00:00:00+99:00", None, None, None, "ts_syntax"),
        ("", None, None, None, "ts_missing"),
        ("1969-12-31T23:59:59Z", None, None, None, "ts_range"),
        ("2200-01-01T00:00:00Z", None, None, None, "ts_range"),
        ("9999-12-31T23:59:59Z", None, None, None, "ts_range"),
        (None, None, None, None, "ts_missing"),
        (1767225600, "s", None, 1767225600000000, None),
        (1767225600123, "ms", None, 1767225600123000, None),
        (1767225600123456, "us", None, 1767225600123456, None),
        (1767225600123456789, "ns", None, 1767225600123456, None),
        (1767225600123, "auto", None, 1767225600123000, None),
        (1767225600, "auto", None, 1767225600000000, None),
        (1767225600.25, "s", None, 1767225600250000, None),
        (float("nan"), "s", None, None, "ts_range"),
        (float("inf"), "s", None, None, "ts_range"),
        (10**18, "s", None, None, "ts_range"),
        (1e300, "s", None, None, "ts_range"),
        (-1, "s", None, None, "ts_range"),
        ("1767225600.25", "s", None, 1767225600250000, None),
        ("1767225600123", "auto", None, 1767225600123000, None),
        ("1" * 20, "s", None, None, "ts_range"),
        ("12.", "s", None, None, "ts_syntax"),
        ("noon", "s", None, None, "ts_syntax"),
    ],
)  # fmt: skip
def test_one(text: object, unit: str | None, zone: str | None, us: int | None, reason: str | None) -> None:
    assert one(text, unit, zone) == (us, reason)


def test_timestamps_of_any_unit_and_zone_are_taken() -> None:
    for unit, value in (("s", 1767225600), ("ms", 1767225600000), ("us", 1767225600000000), ("ns", 1767225600 * 10**9)):
        for zone, given_zone in (("Europe/Berlin", None), (None, "UTC")):
            column = pa.array([value, None], pa.int64()).cast(pa.timestamp(unit, zone))
            times, reasons = parse_times(column, None, given_zone)
            assert times.cast(pa.int64()).to_pylist() == [1767225600000000, None]
            assert reasons.to_pylist() == [None, "ts_missing"]


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(SchemaError, match="unit"):
        parse_times(pa.array([1]))
    with pytest.raises(SchemaError, match="no time zone"):
        parse_times(pa.array(["2026-01-01"]), zone="Mars/Base")
    with pytest.raises(SchemaError, match="this column is bool"):
        parse_times(pa.array([True]))


def test_a_slice_and_an_empty_column() -> None:
    column = pa.array(["x", "2026-01-01T00:00:00Z", "y"])
    assert parse_times(column.slice(1, 1))[0].cast(pa.int64()).to_pylist() == [1767225600000000]
    assert len(parse_times(pa.array([], pa.string()))[0]) == 0


@pytest.mark.parametrize(
    "digits", ["1772323200123456789", "9999999999999999999", "99999999999999999999999", "7258118400000000000"]
)
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "auto"])
def test_an_epoch_number_of_many_digits_is_exact_or_out_of_range(digits: str, unit: str) -> None:
    times, reasons = parse_times(pa.array([digits]), unit)
    factor = {"s": 1_000_000, "ms": 1_000, "us": 1}.get(unit)
    us = int(digits) // 1_000 if factor is None else int(digits) * factor
    right = us < END_US
    assert times.cast(pa.int64()).to_pylist() == [us if right else None]
    assert reasons.to_pylist() == [None if right else "ts_range"]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_no_timestamp_wraps_around(unit: str) -> None:
    times, reasons = parse_times(pa.array([-(2**63), 2**63 - 1], pa.timestamp(unit, "UTC")))
    assert times.to_pylist() == [None, None]
    assert reasons.to_pylist() == ["ts_range", "ts_range"]


@pytest.mark.parametrize("column", [pa.array(["20260131"]), pa.array([20260131]), pa.array([20260131.0])])
def test_a_date_without_marks_is_not_guessed_to_be_a_number(column: pa.Array) -> None:
    times, reasons = parse_times(column, "auto")
    assert (times.to_pylist(), reasons.to_pylist()) == ([None], ["ts_syntax"])
    assert parse_times(column, "s")[1].null_count == 1


def test_numbers_with_an_exponent_are_read_to_the_digit() -> None:
    times, reasons = parse_times(pa.array(["1.772323200123456789e18", "1.7698608e9", "1e-3", " "]), "auto")
    assert times.cast(pa.int64()).to_pylist() == [1_772_323_200_123_456, 1_769_860_800_000_000, None, None]
    assert reasons.to_pylist() == [None, None, "ts_syntax", "ts_missing"]
