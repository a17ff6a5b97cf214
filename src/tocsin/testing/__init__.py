"""What a test or an example of a part needs: rows, a stream to feed through a step, a world to open an end in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.batch import END, KEY, OUT, START, TIME, Batch, Ints, as_keys, as_times, tick, times_us
from tocsin.contracts import Offset, Operator, Reader, Source
from tocsin.errors import ConfigError
from tocsin.world import Disk, SystemClock, SystemDisk, World

BEGIN_US = 1_767_225_600_000_000
"""2026-01-01 00:00 UTC: where the time of `rows` begins."""


def rows(columns: Mapping[str, Any], *, every_s: float = 1.0) -> pa.RecordBatch:
    """A batch from plain lists.

    Without ``key`` all rows belong to ``machine``; without ``time`` they are ``every_s`` apart. A time may be given as
    seconds after 2026-01-01, or as a datetime.

    Examples
    --------
    >>> rows({"value": [1.5, None], "key": ["pump", "fan"]}).schema.names
    ['key', 'time', 'value']
    """
    count = len(next(iter(columns.values()), []))
    named = dict(columns)
    key = named.pop("key", ["machine"] * count)
    time = named.pop("time", [i * every_s for i in range(count)])
    others = {name: v if isinstance(v, pa.Array | pa.ChunkedArray) else pa.array(v) for name, v in named.items()}
    arrays = [as_keys(key if isinstance(key, pa.Array) else pa.array(key, pa.string())), _times(time), *others.values()]
    fields = [KEY, TIME, *(pa.field(name, array.type) for name, array in others.items())]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _times(values: Any) -> pa.Array:
    if isinstance(values, pa.Array):
        return values.cast(TIME.type)
    if len(values) and isinstance(values[0], datetime):
        return pa.array(values, TIME.type)
    return as_times(BEGIN_US + np.round(np.asarray(values, np.float64) * 1e6).astype(np.int64))


def stream(rows: pa.RecordBatch, chop: int | Sequence[int] | None = None) -> Iterator[Batch]:
    """The rows in batches of ``chop``, each with the highest watermark that is true, then the end.

    Rows without a column ``time`` carry no watermark until the end.
    """
    total = rows.num_rows
    sizes = [chop or max(total, 1)] * (total // (chop or max(total, 1)) + 1) if not isinstance(chop, Sequence) else chop
    still_to_come = np.full(total + 1, END)
    if "time" in rows.schema.names:
        still_to_come[:total] = np.minimum.accumulate(times_us(rows)[::-1])[::-1]
    else:
        still_to_come[:total] = START
    begin = 0
    for size in (*sizes, total):
        if begin < total:
            part = rows.slice(begin, size)
            begin += part.num_rows
            # Never END: the end comes as a tick of its own.
            yield Batch(part, int(still_to_come[begin]) if begin < total else _last(rows))
    yield tick(rows.schema, END)


def _last(rows: pa.RecordBatch) -> int:
    times: Ints = times_us(rows) if "time" in rows.schema.names else np.array([START])
    return int(times.max())


def feed(
    operator: Operator, rows: pa.RecordBatch, *, chop: int | Sequence[int] | None = None, port: str = OUT
) -> pa.Table:
    """What leaves an operator by a port when rows pass through it to the end of the stream.

    Examples
    --------
    >>> from tocsin.bases import Stateless
    >>> class Same(Stateless):
    ...     def output_schema(self, input): return input
    ...     def apply(self, rows): return rows
    >>> feed(Same(), rows({"value": [1.0, 2.0]}), chop=1)["value"].to_pylist()
    [1.0, 2.0]
    """
    promised = operator.output_schema(rows.schema) if port == OUT else operator.side_schemas(rows.schema)[port]
    state, left = operator.initial(), []
    for batch in stream(rows, chop):
        state, batches = operator.step(state, batch)
        left += [b.rows for b in batches if b.port == port and len(b)]
    return pa.Table.from_batches(left, promised)


def world(folder: Path | None = None, name: str = "test/part", disk: Disk | None = None) -> World:
    """Returns a world on the machine's own clock and disk, in a temporary folder unless one is given.

    Relative paths of what is read (certificates) start at the folder, too.
    """
    folder = Path(tempfile.mkdtemp()) if folder is None else folder
    scratch = folder / ".state" / name.replace("/", "_")
    return World(SystemClock(), disk or SystemDisk(), folder, scratch, name, given=folder)


def read_from(source: Source, offset: Offset | None = None, in_world: World | None = None) -> Reader:
    """Returns a reader of the source's only split, from an offset or from the start."""
    connection = source.open(in_world or world())
    (split,) = connection.splits()
    return connection.read(split, offset)


def refusal(call: Callable[[], object]) -> str:
    """Returns the sentence with which a check of settings or schema refuses; empty if it does not."""
    try:
        call()
    except ConfigError as error:
        return str(error)
    return ""


__all__ = ["BEGIN_US", "feed", "read_from", "refusal", "rows", "stream", "world"]
