"""SQL over the tables, for those who may: rows as JSON for the page, or as a file. It reads, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

from tocsin.engine import audit
from tocsin.errors import TocsinError
from tocsin.serve.access import refused
from tocsin.serve.api import NO_TABLES, answer, body_of, caller_of, page_of
from tocsin.serve.messages import QueryAnswer, QueryColumn
from tocsin.values.text import unformula, unformula_column

log = logging.getLogger(__name__)
SHOWN_MAX = 1_000
"""Rows on the page."""
FILE_MAX = 100_000
"""Rows in a file."""
_TOGETHER = asyncio.Semaphore(2)
"""More queries than this wait: each may take two cores and 2 GB."""
_EXACT = 2**53
"""Above this an integer would not be the same in a browser; it goes there as text."""


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked."""

    sql: str
    form: Literal["json", "csv", "parquet"] = "json"


async def sql(request: Request) -> Response:
    """Answers a query; the audit has it, whatever comes of it."""
    page = page_of(request)
    asked = await body_of(request, Query)
    if isinstance(asked, Response):
        return asked
    if (lake := page.lake) is None:
        return refused(404, NO_TABLES)
    try:
        await asyncio.to_thread(
            audit.write_down, page.state_folder, caller_of(request).actor, "sql", asked.form, asked.sql
        )
    except (OSError, sqlite3.Error) as error:
        return refused(503, f"the query could not be written into the audit: {error}")
    async with _TOGETHER:
        try:
            return await asyncio.to_thread(_answered, lake, asked)
        except TocsinError as error:
            return refused(422, str(error))


def _answered(folder: Path, asked: Query) -> Response:
    from tocsin.serve.evidence import limited  # on demand, as everything that reads the tables

    rows_max = SHOWN_MAX if asked.form == "json" else FILE_MAX
    table, versions, is_cut = limited(folder, asked.sql, rows_max)
    if asked.form == "json":
        columns = [QueryColumn(field.name, _kind(field.type)) for field in table.schema]
        return answer(QueryAnswer(dict(versions), columns, _rows(table), is_cut))
    made, media_type = (as_csv(table), "text/csv; charset=utf-8") if asked.form == "csv" else (
        as_parquet(table), "application/vnd.apache.parquet"
    )  # fmt: skip
    headers = {"content-disposition": f'attachment; filename="query.{asked.form}"', "cache-control": "no-store"}
    if is_cut:
        headers["x-tocsin-cut"] = str(rows_max)
    return Response(made, media_type=media_type, headers=headers)


def as_csv(table: pa.Table) -> bytes:
    """Returns a table as CSV with a header; a text that a spreadsheet would run as a formula is behind an apostrophe.

    What CSV has no form for (lists, structs, bytes) is there as JSON.
    """
    from pyarrow.csv import write_csv

    columns = []
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            texts = [None if v is None else msgspec.json.encode(v, enc_hook=str).decode() for v in column.to_pylist()]
            column = pa.chunked_array([pa.array(texts, pa.string())])
        elif _kind(column.type) == "text" and not pa.types.is_boolean(column.type):
            column = column.cast(pa.string())
        if pa.types.is_string(column.type):
            column = pa.chunked_array([unformula_column(chunk) for chunk in column.chunks], pa.string())
        columns.append(column)
    sink = pa.BufferOutputStream()
    write_csv(pa.table(columns, names=[unformula(name) for name in table.column_names]), sink)
    return bytes(sink.getvalue())


def as_parquet(table: pa.Table) -> bytes:
    """Returns a table as a Parquet file."""
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def _kind(type: pa.DataType) -> Literal["number", "time", "text"]:
    if pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type):
        return "number"
    return "time" if pa.types.is_timestamp(type) or pa.types.is_date(type) else "text"


def _rows(table: pa.Table) -> list[list[Any]]:
    """Returns the rows as JSON has them: times as text in UTC, numbers that are none as null."""
    columns = [_cells(column) for column in table.columns]
    return [list(cells) for cells in zip(*columns, strict=True)]


def _cells(column: pa.ChunkedArray) -> Sequence[Any]:
    values = column.to_pylist()
    if pa.types.is_integer(column.type):
        return [str(v) if v is not None and abs(v) > _EXACT else v for v in values]
    if pa.types.is_decimal(column.type):
        return [None if v is None else float(v) for v in values]
    return msgspec.json.decode(msgspec.json.encode(values, enc_hook=str))  # type: ignore[no-any-return]
