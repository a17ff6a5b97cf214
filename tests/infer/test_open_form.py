"""Fields of live JSON that appear after the look: signals by themselves, but for what was concluded to be none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tocsin.batch import NEW, OUT
from tocsin.cli.sources import _as_batch
from tocsin.infer.conclude import Conclusion, Hints, conclude
from tocsin.infer.sample import Piece, Sample
from tocsin.infer.writing import pipeline_file
from tocsin.pipeline.plan import Plan
from tocsin.pipeline.yamlfile import load_with_plan

WIDE = {"seq": 4, "temperature": 21.5, "rssi": -60, "product": "a", "signal": "good"}


def of(*records: Mapping[str, Any], hints: Hints | None = None, is_files: bool = False) -> Conclusion:
    pieces = [
        Piece(f"plant/pump-{n % 2}/data", json.dumps({"cycles": n, **record}).encode())
        for n, record in enumerate(records)
    ]
    return conclude(Sample(pieces, is_files), hints)


@pytest.fixture
def planned(tmp_path: Path) -> Callable[[Conclusion], Plan]:
    def plan_of(made: Conclusion) -> Plan:
        file = tmp_path / "watch.yaml"
        file.write_text(
            pipeline_file(made, "watch", {"mqtt": {"url": "mqtt://127.0.0.1", "topic": "#"}}, folder=str(tmp_path))
        )
        return load_with_plan(file)[1]

    return plan_of


def rows_of(plan: Plan, record: Mapping[str, Any], port: str = OUT) -> list[dict[str, Any]]:
    """What the source of a plan makes of one message, behind key and time."""
    flowing, left = [_as_batch(Sample([Piece("plant/pump-1/data", json.dumps(record).encode())]))], []
    for operator in plan.sources[0].chain:
        made = [out for one in flowing for out in operator.step(operator.initial(), one)[1]]
        left += [one for one in made if one.port != OUT]
        flowing = [one for one in made if one.port == OUT]
    return [row for one in (*flowing, *left) if one.port == port for row in one.rows.to_pylist()]


def test_a_field_that_appears_later_is_a_signal_and_what_was_none_stays_none(
    planned: Callable[[Conclusion], Plan],
) -> None:
    made = of(*[{**WIDE, "temperature": 21 + n / 10} for n in range(6)])
    assert (made.is_open, made.signals.names) == (True, ("temperature",))
    assert set(made.signals.left_out) == {"seq", "rssi", "cycles"}
    later = {**WIDE, "cycles": 99, "snr": 7, "motor": {"load": 63}, "on": True}
    rows = rows_of(planned(made), later)
    assert [(row["key"], row["signal"], row["value"], row["product"]) for row in rows] == [
        ("pump-1", "temperature", 21.5, "a"), ("pump-1", "motor.load", 63.0, "a"),
    ]  # fmt: skip
    told = rows_of(planned(made), later, NEW)
    assert [(row["signal"], row["number"]) for row in told] == [("temperature", 1), ("motor.load", 2)]


def test_only_what_was_not_in_the_sample_is_told_on_the_console(planned: Callable[[Conclusion], Plan]) -> None:
    plan = planned(of(*[{**WIDE, "temperature": 21 + n / 10} for n in range(6)]))
    (keep,) = [step.operator for step in plan.steps if "signal not in" in str(step.operator)]
    assert "'temperature'" in str(keep)
    assert {"signals", "later"} <= {sink.id.partition(".")[0] for sink in plan.sinks}


@pytest.mark.parametrize(
    ("more", "hints", "is_files"),
    [
        ({}, Hints(signals=("temperature",)), False),  # a person has named them
        ({}, None, True),  # files are read at once, by columns
        ({"axes": [1.5, 2.5]}, None, False),  # a field in a list is found by its path alone
        ({"humidity": "48.5"}, None, False),  # as is one with numbers in quotes
    ],
)
def test_other_forms_have_the_columns_that_were_seen(
    planned: Callable[[Conclusion], Plan], more: Mapping[str, Any], hints: Hints | None, is_files: bool
) -> None:
    made = of(*[{**WIDE, **more, "temperature": 21 + n / 10} for n in range(6)], hints=hints, is_files=is_files)
    assert not made.is_open
    assert "signal" not in planned(made).sources[0].schemas["out"].names
