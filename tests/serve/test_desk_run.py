"""An alarm in a running pipeline: what people do reaches it once, and is audited in its table."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tocsin.engine.api import run
from tocsin.pipeline.model import Pipeline
from tocsin.serve import desk as alarms

START = datetime(2026, 1, 1, tzinfo=UTC)


def pipeline(folder: Path, seconds: int) -> Pipeline:
    settings: dict[str, Any] = {
        "name": "watch",
        "folder": folder,
        "checkpoint": "200ms",
        "source": {
            "simulate": {"machines": {"pump": "pump"}, "start": START, "duration": f"{seconds}s", "every": "250ms"}
        },
        "streams": {
            "alarms": {
                "steps": [{"keep": "signal = 'pressure'"}, {"alarm": {"rule": "on", "high": 0.5, "realarm": "1s"}}],
                "sinks": [{"delta": "alarms"}],
            }
        },
    }
    return Pipeline.model_validate(settings)


def test_what_people_do_is_applied_once_and_audited(tmp_path: Path) -> None:
    state_folder = tmp_path / ".state"
    alarms.act(state_folder, "on:pump", "shelve", "ann", "test run", datetime.now(UTC) + timedelta(hours=1))
    alarms.act(state_folder, "off:pump", "shelve", "bob", "not ours", datetime.now(UTC) + timedelta(hours=1))
    run(pipeline(tmp_path, 2))
    first = Counter(alarms.rows(tmp_path)["event"].to_pylist())
    assert first["raised"] == 1
    assert first["shelved"] == 1
    row = next(r for r in alarms.rows(tmp_path).to_pylist() if r["event"] == "shelved")
    assert (row["by"], row["reason"], row["key"], row["ring"]) == ("ann", "test run", "pump", False)
    (listed,) = alarms.list_alarms(tmp_path).to_pylist()
    assert (listed["mode"], listed["state"]) == ("shelved", "ACTIVE_UNACK")
    assert not listed["ring"]
    assert listed["event"] == "realarmed", "the newest row, though the shelving's clock is months ahead"
    assert alarms.kpis(tmp_path)["raised"] == 1
