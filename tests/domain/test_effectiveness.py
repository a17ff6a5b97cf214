"""OEE, MTBF, MTTR and Pareto against sums by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tocsin.domain.calendars import Period, as_us
from tocsin.domain.effectiveness import current, oee, pareto, windows
from tocsin.estimate.downtime import Downtime
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


def counted(shift_parts: list[tuple[float, float, float | None]]) -> pa.Table:
    """The events and the counts of a machine that runs until 8 h but from 2 h to 3 h, as `oee` gets them."""
    states = {0.0: "running", 2.0: "stopped", 3.0: "running", 8.0: "idle"}
    hours = sorted({*states, *(hour for hour, *_ in shift_parts)})
    made = {hour: (total, good) for hour, total, good in shift_parts}
    given = rows(
        {
            "time": [hour * 3600 for hour in hours],
            "state": pa.array([states.get(hour) for hour in hours], pa.string()),
            "total": pa.array([made.get(hour, (None, None))[0] for hour in hours], pa.float64()),
            "good": pa.array([made.get(hour, (None, None))[1] for hour in hours], pa.float64()),
        }
    )
    operator = Downtime(state="state", total="total", good="good")
    both = pa.concat_tables([feed(operator, given, port="counts"), feed(operator, given)])
    return both.sort_by("time").combine_chunks()


def test_the_step_multiplies_what_it_is_told_of_parts() -> None:
    told = counted([(1.0, 100, 90), (3.5, 100, 100), (4.0, 50, 50), (6.0, 200, 150)])
    operator = Oee(every="4h", ideal_cycle={"*": "99s", "machine": "40s"})
    for chop in (1, None):
        first, second = feed(operator, told.to_batches()[0], chop=chop).to_pylist()
        assert (first["total"], first["good"], second["total"], second["good"]) == (200, 190, 250, 200)
        assert first["availability"] == 0.75
        assert first["performance"] == pytest.approx(200 * 40 / (3 * 3600))
        assert first["quality"] == 0.95
        assert first["oee"] == pytest.approx(0.75 * 200 * 40 / 10800 * 0.95)
        assert second["oee"] == pytest.approx(1.0 * 250 * 40 / 14400 * 0.8)
    (first, _) = feed(Oee(every="4h"), told.to_batches()[0]).to_pylist()
    assert (first["performance"], first["oee"], first["quality"]) == (None, None, 0.95)


def test_the_step_and_the_table_give_the_same_oee() -> None:
    told = counted([(1.0, 100, 90), (3.5, 100, 100), (4.0, 50, 50), (6.0, 200, 150)])
    events = told.filter(pc.not_equal(told["status"], "counted"))
    parts = told.filter(pc.equal(told["status"], "counted"))
    wanted = oee(events, BEGIN_US, BEGIN_US + 8 * HOUR, counts=parts, ideal_cycle_s=40.0, every_us=4 * HOUR)
    found = feed(Oee(every="4h", ideal_cycle="40s"), told.to_batches()[0])
    for name in ("availability", "performance", "quality", "oee"):
        assert found[name].to_pylist() == pytest.approx(wanted[name].to_pylist())


def test_parts_outside_of_shifts_are_nobodys() -> None:
    shifts = [Period(name="a", begins="01:00", ends="02:00"), Period(name="b", begins="04:00", ends="06:00")]  # type: ignore[arg-type]
    told = counted([(0.5, 1, 1), (1.0, 2, 2), (1.5, 4, 4), (2.0, 8, 8), (3.0, 16, 16), (5.0, 32, 32), (6.0, 64, 64)])
    for chop in (1, 3, None):
        found = feed(Oee(shifts=shifts), told.to_batches()[0], chop=chop).to_pylist()
        assert [(r["shift"], r["total"]) for r in found] == [("a", 6), ("b", 32)]


def test_a_machine_that_is_first_heard_of_out_of_order_loses_nothing() -> None:
    told = counted([(1.0, 3, 3), (3.5, 100, 100)])
    turned = told.take([1, 0, *range(2, told.num_rows)]).combine_chunks().to_batches()[0]
    for chop in (1, None):
        found = feed(Oee(every="4h"), turned, chop=chop).to_pylist()
        assert found == feed(Oee(every="4h"), told.to_batches()[0]).to_pylist()
