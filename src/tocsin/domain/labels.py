"""Alarms judged by what people said of earlier ones: which would have been right, how early, and how many wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from tocsin.batch import END
from tocsin.domain.alarms import CASE_EVENTS, LABELLED, RAISING

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One occurrence of an alarm; times in microseconds since 1970."""

    id: str
    rule: str
    key: str
    started: int
    """When the condition began."""
    raised: int
    """When the alarm was raised first."""
    until: int
    """When it cleared at last; `batch.END` if it is active."""
    severity: str
    message: str
    label: str = ""
    """What somebody has said it was: ``true``, ``false`` or nothing yet."""
    rang: bool = True
    """Whether people were told: it was not shelved, suppressed or part of a flood."""

    def overlaps(self, other: Occurrence) -> bool:
        """Returns whether the two are of the same key and of a common time."""
        return self.key == other.key and self.started <= other.until and other.started <= self.until


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good alarms are, by labels."""

    right: int
    """Alarms at the time of one that was labelled true."""
    wrong: int
    """Alarms at the time of one that was labelled false, and of none labelled true."""
    unlabelled: int
    """Alarms of which nobody has said anything."""
    caught: int
    """True ones at whose time an alarm rang."""
    true: int
    """All true ones."""
    warning_h: float | None
    """Mean time from the first alarm to the end of the true one at whose time it rang, in hours."""
    false_per_day: float

    @property
    def precision(self) -> float | None:
        """The share of right ones among the alarms that a label speaks of; None if there is none."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else None

    @property
    def recall(self) -> float | None:
        """The share of the true ones at whose time an alarm rang; None if there is none."""
        return self.caught / self.true if self.true else None


def labels_by_id(alarms: pa.Table) -> Mapping[str, str]:
    """Returns the last label of each occurrence that has one, from alarm rows."""
    rows = zip(*(alarms[name].to_pylist() for name in ("number", "id", "event")), strict=True)
    return {id: LABELLED[event] for _, id, event in sorted(row for row in rows if row[2] in LABELLED)}


def occurrences(alarms: pa.Table) -> list[Occurrence]:
    """Returns every occurrence that was raised, in the order in which they were, from alarm rows."""
    labels = labels_by_id(alarms)
    columns = [alarms[name].to_pylist() for name in ("number", "id", "event", "rule", "key", "severity", "message")]
    rings = alarms["ring"].to_pylist()
    times, starts = (alarms[name].cast(pa.int64()).to_pylist() for name in ("time", "started"))
    by_id: dict[str, Occurrence] = {}
    rows = zip(*columns, rings, times, starts, strict=True)
    for _, id, event, rule, key, severity, message, ring, at, start in sorted(rows, key=lambda row: int(row[0])):
        known = by_id.get(id)
        if event in RAISING:
            begun = at if start is None else start
            first = known or Occurrence(id, rule, key, begun, at, END, severity, message, labels.get(id, ""), False)
            by_id[id] = replace(first, until=END, rang=first.rang or ring)
        elif known is not None and event == "cleared":
            by_id[id] = replace(known, until=at)
        elif known is not None and ring and event not in CASE_EVENTS:
            by_id[id] = replace(known, rang=True)
    return sorted(by_id.values(), key=lambda one: (one.raised, one.key, one.rule))


def judge(rung: Sequence[Occurrence], labelled: Sequence[Occurrence], days: float) -> Judgement:
    """Returns how good alarms are that rang in ``days``, by the labels of others at the same time and of the same key.

    Labelled ones need not be of the same rule: what was wrong with the machine was so whatever told it.
    """
    true = [one for one in labelled if one.label == "true"]
    false = [one for one in labelled if one.label == "false"]
    is_right = [any(one.overlaps(known) for known in true) for one in rung]
    is_wrong = [
        not right and any(one.overlaps(known) for known in false) for one, right in zip(rung, is_right, strict=True)
    ]
    firsts = {known.id: min((one.raised for one in rung if one.overlaps(known)), default=None) for known in true}
    ahead = [known.until - at for known in true if (at := firsts[known.id]) is not None and known.until != END]
    return Judgement(
        right=sum(is_right),
        wrong=sum(is_wrong),
        unlabelled=len(rung) - sum(is_right) - sum(is_wrong),
        caught=sum(at is not None for at in firsts.values()),
        true=len(true),
        warning_h=sum(ahead) / len(ahead) / HOUR_US if ahead else None,
        false_per_day=sum(is_wrong) / days if days > 0 else 0.0,
    )
