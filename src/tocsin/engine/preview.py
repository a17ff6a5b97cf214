"""A sample of the rows after each step, without writing, acknowledging or remembering anything."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from tocsin.batch import END, OUT, Batch, empty, tick
from tocsin.contracts import Operator, Source
from tocsin.pipeline.plan import Inlet, Plan, Port


def preview(plan: Plan, rows_max: int = 1_000, wait_s: float = 10.0) -> Iterator[tuple[str, pa.Table]]:
    """Read up to ``rows_max`` records of each source, and give what comes out of each part, in the order of the data.

    Ends the stream after the sample, so that windows close. Waits at most ``wait_s`` for a source that is live.
    Yields (place, rows): ``plant.source``, ``plant.0.json``, ``readings.0.window`` ...; side ports as
    ``plant.0.json.rejected`` where rows left by them.
    """
    seen: dict[Port, list[Batch]] = {}
    for inlet in plan.inlets:
        yield from _inlet(inlet, seen, rows_max, wait_s)
    for step in plan.steps:
        batches = [b for port in step.inputs for b in seen.get(port, ()) if len(b)]
        yield from _passed(step.id, step.id, step.operator, step.input_schema, batches, seen)


def _inlet(inlet: Inlet, seen: dict[Port, list[Batch]], rows_max: int, wait_s: float) -> Iterator[tuple[str, pa.Table]]:
    raw = _sample(_apart(inlet.source), rows_max, wait_s)
    schema = inlet.source.output_schema()
    yield f"{inlet.id}.{inlet.source.name()}", _table(schema, raw)
    batches = raw
    for i, operator in enumerate(inlet.chain):
        seen[inlet.id, OUT] = []
        yield from _passed(f"{inlet.id}.{i}.{operator.name()}", inlet.id, operator, schema, batches, seen)
        batches, schema = seen[inlet.id, OUT], operator.output_schema(schema)
    seen[inlet.id, OUT] = batches


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
        found = [b for b in left if b.port == port and len(b)]
        seen.setdefault((owner, port), []).extend(found)
        if port == OUT or found:
            yield place if port == OUT else f"{place}.{port}", _table(port_schema, found)


def _sample(source: Source, rows_max: int, wait_s: float) -> list[Batch]:
    source = source.sampled()
    batches: list[Batch] = []
    count, until = 0, time.monotonic() + wait_s
    for partition in source.partitions():
        reader = source.open(partition, None)
        try:
            while count < rows_max and time.monotonic() < until:
                polled = reader.poll(rows_max - count, 0.1)
                if polled is None:
                    continue
                batch = polled[0]
                if batch.watermark_us == END and not len(batch):
                    break
                kept = batch.rows.slice(0, rows_max - count)
                batches.append(batch.with_rows(kept))
                count += len(kept)
                if batch.watermark_us == END:
                    break
        finally:
            reader.close()
    return batches


def _apart(source: Source) -> Source:
    """The source under another name where it has one, so that a look does not take over a running client's session."""
    if "client_id" in type(source).model_fields:
        return source.model_copy(update={"client_id": f"tocsin-preview-{secrets.token_hex(4)}"})
    return source


def _table(schema: pa.Schema, batches: Sequence[Batch]) -> pa.Table:
    return pa.Table.from_batches([b.rows for b in batches] or [empty(schema)])
