"""Compressed files that are cut off, damaged or have more behind their end: what can be read is, and it is said."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from pathlib import Path
from typing import Any

import pytest
from hand_clock import HandClock

from tocsin.acquire import _gzip
from tocsin.acquire.files import Files, FilesReader
from tocsin.batch import END, REJECTED
from tocsin.pipeline.yamlfile import load_with_plan

TEXT = b"".join(b'{"n": %d, "x": %d}\n' % (i, random.Random(i).getrandbits(40)) for i in range(2_000))
PACKED = gzip.compress(TEXT)


def reader(path: Path, clock: Any = None, offset: Any = None, **settings: Any) -> FilesReader:
    return FilesReader(Files(path=str(path), **settings), json.loads(json.dumps(offset)), clock or HandClock())


def drained(source: FilesReader) -> tuple[bytes, list[dict[str, Any]], list[Any]]:
    """The lines joined, the rows set aside, and every offset, until the end or until there is nothing more."""
    lines, aside, offsets = b"", [], []
    while (polled := source.poll(1_000, 0.01)) is not None:
        batch, offset = polled
        offsets.append(offset)
        if batch.port == REJECTED:
            aside += batch.rows.to_pylist()
        else:
            lines += b"".join(batch.rows.column("payload").to_pylist())
        if batch.watermark_us == END:
            break
    return lines, aside, offsets


def until_damage(packed: bytes) -> bytes:
    """What can be unpacked at all, one byte after the other."""
    unpacker, unpacked = zlib.decompressobj(wbits=31), b""
    for i in range(len(packed)):
        try:
            unpacked += unpacker.decompress(packed[i : i + 1])
        except zlib.error:
            break
    return unpacked


DAMAGED = {
    "cut off in the middle": PACKED[: len(PACKED) // 2],
    "cut off in the checksum": PACKED[:-3],
    "cut off in the header": PACKED[:5],
    "a byte changed": PACKED[:9_000] + bytes([PACKED[9_000] ^ 0xFF]) + PACKED[9_001:],
    "a wrong checksum": PACKED[:-8] + bytes(8),
    "a second member cut off": PACKED + PACKED[:3_000],
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_can_be_unpacked_is_read_and_the_damage_is_one_row(tmp_path: Path, kind: str) -> None:
    path, packed = tmp_path / "a.ndjson.gz", DAMAGED[kind]
    path.write_bytes(packed)
    whole = until_damage(packed) if kind != "a second member cut off" else TEXT + until_damage(PACKED[:3_000])
    good, _, rest = whole.rpartition(b"\n")
    good += b"\n" if good else b""
    source = reader(path)
    lines, (row,), offsets = drained(source)
    assert lines == good
    assert (row["reason"], row["position"], row["payload"]) == ("compression", len(good), rest)
    assert row["topic"] == "a.ndjson.gz"
    assert source.counters()["damaged_files"] == 1
    for offset in offsets:  # gone on with after a crash, it is told exactly once all the same
        later = drained(reader(path, offset=offset))
        seen = offsets.index(offset) >= len(offsets) - 2
        assert len(later[1]) == (0 if seen else 1)


@pytest.mark.parametrize(("behind", "rows"), [(b"zero" * 5, 1), (bytes(512), 0), (PACKED, 0), (bytes(9) + PACKED, 0)])
def test_bytes_behind_the_end_cost_no_good_row(tmp_path: Path, behind: bytes, rows: int) -> None:
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(gzip.compress(TEXT[:-1]) + behind)  # a last line without its end is whole, all the same
    lines, aside, _ = drained(reader(path))
    assert lines == (TEXT[:-1] + TEXT if PACKED in behind else TEXT[:-1])
    assert [(row["reason"], row["position"]) for row in aside] == [("compression", len(TEXT) - 1)] * rows
    assert all(f"20 bytes follow the end of its data, from byte {len(path.read_bytes()) - 20:,} on" in row["detail"]
               for row in aside)  # fmt: skip


def test_what_is_no_gzip_file_and_what_swells_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gzip, "BOMB_BYTES", 2**20)
    (tmp_path / "a.ndjson.gz").write_bytes(b"plain\n")
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(b"0" * 50_000_000))
    (tmp_path / "c.ndjson").write_bytes(b"good\n")
    source = reader(tmp_path)
    lines, aside, _ = drained(source)
    assert lines.endswith(b"good\n")
    assert [row["reason"] for row in aside] == ["compression", "too_large"]
    assert source.counters() == {"skipped_files": 0, "damaged_files": 2}


def test_a_document_that_is_cut_off_is_set_aside_as_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.xml.gz").write_bytes(gzip.compress(b"<a>" + TEXT + b"</a>")[:-5_000])
    lines, (row,), _ = drained(reader(tmp_path))
    assert lines == b""
    assert row["payload"].startswith(b"<a>{")


def test_a_compressed_file_that_grows_is_waited_for(tmp_path: Path) -> None:
    path, clock = tmp_path / "a.ndjson.gz", HandClock()
    path.write_bytes(PACKED[:9_000])
    clock.us = int(path.stat().st_mtime * 1e6)
    source = reader(path, clock, follow=True)
    first, aside, _ = drained(source)
    assert TEXT.startswith(first)
    assert not aside
    with open(path, "ab") as file:
        file.write(PACKED[9_000:-8])
    second, aside, _ = drained(source)
    assert first + second == TEXT
    assert not aside
    clock.sleep(120)  # its checksum never comes
    assert [row["reason"] for row in drained(source)[1]] == ["compression"]
    assert drained(source)[1] == []


def test_a_file_that_is_looked_at_again_is_not_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(PACKED)
    source = reader(path, follow=True)
    assert drained(source)[0] == TEXT

    def fail(self: Any) -> None:
        raise AssertionError("unpacked again")

    monkeypatch.setattr(_gzip.Gzip, "_start", fail)
    assert drained(source)[0] == b""


def test_a_run_keeps_the_good_rows_and_sets_the_damage_aside(tmp_path: Path) -> None:
    from tocsin.engine.embedded import EmbeddedRunner
    from tocsin.engine.preview import preview
    from tocsin.lake.read import read

    (tmp_path / "a.ndjson.gz").write_bytes(PACKED[:-100])
    text = (
        f"name: t\nfolder: {tmp_path}/lake\n"
        f"sources: {{f: {{source: {{files: {tmp_path}/a.ndjson.gz}}, decode: {{json: {{columns: {{n: int, x: int}}}}}},"
        " key: 'm{n}'}}\nstreams: {kept: {sinks: [{delta: kept}]}}\n"
    )
    (tmp_path / "p.yaml").write_text(text)
    plan = load_with_plan(tmp_path / "p.yaml", {})[1]
    shown = dict(preview(plan, rows_max=10_000))
    assert shown["f.0.json"].num_rows == until_damage(PACKED[:-100]).count(b"\n")
    assert shown["f.files.rejected"].num_rows == 1
    runner = EmbeddedRunner(plan)
    runner.run()
    whole = until_damage(PACKED[:-100])
    assert read("kept", tmp_path / "lake").num_rows == whole.count(b"\n") > 1_900
    (row,) = read("quarantine", tmp_path / "lake").to_pylist()
    assert row["payload"] == whole.rpartition(b"\n")[2]
    (told,) = runner.snapshot()["rejected"]
    assert (told["source"], told["reason"], told["rows"]) == ("f", "compression", 1)
    assert told["detail"], "and what was wrong with it"
