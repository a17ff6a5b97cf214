"""Keeping house in a Delta table: checkpoint the log, merge small files, delete what nobody reads any more."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tocsin.lake.files import read, write
from tocsin.lake.log import CHECKPOINT, ENTRY, Action, Log, parse, rows_of

logger = logging.getLogger(__name__)

_TEXTS = pa.map_(pa.string(), pa.string())
_NAMES = pa.list_(pa.string())
_CHECKPOINT_SCHEMA = pa.schema(
    {
        "txn": pa.struct({"appId": pa.string(), "version": pa.int64(), "lastUpdated": pa.int64()}),
        "add": pa.struct(
            {
                "path": pa.string(),
                "partitionValues": _TEXTS,
                "size": pa.int64(),
                "modificationTime": pa.int64(),
                "dataChange": pa.bool_(),
                "stats": pa.string(),
                "tags": _TEXTS,
            }
        ),
        "remove": pa.struct({"path": pa.string(), "deletionTimestamp": pa.int64(), "dataChange": pa.bool_()}),
        "metaData": pa.struct(
            {
                "id": pa.string(),
                "name": pa.string(),
                "description": pa.string(),
                "format": pa.struct({"provider": pa.string(), "options": _TEXTS}),
                "schemaString": pa.string(),
                "partitionColumns": _NAMES,
                "configuration": _TEXTS,
                "createdTime": pa.int64(),
            }
        ),
        "protocol": pa.struct(
            {
                "minReaderVersion": pa.int32(),
                "minWriterVersion": pa.int32(),
                "readerFeatures": _NAMES,
                "writerFeatures": _NAMES,
            }
        ),
    }
)


def checkpoint(log: Log) -> None:
    """Write the snapshot as one Parquet file, so that nobody need replay the entries before it."""
    snapshot = log.snapshot
    rows: dict[str, list[dict[str, Any]]] = {
        "protocol": [snapshot.protocol],
        "metaData": [snapshot.metadata],
        "txn": [{"appId": app, "version": version} for app, version in snapshot.transactions.items()],
        "add": [{**add, "dataChange": False} for add in snapshot.files.values()],
        "remove": [
            {"path": path, "deletionTimestamp": ms, "dataChange": False} for path, ms in snapshot.removed.items()
        ],
    }
    total = sum(map(len, rows.values()))
    columns, before = [], 0
    for field in _CHECKPOINT_SCHEMA:
        values = rows[field.name]
        after = total - before - len(values)
        columns.append(
            pa.concat_arrays([pa.nulls(before, field.type), pa.array(values, field.type), pa.nulls(after, field.type)])
        )
        before += len(values)
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=_CHECKPOINT_SCHEMA), buffer, compression="zstd", store_schema=False)
    data = buffer.getvalue()
    _replace(log, f"{snapshot.version:020d}.checkpoint.parquet", memoryview(data))
    note = {
        "version": snapshot.version,
        "size": total,
        "sizeInBytes": data.size,
        "numOfAddFiles": len(snapshot.files),
    }
    _replace(log, "_last_checkpoint", json.dumps(note).encode())
    log.checkpoint_version = snapshot.version


def _replace(log: Log, name: str, data: bytes | memoryview) -> None:
    temporary = log.path / f"{log.prefix}{name}.tmp"
    log.disk.write(temporary, data)
    log.disk.sync(temporary)
    log.disk.rename(temporary, log.path / name)
    log.disk.sync_folder(log.path)


def compact(log: Log, prefix: str, files_min: int, target_bytes: int, budget_bytes: int = 2**24) -> bool:
    """Merge small files of a partition into larger ones; whether there may be more to merge.

    Files are merged with others of about their size, as in a log-structured tree, so that a row is rewritten only a
    few times in all. Stops after ``budget_bytes`` of input, so that nobody waits for long.
    """
    spent = 0
    for adds in _small(log, files_min, target_bytes):
        if spent >= budget_bytes:
            return True
        spent += sum(add["size"] for add in adds)
        good = _readable(log, adds)
        if len(good) < 2:
            continue
        whole = write(log, pa.concat_tables([table for _, table in good]), prefix, adds[0]["partitionValues"])
        log.disk.sync_folder(log.folder)
        _swap(log, [add for add, _ in good], whole)
    return False


def _readable(log: Log, adds: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], pa.Table]]:
    """The rows of these files; a damaged one, or one that is gone, stays as it is and keeps no other from merging."""
    good = []
    for add in adds:
        try:
            good.append((add, read(log, add)))
        except (OSError, pa.ArrowException) as error:
            logger.error("%s: %s is not merged, it cannot be read: %s", log.folder, add["path"], error)
    return good


def forget_missing(log: Log) -> dict[str, int]:
    """Take the data files that are gone out of the log; returns how many rows each had."""
    gone = {path: log.snapshot.files[path] for path in log.missing()}
    now = log.now_ms()
    removes: list[Action] = [{"remove": {"path": path, "deletionTimestamp": now, "dataChange": True}} for path in gone]
    if removes and not log.commit(removes, lambda _: gone.keys() <= log.snapshot.files.keys(), "FSCK"):
        return forget_missing(log)  # another engine has replaced some of them meanwhile
    return {path: rows_of(add) for path, add in gone.items()}


def _small(log: Log, files_min: int, target_bytes: int) -> list[list[Mapping[str, Any]]]:
    """Groups of files worth merging: one partition, one class of size, together not above the target."""
    classes: dict[Any, list[Mapping[str, Any]]] = {}
    for add in log.snapshot.files.values():
        if add["size"] < target_bytes // 2 and not add.get("deletionVector"):
            partition = tuple(sorted((k, v or None) for k, v in add["partitionValues"].items()))
            classes.setdefault((partition, (add["size"] >> 15).bit_length() // 3), []).append(add)
    groups = []
    for _, adds in sorted(classes.items(), key=lambda item: int(item[0][1])):
        group: list[Mapping[str, Any]] = []
        total = 0
        for small in adds if len(adds) >= files_min else ():
            if total + small["size"] > target_bytes:
                groups.append(group)
                group, total = [], 0
            group.append(small)
            total += small["size"]
        groups.append(group)
    return [group for group in groups if len(group) > 1]


def _swap(log: Log, adds: Sequence[Mapping[str, Any]], merged: dict[str, Any]) -> None:
    """Replace files by the one that holds their rows, unless another engine takes one of them first."""
    now = log.now_ms()
    actions: list[Action] = [
        {
            "remove": {
                "path": add["path"],
                "deletionTimestamp": now,
                "dataChange": False,
                "extendedFileMetadata": True,
                "partitionValues": add["partitionValues"],
                "size": add["size"],
            }
        }
        for add in adds
    ]
    actions.append({"add": {**merged, "dataChange": False}})
    schema = log.snapshot.metadata["schemaString"]

    def may_go_on(_: Sequence[Action]) -> bool:
        same = log.snapshot.metadata["schemaString"] == schema
        return same and all(add["path"] in log.snapshot.files for add in adds)

    if not log.commit(actions, may_go_on, "OPTIMIZE"):
        log.disk.unlink(log.folder / merged["path"])


def vacuum(log: Log, retention_us: int) -> int:
    """Delete the files removed from the table longer ago than the retention; how many.

    Only what the log says was removed: a file not in the log may be one that a writer has staged.
    """
    oldest_ms = log.now_ms() - retention_us // 1_000
    expired = [path for path, ms in log.snapshot.removed.items() if ms < oldest_ms]
    for path in expired:
        log.disk.unlink(log.data_path(path))
        del log.snapshot.removed[path]
    return len(expired)


def clean_log(log: Log, retention_us: int, limit: int = 10_000) -> int:
    """Delete entries and checkpoints older than the retention that a later checkpoint makes superfluous; how many."""
    names = log.disk.names(log.path)
    checkpoints = sorted({int(match[1]) for name in names if (match := CHECKPOINT.fullmatch(name))})
    keep_from = max((v for v in checkpoints if _older(log, v, retention_us)), default=-1)
    old = [n for n in names if (f := ENTRY.fullmatch(n) or CHECKPOINT.fullmatch(n)) and int(f[1]) < keep_from]
    for name in old[:limit]:
        log.disk.unlink(log.path / name)
    return len(old[:limit])


def _older(log: Log, version: int, retention_us: int) -> bool:
    """Whether an entry says that it was written longer ago than the retention."""
    try:
        actions = parse(log.disk.read(log.entry(version))) or []
    except FileNotFoundError:
        return True
    written_ms = next((a["commitInfo"].get("timestamp") for a in actions if "commitInfo" in a), None)
    return written_ms is not None and written_ms < log.now_ms() - retention_us // 1_000
