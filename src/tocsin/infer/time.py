"""Which field says when it happened, how it is written, in which unit, and whether a zone is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from tocsin.errors import ConfigError, SchemaError
from tocsin.infer.sample import Form, SampledField
from tocsin.infer.vocabulary import EXACT, is_time_name
from tocsin.values.times import parse_times

ARRIVAL = re.compile(
    r"recei|server|enqueue|ingest|process|arriv|stored|last.?changed|publish|gateway|^gw", re.IGNORECASE
)
"""Names of times at which somebody else noticed; where there are several, these come last."""
AFTER = re.compile(r"process|ingest|stored", re.IGNORECASE)
"""And of these the very last."""
ELAPSED = re.compile(r"cycle|zyklus|elapsed|laufzeit|seconds?\b|\bsec\b|\bms\b|^t$|time|zeit", re.IGNORECASE)
"""Names of what is counted from a beginning."""
PARTS = (
    (("year", "jahr", "yyyy"), "%Y"), (("month", "monat", "mm"), "%m"), (("day", "tag", "dd"), "%d"),
    (("hour", "stunde", "hh"), "%H"), (("minute", "min"), "%M"), (("second", "sekunde", "sec"), "%S"),
)  # fmt: skip
"""Names of the parts of a date, from the largest on."""
YEAR_2001, YEAR_2100 = 978_307_200, 4_102_444_800
DAY_2000, DAY_2100 = 36_526, 73_051
"""By the count of spreadsheets, which began with 1900."""
UNITS = (("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9))
_DAY = r"\d{1,2}(?P<mark>[./-])\d{1,2}(?P=mark)(?:\d{4}|\d{2})"
_CLOCK = r"\d{1,2}:\d\d(?::\d\d(?P<fraction>[.,:]\d+)?)?"
_LOCAL = re.compile(rf"(?P<day>{_DAY})(?:(?P<between>[ T,]+)(?P<clock>{_CLOCK})(?P<half>\s?[AaPp]\.?[Mm]\.?)?)?")
_CLOCK_ALONE = re.compile(rf"{_CLOCK}(?P<half>\s?[AaPp]\.?[Mm]\.?)?")
_WITHOUT_MARKS = (
    (re.compile(r"20\d{12}"), "%Y%m%d%H%M%S"), (re.compile(r"20\d{6}[ _-]\d{6}"), "%Y%m%d %H%M%S"),
    (re.compile(r"20\d\d\.\d\d\.\d\d\.\d\d\.\d\d\.\d\d"), "%Y.%m.%d.%H.%M.%S"),
)  # fmt: skip
LATENESS_S = 5.0


@dataclass(frozen=True)
class Time:
    """When rows happened: the fields that say it (none: the arrival), and how they are read."""

    paths: tuple[str, ...]
    reason: str
    unit: str | None = None
    format: str | None = None
    is_local: bool = False
    """Whether the times name no zone, so that one has to be told."""
    is_elapsed: bool = False
    """Whether it counts from a beginning that nobody names; then it is read as since 1970."""
    is_ambiguous: bool = False
    """Whether day and month could be told apart by nothing but custom."""
    offset: str | None = None
    """A further field with seconds to be added."""
    lateness_s: float = LATENESS_S
    """How far times go back in the sample, rounded up."""
    is_ahead: bool = False
    """Whether times in a file lie in the future, so that they are to be taken nevertheless."""


@lru_cache(maxsize=8_192)
def is_time(text: str) -> bool:
    """Return whether a text is a date or a time of day in a form that people and machines write.

    Examples
    --------
    >>> [is_time(text) for text in ("24.11.2026 06:00:00", "2026-11-24T06:00:00Z", "06:00", "20.5", "pump-1")]
    [True, True, True, False, False]
    """
    text = text.strip()
    if not 4 <= len(text) <= 40 or not (":" in text or text.count("-") > 1 or text.count(".") > 1 or "/" in text):
        return False
    if _LOCAL.fullmatch(text) or _CLOCK_ALONE.fullmatch(text):
        return True
    return bool(parse_times(pa.array([text]), None, "UTC")[0].is_valid()[0].as_py())


def conclude_time(form: Form, *, is_files: bool, told: str | None = None) -> Time:
    """Return which field of a form has the time, and how it is to be read; without one it is the arrival.

    ``told`` is the field that has it for sure; `ConfigError` if it holds nothing that can be read as times.
    """
    fields = [form.get(told)] if told is not None else form.fields
    ranked = sorted(
        ((score, -i, time) for i, one in enumerate(fields) for score, time in _candidates(one, form, is_files, told)),
        key=lambda entry: entry[:2],
        reverse=True,
    )
    if ranked and ranked[0][0] > 0 and not ranked[0][2].is_elapsed:
        return ranked[0][2]
    if told is None and (parts := _parts(form)) is not None:
        return parts
    if ranked and ranked[0][0] > 0:
        return ranked[0][2]
    if told is not None:
        said = str((form.get(told).given or ["nothing"])[0])[:40]
        raise ConfigError(
            f"'{told}' holds no times that can be read ({said!r}); name another field, or none, and say in the file "
            f"that --save writes how it is written, as time: {{column: {told}, format: ...}}"
        )
    recorded = _in_the_file_name(form) if is_files else None
    if recorded is not None:
        return recorded
    if is_files:
        return Time(
            (), f"no column has a time{_unread(form)}: rows are counted, one a second from 1970 on", is_elapsed=True
        )
    return Time((), f"no field has a time{_unread(form)}: the arrival counts")


def _unread(form: Form) -> str:
    """What a field holds that is called a time, and why that is none."""
    for one in form.fields:
        if not one.given or not is_time_name(one.name):
            continue
        texts = [str(value).strip() for value in one.given]
        if all(_CLOCK_ALONE.fullmatch(text) for text in texts):
            why = "a time of day without its date"
        elif one.is_number and all(DAY_2000 <= number < DAY_2100 for number in one.known):
            why = "a day's number as a spreadsheet counts; export it as date and time"
        elif not one.is_number and all(any(map(str.isdigit, text)) for text in texts):
            why = "in no form of a time that is known"
        else:
            continue
        return f" that can be read ('{one.name}' holds {texts[0][:40]!r}, {why})"
    return ""


def _candidates(one: SampledField, form: Form, is_files: bool, told: str | None) -> list[tuple[float, Time]]:
    hint = 9.0 if told is not None else 1.0 if is_time_name(one.name) else 0.0
    hint += 0.3 * (one.name.lower().strip("@_") in EXACT)
    is_around, is_listed = one.path.startswith("$."), bool(re.search(r"(?:^|\.)\d+\.", one.path.removeprefix("$.0")))
    depth = one.path.count(".") - is_around + 3 * is_listed
    base = hint + 0.5 * (len(one.distinct) > 1) - 0.3 * depth - 0.7 * is_around
    base -= bool(ARRIVAL.search(one.path)) + 0.5 * bool(AFTER.search(one.path))
    if one.is_number:
        return [(base + score, time) for score, time in _numbers(one, hint, is_files)]
    texts = [str(value) for value in one.given]
    if not texts or len(texts) < 0.5 * one.rows:
        return []
    time = _written(one, texts)
    if time is None:
        return []
    has_clock = any(":" in text or "T" in text or len(text) >= 14 for text in texts)
    if not has_clock and (clock := _clock_beside(one, form)) is not None:
        return [(base + 3, _two(time, clock, form))]
    return [(base + 2 + has_clock, time)]


def _numbers(one: SampledField, hint: float, is_files: bool) -> list[tuple[float, Time]]:
    numbers = [number for number in one.known if number == number]
    unit = next(
        (name for name, per_s in UNITS if all(YEAR_2001 <= number / per_s < YEAR_2100 for number in numbers)), None
    )
    grows = all(a <= b for a, b in pairwise(numbers))
    if unit is not None and (hint or (grows and unit != "s" and len(numbers) > 1)):
        reason = f"numbers since 1970 in {unit}, the first is {_when(numbers[0], unit)}"
        return [(2.5, Time((one.path,), reason, unit=unit, lateness_s=_lateness(one, unit)))]
    stamp = next((f for shape, f in _WITHOUT_MARKS if all(shape.fullmatch(str(v).strip()) for v in one.given)), None)
    if stamp is not None and one.given:
        return [(2.5, Time((one.path,), f"digits as {stamp}", format=stamp, is_local=True))]
    steps = [b - a for a, b in pairwise(numbers)]
    is_clock = bool(ELAPSED.search(one.name)) and steps and min(numbers) >= 0 and len(set(numbers)) > 1
    if is_files and is_clock and sum(step > 0 for step in steps) >= 0.6 * len(steps):
        unit = "ms" if re.search(r"ms\b|milli|_ms", one.name, re.IGNORECASE) else "s"
        reason = f"counts up from {numbers[0]:g}; no date is told, so it is read as {unit} since 1970"
        lateness = max(_lateness(one, unit), 3_600.0)
        return [(0.6, Time((one.path,), reason, unit=unit, is_elapsed=True, lateness_s=lateness))]
    return []


def _written(one: SampledField, texts: Sequence[str]) -> Time | None:
    """How texts say a time, None if they say none."""
    column = pa.array([text.strip() for text in texts], pa.string())
    stamp = next((f for shape, f in _WITHOUT_MARKS if all(shape.fullmatch(t.strip()) for t in texts)), None)
    if stamp is None:
        read, reasons = parse_times(column, None, None)
        local = pc.sum(pc.equal(reasons.fill_null(""), "ts_zone")).as_py() or 0
        if len(texts) - read.null_count + local >= 0.95 * len(texts):
            form = f"as {texts[0]!r}, which is read without being told"
            return Time((one.path,), form, is_local=bool(local), lateness_s=_backwards(column, None))
        stamp, is_ambiguous = _format_of(texts)
    else:
        is_ambiguous = False
    if stamp is None:
        return None
    read, _ = parse_times(column, None, "UTC", stamp)
    if read.null_count > 0.05 * len(texts):
        return None
    said = f"as {texts[0]!r}, {stamp}"
    if is_ambiguous:
        said += ", though day and month could be the other way round"
    return Time((one.path,), said, None, stamp, True, is_ambiguous=is_ambiguous, lateness_s=_backwards(column, stamp))


def _format_of(texts: Sequence[str]) -> tuple[str | None, bool]:
    """A format for times whose day and month may change places, and whether only custom decides which is first."""
    matches = [_LOCAL.fullmatch(text.strip()) for text in texts]
    good = [match for match in matches if match is not None]
    if len(good) < 0.95 * len(texts):
        return None, False
    one = good[0]
    mark, year = one["mark"], "%Y" if len(re.split(r"[./-]", one["day"])[2]) == 4 else "%y"
    firsts, seconds = ({int(re.split(r"[./-]", match["day"])[i]) for match in good} for i in (0, 1))
    has_half = any(match["half"] for match in good)
    is_ambiguous = False
    if max(firsts) > 12:
        day_first = True
    elif max(seconds) > 12:
        day_first = False
    elif len(firsts) != len(seconds):
        day_first = len(firsts) > len(seconds)  # days change more often than months
    else:
        day_first, is_ambiguous = mark != "/", mark != "."
    day = mark.join(("%d", "%m", year) if day_first else ("%m", "%d", year))
    if one["clock"] is None:
        return day, is_ambiguous
    longest = max((match for match in good if match["clock"]), key=lambda match: len(match["clock"]))
    return day + re.sub(r"\s+", " ", one["between"]) + _clock_format(longest, has_half=has_half), is_ambiguous


def _clock_format(match: re.Match[str], *, has_half: bool) -> str:
    colons = (match[0] if "clock" not in match.groupdict() else match["clock"]).count(":")
    clock = ("%I" if has_half else "%H") + ":%M" + (":%S" if colons >= 2 else "")
    if match["fraction"]:
        clock += match["fraction"][0] + "%f"
    if has_half:
        clock += (" " if (match["half"] or " ").startswith(" ") else "") + "%p"
    return clock


def _clock_beside(day: SampledField, form: Form) -> SampledField | None:
    """The field with the time of day, where another one has only the date."""
    for one in form.fields:
        texts = [str(value).strip() for value in one.given]
        if one is not day and texts and all(_CLOCK_ALONE.fullmatch(text) for text in texts):
            return one
    return None


def _parts(form: Form) -> Time | None:
    """A date that is spread over columns named year, month, day, and on to the second."""
    names = {one.name.lower(): one.path for one in form.fields}
    paths = [next((names[word] for word in words if word in names), None) for words, _ in PARTS]
    if None in paths[:3] or form.decoder == "json":
        return None
    known = [path for path in paths[: paths.index(None) if None in paths else None] if path is not None]
    written = " ".join(directive for _, directive in PARTS[: len(known)])
    return Time(tuple(known), f"{len(known)} columns, {written}", None, written, True)


def _two(day: Time, clock: SampledField, form: Form) -> Time:
    match = _CLOCK_ALONE.fullmatch(str(clock.given[0]).strip())
    assert match is not None
    dates = day.format or _iso_date(str(form.get(day.paths[0]).given[0]))
    written = f"{dates} {_clock_format(match, has_half=bool(match['half']))}"
    reason = f"date and time of day in two columns, {written}"
    return Time((*day.paths, clock.path), reason, None, written, True, is_ambiguous=day.is_ambiguous)


def _iso_date(text: str) -> str:
    return "%Y" + text.strip()[4:5] + "%m" + text.strip()[4:5] + "%d" if text.strip()[4:5] in "-/." else "%Y%m%d"


def _in_the_file_name(form: Form) -> Time | None:
    """The time in the names of the files, where they are recordings without a column for it."""
    names = list(dict.fromkeys(form.topics))
    for shape, written in _WITHOUT_MARKS:
        if names and all(shape.fullmatch(name) for name in names):
            return Time(("topic",), f"the name of each file, {written}", format=written, is_local=True)
    return None


def _backwards(column: pa.Array, format: str | None) -> float:
    times = parse_times(column, None, "UTC", format)[0].cast(pa.int64()).drop_null().to_pylist()
    return _rounded([us / 1e6 for us in times])


def _lateness(one: SampledField, unit: str) -> float:
    return _rounded([number / dict(UNITS)[unit] for number in one.known])


def _rounded(seconds: Sequence[float]) -> float:
    """Twice the way that times go back at most, in seconds, and at least `LATENESS_S`."""
    newest, back = float("-inf"), 0.0
    for second in seconds:
        newest = max(newest, second)
        back = max(back, newest - second)
    return max(LATENESS_S, float(round(2 * back)))


def _when(number: float, unit: str) -> str:
    try:
        times, _ = parse_times(pa.array([number]), unit)
    except SchemaError:
        return "unknown"
    return str(times[0])[:19]
