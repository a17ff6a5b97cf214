"""Rows that a step sets aside, as rows of the quarantine: with the reason, and themselves as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tocsin import batch
from tocsin.batch import TIME_TYPE


def rejected(rows: pa.RecordBatch, at: np.ndarray, reasons: Sequence[str], details: Sequence[str]) -> pa.RecordBatch:
    """Returns the rows at the places ``at``; a loop in Python, about 20 µs a row, for rows that should not be."""
    bad = rows.take(pa.array(at))
    names, count = bad.schema.names, len(at)
    arrival = next((name for name in ("received", "time") if name in names), None)
    return batch.rejected(
        bad.column("key") if "key" in names else pa.repeat("", count),
        pa.array([0] * count, TIME_TYPE) if arrival is None else bad.column(arrival),
        reasons,
        details,
        [json.dumps(row, default=str, ensure_ascii=False).encode("utf-8", "replace") for row in bad.to_pylist()],
        topics=bad.column("topic").cast(pa.string()).fill_null("") if "topic" in names else None,
    )
