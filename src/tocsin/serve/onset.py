"""The signal that an alarm is about, before and after it began, with the band that it should have stayed in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from tocsin.engine.wire import StreamColumns
from tocsin.serve.history import history
from tocsin.serve.messages import BandAtOnset, MachineSeries, Onset, Points, SignalSpan
from tocsin.serve.past import kept

PARTS = 240
AROUND = timedelta(hours=1)
"""So long before the onset is shown, and as long after it."""


def onset_of(folder: Path, row: Mapping[str, Any], machine: str, since: datetime) -> Onset | None:
    """Returns the signal of an alarm around its onset, from the tables; None where they hold nothing of it.

    ``row`` is the alarm's first row, ``machine`` the name that the tables have its readings by. The band is that of
    each moment where a table of judged rows is kept; in any case there is the one at the onset, which is that of the
    past: what is abnormal teaches it nothing.
    """
    begin_ms, at_ms, end_ms = (round(one.timestamp() * 1000) for one in (since - AROUND, since, since + AROUND))
    streams = [_judging(stream, str(row.get("signal") or "")) for stream in kept(folder)]
    signal, mine = _drawn(folder, streams, row, machine, begin_ms, end_ms)
    if not mine:
        return None
    times = [at for one in mine for at in (one.points.time[0], one.points.time[-1])]
    first, last = int(min(times)), int(max(times)) + (end_ms - begin_ms) // PARTS
    if last - first < (end_ms - begin_ms) // 2:  # there is less: of that, as much as a picture has room for
        signal, mine = _drawn(folder, streams, row, machine, first, min(last, end_ms))
    # Of several tables that have the signal: where there is most of it, and of these one that has the band as well.
    shown = max(mine, key=lambda one: (len(one.points.time), bool(one.points.upper))).points
    banded = [one.points for one in mine if one.points.upper or one.points.lower]
    band = shown if shown.upper or shown.lower else max(banded, key=lambda one: len(one.time), default=Points([], []))
    return Onset(
        signal=signal,
        at_ms=at_ms,
        points=shown,
        band=Points(band.time, [], lower=band.lower, upper=band.upper),
        at_onset=_band(row),
        before=_span(shown, begin_ms, at_ms),
        after=_span(shown, at_ms, end_ms),
    )


def _drawn(
    folder: Path, streams: Sequence[StreamColumns], row: Mapping[str, Any], machine: str, begin_ms: int, end_ms: int
) -> tuple[str, list[MachineSeries]]:
    """The name of the signal of an alarm, and what each table has of it."""
    drawn = history(folder, streams, machine, begin_ms, end_ms, PARTS)
    signal = _signal(row, machine, drawn)
    return signal, [one for one in drawn if one.signal == signal and one.points.time]


def _judging(stream: StreamColumns, signal: str) -> StreamColumns:
    """Returns what the rows of a table mean, which does not say itself which of its columns a band is about.

    Where several are judged together each row has the band of another one: then none is taken.
    """
    if stream.judged or not stream.band or (stream.blamed and len(stream.values) > 1):
        return stream
    about = signal if signal in stream.values else stream.values[0] if len(stream.values) == 1 else ""
    return msgspec.structs.replace(stream, judged=about)


def _signal(row: Mapping[str, Any], machine: str, drawn: Sequence[MachineSeries]) -> str:
    """The name by which the tables have the signal."""
    said, key = str(row.get("signal") or ""), str(row["key"])
    if said in ("", "value") and key.startswith(f"{machine}/"):
        return key.removeprefix(f"{machine}/")
    names = {one.signal for one in drawn}
    if said in names or len(names) != 1:
        return said
    return names.pop()  # a machine of one signal, which its alarm need not name


def _band(row: Mapping[str, Any]) -> BandAtOnset:
    try:
        said = json.loads(row.get("evidence") or "{}")
    except json.JSONDecodeError:
        said = {}
    numbers = {name: said.get(name) for name in ("expected", "lower", "upper")}
    band = {name: float(one) for name, one in numbers.items() if isinstance(one, int | float)}
    limit = row.get("limit") if not band and row.get("level") != "score" else None
    return BandAtOnset(**band, limit=limit)


def _span(points: Points, begin_ms: float, end_ms: float) -> SignalSpan:
    """From where to where the signal went in a stretch of time."""
    inside = [i for i, at in enumerate(points.time) if begin_ms <= at < end_ms]
    least = [one for i in inside if (one := points.least[i]) is not None]
    most = [one for i in inside if (one := points.most[i]) is not None]
    return SignalSpan(min(least, default=None), max(most, default=None), len(inside))
