"""Alarms judged by labels: against counts by hand."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tocsin.batch import END
from tocsin.domain.alarm_kpis import kpis
from tocsin.domain.labels import HOUR_US, Occurrence, judge, labels_by_id, occurrences
from tocsin.notify.alarm import Alarm
from tocsin.testing import feed, rows


def occurrence(name: str, begin_h: float, end_h: float, label: str = "", key: str = "pump") -> Occurrence:
    begin, end = int(begin_h * HOUR_US), END if end_h == END else int(end_h * HOUR_US)
    return Occurrence(name, "hot", key, begin, begin, end, "major", "", label)


def test_alarms_are_judged_by_labels_of_the_same_time_and_key() -> None:
    labelled = [
        occurrence("a", 10, 14, "true"),
        occurrence("b", 20, 21, "false"),
        occurrence("c", 30, 31, "true"),
        occurrence("d", 10, 14, "false", key="fan"),
    ]
    rung = [
        occurrence("1", 8, 11),  # right, 6 hours before a is over
        occurrence("2", 12, 13),  # right, of the same one
        occurrence("3", 20.5, 40),  # at the time of a false and of a true one: right, 10.5 hours ahead
        occurrence("4", 20, 20.5),  # wrong
        occurrence("5", 50, 51),  # nobody has said anything
        occurrence("6", 10, 11, key="motor"),
    ]
    judged = judge(rung, labelled, days=2)
    assert (judged.right, judged.wrong, judged.unlabelled) == (3, 1, 2)
    assert (judged.precision, judged.recall) == (0.75, 1.0)
    assert judged.warning_h == pytest.approx((6 + 10.5) / 2)
    assert judged.false_per_day == 0.5
    nothing = judge([], labelled, days=2)
    assert (nothing.precision, nothing.recall, nothing.warning_h) == (None, 0.0, None)


def alarm_rows(**changed: Any) -> pa.Table:
    """Raised at 10 s, cleared at 20 s; raised at 30 s, and still active."""
    return feed(Alarm(rule="hot", high=80, **changed), rows({"value": [1.0, 81.0, 1.0, 82.0]}, every_s=10.0))


def labelled(table: pa.Table, id: str, event: str) -> pa.Table:
    row = table.slice(0, 1).to_pylist()[0] | {"id": id, "event": event, "ring": False, "number": 1000 + table.num_rows}
    return pa.concat_tables([table, pa.Table.from_pylist([row], schema=table.schema)])


def test_occurrences_have_their_time_and_their_last_label() -> None:
    table = alarm_rows(chatter_max=1)
    before = kpis(table)
    first = table["id"][0].as_py()
    table = labelled(labelled(table, first, "labelled_true"), first, "labelled_false")
    one, two = occurrences(table)
    assert labels_by_id(table) == {one.id: "false"}
    assert (one.label, two.label) == ("false", "false"), "nobody has acknowledged it between: the id is the same"
    assert (one.until - one.raised, two.until) == (10_000_000, END)
    assert (one.rang, two.rang) == (True, False), "the second is chattering"
    assert kpis(table) == before, "a label is no event of the alarm system"
