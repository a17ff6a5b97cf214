"""The alarms that the page knows: the newest row of each, within bounds."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from tocsin.domain.alarms import ACTIVE, CASE_EVENTS, CLOSED, COMMENTED, LABELLED, SEVERITIES, rank
from tocsin.domain.labels import comment
from tocsin.pipeline.assets import owner
from tocsin.serve.messages import ShownAlarm

ALARMS_MAX = 500
TEXT_MAX = 400


class AlarmList:
    """The newest row of each alarm; what has changed waits to be told."""

    def __init__(self) -> None:
        self.by_id: dict[str, ShownAlarm] = {}
        self._changed: dict[str, ShownAlarm] = {}

    def take(self, rows: pa.Table) -> None:
        """Take in alarm rows, in order."""
        for row in rows.to_pylist():  # alarms are few: some tens of microseconds each
            if row.get("event") in LABELLED:
                self._label(row)
            elif row.get("event") == COMMENTED:
                self._remark(row, comment=comment(_text(row.get("by")), _text(row.get("reason"))))
            elif row.get("event") not in CASE_EVENTS:  # a case gathers alarms that are shown themselves
                self.put(_alarm(row))

    def put(self, alarm: ShownAlarm) -> None:
        """Put in an alarm's newest row, in the place of older ones."""
        before = self.by_id.pop(alarm.id, None)
        if before is not None:
            alarm = msgspec.structs.replace(
                alarm, label=alarm.label or before.label, comment=alarm.comment or before.comment
            )
        self.by_id[alarm.id] = self._changed[alarm.id] = alarm
        if len(self.by_id) > ALARMS_MAX:
            over = [known for known, old in self.by_id.items() if old.state in CLOSED] or list(self.by_id)
            del self.by_id[over[0]]

    def _label(self, row: Mapping[str, Any]) -> None:
        """Note what somebody has said an alarm was."""
        event = _text(row.get("event"))
        by, reason = _text(row.get("by")), _text(row.get("reason"))
        self._remark(row, label=LABELLED[event], event=event, by=by, reason=reason)

    def _remark(self, row: Mapping[str, Any], **said: str) -> None:
        """Note what was said of an alarm: all else of it stays as it is, also its place in the list."""
        known = self.by_id.get(_text(row.get("id")))
        if known is not None:
            self.by_id[known.id] = self._changed[known.id] = msgspec.structs.replace(known, **said)

    def changes(self) -> list[ShownAlarm]:
        """Returns what has changed since the last call."""
        changed, self._changed = self._changed, {}
        return list(changed.values())

    def known(self, name: str) -> ShownAlarm | None:
        """Returns the alarm with this id, or the newest one of ``rule:key``; None if there is none."""
        if name in self.by_id:
            return self.by_id[name]
        return next((a for a in reversed(self.by_id.values()) if f"{a.rule}:{a.machine}" == name), None)

    def active_by_severity(self) -> Mapping[str, int]:
        """Returns how many alarms are active, by severity."""
        counts = {band.name: 0 for band in SEVERITIES}
        for alarm in self.by_id.values():
            if alarm.state in ACTIVE:
                counts[alarm.severity] = counts.get(alarm.severity, 0) + 1
        return counts

    def worst_open(self, machines: Container[str]) -> Mapping[str, ShownAlarm]:
        """Returns the worst open alarm of each machine; one that is active is worse than one that has cleared."""
        worst: dict[str, ShownAlarm] = {}
        for alarm in self._open():
            name = owner(alarm.machine, machines)
            if name not in worst or _weight(alarm) > _weight(worst[name]):
                worst[name] = alarm
        return worst

    def _open(self) -> Iterator[ShownAlarm]:
        return (alarm for alarm in self.by_id.values() if alarm.state not in CLOSED)


def _weight(alarm: ShownAlarm) -> tuple[bool, int]:
    return alarm.state in ACTIVE, rank(alarm.severity)


def _alarm(row: Mapping[str, Any]) -> ShownAlarm:
    """Returns a row as the browser gets it; columns that are missing or hold something else are left empty."""
    key, signal = _text(row.get("key")), _text(row.get("signal"))
    if signal in ("", "value") and "/" in key:
        signal = key.rpartition("/")[2]  # as `Live` names the series of such a key
    evidence = _evidence(row.get("evidence"))
    return ShownAlarm(
        id=_text(row.get("id")),
        machine=key,
        signal=signal,
        time=_time(row.get("time")) or "",
        started=_time(row.get("started")),
        severity=_text(row.get("severity")) or SEVERITIES[0].name,
        rule=_text(row.get("rule")),
        state=_text(row.get("state")),
        mode=_text(row.get("mode")),
        event=_text(row.get("event")),
        message=_text(row.get("message")),
        advice=_text(row.get("advice")),
        unit=_text(row.get("unit")),
        assignee=_text(row.get("assignee")),
        by=_text(row.get("by")),
        reason=_text(row.get("reason")),
        value=_number(row.get("value")),
        expected=_number(row.get("expected")),
        limit=_number(row.get("limit")),
        score=_number(row.get("score")),
        why=_text(evidence.get("why")),
        since=_text(evidence.get("since")),
        depth=_number(evidence.get("depth")),
        contributions=_text(evidence.get("contributions")),
    )


def _evidence(text: object) -> Mapping[str, Any]:
    """Returns what an alarm's evidence holds; nothing if it is none."""
    try:
        evidence = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return {}
    return evidence if isinstance(evidence, dict) else {}


def _text(value: object) -> str:
    return value[: 4 * TEXT_MAX] if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _time(value: object) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else None
