"""The alarm: every transition of ISA-18.2, timers in event time, ids, actions, and no illegal state under anything."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from tocsin.batch import ACTIONS, ACTIONS_SCHEMA, END, START, Batch, as_times, tick
from tocsin.detect.ewma import Ewma
from tocsin.errors import SchemaError
from tocsin.notify.alarm import Alarm
from tocsin.testing import BEGIN_US, feed, rows, stream

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ALLOWED = {
    ("NORMAL", "raised", "ACTIVE_UNACK"),
    ("CLEARED_ACK", "raised", "ACTIVE_UNACK"),
    ("ACTIVE_UNACK", "acknowledged", "ACTIVE_ACK"),
    ("ACTIVE_UNACK", "cleared", "CLEARED_UNACK"),
    ("ACTIVE_ACK", "cleared", "CLEARED_ACK"),
    ("CLEARED_UNACK", "acknowledged", "CLEARED_ACK"),
    ("CLEARED_UNACK", "reraised", "ACTIVE_UNACK"),
    ("ACTIVE_UNACK", "escalated", "ACTIVE_UNACK"),
    ("ACTIVE_ACK", "escalated", "ACTIVE_UNACK"),
    ("ACTIVE_UNACK", "eased", "ACTIVE_UNACK"),
    ("ACTIVE_ACK", "eased", "ACTIVE_ACK"),
    ("ACTIVE_UNACK", "realarmed", "ACTIVE_UNACK"),
    ("ACTIVE_ACK", "realarmed", "ACTIVE_UNACK"),
    ("ACTIVE_UNACK", "cleared", "LATCHED_UNACK"),
    ("ACTIVE_ACK", "cleared", "LATCHED_ACK"),
    ("LATCHED_UNACK", "acknowledged", "LATCHED_ACK"),
    ("LATCHED_UNACK", "reraised", "ACTIVE_UNACK"),
    ("LATCHED_ACK", "reraised", "ACTIVE_UNACK"),
    ("LATCHED_ACK", "reset", "CLEARED_ACK"),
}


class Plant:
    """Drives an alarm by hand: readings and actions at given seconds."""

    def __init__(self, **settings: Any) -> None:
        self.alarm = Alarm(**{"rule": "hot", "high": 80.0, "high_high": 95.0, "chatter_max": 0, **settings})
        self.state = self.alarm.initial()
        self.rows: list[dict[str, Any]] = []

    def _step(self, batch: Batch) -> list[dict[str, Any]]:
        self.state, out = self.alarm.step(self.state, batch)
        new = [row for b in out for row in b.rows.to_pylist()]
        self.rows += new
        return new

    def read(self, second: float, value: float | None, key: str = "pump", **more: Any) -> list[dict[str, Any]]:
        columns = {"key": [key], "time": [second], "value": pa.array([value], pa.float64())}
        batch = rows(columns | {name: [v] for name, v in more.items()})
        return self._step(Batch(batch, BEGIN_US + int(second * 1e6)))

    def wait(self, second: float) -> list[dict[str, Any]]:
        return self._step(tick(rows({"value": [1.0]}).schema, BEGIN_US + int(second * 1e6)))

    def act(
        self, second: float, action: str, alarm: str | None = None, until: float | None = None, assignee: str = ""
    ) -> list[Any]:
        batch = pa.RecordBatch.from_pylist(
            [
                {
                    "time": BEGIN + timedelta(seconds=second),
                    "alarm": alarm or self.rows[-1]["id"],
                    "action": action,
                    "by": "ann",
                    "reason": "known",
                    "until": None if until is None else BEGIN + timedelta(seconds=until),
                    "assignee": assignee,
                }
            ],
            schema=ACTIONS_SCHEMA,
        )
        return self._step(Batch(batch, START, ACTIONS))


def seen(new: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in (names or ("event", "state", "ring"))) for row in new]


def second(row: dict[str, Any]) -> float:
    return float((row["time"] - BEGIN).total_seconds())


def test_an_alarm_is_given_to_a_person_until_it_rings_anew() -> None:
    plant = Plant()
    plant.read(1, 81.0)
    assert seen(plant.act(2, "assign", assignee="bob"), "event", "state", "by", "assignee", "ring") == [
        ("assigned", "ACTIVE_UNACK", "ann", "bob", False)
    ]
    assert seen(plant.act(3, "unassign"), "event", "assignee") == [("unassigned", "")]
    (refused,) = plant.act(4, "unassign")
    assert (refused["event"], "nobody has it" in refused["reason"]) == ("refused", True)
    plant.act(5, "assign", assignee="eve")
    assert seen(plant.act(6, "acknowledge"), "event", "assignee") == [("acknowledged", "eve")]
    assert seen(plant.read(7, 20.0), "event", "assignee") == [("cleared", "eve")]
    assert seen(plant.act(8, "assign", assignee="bob"), "event", "assignee") == [("refused", "eve")], "it is over"
    assert seen(plant.read(9, 81.0), "event", "assignee") == [("raised", "")]


def test_a_comment_changes_nothing_and_may_be_about_an_earlier_occurrence() -> None:
    plant = Plant()
    (first,) = plant.read(1, 81.0)
    names = ("event", "id", "state", "by", "reason", "ring")
    place = f"hot:pump#{first['id']}"
    said = ("commented", first["id"], "ACTIVE_UNACK", "ann", "known", False)
    assert seen(plant.act(2, "comment", place), *names) == [said]
    plant.act(3, "acknowledge")
    plant.read(4, 20.0)
    (again,) = plant.read(5, 81.0)
    assert again["id"] != first["id"]
    assert seen(plant.act(6, "comment", place), *names) == [(*said[:2], "CLEARED_ACK", *said[3:])]
    assert plant.read(7, 82.0) == [], "the new one is as it was"


def test_raised_acknowledged_cleared() -> None:
    plant = Plant()
    assert plant.read(0, 20.0) == []
    assert seen(plant.read(1, 81.0)) == [("raised", "ACTIVE_UNACK", True)]
    assert seen(plant.act(2, "acknowledge"), "event", "state", "previous", "by", "reason", "ring") == [
        ("acknowledged", "ACTIVE_ACK", "ACTIVE_UNACK", "ann", "known", False)
    ]
    assert seen(plant.read(3, 20.0)) == [("cleared", "CLEARED_ACK", False)]
    assert len({row["id"] for row in plant.rows}) == 1
    assert plant.rows[0]["case"] == plant.rows[-1]["case"] == plant.rows[0]["id"]


def test_cleared_before_acknowledged_and_raised_again_keeps_its_id() -> None:
    plant = Plant()
    plant.read(1, 81.0)
    assert seen(plant.read(2, 20.0)) == [("cleared", "CLEARED_UNACK", False)]
    assert seen(plant.read(3, 85.0)) == [("reraised", "ACTIVE_UNACK", True)]
    plant.read(4, 20.0)
    assert seen(plant.act(5, "acknowledge")) == [("acknowledged", "CLEARED_ACK", False)]
    first = plant.rows[-1]["id"]
    assert {row["id"] for row in plant.rows} == {first}
    plant.read(6, 81.0)
    assert plant.rows[-1]["id"] != first


def test_latching_needs_an_acknowledgement_and_a_reset() -> None:
    plant = Plant(latching=True)
    plant.read(1, 81.0)
    assert seen(plant.read(2, 20.0)) == [("cleared", "LATCHED_UNACK", False)]
    (refused,) = plant.act(3, "reset")
    assert (refused["event"], refused["state"]) == ("refused", "LATCHED_UNACK")
    assert "acknowledge it before" in refused["reason"]
    assert seen(plant.act(4, "acknowledge")) == [("acknowledged", "LATCHED_ACK", False)]
    assert seen(plant.read(5, 81.0)) == [("reraised", "ACTIVE_UNACK", True)]
    plant.act(6, "acknowledge")
    assert seen(plant.read(7, 20.0)) == [("cleared", "LATCHED_ACK", False)]
    assert seen(plant.act(8, "reset")) == [("reset", "CLEARED_ACK", False)]


def test_escalation_rings_again_and_needs_a_new_acknowledgement() -> None:
    plant = Plant()
    plant.read(1, 81.0)
    plant.act(2, "acknowledge")
    assert seen(plant.read(3, 96.0), "event", "state", "severity", "ring", "limit") == [
        ("escalated", "ACTIVE_UNACK", "critical", True, 95.0)
    ]
    assert seen(plant.read(4, 90.0)) == [("eased", "ACTIVE_UNACK", False)]


def test_delays_elapse_in_event_time() -> None:
    plant = Plant(on_delay="5s", off_delay="3s")
    plant.read(0, 81.0)
    plant.read(4, 20.0)
    assert plant.wait(9) == []
    plant.read(10, 81.0)
    assert plant.read(14, 82.0) == []
    (raised,) = plant.wait(20)
    assert (raised["event"], second(raised)) == ("raised", 15.0)
    assert (raised["started"] - BEGIN).total_seconds() == 10
    plant.read(21, 20.0)
    plant.read(23, 81.0)
    assert plant.wait(30) == []
    plant.read(31, 20.0)
    (cleared,) = plant.read(40, 20.0)
    assert (cleared["event"], second(cleared)) == ("cleared", 34.0)


def test_the_end_of_the_stream_lets_delays_elapse() -> None:
    table = feed(Alarm(rule="hot", high=80, on_delay="5s"), rows({"value": [20.0, 81.0]}))
    assert table["event"].to_pylist() == ["raised"]


def test_deadband_and_low_limits() -> None:
    plant = Plant(high=None, high_high=None, low=10.0, low_low=0.0, deadband=2.0)
    events = [seen(plant.read(i, v), "event", "level") for i, v in enumerate((11.0, 9.0, 11.9, -1.0, 1.9, 2.0, 12.0))]
    assert events == [
        [], [("raised", "low")], [], [("escalated", "low_low")], [], [("eased", "low")], [("cleared", "low")],
    ]  # fmt: skip


def test_missing_readings_change_nothing() -> None:
    plant = Plant()
    plant.read(1, 81.0)
    assert plant.read(2, None) == plant.read(3, float("nan")) == plant.read(4, float("inf")) == []
    assert seen(plant.read(5, 20.0)) == [("cleared", "CLEARED_UNACK", False)]


def test_a_reading_out_of_order_counts_as_if_it_came_with_the_newest() -> None:
    plant = Plant()
    plant.read(5, 20.0)
    (raised,) = plant.read(3, 81.0)
    assert second(raised) == 5


def test_rate_of_change() -> None:
    plant = Plant(high=None, high_high=None, rate_of_change=2.0)
    values = [(0, 10.0), (1, 11.0), (2, 13.5), (4, 16.0), (5, None), (6, 10.0)]
    assert [seen(plant.read(t, v), "event", "level") for t, v in values] == [
        [], [], [("raised", "rate_of_change")], [("cleared", "rate_of_change")], [], [("reraised", "rate_of_change")],
    ]  # fmt: skip


def test_score_bands_and_the_default() -> None:
    plant = Plant(high=None, high_high=None)
    assert plant.read(1, 5.0, score=74.9) == []
    assert seen(plant.read(2, 5.0, score=75.0), "event", "severity", "limit") == [("raised", "critical", 75.0)]
    plant = Plant(high=None, high_high=None, score=25.0)
    found = [seen(plant.read(t, 5.0, score=s), "event", "severity") for t, s in enumerate((25.0, 60.0, 80.0, 10.0))]
    assert found == [
        [("raised", "minor")], [("escalated", "major")], [("escalated", "critical")], [("cleared", "critical")],
    ]  # fmt: skip


def test_when_a_column_is_true() -> None:
    plant = Plant(high=None, high_high=None, when="open", priority=10)
    plant.read(1, 5.0, open=False)
    assert seen(plant.read(2, 5.0, open=True), "event", "severity") == [("raised", "warning")]


@pytest.mark.parametrize(("counting", "back"), [({"of_last": 4}, 3), ({"within": "2s"}, 2), ({"within": "4s"}, 4)])
def test_count_of_the_last_or_within_a_time(counting: dict[str, Any], back: int) -> None:
    plant = Plant(count=3, **counting)
    broken = [0, 1, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    enough = [sum(broken[max(0, i - back) : i + 1]) >= 3 for i in range(len(broken))]  # one reading a second
    for i, beyond in enumerate(broken):
        plant.read(i, 81.0 if beyond else 20.0)
    wanted = [i for i in range(1, len(broken)) if enough[i] != enough[i - 1]]
    assert [second(row) for row in plant.rows] == wanted
    assert {row["event"] for row in plant.rows} >= {"raised", "cleared"}


def test_shelved_for_a_time() -> None:
    plant = Plant()
    plant.read(1, 81.0)
    assert seen(plant.act(2, "shelve", until=10), "event", "mode", "ring") == [("shelved", "shelved", False)]
    assert seen(plant.read(3, 96.0), "event", "mode", "ring") == [("escalated", "shelved", False)]
    assert plant.wait(9) == []
    assert seen(plant.wait(10), "event", "state", "mode", "ring") == [("unshelved", "ACTIVE_UNACK", "", True)]
    assert seen(plant.act(11, "shelve", until=5), "event") == [("refused",)]
    assert seen(plant.act(12, "unshelve"), "event") == [("refused",)]


def test_shelved_once_until_it_clears() -> None:
    plant = Plant()
    plant.read(1, 81.0)
    plant.act(2, "shelve")
    assert seen(plant.read(3, 20.0), "event", "ring") == [("cleared", False), ("unshelved", False)]
    assert seen(plant.read(4, 81.0), "event", "ring") == [("reraised", True)]


def test_shelved_for_a_time_outlasts_the_alarm() -> None:
    plant = Plant()
    plant.read(1, 81.0)
    plant.act(2, "shelve", until=10)
    assert seen(plant.read(3, 20.0), "event", "mode") == [("cleared", "shelved")]
    assert seen(plant.read(4, 81.0), "event", "ring") == [("reraised", False)]


def test_unshelved_by_hand_rings_only_if_nobody_has_acknowledged() -> None:
    plant = Plant()
    plant.read(1, 81.0)
    plant.act(2, "acknowledge")
    plant.act(3, "shelve", until=100)
    assert seen(plant.act(4, "unshelve"), "event", "ring") == [("unshelved", False)]


@pytest.mark.parametrize(
    ("on", "off", "mode"),
    [("suppress", "unsuppress", "suppressed"), ("out_of_service", "in_service", "out_of_service")],
)
def test_suppressed_and_out_of_service(on: str, off: str, mode: str) -> None:
    plant = Plant()
    assert seen(plant.act(0, on, alarm="hot:pump"), "event", "mode", "state") == [
        ({"suppress": "suppressed"}.get(on, on), mode, "NORMAL")
    ]
    assert seen(plant.read(1, 81.0), "event", "mode", "ring") == [("raised", mode, False)]
    assert seen(plant.act(2, off, alarm="hot:pump"), "mode", "ring") == [("", True)]
    assert seen(plant.act(3, off, alarm="hot:pump"), "event") == [("refused",)]


def test_suppressed_by_design() -> None:
    plant = Plant(suppressed_when="idle")
    assert plant.read(1, 20.0, idle=True) == []
    assert seen(plant.read(2, 81.0, idle=True), "event", "mode", "ring") == [("raised", "suppressed", False)]
    assert seen(plant.read(3, 82.0, idle=False), "event", "mode", "ring") == [("unsuppressed", "", True)]


def test_maintenance_is_silent_and_rings_after_it() -> None:
    period = {"name": "service", "start": BEGIN, "end": BEGIN + timedelta(seconds=10)}
    plant = Plant(maintenance=[period])
    assert seen(plant.read(1, 81.0), "event", "mode", "ring") == [("raised", "maintenance", False)]
    assert seen(plant.wait(12), "event", "mode", "ring") == [("maintenance_over", "", True)]
    assert second(plant.rows[-1]) == 10


def test_a_chattering_alarm_rings_only_so_often() -> None:
    plant = Plant(chatter_max=2, chatter_within="20s")
    for i in range(8):
        plant.read(i, 81.0 if i % 2 == 0 else 20.0)
    rings = [row["ring"] for row in plant.rows if row["event"] in ("raised", "reraised")]
    assert rings == [True, True, False, False]
    assert plant.rows[-1]["mode"] == "chattering"
    (over,) = plant.wait(40)
    assert (over["event"], second(over), over["ring"]) == ("chatter_over", 26.0, False)


def test_realarm_rings_again_at_most_so_often_and_takes_back_the_acknowledgement() -> None:
    plant = Plant(realarm="10s", realarm_max=2)
    plant.read(0, 81.0)
    plant.act(5, "acknowledge")
    again = plant.wait(100)
    assert [(row["event"], row["state"], row["ring"], second(row)) for row in again] == [
        ("realarmed", "ACTIVE_UNACK", True, 15.0), ("realarmed", "ACTIVE_UNACK", True, 25.0),
    ]  # fmt: skip


def test_actions_on_other_alarms_are_left_alone() -> None:
    plant = Plant()
    plant.read(1, 81.0)
    assert plant.act(2, "acknowledge", alarm="0123456789abcdef") == []
    assert plant.act(2, "acknowledge", alarm="cold:pump") == []
    assert seen(plant.act(2, "dance"), "event") == [("refused",)]


def test_evidence_and_message() -> None:
    plant = Plant(message="{key} at {value:.1f} over {limit:g} ({severity})", score=None)
    (raised,) = plant.read(1, 81.25, expected=70.0, lower=60.0, upper=75.0, score=99.0)
    assert raised["message"] == "pump at 81.2 over 80 (major)"
    assert json.loads(raised["evidence"]) == {
        "expected": 70.0, "lower": 60.0, "score": 99.0, "upper": 75.0, "value": 81.25,
    }  # fmt: skip


def test_wrong_settings_are_refused() -> None:
    for wrong in (
        {"count": 3},
        {"count": 3, "of_last": 2},
        {"of_last": 3, "within": "3s"},
        {"message": "{pump}"},
        {"maintenance": [{"name": "x", "begins": "06:00", "ends": "07:00", "zone": "Mars/Olympus"}]},
    ):
        with pytest.raises(ValidationError):
            Alarm(**wrong)
    with pytest.raises(SchemaError, match="'score'"):
        Alarm().output_schema(rows({"value": [1.0]}).schema)


readings = st.lists(
    st.tuples(st.floats(0, 6), st.sampled_from([10.0, 79.0, 81.0, 96.0, None]), st.sampled_from("ab"), st.booleans()),
    max_size=40,
)
actions = st.sampled_from(
    [
        "acknowledge",
        "reset",
        "shelve",
        "shelve for",
        "unshelve",
        "suppress",
        "unsuppress",
        "out-of-service",
        "in-service",
    ]
)
policies = st.fixed_dictionaries(
    {
        "on_delay": st.sampled_from([0, 3_000_000]),
        "off_delay": st.sampled_from([0, 2_000_000]),
        "latching": st.booleans(),
        "realarm": st.sampled_from([None, 4_000_000]),
        "chatter_max": st.sampled_from([0, 2]),
        "deadband": st.sampled_from([0.0, 5.0]),
    }
)


@settings(max_examples=120, deadline=None)
@given(policies, readings, st.lists(st.tuples(st.integers(0, 39), actions, st.sampled_from("ab")), max_size=20))
def test_no_illegal_transition_whatever_happens(
    policy: dict[str, Any], given_readings: list[Any], given_actions: list[Any]
) -> None:
    plant, at = Plant(**policy, suppressed_when="idle"), 0.0
    for i, (dt, value, key, idle) in enumerate(given_readings):
        at += dt
        plant.read(at, value, key, idle=idle)
        for position, action, target in given_actions:
            if position == i:
                until = at + 5 if action == "shelve for" else None
                plant.act(at, action.split()[0], f"hot:{target}", until)
    plant._step(tick(rows({"value": [1.0]}).schema, END))
    states: dict[str, str] = {}
    times: dict[str, Any] = {}
    open_id: dict[str, str] = {}
    for row in plant.rows:
        key = row["key"]
        assert row["previous"] == states.get(key, "NORMAL")
        if row["state"] != row["previous"] or row["event"] in {name for _, name, _ in ALLOWED}:
            assert (row["previous"], row["event"], row["state"]) in ALLOWED
        if row["event"] == "raised":
            assert row["id"] not in open_id.values()
            open_id[key] = row["id"]
        if row["state"] not in ("NORMAL", "CLEARED_ACK"):
            assert row["id"] == open_id[key]
        assert not (row["ring"] and row["mode"])
        assert row["time"] >= times.get(key, BEGIN)
        states[key], times[key] = row["state"], row["time"]


@settings(max_examples=80, deadline=None)
@given(policies, readings, st.lists(st.integers(0, 7), max_size=12))
def test_chopping_and_reloading_change_nothing(
    policy: dict[str, Any], given_readings: list[Any], chop: list[int]
) -> None:
    alarm = Alarm(rule="hot", high=80, high_high=95, suppressed_when="idle", **policy)
    at, times = 0.0, []
    for dt, *_ in given_readings:
        at += dt
        times.append(at - (1.5 if dt > 4 else 0))  # some come out of order
    batch = rows(
        {
            "key": [key for _, _, key, _ in given_readings],
            "time": pa.array(as_times(_us(times))),
            "value": pa.array([v for _, v, _, _ in given_readings], pa.float64()),
            "idle": pa.array([idle for *_, idle in given_readings], pa.bool_()),
        }
    )
    whole, pieces = feed(alarm, batch).to_pylist(), feed(alarm, batch, chop=chop or 1).to_pylist()
    for key in "ab":
        assert [r for r in whole if r["key"] == key] == [r for r in pieces if r["key"] == key]
    state, left = alarm.initial(), []
    for part in stream(batch, chop or 1):
        state, out = alarm.step(alarm.load(alarm.dump(state)), part)
        left += [row for b in out for row in b.rows.to_pylist()]
    assert left == pieces


def _us(seconds: list[float]) -> Any:
    return BEGIN_US + np.round(np.asarray(seconds, float) * 1e6).astype(np.int64)


def test_an_alarm_on_a_score_names_the_column_that_the_detector_judges() -> None:
    count = 400
    hot = [60.0 + 0.1 * (i % 7) for i in range(count)]
    hot[-1] = 75.0
    wide = rows({"t_bearing": [75.0 + 0.1 * (i % 5) for i in range(count)], "t_out": hot})
    judged = feed(Ewma(of="t_out", learn=50), wide).combine_chunks().to_batches()[0]
    settings = {"rule": "odd", "unit": "°C", "advice": "Look at the cooler."}
    told = feed(Alarm(**settings, message="{signal} is {value:.0f} {unit}"), judged).to_pylist()[-1]
    assert (told["signal"], told["value"], told["unit"], told["advice"]) == ("t_out", 75.0, "°C", "Look at the cooler.")
    assert 59 < told["expected"] < 62
    assert told["message"] == "t_out is 75 °C"


def test_an_alarm_names_the_signal_of_the_row_or_the_column_of_its_limit() -> None:
    long = rows({"signal": ["speed", "speed"], "value": [1.0, 9.0]})
    assert [r["signal"] for r in feed(Alarm(high=5), long).to_pylist()] == ["speed"]
    wide = rows({"t_out": [1.0, 9.0, 1.0], "dirty": [False, False, True]})
    assert [r["signal"] for r in feed(Alarm(of="t_out", high=5), wide).to_pylist()] == ["t_out", "t_out"]
    assert [r["signal"] for r in feed(Alarm(when="dirty"), wide).to_pylist()] == ["dirty"]


def test_of_several_judged_columns_the_row_has_the_value_of_the_one_that_is_named() -> None:
    judged = rows(
        {"t_in": [20.0] * 3, "t_out": [60.0, 80.0, 60.0], "score": [0.0, 90.0, 0.0], "signal": [None, "t_out", None]}
    )
    raised, cleared = feed(Alarm(rule="r", of="t_in", score=75), judged).to_pylist()
    assert (raised["signal"], raised["value"], json.loads(raised["evidence"])["t_out"]) == ("t_out", 80.0, 80.0)
    assert (cleared["event"], cleared["signal"], cleared["value"]) == ("cleared", "t_out", 60.0)


def test_state_from_before_alarms_named_their_signal_is_read() -> None:
    alarm = Alarm(rule="hot", high=80)
    state, _ = alarm.step(alarm.initial(), next(iter(stream(rows({"value": [81.0]})))))
    table = alarm.dump(state)
    points = [json.loads(text) for text in table["point"].to_pylist()]
    for point in points:
        del point["signal"], point["column"]
    at = table.schema.get_field_index("point")
    older = table.set_column(at, "point", pa.array([json.dumps(point) for point in points]))
    _, out = alarm.step(alarm.load(older), Batch(rows({"value": [20.0]}, every_s=60), END))
    (cleared,) = out[-1].rows.to_pylist()
    assert (cleared["event"], cleared["value"]) == ("cleared", 20.0)
