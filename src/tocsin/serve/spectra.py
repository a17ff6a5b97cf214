"""Spectra of a machine's vibration over a range of time, from the lake: one as a line, all as a waterfall.

They are those that step `spectrum` tells with its setting ``spectra``, as many lines and moments as a screen has room
for: a line of the answer is the highest of those that fall into it, and of the blocks of a part of the time the one
that vibrates most is told, so that neither a narrow line nor a short knock is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

from tocsin.errors import TocsinError
from tocsin.serve.messages import FaultLine, Spectra, Waterfall
from tocsin.serve.series import rounded

log = logging.getLogger(__name__)
KINDS = {
    "acceleration": ("spectrum", "spectrum_step", "m/s²"),
    "envelope": ("envelope_spectrum", "envelope_step", "(m/s²)²"),
}
"""By kind: the columns of its lines and of how far they lie apart, and their unit."""
PARTS = (("BPFO", "outer race"), ("BPFI", "inner race"), ("BSF", "rolling element"), ("FTF", "cage"))
"""Fault frequencies in the order of column ``fault_frequencies``: how people call them, and the part that is struck."""
CELLS_MAX = 500
LINES_MAX = 1000
DECADES = 3
"""So far below the highest amplitude the colours of a waterfall reach."""
LEVELS = 255
_RECENT_MS = 3_600_000
_QUERY_S = 15.0
_TOLD = ("acceleration_rms", "speed", "fault", "fault_frequencies", *(f"{name.lower()}_ratio" for name, _ in PARTS))
"""What else is told of a block, where the table has it."""


@dataclass(frozen=True)
class Asked:
    """What of a machine's spectra is asked for."""

    machine: str
    kind: str
    ends_ms: tuple[int, int] | None
    """From when up to before when; None for the last hour that there is."""
    at_ms: int | None
    """The line is that of the last block up to then; None for the newest."""
    cells: int
    """Parts of the time in the waterfall, at most."""
    lines: int
    """Lines of each spectrum, at most."""


def spectra(lake_folder: Path, asked: Asked) -> Spectra:
    """Returns a machine's spectra; those of the first table that has any of it. Without any, it has no kinds."""
    from tocsin.lake.read import schema, tables

    for name in tables(lake_folder):
        try:
            columns = schema(name, lake_folder)
            kinds = [kind for kind, (lines, step, _) in KINDS.items() if _has(columns, lines, step)]
            if kinds and (told := _of_table(lake_folder, name, columns, kinds, asked)) is not None:
                return told
        except (TocsinError, OSError) as error:
            log.warning("the page shows no spectra of table %s: %s", name, error)
    return Spectra(machine=asked.machine)


def _has(columns: pa.Schema, lines: str, step: str) -> bool:
    return {lines, step, "key", "time"} <= set(columns.names) and pt.is_list(columns.field(lines).type)


def _of_table(lake_folder: Path, table: str, columns: pa.Schema, kinds: Sequence[str], asked: Asked) -> Spectra | None:
    """Returns what a table holds of the machine; None if nothing."""
    from tocsin.lake.read import query, quoted

    kind = asked.kind if asked.kind in kinds else kinds[0]
    lines, step, unit = KINDS[kind]
    of_machine = f"FROM {quoted(table)} WHERE CAST(key AS VARCHAR) = $machine AND {quoted(lines)} IS NOT NULL"
    given: dict[str, object] = {"machine": asked.machine}
    recent = query(
        f"""
        SELECT epoch_ms(min(time)) AS first, epoch_ms(max(time)) AS last
        FROM (SELECT time, max(time) OVER () AS newest {of_machine}) WHERE time > newest - to_milliseconds($recent_ms)
        """,  # noqa: S608
        lake_folder,
        parameters={**given, "recent_ms": _RECENT_MS},
        timeout_s=_QUERY_S,
    ).to_pylist()[0]
    if recent["last"] is None:
        return None
    begin_ms, end_ms = asked.ends_ms or (recent["first"], recent["last"] + 1)
    cell_ms = max(1, -(-(end_ms - begin_ms) // asked.cells))
    given |= {"begin_us": begin_ms * 1000, "end_us": end_ms * 1000}
    of_time = f"{of_machine} AND time >= make_timestamptz($begin_us) AND time < make_timestamptz($end_us)"
    worst = "acceleration_rms" if "acceleration_rms" in columns.names else "epoch_ms(time)"
    cells = query(
        f"""
        SELECT (epoch_ms(time) - $begin_ms) // $cell_ms AS cell, max_by({quoted(lines)}, {worst}) AS lines,
               max_by({quoted(step)}, {worst}) AS step {of_time} GROUP BY cell ORDER BY cell
        """,
        lake_folder,
        parameters={**given, "begin_ms": begin_ms, "cell_ms": cell_ms},
        timeout_s=_QUERY_S,
    )
    told = [name for name in _TOLD if name in columns.names]
    until = given if asked.at_ms is None else {**given, "end_us": min(end_ms, asked.at_ms + 1) * 1000}
    block = query(
        f"""
        SELECT {", ".join(map(quoted, told))}{", " if told else ""} {quoted(lines)} AS lines, {quoted(step)} AS step,
               epoch_ms(time) AS at_ms {of_time} ORDER BY time DESC LIMIT 1
        """,
        lake_folder,
        parameters=until,
        timeout_s=_QUERY_S,
    ).to_pylist()
    return _told(asked, kinds, kind, unit, _waterfall(cells, begin_ms, cell_ms, asked), block[0] if block else None)


def _told(
    asked: Asked, kinds: Sequence[str], kind: str, unit: str, waterfall: Waterfall | None, block: dict[str, Any] | None
) -> Spectra:
    answer = Spectra(machine=asked.machine, kinds=list(kinds), kind=kind, unit=unit, waterfall=waterfall)
    if block is None:
        return answer
    lines = np.asarray(block["lines"], np.float64)
    top_hz = len(lines) * block["step"]
    answer.at_ms, answer.top_hz = block["at_ms"], top_hz
    answer.amplitudes = [
        rounded(value, 4) for value in drawn(lines, block["step"], top_hz, min(asked.lines, len(lines)))
    ]
    answer.shaft_hz = block["speed"] / 60 if block.get("speed") else None
    answer.fault = block.get("fault") or ""
    frequencies = block.get("fault_frequencies") or []
    for (name, part), hz in zip(PARTS, frequencies, strict=False):
        answer.faults.append(FaultLine(name, part, hz, block.get(f"{name.lower()}_ratio"), part == answer.fault))
    return answer


def _waterfall(cells: pa.Table, begin_ms: int, cell_ms: int, asked: Asked) -> Waterfall | None:
    """Returns the spectra of each part of the time, as levels from 1 to `LEVELS`; None if there are none."""
    if not cells.num_rows:
        return None
    steps = cells["step"].to_pylist()
    rows = [np.asarray(one.values, np.float64) for one in cells["lines"]]
    top_hz = max(len(row) * step for row, step in zip(rows, steps, strict=True))
    lines = min(asked.lines, max(map(len, rows)))
    amplitudes = np.stack([drawn(row, step, top_hz, lines) for row, step in zip(rows, steps, strict=True)])
    highest = float(np.nanmax(amplitudes, initial=0.0))
    lowest = highest / 10**DECADES
    levels = np.zeros((int(cells["cell"][-1].as_py()) + 1, lines), np.uint8)
    if highest > 0:
        with np.errstate(divide="ignore"):
            height = np.log10(amplitudes / lowest) / DECADES
        scaled = 1 + (LEVELS - 1) * np.clip(height, 0, 1)
        levels[cells["cell"].to_numpy()] = np.where(np.isnan(amplitudes), 0, np.rint(scaled))
    return Waterfall(
        begin_ms=begin_ms, cell_ms=cell_ms, cells=len(levels), lines=lines, top_hz=top_hz, lowest=lowest,
        highest=highest, levels=levels.tobytes(),
    )  # fmt: skip


def drawn(spectrum: npt.NDArray[np.float64], step_hz: float, top_hz: float, count: int) -> npt.NDArray[np.float64]:
    """Returns a spectrum as ``count`` lines from 0 to ``top_hz``: the highest of those that begin in each.

    Where they lie further apart than the lines that are asked for, each is repeated; NaN beyond its end.

    Examples
    --------
    >>> drawn(np.array([1.0, 5.0, 2.0, 3.0]), 10.0, 80.0, 4).tolist()
    [5.0, 3.0, nan, nan]
    """
    edges = np.arange(count + 1) * (top_hz / count) / step_hz
    begin = np.floor(edges[:-1] + 1e-9).astype(np.int64)
    end = np.maximum(np.ceil(edges[1:] - 1e-9).astype(np.int64), begin + 1)
    padded = np.append(spectrum, np.full(max(int(end[-1]) - len(spectrum), 0) + 1, -np.inf))
    highest = np.maximum.reduceat(padded, np.ravel(np.column_stack([begin, end])))[::2]
    return np.where(np.isfinite(highest), highest, np.nan)
