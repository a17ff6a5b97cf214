"""Custom rules, their filters, and calendars: when a result is left out, or a value not learned."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tocsin.detect.job._definition import Condition, Definition, Event, JobDetector, Rule

_COMPARE = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


@dataclass(frozen=True, slots=True)
class Effect:
    """What rules do to one value."""

    skip_result: bool = False
    skip_update: bool = False
    shift_s: float = 0.0


NONE = Effect()


def effect(
    definition: Definition, detector: JobDetector, fields: Mapping[str, str | None], actual: float, typical: float,
    time_s: float,
) -> Effect:  # fmt: skip
    """All rules that apply to a value, together."""
    applying = [r for r in detector.custom_rules if _applies(r, definition, fields, actual, typical, time_s)]
    if not applying:
        return NONE
    actions = {action for rule in applying for action in rule.actions}
    shift = sum(rule.shift_s for rule in applying if "force_time_shift" in rule.actions)
    return Effect("skip_result" in actions, "skip_model_update" in actions, shift)


def _applies(
    rule: Rule, definition: Definition, fields: Mapping[str, str | None], actual: float, typical: float, time_s: float
) -> bool:
    for name, scope in rule.scope.items():
        listed = in_filter(fields.get(name), definition.filters.get(scope.filter_id, ()))
        if listed != (scope.filter_type == "include"):
            return False
    return all(_holds(condition, actual, typical, time_s) for condition in rule.conditions)


def _holds(condition: Condition, actual: float, typical: float, time_s: float) -> bool:
    about = {"actual": actual, "typical": typical, "diff_from_typical": abs(actual - typical), "time": time_s}
    return bool(_COMPARE[condition.operator](about[condition.applies_to], condition.value))


def in_filter(value: str | None, items: Sequence[str]) -> bool:
    """Whether a value is in a filter, whose items may begin or end with a star."""
    if value is None:
        return False
    for item in items:
        begins, ends = item.startswith("*"), item.endswith("*") and len(item) > 1
        plain = item[1 if begins else 0 : -1 if ends else None]
        if begins and ends:
            matches = plain in value
        elif begins:
            matches = value.endswith(plain)
        else:
            matches = value.startswith(plain) if ends else value == item
        if matches:
            return True
    return False


def during(events: Sequence[Event], begin_s: float, end_s: float) -> Sequence[Event]:
    """Calendar events that overlap a bucket."""
    return [event for event in events if event.start_time < end_s and event.end_time > begin_s]
