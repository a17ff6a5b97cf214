"""The writer of sink `delta` for a table in an object store or in HDFS."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from tocsin.ends import Spooled
from tocsin.lake.remote import RemoteTable
from tocsin.world import World

_HOUSEKEEPING_EVERY = 256
"""Epochs between two rounds: each lists the whole table."""


class RemoteDeltaWriter(Spooled):
    """A Delta table elsewhere: rows wait on the local disk; a commit holds them and the epoch that they reach to."""

    def __init__(
        self,
        world: World,
        schema: pa.Schema,
        table: RemoteTable,
        partition_by: Sequence[str],
        file_bytes: int,
        retention_us: int,
    ) -> None:
        super().__init__(world, schema)
        self._table, self._partition_by = table, partition_by
        self._file_bytes, self._retention_us = file_bytes, retention_us
        self._epochs = 0

    def apply(self, epoch: int, rows: pa.Table) -> None:
        self._table.append(self._with_date(rows), self._partition_by, self.world.name, epoch)
        self._epochs += 1

    def applied(self) -> int | None:
        return self._table.position(self.world.name)

    def housekeep(self) -> None:
        if self._epochs >= _HOUSEKEEPING_EVERY:
            self._epochs = 0
            self._table.housekeep(self._file_bytes, self._retention_us)

    def _with_date(self, rows: pa.Table) -> pa.Table:
        if "date" not in self._partition_by or "date" in rows.column_names or "time" not in rows.column_names:
            return rows
        return rows.append_column("date", rows.column("time").cast(pa.date32()))
