"""What the rows of `alarm` say: one for each event of an alarm."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tocsin.batch import short_id
from tocsin.domain.alarms import CLEARED_ACK, CLOSED, severity
from tocsin.notify._conditions import Level
from tocsin.notify._lifecycle import AlarmEvent, Point, Policy

TOLD = ("raised", "reraised", "escalated", "eased", "realarmed", "cleared")
"""Events whose message is made by the template."""
TEXT_PLACES = (
    "key",
    "rule",
    "level",
    "signal",
    "of",
    "unit",
    "severity",
    "state",
    "event",
    "why",
    "since",
    "contributions",
)
NUMBER_PLACES = ("value", "limit", "score", "depth")
"""What the template of a message may name, beside `TEXT_PLACES`."""
MESSAGE = "{key} {rule}: {level} ({signal} {value:.6g})"
"""The template as it ships."""
EXPLAINED_MESSAGE = "{key} {rule}: {why}"
"""What takes its place where the detector says why."""
RAISED_MESSAGE = MESSAGE + ", raised by {contributions}"
"""What takes its place where it is known what has contributed."""


@dataclass(frozen=True, slots=True)
class AlarmRows:
    """Makes the rows of one rule, by its settings."""

    rule: str
    version: int
    levels: Sequence[Level]
    policy: Policy
    of: str
    score_column: str
    message: str
    advice: str
    unit: str

    def id(self, key: str, point: Point) -> str:
        """Returns the id of an alarm's present occurrence, or of the alarm if it has never been raised."""
        if point.started:
            return short_id(self.rule, self.version, key, point.started)
        return short_id(self.rule, self.version, key)

    def row(self, key: str, point: Point, event: AlarmEvent) -> dict[str, object]:
        """Returns the row for an event."""
        level = self.levels[max(point.announced, 1) - 1]
        limit = level.limit if level.name != "score" else float(level.priority)
        about = point.column or self.of
        id = self.id(key, point)
        row: dict[str, object] = {
            "key": key,
            "time": event.time,
            "id": id,
            "case": id if point.state not in CLOSED or event.previous not in CLOSED else "",
            "rule": self.rule,
            "version": self.version,
            "priority": level.priority,
            "severity": severity(level.priority),
            "state": point.state,
            "previous": event.previous,
            "mode": point.mode(event.time, self.policy),
            "event": event.name,
            "ring": event.ring,
            "level": level.name if point.announced else "",
            "signal": point.signal,
            "value": point.reading.get(about),
            "expected": point.reading.get("expected"),
            "limit": limit if point.announced else None,
            "unit": self.unit,
            "score": point.reading.get(self.score_column),
            "started": point.started or None,
            "advice": self.advice,
            "assignee": point.assignee,
            "by": event.by,
            "reason": event.reason,
            "evidence": json.dumps(point.reading, sort_keys=True),
            "number": point.told,
        }
        places = {"level": level.name, "limit": limit, "of": about, "depth": point.reading.get("depth")}
        said = {name: point.reading.get(name) or "" for name in ("why", "since", "contributions")}
        return row | {"message": self._text(row | places | said)}

    @staticmethod
    def of_past(row: Mapping[str, object], id: str) -> dict[str, object]:
        """Returns a row as that of an earlier occurrence, which is over: the present reading says nothing of it."""
        unknown = dict.fromkeys(("value", "expected", "limit", "score", "started"))
        over = {"state": CLEARED_ACK, "previous": CLEARED_ACK, "evidence": "{}"}
        over |= dict.fromkeys(("mode", "level", "case", "assignee"), "")
        return {**row, **unknown, **over, "id": id}

    def _text(self, row: Mapping[str, object]) -> str:
        """Returns the message for a row: by the template where something has changed, else what was done."""
        if row["event"] not in TOLD:
            return f"{row['key']} {self.rule}: {row['event']}"
        numbers = {name: math.nan if row[name] is None else row[name] for name in NUMBER_PLACES}
        template = self.message
        if template == MESSAGE and (row["why"] or row["contributions"]):
            template = EXPLAINED_MESSAGE if row["why"] else RAISED_MESSAGE
        return template.format(**{**row, **numbers, "signal": row["signal"] or row["of"]})
