"""Which field, level of the topic, or file says of which machine a row is."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from tocsin.infer.sample import Form, SampledField, spoken
from tocsin.infer.vocabulary import FAIR, NOT_A_NAME, NUMBERED, STRONG, WEAK
from tocsin.values.names import words_of

KIND = re.compile(
    r"^(?:sensor|state|status|telemetry|data|up|uplink|events?|info|result|attributes|json|values?|readings?|messages?|"
    r"rpc|v\d|report|measurements?|lwt|online|tele|stat|cmnd|ndata|ddata|status\d*:?\d*)$",
    re.IGNORECASE,
)
"""Levels of a topic that say what kind of message it is."""
COMPOUND = re.compile(
    r"(?:maschine|machine|anlage|device|equipment|ger(?:ä|ae)t|asset|aggregat|station)(?:n|en|s)?"
    r"(?:nummer|nr|number|no|id|name|bezeichnung|code)?"
)
"""Names of machines in one word."""


@dataclass(frozen=True)
class Identity:
    """Who a row is of: a field, levels of the topic, or one machine for all."""

    reason: str
    path: str | None = None
    template: str | None = None
    """Template of the topic, where one of its levels is used: ``plant/{machine}/+``."""
    key: str | None = None
    """The key: a column, or a template of columns; None: all rows are of one machine."""
    names: Sequence[str] = field(default_factory=tuple)
    signal_in_topic: bool = False


def conclude_machine(form: Form, taken: Collection[str], *, is_files: bool, topic_names: bool) -> Identity:
    """Return who rows are of, by fields that are not taken yet, or by topics.

    ``topic_names`` says that a level of the topic names the signal of each value.
    """
    topics = list(dict.fromkeys(form.topics))
    ranked = [(_rank(one), -i, one) for i, one in enumerate(form.fields) if one.path not in taken]
    best = max(ranked, key=lambda entry: entry[:2], default=None)
    by_topic = None if is_files else _by_topic(topics, topic_names=topic_names)
    if topic_names and by_topic is not None:
        return by_topic
    told_apart = len(by_topic.names) if by_topic is not None else 1
    if best is not None and best[0] >= 1.5 and len(best[2].distinct) >= told_apart:
        one = best[2]
        return Identity(
            f"'{one.path}': {_counted(one.distinct)}", path=one.path, key=one.path, names=tuple(one.distinct)
        )
    if by_topic is not None:
        return by_topic
    return Identity("nothing names one, so all rows are of one machine")


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} {'name' if len(names) == 1 else 'names'} ({spoken(names, 4)})"


def _rank(one: SampledField) -> float:
    """How much a field looks like the name of a machine; 1.5 and more is enough."""
    rows, values, distinct = one.rows, one.given, len(one.distinct)
    if not values or len(values) < 0.7 * rows or any(isinstance(value, bool | float) for value in values[:50]):
        return 0.0
    words = words_of(one.name) if one.name not in (".", "name()") else []
    if one.path.startswith("$.") or (set(words) <= WEAK and "." in one.path):
        words = words_of(".".join(one.path.removeprefix("$.").split(".")[-2:]))
    joined = "".join(words)
    spelled = {*words, joined, *(("machine",) if COMPOUND.fullmatch(joined) else ())}
    hint = 3.0 if STRONG & spelled else 2.0 if FAIR & spelled else float(bool(WEAK & spelled))
    if NOT_A_NAME & set(words) or (one.is_number and (hint < 2 or not one.is_whole)):
        return 0.0
    is_number_of = COMPOUND.fullmatch(joined) or set(words) <= STRONG | FAIR | NUMBERED
    is_number_of = is_number_of and all(str(value).isdigit() for value in values)
    if one.is_number and (distinct > max(1, rows / 2) or not is_number_of):
        return 0.0  # a number in every row anew is measured
    if "unit" in words and not any(re.search(r"\d", str(value)) for value in values):
        return 0.0  # of measure
    is_listed = bool(re.search(r"(?:^|\.)\d+\.", one.path.removeprefix("$.0.")))
    rank = hint - 0.2 * one.path.removeprefix("$.").count(".") - 3.0 * is_listed
    is_one_each = distinct == rows and rows > 8
    is_shared = 1 < distinct <= rows / 2
    if hint <= 1:
        if is_one_each or any(len(str(value)) > 40 or str(value).count(" ") > 3 for value in values):
            return 0.0
        numbered = sum(bool(re.search(r"\d", str(v)) and re.search(r"[A-Za-z]", str(v))) for v in values)
        return rank + 0.7 * (numbered > len(values) / 2) + (0.9 if is_shared else -0.6 * (hint < 1))
    return (
        rank
        + 0.5 * is_shared
        - 2.0 * is_one_each
        - 0.4 * ("uuid" in words)
        - 0.1 * ("name" in words and len(words) > 1)
    )


def counted_runs(form: Form) -> tuple[str, str] | None:
    """Return a field with the number of a machine and one that counts its rows from the beginning, if there are two.

    The first stands still while the second counts by one, and changes where the second begins again.
    """
    for one, beside in zip(form.fields[:4], form.fields[1:5], strict=False):
        units, counts = one.known, beside.known
        if {"day", "hour", "month", "minute", "tag", "stunde"} & set(words_of(one.name)):
            continue
        if len(units) != len(counts) or len(units) < 6 or not (one.is_whole and beside.is_whole):
            continue
        runs = [
            [count for _, count in run] for _, run in groupby(zip(units, counts, strict=True), lambda pair: pair[0])
        ]
        is_counted = len(runs) == len(set(units)) and len(units) / len(runs) >= 3 and all(map(_counts, runs))
        if is_counted and (len(runs) > 1 or STRONG & set(words_of(one.name)) or units[0] == counts[0] == 1):
            return one.path, beside.path
    return None


def _counts(run: Sequence[float]) -> bool:
    return run[0] in (0, 1) and all(number == run[0] + i for i, number in enumerate(run))


# ------------------------------------------------------------------------------------------------------------- topics


def names_signals(topics: Sequence[str]) -> bool:
    """Return whether the last level of topics may name signals: it varies beside others that stay."""
    last = {topic.rpartition("/")[2] for topic in topics}
    return len(last) > 1 and not all(KIND.match(level) for level in last)


def _by_topic(topics: Sequence[str], *, topic_names: bool) -> Identity | None:
    levels = [topic.split("/") for topic in topics]
    if not levels or min(map(len, levels)) < (2 if topic_names else 1) or topics == [""]:
        return None
    depth = min(map(len, levels))
    is_even = all(len(one) == depth for one in levels)
    if topic_names:
        return _with_signal(levels, depth, is_even=is_even)
    varying = [
        i for i in range(depth) if len({one[i] for one in levels}) > 1 and not all(KIND.match(one[i]) for one in levels)
    ]
    if not varying:
        steady = [i for i in range(1, depth) if not KIND.match(levels[0][i])]
        if not steady:
            return None
        varying = steady[-1:]
    return _template(levels, varying if is_even else varying[:1], depth, is_even=is_even, signal=None)


def _with_signal(levels: Sequence[Sequence[str]], depth: int, *, is_even: bool) -> Identity:
    """Each topic has the values of one signal: the last level that varies names it, one before it the machine."""
    common = range(depth - 1)
    varying = [i for i in common if len({one[i] for one in levels}) > 1]
    if is_even:
        inner = [i for i in varying if _is_nested(levels, i)]
        varying = inner or varying
        places = varying or [_steady(levels[0], depth - 1)]
        signal = depth - 1
        if varying and varying[-1] < depth - 2:
            signal = varying[-1] + 1
        return _template(levels, places, depth, is_even=True, signal=signal)
    first = [i for i in varying if i <= 1] or varying
    places = first[-1:] or [_steady(levels[0], depth - 1)]
    return _template(levels, places, depth, is_even=True, signal=places[-1] + 1)


def _is_nested(levels: Sequence[Sequence[str]], i: int) -> bool:
    """Whether a level is no part of a signal's name: the same names do not come again under every machine."""
    if i == 0:
        return True
    parents = {one[i]: {tuple(other[:i]) for other in levels if other[i] == one[i]} for one in levels}
    every = {tuple(one[:i]) for one in levels}
    return len(every) == 1 or any(len(under) < len(every) for under in parents.values())


def _steady(levels: Sequence[str], end: int) -> int:
    """The level that names the one machine there is: the last that is neither a number nor what the number is of."""
    places = [i for i in range(end) if not levels[i].isdigit() and not (i + 1 < end and levels[i + 1].isdigit())]
    return places[-1] if places else 0


def _template(
    levels: Sequence[Sequence[str]], places: Sequence[int], depth: int, *, is_even: bool, signal: int | None
) -> Identity:
    """The template of the topics; where names come again under other levels, those are part of the key."""
    machine = places[-1]
    used = [machine]
    for place in reversed(places[:-1]):
        if len({tuple(one[i] for i in used) for one in levels}) < len(
            {tuple(one[i] for i in [place, *used]) for one in levels}
        ):
            used.insert(0, place)
    names: Mapping[int, str] = {machine: "machine", **{place: f"level{place}" for place in used[:-1]}}
    parts = []
    for i in range(depth):
        if i == signal:
            break
        if i == machine and not is_even:
            parts.append("{machine...}")
            break
        word = levels[0][i]
        parts.append(f"{{{names[i]}}}" if i in names else word if all(one[i] == word for one in levels) else "+")
    if signal is not None:
        ends = {len(one) - signal for one in levels}
        parts.append("{signal}" if ends == {1} else "{signal...}")
    machines = list(
        dict.fromkeys("/".join(one[i] for i in used) if is_even else "/".join(one[machine:]) for one in levels)
    )
    key = "machine" if len(used) == 1 else "/".join(f"{{{names[i]}}}" for i in used)
    reason = f"level {machine + 1} of the topic: {_counted(machines)}"
    return Identity(reason, None, "/".join(parts), key, tuple(machines), signal is not None)
