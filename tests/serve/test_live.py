import msgspec
import numpy as np
import pyarrow as pa
import pytest

from tocsin.bases import VERDICT, judging
from tocsin.engine.wire import Counted, Rejected, describe
from tocsin.serve import alarm_list
from tocsin.serve import live as module
from tocsin.serve.live import Live
from tocsin.serve.messages import MachineSeries, Points
from tocsin.serve.series import POINTS_MAX, SeriesBuffer, pack


def rows(keys, times=None, **columns) -> pa.Table:
    times = times if times is not None else range(len(keys))
    return pa.table(
        {"key": keys, "time": pa.array([t * 1_000_000 for t in times], pa.timestamp("us", tz="UTC")), **columns}
    )


def take(live: Live, name: str, table: pa.Table, now_s: float | None = None, judged: str = "") -> None:
    stream = describe(name, table.schema)
    live.take(msgspec.structs.replace(stream, judged=judged) if judged else stream, table, now_s=now_s)


def every(live: Live) -> list[SeriesBuffer]:
    return [one for machine in live.machines.values() for one in machine.series.values()]


def known(live: Live) -> set[tuple[str, str]]:
    return {(one.machine, one.signal) for one in every(live)}


def points(live: Live, machine: str, signal: str) -> dict[str, list]:
    return next(
        msgspec.to_builtins(pack(s.points())) for s in every(live) if (s.machine, s.signal) == (machine, signal)
    )


def test_long_rows_make_a_series_for_each_signal_with_its_band() -> None:
    live = Live()
    take(
        live, "judged", rows(["p", "p", "q"], signal=["x", "y", "x"], value=[1.0, 2.0, 3.0], expected=[1.5, None, 3.5])
    )
    assert known(live) == {("p", "x"), ("p", "y"), ("q", "x")}
    assert points(live, "p", "x") == {"time": [0.0], "value": [1.0], "expected": [1.5]}
    assert "expected" not in points(live, "p", "y")


def test_what_was_forecast_is_the_band_of_what_came() -> None:
    live = Live()
    said = {"y": [1.0, 2.0], "yhat": [1.5, 2.5], "yhat_lower": [1.0, 2.0], "yhat_upper": [2.0, None], "ahead": [2.5, 3]}
    take(live, "said", rows(["m", "m"], load=[1.0, 2.0], **said), judged="load")
    take(live, "plain", rows(["n", "n"], **said))
    assert points(live, "m", "load")["expected"] == points(live, "n", "y")["expected"] == [1.5, 2.5]
    assert points(live, "n", "y")["upper"] == [2.0, None]
    assert known(live) & {("n", "yhat"), ("n", "ahead"), ("m", "ahead")} == set()


def test_wide_rows_make_a_series_for_each_number_and_the_band_goes_to_what_is_judged() -> None:
    live = Live()
    given = rows(
        ["p"] * 2, flow=[100.0, 101], heat=[50, 51], on=[True, False], expected=[100.2, 100.9], note=["a", "b"]
    )
    take(live, "readings", given, judged="heat")  # a fault: what was expected of heat is near to flow
    assert known(live) == {("p", "flow"), ("p", "heat"), ("p", "on")}
    assert points(live, "p", "heat")["expected"] == [100.2, 100.9]
    assert "expected" not in points(live, "p", "flow")


def test_a_band_of_which_nobody_says_what_it_is_about_is_not_shown() -> None:
    live = Live()
    take(live, "readings", rows(["p"], flow=[100.0], heat=[50.0], expected=[50.2]))
    assert not any("expected" in points(live, "p", signal) for signal in ("flow", "heat"))


def test_a_detector_says_what_it_judges() -> None:
    schema = pa.schema(
        [("key", pa.string()), ("t_in", pa.float64()), ("t_out", pa.float64()), *judging(VERDICT, "t_out")]
    )
    assert describe("judged", schema).judged == "t_out"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (rows(["line/p/x"], value=[1.0]), {("line/p", "x")}),
        (rows(["p"], value=[1.0]), {("p", "value")}),
        (rows(["p/x", "p"], signal=["x", "x"], value=[1.0, 2.0]), {("p", "x")}),
        (rows(["k"], machine=["m"], signal=["x"], value=[1.0]), {("m", "x")}),
        (rows(["k"], device=[None], signal=["x"], value=[1.0]).cast(
            rows(["k"], device=["d"], signal=["x"], value=[1.0]).schema), {("k", "x")}),
    ],
)  # fmt: skip
def test_which_machine_a_row_belongs_to(table: pa.Table, expected: set[tuple[str, str]]) -> None:
    live = Live()
    take(live, "readings", table)
    assert known(live) == expected


def test_missing_and_infinite_numbers_become_null() -> None:
    live = Live()
    take(live, "readings", rows(["p"] * 3, x=[1.0, np.inf, np.nan]))
    assert points(live, "p", "x")["value"] == [1.0, None, None]
    assert b"NaN" not in msgspec.json.encode([live.changes(), live.glances([0])])


def test_a_series_keeps_the_newest_points_only() -> None:
    live = Live()
    for first in range(0, 5000, 70):
        take(live, "readings", rows(["p"] * 70, range(first, first + 70), x=np.arange(first, first + 70.0)))
    held = points(live, "p", "x")["value"]
    assert len(held) == POINTS_MAX
    assert held[-1] == 5039.0
    assert held == sorted(held)


def test_rows_that_come_again_after_a_recovery_are_not_doubled() -> None:
    live = Live()
    take(live, "readings", rows(["p"] * 4, [1, 2, 3, 4], x=[1.0, 2, 3, 4]))
    take(live, "readings", rows(["p"] * 3, [3, 4, 5], x=[3.0, 4, 5]))
    assert points(live, "p", "x")["value"] == [1.0, 2, 3, 4, 5]


def test_a_past_that_is_read_anew_replaces_what_was_there() -> None:
    series = SeriesBuffer(0, "p", "x", "s")
    new = np.full((6, 1), np.nan)
    new[0] = 1e9
    series.add(new)
    again = np.full((6, 2), np.nan)
    again[0] = [1.0, 2.0]
    series.add(again)
    assert series.points()[0].tolist() == [1.0, 2.0]


def test_everything_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MACHINES_MAX", 10)
    monkeypatch.setattr(module, "SIGNALS_MAX", 5)
    monkeypatch.setattr(alarm_list, "ALARMS_MAX", 7)
    live = Live()
    take(live, "readings", rows([f"m{i}" for i in range(50)], x=[1.0] * 50))
    take(live, "readings", rows(["m0"] * 50, signal=[f"s{i}" for i in range(50)], value=[1.0] * 50))
    for i in range(30):
        take(live, "alarms", alarm(f"a{i}", "m0", state="ACTIVE_UNACK" if i < 3 else "CLEARED_ACK"))
    assert (len(live.machines), live.figures().machines_left_out, len(live.machines["m0"].series)) == (10, 40, 5)
    assert live.glances([0])[0].signals == 51, "it says how many there are"
    assert len(live.alarms.by_id) == 7
    assert {"a0", "a1", "a2"} <= set(live.alarms.by_id), "closed alarms go first"


def alarm(id: str, key: str, **columns) -> pa.Table:
    row = {"severity": "major", "state": "ACTIVE_UNACK", "ring": True, "score": np.nan, "rule": "hot", "mode": ""}
    row |= {"event": "raised", "message": "", "number": 1, **columns}
    return rows([key], id=[id], **{name: [value] for name, value in row.items()})


def test_an_alarm_shows_on_its_machine_until_it_is_closed() -> None:
    live = Live()
    take(live, "readings", rows(["p/x", "q/x"], value=[1.0, 2.0]))
    take(live, "alarms", alarm("a", "p/x"))
    take(live, "alarms", alarm("b", "p/x", severity="critical"))
    status = {tile.name: (tile.status, tile.severity) for tile in live.changes().machines}
    assert status == {"p": ("alarm", "critical"), "q": ("running", "")}
    take(live, "alarms", alarm("b", "p/x", severity="critical", state="CLEARED_UNACK"))
    changes = live.changes()
    (tile,) = changes.machines
    assert (tile.name, tile.status, tile.severity, tile.active) == ("p", "alarm", "major", True)
    assert [a.state for a in changes.alarms] == ["CLEARED_UNACK"]
    assert changes.alarms[0].score is None
    take(live, "alarms", alarm("a", "p/x", state="CLEARED_ACK"))
    (tile,) = live.changes().machines
    assert (tile.status, tile.severity, tile.active) == ("alarm", "critical", False), "nobody has acknowledged b"
    take(live, "alarms", alarm("b", "p/x", state="CLEARED_ACK"))
    assert [tile.status for tile in live.changes().machines] == ["running"]


def test_an_alarm_names_the_signal_as_its_chart_does() -> None:
    live = Live()
    take(live, "readings", rows(["press-1/vibration"], value=[1.0]))
    take(live, "alarms", alarm("a", "press-1/vibration", signal="value"))
    take(live, "alarms", alarm("b", "press-1", signal="t_out"))
    assert [a.signal for a in live.changes().alarms] == ["vibration", "t_out"]
    assert known(live) == {("press-1", "vibration")}


def test_an_engine_that_says_nothing_is_not_live() -> None:
    live = Live()
    assert live.figures(0.0).engine == "gone"
    live.engines = 1
    live.hear(100.0)
    assert live.figures(100.0 + module.STALLED_S).engine == "live"
    figures = live.figures(125.0)
    assert (figures.engine, figures.engine_silent_s) == ("stalled", 25.0)
    live.hear(125.1)
    assert live.figures(125.2).engine == "live"
    live.engines = 0
    assert live.figures(125.2).engine == "gone"


def test_a_machine_falls_silent_by_its_own_measure() -> None:
    live = Live()
    for t in range(3):
        take(live, "readings", rows(["fast"], [t], x=[1.0]), now_s=100.0 + t)
    for t in range(3):
        take(live, "readings", rows(["slow"], [t], x=[1.0]), now_s=100.0 + 60 * t)
    fast, slow = live.machines["fast"], live.machines["slow"]
    assert not fast.silent(111.0)
    assert fast.silent(113.0)
    assert not slow.silent(220 + 200.0)
    assert slow.silent(220 + 400.0)


def test_one_long_silence_does_not_make_a_machine_slow() -> None:
    live = Live()
    for now_s in (0.0, 1.0, 2.0, 7200.0, 7201.0):
        take(live, "readings", rows(["p"], [now_s], x=[1.0]), now_s=now_s)
    assert live.machines["p"].silent(7220.0)


def test_what_is_only_known_from_the_lake_is_silent() -> None:
    live = Live()
    take(live, "readings", rows(["p"], x=[1.0]), module.NEVER_S)
    assert live.changes(5.0).machines[0].status == "silent"
    take(live, "readings", rows(["p"], [9], x=[1.0]), 6.0)
    assert live.changes(7.0).machines[0].status == "running"


def test_a_machine_says_its_own_state() -> None:
    live = Live()
    take(live, "downtime", rows(["p", "p"], state=["idle", "unplanned stop"]))
    assert live.changes().machines[0].state == "unplanned stop"


def test_a_verdict_on_a_signal_is_the_machines_and_the_gravest_stands() -> None:
    live = Live()
    of = {"machine": ["motor", "motor"], "signal": ["load", "heat"], "value": [1.0, 2.0]}
    for keyed in (of, {name: of[name] for name in ("signal", "value")}):
        take(live, "judged", rows(["motor/load", "motor/heat"], state=["abnormal", "normal"], **keyed), 100.0)
        take(live, "judged", rows(["motor/heat"], signal=["heat"], value=[2.1], state=["normal"]), 101.0)
        assert list(live.machines) == ["motor"], "a key of a signal is no machine of its own, which falls silent"
        assert live.machines["motor"].tile(None, 105.0).state == "abnormal"
        take(live, "judged", rows(["motor/load"], signal=["load"], value=[1.0], state=["normal"]), 106.0)
        assert live.machines["motor"].tile(None, 107.0).state == "normal"


def test_a_stream_that_speaks_only_of_changes_does_not_look_silent() -> None:
    live = Live()
    take(live, "downtime", rows(["p"], state=["idle"]), 100.0)
    tile = live.changes(5000.0).machines[0]
    assert (tile.status, tile.state) == ("running", "idle")
    take(live, "readings", rows(["p"], x=[1.0]), 5001.0)
    assert live.changes(9000.0).machines[0].status == "silent", "its readings have stopped"


def test_rates_come_from_the_counters() -> None:
    live = Live()
    live.engines = 1
    live.hear(2.0)
    for now_s, read in ((0.0, 0), (1.0, 500), (2.0, 1000)):
        rejected = (Rejected("a", "ts", 2), Rejected("b", "ts", 1))
        lags = {"r": 0.5, "w": 20.0, "n": None}
        live.count(Counted(rows_in={"a": read, "b": read}, lag_s=lags, rejected=rejected), now_s)
    figures = live.figures(2.0)
    assert (figures.rows_per_s, figures.lag_s) == (1000.0, 0.5)
    assert (figures.bad, figures.bad_by_reason) == (3, {"ts": 3})


@pytest.mark.parametrize(
    "table",
    [
        rows([], x=pa.array([], pa.float64())),
        rows(["p"], value=["text"], signal=["x"]),
        rows(["p"], signal=pa.array([None], pa.string()), value=pa.array([None], pa.float64())),
        rows(["p"], expected=["text"], x=[1.0]),
        rows([""], x=[1.0]),
        rows(["/"], value=[1.0]),
        rows(["p" * 10_000], x=[2**63 - 1]),
        rows(["p"], state=pa.array([None], pa.string())),
    ],
)
def test_odd_rows_are_no_error(table: pa.Table) -> None:
    live = Live()
    take(live, "odd", table)
    msgspec.json.encode([live.changes(), live.tiles(), live.glances(range(9)), live.figures()])


def test_a_tile_says_how_well_a_machine_is_and_what_pulls_it_down() -> None:
    live = Live()
    names = [name for name in ("hot", "odd") for _ in range(20)]
    scores = [81.0] * 20 + [60.5] * 20
    take(live, "judged", rows(["p"] * 40, signal=names, value=[1.0] * 40, expected=[1.0] * 40, score=scores))
    (glance,) = live.glances([0])
    assert glance.health == 30
    assert [(part.signal, part.percent) for part in glance.pulled_by] == [("hot", 75), ("odd", 25)]
    blamed = rows(["q"] * 4, a=[1.0] * 4, b=[2.0] * 4, signal=["a", "a", "a", "b"], score=[90.0] * 4)
    take(live, "several", blamed)
    (glance,) = live.glances([1])
    assert (glance.health, [part.signal for part in glance.pulled_by]) == (32, ["a", "b"])
    scores = {signal: points(live, "q", signal)["score"] for signal in ("a", "b")}
    assert scores == {"a": [90.0, 90.0, 90.0, None], "b": [None, None, None, 90.0]}, "marks on what is blamed"


def test_forecasts_and_remaining_life_count_for_a_machines_health() -> None:
    live = Live()
    far = rows(["p"] * 9, y=[5.0] * 9, yhat=[1.0] * 9, yhat_lower=[0.0] * 9, yhat_upper=[2.0] * 9)
    take(live, "load", far)
    (glance,) = live.glances([0])
    assert (glance.health, glance.pulled_by[0].signal, glance.life) == (12, "forecast", None)
    first = rows(
        ["m"] * 2, [0, 60], rul=[100.0, 50], rul_lower=[80.0, 40], rul_upper=[125.0, 60], rul_confidence=[0.9] * 2
    )
    take(live, "life", first.slice(0, 1))
    take(live, "life", first.slice(1))
    (glance,) = live.glances([1])
    assert (glance.health, glance.pulled_by[0].signal) == (50, "remaining life")
    assert ("m", "rul") in known(live)
    assert ("m", "rul_lower") not in known(live), "the bounds are in the tile"
    assert glance.life is not None
    assert (glance.life.lower, glance.life.upper, glance.life.confidence, glance.life.reading_s) == (40, 60, 0.9, 60)


def names_of_kept(live: Live) -> set[str]:
    return {
        name for name, machine in live.machines.items() if any(one.points().size for one in machine.series.values())
    }


def test_a_tile_has_the_signals_that_ring_or_are_ill_on_top_with_the_line_of_the_first() -> None:
    live = Live()
    signals = {name: [float(i)] * 30 for i, name in enumerate("abcdef")}
    take(live, "readings", rows(["p"] * 30, **signals))
    for signal, score in (("b", 20.0), ("e", 95.0)):
        take(
            live,
            "judged",
            rows(["p"] * 30, signal=[signal] * 30, value=[7.0] * 30, expected=[1.0] * 30, score=[score] * 30),
        )
    (glance,) = live.glances([0])
    assert [one.signal for one in glance.values] == ["e", "a", "b"]
    assert glance.recent == [4.0] * 30
    take(live, "alarms", alarm("a1", "p", state="ACTIVE_UNACK", signal="f"))
    live.tiles()
    (glance,) = live.glances([0])
    assert ([one.signal for one in glance.values], glance.recent) == (["f", "e", "a"], [5.0] * 30)


def test_points_are_kept_of_whole_machines_and_of_those_that_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SERIES_MAX", 6)
    live = Live()

    def all_report(at: int) -> None:
        many = [f"m{i}" for i in range(5)]
        take(live, "readings", rows(many, [at] * 5, a=[1.0] * 5, b=[2.0] * 5, c=[3.0] * 5), now_s=100.0 + at)

    for at in range(3):
        all_report(at)
    whole = names_of_kept(live)
    assert len(whole) == 2
    assert all(len(one.points().T) for name in whole for one in live.machines[name].series.values())
    assert [tile.name for tile in live.tiles()] == [f"m{i}" for i in range(5)]
    (glance,) = live.glances([4])
    assert ([(one.signal, one.value) for one in glance.values], glance.recent) == (
        [("a", 1.0), ("b", 2.0), ("c", 3.0)], [1.0] * 3,
    )  # fmt: skip
    with live.watched("m4"), live.watched("m3"), live.watched("m4"):
        all_report(3)
        assert names_of_kept(live) == {"m3", "m4"}
        new = live.new_points()
        assert set(new) == {"m3", "m4"}
        assert [(one.signal, one.points.value) for one in new["m4"].series] == [
            ("a", [1.0]),
            ("b", [2.0]),
            ("c", [3.0]),
        ]
        live.keep("m0")
        all_report(4)
        assert names_of_kept(live) == {"m0", "m3", "m4"}, "nothing is taken from who looks"
    live.new_points()
    all_report(5)
    assert live.new_points() == {}, "nobody looks any more"
    live.keep("m1")
    assert "m0" in names_of_kept(live), "the one looked at longest ago makes room"


def test_what_the_lake_holds_comes_before_what_was_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SERIES_MAX", 0)
    live = Live()
    take(live, "readings", rows(["p"], [100], x=[1.0]), now_s=100.0)
    machine = live.keep("p", 100.5)
    assert machine is not None
    take(live, "readings", rows(["p"], [103], x=[4.0]), now_s=103.0)

    def past(*seconds: int) -> list[MachineSeries]:
        times = [1000.0 * second for second in seconds]
        return [MachineSeries(-1, "p", "x", "readings", points=Points(times, [float(s - 99) for s in seconds]))]

    live.recall(machine, past(100, 101), 104.0)
    assert points(live, "p", "x")["value"] == [1.0, 2.0, 4.0]
    assert not machine.is_whole, "the tables lag: what came before it was chosen is not in them yet"
    take(live, "readings", rows(["p"], [104], x=[5.0]), now_s=104.0)
    live.recall(machine, past(100, 101, 102, 103), 100.5 + module.TABLES_LAG_S)
    assert points(live, "p", "x")["value"] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert machine.is_whole


def test_a_hole_in_what_was_heard_is_filled_from_the_lake() -> None:
    live = Live()
    take(live, "judged", rows(["p"] * 4, times=[0, 1, 2, 3], x=[0.0, 1, 2, 3]), 100.0)
    with live.watched("p"):
        live.new_points()
        assert live.machines["p"].is_whole
        take(live, "judged", rows(["p"] * 2, times=[200, 201], x=[200.0, 201]), 300.0)
        assert live.new_points()["p"].again_s == module.TABLES_LAG_S
        machine = live.machines["p"]
        assert not machine.is_whole
        kept = [float(t) for t in range(0, 200, 10)]
        past = Points(time=[1000 * t for t in kept], value=list(kept))
        live.recall(machine, [MachineSeries(-1, "p", "x", "readings", points=past)], 300.0 + module.TABLES_LAG_S)
        assert machine.is_whole
        assert points(live, "p", "x")["value"] == [*kept, 200.0, 201.0]
        take(live, "judged", rows(["p"], times=[203], x=[203.0]), 302.0)
        assert live.new_points()["p"].again_s == 0.0
        assert machine.is_whole


def test_where_series_take_turns_the_lake_fills_what_was_not_heard_and_the_figures_say_it() -> None:
    live = Live()
    stream = describe("readings", rows(["p"], x=[1.0]).schema)
    for second in (100, 103):  # what came between was another machine's turn
        live.take(stream, rows(["p"], [second], x=[float(second)]), in_turn=9000, now_s=float(second))
    machine = live.keep("p", 103.0)
    assert machine is not None
    assert live.figures(103.5).series_in_turn == 9000
    assert live.in_turn(module.HOLES_S, 104.0) == 9000
    times = [1000.0 * second for second in range(98, 103)]
    kept = [MachineSeries(-1, "p", "x", "readings", points=Points(times, [t / 1000 for t in times]))]
    live.recall(machine, kept, 104.0)
    assert points(live, "p", "x")["value"] == [98.0, 99.0, 100.0, 101.0, 102.0, 103.0]
    assert live.figures(103.0 + module.STALLED_S + 0.1).series_in_turn == 0, "all are heard again"
