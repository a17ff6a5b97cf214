"""The parts that `downtime` counts, and the rows whose words or numbers it cannot use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tocsin.batch import REJECTED, REJECTED_SCHEMA, Batch, as_numbers, floats
from tocsin.domain.effectiveness import COUNTED_SCHEMA

COUNTS = "counts"
"""The port by which counted parts leave."""
PAYLOAD_BYTES_MAX = 65_536


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
    payload = [" ".join(map(str, values)).encode()[:PAYLOAD_BYTES_MAX] for values in texts]
    nothing = [""] * len(payload)
    arrays = [
        rows.column("key"), rows.column("time"), nothing, nothing, [-1] * len(payload),
        [reason] * len(payload), [detail] * len(payload), payload,
        [hashlib.sha256(p).hexdigest() for p in payload],
    ]  # fmt: skip
    columns_of = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(arrays, REJECTED_SCHEMA, strict=True)
    ]
    return Batch(pa.RecordBatch.from_arrays(columns_of, schema=REJECTED_SCHEMA), port=REJECTED)
