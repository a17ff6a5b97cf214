"""Alarm rows as other systems read them: CloudEvents 1.0 and the payload of Alertmanager's ``/api/v2/alerts``.

Pure: the same row gives the same bytes and the same id, however often it is sent, so a receiver can tell a repetition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tocsin.batch import short_id
from tocsin.domain.alarms import ACTIVE

Row = Mapping[str, Any]


def event_id(row: Row) -> str:
    """Returns the id of one event of an alarm: the alarm, what happened, when, and who did it.

    Examples
    --------
    >>> at = datetime(2026, 1, 1, tzinfo=UTC)
    >>> event_id({"id": "a1", "event": "raised", "time": at}) == event_id({"id": "a1", "event": "cleared", "time": at})
    False
    """
    return short_id(row.get("id", ""), row.get("event", ""), _text_time(row["time"]), row.get("by", ""))


def cloudevent(row: Row, source: str = "/tocsin") -> bytes:
    """Returns a row as a CloudEvent 1.0 in JSON, structured mode (``application/cloudevents+json``).

    Examples
    --------
    >>> at = datetime(2026, 1, 1, tzinfo=UTC)
    >>> event = json.loads(cloudevent({"id": "a1", "event": "raised", "key": "site/pump", "time": at}))
    >>> event["type"], event["subject"], event["time"]
    ('io.tocsin.alarm.raised.v1', 'site/pump', '2026-01-01T00:00:00.000000Z')
    """
    name = str(row.get("event") or "row").replace("_", "-")
    event = {
        "specversion": "1.0",
        "id": event_id(row),
        "source": source,
        "type": f"io.tocsin.alarm.{name}.v1",
        "subject": str(row.get("key", "")),
        "time": _text_time(row["time"]),
        "datacontenttype": "application/json",
        "data": {name: _value(name, value) for name, value in row.items()},
    }
    return json.dumps(event, allow_nan=False, default=str, separators=(",", ":")).encode()


def alertmanager(row: Row) -> bytes:
    """Returns a row as a body for Alertmanager's ``POST /api/v2/alerts``; its fingerprint is that of the labels.

    Severity stands in the annotations: labels name the alert, and one that escalates is still the same. It is
    resolved when the alarm is no longer active, or may no longer ring.
    """
    alert: dict[str, Any] = {
        "labels": {
            "alertname": str(row.get("rule", "alarm")),
            "key": str(row.get("key", "")),
            "id": str(row.get("id", "")),
        },
        "annotations": {
            "summary": str(row.get("message", "")),
            "severity": str(row.get("severity", "")),
            "state": str(row.get("state", "")),
            "case": str(row.get("case", "")),
            **{place: str(row[place]) for place in ("area", "line", "name") if row.get(place)},
        },
        "startsAt": _text_time(row.get("started") or row["time"]),
    }
    if row.get("state") not in ACTIVE or row.get("mode"):
        alert["endsAt"] = _text_time(row["time"])
    if row.get("link"):
        alert["generatorURL"] = row["link"]
    return json.dumps([alert], allow_nan=False, default=str, separators=(",", ":")).encode()


def _value(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return _text_time(value)
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if name == "evidence" and isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _text_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
