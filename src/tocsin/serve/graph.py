"""The pipeline, seen: its parts as a graph, how each fares, what it is made of, and its last rows."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

from tocsin.batch import OUT
from tocsin.engine.last_rows import ROWS_MAX, told
from tocsin.engine.wire import LastRows
from tocsin.errors import TocsinError
from tocsin.serve.access import refused
from tocsin.serve.api import answer, page_of
from tocsin.serve.graph_messages import PartDetails, PartOutline, PipelineState

log = logging.getLogger(__name__)
ELSEWHERE = "The pipeline runs elsewhere, so only what comes to its tables is counted and shown here."
_NOT_HERE = "Its rows are seen on the page of the engine itself (tocsin run FILE --page)."
_NO_ENGINE = "No engine is connected, so no rows come."


async def pipeline(request: Request) -> Response:
    """Returns all parts, and how each of them fares."""
    page = page_of(request)
    by_table = page.follows
    parts = page.live.parts.told(page.outline, by_table=by_table, now_s=time.monotonic())
    return answer(PipelineState(parts, ELSEWHERE if by_table else ""))


async def part(request: Request) -> Response:
    """Returns what a part is made of: its settings without secrets, and their documentation."""
    one = _asked(request)
    if isinstance(one, Response):
        return one
    from tocsin.serve.outline import details  # on demand, since it knows the whole pipeline

    components = await asyncio.to_thread(lambda: [details(component) for component in one.components])
    return answer(PartDetails(one.id, one.kind, one.stream, components))


async def rows(request: Request) -> Response:
    """Returns the last rows of a part. From now on the engine keeps them, until they are no longer asked for."""
    page, one = page_of(request), _asked(request)
    if isinstance(one, Response):
        return one
    if page.follows:
        ports = await _of_table(page.lake, one)
        return answer(page.live.parts.rows(one, ports, "" if one.table else _NOT_HERE))
    if one.inputs and one.kind in ("sink", "channel"):  # what reaches it is what leaves those before it
        for inlet in one.inputs:
            page.live.looked_at.look(inlet.part)
        ports = page.live.looked_at.rows(one.inputs)
    else:
        page.live.looked_at.look(one.id)
        ports = page.live.looked_at.rows_of(one.id)
    return answer(page.live.parts.rows(one, ports, "" if page.live.engines else _NO_ENGINE))


def _asked(request: Request) -> PartOutline | Response:
    id = request.query_params.get("id", "")
    known = next((one for one in page_of(request).outline.parts if one.id == id), None)
    return known or refused(404, "no such part; /api/pipeline lists them")


async def _of_table(lake: Path | None, part: PartOutline) -> list[LastRows]:
    """Returns the newest rows of the table that a sink writes; nothing where there is none yet."""
    if lake is None or not part.table:
        return []
    try:
        return [await asyncio.to_thread(_newest, lake, part)]
    except (TocsinError, OSError, pa.ArrowException) as error:
        log.warning("the page shows no rows of table %s: %s", part.table, error)
        return []


def _newest(lake: Path, part: PartOutline) -> LastRows:
    from tocsin.lake.read import query, quoted  # on demand, as everything that reads the tables

    table = query(
        f"SELECT * FROM (SELECT * FROM {quoted(part.table)} ORDER BY time DESC LIMIT {ROWS_MAX}) ORDER BY time",  # noqa: S608
        lake,
        timeout_s=5.0,
    )
    return told((part.id, OUT), table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], table.schema)])
