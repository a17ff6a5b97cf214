"""Jobs: their times, their retries, what each of them does, and what is told of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from deltalake import DeltaTable
from postgres_server import PASSWORD, USER, Postgres

import tocsin
from tocsin.cli import main
from tocsin.cli.schedule import Schedule
from tocsin.errors import ConfigError, SourceError, UnknownName
from tocsin.pipeline.model import ScheduledJob

FILE = """
name: plant
folder: {folder}
checkpoint: 1ms
source: {{files: in.ndjson}}
decode: {{json: {{columns: {{machine: text, n: int}}}}}}
key: machine
streams:
  readings: {{sinks: [{{delta: {{path: readings, retention: 0s}}}}]}}
jobs:
  load: {{cron: "{cron}", do: load, retries: 2, retry_after: 1ms}}
  compact: {{cron: "0 4 * * *", do: compact}}
  vacuum: {{cron: "30 4 * * sun", do: vacuum, zone: Europe/Berlin}}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.ndjson").write_text('{"machine": "a", "n": 1}\n')
    path = tmp_path / "plant.yaml"
    path.write_text(FILE.format(folder=tmp_path / "lake", cron="0 3 * * *"))
    return path


@pytest.mark.parametrize(
    ("cron", "zone", "after", "wanted"),
    [
        ("30 2 * * *", "UTC", "2026-03-01T02:30", "2026-03-02T02:30"),
        ("0 6 * * mon", "UTC", "2026-11-26T00:00", "2026-11-30T06:00"),
        ("0 6 * * *", "Europe/Berlin", "2026-07-01T00:00", "2026-07-01T04:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-29T01:00"),  # an hour that the clock skips
    ],
)
def test_times(cron: str, zone: str, after: str, wanted: str) -> None:
    job = ScheduledJob(cron=cron, do="load", zone=zone)
    assert job.next_after(datetime.fromisoformat(after).replace(tzinfo=UTC)).isoformat().startswith(wanted)


@pytest.mark.parametrize("cron", ["61 * * * *", "nightly", "* * * *", "* * * * * *", "0 0 31 2 *"])
def test_what_is_no_time_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="as 30 2"):
        ScheduledJob(cron=cron, do="load")


def test_a_load_goes_on_where_the_last_one_was(file: Path) -> None:
    Schedule(file, ()).do("load")
    assert tocsin.read("readings", file.parent / "lake").num_rows == 1


def test_compact_and_vacuum_work_on_the_tables(file: Path) -> None:
    folder = file.parent / "lake"
    for i in range(6):  # each run of a pipeline of its own leaves a file
        text = (
            file.read_text().replace("name: plant", f"name: plant{i}").replace(f"folder: {folder}", f"folder: {folder}")
        )
        (file.parent / f"{i}.yaml").write_text(text)
        Schedule(file.parent / f"{i}.yaml", ()).do("load")
        (folder / ".state").rename(folder / f".state{i}")
    table = folder / "readings"
    files = len(DeltaTable(table).file_uris())
    assert files == 6
    schedule = Schedule(file, ())
    schedule.do("compact")
    assert len(DeltaTable(table).file_uris()) == 1
    assert DeltaTable(table).to_pyarrow_table().num_rows == 6
    assert len(list(table.rglob("*.parquet"))) >= 7
    schedule.do("vacuum")
    assert len(list(table.glob("*.parquet"))) == 1
    assert DeltaTable(table).to_pyarrow_table().num_rows == 6


def test_what_fails_is_tried_again_and_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(file, ())
    tries = []

    def fail(*_: object) -> str:
        tries.append(1)
        raise SourceError("the server refuses")

    with monkeypatch.context() as patch:
        patch.setattr("tocsin.cli.schedule._do", fail)
        with pytest.raises(SourceError, match="the server refuses"):
            schedule.do("load")
    assert len(tries) == 3
    row = next(row for row in schedule.table().to_pylist() if row["job"] == "load")
    assert (row["ended"], row["tries"], row["said"]) == ("badly", 3, "the server refuses")
    result = CliRunner().invoke(main, ["jobs", str(file), "--run", "load"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["jobs", str(file), "--status"])
    assert "well" in result.output
    assert "badly" not in result.output


def test_jobs_are_done_when_they_are_due(file: Path) -> None:
    script = f"""
from datetime import datetime, UTC
from functools import cache
from pathlib import Path
from tocsin.cli.schedule import Schedule
begun = cache(lambda: datetime.now(UTC))
now = lambda: datetime(2026, 1, 1, 2, 59, 59, 500_000, UTC) + (datetime.now(UTC) - begun())
Schedule(Path({str(file)!r}), (), now).keep()
"""
    log = file.parent / "log"
    with log.open("w") as to:
        process = subprocess.Popen([sys.executable, "-c", script], stderr=to)
    note, until_s = file.parent / "lake" / ".state" / "jobs.json", time.monotonic() + 60
    while not note.exists():
        assert time.monotonic() < until_s
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert json.loads(note.read_text())["load"]["right"] is True
    assert "load: next at 2026-01-01 03:00 UTC" in log.read_text()
    assert tocsin.read("readings", file.parent / "lake").num_rows == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("source: {files: in.ndjson}", "source: {files: {path: in.ndjson, follow: true}}"), "remove follow"),
        (("do: load", "do: reload"), "give it upsert"),
        (("do: load", "do: nothing"), "jobs.load.do"),
        (("0 3 * * *", "99 3 * * *"), "jobs.load.cron"),
        (("zone: Europe/Berlin", "zone: Europe/Nowhere"), "no time zone"),
    ],
)
def test_jobs_that_cannot_work_are_refused(file: Path, change: tuple[str, str], word: str) -> None:
    file.write_text(file.read_text().replace(*change))
    with pytest.raises(ConfigError, match=word):
        Schedule(file, ())


def test_a_job_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'load'"):
        Schedule(file, ()).do("loda")


def test_a_file_without_jobs_is_told(file: Path) -> None:
    file.write_text(file.read_text().partition("jobs:")[0])
    with pytest.raises(ConfigError, match="has no jobs"):
        Schedule(file, ())


def test_a_reload_and_housekeeping_in_postgres(
    file: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    schema = postgres.schema()
    monkeypatch.setitem(os.environ, "SECRET", PASSWORD)
    sink = f"postgres: {{url: {postgres.url!r}, user: {USER}, password: '${{env:SECRET}}', table: {schema}.t, "
    text = file.read_text().replace("delta: {path: readings, retention: 0s}", sink + "upsert: [key], retention: 1h}")
    text = text.replace("do: load", "do: reload").replace("do: compact", "do: retain")
    file.write_text(text)
    schedule = Schedule(file, ())
    schedule.do("load")
    postgres.execute(f"update {schema}.t set n = 7")
    schedule.do("load")
    assert postgres.execute(f"select n from {schema}.t") == [(1,)], "it is read anew"
    schedule.do("vacuum")
    schedule.do("compact")
    assert postgres.execute(f"select count(*) from {schema}.t") == [(1,)]
    postgres.execute(f"update {schema}.t set time = now() - interval '2 hours'")
    schedule.do("compact")
    assert postgres.execute(f"select count(*) from {schema}.t") == [(0,)]
    assert [row["said"] for row in schedule.table().to_pylist() if row["does"] == "retain"] == [
        "readings.0.postgres: 1 old rows deleted"
    ]
