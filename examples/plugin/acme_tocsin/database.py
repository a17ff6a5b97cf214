"""A sink: where rows are kept. `Spooled` does the staging; left to do is one transaction with the epoch in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import ClassVar

import pyarrow as pa
import pyarrow.types as pt
from pydantic import Field

from tocsin.contracts import Sink, Writer
from tocsin.ends import Spooled
from tocsin.errors import SchemaError, Unavailable
from tocsin.world import World


class Sqlite(Sink):
    """Keep rows in a table of a SQLite database, each row exactly once.

    Examples
    --------
    >>> Sqlite(path="plant.db").table
    'readings'
    """

    SHORTHAND: ClassVar[str | None] = "path"

    path: str = "plant.db"
    """The database, under the data folder."""
    table: str = Field("readings", pattern="[a-z][a-z0-9_]*")
    """The table in it."""

    def accepts(self, schema: pa.Schema) -> None:
        for field in schema:
            if pt.is_nested(field.type):
                raise SchemaError(f"{self.name()} cannot keep column '{field.name}', which is {field.type}; explode it")

    def open(self, world: World, schema: pa.Schema) -> Writer:
        return SqliteWriter(self, world, schema)


class SqliteWriter(Spooled):
    """Rows are staged as files by `Spooled`, and written by `apply` once the checkpoint holds them."""

    def __init__(self, settings: Sqlite, world: World, schema: pa.Schema) -> None:
        super().__init__(world, schema)
        self._table = settings.table
        self._path = world.inside(settings.path)

    def apply(self, epoch: int, rows: pa.Table) -> None:
        names = ", ".join(f'"{name}"' for name in rows.schema.names)
        places = ", ".join("?" * rows.num_columns)
        with closing(self._connect()) as db, db:
            db.execute(f'create table if not exists "{self._table}" ({names})')
            values = ([str(v) if hasattr(v, "isoformat") else v for v in row.values()] for row in rows.to_pylist())
            db.executemany(f'insert into "{self._table}" values ({places})', values)  # noqa: S608 (the table's name is checked)
            db.execute("insert or replace into tocsin_epochs values (?, ?)", (self.world.name, epoch))

    def applied(self) -> int | None:
        with closing(self._connect()) as db:
            row = db.execute("select epoch from tocsin_epochs where name = ?", (self.world.name,)).fetchone()
        return None if row is None else int(row[0])

    def _connect(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self._path, timeout=1.0)
            db.execute("create table if not exists tocsin_epochs (name text primary key, epoch integer)")
        except sqlite3.OperationalError as error:
            raise Unavailable(f"{self._path}: {error}") from error  # not now: the engine waits, all others go on
        return db
