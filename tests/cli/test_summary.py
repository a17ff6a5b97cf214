"""What `tocsin run` says at the end of a bounded input."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from servers import ObjectStore

from tocsin.cli import main

PRESS = """
name: press
folder: {folder}/lake
source: {{files: {folder}/in}}
decode: {{json: {{columns: {{machine: text, ts: timestamp, force: float}}}}}}
key: machine
time: {{column: ts, lateness: 0s}}
streams:
  readings:
    sinks: [delta: readings]
  alarms:
    from: readings
    steps: [alarm: {{rule: force, of: force, high: 5}}]
    sinks: [delta: alarms]
  bell:
    from: alarms
    steps: [keep: ring]
    sinks: [notify: {target}]
"""


def line(second: int, force: float) -> str:
    return json.dumps({"machine": "a", "ts": f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}Z", "force": force})


@pytest.fixture
def press(tmp_path: Path) -> Path:
    """A pipeline whose input has 100 good rows, one peak, one late, two that are no JSON, a damaged file and a link."""
    (tmp_path / "in").mkdir()
    good = [line(i, 9 if i == 50 else 1) for i in range(100)]
    (tmp_path / "in" / "a.ndjson").write_text("\n".join([*good, line(0, 1), "{bad", "{worse"]))
    (tmp_path / "in" / "b.ndjson.gz").write_bytes(gzip.compress(f"{line(100, 1)}\n".encode())[:-2])
    os.symlink(tmp_path / "in" / "a.ndjson", tmp_path / "in" / "c.ndjson")
    return tmp_path


def ran(folder: Path, target: str, code: int = 0) -> Result:
    (folder / "p.yaml").write_text(PRESS.format(folder=folder, target=target))
    done = CliRunner().invoke(main, ["run", str(folder / "p.yaml")])
    assert done.exit_code == code, done.output
    return done


def figures(told: str) -> dict[str, list[tuple[int, str]]]:
    lines: dict[str, list[tuple[int, str]]] = {}
    for what, count, text in re.findall(r"^  (\w[\w ]+?) +([\d,]+) (.*)$", told, re.MULTILINE):
        lines.setdefault(what, []).append((int(count.replace(",", "")), text))
    return lines


def test_a_bounded_run_says_what_it_did_and_where_to_look(press: Path) -> None:
    told = ran(press, "console").stderr
    assert figures(told) == {
        "read": [(105, "records of source")],
        "passed over": [(1, "file of source: links, or what could not be read")],
        "kept": [(102, f"rows in {press}/lake/readings"), (2, f"rows in {press}/lake/alarms")],
        "set aside": [(3, f"rows (json_syntax 2, compression 1) in {press}/lake/quarantine")],
        "rung": [(1, "alarm of alarms.0.alarm")],
        "sent": [(1, "message by bell.0.notify")],
    }
    assert "1 row of 'source' came too late for windows and alarms: kept in 'readings' with late: true" in told
    look = re.search(r"look: tocsin (.*)", told)
    assert look is not None
    shown = CliRunner().invoke(main, shlex.split(look[1]))
    assert shown.exit_code == 0
    assert shown.stdout.count("2026-01-01") == 10


def test_what_is_undelivered_is_said_and_the_next_run_sends_it(press: Path) -> None:
    told = ran(press, "https://127.0.0.1:1/", code=1).stderr
    assert figures(told)["sent"] == [(0, "messages by bell.0.notify")]
    ((count, why),) = figures(told)["undelivered"]
    assert count == 1
    assert "private address" in why
    assert told.rstrip().endswith("run the pipeline again to send them")
    told = ran(press, "console").stderr
    assert "press: its sources were read to their end before" in told
    assert figures(told) == {"sent": [(1, "message by bell.0.notify")]}


LATER = """
name: later
folder: one
source: {files: {path: "*.csv"}}
decode: {csv: {header: none, columns: {t: int, k: text, v: float}}}
time: {column: t, unit: s}
key: k
streams: {r: {sinks: [{delta: r}]}}
"""


def test_the_remedy_for_files_that_come_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def told(text: str, code: int) -> str:
        Path("later.yaml").write_text(text)
        done = CliRunner().invoke(main, ["run", "later.yaml"])
        assert done.exit_code == code, done.stderr
        return done.stderr

    Path("a.csv").write_text("1767225600,m,1\n1767225601,m,2\n")
    assert re.search(r"kept +2 rows", told(LATER, 0))
    Path("b.csv").write_text("1767225602,m,3\n")
    assert "write follow: true, and another folder:" in told(LATER, 0)
    assert "name another folder: in the file" in told(LATER.replace('"*.csv"', '"*.csv", follow: true'), 1)
    assert re.search(r"kept +3 rows", told(LATER.replace("folder: one", "folder: two"), 0))


ELSEWHERE = """
name: elsewhere
folder: {folder}/lake
source: {{files: s3://plant/summary/in}}
decode: {{json: {{columns: {{machine: text, force: float}}}}}}
key: machine
streams:
  readings:
    sinks: [files: {{path: s3://plant/summary/out, format: csv}}, delta: s3://plant/summary/readings]
"""


def test_from_objects_to_objects_and_a_table_elsewhere(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.options.items():
        monkeypatch.setenv(name.upper(), value)
    for number in range(2):
        object_store.put(f"summary/in/{number}.ndjson", f"{line(number, 1)}\n".encode() * 5)
    (tmp_path / "p.yaml").write_text(ELSEWHERE.format(folder=tmp_path))
    told = CliRunner().invoke(main, ["run", str(tmp_path / "p.yaml")])
    assert told.exit_code == 0, told.output
    assert figures(told.stderr) == {
        "read": [(10, "records of source")],
        "kept": [(10, "rows in s3://plant/summary/out"), (10, "rows in s3://plant/summary/readings")],
    }
    look = next(words for words in told.stderr.splitlines() if "look: " in words).partition("look: tocsin ")[2]
    looked = CliRunner().invoke(main, [*shlex.split(look), "--format", "json"])
    assert looked.exit_code == 0, looked.output
    assert len(looked.stdout.splitlines()) == 10
