"""Sink `files`: each row once, in files that others can read."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tocsin.batch import KEY_TYPE, as_times
from tocsin.contracts import Token
from tocsin.errors import ConfigError, ForeignCommit, SinkError
from tocsin.output.files import Files, FilesWriter
from tocsin.testing import world
from tocsin.world import SystemDisk


def readings(start: int, n: int = 3) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "key": pa.array(["a"] * n).dictionary_encode().cast(KEY_TYPE),
            "time": as_times([1_000_000 * i + 250_000 for i in range(start, start + n)]),
            "value": pa.array(range(start, start + n)),
        }
    )


def open_writer(folder: Path, schema: pa.Schema | None = None, app: str = "app", **settings: object) -> FilesWriter:
    return Files.model_validate({"path": "t", **settings}).open(world(folder, app), schema or readings(0).schema)


def put(writer: FilesWriter, epoch: int, *rows: pa.RecordBatch) -> list[Token]:
    tokens = [writer.stage(epoch, [batch]) for batch in rows]
    writer.publish(epoch, tokens)
    return tokens


def parts(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "t").iterdir() if not p.name.startswith("."))


def content(path: Path) -> bytes:
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd").read()
    return path.read_bytes()


def values(folder: Path) -> list[int]:
    found: list[int] = []
    for path in parts(folder):
        if path.suffix == ".parquet":
            found += pq.read_table(path)["value"].to_pylist()
        elif ".csv" in path.name:
            found += [int(row["value"]) for row in csv.DictReader(io.StringIO(content(path).decode()))]
        else:
            found += [json.loads(line)["value"] for line in content(path).splitlines()]
    return found


FORMS = [
    {"format": f, "compress": c} for f in ("ndjson", "csv") for c in ("none", "gz", "zst")
] + [{"format": "parquet"}]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_rows_come_once_whatever_is_done_twice(tmp_path: Path, form: dict[str, str]) -> None:
    writer = open_writer(tmp_path, **form)
    assert writer.published() is None
    tokens = put(writer, 1, readings(0), readings(3))
    writer.publish(1, tokens)
    put(writer, 2)
    again = open_writer(tmp_path, **form)
    assert again.published() == 2
    again.publish(2, [])
    put(again, 5, readings(6))
    assert values(tmp_path) == list(range(9))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("calls", range(12))
def test_a_crash_within_the_commit_changes_nothing(tmp_path: Path, form: dict[str, str], calls: int) -> None:
    class Crash(Exception):
        pass

    class CrashingDisk(SystemDisk):
        left = 10**9

        def write(self, path: Path, data: bytes | memoryview) -> None:
            self._count()
            super().write(path, data)

        def append(self, path: Path, data: bytes | memoryview) -> None:
            self._count()
            super().append(path, memoryview(data)[: len(data) // 2])
            self._count()
            super().append(path, memoryview(data)[len(data) // 2 :])

        def link(self, old: Path, new: Path) -> None:
            self._count()
            super().link(old, new)

        def rename(self, old: Path, new: Path) -> None:
            self._count()
            super().rename(old, new)

        def unlink(self, path: Path) -> None:
            self._count()
            super().unlink(path)

        def sync_folder(self, path: Path) -> None:
            self._count()
            super().sync_folder(path)

        def _count(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Crash

    disk = CrashingDisk()
    sink = Files.model_validate({"path": "t", "rotate": 1, **form})
    writer = sink.open(world(tmp_path, "app", disk), readings(0).schema)
    put(writer, 1, readings(0))
    tokens = [writer.stage(2, [readings(3)]), writer.stage(2, [readings(6)])]
    disk.left = calls
    try:
        writer.publish(2, tokens)
    except Crash:
        assert calls < 11
        if writer.part.exists():
            disk.truncate(writer.part, writer.part.stat().st_size)
    again = sink.open(world(tmp_path, "app"), readings(0).schema)
    assert again.published() in (1, 2)
    again.publish(2, tokens)
    again.discard(tokens)
    put(again, 3, readings(9))
    assert values(tmp_path) == list(range(12))


def test_files_are_followed_by_the_next_when_they_are_full(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, format="csv", rotate=200)
    for epoch in range(10):
        put(writer, epoch, readings(3 * epoch))
    assert values(tmp_path) == list(range(30))
    assert [p.name for p in parts(tmp_path)] == [f"part-{i:06d}.csv" for i in range(1, 6)]
    assert all(p.read_text().startswith('"key","time","value"\n') for p in parts(tmp_path))


def test_other_columns_begin_another_file(tmp_path: Path) -> None:
    put(open_writer(tmp_path, format="csv"), 1, readings(0))
    fewer = readings(3).select(["key", "value"])
    put(open_writer(tmp_path, fewer.schema, format="csv"), 2, fewer)
    assert values(tmp_path) == list(range(6))
    assert len(parts(tmp_path)) == 2


def test_a_file_taken_away_is_followed_by_the_next_and_one_cut_is_an_error(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    put(writer, 1, readings(0))
    writer.part.unlink()
    put(writer, 2, readings(3))
    assert values(tmp_path) == [3, 4, 5]
    writer.part.write_bytes(b"x")
    with pytest.raises(SinkError, match="has 1 bytes"):
        put(writer, 3, readings(6))


def test_what_was_staged_in_vain_is_deleted(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    kept = writer.stage(1, [readings(0)])
    writer.stage(1, [readings(3)])
    again = open_writer(tmp_path)
    again.discard([kept])
    assert [n for n in SystemDisk().names(tmp_path / "t") if "staged" in n] == [kept["name"]]


def test_a_folder_has_one_writer_and_lies_in_the_data_folder(tmp_path: Path) -> None:
    put(open_writer(tmp_path), 1, readings(0))
    with pytest.raises(ForeignCommit, match="written by 'app'"):
        open_writer(tmp_path, app="other")
    with pytest.raises(ConfigError, match="leaves the data folder"):
        open_writer(tmp_path, path="../t")


def test_every_kind_of_cell(tmp_path: Path) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 250_000, UTC)
    rows = pa.record_batch(
        {
            "text": ["=HYPERLINK(1)", "+1", "-1", "@x", "\tx", 'say "hi", \n', None, "plain"],
            "number": [float("nan"), float("inf"), -1.5, None, 0.0, 1e300, -0.0, 2.0],
            "time": pa.array([at] * 8, pa.timestamp("us", tz="UTC")),
            "list": [[1.0, None], [], None, None, None, None, None, None],
            "bytes": [b"\xff", None, None, None, None, None, None, None],
            "=evil": [True, False, None, None, None, None, None, None],
        }
    )
    put(open_writer(tmp_path, rows.schema, format="csv"), 1, rows)
    head, *cells = csv.reader(io.StringIO(parts(tmp_path)[0].read_text(), newline=""))
    assert head == ["text", "number", "time", "list", "bytes", "'=evil"]
    assert [row[0] for row in cells] == ["'=HYPERLINK(1)", "'+1", "'-1", "'@x", "'\tx", 'say "hi", \n', "", "plain"]
    assert [row[1] for row in cells] == ["", "", "-1.5", "", "0", "1e+300", "-0", "2"]
    assert cells[0][2:] == ["2026-01-02T03:04:05.250000Z", "[1.0,null]", "/w==", "true"]
    put(open_writer(tmp_path, rows.schema, app="b", path="u"), 1, rows)
    lines = [json.loads(line) for line in (tmp_path / "u" / "part-000001.ndjson").read_text().splitlines()]
    assert lines[0] == {
        "text": "=HYPERLINK(1)", "number": None, "time": "2026-01-02T03:04:05.250000Z",
        "list": [1.0, None], "bytes": "/w==", "=evil": True,
    }  # fmt: skip
