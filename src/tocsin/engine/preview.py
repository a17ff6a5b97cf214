"""A sample of the rows after each step, without writing, acknowledging or remembering anything."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from tocsin.batch import END, OUT, REJECTED, REJECTED_SCHEMA, REST, Batch, empty, tick
from tocsin.contracts import Operator, Reader, Source
from tocsin.pipeline.plan import Plan, Port, SourceNode
from tocsin.world import SystemClock, SystemDisk, World

POLL_S = 0.1


def preview(plan: Plan, rows_max: int = 1_000, wait_s: float = 10.0) -> Iterator[tuple[str, pa.Table]]:
    """Read up to ``rows_max`` records of each source, and give what comes out of each part, in the order of the data.

    Ends the stream after the sample, so that windows close. Waits at most ``wait_s`` for a source that is live.
    Yields (place, rows): ``plant.source``, ``plant.0.json``, ``readings.0.window`` ...; side ports as
    ``plant.0.json.rejected`` where rows left by them.
    """
    seen: dict[Port, list[Batch]] = {}
    for origin in plan.sources:
        yield from _origin(origin, seen, rows_max, wait_s)
    for step in plan.steps:
        batches = [b for port in step.inputs for b in seen.get(port, ()) if len(b)]
        yield from _passed(step.id, step.id, step.operator, step.input_schema, batches, seen)


def _origin(
    origin: SourceNode, seen: dict[Port, list[Batch]], rows_max: int, wait_s: float
) -> Iterator[tuple[str, pa.Table]]:
    batches_read = sample(origin.source, rows_max, wait_s)
    schema = origin.source.output_schema()
    batches = [batch for batch in batches_read if batch.port == OUT]
    place = f"{origin.id}.{origin.source.name()}"
    yield place, _table(schema, batches)
    if aside := [batch for batch in batches_read if batch.port == REJECTED]:
        yield f"{place}.{REJECTED}", _table(REJECTED_SCHEMA, aside)
    for i, operator in enumerate(origin.chain):
        seen[origin.id, OUT] = []
        yield from _passed(f"{origin.id}.{i}.{operator.name()}", origin.id, operator, schema, batches, seen)
        batches, schema = seen[origin.id, OUT], operator.output_schema(schema)
    seen[origin.id, OUT] = batches


def _passed(
    place: str,
    owner: str,
    operator: Operator,
    schema: pa.Schema,
    batches: Iterable[Batch],
    seen: dict[Port, list[Batch]],
) -> Iterator[tuple[str, pa.Table]]:
    state = operator.initial()
    left: list[Batch] = []
    for batch in (*batches, tick(schema, END)):
        state, given = operator.step(state, batch)
        left += given
    for port, port_schema in {OUT: operator.output_schema(schema), **operator.side_schemas(schema)}.items():
        passed = [b for b in left if b.port == port and len(b)]
        seen.setdefault((owner, port), []).extend(passed)
        if port == OUT or passed:
            yield place if port == OUT else f"{place}.{port}", _table(port_schema, passed)


def sample(source: Source, rows_max: int, wait_s: float, connect_s: float = 0.0) -> list[Batch]:
    """Return what a source gives, up to ``rows_max`` records, without acknowledging any.

    Waits at most ``wait_s`` from the first record on, and ``connect_s`` longer for that one.
    """
    batches: list[Batch] = []
    left, until_s = rows_max, time.monotonic() + wait_s + connect_s
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        world = World(SystemClock(), SystemDisk(), folder, folder, "preview")
        connection = source.sampled().open(world)
        readers: dict[str, Reader] = {}
        ended: set[str] = set()
        try:
            while left > 0 and time.monotonic() < until_s and not (readers and len(ended) == len(readers)):
                for split in connection.splits():
                    if split.name not in readers:
                        readers[split.name] = connection.read(split, None)
                polled = {n: reader.poll(left, POLL_S) for n, reader in readers.items() if n not in ended}
                for name, (batch, _) in ((name, one) for name, one in polled.items() if one is not None):
                    if not batches:
                        until_s = min(until_s, time.monotonic() + wait_s)
                    batches.append(batch.with_rows(batch.rows.slice(0, left)))
                    left -= len(batches[-1])
                    if batch.watermark_us in (END, REST):
                        ended.add(name)
                if not readers:
                    time.sleep(POLL_S)  # a group gives its splits only after a while
        finally:
            for reader in readers.values():
                reader.close()
            connection.close()
    return batches


def _table(schema: pa.Schema, batches: Sequence[Batch]) -> pa.Table:
    return pa.Table.from_batches([b.rows for b in batches] or [empty(schema)])
