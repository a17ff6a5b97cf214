"""`tocsin replay`: a changed pipeline over the lake, beside what rang; nothing real is touched."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tocsin.cli import main
from tocsin.serve import desk

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
PIPELINE = """
name: plant
folder: {folder}
source: {{files: {{path: {folder}/*.ndjson, follow: false}}}}
decode: {{json: {{columns: {{machine: text, at: timestamp, celsius: float}}}}}}
key: machine
time: at
streams:
  readings: {{sinks: [delta: readings]}}
  alarms:
    from: readings
    steps: [{{alarm: {{rule: hot, of: celsius, high: {high}, chatter_max: 0}}}}]
    sinks: [delta: alarms]
  bell: {{from: alarms, steps: [keep: ring], sinks: [{{notify: {{to: console}}}}]}}
"""


def celsius(hour: int) -> float:
    """85 for an hour at 6 and 97 at 18 on every day; 75 for an hour at noon."""
    return {6: 85.0, 18: 97.0, 12: 75.0}.get(hour % 24, 50.0)


def tocsin(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days that have been run with a limit of 80."""
    folder = tmp_path_factory.mktemp("plant")
    rows = [
        {"machine": name, "at": (BEGIN + timedelta(hours=hour)).isoformat(), "celsius": celsius(hour + shift)}
        for hour in range(72)
        for name, shift in (("pump", 0), ("fan", 1))
    ]
    (folder / "readings.ndjson").write_text("\n".join(map(json.dumps, rows)) + "\n")
    done = tocsin("run", pipeline(folder, 80))
    assert done.exit_code == 0, done.output
    return folder


def pipeline(folder: Path, high: float) -> Path:
    path = folder.parent / f"{folder.name}-{high:g}.yaml"
    path.write_text(PIPELINE.format(folder=folder, high=high))
    return path


def test_the_same_pipeline_gives_the_same_alarms(plant: Path) -> None:
    before = contents(plant)
    done = tocsin("replay", pipeline(plant, 80))
    assert done.exit_code == 0, done.output
    assert "144 readings; then 12 alarms" in done.stderr
    assert "12 of then ring again, 0 only then, 0 only now" in done.stderr
    assert contents(plant) == before, "neither the state nor a table has changed"


def test_a_changed_limit_tells_what_would_have_rung(plant: Path) -> None:
    done = tocsin("replay", pipeline(plant, 90), "--from", "2026-03-02", "--to", "2026-03-03", "--format", "json")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    alarms, days = [line for line in lines if "which" in line], [line for line in lines if "day" in line]
    assert [(a["which"], a["key"]) for a in alarms] == [
        ("only then", "fan"), ("only then", "pump"), ("both", "fan"), ("both", "pump"),
    ]  # fmt: skip
    assert days == [{"day": "2026-03-02", "then": 4, "now": 2}]
    assert "then 4 alarms (4 a day), now 2 (2 a day)" in done.stderr
    lower = tocsin("replay", pipeline(plant, 70))
    assert "12 of then ring again, 0 only then, 6 only now" in lower.stderr


def test_labels_say_what_is_lost(plant: Path) -> None:
    listed = tocsin("alarms", "list", "--all", "--folder", plant, "--format", "json")
    id = json.loads(listed.stdout.splitlines()[0])["id"]
    tocsin("alarms", "label", "false", id, "--folder", plant, "--by", "ann")
    until_s = time.monotonic() + 30
    while not any(row["event"] == "labelled_false" for row in desk.rows(plant).to_pylist()):
        assert time.monotonic() < until_s
        assert tocsin("run", pipeline(plant, 80)).exit_code == 0  # it may end before it has looked for actions
    done = tocsin("replay", pipeline(plant, 99))
    assert "12 only then, 0 only now" in done.stderr
    assert "are labelled false and 0 true" in done.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("  readings: {sinks: [delta: readings]}\n", "  readings: {}\n"), "no table in"),
        (("    sinks: [delta: alarms]\n", ""), "keeps no alarms"),
        (("machine: text", "machine: text, extra: float"), "lacks column 'extra'"),
    ],
)
def test_what_is_lacking_is_told_with_the_remedy(plant: Path, change: tuple[str, str], told: str) -> None:
    path = pipeline(plant, 81)
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    done = tocsin("replay", path)
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    path.write_text(text)
    assert tocsin("replay", path).exit_code == 0


def test_a_setting_is_written_as_the_message_says(plant: Path) -> None:
    refused = tocsin("replay", pipeline(plant, 80), "--set", "folder")
    assert "write it as place=value, such as --set folder=/data" in refused.stderr
    assert tocsin("replay", pipeline(plant, 80), "--set", f"folder={plant}").exit_code == 0


def test_a_time_that_is_none_is_told(plant: Path) -> None:
    assert "--from soon" in tocsin("replay", pipeline(plant, 80), "--from", "soon").stderr
    done = tocsin("replay", pipeline(plant, 80), "--from", "2026-03-03", "--to", "2026-03-02")
    assert done.exit_code == 2
    assert "no readings" in tocsin("replay", pipeline(plant, 80), "--to", "2025-01-01").stderr


UNITED = """
name: plant
folder: {folder}
sources:
  east:
    source: {{files: {{path: {folder}/east.ndjson, follow: false}}}}
    decode: {{json: {{columns: {{machine: text, at: timestamp, celsius: float}}}}}}
    key: machine
    time: at
  west:
    source: {{files: {{path: {folder}/west.ndjson, follow: false}}}}
    decode: {{json: {{columns: {{machine: text, at: timestamp, celsius: float}}}}}}
    key: machine
    time: at
streams:
  readings: {{from: [east, west], sinks: [delta: readings]}}
  alarms:
    from: {taken}
    steps: [{{alarm: {{rule: hot, of: celsius, high: 80, chatter_max: 0}}}}, {{cases: {{depth: 1}}}}]
    sinks: [delta: alarms]
"""


def test_a_table_of_several_sources_feeds_all_that_takes_them(tmp_path: Path) -> None:
    for name, shift in (("east", 0), ("west", 1)):
        rows = [
            {
                "machine": f"hall/{name}",
                "at": (BEGIN + timedelta(hours=hour)).isoformat(),
                "celsius": celsius(hour + shift),
            }
            for hour in range(48)
        ]
        (tmp_path / f"{name}.ndjson").write_text("\n".join(map(json.dumps, rows)) + "\n")
    path = tmp_path / "plant.yaml"
    path.write_text(UNITED.format(folder=tmp_path, taken="readings"))
    done = tocsin("run", path)
    assert done.exit_code == 0, done.output
    done = tocsin("replay", path)
    assert done.exit_code == 0, done.output
    assert "96 readings; then 8 alarms" in done.stderr
    assert "8 of then ring again, 0 only then, 0 only now" in done.stderr
    path.write_text(UNITED.format(folder=tmp_path, taken="east"))
    done = tocsin("replay", path)
    assert done.exit_code == 2
    assert "takes east only, but table 'readings' does not say which of east, west a row is of" in done.stderr
    one = "  readings: {from: [east, west], sinks: [delta: readings]}"
    own = "\n".join(f"  {name}s: {{from: {name}, sinks: [delta: {name}s]}}" for name in ("east", "west"))
    again = {"folder": tmp_path / "own", "taken": "east"}
    path.write_text(UNITED.format(**again).replace(one, own).replace(f"{tmp_path}/own/", f"{tmp_path}/"))
    assert tocsin("run", path).exit_code == 0
    assert tocsin("replay", path).exit_code == 0
