"""What a run that has ended says: what was read, kept, set aside, late, rung and sent, and where to look."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tocsin.batch import LATE, REJECTED
from tocsin.contracts import Channel
from tocsin.pipeline.plan import Plan, SinkNode

NOTHING_NEW = (
    "its sources were read to their end before, and are not looked at again; for files that come later write "
    "follow: true, and another folder:"
)


def summary(plan: Plan, snapshot: Mapping[str, Any]) -> str:
    """Returns some lines of text for what a runner's `snapshot` has counted; without a line for what there was not."""
    read = bool(snapshot["rows_in"])
    told = "its sources have ended" if read else NOTHING_NEW
    lines = [f"{plan.name}: {told}"]
    lines += [f"  {what:<12}{count:>11,} {text}" for what, count, text in _figures(plan, snapshot) if count or read]
    tables = [target for target in plan.sinks if target.part.name() == "delta"]
    filled = [place for t in tables if snapshot["rows_into"].get(t.id) and (place := _place(plan, t)) is not None]
    if filled:
        folder, _, last = filled[0].rpartition("/")
        name = last if last.isidentifier() else f'"{last}"'
        sql = f"select * from {name} limit 10"  # noqa: S608 (to be read)
        where = ["--table", f"{last}={filled[0]}"] if "://" in filled[0] else ["--folder", folder]
        lines.append(f"  look: {shlex.join(['tocsin', 'query', sql, *where])}")
    return "\n".join(lines)


def _figures(plan: Plan, snapshot: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    """What was counted, how often, and of what or where."""
    for origin in plan.sources:
        count = snapshot["rows_in"].get(origin.id, 0)
        yield "read", count, f"{_many('record', count)} of {origin.id}"
    for one in snapshot["events"]:
        if one["event"] == "skipped_files" and (count := one["count"]):
            yield "passed over", count, f"{_many('file', count)} of {one['source']}: links, or what could not be read"
    for target in plan.sinks:
        if not isinstance(target.part, Channel):
            yield from _kept(plan, target, snapshot)
    for id, count in snapshot["rung"].items():
        yield "rung", count, f"{_many('alarm', count)} of {id}"
    for id, channel in snapshot["channels"].items():
        yield "sent", (count := channel["delivered"]), f"{_many('message', count)} by {id}"
        if count := channel["waiting"]:
            yield "undelivered", count, f"{_many('message', count)} by {id}: {channel['reason']}"


def _kept(plan: Plan, target: SinkNode, snapshot: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    """What went into a table: rows that were asked for, or set aside; how many are late is told apart."""
    count, place = snapshot["rows_into"].get(target.id, 0), _place(plan, target) or target.id
    ports = {port for _, port in target.inputs}
    if not count and ports <= {REJECTED, LATE}:
        return
    lag = snapshot["sinks"].get(target.id, {})
    waiting = f"; some wait on disk: {lag['reason']}" if lag.get("lag_epochs") else ""
    if ports == {REJECTED}:
        yield "set aside", count, f"{_many('row', count)} ({_reasons(snapshot)}) in {place}{waiting}"
    else:
        yield "kept", count, f"{_many('row', count)} in {place}{waiting}"


def _many(what: str, count: int) -> str:
    return what if count == 1 else f"{what}s"


def _reasons(snapshot: Mapping[str, Any]) -> str:
    counted: Counter[str] = Counter()
    for one in snapshot["rejected"]:
        counted[one["reason"]] += one["rows"]
    return ", ".join(f"{reason} {count:,}" for reason, count in counted.most_common())


def _place(plan: Plan, target: SinkNode) -> str | None:
    """Returns the folder or the address of a table; None for one that has neither."""
    path = getattr(target.part, "path", None)
    return path if path is None or "://" in path else str(plan.folder / path)
