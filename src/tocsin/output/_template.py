"""Template of a sink whose transaction is the other side's: copy it to a file named as the sink."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pyarrow as pa

from tocsin.contracts import Sink
from tocsin.ends import Spooled
from tocsin.errors import Unavailable
from tocsin.world import World


class Template(Sink):
    """Keep rows as JSON in a SQLite database, each row exactly once. What it promises, when to use it and when not.

    Examples
    --------
    >>> from tocsin.testing import world
    >>> batch = rows({"value": [1.5]})
    >>> writer = Template(path="taken.db").open(world(), batch.schema)
    >>> writer.publish(1, [writer.stage(1, [batch])])
    >>> writer.published()
    1
    """

    path: str
    """The database file; a relative one starts at the pipeline's data folder."""

    def accepts(self, schema: pa.Schema) -> None:
        """Optional: refuse, naming the column, what the table cannot take."""

    def check(self, world: World) -> None:
        """Optional: what cannot work is named before anything is opened."""
        world.inside(self.path)

    def open(self, world: World, schema: pa.Schema) -> TemplateWriter:
        """Required: get ready to stage; the other side may be away."""
        return TemplateWriter(self, world, schema)


class TemplateWriter(Spooled):
    """The table. `Spooled` stages on the local disk; what is left to do is one transaction of the other side."""

    def __init__(self, settings: Template, world: World, schema: pa.Schema) -> None:
        super().__init__(world, schema)
        self._path = world.inside(settings.path)

    def apply(self, epoch: int, rows: pa.Table) -> None:
        """Required: the rows and the epoch, in one transaction."""
        with closing(self._connected()) as db, db:
            db.executemany("insert into rows values (?)", [(json.dumps(r, default=str),) for r in rows.to_pylist()])
            db.execute("insert or replace into epochs values (?, ?)", (self.world.name, epoch))

    def applied(self) -> int | None:
        """Required: the epoch of the last transaction under our name."""
        with closing(self._connected()) as db:
            row = db.execute("select epoch from epochs where name = ?", (self.world.name,)).fetchone()
        return None if row is None else int(row[0])

    def _connected(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self._path, timeout=5.0)
            db.execute("create table if not exists rows (row text)")
            db.execute("create table if not exists epochs (name text primary key, epoch integer)")
        except sqlite3.OperationalError as error:
            raise Unavailable(f"{self._path}: {error}") from error
        return db
