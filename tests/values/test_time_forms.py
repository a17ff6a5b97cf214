"""Forms of times against Python's own strptime, and each form that is read without being told."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.values.time_forms import FORMS, advice, format_pattern
from tocsin.values.times import parse_times


def one(text: str, **settings: str | None) -> tuple[str | None, str | None]:
    times, reasons = parse_times(pa.array([text]), **settings)
    time = times[0].as_py()
    return None if time is None else time.isoformat().replace("+00:00", "Z"), reasons[0].as_py()


@pytest.mark.parametrize("form", FORMS)
def test_each_form_that_the_docs_list_is_read(form: str) -> None:
    odd = {"T24": "2026-02-01T00:00:00Z", "Berlin": "2026-01-31T11:00:00Z", ".123": "2026-01-31T12:00:00.123000Z"}
    wanted = next((time for mark, time in odd.items() if mark in form), "2026-01-31T12:00:00Z")
    assert one(form, zone="UTC") == (wanted, None)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (" 2026-01-01T12:00:00Z ", "2026-01-01T12:00:00Z"),
        ("2026-1-1T12:00:00Z", "2026-01-01T12:00:00Z"),
        ("2026-01-01T12:00:00-00:00", "2026-01-01T12:00:00Z"),
        ("Jan  1 2026 12:00:00", "2026-01-01T12:00:00Z"),
        ("01-Jan-2026 12:00:00.5", "2026-01-01T12:00:00.500000Z"),
        ("2024-366T00:00:00Z", "2024-12-31T00:00:00Z"),
    ],
)
def test_further_spellings(text: str, wanted: str) -> None:
    assert one(text, zone="UTC") == (wanted, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("01/02/2026 12:00:00", 'format: "%m/%d/%Y %H:%M:%S"'),
        ("25.03.2026 14:30:05,5", 'format: "%d.%m.%Y %H:%M:%S,%f"'),
        ("2026-02-29T12:00:00Z", "no such day"),
        ("2026-13-01T12:00:00Z", "no such day"),
        ("2025-366T00:00:00Z", "no such day"),
        ("12:00:00", "has no date"),
        ("1767268800", "unit: ms"),
        ("noon", "say how it is written"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_remedy(text: str, said: str) -> None:
    assert one(text, zone="UTC") == (None, "ts_syntax")
    assert said in advice(text)


FORMATS = st.sampled_from(
    ["%d.%m.%Y %H:%M:%S", "%m/%d/%y %I:%M %p", "%Y%m%d%H%M%S.%f", "%d %B %Y, %H:%M", "%Y-%j %T", "%b %e %Y %H:%M:%S %z"]
)


@given(st.datetimes(datetime(1971, 1, 1), datetime(2068, 12, 30), timezones=st.just(UTC)), FORMATS)
def test_a_format_reads_what_python_writes(moment: datetime, format: str) -> None:
    text = moment.strftime(format)
    wanted = datetime.strptime(text, format.replace("%T", "%H:%M:%S").replace("%e", "%d")).replace(tzinfo=UTC)
    assert one(text, format=format, zone="UTC") == (wanted.isoformat().replace("+00:00", "Z"), None)


def test_a_format_is_held_to() -> None:
    for text in ("31.02.2026 00:00:00", "1.1.2026 24:00:00", "1.1.2026", "x1.1.2026 00:00:00"):
        assert one(text, format="%d.%m.%Y %H:%M:%S", zone="UTC") == (None, "ts_syntax")
    assert one("25.03.2026 14:30:05", format="%d.%m.%Y %H:%M:%S") == (None, "ts_zone")
    assert one("25.10.2026 02:30:00", format="%d.%m.%Y %H:%M:%S", zone="Europe/Berlin")[1] == "ts_fold"


@pytest.mark.parametrize(("format", "said"), [("%Q", "there is no"), ("%H:%M", "no whole date"), ("%d.%d.%Y", "twice")])
def test_a_wrong_format_is_refused(format: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        format_pattern(format)
