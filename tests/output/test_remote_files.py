"""Files in an object store and in HDFS: each row once, whatever breaks between two steps, and clear refusals."""

from __future__ import annotations

import csv
import gzip
import io
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from crashing_writers import EPOCHS, EXPECTED, Stepping, batch, crashed_at_every_step
from hdfs_server import Hdfs
from servers import ObjectStore, free_port
from sinks import rows_of

import tocsin
from tocsin.errors import ConfigError, ForeignCommit, MissingExtra, SinkError, TocsinError, Unavailable
from tocsin.lake.remote import RemoteTable
from tocsin.objects.store import Listed, Store, open_store
from tocsin.output._remote_delta import RemoteDeltaWriter
from tocsin.output._remote_files import RemoteFilesWriter
from tocsin.output.files import Files
from tocsin.testing import world
from tocsin.testing.simulated import SimulatedWorld
from tocsin.world import World

_NUMBERS = count()


def sink(store: ObjectStore, folder: str, **more: Any) -> Files:
    return Files.model_validate({"path": f"s3://plant/{folder}", "storage": store.options, **more})


def values(store: ObjectStore, folder: str) -> Counter[float]:
    files = {name: data for name, data in store.objects(folder).items() if not name.startswith("_")}
    return Counter(row["value"] for name, data in files.items() for row in rows_of(name, data))


@pytest.mark.parametrize("cuts_power", [False, True])
def test_files_are_whole_and_once_wherever_the_process_dies(object_store: ObjectStore, cuts_power: bool) -> None:
    def opened(place: World, simulated: SimulatedWorld, folder: str) -> RemoteFilesWriter:
        address = f"s3://plant/{folder}"
        store: Any = Stepping(open_store(address, object_store.options, SinkError), simulated)
        return RemoteFilesWriter(place, batch(1).schema, store, address, "ndjson", "none")

    for folder in crashed_at_every_step(opened, cuts_power=cuts_power):
        assert values(object_store, folder) == EXPECTED, folder


def test_a_table_has_each_row_once_wherever_the_process_dies(object_store: ObjectStore) -> None:
    def opened(place: World, simulated: SimulatedWorld, name: str) -> RemoteDeltaWriter:
        table: Any = Stepping(RemoteTable(f"s3://plant/{name}", object_store.options), simulated)
        return RemoteDeltaWriter(place, batch(1).schema, table, (), 1 << 20, 3_600_000_000)

    for name in crashed_at_every_step(opened, cuts_power=True):
        read = RemoteTable(f"s3://plant/{name}", object_store.options).read()
        assert Counter(read["value"].to_pylist()) == EXPECTED, name


class Lossy:
    """A store whose answer to the first put of rows never comes; what was put arrives when the test wants it."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.late: tuple[str, bytes] | None = None
        self.names, self.delete, self.chunks, self.close = inner.names, inner.delete, inner.chunks, inner.close

    def objects(self, folder: str) -> Iterator[Listed]:
        return self._inner.objects(folder)

    def create(self, name: str, data: bytes) -> bool:
        if self.late is None and data:
            self.late = name, data
            raise Unavailable("no answer")
        return self._inner.create(name, data)

    def arrive(self) -> None:
        assert self.late is not None
        self._inner.create(*self.late)


@pytest.mark.parametrize("arrives_first", [True, False])
def test_a_put_that_arrives_late_doubles_nothing(object_store: ObjectStore, arrives_first: bool) -> None:
    place, folder = world(), f"late{next(_NUMBERS)}"
    address = f"s3://plant/{folder}"
    lossy = Lossy(open_store(address, object_store.options, SinkError))

    def opened() -> RemoteFilesWriter:
        return RemoteFilesWriter(place, batch(1).schema, lossy, address, "csv", "gz")

    writer = opened()
    tokens = [writer.stage(epoch, [batch(epoch)]) for epoch in EPOCHS]
    with pytest.raises(Unavailable):
        writer.publish(1, tokens[:1])
    again = opened()
    assert again.published() is None
    if arrives_first:
        lossy.arrive()
    again.publish(EPOCHS[-1], tokens)
    if not arrives_first:
        lossy.arrive()
    again.close()
    read = [row for data in named(object_store, folder, ".csv.gz") for row in csv.DictReader(text(data))]
    assert Counter(float(row["value"]) for row in read) == EXPECTED


def named(store: ObjectStore, folder: str, ending: str) -> list[bytes]:
    return [data for name, data in store.objects(folder).items() if name.endswith(ending)]


def text(data: bytes) -> io.StringIO:
    return io.StringIO(gzip.decompress(data).decode())


def test_epochs_that_waited_become_one_file_and_readers_see_no_other(object_store: ObjectStore) -> None:
    folder, place = f"gathered{next(_NUMBERS)}", world()
    with closing(sink(object_store, folder).open(place, batch(1).schema)) as writer:
        writer.publish(2, [writer.stage(epoch, [batch(epoch)]) for epoch in EPOCHS])
        for epoch in (4, 5):
            writer.publish(epoch, [writer.stage(epoch, [])])
    seen = [name for name in object_store.objects(folder) if not name.startswith("_")]
    assert len(seen) == 1
    assert seen[0].endswith("-000000000002.ndjson")
    marks = [name for name in object_store.objects(folder) if name.startswith("_tocsin/")]
    assert [name.rpartition("-")[2] for name in marks] == ["000000000005"]


def test_files_that_somebody_took_away_do_not_come_again(object_store: ObjectStore) -> None:
    folder, place = f"taken{next(_NUMBERS)}", world()
    with closing(sink(object_store, folder).open(place, batch(1).schema)) as writer:
        token = writer.stage(1, [batch(1)])
        writer.publish(1, [token])
    for name in object_store.objects(folder):
        if not name.startswith("_"):
            object_store.client.delete_object(Bucket="plant", Key=f"{folder}/{name}")
    with closing(sink(object_store, folder).open(place, batch(1).schema)) as writer:
        assert writer.published() == 1
        writer.publish(1, [token])
        writer.publish(2, [writer.stage(2, [batch(2)])])
    assert values(object_store, folder) == Counter([20.0, 21.0, 22.0])


def test_another_engine_under_our_name_is_noticed(object_store: ObjectStore) -> None:
    folder, one, other = f"twice{next(_NUMBERS)}", world(), world()
    with closing(sink(object_store, folder).open(one, batch(1).schema)) as first:
        first.publish(1, [first.stage(1, [batch(1)])])
        with closing(sink(object_store, folder).open(other, batch(1).schema)) as second:
            second.publish(2, [second.stage(2, [batch(2)])])
        with pytest.raises(ForeignCommit, match="another engine writes under our name"):
            first.publish(3, [first.stage(3, [batch(3)])])
    with closing(sink(object_store, folder).open(world(name="another/name"), batch(1).schema)) as renamed:
        renamed.publish(1, [renamed.stage(1, [batch(1)])])
    with closing(sink(object_store, folder).open(one, batch(1).schema)) as alone:
        alone.publish(3, [alone.stage(3, [batch(3)])])


def test_one_of_many_writers_makes_an_object(object_store: ObjectStore, hdfs: Hdfs) -> None:
    for address, storage in (("s3://plant/race", object_store.options), (f"{hdfs.url}/race", hdfs.options)):
        for race in range(5 if address.startswith("s3") else 2):
            name = f"object-{race}"
            with ThreadPoolExecutor(4) as threads:
                won = list(threads.map(partial(made, address, storage, name), range(4)))
            with closing(open_store(address, storage, SinkError)) as store:
                assert [b"".join(store.chunks(name))] == [b"%d" % number for number in range(4) if won[number]]


def made(address: str, storage: dict[str, str], name: str, number: int) -> bool:
    with closing(open_store(address, storage, SinkError)) as store:
        return store.create(name, b"%d" % number)


def test_a_table_in_hdfs(hdfs: Hdfs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HADOOP_USER_NAME", hdfs.options["user"])
    table, place = RemoteTable(f"{hdfs.table_url}/tables/t", {}), world()
    with closing(RemoteDeltaWriter(place, batch(1).schema, table, (), 1 << 20, 3_600_000_000)) as writer:
        tokens = [writer.stage(epoch, [batch(epoch)]) for epoch in EPOCHS]
        writer.publish(1, tokens[:1])
        writer.publish(1, tokens[:1])
        writer.publish(2, tokens[1:])
        assert writer.published() == 2
    assert Counter(table.read()["value"].to_pylist()) == EXPECTED


def publish(files: Files) -> None:
    with closing(files.open(world(), batch(1).schema)) as writer:
        writer.publish(1, [writer.stage(1, [batch(1)])])


def test_refusals_name_the_remedy(object_store: ObjectStore, hdfs: Hdfs) -> None:
    def said(settings: dict[str, Any], kind: type[Exception]) -> str:
        with pytest.raises(kind) as told:
            publish(Files.model_validate(settings))
        return str(told.value)

    assert "knows no setting 'aws_nonsense'" in said(
        {"path": "s3://b/x", "storage": {"aws_nonsense": "1"}}, ConfigError
    )
    plain = {name: value for name, value in object_store.options.items() if name != "aws_allow_http"}
    assert "aws_allow_http" in said({"path": "s3://plant/x", "storage": plain}, SinkError)
    assert "NoSuchBucket" in said({"path": "s3://nowhere-at-all/x", "storage": object_store.options}, SinkError)
    absent = {**object_store.options, "aws_endpoint_url": f"http://127.0.0.1:{free_port()}", "max_retries": "0"}
    assert "\n" not in said({"path": "s3://plant/x", "storage": absent}, Unavailable)
    assert "web interface (9870" in said({"path": f"{hdfs.table_url}/x"}, SinkError)
    assert "HADOOP_USER_NAME" in said({"path": f"{hdfs.url}/x", "storage": {"user": "nobody"}}, SinkError)
    assert "there is user" in said({"path": f"{hdfs.url}/x", "storage": {"name": "nobody"}}, ConfigError)
    said({"path": f"hdfs://127.0.0.1:{free_port()}/x"}, Unavailable)
    publish(Files.model_validate({"path": f"{hdfs.url}/corrected", "storage": hdfs.options}))
    if object_store.binary is None:
        pytest.skip("moto takes any secret: versitygw is not installed")
    wrong = {**object_store.options, "aws_secret_access_key": "wrong"}
    assert "check the credentials" in said({"path": "s3://plant/x", "storage": wrong}, SinkError)
    publish(Files.model_validate({"path": "s3://plant/checked", "storage": object_store.options}))


def test_what_cannot_work_is_told_by_check(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="ftp:// is no place"):
        Files(path="ftp://host/x").check(world())
    with pytest.raises(ConfigError, match="nothing else"):
        Files(path="s3://plant?secret=x/y").check(world())
    Files(path="hdfs://namenode/x").check(world())  # nothing is asked of the other side
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    monkeypatch.delitem(__import__("sys").modules, "tocsin.objects.cloud", raising=False)
    with pytest.raises(MissingExtra, match=r"tocsin\[remote\]"):
        Files(path="s3://plant/x").check(world())


def test_the_environment_says_what_the_file_does_not(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.options.items():
        monkeypatch.setenv(name.upper(), value)
    publish(Files(path="s3://plant/environment"))
    assert values(object_store, "environment") == Counter([10.0, 11.0, 12.0])


def test_secrets_are_not_shown_and_may_change(object_store: ObjectStore) -> None:
    one = sink(object_store, "x")
    assert object_store.SECRET not in json.dumps(one.model_dump(mode="json"))
    assert one.place() == sink(object_store, "x", storage={}).place()


PIPELINE = """
name: by_way_of_hdfs
folder: {folder}
sources:
  lines:
    source: {{files: {{path: {lines}, follow: true}}}}
    decode: {{json: {{columns: {{machine: text, n: int}}}}}}
    key: machine
  archive:
    source: {{files: {{path: "{url}/archive", follow: true, every: 200ms, storage: {storage}}}}}
    decode: {{json: {{columns: {{key: text, n: int}}}}}}
    key: key
checkpoint: 200ms
streams:
  sent:
    from: lines
    sinks: [files: {{path: "{url}/archive", storage: {storage}}}]
  kept:
    from: archive
    sinks: [delta: kept]
"""


@pytest.mark.timeout(240)
def test_rows_go_to_hdfs_and_back_once_through_kills(hdfs: Hdfs, tmp_path: Path) -> None:
    lines, file, total = tmp_path / "in.ndjson", tmp_path / "pipeline.yaml", 900
    storage = json.dumps(hdfs.options)
    file.write_text(PIPELINE.format(folder=tmp_path, lines=lines, url=hdfs.url, storage=storage))
    lines.touch()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "tocsin.cli", "run", str(file)])

    def kept() -> list[int]:
        try:
            return list(tocsin.read("kept", tmp_path)["n"].to_pylist())
        except TocsinError:  # not made yet
            return []

    process = start()
    try:
        for begin in range(0, total, total // 3):
            with lines.open("a") as more:
                for n in range(begin, begin + total // 3):
                    more.write(json.dumps({"machine": f"m{n % 3}", "n": n}) + "\n")
            until = time.monotonic() + 60
            while len(kept()) <= begin:
                assert time.monotonic() < until, f"{len(kept())} rows"
                time.sleep(0.1)
            if begin < total // 3 * 2:
                process.kill()
                process.wait(10)
                process = start()
        while len(kept()) < total:
            assert time.monotonic() < until, f"{len(kept())} rows"
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)
    assert Counter(kept()) == Counter(range(total))
