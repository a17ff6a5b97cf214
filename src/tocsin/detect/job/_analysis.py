"""A closed bucket judged by each detector, value by value."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tocsin.batch import Floats, Ints
from tocsin.detect.job import _model as model
from tocsin.detect.job._bucket import Bucket, Group
from tocsin.detect.job._definition import Definition, JobDetector
from tocsin.detect.job._found import Finding, fields
from tocsin.detect.job._frequent import without_frequent
from tocsin.detect.job._memory import Categories, Members, Places, TimesOfDay
from tocsin.detect.job._population import by_member
from tocsin.detect.job._records import ResultRecords
from tocsin.detect.job._rules import during, effect
from tocsin.detect.job._score import KNOTS
from tocsin.detect.job._state import JobState, SeriesModels
from tocsin.detect.job._values import (
    PARTS,
    TEXTUAL,
    ZERO_WHEN_ABSENT,
    ModelShape,
    counts,
    distinct,
    information,
    numeric,
    place,
    shape,
)

PRUNE_S = 30 * 86_400.0
"""A series not seen for so long (or 20 buckets) is forgotten, if the job says nothing of it."""
VALUES_MIN = 20
"""Values of a series before any is reported, however long it has been known."""


def warm(span_s: float) -> int:
    """Buckets (values of a series) before anything is reported: a day, but at least 30 and at most 100."""
    return int(min(max(86_400 / span_s, 30), 100))


class Analysis:
    """The analysis of one job; keeps nothing between buckets, all of that is in the state."""

    def __init__(self, definition: Definition, plot: bool) -> None:
        self.definition, self.plot = definition, plot
        self.config = definition.job.analysis_config
        self.span_s = self.config.bucket_span
        self.warm = warm(self.span_s)
        self.records = ResultRecords(definition, self.warm)

    def bucket(self, state: JobState, bucket: Bucket) -> list[dict[str, Any]]:
        """Judge, learn, and say what was found."""
        events = during(self.definition.events, bucket.begin_s, bucket.begin_s + self.span_s)
        learn = not any(event.skip_model_update for event in events)
        self._shift(state, events)
        findings: list[Finding] = []
        plots: list[dict[str, Any]] = []
        for at, detector in enumerate(self.config.detectors):
            findings += self._detector(state, bucket, at, detector, learn, plots)
        state.buckets += 1
        if state.next is not None and state.buckets % 64 == 0:
            window_s = self.config.model_prune_window or max(PRUNE_S, 20 * self.span_s)
            state.forget(state.next * self.span_s - window_s, self.span_s)
        if any(event.skip_result for event in events):
            findings = []
        return [*self.records.of(state, bucket, findings), *plots]

    def _shift(self, state: JobState, events: Sequence[Any]) -> None:
        """Summer time and the like: move the clock of every model once, as an event begins."""
        done: list[str] = state.memory.setdefault("shifted", [])
        for event in events:
            name = f"{event.description} {event.start_time}"
            if event.force_time_shift and name not in done:
                done.append(name)
                for series in state.series.values():
                    series.models[: len(series.slots), model.SHIFT] += event.force_time_shift

    # ------------------------------------------------------------------------------------------------ a detector

    def _detector(
        self, state: JobState, bucket: Bucket, at: int, detector: JobDetector, learn: bool, plots: list[dict[str, Any]]
    ) -> list[Finding]:
        groups, entities = bucket.groups(detector)
        match detector.base:
            case "rare" if not detector.over_field_name:
                findings = self._rare(state, bucket, at, detector, groups, entities, learn)
            case "rare":
                findings = self._rare_members(state, bucket, at, detector, groups, entities, learn)
            case "time_of_day" | "time_of_week":
                findings = self._times(state, bucket, at, detector, groups, entities, learn)
            case "lat_long":
                findings = self._places(state, bucket, at, detector, groups, entities, learn)
            case _:
                findings = []
                for part in PARTS.get(detector.base, (detector.base,)):
                    values = self._values(state, bucket, at, detector, part, groups, entities)
                    findings += self._judged(
                        state, bucket, at, detector, part, groups, entities, values, learn, plots
                    )  # fmt: skip
        if detector.exclude_frequent != "none":
            findings = without_frequent(state, at, detector, entities, findings, self.warm)
        return by_member(detector, findings) if detector.over_field_name else findings

    def _values(
        self, state: JobState, bucket: Bucket, at: int, detector: JobDetector, part: str, groups: Ints,
        entities: Sequence[Group],
    ) -> Floats:  # fmt: skip
        here = groups >= 0
        count, g, weight = len(entities), groups[here], bucket.weight[here]
        if part in ("count", "non_zero_count"):
            values = counts(g, count, weight)
            return np.where(values > 0, values, np.nan) if part == "non_zero_count" else values
        if part == "freq_rare":
            return self._rare_events(state, at, entities, counts(g, count, weight))
        assert detector.field_name is not None
        if part in TEXTUAL:
            codes, words = bucket.codes(detector.field_name)
            return (
                distinct(g, count, codes[here])
                if part == "distinct_count"
                else information(g, count, codes[here], words)
            )
        values = numeric(part, g, count, bucket.numbers(detector.field_name)[here], weight)
        if part == "sum" and not detector.over_field_name:
            values = np.nan_to_num(values)  # no number is a sum of 0
        return values

    def _judged(
        self, state: JobState, bucket: Bucket, at: int, detector: JobDetector, part: str, groups: Ints,
        entities: Sequence[Group], values: Floats, learn: bool, plots: list[dict[str, Any]],
        how: ModelShape | None = None, side: int | None = None,
    ) -> list[Finding]:  # fmt: skip
        """Values judged by the model of their series, or of their population."""
        series = state.of(at, part)
        population = detector.over_field_name is not None
        how = how or shape(part, population)
        side = detector.side if side is None else side
        known = np.flatnonzero(~np.isnan(values))
        where, actual, named = _placed(series, part, entities, values, known, population)
        if not len(where):
            return []
        members = np.bincount(where)
        weights = 1.0 / members[where] if population else np.ones(len(where))
        fresh = where[series.models[where, model.BORN] == 0]
        series.models[fresh, model.BORN] = bucket.begin_s
        series.models[where[: len(known)], model.AT] = bucket.begin_s
        second = (bucket.begin_s + self.span_s / 2) - 345_600.0  # weeks begin on Mondays
        out = np.empty((len(where), model.OUTPUTS))
        floor, least = how.floor, how.least
        # Rules look at the typical value, so their jobs judge first and learn in a second pass.
        at_once = learn and not detector.custom_rules
        inward = how.inward(actual)
        arguments = (series.models, where, inward, np.full(len(where), at_once, np.int64), weights)
        model.judge(*arguments, second, self.span_s, side, floor, least, out)
        typical, lower, upper = (how.outward(out[:, c]) for c in (model.TYPICAL, model.LOWER, model.UPPER))
        shown = np.ones(len(where), bool)
        if detector.custom_rules:
            learned = np.full(len(where), learn, np.int64)
            for i, group in enumerate(named):
                done = effect(self.definition, detector, fields(detector, group), actual[i], typical[i], bucket.begin_s)
                shown[i] = not done.skip_result
                learned[i] = learned[i] and not done.skip_update
                self._shift_one(state, at, part, group, series, where[i], done.shift_s)
            again = np.empty_like(out)
            model.judge(series.models, where, inward, learned, weights, second, self.span_s, side, floor, least, again)
        surprise = -out[:, model.LOGP] / math.log(10)
        if part == "count" and side <= 0:
            surprise = np.maximum(surprise, _silence(series.models[where], actual, typical, out[:, model.SEEN]))
        probability = 10.0**-surprise
        if not population:
            # Of many series some value is always improbable: half of what a correction for that would take away.
            surprise = surprise - 0.5 * math.log10(len(where))
        if bucket.partial and part in ("count", "sum", "non_null_sum", "distinct_count", "non_zero_count"):
            shown &= out[:, model.SIGN] > 0  # a bucket cut short by the end of the data
        if self.plot and not population:
            plots += [
                self.records.plot(bucket, at, detector, part, named[i], actual[i], typical[i], lower[i], upper[i])
                for i in range(len(where))
            ]
        age = (bucket.begin_s - series.models[where, model.BORN]) / self.span_s
        shown &= (surprise >= KNOTS[0]) & (age >= self.warm) & (out[:, model.SEEN] >= VALUES_MIN)
        anomalies = []
        for i in np.flatnonzero(shown).tolist():
            rows = np.flatnonzero(groups == known[i]) if i < len(known) else np.empty(0, np.int64)
            anomalies.append(
                Finding(
                    at, part, named[i], [float(actual[i])], [float(typical[i])], float(surprise[i]),
                    float(probability[i]), rows, (float(lower[i]), float(upper[i]), float(typical[i])), _impact(out[i]),
                )
            )  # fmt: skip
        return anomalies

    def _shift_one(
        self, state: JobState, at: int, part: str, group: Group, series: SeriesModels, slot: int, shift_s: float
    ) -> None:
        """A rule's time shift, once for as long as the rule applies without a break."""
        name = json.dumps(["shift", at, part, *group[:2]])
        if not shift_s:
            state.memory.pop(name, None)
        elif name not in state.memory:
            state.memory[name] = shift_s
            series.models[slot, model.SHIFT] += shift_s

    # ------------------------------------------------------------------------------------- what is counted instead

    def _bucket_number(self, bucket: Bucket) -> int:
        return bucket.begin_us // bucket.span_us

    def _skips(
        self, state: JobState, bucket: Bucket, detector: JobDetector, group: Group, actual: float, typical: float
    ) -> tuple[bool, bool]:
        done = effect(self.definition, detector, fields(detector, group), actual, typical, bucket.begin_s)
        return done.skip_result, done.skip_update

    def _rare(
        self, state: JobState, bucket: Bucket, at: int, detector: JobDetector, groups: Ints, entities: Sequence[Group],
        learn: bool,
    ) -> list[Finding]:  # fmt: skip
        findings = []
        partitions: dict[str | None, Categories] = {}
        for partition in dict.fromkeys(e[0] for e in entities):
            partitions[partition] = Categories(state.remembered("rare", at, partition))
        learned = []
        for i, group in enumerate(entities):
            kept = partitions[group[0]]
            surprise, rate = kept.surprise(str(group[1]))
            hidden, skipped = self._skips(state, bucket, detector, group, 1.0, rate)
            if surprise >= KNOTS[0] and not hidden:
                findings.append(
                    Finding(at, "rare", group, [1.0], [rate], surprise, min(rate, 1.0), np.flatnonzero(groups == i))
                )
            if learn and not skipped:
                learned.append((kept, str(group[1])))
        for kept, category in learned:
            kept.learn(category, self._bucket_number(bucket))
        if learn:
            for kept in partitions.values():
                kept.end()
        return findings

    def _rare_members(
        self, state: JobState, bucket: Bucket, at: int, detector: JobDetector, groups: Ints, entities: Sequence[Group],
        learn: bool,
    ) -> list[Finding]:  # fmt: skip
        findings = []
        partitions = {p: Members(state.remembered("members", at, p)) for p in dict.fromkeys(e[0] for e in entities)}
        learned = []
        for i, group in enumerate(entities):
            kept = partitions[group[0]]
            surprise, rate = kept.surprise(str(group[1]), str(group[2]))
            hidden, skipped = self._skips(state, bucket, detector, group, 1.0, rate)
            if surprise >= KNOTS[0] and not hidden:
                findings.append(Finding(at, "rare", group, [1.0], [rate], surprise, rate, np.flatnonzero(groups == i)))
            if learn and not skipped:
                learned.append((kept, str(group[1]), str(group[2])))
        for kept, category, member in learned:
            kept.learn(category, member, self._bucket_number(bucket))
        if learn:
            for kept in partitions.values():
                kept.end()
        return findings

    def _rare_events(self, state: JobState, at: int, entities: Sequence[Group], events: Floats) -> Floats:
        """For freq_rare: how many events a member has of categories that few members have; learns them as well."""
        partitions = {p: Members(state.remembered("members", at, p)) for p in dict.fromkeys(e[0] for e in entities)}
        values = np.full(len(events), np.nan)
        ready = [partitions[group[0]].memory["n"] >= 1 for group in entities]
        for i, group in enumerate(entities):
            if ready[i]:
                values[i] = events[i] if partitions[group[0]].is_rare(str(group[1])) else 0.0
        for group in entities:
            partitions[group[0]].learn(str(group[1]), str(group[2]), 0)
        for kept in partitions.values():
            kept.end()
        # One value a member; its rare categories together, kept at the first of them.
        total: dict[tuple[str | None, str | None], int] = {}
        for i, group in enumerate(entities):
            if np.isnan(values[i]):
                continue
            member = (group[0], group[2])
            if member not in total:
                total[member] = i
            else:
                first = total[member]
                # The record names the category with the most rare events.
                keep, drop = (i, first) if values[i] > values[first] else (first, i)
                values[keep] += values[drop]
                values[drop] = np.nan
                total[member] = keep
        return values

    def _times(
        self, state: JobState, bucket: Bucket, at: int, detector: JobDetector, groups: Ints, entities: Sequence[Group],
        learn: bool,
    ) -> list[Finding]:  # fmt: skip
        week = detector.base == "time_of_week"
        period = 604_800 if week else 86_400
        seconds = (bucket.seconds() - (345_600 if week else 0)) % period
        findings = []
        for i, group in enumerate(entities):
            rows = np.flatnonzero(groups == i)
            entity = (group[0], None) if detector.over_field_name else group[:2]
            clock = TimesOfDay(state.remembered(detector.base, at, *entity), period, bucket.begin_s)
            middle = float(np.median(seconds[rows]))
            surprise, rate, usual = clock.surprise(middle)
            hidden, skipped = self._skips(state, bucket, detector, group, middle, usual)
            if surprise >= KNOTS[0] and not hidden:
                findings.append(Finding(at, detector.base, group, [middle], [usual], surprise, rate, rows))
            if learn and not skipped:
                clock.learn(middle)
        return findings

    def _places(
        self, state: JobState, bucket: Bucket, at: int, detector: JobDetector, groups: Ints, entities: Sequence[Group],
        learn: bool,
    ) -> list[Finding]:  # fmt: skip
        """How far the place lies from the usual ones, judged like any value."""
        assert detector.field_name is not None
        codes, words = bucket.codes(detector.field_name)
        parsed = [place(str(word)) for word in words]
        far = np.full(len(entities), np.nan)
        spots: dict[int, tuple[tuple[float, float], tuple[float, float]]] = {}
        learned = []
        for i, group in enumerate(entities):
            here = [p for p in (parsed[c] for c in np.unique(codes[(groups == i) & (codes >= 0)])) if p is not None]
            kept = Places(state.remembered("places", at, *group[:2]))
            measured = [(kept.nearest(p), p) for p in here]
            known = [(near[1], p, near[0]) for near, p in measured if near is not None]
            if known:
                far[i], actual, usual = max(known)
                spots[i] = (actual, usual)
            learned += [(kept, p) for p in here]
        findings = self._judged(
            state, bucket, at, detector, "lat_long", groups, entities, far, learn, [],
            how=shape("lat_long", False), side=1,
        )  # fmt: skip
        if learn:
            for kept, p in learned:
                kept.learn(p)
        for one in findings:
            actual, usual = spots[entities.index(one.group)]
            one.actual, one.typical, one.bounds = list(actual), list(usual), None
        return findings


def _placed(
    series: SeriesModels, part: str, entities: Sequence[Group], values: Floats, known: Ints, population: bool
) -> tuple[Ints, Floats, list[Group]]:
    """Returns the slot, value and name of each series that has one, and of those that count 0 where they are absent."""
    # What is counted over all categories together has one model for them.
    owners = [(g[0], None) if part == "freq_rare" else g[:2] for g in entities]
    slots = [series.slot(owners[int(i)]) for i in known]
    absent: list[Group] = []
    if part in ZERO_WHEN_ABSENT and not population:
        present = set(slots)
        absent = [(*entity, None) for entity, slot in series.slots.items() if slot not in present]
        slots += [series.slots[(a[0], a[1])] for a in absent]
    actual = np.concatenate([values[known], np.zeros(len(absent))])
    return np.array(slots, np.int64), actual, [entities[int(i)] for i in known] + absent


def _impact(out: Floats) -> float:
    """Returns how much more several buckets say than the single one, from -5 to 5."""
    single, multi = -out[model.LOGP_SINGLE], -out[model.LOGP_MULTI]
    return float(min(max(5.0 * (multi - single) / max(multi, single, 1e-9), -5.0), 5.0))


def _silence(models: Floats, actual: Floats, typical: Floats, seen: Floats) -> Floats:
    """-log10 of the probability of no event at all: negative binomial, with the dispersion of the counts so far.

    Square roots of small counts are bounded below, so that the model of the roots alone thinks too little of silence.
    """
    best = models[:, model.BEST].astype(np.int64)
    spread = (
        models[np.arange(len(models)), model.ERROR + best] * 1.25
    )  # standard deviation of the roots; 0.5 if Poisson
    dispersion = np.maximum(4.0 * spread**2, 1.0 + 1e-9)
    surprise = typical * np.log(dispersion) / (dispersion - 1.0) / math.log(10)
    return np.where(actual == 0, np.minimum(surprise, 12.0) * seen / (seen + 20.0), 0.0)
