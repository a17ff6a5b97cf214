"""Which fields are signals of a machine, and whether each row has all of them or names the one that it is of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import pairwise

from tocsin.infer.sample import Form, SampledField, last_step
from tocsin.infer.vocabulary import STRONG_NAMES, VALUE_WORDS, WEAK_NAMES
from tocsin.values.names import is_about_the_record, words_of

SIGNALS_MAX = 64
"""How many signals are judged together at most."""
BEYOND = f"beyond the first {SIGNALS_MAX}"
"""Why a field is left out that is a signal all the same."""


@dataclass(frozen=True)
class Signals:
    """The signals: fields of their own, or one field with values and one with the name of each."""

    fields: tuple[SampledField, ...]
    reason: str
    named_by: str | None = None
    """Path of the field that names the signal, ``topic`` if a level of the topic does; None: each has its field."""
    left_out: Mapping[str, str] = dataclass_field(default_factory=dict)
    """Other fields with numbers, and why they are no signals."""
    names: tuple[str, ...] = ()
    """What the signals are called."""


def name_rank(path: str) -> int:
    """Return how well a field's name says that it names signals: 2, 1 or 0."""
    words = words_of(path.rpartition(".")[2] or path)
    joined = "".join(words)
    if path == "@name":
        return 2  # of a metric
    if joined in STRONG_NAMES or (len(words) > 1 and words[0] in STRONG_NAMES and words[-1] in ("name", "id", "alias")):
        return 2
    return int(joined in WEAK_NAMES or (len(words) > 1 and words[-1] == "name"))


def is_value_name(path: str) -> bool:
    """Return whether a field's name says nothing but that it is a value."""
    words = words_of(path.rpartition(".")[2] or path)
    return path == "." or (bool(words) and (words[-1] in VALUE_WORDS or words[0] in ("value", "wert")))


def conclude_signals(form: Form, taken: Collection[str], *, topic_names: bool) -> Signals:
    """Return the signals, among the fields that are neither time nor machine (``taken``).

    ``topic_names`` says whether a level of the topic can name a signal.
    """
    left_out: dict[str, str] = {}
    kept = []
    clock = _clock_parts(form.fields)
    for one in form.fields:
        if one.path in taken or not one.is_number:
            continue
        reason = "is a part of the time of day" if one.path in clock else _why_not(one)
        if reason:
            left_out[one.path] = reason
        else:
            kept.append(one)
    values = [one for one in kept if is_value_name(one.path)]
    if values and (len(kept) == 1 or values[0].path in (".", "@value")):
        value = values[0]
        left_out |= {one.path: "stands beside the value" for one in kept if one is not value}
        if topic_names:
            return Signals((value,), "the topic names the signal of each value", "topic", left_out)
        name = _naming(form, taken)
        if name is not None:
            names = tuple(map(str, name.distinct))
            reason = f"'{name.path}' names the signal of each '{value.path}'"
            return Signals((value,), reason, name.path, left_out, names)
    if len(kept) > SIGNALS_MAX:
        left_out |= {one.path: BEYOND for one in kept[SIGNALS_MAX:]}
        kept = kept[:SIGNALS_MAX]
    short = short_names([one.path for one in kept])
    return Signals(tuple(kept), "numbers that are measured", None, left_out, tuple(short.values()))


def short_names(paths: Sequence[str]) -> Mapping[str, str]:
    """Return a name for each path: its last step, or as many as tell it from the others.

    Examples
    --------
    >>> short_names(["AM2301.Humidity", "DS18B20-1.Temperature", "DS18B20-2.Temperature"])["DS18B20-2.Temperature"]
    'DS18B20-2.Temperature'
    """
    last = {path: last_step(path) for path in paths}
    count = Counter(last.values())
    whole = {path: path.removeprefix("$.").replace("\\.", ".") for path in paths}
    return {path: name if count[name] == 1 else whole[path] for path, name in last.items()}


def _naming(form: Form, taken: Collection[str]) -> SampledField | None:
    """The field that names the signal of each row."""
    texts = [one for one in form.fields if one.given and not one.is_number and len(one.given) >= 0.8 * one.rows]
    ranked = [(name_rank(one.path), len(one.distinct) > 1, one) for one in texts if one.path not in taken]
    good = [entry for entry in ranked if entry[0] == 2 or (entry[0] == 1 and entry[1])]
    return max(good, key=lambda entry: entry[:2])[2] if good else None


def _why_not(one: SampledField) -> str | None:
    """Why a field with numbers is no signal, None if it is one."""
    if is_about_the_record(one.path):
        return "is about the record, by its name"
    if re.search(r"(?:^|\.)\d+\.[^.]*[a-z]", one.path.removeprefix("$.0.")):
        return "stands in a list beside"
    numbers = one.known
    grows = len(numbers) > 3 and all(a <= b for a, b in pairwise(numbers)) and len(set(numbers)) > 1
    if grows and {"time", "timestamp", "ts", "date", "zeit", "epoch", "t"} & set(words_of(one.name)):
        return "is a time"
    if _counts(one):
        return "counts by the same step"
    return None


def _counts(one: SampledField) -> bool:
    steps = {b - a for a, b in pairwise(one.known)}
    return one.is_whole and len(one.known) > 3 and len(steps) == 1 and steps != {0.0}


def _clock_parts(fields: Sequence[SampledField]) -> set[str]:
    """Columns without names that are parts of a time of day: whole numbers that stand before one that counts."""
    parts: set[str] = set()
    for one in fields:
        if one.path != f"c{len(parts) + 1}" or not one.is_number or not one.is_whole:
            return set()
        if _counts(one):
            return parts
        if len(set(one.known)) > 2 or not all(0 <= number < 60 for number in one.known):
            return set()
        parts.add(one.path)
    return set()


def told(signals: Signals) -> Sequence[str]:
    """Return the names to show; those of a topic are not known by the fields."""
    return signals.names or tuple(short_names([one.path for one in signals.fields]).values())
