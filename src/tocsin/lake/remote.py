"""Delta tables in an object store or in HDFS, through delta-rs: local ones keep the project's own fsynced log.

The Delta Lake protocol: https://github.com/delta-io/delta/blob/master/PROTOCOL.md; a commit is a conditional put.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from tocsin.errors import ConfigError, ForeignCommit, MissingExtra, SchemaError, SinkError, Unavailable
from tocsin.lake.schema import ORIGINAL, arrow_type, new_fields, original_names, physical_names, schema_string
from tocsin.objects.store import WEB_PORT, plain, told

_PATIENCE = {"connect_timeout": "5s", "timeout": "60s", "max_retries": "3", "retry_timeout": "20s"}
"""A server that is away is asked again by whoever waits for it, not in here."""
_MARK = "tocsin.commit"
"""What tells in a commit whose it is."""
_LOOKED_AT = 100
"""So many of the newest commits are looked through for one's own; others write a few meanwhile, at most."""


class RemoteTable:
    """A table at an address; nothing is asked of the other side before it is needed."""

    def __init__(self, address: str, storage: Mapping[str, str]) -> None:
        if address.startswith("hdfs://") and urlsplit(address).port == WEB_PORT:
            raise ConfigError(
                f"{address} names the port of HDFS's web interface; a table is reached by Hadoop's own protocol, 8020 "
                "unless it was changed"
            )
        try:
            import deltalake
        except ImportError:
            raise MissingExtra("deltalake", "remote", f"the table {address}") from None
        self.address = address
        self._deltalake: Any = deltalake
        self._storage = {**_PATIENCE, **storage}
        self._opened: Any = None

    def position(self, name: str) -> int | None:
        """Returns the transaction version of an application, read anew; None if it has never committed."""
        with self._told():
            table = self._fresh()
            version = None if table is None else table.transaction_version(name)
        return None if version is None else int(version)

    def append(self, rows: pa.Table, partition_by: Sequence[str], name: str, version: int) -> None:
        """Add the rows, and that ``name`` has come to ``version``, in one commit; columns that are new are added.

        Raises
        ------
        Unavailable
            The other side is away.
        SinkError
            It refuses, or the columns do not fit the table.
        """
        with self._told():
            table = self._opened or self._fresh() or self._created(rows.schema, partition_by)
            fields = new_fields(rows.schema, self._fields(table))
            if (there := table.metadata().partition_columns) != list(partition_by):
                raise SinkError(f"{self.address} is partitioned by {there}, not by {list(partition_by)}")
            mark = uuid.uuid4().hex
            written = self._deltalake.CommitProperties(
                custom_metadata={_MARK: mark},
                app_transactions=[self._deltalake.Transaction(name, version)],
                max_commit_retries=20,
            )
            try:
                self._deltalake.write_deltalake(
                    table, _named(rows, fields), mode="append", schema_mode="merge", commit_properties=written
                )
            except self._deltalake.exceptions.CommitFailedError:
                # The library makes a put again whose answer was lost, and then meets its own commit.
                table = self._fresh()
                if table is None or all(one.get(_MARK) != mark for one in table.history(_LOOKED_AT)):
                    raise
            self._opened = table

    def housekeep(self, file_bytes: int, retention_us: int) -> None:
        """Merge small files, write a checkpoint, delete what was replaced before the retention."""
        with self._told():
            table = self._fresh()
            if table is None:
                return
            table.optimize.compact(target_size=file_bytes)
            table.create_checkpoint()
            hours = max(1, retention_us // 3_600_000_000)
            table.vacuum(retention_hours=hours, dry_run=False, enforce_retention_duration=False)
            self._opened = None

    def read(self) -> pa.Table:
        """Returns all rows, under the names that they came with."""
        with self._told():
            rows, names = self.dataset()
            return rows.to_table().rename_columns(list(names.values()))

    def dataset(self) -> tuple[Any, Mapping[str, str]]:
        """Returns the rows as a pyarrow dataset, read when they are asked for; and each column's original name."""
        with self._told():
            table = self._fresh()
            if table is None:
                raise ConfigError(f"there is no table at {self.address}")
            names = original_names(self._fields(table))
            rows = table.to_pyarrow_dataset()
            return rows, {name: names[name] for name in rows.schema.names}

    def _fresh(self) -> Any:
        """The table as it is now; None if there is none."""
        try:
            self._opened = self._deltalake.DeltaTable(self.address, storage_options=self._storage)
        except self._deltalake.exceptions.TableNotFoundError:
            self._opened = None
        return self._opened

    def _created(self, schema: pa.Schema, partition_by: Sequence[str]) -> Any:
        """A new table, or what is there by now: another's that was first, or our own of which no answer came.

        Tried once: the library would write the same creation again after whoever was first, and take back the columns
        that have been added since.
        """
        try:
            self._deltalake.DeltaTable.create(
                self.address,
                schema=self._deltalake.Schema.from_json(schema_string(new_fields(schema, []))),
                mode="ignore",
                partition_by=list(partition_by),
                storage_options=self._storage,
                commit_properties=self._deltalake.CommitProperties(max_commit_retries=0),
            )
        except self._deltalake.exceptions.CommitFailedError:
            if self._fresh() is None:
                raise
        return self._fresh()

    def _fields(self, table: Any) -> list[dict[str, Any]]:
        return list(json.loads(table.schema().to_json())["fields"])

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say what went wrong in a sentence of ours."""
        errors = self._deltalake.exceptions
        try:
            yield
        except errors.CommitFailedError as error:
            self._opened = None
            if "concurrent transaction failed" in str(error).lower():
                raise ForeignCommit(
                    f"{self.address}: another engine writes this table under our name; stop it, or give one of the "
                    "pipelines another name"
                ) from error
            raise Unavailable(f"{self.address}: {plain(error)}") from error
        except SchemaError as error:
            raise SinkError(f"{self.address}: {error}") from error
        except (OSError, errors.DeltaError) as error:
            self._opened = None
            raise told(self.address, error, SinkError) from error


def _named(rows: pa.Table, fields: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows under the names and types of the table."""
    names, there = physical_names(rows.column_names, fields), {f["name"]: f for f in fields}
    columns, schema = [], []
    for name in rows.column_names:
        field = there[names[name]]
        metadata = {ORIGINAL: name} if field["name"] != name else None
        schema.append(pa.field(field["name"], arrow_type(field["type"]), metadata=metadata))
        columns.append(rows.column(name).cast(schema[-1].type))
    return pa.table(columns, schema=pa.schema(schema))
