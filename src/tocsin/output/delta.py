"""Sink `delta`: rows into a Delta Lake table."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.types as pt
from pydantic import SecretStr, field_validator

from tocsin.batch import in_words
from tocsin.contracts import Sink, Token, Writer
from tocsin.errors import ForeignCommit, SchemaError, SinkError
from tocsin.lake import maintenance
from tocsin.lake.files import partitions, read, write
from tocsin.lake.log import Action, Log
from tocsin.lake.remote import RemoteTable
from tocsin.lake.schema import arrow_schema, new_fields, physical_names, schema_string
from tocsin.objects.store import is_remote
from tocsin.output._remote_delta import RemoteDeltaWriter
from tocsin.settings.addresses import without_password
from tocsin.settings.quantities import Duration, Size
from tocsin.world import World

logger = logging.getLogger(__name__)

_HOUR_US = 3_600_000_000
MERGED_MAX = 4 << 20
"""Files of several epochs up to this size are published as one."""
_PARTITION_TYPES = (pt.is_string, pt.is_integer, pt.is_boolean, pt.is_date)


class Delta(Sink):
    """Keep rows in a Delta Lake table: each row exactly once, readable by any engine while it grows.

    Use it for whatever is to be asked about later (`tocsin query`, DuckDB, Spark, polars). For a few rows that people
    open by hand, `files` is simpler. Columns that the table does not have yet are added to it; a column whose type
    has changed is refused. Names that Delta cannot hold (blanks, ``,;{}()=``) are written with ``_`` instead, and the
    original is kept beside the column. Small files are merged, the log is checkpointed, and what has been replaced
    is deleted after the retention. A table at an address is written through delta-rs, its rows and the epoch that
    they reach to in one commit; while the address cannot be reached, rows wait on the local disk.

    The Delta Lake protocol: https://github.com/delta-io/delta/blob/master/PROTOCOL.md (reader 1, writer 2).

    Examples
    --------
    >>> from tocsin.testing import world
    >>> rows = pa.record_batch({"key": ["pump", "fan"], "value": [1.5, 2.5]})
    >>> writer = Delta(path="readings").open(world(), rows.schema)
    >>> writer.publish(1, [writer.stage(1, [rows])])
    >>> writer.published()
    1
    """

    SHORTHAND: ClassVar[str | None] = "path"
    FENCED: ClassVar[bool] = True

    path: str
    """Folder of the table; a relative one starts at the pipeline's data folder. Or its address: ``s3://bucket/table``,
    ``gs://``, ``abfss://``, ``hdfs://host:port/table`` (``pip install 'tocsin[remote]'``)."""
    storage: Mapping[str, SecretStr] = {}
    """How to reach an address, by the names of delta-rs (``aws_endpoint_url``, ``aws_region`` ...), secrets as
    ``${env:NAME}``; what is not said here comes from the environment (``AWS_ACCESS_KEY_ID`` ...)."""
    partition_by: tuple[str, ...] = ()
    """Columns to keep apart, each value in a file of its own at each commit, so take few; ``date`` is the day (UTC)."""
    file_size: Size = 32 * 2**20
    """Small files are merged into files of up to this size."""
    gather: Duration = 10_000_000
    """How long rows that are kept already may wait to be written together, so that a table that grows all the time has
    fewer, larger files. After a quiet time nothing waits, and at a stop nothing does."""
    retention: Duration = 4 * _HOUR_US
    """How long files that were replaced, and old log entries, are kept for readers of older versions."""

    _no_password = field_validator("path")(without_password)

    def gathers_s(self) -> float:
        return self.gather / 1e6

    def place(self) -> Mapping[str, Any]:
        return {"path": self.path}

    def accepts(self, schema: pa.Schema) -> None:
        wanted = _with_date(self, schema)
        fields = new_fields(wanted, [])
        for column in self.partition_by:
            if column not in wanted.names:
                raise SchemaError(
                    f"delta cannot partition by '{column}'; what reaches it is [{', '.join(wanted.names)}]"
                )
            type = arrow_schema(fields).field(physical_names(wanted.names, fields)[column]).type
            if not any(suits(type) for suits in _PARTITION_TYPES):
                raise SchemaError(f"delta cannot partition by '{column}', which is {in_words(type)}")

    def check(self, world: World) -> None:
        if is_remote(self.path):
            RemoteTable(self.path, {})  # needs a library
        else:
            world.inside(self.path)

    def fits(self, world: World, schema: pa.Schema) -> None:
        if not is_remote(self.path) and (log := Log(world.inside(self.path), world.disk)).exists:
            new_fields(_with_date(self, schema), log.snapshot.fields)

    def tend(self, job: str, world: World) -> str | None:
        if is_remote(self.path) or job == "retain":
            return None
        log = Log(world.inside(self.path), world.disk, "tocsin jobs", world.clock)
        if not log.exists:
            return None
        if job == "compact":
            before = len(log.snapshot.files)
            while maintenance.compact(log, "compacted", 2, self.file_size):
                continue
            return f"{before} files became {len(log.snapshot.files)}"
        count = maintenance.vacuum(log, self.retention)
        maintenance.clean_log(log, self.retention)
        return f"{count} old files deleted"

    def open(self, world: World, schema: pa.Schema) -> Writer:
        self.accepts(schema)
        if is_remote(self.path):
            table = RemoteTable(self.path, {name: value.get_secret_value() for name, value in self.storage.items()})
            return RemoteDeltaWriter(world, schema, table, self.partition_by, self.file_size, self.retention)
        return DeltaWriter(self, world, schema)


def _with_date(sink: Delta, schema: pa.Schema) -> pa.Schema:
    """Returns the schema, with column ``date`` where the table is partitioned by it and has a time to take it of."""
    derives = "date" in sink.partition_by and "date" not in schema.names and "time" in schema.names
    return schema.append(pa.field("date", pa.date32())) if derives else schema


class DeltaWriter:
    """An open Delta table; the transaction version of ``app_id`` in its log is the last epoch committed."""

    def __init__(self, sink: Delta, world: World, schema: pa.Schema) -> None:
        self.app_id, self._sink, self._disk = world.name, sink, world.disk
        app = hashlib.sha256(self.app_id.encode()).hexdigest()[:12]
        self._prefix, self._merged_prefix = f"part-{app}", f"merged-{app}"
        self._schema = _with_date(sink, schema)
        self._derives_date = self._schema is not schema
        self._lock = threading.RLock()
        """Rows are staged while the log is written."""
        self.log = Log(world.inside(sink.path), world.disk, self.app_id, world.clock)
        self._missing = len(self.log.missing())
        if self._missing:
            logger.warning("%s", self.log.lacks())
        self._settle_schema()
        self._names = physical_names(self._schema.names, self.log.snapshot.fields)
        types = arrow_schema(self.log.snapshot.fields)
        self._types = {name: types.field(physical).type for name, physical in self._names.items()}
        self._staged = 0
        self._added_since_compaction = len(self.log.snapshot.files)
        self._next_vacuum_us = 0

    def stage(self, epoch: int, rows: Sequence[pa.RecordBatch]) -> Token:
        """Write the rows as Parquet, one file for each partition, durable but not yet in the log."""
        adds = []
        with self._lock:
            table = self._table(rows)
        if table.num_rows:
            for partition, part in partitions(table, [self._names[c] for c in self._sink.partition_by]):
                adds.append(write(self.log, part, f"{self._prefix}-{epoch:012d}-{self._staged:06d}", partition))
                self._staged += 1
            self._disk.sync_folder(self.log.folder)
        return {"adds": adds}

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        with self._lock:
            self._publish(epoch, tokens)

    def _publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        if epoch <= self.log.snapshot.transactions.get(self.app_id, -1):
            return
        staged = [add for token in tokens for add in token["adds"]]
        adds = self._together(staged)
        txn = {"appId": self.app_id, "version": epoch, "lastUpdated": self.log.now_ms()}
        self.log.commit([{"txn": txn}, *({"add": add} for add in adds)], self._may_append, "STREAMING UPDATE")
        self._added_since_compaction += len(adds)
        kept = {add["path"] for add in adds}
        for add in staged:
            if add["path"] not in kept:  # no entry names it: `discard` would delete it, too
                self._disk.unlink(self.log.folder / add["path"])

    def _together(self, staged: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The files to publish: those that are small, of one partition, as one."""
        groups: dict[tuple[tuple[str, str | None], ...], list[Mapping[str, Any]]] = {}
        left = [add for add in staged if add["size"] > MERGED_MAX]
        for add in staged:
            if add["size"] <= MERGED_MAX:
                groups.setdefault(tuple(sorted(add["partitionValues"].items())), []).append(add)
        merged = False
        for partition, adds in groups.items():
            if len(adds) < 2:
                left += adds
                continue
            try:
                table = pa.concat_tables([read(self.log, add) for add in adds])
            except (OSError, pa.ArrowException) as error:
                logger.error("%s: files are published one by one, one cannot be read: %s", self.log.folder, error)
                left += adds
                continue
            left.append(write(self.log, table, self._merged_prefix, dict(partition)))
            merged = True
        if merged:
            self._disk.sync_folder(self.log.folder)
        return left

    def published(self) -> int | None:
        with self._lock:
            self.log.refresh()
            self.log.sync_tail()
            return self.log.snapshot.transactions.get(self.app_id)

    def discard(self, keep: Sequence[Token]) -> None:
        """Delete our own files that no entry names: staged in vain, or merged in vain, or merged into another one."""
        kept = {add["path"] for token in keep for add in token["adds"]}
        kept |= self.log.snapshot.files.keys() | self.log.snapshot.removed.keys()
        for name in self._disk.names(self.log.folder):
            if name in kept:
                continue
            if name.startswith((self._prefix, self._merged_prefix)):
                self._disk.unlink(self.log.folder / name)

    def counters(self) -> Mapping[str, int]:
        return {"missing_files": self._missing} if self._missing else {}

    def housekeep(self) -> None:
        """Merge after 32 new files, checkpoint after ten entries (more in a large table), vacuum now and then."""
        with self._lock:
            self._housekeep()

    def _housekeep(self) -> None:
        log, snapshot = self.log, self.log.snapshot
        if self._added_since_compaction >= 32:
            more = maintenance.compact(log, self._merged_prefix, 32, self._sink.file_size)
            self._added_since_compaction = 32 if more else 0
        if log.clock.now_us() >= self._next_vacuum_us:
            maintenance.vacuum(log, self._sink.retention)
            maintenance.clean_log(log, self._sink.retention)
            self._next_vacuum_us = log.clock.now_us() + max(self._sink.retention // 16, _HOUR_US // 6)
        # A checkpoint costs in proportion to the table: the larger it is, the more entries one must pay for.
        due = max(10, (len(snapshot.files) + len(snapshot.removed)) // 16)
        if snapshot.version - log.checkpoint_version >= due:
            maintenance.checkpoint(log)

    def close(self) -> None:
        pass

    def _table(self, rows: Sequence[pa.RecordBatch]) -> pa.Table:
        """The rows as the table has them: its names, its types, and the partition column that we add."""
        batches = []
        for batch in rows:
            columns = {self._names[f.name]: self._column(batch, f.name) for f in batch.schema}
            if self._derives_date:
                columns[self._names["date"]] = batch.column("time").cast(pa.date32())
            batches.append(pa.record_batch(columns))
        if not batches:
            return arrow_schema(self.log.snapshot.fields).empty_table()
        return pa.Table.from_batches(batches).unify_dictionaries()

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        column, wanted = batch.column(name), self._types[name]
        as_is = column.type == wanted or (pt.is_dictionary(column.type) and column.type.value_type == wanted)
        return column if as_is else column.cast(wanted)

    def _settle_schema(self) -> None:
        """Create the table, or add the columns that it lacks."""
        log, wanted = self.log, self._schema
        while True:
            known = log.snapshot.fields
            # Before the first row the table may still change its mind, or a table of late rows would forbid to cast.
            fields = new_fields(wanted, () if self._is_untouched() else known)
            names, types = physical_names(wanted.names, fields), arrow_schema(fields)
            partition_columns = [names[c] for c in self._sink.partition_by]
            for column in partition_columns:
                if not any(suits(types.field(column).type) for suits in _PARTITION_TYPES):
                    raise SinkError(
                        f"delta cannot partition by '{column}', which is {in_words(types.field(column).type)}"
                    )
            if not log.exists:
                log.create(schema_string(fields), partition_columns)
            elif partition_columns != log.snapshot.partition_columns:
                there = log.snapshot.partition_columns
                raise SinkError(f"{log.folder} is partitioned by {there}, not by {partition_columns}; set partition_by")
            elif fields == known:
                return
            else:
                change: Action = {"metaData": {**log.snapshot.metadata, "schemaString": schema_string(fields)}}
                log.commit([change], lambda _: False, "ADD COLUMNS")

    def _is_untouched(self) -> bool:
        """Returns whether the table has no rows, and none are staged for it."""
        there = self._disk.names(self.log.folder) if self.log.exists else []
        return not self.log.snapshot.files and not [name for name in there if not name.startswith("_")]

    def _may_append(self, foreign: Sequence[Mapping[str, Any]]) -> bool:
        """What others did in between is no matter, unless it was under our name or changed what we write to."""
        if any("txn" in a and a["txn"]["appId"] == self.app_id for a in foreign):
            raise ForeignCommit(
                f"{self.log.folder}: another engine writes this table as '{self.app_id}'; stop it, or give one of the "
                "pipelines another name"
            )
        fields = self.log.snapshot.fields
        if any("metaData" in a for a in foreign) and new_fields(self._schema, fields) != fields:
            raise SinkError(f"{self.log.folder}: another engine removed columns of the table; start again to add them")
        return True
