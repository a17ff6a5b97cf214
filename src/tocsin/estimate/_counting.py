"""The parts that `downtime` counts, and the rows whose words or numbers it cannot use."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tocsin import batch
from tocsin.batch import REJECTED, Batch, as_numbers, floats
from tocsin.domain.effectiveness import COUNTED_SCHEMA

COUNTS = "counts"
"""The port by which counted parts leave."""


def parts_made(rows: pa.RecordBatch, total: str, good: str | None) -> Iterator[Batch]:
    """Returns the parts made, as rows that can be united with the events, and what cannot be a number of parts.

    ``total`` and ``good`` are the columns with the number of all parts and of the good ones.
    """
    parts = floats(rows.column(total))
    fine = np.full(len(parts), np.nan) if good is None else floats(rows.column(good))
    right = np.isfinite(parts) & (parts >= 0) & ((good is None) | ((fine >= 0) & (fine <= parts)))
    there = np.asarray(rows.column(total).is_valid().to_numpy(zero_copy_only=False), bool)
    if (wrong := there & ~right).any():
        detail = f"{total} must be a number of parts" + (good is not None) * f", of which {good} were good"
        yield rejected(rows.filter(pa.array(wrong)), "count_invalid", detail, *filter(None, (total, good)))
    if not (made := right & (parts > 0)).any():
        return
    some, count = rows.filter(pa.array(made)), int(made.sum())
    time, nothing = some.column("time"), pa.repeat("", count)
    columns = [
        some.column("key"), time, nothing, nothing, pa.repeat("counted", count), time, time,
        pa.nulls(count, pa.float64()), pa.repeat(pa.scalar(0, pa.int32()), count), nothing, nothing,
        as_numbers(parts[made]), as_numbers(fine[made]),
    ]  # fmt: skip
    yield Batch(pa.RecordBatch.from_arrays(columns, schema=COUNTED_SCHEMA), port=COUNTS)


def rejected(rows: pa.RecordBatch, reason: str, detail: str, *columns: str) -> Batch:
    """Returns what these columns of the rows say, as rejected rows; the row itself still counts as a heartbeat."""
    texts = zip(*(rows.column(column).to_pylist() for column in columns), strict=True)
    payloads = [" ".join(map(str, values)).encode() for values in texts]
    count = len(payloads)
    keys, times = rows.column("key"), rows.column("time")
    return Batch(batch.rejected(keys, times, [reason] * count, [detail] * count, payloads), port=REJECTED)
