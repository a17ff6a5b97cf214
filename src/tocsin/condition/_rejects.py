"""Rows that a step sets aside, as rows of the quarantine: with the reason, and themselves as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tocsin.batch import KEY, REJECTED_SCHEMA, TIME_TYPE

PAYLOAD_BYTES = 64 * 1024


def rejected(rows: pa.RecordBatch, at: np.ndarray, reasons: Sequence[str], details: Sequence[str]) -> pa.RecordBatch:
    """The rows at the places ``at``; a loop in Python, about 20 µs a row, for rows that should not be."""
    bad = rows.take(pa.array(at))
    names, count = bad.schema.names, len(at)
    arrived = bad.column("received" if "received" in names else "time") if {"received", "time"} & set(names) else None
    payloads = [json.dumps(row, default=str, ensure_ascii=False).encode("utf-8", "replace") for row in bad.to_pylist()]
    topics = bad.column("topic").cast(pa.string()).fill_null("") if "topic" in names else pa.array([""] * count)
    return pa.RecordBatch.from_arrays(
        [
            bad.column("key") if "key" in names else pa.array([""] * count).dictionary_encode().cast(KEY.type),
            arrived if arrived is not None else pa.array([0] * count, TIME_TYPE),
            pa.array([""] * count),
            topics,
            pa.array([-1] * count, pa.int64()),
            pa.array(list(reasons), pa.string()),
            pa.array([detail.encode("utf-8", "replace").decode() for detail in details], pa.string()),
            pa.array([payload[:PAYLOAD_BYTES] for payload in payloads], pa.binary()),
            pa.array([hashlib.sha256(payload).hexdigest() for payload in payloads]),
        ],
        schema=REJECTED_SCHEMA,
    )
