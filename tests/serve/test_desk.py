"""Alarms for people, over a table on disk; key figures against counts by hand; payloads for other systems."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from written_actions import ActionLog

from tocsin.batch import ACTIONS, START, Batch
from tocsin.domain.alarm_kpis import kpis
from tocsin.engine.audit import Actor, done, write_down
from tocsin.errors import ConfigError, UnknownName
from tocsin.notify.alarm import Alarm, AlarmState
from tocsin.output._cloudevents import alertmanager, cloudevent, event_id
from tocsin.output.delta import Delta
from tocsin.serve import desk as alarms
from tocsin.serve.accounts import Accounts
from tocsin.serve.evidence import alarms_as_csv
from tocsin.serve.live import Live
from tocsin.serve.past import newest
from tocsin.testing import feed, rows, stream, world


def some_alarms(values: list[float], every_s: float = 10.0, **settings: Any) -> pa.Table:
    return feed(Alarm(rule="hot", high=80, **{"chatter_max": 0, **settings}), rows({"value": values}, every_s=every_s))


def kept(folder: Path, table: pa.Table) -> Path:
    writer = Delta(path="alarms").open(world(folder, "test"), table.schema)
    writer.publish(1, [writer.stage(1, table.to_batches())])
    writer.close()
    return folder


def test_list_shows_open_alarms_with_their_newest_row(tmp_path: Path) -> None:
    folder = kept(tmp_path, pa.concat_tables([some_alarms([81.0, 20.0]), some_alarms([20.0])]))
    listed = alarms.list_alarms(folder)
    assert listed.select(["key", "event", "state"]).to_pylist() == [
        {"key": "machine", "event": "cleared", "state": "CLEARED_UNACK"}
    ]
    with pytest.raises(UnknownName, match="alarm table"):
        alarms.list_alarms(folder, table="alarm")


def test_a_table_from_before_alarms_named_their_signal_goes_on(tmp_path: Path) -> None:
    before = some_alarms([81.0]).drop_columns(["signal", "expected", "unit", "advice"])
    folder = kept(tmp_path, before)
    assert alarms.list_alarms(folder)["signal"].to_pylist() == [None]
    writer = Delta(path="alarms").open(world(folder, "test"), some_alarms([1.0]).schema)
    writer.publish(2, [writer.stage(2, some_alarms([81.0, 20.0]).slice(1).to_batches())])
    writer.close()
    (listed,) = alarms.list_alarms(folder).to_pylist()
    assert (listed["event"], listed["signal"]) == ("cleared", "value")


def test_act_reaches_the_alarm_through_the_log_of_actions(tmp_path: Path) -> None:
    alarm = Alarm(rule="hot", high=80)
    state, out = alarm.step(alarm.initial(), next(iter(_stream([81.0]))))
    id = out[-1].rows["id"][0].as_py()
    until = datetime.now(UTC) + timedelta(hours=1)
    alarms.act(tmp_path, id, "ack", "ann", "seen")
    alarms.act(tmp_path, "hot:machine", "shelve", "bob", "known", until)
    log = ActionLog(tmp_path, 0)
    done = log.poll()
    log.close()
    assert done is not None
    state, out = alarm.step(state, Batch(done, START, ACTIONS))
    assert [(r["event"], r["by"], r["reason"]) for r in out[-1].rows.to_pylist()] == [
        ("acknowledged", "ann", "seen"),
        ("shelved", "bob", "known"),
    ]


def _stream(values: list[float]) -> Any:
    return stream(rows({"value": values}))


def test_wrong_actions_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'shelve'"):
        alarms.act(tmp_path, "a", "shelf", "ann")
    with pytest.raises(ConfigError, match="who"):
        alarms.act(tmp_path, "a", "ack", " ")
    with pytest.raises(ConfigError, match="which alarm"):
        alarms.act(tmp_path, "", "ack", "ann")
    with pytest.raises(ConfigError, match="is over"):
        alarms.act(tmp_path, "a", "shelve", "ann", "", datetime(2020, 1, 1, tzinfo=UTC))


def test_key_figures_of_a_chattering_alarm() -> None:
    found = kpis(some_alarms([81.0, 20.0] * 3))
    assert (found["raised"], found["rung"], found["open"], found["chattering"]) == (3, 3, 0, ["hot:machine"])
    assert found["by_severity"] == {"critical": 0, "major": 3, "minor": 0, "warning": 0}
    assert found["most_frequent"] == [{"alarm": "hot:machine", "raised": 3}]
    assert found["per_ten_minutes_max"] == 3
    assert kpis(some_alarms([81.0, 20.0] * 3, every_s=21.0))["chattering"] == []


def test_key_figures_of_a_stale_alarm() -> None:
    table = some_alarms([81.0])
    day = 86_400_000_000
    begin = table["time"].cast(pa.int64())[0].as_py()
    assert kpis(table, begin + day)["stale"] == ["hot:machine"]
    assert kpis(table, begin + day - 1)["stale"] == []


def test_key_figures_of_floods_against_a_count_by_hand() -> None:
    # 11 alarms within ten minutes are a flood; after an hour of one every five minutes it is over; then another.
    times = [*np.arange(11) * 50.0, *(3600 + np.arange(6) * 300.0), *(7200 + np.arange(12) * 20.0)]
    values = [v for _ in times for v in (81.0, 20.0)]
    table = feed(
        Alarm(rule="hot", high=80, chatter_max=0),
        rows({"value": values, "time": [t + d for t in times for d in (0, 1)]}),
    )
    found = kpis(table)
    assert found["floods"] == 2
    assert found["raised"] == len(times)
    assert found["per_ten_minutes_max"] == 12


def test_a_flood_is_over_as_soon_as_fewer_than_five_alarms_are_left() -> None:
    for pause, floods in ((400.0, 2), (399.0, 1)):  # 4 or 5 of the first 11 are left when the next one comes
        times = [*np.arange(11) * 50.0, *(500 + pause + np.arange(11) * 3.0)]
        given = [t - d for t in times for d in (0.0, -1.0)]
        values = [81.0, 20.0] * len(times)
        table = feed(Alarm(rule="hot", high=80, chatter_max=0), rows({"value": values, "time": given}))
        assert kpis(table)["floods"] == floods, pause


def test_alarms_that_were_kept_silent_count_apart() -> None:
    found = kpis(some_alarms([81.0, 20.0] * 6, chatter_max=2))
    assert (found["raised"], found["rung"], found["silent"]) == (6, 2, 4)


def test_cloudevent_is_the_same_for_the_same_row() -> None:
    row = some_alarms([81.0]).to_pylist()[0]
    first, again = json.loads(cloudevent(row)), json.loads(cloudevent(dict(row)))
    assert first == again
    assert {"specversion", "id", "source", "type"} <= first.keys()
    assert first["type"] == "io.tocsin.alarm.raised.v1"
    assert first["data"]["evidence"] == {"value": 81.0}
    assert event_id(row) != event_id({**row, "event": "cleared"})
    assert b"NaN" not in cloudevent({**row, "value": float("nan")})


def test_alertmanager_keeps_the_labels_until_it_is_resolved() -> None:
    raised, worse, cleared = (
        json.loads(alertmanager(row))[0] for row in some_alarms([81.0, 96.0, 20.0], high_high=95).to_pylist()
    )
    assert raised["labels"] == worse["labels"] == cleared["labels"]
    assert raised["startsAt"] == cleared["startsAt"] == "2026-01-01T00:00:00.000000Z"
    assert "endsAt" not in raised
    assert "endsAt" not in worse
    assert cleared["endsAt"] == "2026-01-01T00:00:20.000000Z"
    assert worse["annotations"]["severity"] == "critical"


def test_an_alarm_is_given_only_to_people_there_are(tmp_path: Path) -> None:
    alarms.act(tmp_path, "hot:machine", "assign", "ann", assignee="whoever")  # nobody has to sign in here
    Accounts(tmp_path).add("bob", "operator", "a long password")
    write_down(tmp_path, Actor("eve@plant", "operator", "page"), "signed_in", "10.0.0.7")  # by a provider
    write_down(tmp_path, Actor("grafana", "viewer", "token"), "signed_in", "10.0.0.8")
    assert alarms.people(tmp_path) == ["bob", "eve@plant"]
    alarms.act(tmp_path, "hot:machine", "assign", "ann", assignee="bob")
    with pytest.raises(UnknownName, match="did you mean 'bob'"):
        alarms.act(tmp_path, "hot:machine", "assign", "ann", assignee="bop")
    with pytest.raises(ConfigError, match="whom"):
        alarms.act(tmp_path, "hot:machine", "assign", "ann")
    given = done(tmp_path, "assign")
    assert [json.loads(row.details)["assignee"] for row in given] == ["bob", "whoever"]


def _applied(alarm: Alarm, state: AlarmState, state_folder: Path, lake: Path) -> None:
    """What people have done reaches the alarm, and its rows the table, as a second epoch."""
    log = ActionLog(state_folder, 0)
    done = log.poll()
    log.close()
    assert done is not None
    _, out = alarm.step(state, Batch(done, START, ACTIONS))
    writer = Delta(path="alarms").open(world(lake, "test"), out[-1].rows.schema)
    writer.publish(2, [writer.stage(2, [out[-1].rows])])
    writer.close()


def test_what_was_said_and_whose_it_is_is_listed_and_known_after_the_page_has_started_anew(tmp_path: Path) -> None:
    alarm = Alarm(rule="hot", high=80, chatter_max=0)
    state, out = alarm.step(alarm.initial(), next(iter(_stream([81.0]))))
    folder = kept(tmp_path, pa.Table.from_batches([one.rows for one in out if len(one)]))
    alarms.act(tmp_path, "hot:machine", "assign", "ann", "knows it", assignee="bob")
    alarms.act(tmp_path, alarms.check_known(folder, "hot:machine", "comment"), "comment", "bob", "=bearing ordered")
    _applied(alarm, state, tmp_path, folder)
    (listed,) = alarms.list_alarms(folder).to_pylist()
    assert {name: listed[name] for name in ("event", "by", "assignee", "comment")} == {
        "event": "assigned", "by": "ann", "assignee": "bob", "comment": "bob: =bearing ordered",
    }  # fmt: skip
    (row,) = csv.DictReader(io.StringIO(alarms_as_csv(folder).decode()))
    assert (row["assignee"], row["comment"]) == ("bob", "bob: =bearing ordered")
    live = Live()
    for stream_of, table in newest(folder):
        live.take(stream_of, table)
    (shown,) = live.alarms.by_id.values()
    assert (shown.assignee, shown.comment, shown.event) == ("bob", "bob: =bearing ordered", "assigned")


def test_a_label_is_known_again_after_the_page_has_started_anew(tmp_path: Path) -> None:
    alarm = Alarm(rule="hot", high=80, chatter_max=0)
    state, out = alarm.step(alarm.initial(), next(iter(_stream([81.0, 20.0, 81.0]))))
    rows = [one.rows for one in out if len(one)]
    id = rows[0]["id"][0].as_py()
    folder = kept(tmp_path, pa.Table.from_batches(rows))
    name = alarms.check_known(folder, "hot:machine", "label_true")
    assert name == f"hot:machine#{id}"
    alarms.act(tmp_path, name, "label_true", "ann", "seen the crack")
    with pytest.raises(ConfigError, match="rule:key#id"):
        alarms.act(tmp_path, "hot:machine", "label_true", "ann")
    _applied(alarm, state, tmp_path, folder)
    live = Live()
    for stream_of, table in newest(folder):
        live.take(stream_of, table)
    shown = live.alarms.by_id[id]
    assert (shown.label, shown.state, shown.by, shown.reason) == ("true", "ACTIVE_UNACK", "ann", "seen the crack")
