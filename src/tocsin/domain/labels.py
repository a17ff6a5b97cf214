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
    """An alarm from its raising to its clearing; times in microseconds since 1970."""

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
    """Whether nothing kept it silent: shelved, suppressed, chattering, in a flood. One that joins a case counts."""

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
    """Returns the times from each raising to its clearing, in the order of raising, from alarm rows.

    An alarm that is raised again before anybody has acknowledged it keeps its id, and with that its label.
    """
    labels = labels_by_id(alarms)
    columns = [
        alarms[name].to_pylist()
        for name in ("number", "id", "event", "ring", "mode", "rule", "key", "severity", "message")
    ]
    times, starts = (alarms[name].cast(pa.int64()).to_pylist() for name in ("time", "started"))
    open_now: dict[tuple[str, str], Occurrence] = {}
    over: list[Occurrence] = []
    rows = zip(*columns, times, starts, strict=True)
    for _, id, event, ring, mode, rule, key, severity, message, at, start in sorted(rows, key=lambda row: int(row[0])):
        if event in RAISING:
            started = at if start is None or event == "reraised" else start
            raised = Occurrence(id, rule, key, started, at, END, severity, message, labels.get(id, ""), not mode)
            open_now[rule, key] = raised
        elif (known := open_now.get((rule, key))) is None or event in CASE_EVENTS:
            continue
        elif event == "cleared":
            over.append(replace(open_now.pop((rule, key)), until=at))
        elif ring and not mode:
            open_now[rule, key] = replace(known, rang=True)
    return sorted([*over, *open_now.values()], key=lambda one: (one.raised, one.key, one.rule))


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
    firsts = [min((one.raised for one in rung if one.overlaps(known)), default=None) for known in true]
    ahead = [known.until - at for known, at in zip(true, firsts, strict=True) if at is not None and known.until != END]
    return Judgement(
        right=sum(is_right),
        wrong=sum(is_wrong),
        unlabelled=len(rung) - sum(is_right) - sum(is_wrong),
        caught=sum(at is not None for at in firsts),
        true=len(true),
        warning_h=sum(ahead) / len(ahead) / HOUR_US if ahead else None,
        false_per_day=sum(is_wrong) / days if days > 0 else 0.0,
    )
