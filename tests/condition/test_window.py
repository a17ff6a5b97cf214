"""Windows against a scalar reference, in every kind, out of order and in batches of any size."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tocsin.batch import Batch
from tocsin.condition.window import Window
from tocsin.errors import SchemaError
from tocsin.testing import BEGIN_US, feed, rows


def readings(count: int = 400, jitter_s: float = 6.0) -> pa.RecordBatch:
    random = np.random.default_rng(1)
    value = [
        None if i % 13 == 4 else math.nan if i % 29 == 7 else float(v) for i, v in enumerate(random.normal(size=count))
    ]
    time = np.arange(count) * 0.7 + random.uniform(0, jitter_s, count)
    time[count // 2 :] += 60
    return rows({"key": [f"m{i % 5}" for i in range(count)], "time": time, "value": value, "n": np.arange(count)})


def numbers(values: list[Any]) -> list[float]:
    return [v for v in values if v is not None and not math.isnan(v)]


def expected(given: pa.RecordBatch, every: int, size: int) -> dict[tuple[str, int], list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in given.to_pylist():
        us = round(row["time"].timestamp() * 1e6)
        start = us // every * every
        while start + size > us:
            found[row["key"], start].append(row | {"us": us})
            start -= every
    return {group: sorted(found[group], key=lambda row: row["us"]) for group in found}


def check(
    given: pa.RecordBatch, step: Window, wanted: dict[tuple[str, int], list[dict[str, Any]]], chop: int | None
) -> None:
    table = feed(step, given, chop=chop)
    left = {(r["key"], round(r["time"].timestamp() * 1e6)): r for r in table.to_pylist()}
    assert len(left) == table.num_rows
    assert left.keys() == wanted.keys()
    for group, inside in wanted.items():
        row, known = left[group], numbers([r["value"] for r in inside])
        assert row["count"] == len(inside)
        assert row["value_count"] == len(known)
        assert row["n"] == [r["n"] for r in inside]
        assert row["first_n"] == inside[0]["n"]
        assert row["n_last"] == inside[-1]["n"]
        if known:
            assert row["value_mean"] == pytest.approx(statistics.fmean(known))
            assert row["value_median"] == pytest.approx(statistics.median(known))
            assert row["value_p95"] == pytest.approx(np.percentile(known, 95))
            assert row["value_min"] == min(known)
            assert row["n_sum"] == sum(r["n"] for r in inside)
        if len(known) > 1:
            assert row["value_std"] == pytest.approx(statistics.stdev(known))
        else:
            assert row["value_std"] is None


COMPUTE = {
    "count": "count(*)", "value_count": "count(value)", "value_mean": "mean(value)", "value_median": "median(value)",
    "value_p95": "p95(value)", "value_min": "min(value)", "value_std": "std(value)", "n_sum": "sum(n)",
    "first_n": "first(n)", "n_last": "last(n)",
}  # fmt: skip


@pytest.mark.parametrize("chop", [1, 37, None])
@pytest.mark.parametrize("size_s", [5, 15, 17])
def test_windows_by_the_clock(chop: int | None, size_s: int) -> None:
    given = readings()
    step = Window(every="5s", size=size_s * 1_000_000, collect="n", compute=COMPUTE)
    check(given, step, expected(given, 5_000_000, size_s * 1_000_000), chop)


@pytest.mark.parametrize("chop", [1, 37, None])
def test_sessions(chop: int | None) -> None:
    given = readings()
    wanted: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for key in sorted(set(given["key"].to_pylist())):
        mine = [r | {"us": round(r["time"].timestamp() * 1e6)} for r in given.to_pylist() if r["key"] == key]
        mine.sort(key=lambda row: row["us"])
        for i, row in enumerate(mine):
            if i == 0 or row["us"] - mine[i - 1]["us"] >= 5_000_000:
                session = wanted[key, row["us"]] = []
            session.append(row)
    check(given, Window(gap="5s", collect="n", compute=COMPUTE), wanted, chop)


def test_a_window_begins_on_the_clock_and_says_when_it_ends() -> None:
    left = feed(Window(every="20s", compute=["count(*)"]), rows({"time": [19.9, 20.0], "value": [1, 2]}))
    assert [t.second for t in left["time"].to_pylist()] == [0, 20]
    assert [t.second for t in left["window_end"].to_pylist()] == [20, 40]


def test_the_output_watermark_waits_for_open_windows_and_late_readings_are_set_aside() -> None:
    step, at = Window(every="10s", compute=["count(*)"]), BEGIN_US
    state, left = step.step(step.initial(), Batch(rows({"time": [1.0, 12.0], "value": [1, 2]}), at + 12_000_000))
    assert left[-1].watermark_us == at + 10_000_000
    assert left[-1].rows["count"].to_pylist() == [1]
    state, left = step.step(state, Batch(rows({"time": [3.0, 13.0], "value": [3, 4]}), at + 20_000_000))
    assert [(b.port, len(b)) for b in left] == [("late", 1), ("out", 1)]
    assert left[-1].rows["count"].to_pylist() == [2]


def test_one_hot_key_in_reverse_order_is_sorted_all_the_same() -> None:
    given = rows({"time": np.arange(5000)[::-1] / 1000, "value": np.arange(5000.0)})
    assert feed(Window(every="20s", collect="value"), given)["value"][0].as_py() == list(range(4999, -1, -1))


def test_far_apart_windows_of_many_keys_need_no_table_of_all_cells() -> None:
    given = rows({"key": [f"k{i}" for i in range(2000)], "time": np.arange(2000) * 1e4, "value": np.ones(2000)})
    assert feed(Window(every="1s", compute=["count(*)"]), given)["count"].to_pylist() == [1] * 2000


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "either every"),
        ({"every": "1s"}, "collect or compute"),
        ({"every": "1s", "compute": ["avg(value)"]}, "there is no function of a window 'avg'"),
        ({"every": "1s", "compute": ["value"]}, "write it as mean"),
        ({"every": "1s", "compute": ["p101(value)"]}, "p0 to p100"),
        ({"every": "2s", "size": "1s", "collect": "value"}, "size is shorter"),
    ],
)
def test_what_makes_no_window_is_said(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Window(**settings)


def test_figures_need_numbers() -> None:
    with pytest.raises(SchemaError, match="needs a number in column 'text'"):
        Window(every="1s", compute=["mean(text)"]).output_schema(rows({"text": ["a"]}).schema)


LARGE = 1_663_830_966_276_000_001


def test_figures_of_large_integers_are_exact_or_null() -> None:
    given = rows({"n": pa.array([LARGE, LARGE + 2, None, -(2**63), 2**63 - 1, 3], pa.int64())}, every_s=10)
    compute = ["sum(n)", "min(n)", "max(n)", "median(n)", "count(n)"]
    left = feed(Window(every="30s", compute=compute), given).to_pylist()
    assert [row["n_sum"] for row in left] == [2 * LARGE + 2, 2]
    assert [(row["n_min"], row["n_max"]) for row in left] == [(LARGE, LARGE + 2), (-(2**63), 2**63 - 1)]
    assert [row["n_median"] for row in left] == [None, 3.0]
    assert [row["n_count"] for row in left] == [2, 3]
    given = rows({"n": pa.array([2**63 - 1, 1, -1, 2**63 - 1, 1, 5], pa.int64())}, every_s=10)
    assert feed(Window(every="30s", compute=["sum(n)"]), given)["n_sum"].to_pylist() == [2**63 - 1, None]


def test_first_and_last_pass_over_missing_readings() -> None:
    given = rows({"value": [None, 1.0, math.nan, None, 2.0, math.inf], "t": ["a", None, "b", None, None, None]})
    compute = ["first(value)", "last(value)", "first(t)", "last(t)"]
    left = feed(Window(every="3s", compute=compute), given).to_pylist()
    assert [(r["value_first"], r["value_last"]) for r in left] == [(1.0, 1.0), (2.0, 2.0)]
    assert [(r["t_first"], r["t_last"]) for r in left] == [("a", "b"), (None, None)]


@pytest.mark.parametrize("chop", [1, 7, None])
@pytest.mark.parametrize(
    ("zone", "offset_h"), [("Europe/Berlin", 0), ("Europe/Berlin", 6), ("America/St_Johns", 0), (None, 6)]
)
def test_days_by_the_clock_of_a_zone(zone: str | None, offset_h: int, chop: int | None) -> None:
    begin = datetime(2026, 3, 27, tzinfo=UTC) if zone != "America/St_Johns" else datetime(2026, 10, 29, tzinfo=UTC)
    times = [begin + timedelta(minutes=30 * i) for i in range(6 * 48)]
    given = rows({"time": times, "n": list(range(len(times)))})
    wanted: dict[datetime, int] = defaultdict(int)
    for time in times:
        local = time.astimezone(ZoneInfo(zone or "UTC")) - timedelta(hours=offset_h)
        day = datetime.combine(local.date(), datetime.min.time()) + timedelta(hours=offset_h)
        wanted[day.replace(tzinfo=ZoneInfo(zone or "UTC")).astimezone(UTC)] += 1
    left = feed(
        Window(every="1d", zone=zone, offset=f"{offset_h}h", compute=["count(*)", "first(n)"]), given, chop=chop
    )
    assert {r["time"].astimezone(UTC): r["count"] for r in left.to_pylist()} == wanted
    assert left["window_end"].to_pylist()[:-1] == left["time"].to_pylist()[1:]
    assert left["n_first"].to_pylist() == [0, *np.cumsum(list(wanted.values()))[:-1]]


def test_hours_by_the_clock_where_one_happens_twice() -> None:
    times = [datetime(2026, 10, 24, 23, 30, tzinfo=UTC) + timedelta(minutes=30 * i) for i in range(6)]
    left = feed(Window(every="1h", zone="Europe/Berlin", compute=["count(*)"]), rows({"time": times}), chop=1)
    assert left["count"].to_pylist() == [1, 4, 1]


def test_a_zone_that_is_none_is_said() -> None:
    for settings, said in (({"zone": "Mars"}, "no time zone"), ({"zone": "UTC", "size": "2d"}, "by every alone")):
        with pytest.raises(ValidationError, match=said):
            Window(every="1d", compute=["count(*)"], **settings)
