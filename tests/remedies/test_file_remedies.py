"""What messages on files, databases in files and tables advise is done here, and what was refused works."""

# ruff: noqa: E501 (what stands in a pipeline file, and what a message says, stays in one line)

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from advice import Remedy, followed, remedies
from press import give, tocsin

from tocsin.acquire._template import Template
from tocsin.acquire.delta import Delta as DeltaSource
from tocsin.acquire.files import Files
from tocsin.acquire.opcua import Opcua
from tocsin.acquire.sqlite import Sqlite
from tocsin.batch import END
from tocsin.contracts import Source
from tocsin.engine.ingest_log import IngestLog
from tocsin.lake.following import TableFollower
from tocsin.lake.log import Log
from tocsin.lake.maintenance import checkpoint, clean_log
from tocsin.mqtt.sessions import load, read_users, save
from tocsin.output._template_channel import Template as TemplateChannel
from tocsin.output.delta import Delta
from tocsin.output.files import Files as FilesSink
from tocsin.testing import read_from, rows, stream, world
from tocsin.world import SystemDisk

DISK = SystemDisk()
ROWS = rows({"value": [1.0, 2.0]})


def all_of(source: Source) -> int:
    """Reads a source that ends, and returns how many rows it had."""
    count = 0
    with closing(read_from(source)) as reader:
        while (taken := reader.poll(1_000, 30)) is not None and taken[0].watermark_us != END:
            count += taken[0].rows.num_rows
    return count


def given_files(folder: Path, pattern: str) -> None:
    (folder / "a.ndjson").write_text("{}\n")
    pq.write_table(pa.table({"a": [1]}), folder / "b.parquet")
    (folder / "link.ndjson").is_symlink() or (folder / "link.ndjson").symlink_to(folder / "a.ndjson")
    assert all_of(Files(path=str(folder / pattern))) == 1


def template(folder: Path, path: str) -> None:
    (folder / "plant").mkdir(exist_ok=True)
    (folder / "plant" / "in.txt").touch()
    Template(path=path).check(world(folder))


def certificates(folder: Path, name: str) -> None:
    (folder / "tls").mkdir(exist_ok=True)
    for one in ("me.pem", "me.key"):
        (folder / "tls" / one).touch()
    security = {"policy": "Basic256Sha256", "cert": name, "key": name.replace(".pem", ".key")}
    Opcua.model_validate({"url": "opc.tcp://h:4840", "nodes": {"p": {"a": "ns=2;i=1"}}, "security": security}).check(
        world(folder)
    )


def database(folder: Path, settings: Mapping[str, Any]) -> None:
    with closing(sqlite3.connect(folder / "plant.db")) as opened, opened:
        opened.execute("create table if not exists readings (id integer primary key, v real)")
        opened.execute("insert into readings (v) values (1.5)")
    source = Sqlite.model_validate({"path": folder / "plant.db", "cursor": "id", **settings})
    source.check(world())
    assert all_of(source) > 0


def followed_table(folder: Path, path: str) -> None:
    if path == "started":
        give(folder, 3)
        tocsin("run", folder / "p.yaml")
        path = "lake/readings"
    assert DeltaSource(path=path if "://" in path else str(folder / path)).output_schema().names


def channel(_: Path, url: str) -> None:
    TemplateChannel(url=url).check(world())


NAMED = [
    *remedies(
        given_files,
        ("acquire/_lines", "links are not followed; name the file itself", "link.ndjson", "a.ndjson"),
        (
            "acquire/files/_reader",
            "Parquet files cannot be mixed with others; read them as a source of their own",
            "[ab].*",
            "*.parquet",
            "a.*",
        ),
    ),
    *remedies(
        template,
        ("acquire/_template", "write the path from the folder that tocsin runs in", "in.txt", "plant/in.txt"),
    ),
    *remedies(
        certificates,
        ("acquire/opcua", "write the path from the folder that tocsin runs in", "me.pem", "tls/me.pem"),
    ),
    *remedies(
        database,
        ("acquire/sqlite", "set either table or query: what to read", {}, {"table": "readings"}, {"query": "select * from readings"}),
        ("acquire/sqlite", "set path to the database", {"path": "nowhere.db", "table": "readings"}, {"table": "readings"}),
        (
            "acquire/sqlite",
            "write one statement that asks for rows",
            {"query": "delete from readings"},
            {"query": "select id, v from readings where v > 1"},
        ),
    ),
    *remedies(
        followed_table,
        ("acquire/delta", "start the pipeline that writes it once", "lake/readings", "started"),
        ("acquire/delta", "or let the pipeline that writes it write a table in a folder, too", "s3://plant/readings", "started"),
    ),
    *remedies(
        channel,
        ("output/_template_channel", "write it as https://host/path", "somewhere", "https://host/path"),
    ),
]  # fmt: skip


def table(folder: Path, count: int = 2, name: str = "t") -> Delta:
    """A table of so many epochs; returns its sink."""
    sink = Delta(path=name)
    with closing(sink.open(world(folder), ROWS.schema)) as writer:
        for epoch in range(1, count + 1):
            writer.publish(epoch, [writer.stage(epoch, [ROWS])])
    return sink


def entry_of_log(folder: Path, how: str) -> None:
    """Reads on in a log whose newest entry is no longer one, until that is mended."""
    place, kept = folder / "t" / "_delta_log", folder / "kept"
    if how == "torn":
        table(folder)
        kept.write_bytes(max(place.glob("*.json")).read_bytes())
        log = Log(folder / "t", DISK)
        log.entry(log.snapshot.version + 1).write_text("rust\n" * 3)
        log.refresh()
    elif how == "restored":
        max(place.glob("*.json")).write_bytes(kept.read_bytes())
    else:
        max(place.glob("*.json")).unlink()
    log = Log(folder / "t", DISK)
    log.refresh()
    assert log.snapshot.version >= 2


def protocol(folder: Path, name: str, minimum: str) -> None:
    """Opens a table for writing; the one named ``t`` asks for more than is known here."""
    if name == "t":
        sink = table(folder)
        entry = folder / "t" / "_delta_log" / f"{0:020d}.json"
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
        for action in actions:
            if "protocol" in action:
                action["protocol"][minimum] = 9
        entry.write_text("\n".join(map(json.dumps, actions)))
    else:
        sink = Delta(path=name)
    sink.open(world(folder), ROWS.schema).close()


def cleaned(folder: Path, how: str) -> None:
    """Follows a table from where it was read to before; the log was cleaned since, unless its entries are kept."""
    table(folder, 1, how)
    follower = TableFollower(folder / how, DISK)
    while follower.take() is not None:
        pass
    with closing(Delta(path=how).open(world(folder), ROWS.schema)) as writer:
        for epoch in (2, 3):
            writer.publish(epoch, [writer.stage(epoch, [ROWS])])
        checkpoint(writer.log)
        clean_log(writer.log, 3_600_000_000 if how == "longer" else -1_000_000)  # a second later
    if how == "anew":
        follower = TableFollower(folder / how, DISK)
    assert follower.take() is not None


TABLES = [
    *remedies(entry_of_log, ("lake/log", "restore it, or remove it if it is the last", "torn", "restored", "removed")),
    *remedies(
        lambda folder, name: protocol(folder, name, "minReaderVersion"),
        ("lake/log", "the table needs Delta reader version {}{}, which is not supported here; write to a table of its own", "t", "own"),
    ),
    *remedies(
        lambda folder, name: protocol(folder, name, "minWriterVersion"),
        ("lake/log", "the table needs Delta writer version {}{}, which is not supported here; write to a table of its own", "t", "own"),
    ),
    *remedies(
        cleaned,
        ("lake/following", "give the sink that writes the table a longer retention, and read it anew (--forget the source)", "gone", "anew", "longer"),
    ),
]  # fmt: skip


def two_engines(make: Callable[..., Any], folder: Path, how: str) -> None:
    """Two processes write one table, under one name unless it is mended."""
    one = make().open(world(folder, "one"), ROWS.schema)
    two = None if how == "stopped" else make().open(world(folder, "two" if how == "other" else "one"), ROWS.schema)
    epoch = (one.published() or 0) + 1
    one.publish(epoch, [one.stage(epoch, [ROWS])])
    if two is not None:
        two.publish(epoch, [two.stage(epoch, [ROWS])])


def columns_removed(folder: Path, how: str) -> None:
    """Another engine takes a column out of a table that is being written."""
    if how == "removed":
        table(folder, 1)
    writer = Delta(path="t").open(world(folder), ROWS.schema)
    epoch = (writer.published() or 0) + 1
    if how == "removed":
        other = Log(folder / "t", DISK, "other")
        fields = [field for field in other.snapshot.fields if field["name"] != "value"]
        text = json.dumps({"type": "struct", "fields": fields})
        other.commit([{"metaData": {**other.snapshot.metadata, "schemaString": text}}], lambda _: True)
    writer.publish(epoch, [writer.stage(epoch, [ROWS])])


def files_of(folder: Path, settings: tuple[str, str]) -> None:
    """Writes files, as an engine of this name, into this folder."""
    app, path = settings
    writer = FilesSink(path=path).open(world(folder, app), ROWS.schema)
    writer.publish(1, [writer.stage(1, [ROWS])])


def files_cut(folder: Path, how: str) -> None:
    """Goes on with a file that somebody has cut off in between."""
    writer = FilesSink(path="t").open(world(folder), ROWS.schema)
    if how == "cut":
        writer.publish(1, [writer.stage(1, [ROWS])])
        (folder / "kept").write_bytes(writer.part.read_bytes())
        writer.part.write_bytes(b"")
    elif how == "restored":
        writer.part.write_bytes((folder / "kept").read_bytes())
    else:
        writer.part.rename(folder / "away")
    writer.publish(5, [writer.stage(5, [ROWS])])


ENGINES = [
    *remedies(
        lambda folder, how: two_engines(lambda: Delta(path="t"), folder, how),
        ("output/delta", "stop it, or give one of the pipelines another name", "both", "stopped", "other"),
    ),
    *remedies(columns_removed, ("output/delta", "start again to add them", "removed", "again")),
    *remedies(
        files_of,
        ("output/files", "give '{}' a folder of its own", ("two", "t"), ("two", "own")),
    ),
    *remedies(files_cut, ("output/files", "restore it, or move it away", "cut", "restored", "moved")),
]


def frames(folder: Path, how: str) -> None:
    """Opens the log of a source of which a part is damaged, until the backup is back."""
    place = folder / "log"
    if not place.exists():
        log = IngestLog(place, DISK, 1 if how == "cut" else 1 << 20)
        for number in range(5):
            log.append(next(iter(stream(ROWS))), {"at": number})
            log.sync()
        (folder / "backup").mkdir()
        for path in place.iterdir():
            (folder / "backup" / path.name).write_bytes(path.read_bytes())
        path = sorted(place.iterdir())[0]
        data = bytearray(path.read_bytes())
        if how == "cut":
            data = data[:-9]
        else:
            data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        for path in (folder / "backup").iterdir():
            (place / path.name).write_bytes(path.read_bytes())
    assert IngestLog(place, DISK).seq == 5


def passwords(folder: Path, how: int) -> None:
    path = folder / "users"
    path.write_text("me:secret\n")
    path.chmod(how)
    assert read_users(path) == {"me": "secret"}


def sessions(folder: Path, how: str) -> None:
    path = folder / "sessions"
    if how == "damaged":
        save(path, [], [], 0.0)
        path.write_bytes(b"rust")
    else:
        path.unlink()
    assert load(path) == ([], [])


KEPT = [
    *remedies(frames, ("engine/ingest_log", "is damaged although it was on disk; restore a backup", "damaged", "back")),
    *remedies(frames, ("engine/ingest_log", "although more follow; restore a backup", "cut", "back")),
    *remedies(passwords, ("mqtt/sessions", "chmod 600 {}", 0o644, 0o600)),
    *remedies(sessions, ("mqtt/sessions", "is not what the broker wrote when it stopped ({}); delete it", "damaged", "deleted")),
]  # fmt: skip


@followed(NAMED + TABLES + ENGINES + KEPT)
def test_what_a_file_advises(remedy: Remedy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if remedy.given is files_of:
        files_of(tmp_path, ("one", "t"))
    remedy.follow(tmp_path)
