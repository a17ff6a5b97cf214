"""Rows as the bytes of a file that people and other programs open: NDJSON, CSV, Parquet."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.values.text import unformula_column

Format = Literal["ndjson", "csv", "parquet"]
Compression = Literal["none", "gz", "zst"]


def suffix(format: Format, compress: Compression) -> str:
    """Returns how the name of such a file ends."""
    return ".parquet" if format == "parquet" else f".{format}{'' if compress == 'none' else f'.{compress}'}"


def encoded(rows: Sequence[pa.RecordBatch], format: Format, compress: Compression) -> bytes:
    """Returns the rows: a whole Parquet file, or lines, to which more may be added; without the header of CSV."""
    if format == "parquet":
        return bytes(_parquet(rows))
    return compressed(b"".join(_ENCODERS[format](batch) for batch in rows), compress)


def compressed(data: bytes, compress: Compression) -> bytes:
    """Returns a member of gzip or a frame of zstd: these follow one another in a file as if they were one."""
    if compress == "gz":
        return gzip.compress(data, mtime=0)
    return bytes(pa.Codec("zstd").compress(data)) if compress == "zst" else data


def _parquet(rows: Sequence[pa.RecordBatch]) -> memoryview:
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    table = pa.Table.from_batches(rows).unify_dictionaries()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True, store_schema=False)
    return memoryview(buffer.getvalue())


def _ndjson(rows: pa.RecordBatch) -> bytes:
    # About 2 µs a row: Python objects, then JSON; NaN and the infinities become null.
    return msgspec.json.Encoder().encode_lines(rows.to_pylist())


def _csv(rows: pa.RecordBatch) -> bytes:
    import pyarrow.csv as pcsv

    table = pa.table({name: _cells(rows.column(name)) for name in rows.schema.names})
    buffer = pa.BufferOutputStream()
    pcsv.write_csv(table, buffer, pcsv.WriteOptions(include_header=False))
    return bytes(buffer.getvalue())


def header(columns: Sequence[str]) -> bytes:
    """Returns the first line of CSV: the names of the columns."""
    safe = unformula_column(pa.array(columns, pa.string())).to_pylist()
    return (",".join('"' + name.replace('"', '""') + '"' for name in safe) + "\n").encode()


def _cells(column: pa.Array) -> pa.Array:
    """A column as CSV can hold it."""
    if pt.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pt.is_timestamp(column.type):
        zone = {"UTC": "Z", None: ""}.get(column.type.tz, "%z")
        return pc.strftime(column, f"%Y-%m-%dT%H:%M:%S{zone}")
    if pt.is_floating(column.type):
        return pc.if_else(pc.is_finite(column), column, None)
    if pt.is_nested(column.type) or pt.is_binary(column.type) or pt.is_large_binary(column.type):
        texts = [None if v is None else msgspec.json.encode(v).decode().strip('"') for v in column.to_pylist()]
        column = pa.array(texts, pa.string())
    if pt.is_large_string(column.type):
        column = column.cast(pa.string())
    return unformula_column(column) if pt.is_string(column.type) else column


_ENCODERS: Mapping[str, Callable[[pa.RecordBatch], bytes]] = {"ndjson": _ndjson, "csv": _csv}
