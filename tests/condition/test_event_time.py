"""Event time: late row by row, and no wrong clock moves the watermark."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from tocsin.batch import START, Batch, as_times
from tocsin.condition.event_time import EventTime
from tocsin.errors import SchemaError
from tocsin.testing import BEGIN_US, feed, rows


def given(seconds: list[float | None], arrival_s: float = 1000.0) -> pa.RecordBatch:
    us = [None if s is None else BEGIN_US + int(s * 1e6) for s in seconds]
    arrived = as_times(np.full(len(us), BEGIN_US + int(arrival_s * 1e6)))
    columns = {"ts": pa.array(us, pa.timestamp("us", "UTC")), "received": arrived}
    return rows(columns).drop_columns(["time"])


@pytest.mark.parametrize("chop", [1, 3, None])
def test_late_is_measured_row_by_row_against_the_newest_before(chop: int | None) -> None:
    seconds = [float(i + random.Random(i).randint(-8, 0)) for i in range(100)]
    newest, wanted = -1e9, []
    for s in seconds:  # the reference
        newest = max(newest, s)
        wanted.append(s < newest - 5)
    step = EventTime(column="ts", lateness="5s")
    left = [(t - BEGIN_US) / 1e6 for t in feed(step, given(seconds), chop=chop)["time"].cast(pa.int64()).to_pylist()]
    late = feed(step, given(seconds), chop=chop, port="late")
    assert left == [s for s, is_late in zip(seconds, wanted, strict=True) if not is_late]
    assert late.num_rows == sum(wanted) > 0


def test_wrong_clocks_are_set_aside_and_do_not_move_the_watermark() -> None:
    step = EventTime(column="ts", lateness="5s", past="10m")
    stamps = given([900.0, None, 1301.0, 9e9, 1300.0, 100.0])
    state, left = step.step(step.initial(), Batch(stamps, START))
    by_port = {b.port: b for b in left}
    assert by_port["rejected"].rows["reason"].to_pylist() == ["ts_missing", "ts_future", "ts_range", "ts_past"]
    assert left[-1].watermark_us == BEGIN_US + 1_295_000_000
    assert state.overall == BEGIN_US + 1_300_000_000


def test_by_arrival_nothing_is_late_even_if_the_clock_is_set_back() -> None:
    arrived = rows({"received": as_times(BEGIN_US + np.array([5, 6, 2, 7]) * 1_000_000)}).drop_columns(["time"])
    left = feed(EventTime(), arrived, chop=1)
    assert [t.second for t in left["time"].to_pylist()] == [5, 6, 6, 7]
    assert left.schema.names == ["key", "time"]


def test_text_in_a_zone_and_numbers_with_a_unit() -> None:
    text = rows({"ts": ["2026-07-01 12:00:00"]}).drop_columns(["time"])
    assert feed(EventTime(column="ts", zone="Europe/Berlin"), text)["time"][0].as_py().hour == 10
    numbers = rows({"ts": [1767225600123]}).drop_columns(["time"])
    assert feed(EventTime(column="ts", unit="ms"), numbers)["time"].cast(pa.int64()).to_pylist() == [1767225600123000]
    with pytest.raises(SchemaError, match="needs its unit"):
        EventTime(column="ts").output_schema(numbers.schema)
    no_zone = feed(EventTime(column="ts"), text, port="rejected")
    assert no_zone["reason"].to_pylist() == ["ts_zone"]


def test_date_and_time_in_two_columns_by_a_format() -> None:
    given = rows({"day": ["25.03.2026", "26.03.2026", "x"], "clock": ["14:30:05", None, "1"]}).drop_columns(["time"])
    step = EventTime(column=["day", "clock"], format="%d.%m.%Y %H:%M:%S", zone="Europe/Berlin")
    assert [t.isoformat() for t in feed(step, given)["time"].to_pylist()] == ["2026-03-25T13:30:05+00:00"]
    rejected = feed(step, given, port="rejected").to_pylist()
    assert [r["reason"] for r in rejected] == ["ts_missing", "ts_syntax"]
    assert "is not written as format says" in rejected[1]["detail"]


def test_the_doubled_and_the_missing_hour_are_marked() -> None:
    stamps = ["2026-03-29T01:59:30", "2026-03-29T02:30:00", "2026-10-25T02:15:00", "2026-10-25T03:00:00", "x"]
    given = rows({"ts": stamps}).drop_columns(["time"])
    step = EventTime(column="ts", zone="Europe/Berlin", mark="odd")
    assert feed(step, given)["odd"].to_pylist() == [None, "ts_gap", "ts_fold", None]


def test_what_cannot_be_read_names_its_remedy() -> None:
    given = rows({"ts": ["01/02/2026 12:00", "1767225600", "12:00:00"]}).drop_columns(["time"])
    details = feed(EventTime(column="ts", zone="UTC"), given, port="rejected")["detail"].to_pylist()
    for detail, remedy in zip(details, ['format: "%m/%d/%Y %H:%M"', "unit: ms", "[date, time]"], strict=True):
        assert remedy in detail


@pytest.mark.parametrize("chop", [1, 3, 100])
def test_samples_of_a_recording_are_numbered_by_key_and_time(chop: int) -> None:
    keys, begun = ["a", "b", "a", "a", "b", "a"], ["00:00", "00:00", "00:00", "00:00", "00:00", "00:01"]
    recorded = rows({"key": keys, "ts": [f"2026-01-01T00:{t}Z" for t in begun]}).drop_columns(["time"])
    step = EventTime(column="ts", rate=3, lateness="1h")
    us = feed(step, recorded, chop=chop)["time"].cast(pa.int64()).to_pylist()
    assert [t - BEGIN_US for t in us] == [0, 0, 333_333, 666_667, 333_333, 1_000_000]


@pytest.mark.parametrize("chop", [1, 3, 100])
def test_rows_in_which_nothing_has_a_time_are_counted(chop: int) -> None:
    read = (
        given([None] * 4).drop_columns(["key"]).add_column(0, "key", pa.array(["a", "b", "a", "b"]).dictionary_encode())
    )
    us = feed(EventTime(rate=2), read, chop=chop)["time"].cast(pa.int64()).to_pylist()
    assert us == [0, 0, 500_000, 500_000]


def test_an_offset_is_added_and_one_that_says_nothing_is_set_aside() -> None:
    given = rows({"ts": ["2026-01-01T00:00:00Z"] * 4, "ms": pa.array([0, 1_500, None, 2**62])}).drop_columns(["time"])
    step = EventTime(column="ts", offset="ms", offset_unit="ms")
    us = feed(step, given)["time"].cast(pa.int64()).to_pylist()
    assert [t - BEGIN_US for t in us] == [0, 1_500_000]
    assert feed(step, given, port="rejected")["reason"].to_pylist() == ["ts_missing", "ts_range"]
    fine = rows({"ts": ["2026-01-01T00:00:00Z"] * 2, "s": [0.25, float("nan")]}).drop_columns(["time"])
    assert [t.microsecond for t in feed(EventTime(column="ts", offset="s"), fine)["time"].to_pylist()] == [250_000]
    with pytest.raises(SchemaError, match="must be a number"):
        EventTime(column="ts", offset="ts").output_schema(given.schema)
