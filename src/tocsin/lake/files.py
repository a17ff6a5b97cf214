"""The data files of a Delta table: rows to Parquet with page checksums, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from tocsin.lake.log import Log
from tocsin.lake.schema import arrow_schema, partition_text, partition_value, statistics


def encode(table: pa.Table) -> pa.Buffer:
    """A table as Parquet; every page carries a checksum, so that a flipped bit is found and not believed."""
    times = [field.name for field in table.schema if pt.is_timestamp(field.type)]
    # Readings hardly repeat, so a dictionary of them costs time; the steps between times are small. Together a third
    # to a half of the time and up to a quarter of the bytes.
    words = [field.name for field in table.schema if field.name not in times and not pt.is_floating(field.type)]
    buffer = pa.BufferOutputStream()
    pq.write_table(
        table, buffer, compression="zstd", write_page_checksum=True, store_schema=False, use_dictionary=words,
        column_encoding=dict.fromkeys(times, "DELTA_BINARY_PACKED") or None,
    )  # fmt: skip
    return buffer.getvalue()


def write(log: Log, table: pa.Table, prefix: str, partition: Mapping[str, str | None]) -> dict[str, Any]:
    """Write one data file, durable but for the folder's fsync; the ``add`` for it.

    The partition columns are written too: Delta's readers take them from the log, but polars, which looks for them in
    the names of folders or in the file, would say null without a word.

    The name is a hash of what it holds and of the version that was seen, so that a file of the table is never
    written over: its own was an earlier version.
    """
    for column, text in partition.items():
        if text is None:  # an empty text too, see `partition_text`
            at = table.schema.get_field_index(column)
            table = table.set_column(at, column, pa.nulls(table.num_rows, table.schema.field(column).type))
    data = encode(table)
    digest = hashlib.sha256(f"{log.snapshot.version} {sorted(partition.items())} ".encode())
    digest.update(memoryview(data))
    name = f"{prefix}-{digest.hexdigest()[:16]}.parquet"
    log.disk.write(log.folder / name, memoryview(data))
    log.disk.sync(log.folder / name)
    return {
        "path": name,
        "partitionValues": dict(partition),
        "size": data.size,
        "modificationTime": log.now_ms(),
        "dataChange": True,
        "stats": statistics(table),
    }


def partitions(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[dict[str, str | None], pa.Table]]:
    """The rows of each combination of partition values."""
    if not columns:
        yield {}, table
        return
    group = np.zeros(table.num_rows, np.int64)
    for name in columns:
        column = table.column(name).combine_chunks()
        codes = column if isinstance(column, pa.DictionaryArray) else pc.dictionary_encode(column, "encode")
        codes = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        group = np.unique(group * (int(codes.max(initial=0)) + 2) + codes + 1, return_inverse=True)[1]
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    table = table.take(pa.array(order))
    for start, end in zip(starts, [*starts[1:], table.num_rows], strict=True):
        rows = table.slice(start, end - start)
        yield {c: partition_text(rows.column(c)[0].as_py(), rows.schema.field(c).type) for c in columns}, rows


def read(log: Log, add: Mapping[str, Any]) -> pa.Table:
    """The rows of one data file in the table's schema, its checksums verified."""
    schema = arrow_schema(log.snapshot.fields)
    source = pa.BufferReader(log.disk.read(log.data_path(add["path"])))
    # A third of what `read_table` costs for a small file.
    content = pq.ParquetFile(source, page_checksum_verification=True).read(use_threads=False)
    columns = []
    for field in schema:
        if field.name in add["partitionValues"]:
            value = partition_value(add["partitionValues"][field.name], field.type)
            columns.append(pa.repeat(value, content.num_rows))
        elif field.name in content.column_names:
            columns.append(content.column(field.name).cast(field.type))
        else:
            columns.append(pa.nulls(content.num_rows, field.type))
    return pa.table(columns, schema=schema)


def dataset(log: Log) -> Any:
    """The live files as an Arrow dataset (lazy, prunes by partition); columns that a file lacks are null."""
    import pyarrow.dataset as ds
    from pyarrow.fs import LocalFileSystem

    snapshot = log.snapshot
    schema = arrow_schema(snapshot.fields)
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    form = ds.ParquetFileFormat(default_fragment_scan_options=options)
    system = LocalFileSystem()
    fragments = []
    for add in snapshot.files.values():
        guarantee = ds.scalar(True)
        for name in snapshot.partition_columns:
            value = partition_value(add["partitionValues"].get(name), schema.field(name).type)
            guarantee &= ds.field(name) == value if value.is_valid else ds.field(name).is_null()
        fragments.append(form.make_fragment(str(log.data_path(add["path"])), system, guarantee))
    return ds.FileSystemDataset(fragments, schema, form, system)
