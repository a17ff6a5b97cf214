"""`tocsin backtest` of alarms: what would have rung over a file, judged by labels, and a better limit in words.

A limit is proposed from what was labelled before ``since`` and judged by what was labelled from then on, so that it is
not praised for what it was chosen by. Nothing is changed by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from tocsin.batch import floats
from tocsin.cli.backtest import run_steps, since_us
from tocsin.cli.data_file import read_data, time_column
from tocsin.cli.score import as_stream, read_steps
from tocsin.domain.labels import DAY_US, Judgement, Occurrence, judge, occurrences
from tocsin.errors import ConfigError
from tocsin.notify.alarm import Alarm

CANDIDATES_MAX = 20
"""Limits that are tried; each is a run of the alarm over all readings."""


@dataclass(frozen=True)
class AlarmBacktest:
    """Readings as they reach the alarm, what was labelled in their time, and from when on is judged."""

    alarm: Alarm
    readings: pa.RecordBatch
    labelled: Sequence[Occurrence]
    since_us: int

    def rung(self, alarm: Alarm) -> list[Occurrence]:
        """Returns what an alarm would have raised over the readings."""
        return [one for one in occurrences(run_steps([alarm], self.readings)) if one.rang]

    def judged(self, rung: Sequence[Occurrence], *, before: bool) -> Judgement:
        """Returns how good they are, by what was labelled before ``since``, or from then on."""
        first, last = (int(pc.min_max(self.times)[end].as_py()) for end in ("min", "max"))
        days = ((self.since_us - first) if before else (last - self.since_us)) / DAY_US
        sides = [[one for one in many if (one.started < self.since_us) == before] for many in (rung, self.labelled)]
        return judge(sides[0], sides[1], days)

    @property
    def times(self) -> pa.Array:
        return self.readings.column("time").cast(pa.int64())

    def peaks(self, column: str, sign: float) -> list[float]:
        """Returns the extreme of a column in each alarm that was labelled before ``since``, the least first."""
        keys, times = self.readings.column("key"), self.times.to_numpy()
        values = sign * floats(self.readings.column(column))
        peaks = set()
        for one in self.labelled:
            if one.started < self.since_us:
                of_key = pc.equal(keys, one.key).to_numpy(zero_copy_only=False)
                within = values[of_key & (times >= one.started) & (times <= one.until) & np.isfinite(values)]
                peaks |= {float(within.max())} if len(within) else set()
        return sorted(sign * peak for peak in peaks)

    def proposals(self) -> Iterator[str]:
        """Gives, for each limit that is set, a sentence: a better one, or why there is none."""
        if not any(one.started < self.since_us for one in self.labelled):
            yield f"nothing was labelled before {_day(self.since_us)}: no limit is proposed; try a later --since"
            return
        present = self.judged(self.rung(self.alarm), before=True)
        for name, column, sign in _limits(self.alarm):
            now = next(level.limit for level in self.alarm.levels if level.name == name) if name != "score" else None
            now = now if now is not None else (self.alarm.score if self.alarm.score is not None else 75.0)
            tried = {limit: self._changed(name, limit) for limit in _between(self.peaks(column, sign))}
            before = {
                limit: self.judged(self.rung(alarm), before=True) for limit, alarm in tried.items() if alarm is not None
            }
            best = max(before, key=lambda limit: (*_merit(before[limit]), -abs(limit - now)), default=None)
            if best is None or _merit(before[best]) <= _merit(present):
                yield f"{name} {now:g}: no other limit is better by what was labelled before {_day(self.since_us)}"
                continue
            alarm = tried[best]
            assert alarm is not None
            then, later = self.judged(self.rung(self.alarm), before=False), self.judged(self.rung(alarm), before=False)
            yield (
                f"{name} {best:g} in place of {now:g}: before {_day(self.since_us)}, by which it was chosen, "
                f"{_in_words(before[best], present)}; from then on {_in_words(later, then)}. "
                "Nothing is changed by itself: write it into the file if you agree"
            )

    def _changed(self, name: str, limit: float) -> Alarm | None:
        try:
            return Alarm.model_validate(self.alarm.model_dump() | {name: limit})
        except ValidationError:
            return None


def backtest_alarms(
    job: Path, data: Path, folder: Path, table: str, since: str | None, time: str | None, value: str | None,
    key: str | None,
) -> tuple[pa.Table, Sequence[str]]:  # fmt: skip
    """Run steps that end with `alarm` over a file; returns its figures from ``since`` on, and what is proposed.

    Labels are those of a table of alarms in ``folder``; a reading's key must be that of the alarms.

    Raises
    ------
    ConfigError
        A file cannot be read, or no label is of the time and the keys of the readings.
    """
    from tocsin.serve.desk import rows

    *before, alarm = read_steps(job, value)
    assert isinstance(alarm, Alarm)
    if value is not None and "of" not in alarm.model_fields_set:
        alarm = alarm.model_copy(update={"of": value})
    read = read_data(data)
    prepared = run_steps(before, as_stream(read, time_column(read, time), key))
    if not prepared.num_rows:
        raise ConfigError(f"{data}: no row reaches alarm")
    readings = prepared.to_batches()[0]
    times, keys = readings.column("time").cast(pa.int64()).to_numpy(), set(readings.column("key").to_pylist())
    known = [one for one in occurrences(rows(folder, table)) if one.label]
    labelled = [one for one in known if one.key in keys and one.started <= times.max() and one.until >= times.min()]
    if not labelled:
        seen = f"it has {len(known)} for others" if known else "tocsin alarms label true ID gives one"
        raise ConfigError(
            f"table '{table}' in {folder} has no label for the keys ({', '.join(sorted(keys)[:5])}) and the time of "
            f"{data}: {seen}; --key names the column with the machine"
        )
    made = AlarmBacktest(alarm, readings, labelled, since_us(since, times))
    figures = made.judged(made.rung(alarm), before=False)
    sentences = list(made.proposals())
    return _table(figures, made.since_us), sentences


def _table(figures: Judgement, since: int) -> pa.Table:
    row: dict[str, Any] = {
        "from": _day(since),
        "alarms": figures.right + figures.wrong + figures.unlabelled,
        "unlabelled": figures.unlabelled,
        "precision": figures.precision,
        "recall": figures.recall,
        "warning_h": figures.warning_h,
        "false_per_day": figures.false_per_day,
    }
    return pa.Table.from_pylist([row])


def _limits(alarm: Alarm) -> Iterator[tuple[str, str, float]]:
    """Gives the limits of an alarm for which another may be better: name, column, and 1 where above is abnormal."""
    names = {level.name for level in alarm.levels}
    for name, column, sign in (("score", alarm.score_column, 1.0), ("high", alarm.of, 1.0), ("low", alarm.of, -1.0)):
        if name in names:
            yield name, column, sign


def _between(peaks: Sequence[float]) -> list[float]:
    """Returns limits that tell neighbouring peaks apart, with no more digits than that takes."""
    middles = [_short(low, high) for low, high in pairwise(peaks)]
    if len(middles) <= CANDIDATES_MAX:
        return middles
    return [middles[i] for i in np.linspace(0, len(middles) - 1, CANDIDATES_MAX).astype(int)]


def _short(low: float, high: float) -> float:
    middle = (low + high) / 2
    return next((m for digits in range(2, 17) if low < (m := float(f"{middle:.{digits}g}")) < high), middle)


def _merit(one: Judgement) -> tuple[float, float, float]:
    """Returns what is to be great: a true alarm that is missed costs more than any false one."""
    return one.recall or 0.0, -one.false_per_day, one.warning_h or 0.0


def _in_words(proposed: Judgement, present: Judgement) -> str:
    return (
        f"{proposed.caught} of {proposed.true} true alarms and {proposed.wrong} false ones "
        f"(now {present.caught} and {present.wrong})"
    )


def _day(us: int) -> str:
    return f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d %H:%M}"
