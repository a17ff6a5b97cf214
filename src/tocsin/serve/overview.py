"""What the overview asks for: tiles in sight at a glance, machines by time, a machine's spectra, key
figures of the alarms."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tocsin.errors import TocsinError
from tocsin.serve.access import refused
from tocsin.serve.api import NO_TABLES, TIME_MS_MAX, answer, page_of
from tocsin.serve.messages import Glances, KeyFigures, Spectra
from tocsin.serve.scores import CELLS_MAX, Grid

GLANCES_MAX = 200
_CELLS = 60
_LANES = 10
_LINES = 400


async def glances(request: Request) -> Response:
    """Returns what the tiles of some machines show, for those whose ids are given."""
    ids = request.query_params.get("ids", "").split(",")
    if not 0 < len(ids) <= GLANCES_MAX or not all(id.isascii() and id.isdigit() and len(id) < 10 for id in ids):
        return refused(422, f"ids are those of /api/machines, 1 to {GLANCES_MAX} of them, with commas between")
    return answer(Glances(page_of(request).live.glances([int(id) for id in ids])))


async def lanes(request: Request) -> Response:
    """Returns the worst machines over a range of time, cut into cells; of one area or line, if that is asked for.

    Of one ``machine``, if that is asked for, its signals.
    """
    from tocsin.serve import lanes as by_time  # on demand, as everything that reads the tables

    page, asked = page_of(request), request.query_params
    try:
        begin, end, cells = int(asked["from"]), int(asked["to"]), int(asked.get("cells", _CELLS))
        first, count = int(asked.get("first", 0)), int(asked.get("count", _LANES))
    except (KeyError, ValueError):
        return refused(422, "lanes need from and to, in milliseconds since 1970, and may have cells, first and count")
    if not (0 <= begin < end <= TIME_MS_MAX and 0 < cells <= CELLS_MAX):
        return refused(422, f"from must come before to, and cells be 1 to {CELLS_MAX}")
    if first < 0 or not 0 < count <= by_time.LANES_MAX:
        return refused(422, f"first is 0 or more, count 1 to {by_time.LANES_MAX}")
    tables, now, grid = (page.lake_folder, page.streams), by_time.heard(page.live), Grid.over(begin, end, cells)
    if machine := asked.get("machine", ""):
        from tocsin.serve.signal_lanes import heard_of, signal_lanes

        scored = heard_of(page.live, machine)
        return answer(await asyncio.to_thread(signal_lanes, *tables, now, scored, machine, grid))
    stands, wanted = page.plant.machines, asked.get("area", "")

    def is_wanted(machine: str) -> bool:
        stand = stands.get(machine)
        return not wanted or (stand is not None and wanted in (stand.area, f"{stand.area} · {stand.line}"))

    return answer(await asyncio.to_thread(by_time.lanes, *tables, now, page.scores, grid, first, count, is_wanted))


async def spectra(request: Request) -> Response:
    """Returns a machine's spectra: one as a line, those of a range of time as a waterfall."""
    from tocsin.serve import spectra as of_machine  # on demand, too

    page, asked = page_of(request), request.query_params
    try:
        ends = (int(asked["from"]), int(asked["to"])) if "from" in asked or "to" in asked else None
        at = int(asked["at"]) if "at" in asked else None
        cells, lines = int(asked.get("cells", _CELLS)), int(asked.get("lines", _LINES))
    except (KeyError, ValueError):
        return refused(422, "spectra are of a machine, and may have kind, from and to, at (in milliseconds since 1970)")
    if ends is not None and not 0 <= ends[0] < ends[1] <= TIME_MS_MAX:
        return refused(422, "from must come before to")
    if not (0 < cells <= of_machine.CELLS_MAX and 0 < lines <= of_machine.LINES_MAX):
        return refused(422, f"cells are 1 to {of_machine.CELLS_MAX}, lines 1 to {of_machine.LINES_MAX}")
    if at is not None and not 0 <= at <= TIME_MS_MAX:
        return refused(422, "at is in milliseconds since 1970")
    if (lake := page.lake) is None:
        return answer(Spectra(machine=asked.get("machine", "")))
    wanted = of_machine.Asked(asked.get("machine", ""), asked.get("kind", "envelope"), ends, at, cells, lines)
    return answer(await asyncio.to_thread(of_machine.spectra, lake, wanted))


async def kpis(request: Request) -> Response:
    """Returns the key figures of the alarm system, those of `tocsin alarms kpis`."""
    from tocsin.serve import desk

    page, table = page_of(request), request.query_params.get("table", "alarms")
    if (lake := page.lake) is None:
        return refused(404, NO_TABLES)
    try:
        figures = await asyncio.to_thread(desk.kpis, lake, table=table)
    except TocsinError as error:
        return refused(404, str(error))
    times = {name: figures[name].isoformat() if figures[name] else None for name in ("from", "until")}
    return answer(msgspec.convert(figures | times, KeyFigures))
