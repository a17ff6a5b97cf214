"""Downtime against a plain reference, against a plant whose truth is known, and against recorded failures."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from data_folder import DATA
from hypothesis import given, settings
from pydantic import ValidationError

from tocsin.acquire.simulate import Fault, Simulate
from tocsin.batch import END, REJECTED, Batch, tick
from tocsin.estimate.downtime import Downtime
from tocsin.testing import BEGIN_US, feed, read_from, rows, stream

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
Told = Mapping[str, Any]


def seconds(moment: datetime | None) -> float | None:
    return None if moment is None else (moment - BEGIN).total_seconds()


def truth(told: list[Told]) -> list[tuple[str, float | None, float | None]]:
    """The newest revision of each event, without those withdrawn: kind, start, end."""
    newest: dict[str, Told] = {}
    for row in told:
        assert row["id"] not in newest or row["revision"] == newest[row["id"]]["revision"] + 1
        assert row["id"] in newest or row["revision"] == 0
        newest[row["id"]] = row
    kept = sorted((r for r in newest.values() if r["status"] != "withdrawn"), key=lambda r: r["start"])
    for row in kept:
        assert (row["end"] is None) == (row["status"] == "open")
    return [(r["kind"], seconds(r["start"]), seconds(r["end"])) for r in kept]


def told_by(operator: Downtime, state: list[str | None], time: list[float], **more: Any) -> list[Told]:
    given = rows({"state": pa.array(state, pa.string()), "time": time, **more})
    found: list[Told] = feed(operator, given, chop=1).to_pylist()
    return found


def test_states_follow_each_other_without_gap() -> None:
    told = told_by(Downtime(state="state"), ["running", "idle", "idle", "stopped", "running"], [0, 10, 20, 30, 40])
    assert truth(told) == [("running", 0, 10), ("idle", 10, 30), ("unplanned_stop", 30, 40), ("running", 40, None)]
    assert len([r for r in told if r["status"] == "closed"]) == 3


def test_silence_is_told_when_the_watermark_has_passed_it_and_ends_with_the_next_reading() -> None:
    operator = Downtime(state="state", heartbeat="10s", missed=2)
    state, out = operator.step(operator.initial(), next(stream(rows({"state": ["running"]}))))
    schema = rows({"state": ["running"]}).schema
    state, out = operator.step(state, tick(schema, BEGIN_US + 20_000_000))
    assert len(out[-1]) == 0
    state, out = operator.step(state, tick(schema, BEGIN_US + 20_000_001))
    (silent,) = out[-1].rows.to_pylist()
    assert (silent["kind"], silent["status"], silent["start"]) == ("unknown", "open", BEGIN)
    again = rows({"state": ["running"], "time": [50.0]})
    state, out = operator.step(state, Batch(again, BEGIN_US + 50_000_000))
    assert [(r["kind"], r["status"], seconds(r["start"])) for r in out[-1].rows.to_pylist()] == [
        ("unknown", "closed", 0), ("running", "open", 50),
    ]  # fmt: skip
    state, out = operator.step(state, tick(schema, END))
    assert len(out[-1]) == 0, "the end of the stream is not silence"


def test_a_reading_out_of_order_corrects_what_was_told() -> None:
    operator = Downtime(state="state")
    told = told_by(operator, ["running", "running", "stopped", "running"], [0, 10, 4, 20])
    assert truth(told) == [("running", 0, 4), ("unplanned_stop", 4, 10), ("running", 10, None)]
    assert [r["revision"] for r in told] == [0, 1, 0, 0]
    told = told_by(Downtime(state="state", heartbeat="2s", missed=1), ["running"] * 5, [0, 2, 6, 4, 8])
    assert truth(told) == [("running", 0, None)]
    assert "withdrawn" in {r["status"] for r in told}


def test_a_short_stop_is_a_microstop_once_it_is_over() -> None:
    told = told_by(Downtime(state="state", microstop="5s"), ["running", "stopped", "running", "stopped"], [0, 1, 5, 9])
    assert truth(told) == [("running", 0, 1), ("microstop", 1, 5), ("running", 5, 9), ("unplanned_stop", 9, None)]


def test_stops_are_planned_while_the_calendar_says_so() -> None:
    pause = {"name": "lunch", "start": BEGIN + timedelta(seconds=20), "end": BEGIN + timedelta(seconds=40)}
    operator = Downtime(state="state", planned=[pause])
    told = told_by(operator, ["running", "stopped", "stopped", "running"], [0, 10, 30, 50])
    assert truth(told) == [
        ("running", 0, 10), ("unplanned_stop", 10, 20), ("planned_stop", 20, 40), ("unplanned_stop", 40, 50),
        ("running", 50, None),
    ]  # fmt: skip
    assert {r["reason"] for r in told if r["kind"] == "planned_stop"} == {"lunch"}
    assert seconds(next(r["time"] for r in told if r["kind"] == "planned_stop")) == 20


def test_shift_and_reason() -> None:
    shift = {"name": "early", "begins": "06:00", "ends": "14:00", "zone": "Europe/Berlin"}
    operator = Downtime(state="state", shifts=[shift], reason="why")
    told = told_by(
        operator, ["running", "stopped", "stopped", "running"], [17_999, 18_000, 18_010, 18_020],
        why=pa.array([None, None, "jam", None], pa.string()),
    )  # fmt: skip
    stop = [r for r in told if r["kind"] == "unplanned_stop"]
    assert [(r["reason"], r["revision"], r["status"]) for r in stop] == [
        ("", 0, "open"), ("jam", 1, "open"), ("jam", 2, "closed"),
    ]  # fmt: skip
    assert [r["shift"] for r in stop] == ["early"] * 3
    assert told[0]["shift"] == ""


def test_levels_and_other_rows_of_the_machine() -> None:
    given = rows({"value": pa.array([10.0, None, 3.0, 0.5, float("nan"), 10.0])})
    operator = Downtime(of="value", running_above=5, idle_above=1, heartbeat="1s", missed=1)
    assert truth(feed(operator, given).to_pylist()) == [
        ("running", 0, 2), ("idle", 2, 3), ("unplanned_stop", 3, 5), ("running", 5, None),
    ]  # fmt: skip


def test_a_reading_without_a_state_does_not_end_what_is_unknown() -> None:
    given = rows({"value": pa.array([10.0, 10.0, None, None, 10.0]), "time": [0, 2, 20, 24, 28]})
    operator = Downtime(of="value", running_above=5, heartbeat="5s", missed=1)
    for chop in (1, None):
        told = feed(operator, given, chop=chop).to_pylist()
        assert truth(told) == [("running", 0, 2), ("unknown", 2, 28), ("running", 28, None)]


def test_a_state_that_nobody_knows_is_set_aside_and_counts_as_a_heartbeat() -> None:
    operator = Downtime(state="state", heartbeat="1s", missed=1)
    given = rows({"state": ["running", "dancing", "running"]})
    assert truth(feed(operator, given).to_pylist()) == [("running", 0, None)]
    (row,) = feed(operator, given, port=REJECTED).to_pylist()
    assert (row["reason"], row["payload"], row["key"]) == ("state_unknown", b"dancing", "machine")


def test_parts_leave_by_their_own_port_and_counts_that_cannot_be_are_set_aside() -> None:
    operator = Downtime(state="state", total="made", good="fine")
    given = rows(
        {
            "state": ["running"] * 7,
            "made": pa.array([5.0, None, 0.0, -1.0, 4.0, float("nan"), 3.0]),
            "fine": pa.array([4, None, 0, 0, 5, 0, None]),
        }
    )
    for chop in (1, None):
        counted = feed(operator, given, chop=chop, port="counts").to_pylist()
        assert [(r["status"], r["total"], r["good"], seconds(r["start"])) for r in counted] == [("counted", 5, 4, 0)]
        wrong = feed(operator, given, chop=chop, port=REJECTED).to_pylist()
        assert [(r["reason"], seconds(r["time"])) for r in wrong] == [("count_invalid", at) for at in (3, 4, 5, 6)]
        assert wrong[0]["payload"] == b"-1.0 0"
        assert truth(feed(operator, given, chop=chop).to_pylist()) == [("running", 0, None)]
    only_all = feed(Downtime(state="state", total="made"), given, port="counts").to_pylist()
    assert [(r["total"], r["good"]) for r in only_all] == [(5, None), (4, None), (3, None)]


def test_wrong_settings_are_refused() -> None:
    for wrong in (
        {},
        {"of": "x"},
        {"state": "s", "of": "x", "running_above": 1.0},
        {"states": {"a": "dancing"}},
        {"state": "s", "good": "g"},
    ):
        with pytest.raises(ValidationError):
            Downtime(**wrong)


def reference(readings: list[tuple[float, str]], timeout: float) -> list[tuple[str, float, float | None]]:
    """What is true once all readings are there, in order of time."""
    found: list[tuple[str, float]] = []
    last = None
    for at, says in sorted(readings, key=lambda r: r[0]):
        if last is not None and timeout and at - last > timeout:
            found = [f for f in found if f[1] != last] + [("unknown", last)]
        if not found or found[-1][0] != says:
            found = [f for f in found if f[1] != at] + [(says, at)]
        last = at
    ends = [*[start for _, start in found[1:]], None]
    return [(kind, start, end) for (kind, start), end in zip(found, ends, strict=False)]


kinds = st.sampled_from(["running", "idle", "unplanned_stop"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 10), kinds, st.sampled_from("ab")), max_size=40),
    st.sampled_from([0, 4]),
    st.lists(st.integers(0, 6), max_size=10),
)
def test_whatever_the_order_of_arrival_the_newest_revisions_are_the_truth(
    moves: list[Any], timeout: int, chop: list[int]
) -> None:
    at, arrived, used = 0, [], set()
    for step, back, says, key in moves:
        at += step
        moment = max(0, at - back) + (0.25 if key == "b" else 0.0)
        if (moment, key) not in used:  # of two readings at one time the later one counts: not in this reference
            used.add((moment, key))
            arrived.append((float(moment), says, key))
    operator = Downtime(state="state", heartbeat=timeout * 1_000_000, missed=1)
    batch = rows(
        {
            "key": [key for *_, key in arrived],
            "time": [moment for moment, *_ in arrived],
            "state": pa.array([says for _, says, _ in arrived], pa.string()),
        }
    )
    whole, pieces = feed(operator, batch).to_pylist(), feed(operator, batch, chop=chop or 1).to_pylist()
    state, reloaded = operator.initial(), []
    for part in stream(batch, chop or 1):
        state, out = operator.step(operator.load(operator.dump(state)), part)
        reloaded += [row for b in out for row in b.rows.to_pylist()]
    for key in "ab":
        mine = [r for r in whole if r["key"] == key]
        wanted = reference([(moment, says) for moment, says, k in arrived if k == key], timeout)
        # Only the end may differ: silence is told up to the last watermark before the end.
        found = truth(mine)
        if len(found) == len(wanted) + 1:
            assert found[-1][0] == "unknown"
            found = [*found[:-2], (*found[-2][:2], None)]
        elif found and wanted and found[-1][0] == "unknown" != wanted[-1][0]:
            found = [*found[:-1], (wanted[-1][0], *found[-1][1:])]
        assert found == wanted
        assert mine == [r for r in pieces if r["key"] == key]
        assert [r for r in reloaded if r["key"] == key] == [r for r in pieces if r["key"] == key]


def test_every_stop_of_the_simulated_plant_is_found_within_a_heartbeat_and_none_invented() -> None:
    faults = tuple(
        Fault(name=name, machine=machine, start=start, duration=length)
        for name, machine, start, length in (
            ("stop", "pump", "5m", "90s"), ("stop", "motor", "20m", "7m"), ("stop", "motor", "40m", "20s"),
            ("dropout", "compressor", "30m", "4m"),
        )
    )  # fmt: skip
    plant = Simulate(seed=5, duration="3h", rate=0, start=BEGIN, stops_per_day=24, faults=faults)
    reader, operator = read_from(plant), Downtime(state="state", heartbeat="1s")
    state, offset = operator.initial(), None
    told: list[Told] = []
    truths: dict[str, dict[float, str]] = {}
    while True:
        polled = reader.poll(20_000, 0.0)
        assert polled is not None
        batch, offset = polled
        if len(batch):
            for key, at, says in zip(
                *(batch.rows.column(c).to_pylist() for c in ("key", "time", "state")), strict=True
            ):
                truths.setdefault(key, {})[seconds(at) or 0.0] = says
        state, out = operator.step(state, batch)
        told += [row for b in out for row in b.rows.to_pylist()]
        if batch.watermark_us == END:
            break
    assert offset is not None
    for key, at in truths.items():
        found = [f for f in truth([r for r in told if r["key"] == key]) if f[0] != "running"]
        wanted: list[list[Any]] = []
        moments = sorted(at)
        for before, now in zip([moments[0], *moments], moments, strict=False):
            if now - before > 3:
                wanted.append(["unknown", before, now])
            kind = {"stopped": "unplanned_stop"}.get(at[now], at[now])
            if kind != "running" and (now == before or at[before] != at[now] or now - before > 3):
                wanted.append([kind, now, None])
            if at[before] != "running" and (at[before] != at[now]):
                wanted[-1 if wanted[-1][2] is None and wanted[-1][1] != now else -2][2] = now
        assert len(found) == len(wanted), key
        for (kind, start, end), (true_kind, true_start, true_end) in zip(found, wanted, strict=True):
            assert kind == true_kind
            assert abs(start - true_start) <= 1.0
            assert end == true_end or abs(end - true_end) <= 1.0
    kinds_found = {r["kind"] for r in told}
    assert {"running", "idle", "unplanned_stop", "unknown"} <= kinds_found


@pytest.mark.skipif(not (DATA / "azure_pdm").is_dir(), reason="the data folder (TOCSIN_DATA) has no azure_pdm")
def test_every_recorded_failure_is_one_stop() -> None:
    """A failure stops the machine for two hours, as maintenance does (planned, if nothing had failed)."""
    events: dict[tuple[str, datetime], str] = {}
    for name, says in (("maint", "service"), ("failures", "failed")):
        with gzip.open(DATA / "azure_pdm" / f"PdM_{name}.csv.gz", "rt") as file:
            next(file)
            for line in file:
                moment, machine, _ = line.strip().split(",")
                at = datetime.fromisoformat(moment).replace(tzinfo=UTC)
                if at.year == 2015:
                    events[machine, at] = says
    stamps = [(at, m, says) for (m, at), says in events.items()]
    stamps += [(at + timedelta(hours=2), m, "running") for m, at in events]
    stamps += [(datetime(2015, 1, 1, tzinfo=UTC), m, "running") for m in {m for m, _ in events}]
    stamps.sort()
    given = rows({"key": [m for _, m, _ in stamps], "time": [a for a, *_ in stamps], "state": [s for *_, s in stamps]})
    operator = Downtime(state="state", states={"failed": "unplanned_stop", "service": "planned_stop"})
    told = feed(operator, given, chop=500).to_pylist()
    stops = {(r["key"], r["start"]) for r in told if r["kind"] == "unplanned_stop"}
    assert stops == {key for key, says in events.items() if says == "failed"}
    assert len(stops) == len({k for k, says in events.items() if says == "failed"}) > 700
    planned = {(r["key"], r["start"]) for r in told if r["kind"] == "planned_stop"}
    assert planned == {key for key, says in events.items() if says == "service"}


def test_readings_that_change_nothing_cost_next_to_nothing() -> None:
    operator, count = Downtime(state="state", heartbeat="1s"), 20_000
    keys = [f"m{i % 100}" for i in range(count)]
    given = rows({"key": keys, "time": np.arange(count) / 100, "state": ["running"] * count})
    state, told = operator.initial(), 0
    for batch in stream(given, 1000):
        state, out = operator.step(state, batch)
        told += len(out[-1])
    assert told == 100
    assert len(state.readings.slots) == 0
