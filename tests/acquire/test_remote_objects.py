"""Objects at an address as a source: each once, through restarts, replacements and what is taken away meanwhile."""

from __future__ import annotations

import gzip
import io
import json
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hdfs_server import Hdfs
from pydantic import ValidationError
from servers import ObjectStore

from tocsin.acquire.files import Files
from tocsin.acquire.files._remote import select
from tocsin.batch import END
from tocsin.contracts import Reader
from tocsin.errors import SourceError
from tocsin.testing import world

_NUMBERS = count()


@pytest.fixture
def folder() -> str:
    return f"in{next(_NUMBERS)}"


def source(store: ObjectStore, path: str, **more: Any) -> Files:
    settings = {"path": f"s3://plant/{path}", "storage": store.options, "every": "50ms", **more}
    return Files.model_validate(settings)


def opened(files: Files, offset: Any = None) -> Reader:
    connection = files.open(world())
    return connection.read(connection.splits()[0], json.loads(json.dumps(offset)))


def taken(reader: Reader, rows: int | None = None, rows_max: int = 1_000) -> Iterator[tuple[Any, Any]]:
    """Yields each batch with its offset, until so many rows have come, or the end."""
    until, got = time.monotonic() + 20, 0
    while rows is None or got < rows:
        assert time.monotonic() < until, f"{got} of {rows} rows"
        polled = reader.poll(rows_max, 0.1)
        if polled is None:
            continue
        if polled[0].watermark_us == END:
            return
        got += len(polled[0])
        yield polled


def payloads(reader: Reader, rows: int | None = None) -> list[bytes]:
    return [one for batch, _ in taken(reader, rows) if len(batch) for one in batch.rows.column("payload").to_pylist()]


def test_parquet_is_read_as_a_source_of_its_own(object_store: ObjectStore, folder: str) -> None:
    parquet = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), parquet)
    object_store.put(f"{folder}/a.ndjson", b"1\n")
    object_store.put(f"{folder}/b.parquet", parquet.getvalue())
    with (
        closing(opened(source(object_store, folder))) as reader,
        pytest.raises(SourceError, match="cannot be mixed with others; read them as a source of their own"),
    ):
        payloads(reader)
    with closing(opened(source(object_store, f"{folder}/*.ndjson"))) as reader:
        assert payloads(reader) == [b"1\n"]
    with closing(opened(source(object_store, f"{folder}/*.parquet"))) as reader:
        assert sum(len(batch) for batch, _ in taken(reader)) == 1


def test_all_below_a_folder_in_natural_order_with_their_topics(object_store: ObjectStore, folder: str) -> None:
    object_store.put(f"{folder}/log10.ndjson", b"4\n5")
    object_store.put(f"{folder}/log2.ndjson", b"1\n\n2\n")
    object_store.put(f"{folder}/deep/er/log.ndjson.gz", gzip.compress(b"0\n"))
    object_store.put(f"{folder}/log3.csv", b"3\n")
    for name in ("readme.md", "_tocsin/x/to-1.ndjson", ".hidden.ndjson", "deep/_temporary/a.ndjson"):
        object_store.put(f"{folder}/{name}", b"not data\n")
    with closing(opened(source(object_store, folder))) as reader:
        got = [batch for batch, _ in taken(reader) if len(batch)]
    lines = [line.strip() for batch in got for line in batch.rows.column("payload").to_pylist()]
    assert lines == [b"0", b"1", b"2", b"3", b"4", b"5"]
    topics = [topic for batch in got for topic in batch.rows.column("topic").to_pylist()]
    assert list(dict.fromkeys(topics)) == ["deep/er/log.ndjson.gz", "log2.ndjson", "log3.csv", "log10.ndjson"]
    with closing(opened(source(object_store, f"{folder}/log10.ndjson"))) as reader:
        assert payloads(reader) == [b"4\n", b"5"]
    with closing(opened(source(object_store, f"{folder}/**/*.gz"))) as reader:
        assert payloads(reader) == [b"0\n"]


@pytest.mark.parametrize(
    ("path", "name", "is_meant"),
    [
        ("s3://b/in/*.csv", "a.csv", True),
        ("s3://b/in/*.csv", "deep/a.csv", False),
        ("s3://b/in/**/*.csv", "deep/er/a.csv", True),
        ("s3://b/in/**/*.csv", "a.csv", True),
        ("s3://b/in/2026-0[1-3]/?.csv", "2026-02/a.csv", True),
        ("s3://b/in/2026-0[!1-3]/?.csv", "2026-02/a.csv", False),
        ("s3://b/in/a+b*", "a+b.txt", True),
    ],
)
def test_patterns(path: str, name: str, is_meant: bool) -> None:
    selection = select(path, any_ending=False)
    assert selection.root == "s3://b/in"
    assert bool(selection.pattern.fullmatch(name)) is is_meant


def test_new_objects_are_followed_and_none_is_read_again_after_a_restart(
    object_store: ObjectStore, folder: str
) -> None:
    files = source(object_store, folder, follow=True)
    object_store.put(f"{folder}/b.ndjson", b"1\n2\n3\n")
    with closing(opened(files)) as reader:
        some = list(taken(reader, 2, rows_max=2))
    object_store.put(f"{folder}/a.ndjson", b"4\n")
    with closing(opened(files, some[-1][1])) as reader:
        rest = list(taken(reader, 2))
        assert [v for b, _ in rest if len(b) for v in b.rows.column("payload").to_pylist()] == [b"3\n", b"4\n"]
        object_store.put(f"{folder}/a.ndjson", b"5\n")  # replaced: another object
        assert payloads(reader, 1) == [b"5\n"]
        object_store.client.delete_object(Bucket="plant", Key=f"{folder}/b.ndjson")
        object_store.put(f"{folder}/c.ndjson", b"6\n")
        last = list(taken(reader, 1))
    done = last[-1][1]["done"]
    with closing(opened(files, last[-1][1])) as reader:
        object_store.put(f"{folder}/d.ndjson", b"7\n")
        later = list(taken(reader, 1))
    assert [v for b, _ in later if len(b) for v in b.rows.column("payload").to_pylist()] == [b"7\n"]
    assert len(done) <= 2, "what is no longer there is still remembered"


def test_parquet_and_what_is_damaged(object_store: ObjectStore, folder: str) -> None:
    for number in range(3):
        buffer = io.BytesIO()
        pq.write_table(pa.table({"n": [2 * number, 2 * number + 1]}), buffer)
        object_store.put(f"{folder}/{number}.parquet", buffer.getvalue() if number != 1 else b"PAR1 no more")
    files = source(object_store, folder)
    assert files.output_schema().names == ["n"]
    with closing(opened(files)) as reader:
        assert [n for batch, _ in taken(reader) if len(batch) for n in batch.rows["n"].to_pylist()] == [0, 1, 4, 5]
        assert reader.counters()["skipped_files"] == 1
    object_store.put(f"{folder}z/a.ndjson.gz", gzip.compress(b"1\n" * 9_000)[:-30])
    with closing(opened(source(object_store, f"{folder}z"))) as reader:
        ports = [batch.port for batch, _ in taken(reader)]
        assert "rejected" in ports
        assert reader.counters()["damaged_files"] == 1


def test_files_in_hdfs_are_read_deep_down(hdfs: Hdfs, folder: str) -> None:
    for name in ("b/2.ndjson", "a/1.ndjson", "_logs/x.ndjson"):
        hdfs.put(f"{folder}/{name}", name.encode())
    files = Files.model_validate({"path": f"{hdfs.url}/{folder}", "storage": hdfs.options})
    with closing(opened(files)) as reader:
        assert payloads(reader) == [b"a/1.ndjson", b"b/2.ndjson"]


def test_refusals_name_the_remedy(object_store: ObjectStore, folder: str) -> None:
    with closing(opened(source(object_store, f"{folder}/*.csv"))) as reader, pytest.raises(SourceError, match="no obj"):
        payloads(reader)
    with pytest.raises(ValidationError, match="fetch the objects first"):
        Files(path="s3://plant/x", replay=2.0, time_column="t")
    object_store.put(f"{folder}/a.ndjson", b"1\n")
    object_store.put(f"{folder}/b.parquet", b"1\n")
    with closing(opened(source(object_store, folder))) as reader, pytest.raises(SourceError, match="cannot be mixed"):
        payloads(reader)
