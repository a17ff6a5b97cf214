"""What an alarm row looks like: one row for each transition of an alarm, or action on one."""

from __future__ import annotations

import pyarrow as pa

from tocsin.batch import KEY, TIME, TIME_TYPE

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
        pa.field("signal", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("expected", pa.float64()),
        pa.field("limit", pa.float64()),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("started", TIME_TYPE),
        pa.field("message", pa.string(), nullable=False),
        pa.field("advice", pa.string(), nullable=False),
        pa.field("assignee", pa.string(), nullable=False),
        pa.field("by", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("evidence", pa.string(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
    ]
)
"""Columns of an alarm row.

``time`` is when it happened (event time), ``started`` when the condition of this occurrence began; ``id`` names the
occurrence, or the alarm point if none is open; ``state`` is one of `alarms.STATES` and ``previous`` the one before;
``mode`` says why it does not ring (shelved, suppressed, out_of_service, maintenance, chattering, flood) or is empty;
``ring`` says whether people are to be told; ``signal`` is what is judged, ``value`` what was measured, ``expected``
what a detector expected, both in ``unit``; ``advice`` is what to do; ``assignee`` whose the alarm is
now, if it was given to a person; ``by`` and ``reason`` say who did it and why, when
it was a person; ``evidence`` is JSON; ``number`` counts the rows of one alarm (a rule and a key): what people do
carries the time of their clock, which in a replay is not that of the readings, so the newest row is the one with the
highest number.
"""

KNOWN_BY = frozenset({"id", "rule", "severity", "state", "mode", "event", "ring", "message", "number"})
"""Rows with all of these columns are an alarm's, whatever else was selected from them or came with a later version."""
