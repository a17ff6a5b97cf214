"""What `tocsin demo` says of its plant, in simulated time: the worn bearing is red from its onset until the repair,
and the sensor that hangs while it does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tocsin.acquire.simulate import Plant, Simulate
from tocsin.batch import END, Batch
from tocsin.cli.demo import example
from tocsin.pipeline.plan import Plan
from tocsin.pipeline.yamlfile import load_with_plan
from tocsin.testing import BEGIN_US, read_from

START = datetime.fromisoformat("2026-01-01T08:00:00+00:00")
WORN, REPAIRED = timedelta(minutes=4, seconds=30), timedelta(minutes=14, seconds=30)
HANGS = timedelta(minutes=11)
"""The compressor's sensor of temperature, for 90 s."""


@pytest.fixture
def plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, Plan]:
    """The demo, and the plant that it watches."""
    monkeypatch.setenv("TOCSIN_DEMO_FOLDER", str(tmp_path / "demo"))
    monkeypatch.setenv("TOCSIN_PLANT_FOLDER", str(tmp_path / "plant"))
    return load_with_plan(example("demo.yaml"))[1], load_with_plan(example("plant.yaml"))[1]


def plant_of(plan: Plan) -> Simulate:
    source = plan.sources[0].source
    assert isinstance(source, Simulate)
    return source


def through(plan: Plan, plant: Simulate, *ids: str) -> pa.Table:
    """The plant's readings through some of the demo's steps."""
    nodes = {step.id: step.operator for step in plan.steps}
    operators = [nodes[id] for id in ids]
    states = [operator.initial() for operator in operators]
    reader, out, ended = read_from(plant), [], False
    while not ended:
        batch, _ = reader.poll(10**6, 0)
        ended = batch.watermark_us == END
        batches = [Batch(batch.rows.drop_columns(["state"]), batch.watermark_us)]
        for i, operator in enumerate(operators):
            passed = []
            for one in batches:
                states[i], left = operator.step(states[i], one)
                passed += left
            batches = passed
        out += [one.rows for one in batches]
    return pa.Table.from_batches(out).unify_dictionaries()


def test_a_worn_bearing_is_red_until_it_is_repaired_and_nothing_else_for_long(plans: tuple[Plan, Plan]) -> None:
    demo, plan = plans
    plant = plant_of(plan).model_copy(update={"rate": 0.0, "start": START, "duration": 45 * 60_000_000})
    judged = through(demo, plant, "series.0.rekey", "judged.0.health")
    key, red = judged["key"].cast(pa.string()), pc.greater_equal(pc.fill_null(judged["score"], 0.0), 75)
    for signal in ("rms", "kurtosis", "bpfo"):
        own = judged.filter(pc.equal(key, f"motor/vibration.{signal}"))
        red_at = [
            t - START for t, s in zip(own["time"].to_pylist(), own["score"].to_pylist(), strict=True) if (s or 0) >= 75
        ]
        assert WORN <= red_at[0] < WORN + timedelta(seconds=5), f"{signal} is first red after {red_at[0]}"
        assert REPAIRED <= red_at[-1] < REPAIRED + timedelta(seconds=10), f"{signal} is last red after {red_at[-1]}"
        lasted = (REPAIRED - WORN) / timedelta(milliseconds=250)
        assert len(red_at) > 0.98 * lasted, f"{signal} is red for {len(red_at)} of {lasted:.0f} readings"
    concerned = {name.partition("/")[0] for name in key.filter(red).to_pylist()}
    assert concerned == {"compressor", "motor", "pump"}
    stuck = judged.filter(pc.and_(red, pc.equal(key, "compressor/temperature")))["time"].to_pylist()
    assert HANGS < stuck[0] - START < HANGS + timedelta(seconds=10)
    assert stuck[-1] - START < HANGS + timedelta(seconds=91)
    assert len(stuck) == sum(name.startswith("compressor/") for name in key.filter(red).to_pylist())


def test_the_alarm_of_the_bearing_clears_with_its_repair(plans: tuple[Plan, Plan]) -> None:
    demo, plan = plans
    plant = plant_of(plan).model_copy(update={"rate": 0.0, "start": START, "duration": 20 * 60_000_000})
    alarms = through(demo, plant, "series.0.rekey", "judged.0.health", "alarms.0.alarm").to_pylist()
    own = [(row["event"], row["time"] - START) for row in alarms if row["key"] == "motor/vibration.rms"]
    assert [event for event, _ in own] == ["raised", "cleared"]
    assert own[0][1] < WORN + timedelta(seconds=10)
    assert own[1][1] > REPAIRED


class Standing:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.at_us = BEGIN_US

    def now_us(self) -> int:
        return self.at_us

    def monotonic_s(self) -> float:
        return self.at_us / 1e6

    def sleep(self, seconds: float) -> None:
        self.at_us += round(seconds * 1e6)


def all_there_is(reader: Plant) -> tuple[pa.Table, object]:
    """What the plant has ready, and where it then is."""
    batches, offset = [], None
    while (polled := reader.poll(10**5, 0)) is not None:
        batches.append(polled[0].rows)
        offset = polled[1]
    return pa.Table.from_batches(batches).unify_dictionaries(), offset


def test_a_plant_that_is_started_again_goes_on_from_where_it_stood(plans: tuple[Plan, Plan]) -> None:
    plant, clock = plant_of(plans[1]), Standing()
    first = Plant(plant, None, clock)
    past, _ = all_there_is(first)
    clock.sleep(60.0)  # half a minute into the wear
    worn, offset = all_there_is(first)
    clock.sleep(86_400.0)
    later, _ = all_there_is(Plant(plant, offset, clock))
    assert len(past) > 240 * 4 * 40
    assert len(later) <= 2 * 43, "what it did not do is not made up"
    assert later["time"][0].as_py() - worn["time"][-1].as_py() > timedelta(days=1) - timedelta(seconds=1)
    rms = [
        pc.mean(table.filter(pc.equal(table["signal"], "vibration.rms"))["value"]).as_py()
        for table in (past, worn.slice(len(worn) - 430), later)
    ]
    assert rms[1] > 2 * rms[0]
    assert abs(rms[2] - rms[1]) < 0.2 * rms[1], "the bearing is as worn as it was"


def test_the_bearing_rings_when_the_demo_is_started_a_second_time(plans: tuple[Plan, Plan]) -> None:
    """The first life ends before the wear begins; a day later plant and pipeline go on from where they stood."""
    demo, clock = plans[0], Standing()
    steps = {step.id: step.operator for step in demo.steps}
    operators = [steps[id] for id in ("series.0.rekey", "judged.0.health", "alarms.0.alarm")]
    states = [operator.initial() for operator in operators]
    plant, offset, rung = plant_of(plans[1]), None, list[dict[str, Any]]()
    for life_s in (20.0, 11 * 60.0):
        reader = Plant(plant, offset, clock)
        clock.sleep(life_s)
        begun_us = clock.now_us() - round(life_s * 1e6)
        table, offset = all_there_is(reader)
        for part in table.combine_chunks().drop_columns(["state"]).to_batches(max_chunksize=20_000):
            batches = [Batch(part, pc.max(part["time"]).cast(pa.int64()).as_py())]
            for i, operator in enumerate(operators):
                passed = list[Batch]()
                for batch in batches:
                    states[i], left = operator.step(states[i], batch)
                    passed += left
                batches = passed
            rung += [row for batch in batches for row in batch.rows.to_pylist()]
        clock.sleep(86_400.0)
    own = [(row["event"], row["time"]) for row in rung if row["key"] == "motor/vibration.rms"]
    assert [event for event, _ in own] == ["raised", "cleared"]
    second = datetime.fromtimestamp(begun_us / 1e6, UTC)
    assert timedelta(0) < own[0][1] - second < timedelta(seconds=20), "10 s into the second life the wear begins"
    assert timedelta(minutes=10) < own[1][1] - second < timedelta(minutes=10, seconds=60)
