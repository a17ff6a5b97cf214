"""The settings that all detectors share: side, least deviation, and the state in which a machine is judged at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tocsin.bases import VERDICT, Detector
from tocsin.contracts import Operator
from tocsin.detect.multivariate import Multivariate
from tocsin.errors import SchemaError
from tocsin.pipeline.registry import find, names
from tocsin.testing import feed, rows

FAULT_AT, COUNT = 1000, 1300


def _detectors() -> list[Any]:
    found = []
    for name, module in names("operator").items():
        if module.startswith("tocsin.detect.") and name not in (
            "job",
            "downtime",
        ):  # large, and no detectors of this kind
            cls = find("operator", name)
            if issubclass(cls, Detector):
                found.append(pytest.param(cls, id=name))
    return found


DETECTORS = _detectors()
OF_DEVIATIONS = [param for param in DETECTORS if param.values[0].FAULT != "stuck"]  # type: ignore[attr-defined]


def series(cls: type[Detector], sign: int = 1) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Noise of deviation 1 around 50, and from reading 1,000 on the fault that the detector is for, some 10 large."""
    values = np.random.default_rng(11).normal(0, 1, COUNT)
    match cls.FAULT:
        case "spike":
            values[FAULT_AT : FAULT_AT + 3] += sign * 10
        case "shift":
            values[FAULT_AT:] += sign * 10
        case "drift":
            values[FAULT_AT:] += sign * np.linspace(0, 20, COUNT - FAULT_AT)
        case "stuck":
            values[FAULT_AT:] = values[FAULT_AT]
    return values + 50


def highest(cls: type[Detector], values: Any, **settings: Any) -> float:
    """The highest score in the 200 readings from the fault on (a shift may then become usual)."""
    found = feed(cls(**settings), rows({"value": values}), chop=100)["score"].fill_null(0).to_numpy()
    return float(found[FAULT_AT : FAULT_AT + 200].max())


def test_there_are_detectors() -> None:
    assert len(DETECTORS) >= 9


@pytest.mark.parametrize("cls", OF_DEVIATIONS)
@pytest.mark.parametrize(("direction", "sign"), [("above", 1), ("below", -1)])
def test_direction(cls: type[Detector], direction: str, sign: int) -> None:
    assert highest(cls, series(cls, sign), direction=direction) >= 75
    assert highest(cls, series(cls, sign)) >= 75
    values = series(cls, -sign)
    if cls.FAULT == "shift":
        values = values[: FAULT_AT + 25]  # what comes after may be judged by the new level
    assert highest(cls, values, direction=direction) < 75, "the other side is not abnormal"


@pytest.mark.parametrize("cls", OF_DEVIATIONS)
def test_least_deviation(cls: type[Detector]) -> None:
    values = series(cls)
    for few, many in (("deviation_min", 40.0), ("deviation_min_percent", 80.0)):
        assert highest(cls, values, **{few: many / 20}) >= 75
        assert highest(cls, values, **{few: many}) < 75


@pytest.mark.parametrize("cls", OF_DEVIATIONS)
def test_percent_is_of_the_size_of_what_is_expected(cls: type[Detector]) -> None:
    values = series(cls, -1) - 100  # around -50: percent of 50
    assert highest(cls, values, deviation_min_percent=4) >= 75
    assert highest(cls, values, deviation_min_percent=80) < 75


@pytest.mark.parametrize("cls", DETECTORS)
def test_outside_its_state_a_machine_is_neither_judged_nor_learnt(cls: type[Detector]) -> None:
    """A stream with idle times, whose readings lie elsewhere, gets the verdicts of the stream without them."""
    values, at = series(cls), np.arange(COUNT, dtype=float)
    idle = np.sort(np.random.default_rng(12).choice(COUNT, 300, replace=False))
    running = np.insert(np.ones(COUNT, bool), idle, False).tolist()
    running[running.index(False)] = None  # not known: not judged
    mixed = rows(
        {
            "value": np.insert(values, idle, np.linspace(-900, 900, 300)),
            "time": np.insert(at, idle, at[idle] - 0.5),
            "running": pa.array(running, pa.bool_()),
        }
    )
    alone = feed(cls(), rows({"value": values, "time": at}), chop=100)
    found = feed(cls(when="running"), mixed, chop=100)
    on = found.filter(found["running"].fill_null(False))
    off = found.filter(pa.array([not r for r in running]))
    for name in (field.name for field in (*VERDICT, *cls.EXTRA)):
        assert on[name].to_pylist() == alone[name].to_pylist(), name
        assert off[name].null_count == 300, name


@pytest.mark.parametrize("cls", DETECTORS)
def test_settings_name_columns_that_must_be_there(cls: type[Detector]) -> None:
    schema = rows({"value": [1.0]}).schema
    for settings in ({"of": "load"}, {"when": "running"}):
        with pytest.raises(SchemaError, match=next(iter(settings.values()))):
            cls(**settings).output_schema(schema)


def test_several_signals_are_judged_in_their_state_too() -> None:
    rng = np.random.default_rng(13)
    a, b = rng.normal(size=(2, 900))
    idle = np.arange(50, 850, 4)
    running = np.insert(np.ones(900, bool), idle, False)
    mixed = rows({"a": np.insert(a, idle, 99.0), "b": np.insert(b, idle, -99.0), "running": running})
    detector: Operator = Multivariate(of=("a", "b"), when="running")
    found = feed(detector, mixed, chop=100)
    alone = feed(Multivariate(of=("a", "b")), rows({"a": a, "b": b}), chop=100)
    assert found.filter(pa.array(running))["score"].to_pylist() == alone["score"].to_pylist()
    assert found.filter(pa.array(~running))["score"].null_count == len(idle)
