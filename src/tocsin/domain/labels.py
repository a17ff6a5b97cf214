"""Alarms judged by what people said of earlier ones: which would have been right, how early, and how many wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from tocsin.batch import END
from tocsin.domain.alarms import CASE_EVENTS, COMMENTED, LABELLED, RAISING

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
    return {row["id"]: LABELLED[row["event"]] for row in _in_order(alarms, ("id", "event")) if row["event"] in LABELLED}


def comments_by_id(alarms: pa.Table) -> Mapping[str, str]:
    """Returns the last comment on each occurrence that has one, behind the name of who wrote it, from alarm rows."""
    rows = _in_order(alarms, ("id", "event", "by", "reason"))
    return {row["id"]: comment(row["by"], row["reason"]) for row in rows if row["event"] == COMMENTED}


def comment(by: str, text: str) -> str:
    """Returns a comment as people read it.

    Examples
    --------
    >>> comment("ann", "bearing ordered")
    'ann: bearing ordered'
    """
    return f"{by}: {text}"


def occurrences(alarms: pa.Table) -> list[Occurrence]:
    """Returns the times from each raising to its clearing, in the order of raising, from alarm rows.

    An alarm that is raised again before anybody has acknowledged it keeps its id, and with that its label.
    """
    labels = labels_by_id(alarms)
    open_now: dict[tuple[str, str], Occurrence] = {}
    over: list[Occurrence] = []
    for row in _in_order(alarms, ("id", "event", "rule", "key", "severity", "message", "mode", "ring", "started")):
        point, event, at = (row["rule"], row["key"]), row["event"], row["time"]
        known = open_now.get(point)
        if event in RAISING:
            if known is not None:  # a step that was made to forget has not told of its end
                over.append(replace(known, until=at))
            started = at if row["started"] is None or event == "reraised" else row["started"]
            open_now[point] = Occurrence(
                row["id"], *point, started, at, END, row["severity"], row["message"], labels.get(row["id"], ""),
                not row["mode"],
            )  # fmt: skip
        elif known is None or event in CASE_EVENTS:
            continue
        elif event == "cleared":
            over.append(replace(open_now.pop(point), until=at))
        elif row["ring"] and not row["mode"]:
            open_now[point] = replace(known, rang=True)
    return sorted([*over, *open_now.values()], key=lambda one: (one.raised, one.key, one.rule))


def _in_order(alarms: pa.Table, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Returns rows in the order of their time, and of an alarm's rows of one time by their number; times as numbers.

    Not by number alone: it begins afresh where a step was made to forget.
    """
    rows = alarms.select([*columns, "number"]).to_pylist()
    times, starts = (alarms[name].cast(pa.int64()).to_pylist() for name in ("time", "started"))
    for row, at, started in zip(rows, times, starts, strict=True):
        row |= {"time": at, "started": started}
    return sorted(rows, key=lambda row: (row["time"], row["number"]))


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
