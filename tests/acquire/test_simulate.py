"""Source `simulate`: the same plant however it is read, and faults that show where they should."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import ValidationError

from tocsin.acquire._plant import CHUNK, SCARA_TAGS
from tocsin.acquire.simulate import SCHEMA, WAVEFORMS, Fault, Simulate, write_scara_xml
from tocsin.batch import END, times_us
from tocsin.testing import read_from

START = "2026-01-01T00:00:00Z"


def plant(**settings: object) -> Simulate:
    return Simulate.model_validate({"rate": 0, "start": START, "duration": "40m", **settings})


def everything(source: Simulate, rows_max: int = 10**6, offset: object = None) -> pa.Table:
    reader = read_from(source, offset)
    batches, last = [], -1
    while True:
        batch, _ = reader.poll(rows_max, 0)
        assert batch.schema == SCHEMA
        if len(batch):
            assert times_us(batch.rows)[0] >= last
            last = batch.watermark_us
            assert times_us(batch.rows)[-1] < last
        batches.append(batch.rows)
        if batch.watermark_us == END:
            return pa.Table.from_batches(batches).unify_dictionaries()


def signal(table: pa.Table, name: str, machine: str = "") -> np.ndarray:
    mask = pc.equal(table["signal"], name)
    if machine:
        mask = pc.and_(mask, pc.equal(table["key"].cast(pa.string()), machine))
    return table.filter(mask)["value"].to_numpy()


def one(kind: str, *faults: Fault, **settings: object) -> pa.Table:
    return everything(plant(machines={kind: kind}, faults=faults, stops_per_day=0, duration="5m", **settings))


def test_chopping_and_seeking_change_nothing() -> None:
    source = plant(stops_per_day=100, faults=(Fault(name="stuck_sensor", machine="motor", start="1000s"),))
    whole = everything(source)
    assert whole.num_rows == 2400 * (4 + 6 + 4 + 29)
    assert everything(source, rows_max=700).equals(whole)
    reader = read_from(source)
    head = []
    while reader.tick < CHUNK + 100:
        batch, offset = reader.poll(43 * 77, 0)
        head.append(batch.rows)
    tail = everything(source, offset=offset)
    assert pa.concat_tables([pa.Table.from_batches(head), tail]).unify_dictionaries().equals(whole)
    assert not everything(source.model_copy(update={"seed": 2})).equals(whole)


def test_what_a_machine_does_is_its_own() -> None:
    both = everything(plant(machines={"p": "pump", "m": "motor"}))
    alone = everything(plant(machines={"p": "pump"}))
    mine = both.filter(pc.equal(both["key"].cast(pa.string()), "p"))
    assert mine.drop(["key"]).equals(alone.drop(["key"]))


def test_the_state_is_the_truth() -> None:
    stop = Fault(name="stop", machine="motor", start="60s", duration="30s")
    table = one("motor", stop)
    states = table.filter(pc.equal(table["signal"], "speed"))["state"].to_pylist()
    assert states == ["running"] * 60 + ["stopped"] * 30 + ["running"] * 210
    speed = signal(table, "speed")
    assert abs(speed[60:90]).max() < 10 < 1400 < speed[:60].min()
    temperature = signal(table, "temperature")
    assert temperature[88] < temperature[60] - 1
    by_chance = set(everything(plant(machines={"motor": "motor"}, stops_per_day=144))["state"].to_pylist())
    assert "stopped" in by_chance


@pytest.mark.parametrize(
    ("fault", "machine", "shows", "factor"),
    [
        ("bearing_wear", "motor", "vibration.rms", 3),
        ("bearing_wear", "motor", "vibration.kurtosis", 1.8),
        ("blocked_valve", "pump", "flow", 0.5),
        ("blocked_valve", "pump", "pressure", 1.15),
        ("leak", "pump", "flow", 0.8),
        ("leak", "compressor", "pressure", 0.93),
        ("blocked_valve", "compressor", "temperature", 1.2),
        ("bearing_wear", "scara", "::[scararobot]Ax_J1.PositionError", None),
    ],
)
def test_a_fault_shows_within_a_minute_and_goes_with_its_end(
    fault: str, machine: str, shows: str, factor: float | None
) -> None:
    values = signal(one(machine, Fault(name=fault, machine=machine, start="60s", duration="60s")), shows)
    sound = signal(one(machine), shows)
    assert np.array_equal(values[:60], sound[:60])
    if factor is None:
        assert abs(values[80:120]).max() > 3 * abs(sound).max()
    else:
        ratio = values[95:120].mean() / sound[95:120].mean()
        assert ratio > factor if factor > 1 else ratio < factor
    assert values[290:].mean() == pytest.approx(sound[290:].mean(), rel=0.15, abs=0.2)


def waveforms(rows_max: int = 10**6, offset: object = None, **settings: object) -> pa.Table:
    motors = {"a": "motor", "b": "motor"}
    source = plant(machines=motors, waveforms={"samples": 512}, stops_per_day=0, **{"duration": "30s", **settings})
    assert source.output_schema() == WAVEFORMS
    reader, batches, mark = read_from(source, offset), [], 0
    while mark != END:
        batch, _ = reader.poll(rows_max, 0)
        batches.append(batch.rows)
        mark = batch.watermark_us
    return pa.Table.from_batches(batches, WAVEFORMS).unify_dictionaries()


def test_motors_send_the_same_waveforms_however_they_are_read() -> None:
    whole = waveforms()
    assert whole.num_rows == 2 * 30
    assert waveforms(rows_max=7).equals(whole)
    assert waveforms(offset={"tick": 20, "start_us": times_us(whole.to_batches()[0])[0]}).equals(whole.slice(40))
    waves = np.array(whole["waveform"].to_pylist())
    assert waves.shape == (60, 512)
    assert len(np.unique(waves[:, 0])) == 60, "no waveform is that of another motor or another time"
    assert set(whole["state"].to_pylist()) == {"running"}
    assert 1400 < min(whole["speed"].to_pylist()) <= max(whole["speed"].to_pylist()) < 1500


def test_waveforms_show_faults_stops_and_dropouts() -> None:
    fault = Fault(name="outer_race", machine="a", start="10s", growth="1s")
    stop = Fault(name="stop", machine="b", start="10s", duration="5s")
    silent = Fault(name="dropout", machine="b", start="20s")
    table = waveforms(faults=(fault, stop, silent))
    shaken = {key: [] for key in "ab"}
    for row in table.to_pylist():
        shaken[row["key"]].append((np.std(row["waveform"]), row["speed"], row["state"]))
    a, b = shaken["a"], shaken["b"]
    assert min(level for level, *_ in a[10:]) > 3 * max(level for level, *_ in a[:10])
    assert len(b) == 20
    assert {state for *_, state in b[10:15]} == {"stopped"}
    assert max(level for level, *_ in b[10:15]) < min(level for level, *_ in b[:10])


def test_only_motors_send_waveforms() -> None:
    with pytest.raises(ValidationError, match="make 'p' a motor"):
        plant(machines={"m": "motor", "p": "pump"}, waveforms={})


def test_a_stuck_sensor_and_a_dropout_are_faults_of_the_sensor_only() -> None:
    table = one("pump", Fault(name="stuck_sensor", machine="pump", start="50s", duration="20s", signal="flow"))
    sound = one("pump")
    flow = signal(table, "flow")
    assert np.unique(flow[50:70]).tolist() == [flow[50]]
    assert np.array_equal(signal(table, "pressure"), signal(sound, "pressure"))
    out = one("pump", Fault(name="dropout", machine="pump", start="50s", duration="20s"))
    assert out.num_rows == sound.num_rows - 4 * 20
    assert len(signal(out, "flow")) == 280


def test_the_sum_of_the_robot_s_tags_stays_in_its_limits_but_for_a_blockage() -> None:
    def totals(*faults: Fault) -> np.ndarray:
        table = one("scara", *faults)
        return table.group_by("time", use_threads=False).aggregate([("value", "sum")])["value_sum"].to_numpy()

    sound = totals()
    assert -200 < sound.min() < sound.max() < 450
    assert totals(Fault(name="blocked_valve", machine="scara", start="60s")).max() > 450


def test_it_keeps_real_time_and_goes_on_where_it_was() -> None:
    source = Simulate.model_validate({"machines": {"p": "pump"}, "every": "20ms"})
    reader = read_from(source)
    got, begin = [], time.time()
    while len(got) < 5 and time.time() < begin + 30:
        if polled := reader.poll(4, 1.0):
            got.append(polled)
    times = [times_us(batch.rows)[0] for batch, _ in got]
    assert np.diff(times).tolist() == [20_000] * 4
    assert times[-1] <= time.time_ns() // 1_000
    again = read_from(source, got[2][1]).poll(4, 1.0)
    assert again is not None
    assert again[0].rows.equals(got[3][0].rows)
    assert Simulate(rate="10x").rate == 10
    slow = plant(rate=1, every="1h")
    assert len(read_from(slow).poll(1000, 0.01)[0]) == 43


def test_a_fault_needs_a_machine() -> None:
    with pytest.raises(ValidationError, match="did you mean 'pump'"):
        Simulate(faults=(Fault(name="stop", machine="pumb", start="1s"),))


def test_the_robot_s_files(tmp_path: Path) -> None:
    assert write_scara_xml(tmp_path / "robot", seconds=3, seed=5) == 3
    paths = sorted((tmp_path / "robot").iterdir())
    assert [p.name for p in paths] == [f"scara_{i:08d}.xml" for i in range(3)]
    root = ElementTree.parse(paths[1]).getroot()
    rows = [{field.tag: field.text for field in row} for row in root]
    assert [row["TagName"] for row in rows] == list(SCARA_TAGS)
    assert len(rows) == 29
    assert {row["Status"] for row in rows} == {"Good"}
    assert len({row["TimeStamp"] for row in rows}) == 1
    assert all(float(row["TagValue"]) < 1000 for row in rows)
