"""What an alarm row looks like: one row for each transition of an alarm, or action on one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa

from tocsin.batch import KEY, TIME, TIME_TYPE
from tocsin.batch import empty as no_rows

NORMAL = "NORMAL"
ACTIVE_UNACK = "ACTIVE_UNACK"
ACTIVE_ACK = "ACTIVE_ACK"
CLEARED_UNACK = "CLEARED_UNACK"
CLEARED_ACK = "CLEARED_ACK"
LATCHED_UNACK = "LATCHED_UNACK"
LATCHED_ACK = "LATCHED_ACK"
CLOSED = (NORMAL, CLEARED_ACK)
"""States in which no alarm is open."""
ACTIVE = (ACTIVE_UNACK, ACTIVE_ACK)

RAISING = ("raised", "reraised")
"""Events by which an alarm becomes active; the key figures count these."""

ALARM_SCHEMA = pa.schema(
    [
        KEY,
        TIME,
        pa.field("id", pa.string(), nullable=False),
        pa.field("case", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("priority", pa.int32(), nullable=False),
        pa.field("severity", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("previous", pa.string(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("ring", pa.bool_(), nullable=False),
        pa.field("level", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("limit", pa.float64()),
        pa.field("score", pa.float64()),
        pa.field("started", TIME_TYPE),
        pa.field("message", pa.string(), nullable=False),
        pa.field("by", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("evidence", pa.string(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
    ]
)
"""Columns of an alarm row.

``time`` is when it happened (event time), ``started`` when the condition of this occurrence began; ``id`` names the
occurrence, or the alarm point if none is open; ``state`` is one of the states above and ``previous`` the one before;
``mode`` says why it does not ring (shelved, suppressed, out_of_service, maintenance, chattering, flood) or is empty;
``ring`` says whether people are to be told; ``by`` and ``reason`` say who did it and why, when it was a person;
``evidence`` is JSON; ``number`` counts the rows of one alarm (a rule and a key): what people do carries the time of
their clock, which in a replay is not that of the readings, so the newest row is the one with the highest number.
"""


def severity(priority: float) -> str:
    """The band that a priority or score from 0 to 100 falls in.

    Examples
    --------
    >>> [severity(p) for p in (3, 25, 50, 75)]
    ['warning', 'minor', 'major', 'critical']
    """
    return "critical" if priority >= 75 else "major" if priority >= 50 else "minor" if priority >= 25 else "warning"


def short_id(*parts: object) -> str:
    """16 hex digits that name something by its parts, the same in every run."""
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:16]


def to_batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema = ALARM_SCHEMA) -> pa.RecordBatch:
    """Rows as one record batch; times are given in microseconds."""
    if not rows:
        return _empty(schema)
    return pa.RecordBatch.from_arrays([_column([row[f.name] for row in rows], f) for f in schema], schema=schema)


@lru_cache(maxsize=8)
def _empty(schema: pa.Schema) -> pa.RecordBatch:
    """Most batches raise no alarm: building 22 empty columns costs 100 µs, once."""
    return no_rows(schema)


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    if field.type == TIME_TYPE:
        return pa.array(values, pa.int64()).cast(TIME_TYPE)
    if field.name == "key":
        return pa.array(values, pa.string()).dictionary_encode().cast(KEY.type)
    return pa.array(values, field.type)
