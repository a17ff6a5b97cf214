"""Sink `postgres`: rows into a table of PostgreSQL."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
from pydantic import model_validator

from tocsin.errors import SchemaError
from tocsin.postgres.bookkeeping import Bookkeeping
from tocsin.postgres.table import Table, columns_for
from tocsin.postgres.types import TEXT
from tocsin.postgres.writing import TableSink, parts
from tocsin.settings import Many
from tocsin.world import World


class Postgres(TableSink):
    """Keep rows in a table of PostgreSQL, each row exactly once: rows and epoch are written in one transaction.

    Use it where other programs read by SQL and expect a server; for what only tocsin and notebooks ask about, `delta`
    needs no server. A schema or table that is missing is made, and a column that is new is added. A column whose type
    has changed is made wider where it was made here and nothing is lost by it (``integer`` to ``bigint``); otherwise it
    is refused by name. While the server is away rows wait on disk, and are written once it is back.

    A row that the server refuses (a text too long for a ``varchar``, a NUL character, a number out of range, a broken
    constraint) is put into the table ``tocsin_rejected`` of the same schema with the reason, and counted as
    ``rejected``; the rows beside it are kept. ``tocsin_epochs`` there holds how far the table reaches, and
    ``tocsin_history`` what was made and changed.

    Lists become arrays, structs and maps ``jsonb``, in which what is no number is a text (``"NaN"``). PostgreSQL 15 or
    later.

    References: https://www.postgresql.org/docs/current/sql-copy.html, sql-insert.html (ON CONFLICT).

    Examples
    --------
    >>> sink = Postgres(url="postgresql://db/plant", table="plant.readings", upsert=["key", "time"])
    >>> sink.accepts(rows({"value": [1.5]}).schema)
    >>> sink.place()
    {'server': ['db', 5432, 'plant'], 'table': ['plant', 'readings']}
    """

    FENCED: ClassVar[bool] = True
    NAME_BYTES_MAX: ClassVar[int] = 63

    surrogates: Many[str] = ()
    """Columns of text to keep as numbers: the table has ``<column>_id``, and the texts stand once in
    ``<table>_<column>``."""

    @model_validator(mode="after")
    def _dimensions(self) -> Postgres:
        for column in self.surrogates:
            self.require_name(f"{parts(self.table)[1]}_{column}", "table")
        return self

    def target(self, world: World, schema: pa.Schema, staging: str) -> tuple[Bookkeeping, Table]:
        books = Bookkeeping(world.name, *parts(self.table))
        return books, Table(books, columns_for(schema, self.surrogates), self.upsert, staging)

    def accepts(self, schema: pa.Schema) -> None:
        columns = columns_for(schema, self.surrogates)
        for name in self.surrogates:
            if name not in schema.names:
                raise SchemaError(f"postgres needs column '{name}'; what reaches it is [{', '.join(schema.names)}]")
        for column in columns:
            if column.is_surrogate and column.type != TEXT:
                raise SchemaError(f"surrogates takes columns of text, '{column.name}' is {column.type}")
        self.require_kept(schema, [column.kept_as for column in columns], [column.name for column in columns])


__all__ = ["Postgres"]
