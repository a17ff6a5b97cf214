"""A closed bucket judged: by each detector, value by value; then what is found becomes records and scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tocsin.batch import Floats, Ints
from tocsin.detect.job import _model as model
from tocsin.detect.job._bucket import Bucket, Group
from tocsin.detect.job._definition import Definition, Detector
from tocsin.detect.job._memory import Categories, Clock, Members, Places
from tocsin.detect.job._rules import during, effect
from tocsin.detect.job._score import KNOTS, severity, together
from tocsin.detect.job._state import JobState, Series
from tocsin.detect.job._values import (
    PARTS,
    TEXTUAL,
    ZERO_WHEN_ABSENT,
    Shape,
    counts,
    distinct,
    information,
    numeric,
    place,
    shape,
)

FREQUENT = 0.1
"""Share of the buckets from which on an entity is frequent, for exclude_frequent."""
INFLUENTIAL = 0.5
"""Share of a record's documents (or of its value) from which on a value of an influencer field is to blame."""
CAUSES_MAX = 10
PRUNE_S = 30 * 86_400.0
"""A series not seen for so long (or 20 buckets) is forgotten, if the job says nothing of it."""
REVISED_FROM, REVISED_BY, REVISED_MAX = 10.0, 1.0, 200
"""Of renormalisation: smallest score to be followed, smallest change to be told, and how many records are followed."""
VALUES_MIN = 20
"""Values of a series before any is reported, however long it has been known."""


def warm(span_s: float) -> int:
    """Buckets (values of a series) before anything is reported: a day, but at least 30 and at most 100."""
    return int(min(max(86_400 / span_s, 30), 100))


@dataclass(slots=True)
class Found:
    """Something improbable, before it has a score."""

    detector: int
    function: str
    group: Group
    actual: list[float]
    typical: list[float]
    surprise: float
    probability: float
    rows: Ints
    bounds: tuple[float, float, float] | None = None
    impact: float = -5.0
    causes: list[dict[str, Any]] = field(default_factory=list)
    influencers: dict[str, list[str]] = field(default_factory=dict)


class Analysis:
    """The analysis of one job; keeps nothing between buckets, all of that is in the state."""

    def __init__(self, definition: Definition, plot: bool) -> None:
        self.definition, self.plot = definition, plot
        self.config = definition.job.analysis_config
        self.span_s = self.config.bucket_span
        self.warm = warm(self.span_s)

    def bucket(self, state: JobState, bucket: Bucket) -> list[dict[str, Any]]:
        """Judge, learn, and say what was found."""
        events = during(self.definition.events, bucket.begin_s, bucket.begin_s + self.span_s)
        learn = not any(event.skip_model_update for event in events)
        self._shift(state, events)
        found: list[Found] = []
        plots: list[dict[str, Any]] = []
        for at, detector in enumerate(self.config.detectors):
            found += self._detector(state, bucket, at, detector, learn, plots)
        state.buckets += 1
        if state.next is not None and state.buckets % 64 == 0:
            self._prune(state, state.next)
        if any(event.skip_result for event in events):
            found = []
        return [*self._results(state, bucket, found), *plots]

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
        self, state: JobState, bucket: Bucket, at: int, detector: Detector, learn: bool, plots: list[dict[str, Any]]
    ) -> list[Found]:
        groups, entities = bucket.groups(detector)
        match detector.base:
            case "rare" if not detector.over_field_name:
                found = self._rare(state, bucket, at, detector, groups, entities, learn)
            case "rare":
                found = self._rare_members(state, bucket, at, detector, groups, entities, learn)
            case "time_of_day" | "time_of_week":
                found = self._times(state, bucket, at, detector, groups, entities, learn)
            case "lat_long":
                found = self._places(state, bucket, at, detector, groups, entities, learn)
            case _:
                found = []
                for part in PARTS.get(detector.base, (detector.base,)):
                    values = self._values(state, bucket, at, detector, part, groups, entities)
                    found += self._judged(
                        state, bucket, at, detector, part, groups, entities, values, learn, plots
                    )  # fmt: skip
        if detector.exclude_frequent != "none":
            found = self._without_frequent(state, at, detector, entities, found)
        return self._population(detector, found) if detector.over_field_name else found

    def _values(
        self, state: JobState, bucket: Bucket, at: int, detector: Detector, part: str, groups: Ints,
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
        self, state: JobState, bucket: Bucket, at: int, detector: Detector, part: str, groups: Ints,
        entities: Sequence[Group], values: Floats, learn: bool, plots: list[dict[str, Any]],
        how: Shape | None = None, side: int | None = None,
    ) -> list[Found]:  # fmt: skip
        """Values judged by the model of their series, or of their population."""
        series = state.of(at, part)
        population = detector.over_field_name is not None
        how = how or shape(part, population)
        side = detector.side if side is None else side
        known = np.flatnonzero(~np.isnan(values))
        # What is counted over all categories together has one model for them.
        owners = [(g[0], None) if part == "freq_rare" else g[:2] for g in entities]
        slots = [series.slot(owners[int(i)]) for i in known]
        actual = values[known]
        absent: list[Group] = []
        if part in ZERO_WHEN_ABSENT and not population:
            present = set(slots)
            absent = [(*entity, None) for entity, slot in series.slots.items() if slot not in present]
            slots += [series.slots[(a[0], a[1])] for a in absent]
            actual = np.concatenate([actual, np.zeros(len(absent))])
        if not slots:
            return []
        where = np.array(slots, np.int64)
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
        named = [entities[int(i)] for i in known] + absent
        shown = np.ones(len(where), bool)
        if detector.custom_rules:
            learned = np.full(len(where), learn, np.int64)
            for i, group in enumerate(named):
                done = effect(
                    self.definition, detector, _fields(detector, group), actual[i], typical[i], bucket.begin_s
                )
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
                self._plot(bucket, at, detector, part, named[i], actual[i], typical[i], lower[i], upper[i])
                for i in range(len(where))
            ]
        age = (bucket.begin_s - series.models[where, model.BORN]) / self.span_s
        shown &= (surprise >= KNOTS[0]) & (age >= self.warm) & (out[:, model.SEEN] >= VALUES_MIN)
        found = []
        for i in np.flatnonzero(shown).tolist():
            single, multi = -out[i, model.LOGP_SINGLE], -out[i, model.LOGP_MULTI]
            impact = 5.0 * (multi - single) / max(multi, single, 1e-9)
            rows = np.flatnonzero(groups == known[i]) if i < len(known) else np.empty(0, np.int64)
            found.append(
                Found(
                    at, part, named[i], [float(actual[i])], [float(typical[i])], float(surprise[i]),
                    float(probability[i]), rows, (float(lower[i]), float(upper[i]), float(typical[i])),
                    float(min(max(impact, -5.0), 5.0)),
                )
            )  # fmt: skip
        return found

    def _shift_one(
        self, state: JobState, at: int, part: str, group: Group, series: Series, slot: int, shift_s: float
    ) -> None:
        """A rule's time shift, once for as long as the rule applies without a break."""
        name = json.dumps(["shift", at, part, *group[:2]])
        if not shift_s:
            state.memory.pop(name, None)
        elif name not in state.memory:
            state.memory[name] = shift_s
            series.models[slot, model.SHIFT] += shift_s

    # ------------------------------------------------------------------------------------- what is counted instead

    def _memory(self, state: JobState, at: int, part: str, *entity: str | None) -> dict[str, Any]:
        kept: dict[str, Any] = state.memory.setdefault(json.dumps([part, at, *entity]), {})
        kept["at"] = state.next
        return kept

    def _bucket_number(self, bucket: Bucket) -> int:
        return bucket.begin_us // bucket.span_us

    def _skips(
        self, state: JobState, bucket: Bucket, detector: Detector, group: Group, actual: float, typical: float
    ) -> tuple[bool, bool]:
        done = effect(self.definition, detector, _fields(detector, group), actual, typical, bucket.begin_s)
        return done.skip_result, done.skip_update

    def _rare(
        self, state: JobState, bucket: Bucket, at: int, detector: Detector, groups: Ints, entities: Sequence[Group],
        learn: bool,
    ) -> list[Found]:  # fmt: skip
        found = []
        partitions: dict[str | None, Categories] = {}
        for partition in {e[0] for e in entities}:
            partitions[partition] = Categories(self._memory(state, at, "rare", partition))
        learned = []
        for i, group in enumerate(entities):
            kept = partitions[group[0]]
            surprise, rate = kept.surprise(str(group[1]))
            hidden, skipped = self._skips(state, bucket, detector, group, 1.0, rate)
            if surprise >= KNOTS[0] and not hidden:
                found.append(
                    Found(at, "rare", group, [1.0], [rate], surprise, min(rate, 1.0), np.flatnonzero(groups == i))
                )
            if learn and not skipped:
                learned.append((kept, str(group[1])))
        for kept, category in learned:
            kept.learn(category, self._bucket_number(bucket))
        if learn:
            for kept in partitions.values():
                kept.end()
        return found

    def _rare_members(
        self, state: JobState, bucket: Bucket, at: int, detector: Detector, groups: Ints, entities: Sequence[Group],
        learn: bool,
    ) -> list[Found]:  # fmt: skip
        found = []
        partitions = {p: Members(self._memory(state, at, "members", p)) for p in {e[0] for e in entities}}
        learned = []
        for i, group in enumerate(entities):
            kept = partitions[group[0]]
            surprise, rate = kept.surprise(str(group[1]), str(group[2]))
            hidden, skipped = self._skips(state, bucket, detector, group, 1.0, rate)
            if surprise >= KNOTS[0] and not hidden:
                found.append(Found(at, "rare", group, [1.0], [rate], surprise, rate, np.flatnonzero(groups == i)))
            if learn and not skipped:
                learned.append((kept, str(group[1]), str(group[2])))
        for kept, category, member in learned:
            kept.learn(category, member, self._bucket_number(bucket))
        if learn:
            for kept in partitions.values():
                kept.end()
        return found

    def _rare_events(self, state: JobState, at: int, entities: Sequence[Group], events: Floats) -> Floats:
        """For freq_rare: how many events a member has of categories that few members have; learns them as well."""
        partitions = {p: Members(self._memory(state, at, "members", p)) for p in {e[0] for e in entities}}
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
        self, state: JobState, bucket: Bucket, at: int, detector: Detector, groups: Ints, entities: Sequence[Group],
        learn: bool,
    ) -> list[Found]:  # fmt: skip
        week = detector.base == "time_of_week"
        period = 604_800 if week else 86_400
        seconds = (bucket.seconds() - (345_600 if week else 0)) % period
        found = []
        for i, group in enumerate(entities):
            rows = np.flatnonzero(groups == i)
            entity = (group[0], None) if detector.over_field_name else group[:2]
            clock = Clock(self._memory(state, at, detector.base, *entity), period, bucket.begin_s)
            middle = float(np.median(seconds[rows]))
            surprise, rate, usual = clock.surprise(middle)
            hidden, skipped = self._skips(state, bucket, detector, group, middle, usual)
            if surprise >= KNOTS[0] and not hidden:
                found.append(Found(at, detector.base, group, [middle], [usual], surprise, rate, rows))
            if learn and not skipped:
                clock.learn(middle)
        return found

    def _places(
        self, state: JobState, bucket: Bucket, at: int, detector: Detector, groups: Ints, entities: Sequence[Group],
        learn: bool,
    ) -> list[Found]:  # fmt: skip
        """How far the place lies from the usual ones, judged like any value."""
        assert detector.field_name is not None
        codes, words = bucket.codes(detector.field_name)
        parsed = [place(str(word)) for word in words]
        far = np.full(len(entities), np.nan)
        spots: dict[int, tuple[tuple[float, float], tuple[float, float]]] = {}
        learned = []
        for i, group in enumerate(entities):
            here = [p for p in (parsed[c] for c in np.unique(codes[(groups == i) & (codes >= 0)])) if p is not None]
            kept = Places(self._memory(state, at, "places", *group[:2]))
            measured = [(kept.nearest(p), p) for p in here]
            known = [(near[1], p, near[0]) for near, p in measured if near is not None]
            if known:
                far[i], actual, usual = max(known)
                spots[i] = (actual, usual)
            learned += [(kept, p) for p in here]
        found = self._judged(
            state,
            bucket,
            at,
            detector,
            "lat_long",
            groups,
            entities,
            far,
            learn,
            [],
            how=shape("lat_long", False),
            side=1,
        )
        if learn:
            for kept, p in learned:
                kept.learn(p)
        for one in found:
            actual, usual = spots[entities.index(one.group)]
            one.actual, one.typical, one.bounds = list(actual), list(usual), None
        return found

    # ----------------------------------------------------------------------------------------- which are reported

    def _without_frequent(
        self, state: JobState, at: int, detector: Detector, entities: Sequence[Group], found: list[Found]
    ) -> list[Found]:
        roles = [
            r for r, n in (("by", 1), ("over", 2)) if detector.exclude_frequent in (r, "all") and _role(detector, n)
        ]
        for role in roles:
            at_value = 1 if role == "by" else 2
            memory = self._memory(state, at, f"frequent {role}")
            memory.setdefault("n", 0)
            seen: dict[str, int] = memory.setdefault("seen", {})
            often = {
                v for v in {str(f.group[at_value]) for f in found}
                if memory["n"] >= self.warm and seen.get(v, 0) >= FREQUENT * memory["n"]
            }  # fmt: skip
            found = [f for f in found if str(f.group[at_value]) not in often]
            for value in {str(e[at_value]) for e in entities}:
                seen[value] = seen.get(value, 0) + 1
            memory["n"] += 1
            if len(seen) > 50_000:
                memory["seen"] = {v: n for v, n in seen.items() if n > 1}
        return found

    def _population(self, detector: Detector, found: list[Found]) -> list[Found]:
        """One record for each member: its most improbable cause speaks, the others stand under ``causes``."""
        members: dict[tuple[str, str | None, str | None], list[Found]] = {}
        for one in found:
            members.setdefault((one.function, one.group[0], one.group[2]), []).append(one)
        out = []
        for listed in members.values():
            listed.sort(key=lambda f: -f.surprise)
            top = listed[0]
            top.causes = [
                {
                    **{k: v for k, v in _names(detector, f.group).items() if v is not None},
                    "function": detector.function,
                    "actual": f.actual,
                    "typical": f.typical,
                }
                for f in listed[:CAUSES_MAX]
            ]
            if detector.base == "rare":  # the more rare things a member does, the less probable
                top.actual = [float(len(listed))]
            top.surprise = together([f.surprise for f in listed])
            top.probability = min(top.probability, 10.0**-top.surprise) if detector.base != "rare" else top.probability
            top.rows = np.concatenate([f.rows for f in listed])
            out.append(top)
        return out

    # ---------------------------------------------------------------------------------------------------- results

    def _results(self, state: JobState, bucket: Bucket, found: list[Found]) -> list[dict[str, Any]]:
        base = {
            "time": bucket.begin_us, "timestamp": bucket.begin_us, "job_id": self.definition.job.job_id,
            "bucket_span": self.span_s, "is_interim": False,
        }  # fmt: skip
        found.sort(key=lambda f: -f.surprise)
        worst = found[0].surprise if found else 0.0
        for one in found:
            one.influencers = self._influencers(bucket, one)
        blamed: dict[tuple[str, str], list[float]] = {}
        for one in found:
            for name, values in one.influencers.items():
                for value in values:
                    blamed.setdefault((name, value), []).append(one.surprise)
        whole = together([f.surprise for f in found])
        state.scores["record"].observe(worst)
        state.scores["bucket"].observe(whole)
        state.scores["influencer"].observe(max(map(together, blamed.values()), default=0.0))
        rows = [self._record(state, base, one) for one in found]
        recent: list[list[Any]] = state.memory.setdefault("recent", [])
        recent += [
            [f.surprise, dict(row)] for f, row in zip(found, rows, strict=True) if row["record_score"] >= REVISED_FROM
        ]
        for (name, value), surprises in sorted(blamed.items(), key=lambda b: -together(b[1])):
            score = round(state.scores["influencer"].score(together(surprises)), 6)
            rows.append(
                {
                    **base, "key": value, "result_type": "influencer", "influencer_field_name": name,
                    "influencer_field_value": value, "influencer_score": score, "initial_influencer_score": score,
                    "probability": 10.0 ** -max(surprises), "severity": severity(score),
                }
            )  # fmt: skip
        score = round(state.scores["bucket"].score(whole), 6)
        warming = f"warming {state.buckets}/{self.warm}" if state.buckets < self.warm else None
        rows.append(
            {
                **base, "key": self.definition.job.job_id, "result_type": "bucket", "anomaly_score": score,
                "initial_anomaly_score": score, "severity": severity(score), "warming": warming,
                "event_count": round(float(bucket.weight.sum())), "probability": 10.0**-whole,
            }
        )  # fmt: skip
        return rows

    def renormalised(self, state: JobState, now_us: int) -> list[dict[str, Any]]:
        """Records of the last weeks whose score has changed, now that the job has seen more."""
        days = self.definition.job.renormalization_window_days
        window_us = round((max(30.0 * 86_400, 100 * self.span_s) if days is None else days * 86_400.0) * 1e6)
        recent = [one for one in state.memory.get("recent", ()) if one[1]["time"] >= now_us - window_us][-REVISED_MAX:]
        state.memory["recent"] = recent
        changed = []
        for surprise, row in recent:
            score = round(state.scores["record"].score(surprise), 6)
            if abs(score - row["record_score"]) >= REVISED_BY:
                row |= {"record_score": score, "severity": severity(score)}
                changed.append(dict(row))
        return changed

    def _record(self, state: JobState, base: Mapping[str, Any], one: Found) -> dict[str, Any]:
        detector = self.config.detectors[one.detector]
        score = round(state.scores["record"].score(one.surprise), 6)
        lower, upper, median = one.bounds or (None, None, None)
        return {
            **base, **_names(detector, one.group), "key": self._key(one.group), "result_type": "record",
            "detector_index": one.detector, "function": detector.function, "function_description": one.function,
            "field_name": detector.field_name, "actual": one.actual, "typical": one.typical,
            "probability": one.probability, "record_score": score, "initial_record_score": score,
            "multi_bucket_impact": round(one.impact, 3), "severity": severity(score),
            "influencers": json.dumps(
                [{"influencer_field_name": n, "influencer_field_values": v} for n, v in one.influencers.items()]
            ) if one.influencers else None,
            "causes": json.dumps(one.causes) if one.causes else None,
            "model_lower": lower, "model_upper": upper, "model_median": median,
        }  # fmt: skip

    def _plot(
        self, bucket: Bucket, at: int, detector: Detector, part: str, group: Group, actual: float, typical: float,
        lower: float, upper: float,
    ) -> dict[str, Any]:  # fmt: skip
        return {
            "time": bucket.begin_us, "timestamp": bucket.begin_us, "job_id": self.definition.job.job_id,
            "bucket_span": self.span_s, "is_interim": False, **_names(detector, group), "key": self._key(group),
            "result_type": "model_plot", "detector_index": at, "function": detector.function,
            "function_description": part, "field_name": detector.field_name, "actual": [float(actual)],
            "typical": [float(typical)], "model_lower": float(lower), "model_upper": float(upper),
            "model_median": float(typical),
        }  # fmt: skip

    def _key(self, group: Group) -> str:
        return "/".join(value for value in group if value is not None) or self.definition.job.job_id

    def _influencers(self, bucket: Bucket, one: Found) -> dict[str, list[str]]:
        """Values of the influencer fields that most of the record's rows (or of its value) have."""
        detector = self.config.detectors[one.detector]
        own = _fields(detector, one.group)
        blamed: dict[str, list[str]] = {}
        for name in self.config.influencers:
            if own.get(name) is not None:
                blamed[name] = [str(own[name])]
                continue
            codes, words = bucket.codes(name)
            here = one.rows[codes[one.rows] >= 0]
            if not len(here):
                continue
            weight = bucket.weight[here]
            if one.function in ("sum", "non_null_sum", "mean", "max", "min") and detector.field_name is not None:
                x = np.nan_to_num(bucket.numbers(detector.field_name)[here])
                if one.function in ("max", "min"):
                    weight = (x == (x.max() if one.function == "max" else x.min())).astype(np.float64)
                elif one.actual[0] > one.typical[0] and (x > 0).any():
                    weight = np.maximum(x, 0.0) * (weight if one.function == "mean" else 1.0)
            shares = np.bincount(codes[here], weight, len(words))
            total = shares.sum()
            values = [str(words[c]) for c in np.flatnonzero(shares >= INFLUENTIAL * total)] if total > 0 else []
            if values:
                blamed[name] = values
        return blamed

    def _prune(self, state: JobState, now: int) -> None:
        """Forget series not seen for `model_prune_window`."""
        window_s = self.config.model_prune_window or max(PRUNE_S, 20 * self.span_s)
        before_s = now * self.span_s - window_s
        for series in state.series.values():
            kept = [e for e, slot in series.slots.items() if series.models[slot, model.AT] >= before_s]
            if len(kept) < len(series.slots):
                series.keep(kept)
        before = int(before_s / self.span_s)
        stale = [n for n, m in state.memory.items() if isinstance(m, dict) and m.get("at", before) < before]
        for name in stale:
            del state.memory[name]
        for name, memory in state.memory.items():
            if name.startswith('["rare"'):
                Categories(memory).prune(before)


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


def _role(detector: Detector, at: int) -> str | None:
    return (detector.partition_field_name, detector.by_field_name, detector.over_field_name)[at]


def _fields(detector: Detector, group: Group) -> dict[str, str | None]:
    """What a group has in the fields that split the analysis."""
    return {name: group[at] for at in range(3) if (name := _role(detector, at)) is not None}


def _names(detector: Detector, group: Group) -> dict[str, str | None]:
    named: dict[str, str | None] = {}
    for at, role in enumerate(("partition", "by", "over")):
        if _role(detector, at) is not None:
            named |= {f"{role}_field_name": _role(detector, at), f"{role}_field_value": group[at]}
    return named
