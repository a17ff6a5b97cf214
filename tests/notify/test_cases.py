"""Cases: what came first in event time, one ring a case, floods, and when a case is over."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pyarrow as pa
import pytest

from tocsin.batch import Batch, tick, to_batch
from tocsin.domain.alarm_rows import ALARM_SCHEMA
from tocsin.notify.alarm import Alarm
from tocsin.notify.cases import Cases
from tocsin.testing import BEGIN_US, checks, feed, rows


def alarm_row(second: float, key: str, event: str = "raised", **more: Any) -> dict[str, Any]:
    state = {"raised": "ACTIVE_UNACK", "cleared": "CLEARED_ACK"}[event]
    at = BEGIN_US + int(second * 1e6)
    return {
        "key": key, "time": at, "id": f"{key}!", "case": "", "rule": "hot", "version": 1, "priority": 60,
        "severity": "major", "state": state, "previous": "", "mode": "", "event": event, "ring": event == "raised",
        "level": "high", "signal": "value", "value": 1.0, "expected": None, "limit": None, "unit": "", "score": None,
        "started": at, "message": key, "advice": "", "by": "",
        "reason": "", "assignee": "", "evidence": "{}", "number": 1, **more,
    }  # fmt: skip


def passed(settings: dict[str, Any], *given: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = feed(Cases(**settings), to_batch(given, ALARM_SCHEMA), chop=1).to_pylist()
    return found


def test_the_first_out_is_first_in_event_time_not_in_arrival() -> None:
    found = passed(
        {"depth": 2}, alarm_row(5, "hall/press/motor"), alarm_row(3, "hall/press/pump"),
        alarm_row(9, "hall/press/motor", "cleared"),
    )  # fmt: skip
    assert [r["key"] for r in found if r["first_out"]] == ["hall/press/pump"]
    assert {r["asset"] for r in found} == {"hall/press"}
    assert len({r["case"] for r in found}) == 1


def test_rows_that_waited_when_alarms_were_nobodys_yet_go_on() -> None:
    cases = Cases()
    state, _ = cases.step(cases.initial(), Batch(to_batch([alarm_row(1, "pump")], ALARM_SCHEMA), BEGIN_US))
    saved = cases.dump(state)
    before = [text.replace(', "assignee": ""', "") for text in saved["case"].to_pylist()]
    assert before != saved["case"].to_pylist()
    kept = saved.set_column(saved.schema.get_field_index("case"), "case", pa.array(before))
    _, out = cases.step(cases.load(kept), tick(ALARM_SCHEMA, BEGIN_US + 2_000_000))
    assert [row["assignee"] for row in out[0].rows.to_pylist() if row["event"] == "raised"] == [""]


def test_a_case_rings_once_and_again_only_if_it_gets_worse() -> None:
    found = passed(
        {"depth": 1},
        alarm_row(1, "a/x"), alarm_row(2, "a/y"), alarm_row(3, "a/z", priority=90), alarm_row(4, "b/x"),
    )  # fmt: skip
    assert [(r["event"], r["asset"]) for r in found if r["ring"]] == [
        ("case_opened", "a"), ("case_worse", "a"), ("case_opened", "b"),
    ]  # fmt: skip


def test_a_case_closes_after_quiet_with_all_its_evidence() -> None:
    found = passed(
        {"depth": 1, "quiet": "10s"},
        alarm_row(1, "a/x"), alarm_row(2, "a/y"), alarm_row(3, "a/x", "cleared"), alarm_row(4, "a/y", "cleared"),
        alarm_row(9, "a/y", id="again"), alarm_row(10, "a/y", "cleared", id="again"), alarm_row(30, "a/x"),
    )  # fmt: skip
    closed, *_ = (r for r in found if r["event"] == "case_closed")
    assert closed["time"].second == 20
    assert [m["id"] for m in json.loads(closed["evidence"])["alarms"]] == ["a/x!", "a/y!", "again"]
    assert len({r["case"] for r in found}) == 2


def test_in_a_flood_only_critical_alarms_ring() -> None:
    settings = {"depth": 1, "flood_max": 3, "flood_within": "60s"}
    given = []
    for i in range(6):  # each alarm is a case of its own: without the flood every one would ring
        given += [alarm_row(2 * i, f"a/{i}", priority=80 if i == 5 else 60), alarm_row(2 * i + 1, f"a/{i}", "cleared")]
    found = passed(settings, *given)
    assert [r["event"] for r in found if r["ring"]] == [
        "case_opened", "case_opened", "case_opened", "flood_begins", "case_opened",
    ]  # fmt: skip
    assert [r["time"].minute for r in found if r["event"] == "flood_over"] == [1]
    assert {r["mode"] for r in found if r["event"] == "raised"} == {"", "flood"}


def test_alarms_flow_into_cases_and_silent_ones_open_none() -> None:
    readings = rows({"key": ["a/x", "a/y"], "value": [81.0, 81.0], "idle": [True, True]})
    silent = feed(Alarm(rule="hot", high=80, suppressed_when="idle"), readings).combine_chunks().to_batches()[0]
    found = feed(Cases(depth=1), silent)
    assert found["event"].to_pylist() == ["raised", "raised"]
    assert not any(found["ring"].to_pylist())
    assert isinstance(found, pa.Table)


class Mistaken(Cases):
    """Would be split by key, although the keys of an asset share a case."""

    def shard(self, keys: pa.Array) -> pa.Array:
        return keys


@pytest.mark.parametrize("check", [checks.keys_do_not_touch_each_other, checks.state_can_be_split_by_key])
def test_the_kit_sees_a_case_that_is_split_by_the_wrong_key(check: checks.Check) -> None:
    for cls, fails in ((Cases, False), (Mistaken, True)):
        (part,) = (part for part in checks.examples(cls) if part.model_dump()["depth"])
        assert isinstance(part, Cases)
        with pytest.raises(AssertionError, match="shard") if fails else nullcontext():
            check(part, checks.sample(cls))


def test_a_shard_is_the_asset() -> None:
    assert Cases(depth=1).shard(pa.array(["a/pump", "a/fan", "b"])).to_pylist() == ["a", "a", "b"]
