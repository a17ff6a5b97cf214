"""Each sink of the project with a look at its table from outside, for the kit of sinks."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tocsin.contracts import Sink
from tocsin.ends import Spooled
from tocsin.output.delta import Delta
from tocsin.output.files import Files
from tocsin.world import World

Row = Mapping[str, Any]


class DeltaHarness:
    """A Delta table, its log read by hand."""

    simulated = True

    def sink(self) -> Delta:
        return Delta(path="t")

    def leaving(self) -> Delta:
        return Delta(path="../t")

    def visible(self, world: World) -> Sequence[Row]:
        folder = world.folder / "t"
        live: dict[str, None] = {}
        for name in world.disk.names(folder / "_delta_log"):
            if not name.endswith(".json"):
                continue
            for line in world.disk.read(folder / "_delta_log" / name).splitlines():
                action = json.loads(line)
                if "add" in action:
                    live[action["add"]["path"]] = None
                if "remove" in action:
                    live.pop(action["remove"]["path"], None)
        files = [pq.ParquetFile(pa.BufferReader(world.disk.read(folder / path))).read() for path in live]
        return [row for table in files for row in table.to_pylist()]


class FilesHarness:
    """A folder of files."""

    simulated = True

    def __init__(self, format: str, compress: str = "none") -> None:
        self._settings = {"format": format, "compress": compress}

    def sink(self) -> Files:
        return Files.model_validate({"path": "t", **self._settings})

    def leaving(self) -> Files:
        return Files.model_validate({"path": "../t", **self._settings})

    def visible(self, world: World) -> Sequence[Row]:
        folder = world.folder / "t"
        parts = [name for name in world.disk.names(folder) if name.startswith("part-")]
        found: list[Row] = []
        for name in parts:
            data = world.disk.read(folder / name)
            if name.endswith(".parquet"):
                found += pq.ParquetFile(pa.BufferReader(data)).read().to_pylist()
            elif name.endswith(".ndjson"):
                found += [json.loads(line) for line in data.splitlines()]
            else:
                lines = [line.split(",") for line in data.decode().splitlines()]
                names = [cell.strip('"') for cell in lines[0]] if lines else []
                found += [dict(zip(names, cells, strict=False)) for cells in lines[1:]]
        return found


class Ledger(Sink):
    """A table in another database, whose transaction is its own: the model of a `Spooled` sink."""

    path: str
    """The database file, which stands for a server."""

    def open(self, world: World, schema: pa.Schema) -> LedgerWriter:
        return LedgerWriter(self.path, world, schema)


class LedgerWriter(Spooled):
    """Rows and epoch in one transaction."""

    def __init__(self, path: str, world: World, schema: pa.Schema) -> None:
        super().__init__(world, schema)
        self._path = path

    def apply(self, epoch: int, rows: pa.Table) -> None:
        with self._database() as db:
            db.executemany(
                "insert into taken values (?)", [(json.dumps(row, default=str),) for row in rows.to_pylist()]
            )
            db.execute("insert or replace into reached values (?, ?)", (self.world.name, epoch))

    def applied(self) -> int | None:
        with self._database() as db:
            found = db.execute("select epoch from reached where name = ?", (self.world.name,)).fetchone()
        return None if found is None else int(found[0])

    def _database(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path)
        db.execute("create table if not exists taken (row text)")
        db.execute("create table if not exists reached (name text primary key, epoch integer)")
        return db


class LedgerHarness:
    """A new database for each look at a new world."""

    simulated = False

    def sink(self) -> Sink:
        return _BesideTheWorld()

    def leaving(self) -> None:
        return None

    def visible(self, world: World) -> Sequence[Row]:
        with sqlite3.connect(world.folder / "ledger.db") as db:
            db.execute("create table if not exists taken (row text)")
            return [json.loads(row) for (row,) in db.execute("select row from taken")]


class _BesideTheWorld(Sink):
    """The ledger beside the world's folder, so that each check has a database of its own."""

    def open(self, world: World, schema: pa.Schema) -> LedgerWriter:
        return LedgerWriter(str(world.folder / "ledger.db"), world, schema)


SINKS = {
    "delta": DeltaHarness,
    "files-ndjson": lambda: FilesHarness("ndjson"),
    "files-csv": lambda: FilesHarness("csv"),
    "files-parquet": lambda: FilesHarness("parquet"),
    "spooled": LedgerHarness,
}
"""By name; what stands before the dash is the part's."""
