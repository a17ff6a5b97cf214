"""OEE, MTBF, MTTR and the Pareto of reasons, from events of `downtime` and counts of parts (ISO 22400-2, Nakajima).

Loading time is the time looked at without planned stops and without what is not known. Availability is the share of
it in which the machine ran; microstops count as running there and show in performance, which is what the good and bad
parts would have taken at the ideal cycle, divided by that running time. Quality is the share of good parts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tocsin.batch import KEY, TIME, TIME_TYPE
from tocsin.domain.calendars import Period

WORK_UNIT_STATES = ("running", "idle", "planned_stop", "unplanned_stop", "microstop", "unknown")
"""What a machine may be doing (ISO 22400 calls a machine a work unit)."""
FAILURE = "unplanned_stop"

DOWNTIME_SCHEMA = pa.schema(
    [
        KEY,
        TIME,
        pa.field("id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("start", TIME_TYPE, nullable=False),
        pa.field("end", TIME_TYPE),
        pa.field("duration_s", pa.float64()),
        pa.field("revision", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("shift", pa.string(), nullable=False),
    ]
)
"""``time`` is when it was known, ``start`` and ``end`` when it was; ``status`` is open, closed or withdrawn."""

COUNTED_SCHEMA = pa.schema([*DOWNTIME_SCHEMA, pa.field("total", pa.float64()), pa.field("good", pa.float64())])
"""Where parts are counted: a row whose ``status`` is ``counted`` says how many were made, and is no event."""


@dataclass(frozen=True, slots=True)
class Span:
    """What a machine was doing from ``start`` to ``end`` (None: still)."""

    kind: str
    start: int
    end: int | None
    reason: str = ""


def current(events: pa.Table) -> Mapping[str, Sequence[Span]]:
    """Returns the newest revision of every event that was not withdrawn, by key, in order of time."""
    newest: dict[str, dict[str, Any]] = {}
    columns = ["key", "id", "kind", "status", "start", "end", "revision", "reason"]
    table = events.select(columns)
    for name in ("start", "end"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.int64()))
    for row in table.to_pylist():
        if row["id"] not in newest or row["revision"] > newest[row["id"]]["revision"]:
            newest[row["id"]] = row
    by_key: dict[str, list[Span]] = defaultdict(list)
    for row in sorted(newest.values(), key=lambda row: row["start"]):
        if row["status"] != "withdrawn":
            by_key[row["key"]].append(Span(row["kind"], row["start"], row["end"], row["reason"]))
    return by_key


def figures(spans: Iterable[Span], begin: int, end: int) -> dict[str, Any]:
    """Returns seconds in each state from ``begin`` to ``end``, unplanned stops that began there, and key figures.

    They are availability, MTBF and MTTR.

    Examples
    --------
    >>> hour = 3_600_000_000
    >>> work = [Span("running", 0, 6 * hour), Span("unplanned_stop", 6 * hour, 8 * hour)]
    >>> shift = figures(work, 0, 8 * hour)
    >>> shift["availability"], shift["mtbf_s"], shift["mttr_s"]
    (0.75, 21600.0, 7200.0)
    """
    held = dict.fromkeys(WORK_UNIT_STATES, 0)
    stops = 0
    for span in spans:
        until = end if span.end is None else min(span.end, end)
        if until > max(span.start, begin):
            held[span.kind] += until - max(span.start, begin)
        stops += span.kind == FAILURE and begin <= span.start < end
    told = sum(held.values())
    loading = told - held["planned_stop"] - held["unknown"]
    ran = held["running"] + held["microstop"]
    return {
        **{f"{name}_s": us / 1e6 for name, us in held.items()},
        "stops": stops,
        "availability": ran / loading if loading else None,
        "mtbf_s": ran / 1e6 / stops if stops else None,
        "mttr_s": held[FAILURE] / 1e6 / stops if stops else None,
    }


def factors(held: Mapping[str, Any], total: float, good: float | None, ideal_s: float | None) -> dict[str, Any]:
    """Returns performance, quality and OEE by `figures`, the parts and the time they would take; None if not known."""
    ran = held["running_s"] + held["microstop_s"]
    performance = ideal_s / ran if ran and ideal_s is not None else None
    quality = good / total if total and good is not None else None
    product = None
    if held["availability"] is not None and performance is not None and quality is not None:
        product = held["availability"] * performance * quality
    return {"performance": performance, "quality": quality, "oee": product}


def windows(begin: int, end: int, shifts: Sequence[Period], every: int = 0) -> Iterator[tuple[int, int, str]]:
    """Returns shifts (or multiples of ``every``, or all of it) between two moments: start, end and name, clipped."""
    if shifts:
        at = begin
        while at < end:
            inside = [(span, shift.name) for shift in shifts if (span := shift.around(at))]
            if inside:
                (start, until), name = min(inside)
                yield max(start, begin), min(until, end), name
                at = until
            else:
                later = [moment for shift in shifts if (moment := shift.after(at)) is not None]
                if not later:
                    return
                at = min(later)
    elif every:
        for start in range(begin // every * every, end, every):
            yield max(start, begin), min(start + every, end), ""
    else:
        yield begin, end, ""


OEE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("window_start", TIME_TYPE),
        pa.field("window_end", TIME_TYPE),
        pa.field("shift", pa.string()),
        *(pa.field(f"{name}_s", pa.float64()) for name in WORK_UNIT_STATES),
        pa.field("stops", pa.int64()),
        pa.field("availability", pa.float64()),
        pa.field("performance", pa.float64()),
        pa.field("quality", pa.float64()),
        pa.field("oee", pa.float64()),
        pa.field("mtbf_s", pa.float64()),
        pa.field("mttr_s", pa.float64()),
    ]
)


def oee(
    events: pa.Table,
    begin_us: int,
    end_us: int,
    *,
    counts: pa.Table | None = None,
    ideal_cycle_s: float | Mapping[str, float] | None = None,
    shifts: Sequence[Period] = (),
    every_us: int = 0,
    depth: int = 0,
) -> pa.Table:
    """Returns OEE of each machine and shift between two moments.

    ``counts`` has columns key, time, total and good (parts made since the row before); ``ideal_cycle_s`` is the
    shortest time for a part, for all machines or by key. With ``depth`` the machines of a line (the first ``depth``
    steps of the key's path) are added up. What is not known is null.
    """
    made = _counts(counts)
    by_line: dict[str, list[tuple[str, Sequence[Span]]]] = defaultdict(list)
    for key, spans in current(events).items():
        by_line["/".join(key.split("/")[:depth]) if depth else key].append((key, spans))
    rows = []
    for line, machines in sorted(by_line.items()):
        for start, end, shift in windows(begin_us, end_us, shifts, every_us):
            held = figures([span for _, spans in machines for span in spans], start, end)
            total = good = ideal = 0.0
            for key, _ in machines:
                parts = [(n, ok) for at, n, ok in made.get(key, ()) if start <= at < end]
                cycle = ideal_cycle_s.get(key) if isinstance(ideal_cycle_s, Mapping) else ideal_cycle_s
                total += sum(n for n, _ in parts)
                good += sum(ok for _, ok in parts)
                ideal += (cycle or 0.0) * sum(n for n, _ in parts)
            known = ideal_cycle_s is not None and counts is not None
            rows.append(
                {"key": line, "window_start": start, "window_end": end, "shift": shift, **held}
                | factors(held, total, good, ideal if known else None)
            )
    columns = [pa.array([row[f.name] for row in rows], _plain(f.type)).cast(f.type) for f in OEE_SCHEMA]
    return pa.Table.from_arrays(columns, schema=OEE_SCHEMA)


def pareto(events: pa.Table, begin_us: int, end_us: int, *, kinds: Sequence[str] = (FAILURE, "microstop")) -> pa.Table:
    """Returns where the time went: stops by reason, the worst first, with their number, seconds and running share."""
    lost: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for spans in current(events).values():
        for span in spans:
            until = end_us if span.end is None else min(span.end, end_us)
            if span.kind in kinds and until > max(span.start, begin_us):
                entry = lost[span.reason or "(no reason given)"]
                entry[0] += 1
                entry[1] += until - max(span.start, begin_us)
    order = sorted(lost.items(), key=lambda item: (-item[1][1], item[0]))
    total, running, shares = sum(us for _, us in lost.values()), 0, []
    for _, (_, us) in order:
        running += us
        shares.append(100 * running / total)
    return pa.table(
        {
            "reason": pa.array([reason for reason, _ in order], pa.string()),
            "stops": pa.array([count for _, (count, _) in order], pa.int64()),
            "lost_s": pa.array([us / 1e6 for _, (_, us) in order], pa.float64()),
            "running_percent": pa.array(shares, pa.float64()),
        }
    )


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.int64() if kind == TIME_TYPE else kind


def _counts(counts: pa.Table | None) -> Mapping[str, Sequence[tuple[int, float, float]]]:
    by_key: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    if counts is not None:
        times = counts["time"].cast(TIME_TYPE).cast(pa.int64()).to_pylist()
        columns = (counts[name].to_pylist() for name in ("key", "total", "good"))
        for at, (key, total, good) in zip(times, zip(*columns, strict=True), strict=True):
            by_key[key].append((at, total or 0, good or 0))
    return by_key
