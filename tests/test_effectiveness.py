"""OEE, MTBF, MTTR and Pareto against sums by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from tocsin.calendars import Period, as_us
from tocsin.detect.downtime import Downtime
from tocsin.effectiveness import current, oee, pareto, windows
from tocsin.estimate.oee import Oee
from tocsin.testing import BEGIN_US, feed, rows

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3_600_000_000


def a_day() -> pa.Table:
    """0-4 h running, 4-5 stopped (jam), 5-8 running, 8-8.05 microstop, -12 running, 12-13 lunch, -16 running."""
    hours = [0, 4, 5, 8, 8.05, 12, 13, 16]
    given = rows(
        {
            "key": ["hall/press"] * len(hours),
            "time": [h * 3600 for h in hours],
            "state": ["running", "stopped", "running", "stopped", "running", "stopped", "running", "idle"],
            "why": pa.array([None, "jam", None, "slip", None, "pause", None, None], pa.string()),
        }
    )
    lunch = Period(name="lunch", begins="12:00", ends="13:00")  # type: ignore[arg-type]
    return feed(Downtime(state="state", reason="why", microstop="5m", planned=(lunch,)), given)


def test_oee_of_a_day_by_hand() -> None:
    counts = pa.table(
        {
            "key": ["hall/press"] * 2,
            "time": [BEGIN + timedelta(hours=2), BEGIN + timedelta(hours=10)],
            "total": [1000, 800],
            "good": [990, 702],
        }
    )
    (row,) = oee(a_day(), BEGIN_US, BEGIN_US + 16 * HOUR, counts=counts, ideal_cycle_s=24.0).to_pylist()
    assert (row["running_s"], row["unplanned_stop_s"], row["planned_stop_s"]) == (13.95 * 3600, 3600, 3600)
    assert (row["microstop_s"], row["stops"]) == (180, 1)
    assert row["availability"] == pytest.approx(14 / 15)
    assert row["performance"] == pytest.approx(1800 * 24 / (14 * 3600))
    assert row["quality"] == pytest.approx(1692 / 1800)
    assert row["oee"] == pytest.approx(14 / 15 * (1800 * 24 / 50400) * 0.94)
    assert (row["mtbf_s"], row["mttr_s"]) == (14 * 3600, 3600)


def test_shifts_are_clipped_and_what_is_not_known_is_null() -> None:
    shifts = [
        Period(name="early", begins="06:00", ends="14:00", zone="Europe/Berlin"),  # type: ignore[arg-type]
        Period(name="late", begins="14:00", ends="22:00", zone="Europe/Berlin"),  # type: ignore[arg-type]
    ]
    found = oee(a_day(), BEGIN_US, BEGIN_US + 16 * HOUR, shifts=shifts).to_pylist()
    assert [(r["shift"], r["window_start"].hour, r["window_end"].hour) for r in found] == [
        ("early", 5, 13), ("late", 13, 16),
    ]  # fmt: skip
    assert found[0]["stops"] == 0
    assert found[0]["mtbf_s"] is found[0]["performance"] is found[0]["oee"] is None


def test_a_line_adds_up_its_machines() -> None:
    other = a_day().set_column(0, "key", pa.array(["hall/saw"] * a_day().num_rows))
    both = pa.concat_tables([a_day().set_column(0, "key", a_day()["key"].cast(pa.string())), other])
    ids = pa.array([f"{k}{i}" for k, i in zip(both["key"].to_pylist(), both["id"].to_pylist(), strict=True)])
    both = both.set_column(both.schema.get_field_index("id"), "id", ids)
    (row,) = oee(both, BEGIN_US, BEGIN_US + 16 * HOUR, depth=1).to_pylist()
    assert (row["key"], row["stops"], row["unplanned_stop_s"]) == ("hall", 2, 7200)
    assert row["availability"] == pytest.approx(14 / 15)


def test_pareto_names_the_worst_reason_first() -> None:
    assert pareto(a_day(), BEGIN_US, BEGIN_US + 16 * HOUR).to_pylist() == [
        {"reason": "jam", "stops": 1, "lost_s": 3600.0, "running_percent": pytest.approx(95.238, abs=0.01)},
        {"reason": "slip", "stops": 1, "lost_s": 180.0, "running_percent": 100.0},
    ]


def test_only_the_newest_revision_counts() -> None:
    given = rows({"state": ["running", "running", "stopped", "running"], "time": [0.0, 100.0, 40.0, 200.0]})
    told = feed(Downtime(state="state"), given, chop=1)
    (spans,) = current(told).values()
    assert [(s.kind, (s.end or 0) - s.start) for s in spans[:2]] == [
        ("running", 40_000_000), ("unplanned_stop", 60_000_000),
    ]  # fmt: skip


def test_windows_over_a_change_of_the_clocks() -> None:
    night = Period(name="night", begins="22:00", ends="06:00", zone="Europe/Berlin")  # type: ignore[arg-type]
    begin = as_us(datetime(2026, 3, 28, 12, tzinfo=UTC))
    (first, second) = windows(begin, begin + 48 * HOUR, [night])
    assert (first[1] - first[0], second[1] - second[0]) == (7 * HOUR, 8 * HOUR)


def test_the_step_gives_what_the_table_gives() -> None:
    told = a_day()
    found = feed(Oee(every="8h"), told.combine_chunks().to_batches()[0], chop=2).to_pylist()
    wanted = oee(told, BEGIN_US, BEGIN_US + 16 * HOUR, every_us=8 * HOUR).to_pylist()
    assert [(r["time"], r["availability"], r["mttr_s"]) for r in found] == [
        (r["window_start"], r["availability"], r["mttr_s"]) for r in wanted
    ]
