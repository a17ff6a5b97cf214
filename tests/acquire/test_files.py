"""Files as they come in a plant: growing, rotated, truncated, replaced, cut off, and of the wrong kind."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_clock import HandClock
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tocsin.acquire import _lines
from tocsin.acquire.files import Files, FilesReader
from tocsin.batch import END, RAW
from tocsin.errors import SourceError
from tocsin.testing import read_from


def reader(path: Path | str, offset: Any = None, **settings: Any) -> FilesReader:
    offset = json.loads(json.dumps(offset))  # it goes through JSON in a checkpoint
    return FilesReader(Files(path=str(path), **settings), offset, HandClock())


def drained(source: FilesReader, rows_max: int = 1000, polls: int = 50) -> tuple[list[Any], Any]:
    """What comes until the end, or until there is nothing more; and the last offset."""
    left: list[Any] = []
    offset = None
    for _ in range(polls):
        polled = source.poll(rows_max, 0.01)
        if polled is None:
            break
        batch, offset = polled
        batch.rows.validate(full=True)
        left += batch.rows.column("payload").to_pylist() if batch.schema.equals(RAW) else batch.rows.to_pylist()
        if batch.watermark_us == END:
            break
    return left, offset


def test_files_in_natural_order_blank_lines_and_a_last_line_without_end(tmp_path: Path) -> None:
    (tmp_path / "log10.ndjson").write_bytes(b"5\n6")
    (tmp_path / "log2.ndjson").write_bytes(b"1\n\n2\r\n\r\n")
    (tmp_path / "log3.ndjson.gz").write_bytes(gzip.compress(b"3\n4\n"))
    (tmp_path / "readme.md").write_bytes(b"not data\n")
    (tmp_path / ".hidden.ndjson").write_bytes(b"not data\n")
    assert drained(reader(tmp_path))[0] == [b"1\n", b"2\r\n", b"3\n", b"4\n", b"5\n", b"6"]
    assert drained(reader(tmp_path / "*.ndjson"))[0] == [b"1\n", b"2\r\n", b"5\n", b"6"]


@given(
    st.lists(
        st.lists(st.sampled_from([b"a", b"bb", b"", b"ccc" * 9]), max_size=6).map(b"\n".join), min_size=1, max_size=4
    ),
    st.integers(1, 4),
    st.booleans(),
)
def test_resumed_at_any_offset_the_rest_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes], rows_max: int, packed: bool
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    for i, text in enumerate(texts):
        name, data = (f"{i}.ndjson.gz", gzip.compress(text)) if packed else (f"{i}.ndjson", text)
        (folder / name).write_bytes(data)
    whole, _ = drained(reader(folder))
    assert [line.strip() for line in whole] == [line for text in texts for line in text.split(b"\n") if line]
    source, seen = reader(folder), []
    while True:
        polled = source.poll(rows_max, 0.0)
        assert polled is not None
        batch, offset = polled
        seen += batch.rows.column("payload").to_pylist()
        assert seen + drained(reader(folder, offset))[0] == whole
        if batch.watermark_us == END:
            break


def test_a_half_written_line_waits_until_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntw")
    source = reader(path, follow=True)
    assert drained(source)[0] == [b"one\n"]
    with open(path, "ab") as file:
        file.write(b"o\nthree\n")
    assert drained(source)[0] == [b"two\n", b"three\n"]


def test_new_files_in_a_folder_are_found(tmp_path: Path) -> None:
    source = reader(tmp_path, follow=True)
    assert drained(source)[0] == []
    (tmp_path / "b.csv").write_bytes(b"t,v\n1,2\n")
    assert drained(source)[0] == [b"t,v\n", b"1,2\n"]
    (tmp_path / "a.csv").write_bytes(b"t,v\n3,4\n")
    assert drained(source)[0] == [b"t,v\n", b"3,4\n"]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_rotated_file_loses_and_doubles_nothing(tmp_path: Path, restarted: bool) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n")
    source = reader(tmp_path / "a.log*", follow=True)
    seen, offset = drained(source)
    with open(path, "ab") as file:
        file.write(b"two\n")
    path.rename(tmp_path / "a.log.1")
    path.write_bytes(b"three\n")
    if restarted:
        source = reader(tmp_path / "a.log*", offset, follow=True)
    seen += drained(source)[0]
    seen += drained(source)[0]
    assert sorted(seen) == [b"one\n", b"three\n", b"two\n"]


def test_a_file_rotated_out_of_sight_is_read_to_its_end_first(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n")
    source = reader(path, follow=True)
    seen, _ = drained(source)
    with open(path, "ab") as file:
        file.write(b"two\n")
    path.rename(tmp_path / "old")
    path.write_bytes(b"three\n")
    assert seen + drained(source)[0] == [b"one\n", b"two\n", b"three\n"]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("fresh", [b"x\n", b"another beginning\nand more\n"])
def test_a_truncated_or_replaced_file_is_read_from_its_start(tmp_path: Path, restarted: bool, fresh: bytes) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntwo\n")
    source = reader(path, follow=True)
    _, offset = drained(source)
    path.write_bytes(fresh)  # the same inode
    if restarted:
        source = reader(path, offset, follow=True)
    assert b"".join(drained(source)[0]) == fresh


def test_links_pipes_and_folders_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret\n")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link.ndjson").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe.ndjson")
    (folder / "sub.ndjson").mkdir()
    (folder / "z.ndjson").write_bytes(b"1\n")
    source = reader(folder)
    assert drained(source)[0] == [b"1\n"]
    assert len(source.skipped) == 2
    with pytest.raises(SourceError, match="links are not followed"):
        drained(reader(folder / "link.ndjson"))
    with pytest.raises(SourceError, match="no file matches"):
        reader(tmp_path / "nothing.csv")


def test_a_line_longer_than_a_block_is_cut_and_the_next_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lines, "BLOCK_BYTES", 64)
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"first\n" + b"x" * 300 + b"\nlast\n" + b"y" * 300)
    seen, offset = drained(reader(path), rows_max=1)
    assert [len(line) for line in seen] == [6, 64, 5, 64]
    assert drained(reader(path, offset))[0] == []


def test_documents_come_whole_and_once_they_are_settled(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(b"<a>\n</a>\n")
    os.utime(path, (1_900_000_000, 1_900_000_000))
    source = reader(tmp_path, follow=True)
    assert drained(source)[0] == []
    source._clock.sleep(2)
    assert drained(source)[0] == [b"<a>\n</a>\n"]
    assert drained(source)[0] == []
    assert drained(reader(tmp_path))[0] == [b"<a>\n</a>\n"]


def test_parquet_rows_come_typed_and_are_resumed(tmp_path: Path) -> None:
    for name, begin in (("a", 0), ("b", 10)):
        table = pa.table({"n": pa.array(range(begin, begin + 10)), "s": ["x"] * 10})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=4)
    source = Files(path=str(tmp_path))
    assert source.output_schema().names == ["n", "s"]
    stream, seen = read_from(source), []
    while True:
        polled = stream.poll(3, 0.0)
        assert polled is not None
        batch, offset = polled
        seen += batch.rows.column("n").to_pylist()
        rest, _ = drained(reader(tmp_path, offset, format="parquet"))
        assert seen + [row["n"] for row in rest] == list(range(20))
        if batch.watermark_us == END:
            break
    (tmp_path / "c.parquet").write_bytes(b"no such thing")
    source_c = reader(tmp_path, format="parquet")
    assert len(drained(source_c)[0]) == 20
    assert len(source_c.skipped) == 1


@pytest.mark.parametrize("format", ["ndjson", "csv", "parquet"])
def test_replay_keeps_the_rhythm(tmp_path: Path, format: str) -> None:
    stamps = [f"2026-01-01T00:00:{s:02d}Z" for s in (0, 1, 3, 2, 10)]
    path = tmp_path / f"a.{format}"
    if format == "ndjson":
        path.write_text("".join(json.dumps({"v": 1, "ts": t}) + "\n" for t in stamps))
    elif format == "csv":
        path.write_text("v;ts\n" + "".join(f"1;{t}\n" for t in stamps))
    else:
        pq.write_table(pa.table({"ts": stamps, "v": [1] * 5}), path)
    source = reader(path, replay="10x", time_column="ts")
    begin, arrivals = source._clock.now_us(), []
    while True:
        polled = source.poll(100, 60.0)
        if polled is None:
            continue
        arrivals += [round((source._clock.now_us() - begin) / 1e5)] * len(polled[0])
        if polled[0].watermark_us == END:
            break
    assert arrivals[format == "csv" :] == [0, 1, 3, 3, 10]
    with pytest.raises(ValidationError, match="time_column"):
        Files(path="x", replay="2x")


def test_progress_goes_from_nothing_to_all(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.ndjson").write_bytes(b"12345\n" * 10)
    source = reader(tmp_path)
    assert source.progress() == (0, 120)
    source.poll(5, 0.0)
    assert source.progress() == (30, 120)
    drained(source)
    assert source.progress() == (120, 120)
    assert reader(tmp_path, follow=True).progress() is None


@given(st.binary(max_size=200).map(lambda b: bytes(np.frombuffer(b, np.uint8) % 12)))
def test_line_ends_are_where_the_line_feeds_are(text: bytes) -> None:
    buffer = np.frombuffer(text + b"\n" * 8, np.uint8).copy()
    ends = np.zeros(len(text) + 1, np.int32)
    count = _lines.line_ends(buffer.ctypes.data, len(text), ends)
    assert ends[1 : count + 1].tolist() == [i + 1 for i, b in enumerate(text) if b == 10]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_read_as_utf_8(tmp_path: Path, encoding: str, mark: str) -> None:
    path = tmp_path / "a.log"
    path.write_bytes((mark + "\u00d6l\r\n\u96fb\u5727\n").encode(encoding))
    source = reader(path, follow=True)
    seen, offset = drained(source)
    with open(path, "ab") as file:
        file.write("more\nun".encode(encoding))
    seen += drained(source)[0]
    wanted = ["\u00d6l\r\n".encode(), "\u96fb\u5727\n".encode()]
    assert seen == [*wanted, b"more\n"]
    assert drained(reader(path, offset, follow=True))[0] == [b"more\n"]


def test_a_large_file_in_utf_16(tmp_path: Path) -> None:
    lines = [f"{i};\u00e4\u4e00\U0001f600\n" for i in range(400_000)]
    path = tmp_path / "a.log"
    path.write_bytes("".join(lines).encode("utf-16"))
    assert drained(reader(path), 100_000)[0] == [line.encode() for line in lines]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"    \r\n", b"\t\n"])
def test_blank_lines_give_the_loop_back_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, newline: bytes
) -> None:
    monkeypatch.setattr(_lines, "BLOCK_BYTES", 2**20)
    blank = newline * (12 * _lines.BLOCK_BYTES // len(newline))
    text = b"first\n" + blank + b"last\n"
    path = tmp_path / ("a.ndjson.gz" if packed else "a.ndjson")
    path.write_bytes(gzip.compress(text, 1) if packed else text)
    source, offsets, lines = reader(path), [], []
    for _ in range(20):
        polled = source.poll(65_536, 0.0)
        assert polled is not None
        lines += polled[0].rows.column("payload").to_pylist()
        if polled[0].watermark_us == END:
            break
        offsets.append(polled[1][str(path)][2])
    else:
        pytest.fail("many more polls than blocks")
    assert lines == [b"first\n", b"last\n"]
    assert np.diff(offsets).max() <= _lines.BLOCK_BYTES  # no poll passes over more than a block
    assert drained(reader(path, {str(path): [0, "", offsets[7]]}))[0] == [b"last\n"]


def test_the_rest_of_a_line_without_end_gives_the_loop_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lines, "BLOCK_BYTES", 64)
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"x" * 64 * 10 + b"\nlast\n")
    source, empties = reader(path), 0
    while (polled := source.poll(100, 0.0)) is not None and polled[0].watermark_us != END:
        empties += not len(polled[0])
    assert empties >= 8


@pytest.mark.parametrize("follow", [False, True])
def test_many_files_without_rows_give_the_loop_back(tmp_path: Path, follow: bool) -> None:
    for i in range(300):
        (tmp_path / f"{i}.ndjson").touch()
    (tmp_path / "300.ndjson").write_bytes(b"last\n")
    source = reader(tmp_path, follow=follow)
    before, polls = source._clock.us, 1
    while (polled := source.poll(100, 0.05)) is None or not len(polled[0]):
        polls += 1
    assert polls > 4
    assert source._clock.us == before  # it does not rest before it has looked at all of them
    for _ in range(polls):
        source.poll(100, 0.05)
    assert (source._clock.us > before) == follow


@pytest.mark.parametrize(
    ("text", "records"),
    [
        (b'[\n {"v": 1},\n {"v": 2}\n]\n', 1),
        (b'{\n "a": [\n  1\n ]\n}', 1),
        (b'{"a": [\n 1]}\n', 1),
        (b'{"v": 1}\n{"v": 2}\n', 2),
        (b'{"v": 1, "cut\n{"v": 2}\n', 2),
        (b"[1, 2]\n", 1),
    ],
)
def test_a_json_file_shows_whether_it_is_one_document(tmp_path: Path, text: bytes, records: int) -> None:
    (tmp_path / "a.json").write_bytes(text)
    assert len(drained(reader(tmp_path))[0]) == records
    (tmp_path / "a.json").rename(tmp_path / "a.ndjson")
    assert len(drained(reader(tmp_path))[0]) == len([line for line in text.split(b"\n") if line.strip()])
