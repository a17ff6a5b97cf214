"""An alarm's signal before and after it began, with the band that it should have stayed in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tocsin.engine.embedded import EmbeddedRunner
from tocsin.lake.read import query
from tocsin.pipeline.model import Pipeline
from tocsin.serve.evidence import evidence

BEGIN = datetime(2026, 5, 4, 6, tzinfo=UTC)
MINUTES, BROKEN = 300, 200


def told(
    folder: Path, judged: dict[str, Any], rekey: str = "", every: timedelta = timedelta(minutes=1)
) -> dict[str, Any]:
    """What is known of the alarm of a bearing that is 20 K hotter from the 200th minute (or reading) on."""
    celsius = np.random.default_rng(3).normal(60, 1, MINUTES) + 20 * (np.arange(MINUTES) >= BROKEN)
    lines = [
        {"machine": "m", "signal": "bearing", "ts": (BEGIN + i * every).isoformat(), "celsius": round(c, 3)}
        for i, c in enumerate(celsius)
    ]
    (folder / "in.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = {"machine": "category", "signal": "category", "ts": "timestamp", "celsius": "float"}
    if not rekey:
        del columns["signal"]
    pipeline = Pipeline.model_validate(
        {
            "name": "plant",
            "folder": str(folder / "data"),
            "source": {"files": {"path": str(folder / "in.ndjson")}},
            "decode": {"json": {"columns": columns}},
            "key": "machine",
            "time": "ts",
            "streams": {
                "readings": {"sinks": [{"delta": "readings"}]},
                "judged": {
                    "from": "readings",
                    "steps": [*([{"rekey": rekey}] if rekey else []), {"health": {"of": "celsius", "learn": 100}}],
                    **judged,
                },
                "alarms": {
                    "from": "judged",
                    "steps": [{"alarm": {"rule": "abnormal", "of": "celsius", "score": 75}}],
                    "sinks": [{"delta": "alarms"}],
                },
            },
        }
    )
    EmbeddedRunner(pipeline.plan()).run()
    (alarm,) = query("SELECT id FROM alarms WHERE event = 'raised'", folder / "data").to_pylist()
    onset = evidence(folder / "data", folder / "data" / ".state", alarm["id"])["onset"]
    assert isinstance(onset, dict)
    return onset


@pytest.mark.parametrize("rekey", ["", "{key}/{signal}"])
def test_where_judged_rows_are_kept_the_band_is_that_of_each_moment(tmp_path: Path, rekey: str) -> None:
    onset = told(tmp_path, {"sinks": [{"delta": "judged"}]}, rekey)
    assert onset["signal"] == "celsius"
    times = np.array(onset["band"]["time"])
    lower, upper = (np.array(onset["band"][name]) for name in ("lower", "upper"))
    before, after = times < onset["at_ms"], times >= onset["at_ms"]
    assert (before.sum(), after.sum()) == (60, 60)
    # What is abnormal teaches the band nothing: it is where it was, and the signal is far above it.
    assert ((lower > 50) & (upper < 70)).all()
    assert onset["before"]["most"] < 66 < 75 < onset["after"]["least"]
    assert min(onset["points"]["value"][60:]) > upper.max()


def test_where_only_readings_are_kept_there_is_the_band_when_it_began(tmp_path: Path) -> None:
    onset = told(tmp_path, {})
    assert onset["band"] == {"time": [], "value": []} or not onset["band"].get("lower")
    assert 50 < onset["at_onset"]["lower"] < 57 < 63 < onset["at_onset"]["upper"] < 70
    assert len(onset["points"]["time"]) == 120


def test_of_a_plant_that_has_just_begun_the_picture_shows_what_there_is(tmp_path: Path) -> None:
    onset = told(tmp_path, {}, every=timedelta(seconds=1))
    assert len(onset["points"]["time"]) > 100, "of five minutes, not one for each half minute of two hours"
    assert onset["before"]["least"] < 66 < 75 < onset["after"]["least"]


def test_a_signal_that_is_a_series_of_its_own_is_shown_beside_a_table_of_its_windows(tmp_path: Path) -> None:
    """As in the demo: readings by machine, alarms and windows by machine and signal."""
    value = np.random.default_rng(3).normal(60, 1, MINUTES) + 20 * (np.arange(MINUTES) >= BROKEN)
    lines = [
        {"machine": "m", "signal": "bearing", "ts": (BEGIN + timedelta(minutes=i)).isoformat(), "value": round(one, 3)}
        for i, one in enumerate(value)
    ]
    (tmp_path / "in.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = {"machine": "category", "signal": "text", "ts": "timestamp", "value": "float"}
    windows = {"from": "series", "steps": [{"window": {"every": "10m", "compute": {"mean": "mean(value)"}}}]}
    pipeline = Pipeline.model_validate(
        {
            "name": "plant", "folder": str(tmp_path / "data"),
            "source": {"files": {"path": str(tmp_path / "in.ndjson")}},
            "decode": {"json": {"columns": columns}}, "key": "machine", "time": "ts",
            "watch": {"detector": {"health": {"learn": 100}}},
            "streams": {"windows": {**windows, "sinks": [{"delta": "windows"}]}},
        }
    )  # fmt: skip
    EmbeddedRunner(pipeline.plan()).run()
    (alarm,) = query("SELECT id FROM alarms WHERE event = 'raised'", tmp_path / "data").to_pylist()
    told = evidence(tmp_path / "data", tmp_path / "data" / ".state", alarm["id"])
    onset = told["onset"]
    assert "readings" in told["rests_on"]
    assert (onset["signal"], len(onset["points"]["time"])) == ("bearing", 120)
    assert onset["before"]["most"] < 66 < 75 < onset["after"]["least"]
