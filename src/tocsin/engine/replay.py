"""What if: a changed pipeline over the readings that are kept, without its sources, its state or its sinks.

Only the steps that lead to alarms run, in memory: nothing is written, acknowledged or delivered, so there is nothing to
clean up either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from tocsin.batch import OUT, Batch, as_keys, times_us
from tocsin.domain.alarm_rows import KNOWN_BY
from tocsin.engine.counters import Counters
from tocsin.engine.graph import Graph
from tocsin.errors import ConfigError
from tocsin.lake import read as lake
from tocsin.lake.read import quoted
from tocsin.objects.store import is_remote
from tocsin.output.delta import Delta
from tocsin.pipeline.plan import LATE_COLUMN, Plan, SinkNode, SourceNode, Step

ROWS = 8_192


@dataclass(frozen=True)
class Archive:
    """A table that holds what one or more sources gave."""

    table: str
    sources: tuple[str, ...]
    has_late: bool
    """Whether it also holds rows that came too late for the steps."""


@dataclass(frozen=True)
class Replayed:
    """What a pipeline says of the readings that are kept."""

    alarms: pa.Table
    """Its alarm rows."""
    tables: tuple[str, ...]
    """The tables with the alarms that there were."""
    rows: int
    """Readings that were gone through."""
    first_us: int
    last_us: int
    """When the first of them was, and the last."""


def replay(plan: Plan, until_us: int | None = None) -> Replayed:
    """Run the steps of a plan that lead to tables of alarms over all readings in its lake before ``until_us``.

    Readings pass in the order of their time, so none is late; those that were are left out. What people did to alarms
    is not done again.

    Raises
    ------
    ConfigError
        The plan keeps no alarms, no table holds what a source gave, or a table lacks a column that the steps need.
    """
    ends = [end for end in plan.sinks if isinstance(end.part, Delta) and set(end.schema.names) >= KNOWN_BY]
    if not ends:
        raise ConfigError(f"{plan.name} keeps no alarms: give a stream that ends with alarm a sink, as delta: alarms")
    steps = _leading_to(plan, ends)
    takers: list[Step | SinkNode] = [*steps, *ends]
    wanted = {id for part in takers for id, _ in part.inputs} & {origin.id for origin in plan.sources}
    archives = _archives(plan, wanted)
    _require_united(archives, takers)
    fed = _fed(plan, archives, steps, ends)
    alarms: list[pa.RecordBatch] = []
    graph = Graph(fed, Counters())
    chains = {origin.id: graph.add(origin, "history") for origin in fed.sources}
    rows, first_us, last_us = 0, None, 0
    for day in _days(plan, archives, until_us):
        for archive in archives:
            chain = chains[archive.sources[0]]
            for batch in _of_day(plan, archive, chain.origin.schemas[OUT], day, until_us):
                times = times_us(batch)
                first_us = int(times[0]) if first_us is None else min(first_us, int(times[0]))
                last_us, rows = max(last_us, int(times[-1])), rows + len(times)
                graph.push(chain, Batch(batch, int(times[-1])))
                for given in graph.take().values():
                    alarms += [one.select(sorted(KNOWN_BY | _SHOWN)) for one in given]
    if first_us is None:
        raise ConfigError(f"there are no readings in {', '.join(one.table for one in archives)} for that time")
    schema = pa.schema([ends[0].schema.field(name) for name in sorted(KNOWN_BY | _SHOWN)])
    return Replayed(
        pa.Table.from_batches(alarms, schema),
        tuple(dict.fromkeys(_path(end) for end in ends)),
        rows,
        first_us,
        last_us,
    )


_SHOWN = frozenset({"key", "time", "started"})


def _leading_to(plan: Plan, ends: Sequence[SinkNode]) -> list[Step]:
    """Returns the steps that rows pass on the way to some sinks, in the plan's order."""
    wanted = {id for end in ends for id, _ in end.inputs}
    for step in reversed(plan.steps):
        if step.id in wanted:
            wanted |= {id for id, _ in (*step.inputs, *step.late)}
    return [step for step in plan.steps if step.id in wanted]


def _path(target: SinkNode) -> str:
    assert isinstance(target.part, Delta)
    return target.part.path


def _archives(plan: Plan, wanted: set[str]) -> list[Archive]:
    """Returns tables that together hold what each of the wanted sources gave, and of none twice."""
    names = {path.resolve(): name for name, path in lake.tables(plan.folder).items()}
    known = []
    for target in plan.sinks:
        sources = tuple(dict.fromkeys(id for id, port in target.inputs if port == OUT))
        kept = isinstance(target.part, Delta) and not is_remote(target.part.path)
        if kept and sources and set(sources) <= {origin.id for origin in plan.sources}:
            name = names.get((plan.folder / _path(target)).resolve())
            known += [Archive(name, sources, target.marks_late)] if name is not None else []
    chosen: list[Archive] = []
    covered: set[str] = set()
    for archive in sorted(known, key=lambda one: len(one.sources)):
        if (set(archive.sources) & wanted) - covered and not set(archive.sources) & covered:
            chosen.append(archive)
            covered |= set(archive.sources)
    if lacking := sorted(wanted - covered):
        raise ConfigError(
            f"no table in {plan.folder} holds what source '{lacking[0]}' gave: a stream of it without steps and with a "
            f"sink keeps it, as history: {{from: {lacking[0]}, sinks: [delta: readings]}}"
        )
    return chosen


def _require_united(archives: Sequence[Archive], parts: Sequence[Step | SinkNode]) -> None:
    """Rows of a table of several sources do not say which one they are of: a step must take all of them or none."""
    for archive in archives:
        for part in parts:
            taken = {id for id, port in part.inputs if port == OUT} & set(archive.sources)
            if taken and taken != set(archive.sources):
                raise ConfigError(
                    f"'{part.id}' takes {', '.join(sorted(taken))} only, but table '{archive.table}' does not say "
                    f"which of {', '.join(archive.sources)} a row is of: keep them in tables of their own"
                )


def _fed(plan: Plan, archives: Sequence[Archive], steps: Sequence[Step], ends: Sequence[SinkNode]) -> Plan:
    """Returns a plan that is fed from tables: a source for each, with nothing to decode, and sinks for alarms only."""
    firsts = {archive.sources[0] for archive in archives}
    known = firsts | {step.id for step in steps}
    origins: list[SourceNode] = [replace(origin, chain=()) for origin in plan.sources if origin.id in firsts]
    left = [replace(step, inputs=tuple(port for port in step.inputs if port[0] in known), late=()) for step in steps]
    return replace(plan, sources=tuple(origins), steps=tuple(left), sinks=tuple(ends), streams={})


def _days(plan: Plan, archives: Sequence[Archive], until_us: int | None) -> Iterator[datetime]:
    days = set()
    for archive in archives:
        table = quoted(archive.table)
        answer = lake.query(f"SELECT DISTINCT date_trunc('day', time) AS day FROM {table}", plan.folder, timeout_s=600)  # noqa: S608
        days |= set(answer["day"].to_pylist())
    yield from sorted(day for day in days if until_us is None or day.timestamp() * 1e6 < until_us)


def _of_day(
    plan: Plan, archive: Archive, schema: pa.Schema, day: datetime, until_us: int | None
) -> Iterator[pa.RecordBatch]:
    """Gives the rows of a day in the order of their time, as the source gave them."""
    in_time = f"NOT {quoted(LATE_COLUMN.name)}" if archive.has_late else "true"
    sql = (
        f"SELECT * FROM {quoted(archive.table)} WHERE time >= $day AND time < $day + INTERVAL 1 DAY AND {in_time} "  # noqa: S608
        "ORDER BY time"
    )
    rows = lake.query(sql, plan.folder, parameters={"day": day}, timeout_s=600, memory="2GB")
    if until_us is not None:
        rows = rows.filter(pc.less(rows["time"].cast(pa.int64()), until_us))
    if rows.num_rows:
        columns = [_column(archive, rows, field) for field in schema]
        yield from pa.Table.from_arrays(columns, schema=schema).combine_chunks().to_batches(ROWS)


def _column(archive: Archive, rows: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    """Returns a column of the source, as the table holds it; what the table does not know is missing."""
    if field.name not in rows.column_names:
        if not field.nullable:
            raise ConfigError(f"table '{archive.table}' lacks column '{field.name}', which the pipeline needs")
        return pa.nulls(rows.num_rows, field.type)
    held = rows[field.name]
    if field.name == "key":
        return as_keys(held.combine_chunks().cast(pa.string()))
    try:
        return held.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"table '{archive.table}' holds '{field.name}' as {held.type}, of which the pipeline wants {field.type}: "
            f"{error}"
        ) from error
