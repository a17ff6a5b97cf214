"""What is set aside behind the decoder keeps the bytes that came, not what was read out of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tocsin.engine.embedded import EmbeddedRunner
from tocsin.lake.read import read
from tocsin.pipeline.model import Pipeline

COLUMNS = {"machine": {"type": "text", "optional": True}, "ts": "timestamp", "value": "float"}
FUTURE = "2100-01-01T00:00:00Z"
LINES = [
    b'{"machine":"a","ts":"2026-01-01T00:00:00Z","value":1}',
    b'{ "value" : 1.50, "ts":"2026-01-01T00:00:01Z", "extra": [1,  2] }',
    b'{"machine":"a","ts":"2026-01-01T00:00:02Z","value":1e-400}',
    b'{"machine":"  ","ts":"2026-01-01T00:00:03Z","value":2}',
    '{"machine":"a\u202eb","ts":"2026-01-01T00:00:04Z","value":2.000}'.encode(),
    b'{"machine":"a",  "ts":"2100-01-01T00:00:00Z","value":3E0}',
    b'{"machine":"b","ts":"2026-01-01T00:00:05Z","value":4}',
]
REASONS = ["missing_key", "number_range", "missing_key", "key_characters", "ts_future"]


def run(folder: Path, decode: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    pipeline = {
        "name": "t", "folder": str(folder / "lake"), "source": {"files": str(folder / "in")}, "decode": decode,
        "key": "machine", "time": {"column": "ts"}, "streams": {"kept": {"sinks": [{"delta": "kept"}]}}, **more,
    }  # fmt: skip
    EmbeddedRunner(Pipeline.model_validate(pipeline).plan()).run()
    return sorted(read("quarantine", folder / "lake").to_pylist(), key=lambda row: row["position"])


@pytest.mark.parametrize("lines", [LINES, LINES * 1_000], ids=["few", "many"])
def test_the_bytes_topic_and_position_are_the_records_own(tmp_path: Path, lines: list[bytes]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ndjson").write_bytes(b"".join(line + b"\n" for line in lines))
    aside = run(tmp_path, {"json": {"columns": COLUMNS}})
    bad = [(i, line) for i, line in enumerate(lines) if 0 < i % len(LINES) < 6]
    begins = [0]
    for line in lines:
        begins.append(begins[-1] + len(line) + 1)
    assert [row["payload"] for row in aside] == [line + b"\n" for _, line in bad]
    assert [row["reason"] for row in aside] == REASONS * (len(lines) // len(LINES))
    assert [row["position"] for row in aside] == [begins[i] for i, _ in bad]
    assert {row["topic"] for row in aside} == {"a.ndjson"}
    assert all(row["sha256"] == hashlib.sha256(row["payload"]).hexdigest() for row in aside)
    assert read("kept", tmp_path / "lake").num_rows == 2 * len(lines) // len(LINES)
    assert read("kept", tmp_path / "lake").column_names == ["key", "time", "value", "late"]


def test_of_a_record_with_several_rows_it_is_the_whole_record(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    good = {"machine": "a", "ts": "2026-01-01T00:00:00Z", "value": 1}
    records = [
        json.dumps({"rows": [good, {**good, "ts": FUTURE}]}, indent=None).encode(),
        json.dumps({"rows": [good]}).encode(),
        json.dumps({"rows": [{**good, "machine": None}, good, {**good, "machine": ""}]}).encode(),
    ]
    (tmp_path / "in" / "a.ndjson").write_bytes(b"".join(record + b"\n" for record in records))
    aside = run(tmp_path, {"json": {"columns": COLUMNS, "rows": "rows"}})
    assert [row["payload"] for row in aside] == [records[0] + b"\n", records[2] + b"\n", b""]
    assert aside[2]["sha256"] == aside[1]["sha256"] == hashlib.sha256(records[2] + b"\n").hexdigest()
    assert read("kept", tmp_path / "lake").num_rows == 3


def test_of_csv_it_is_the_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    text = f"machine,ts,value\na,2026-01-01T00:00:00Z,1\n ,2026-01-01T00:00:00Z, 1\na,{FUTURE},+1.0\na,x,1\n"
    (tmp_path / "in" / "a.csv").write_text(text)
    aside = run(tmp_path, {"csv": {"columns": COLUMNS}})
    assert [row["payload"].decode() for row in aside] == text.splitlines(keepends=True)[2:]


def test_late_rows_stand_marked_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    lines = [b'{"machine":"a","ts":"2026-01-01T00:00:0%dZ","value":1}\n' % second for second in (5, 0)]
    (tmp_path / "in" / "a.ndjson").write_bytes(b"".join(lines))
    (tmp_path / "in" / "b.ndjson").write_bytes(b"{}\n")
    run(tmp_path, {"json": {"columns": COLUMNS}}, time={"column": "ts", "lateness": "0s"})
    assert sorted(read("kept", tmp_path / "lake")["late"].to_pylist()) == [False, True]
