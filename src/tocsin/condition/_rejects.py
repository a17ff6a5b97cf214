"""Rows that a step sets aside, as rows of the quarantine: with the reason, and themselves as JSON.

In the chain of a source the runner puts the record's own bytes in place of the JSON (see `batch.RECORD`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tocsin import batch
from tocsin.batch import RECORD, TIME_TYPE


def rejected(rows: pa.RecordBatch, at: np.ndarray, reasons: Sequence[str], details: Sequence[str]) -> pa.RecordBatch:
    """Returns the rows at the places ``at``; a loop in Python, about 20 µs a row, for rows that should not be."""
    bad = rows.take(pa.array(at))
    names, count = bad.schema.names, len(at)
    if RECORD in names:
        payloads = [b""] * count
    else:
        payloads = [
            json.dumps(row, default=str, ensure_ascii=False).encode("utf-8", "replace") for row in bad.to_pylist()
        ]
    arrival = next((name for name in ("received", "time") if name in names), None)
    return batch.rejected(
        bad.column("key") if "key" in names else pa.repeat("", count),
        pa.array([0] * count, TIME_TYPE) if arrival is None else bad.column(arrival),
        reasons,
        details,
        payloads,
        topics=bad.column("topic").cast(pa.string()).fill_null("") if "topic" in names else None,
        positions=bad.column(RECORD) if RECORD in names else None,
    )
