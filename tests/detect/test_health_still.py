"""Health: signals that do not move or do not come, and machines that are silent; what rests by nature is not told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tocsin.batch import ACTIONS, ACTIONS_SCHEMA, Batch, Floats, times_us
from tocsin.detect.health import Health
from tocsin.notify.alarm import Alarm
from tocsin.testing import feed, rows, stream

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
A_WEEK = 2016
"""Readings five minutes apart."""


def noise(count: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(20, 1, count)


def abnormal(values: Any, every_s: float = 300, **settings: Any) -> Any:
    left = feed(Health(**settings), rows({"value": values}, every_s=every_s), chop=700)
    return left["score"].fill_null(0).to_numpy() >= 75


def test_a_value_that_hangs_is_told_with_its_value_and_since_when_and_no_longer_than_it_hangs() -> None:
    values = noise(4000)
    values[2000:3000] = values[2000]
    left = feed(Health(), rows({"value": values})).to_pylist()
    told = [i for i, row in enumerate(left) if row["state"] == "abnormal"]
    assert told == list(range(2030, 3000))
    row = left[2500]
    assert row["since"] == BEGIN + timedelta(seconds=2000)
    assert row["why"].startswith(
        f"value has not changed from {values[2000]:.6g} since 00:33:20 on 2026-01-01 (UTC), far"
    )
    assert 75 <= left[2030]["score"] < left[2500]["score"] <= 100
    assert left[2999]["expected"] == left[2030]["expected"], "nothing is learnt from it"


def test_it_stays_told_for_however_long_it_hangs() -> None:
    values = noise(20_000)
    values[3000:] = values[3000]
    assert abnormal(values, relearn="1d")[3030:].all()


def test_a_sensor_that_comes_back_out_of_its_band_is_told_for_that() -> None:
    values = noise(4000)
    values[2000:2500] = values[2000]
    values[2500:] += 30
    left = feed(Health(), rows({"value": values})).to_pylist()
    assert "has not changed" in left[2499]["why"]
    assert left[2500]["why"].startswith("value jumped above")


def resting(kind: str, count: int = 3 * A_WEEK) -> Floats:
    """Series that keep a value for long by nature, five minutes apart."""
    i, random = np.arange(count), np.random.default_rng(4)
    match kind:
        case "constant":
            return np.full(count, 4.2)
        case "coarse":
            return np.round(random.normal(20, 0.3, count))
        case "counts":
            return random.poisson(0.2, count).astype(float)
        case "duty":
            return i // 30 % 2 * 5.0
        case "workdays":  # on and off by the hour for five days of the week, off at its end
            return np.where(i % A_WEEK < 5 * 288, i // 12 % 2 * 5.0, 0.0)
        case "slow swing":
            return np.round(20 + 9 * np.sin(i / 288 * 2 * np.pi), 2)
        case _:  # a set point
            return np.repeat(random.integers(1, 9, count // 96 + 1), 96)[:count].astype(float)


@pytest.mark.parametrize("kind", ["constant", "coarse", "counts", "duty", "workdays", "slow swing", "set point"])
@pytest.mark.parametrize("every_s", [1, 300])
def test_what_rests_by_nature_is_not_stuck(kind: str, every_s: float) -> None:
    left = feed(Health(width=50), rows({"value": resting(kind)}, every_s=every_s))
    assert not [why for why in left["why"].to_pylist() if why and "not changed" in why]


@pytest.mark.parametrize("kind", ["coarse", "counts", "duty", "workdays"])
def test_what_rests_by_nature_is_stuck_after_ten_times_as_long_as_ever(kind: str) -> None:
    values = resting(kind)
    longest = 3 * 288 if kind == "workdays" else 100
    hangs = np.append(values, np.full(11 * longest, values[-1]))
    left = feed(Health(width=50), rows({"value": hangs}, every_s=300)).to_pylist()
    assert "not changed" in left[-1]["why"]


def test_one_signal_of_several_that_does_not_come_is_named() -> None:
    a, b = noise(3000), noise(3000, 2)
    b[np.random.default_rng(3).random(3000) < 0.3] = np.nan
    b[2000:2600] = np.nan
    left = feed(Health(of=("a", "b")), rows({"a": a, "b": b})).to_pylist()
    told = [i for i, row in enumerate(left) if row["state"] == "abnormal"]
    assert 2030 <= told[0] < 2200
    assert 2600 <= told[-1] + 1 < 2610, "until it comes again"
    assert left[2500]["signal"] == "b"
    assert left[2500]["why"].startswith("b has given no reading since 00:33:1")


def heard(seconds: Any) -> tuple[Health, pa.RecordBatch]:
    return Health(), rows({"time": list(seconds), "value": noise(len(seconds))})


def test_a_silence_is_told_by_the_watermark_and_is_over_with_the_next_reading() -> None:
    detector, given = heard([*range(1000), *range(4000, 4010)])
    state, (first,) = detector.step(detector.initial(), Batch(given.slice(0, 1000), times_us(given)[999].item()))
    assert len(first) == 1000
    state, (tick,) = detector.step(state, Batch(given.slice(0, 0), first.watermark_us + 60_000_000))
    assert not len(tick), "not yet: silence of less than a minute is nothing"
    state = detector.load(detector.dump(state))
    state, (told,) = detector.step(state, Batch(given.slice(0, 0), tick.watermark_us + 60_000_000))
    (row,) = told.rows.to_pylist()
    assert row["time"] == BEGIN + timedelta(seconds=999 + 60, microseconds=1)
    assert (row["key"], row["value"], row["score"], row["state"]) == ("machine", None, 75, "abnormal")
    assert row["since"] == BEGIN + timedelta(seconds=999)
    assert row["why"] == "no reading since 00:16:39 on 2026-01-01 (UTC), far longer than ever before"
    state, (again,) = detector.step(state, Batch(given.slice(0, 0), told.watermark_us + 60_000_000))
    assert not len(again), "once"
    _, (back,) = detector.step(state, Batch(given.slice(1000), told.watermark_us + 3_600_000_000))
    assert [row["state"] for row in back.rows.to_pylist()][:10] == ["normal"] * 10


def two_machines(silent: range) -> pa.RecordBatch:
    """A pump and a fan, heard every second; the pump not while it is silent."""
    seconds = [(i, key) for i in range(5000) for key in ("fan", "pump") if key == "fan" or i not in silent]
    times, keys = zip(*seconds, strict=True)
    return rows({"key": list(keys), "time": list(times), "value": noise(len(keys))})


@pytest.mark.parametrize("chop", [1, 50, 5000, 20_000])
def test_a_silence_that_a_reading_ends_is_told_before_it_however_the_stream_is_cut(chop: int) -> None:
    left = [
        row for row in feed(Health(), two_machines(range(1000, 4000)), chop=chop).to_pylist() if row["key"] == "pump"
    ]
    assert len(left) == 2001
    assert left[1000]["why"].startswith("no reading since 00:16:39")
    assert left[1000]["time"] == BEGIN + timedelta(seconds=1059, microseconds=1)
    assert [row["state"] for row in left[999:1003]] == ["normal", "abnormal", "normal", "normal"]


def test_an_alarm_behind_it_rings_for_the_silence_and_clears_with_the_next_reading() -> None:
    judged = feed(Health(), two_machines(range(1000, 4000))).combine_chunks().to_batches()[0]
    raised, cleared = feed(Alarm(rule="health"), judged).to_pylist()
    assert (raised["event"], raised["time"]) == ("raised", BEGIN + timedelta(seconds=1059, microseconds=1))
    assert raised["message"].startswith("pump health: no reading since 00:16:39 on 2026-01-01 (UTC), far longer")
    assert (cleared["event"], cleared["time"]) == ("cleared", BEGIN + timedelta(seconds=4000))


@pytest.mark.parametrize("chop", [100, 20_000])
def test_nobody_is_missed_for_the_time_in_which_nobody_was_heard(chop: int) -> None:
    """As when the engine was stopped, and its source keeps nothing for it."""
    times = [i + 7200 * (i >= 1500) for i in range(3000) for _ in range(3)]
    given = rows({"key": ["a", "b", "c"] * 3000, "time": times, "value": noise(9000)})
    detector = Health()
    state = detector.initial()
    for at in range(0, 9000, chop):
        batch = given.slice(at, chop)
        state, (left,) = detector.step(state, Batch(batch, int(times_us(batch)[-1])))
        assert len(left) == len(batch)


def test_silence_is_measured_by_what_is_usual_and_other_states_are_no_silence() -> None:
    random = np.random.default_rng(9)
    detector, given = heard(np.cumsum(random.exponential(30, 2000)))
    assert len(feed(detector, given)) == 2000
    on = two_machines(range(1000, 1300))
    on = on.append_column("on", pa.array([i < 1000 for i in range(len(on))]))
    assert len(feed(Health(when="on"), on)) == len(on) + 1
    idle = rows({"value": noise(2000), "on": [not 1000 <= i < 1900 for i in range(2000)]})
    assert len(feed(Health(when="on"), idle)) == 2000


def test_machines_that_are_read_one_after_the_other_are_not_silent() -> None:
    """A file sorted by machine: while the second one is read, the watermark is far ahead of it."""
    one = {"key": ["a"] * 5000 + ["b"] * 5000, "time": [*range(5000)] * 2, "value": noise(10_000)}
    table, detector = rows(one), Health()
    state, watermark, count = detector.initial(), 0, 0
    for batch in stream(table, 500):
        watermark = max(watermark, int(times_us(batch.rows).max())) if len(batch) else watermark
        state, (left,) = detector.step(state, Batch(batch.rows, watermark))
        count += sum(bool(why) and "no reading" in why for why in left.rows["why"].to_pylist())
    assert count == 0


def test_a_person_can_say_that_the_pace_is_new() -> None:
    detector, given = heard([*range(1000), *range(1500, 100_000, 500)])
    action = {"alarm": "health:machine", "action": "relearn", "by": "anna", "reason": "", "until": None, "assignee": ""}
    asked = pa.RecordBatch.from_pylist([{**action, "time": BEGIN + timedelta(seconds=1050)}], schema=ACTIONS_SCHEMA)
    for says_so, silences in ((False, 1), (True, 0)):
        state, _ = detector.step(detector.initial(), Batch(given.slice(0, 1000)))
        if says_so:
            detector.step(state, Batch(asked, port=ACTIONS))
        count = 0
        for i in range(1000, len(given)):  # a tick before each reading, as another machine's readings would give it
            tick = Batch(given.slice(0, 0), int(times_us(given)[i]) - 1)
            for batch in (tick, Batch(given.slice(i, 1), tick.watermark_us)):
                state, (left,) = detector.step(state, batch)
                count += sum(bool(why) and "no reading" in why for why in left.rows["why"].to_pylist())
        assert (count > 0) == (silences > 0)
