"""All conclusions about a sample together, and what a person said beforehand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from zoneinfo import available_timezones

import pyarrow as pa

from tocsin.errors import ConfigError
from tocsin.infer import signals as signals_of
from tocsin.infer.form import is_web_page, recognise
from tocsin.infer.machine import Identity, conclude_machine, counted_runs, names_signals
from tocsin.infer.sample import Form, Sample, spoken
from tocsin.infer.signals import Signals, conclude_signals, is_value_name
from tocsin.infer.time import Time, conclude_time
from tocsin.values.names import is_about_the_record
from tocsin.values.times import parse_times

NEWEST_FIRST = (
    "the newest row comes first, and rows are judged in the order in which they come; sort the file by its time, "
    "oldest first, before you trust what rings"
)
_WITH_UNIT = re.compile(r"[+-]?\d+(?:[.,]\d+)? ?[^\d\s.,:/+-][^\s,;:]{0,9}")
_ZONE = re.compile(r"\[[A-Za-z0-9_+/-]+\]$")


@dataclass(frozen=True)
class Hints:
    """What is known already, by path; it goes before what would be concluded."""

    machine: str | None = None
    time: str | None = None
    signals: tuple[str, ...] = ()
    zone: str | None = None


@dataclass(frozen=True)
class Conclusion:
    """What a sample is: enough to write the pipeline file that reads it."""

    form: Form
    time: Time
    machine: Identity
    signals: Signals
    zone: str | None = None
    """Zone of times that name none."""
    zone_reason: str = ""
    rate: float | None = None
    """Rows a second, where they are counted from the beginning of a recording."""
    notes: Sequence[str] = field(default_factory=tuple)
    is_open: bool = False
    """Whether fields that appear later are signals, too: each number of a record is a row of its own."""
    is_in_blocks: bool = False
    """Whether the rows of each machine stand together in a file, so that time begins again with the next."""

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what each conclusion is about, and what it is and why."""
        yield "format", "; ".join(self.form.reasons)
        column = " and ".join(self.time.paths)
        yield "time", f"{column}: {self.time.reason}" if column else self.time.reason
        if self.zone is not None:
            yield "zone", f"{self.zone}: {self.zone_reason}"
        yield "machine", self.machine.reason
        names = signals_of.told(self.signals)
        yield "signals", f"{spoken(names, 8) or 'none'} ({self.signals.reason})"
        if self.is_open:
            yield (
                "later",
                "new fields become signals, each is told; --signals takes those named, and no others",
            )
        if left_out := self.signals.left_out:
            yield "left out", spoken([f"{path} ({why})" for path, why in left_out.items()], 4)
        for note in self.notes:
            yield "note", note


def conclude(
    sample: Sample,
    hints: Hints | None = None,
    zone: tuple[str, str] = ("UTC", ""),
    form: Form | None = None,
    now_us: int | None = None,
) -> Conclusion:
    """Return what a sample is; ``form`` is that of a source which has columns of its own, ``now_us`` the time.

    ``zone`` is that of times that name none, if the hints say nothing, and why it is taken. Raises `ConfigError` with a
    remedy where nothing can be concluded.
    """
    hints = hints or Hints()
    form = form or recognise(sample)
    if form is None:
        raise ConfigError(
            f"what this source holds is no text that is known ({_head(sample)}); JSON, CSV, XML, Influx line protocol "
            "and Prometheus' text are. For anything else write a pipeline file (docs/plugins.md: decoders of your own)"
        )
    for path in (hints.machine, hints.time, *hints.signals):
        _require(form, path)
    time = conclude_time(form, is_files=sample.is_files, told=hints.time)
    runs = counted_runs(form) if sample.is_files and (not time.paths or time.is_elapsed) and not hints.time else None
    taken = set(time.paths)
    topic_names = not sample.is_files and _is_by_topic(form)
    if runs is not None and hints.machine is None:
        time, machine = _cycles(form, runs)
        taken = set(runs)
    else:
        rest = taken | ({hints.machine} if hints.machine else set())
        machine = _machine(form, rest if hints.machine is None else taken, sample, hints, topic_names=topic_names)
    taken |= {machine.path} if machine.path else set()
    signals = conclude_signals(form, taken, topic_names=machine.signal_in_topic)
    if hints.signals:
        signals = Signals(tuple(form.get(path) for path in hints.signals), "as you said", names=hints.signals)
    is_open = not hints.signals and not sample.is_files and _is_open(form, signals)
    signals, machine = _one_series_each(form, signals, machine, taken)
    if not signals.fields and form.decoder == "csv" and len(form.topics) == 1 and sample.is_files:
        raise ConfigError(f"only the names {_first_line(form)} stand there, and no reading yet")
    if not signals.fields:
        raise ConfigError(_no_signals(form, sample))
    notes = _notes(form, time, sample)
    is_local = time.is_local and hints.zone is None
    said = (hints.zone, "as you said") if hints.zone else _own_zone(form, time) or zone
    where, why = said if time.is_local else (None, "")
    made = Conclusion(form, time, machine, signals, where, why, notes=notes, is_open=is_open)
    made = _files_as_machines(made, sample)
    if sample.is_files and not time.is_elapsed and _is_newest_first(made):
        made = replace(made, notes=[*made.notes, NEWEST_FIRST])
    if sample.is_files and now_us is not None and any(us is not None and us > now_us for us in _times(made)):
        made = replace(made, time=replace(time, is_ahead=True), notes=[*made.notes, "some times lie in the future"])
    if is_local and zone[1]:
        made = replace(made, notes=[*made.notes, "times name no zone: if it is another one, say --zone Europe/Berlin"])
    return replace(made, rate=_rate(made, sample), is_in_blocks=sample.is_files and _in_blocks(made))


def _first_line(form: Form) -> str:
    return spoken([str(one.values[0]) for one in form.fields], 20)


def _head(sample: Sample) -> str:
    pieces = [piece.payload for piece in sample.pieces if piece.payload.strip()]
    if pieces and pieces[0].startswith(b"PK\x03\x04"):
        return "it is a zip archive, as workbooks .xlsx are; save the sheet as CSV, or unpack it"
    if pieces and pieces[0].startswith(b"\xd0\xcf\x11\xe0"):
        return "it is a workbook of Excel; save the sheet as CSV"
    if pieces and pieces[0].lstrip()[:1] in (b"{", b"["):
        return "it begins as JSON does, but is neither one document nor a record each line"
    if pieces and is_web_page(pieces[0]):
        return "it is a web page, as a server sends to sign in"
    return f"it begins with {pieces[0][:24]!r}" if pieces else "it is empty"


def _no_signals(form: Form, sample: Sample) -> str:
    """Why there is nothing to watch, and what to do."""
    if _has_long_lists(form, sample):
        return "its fields are lists, one for each column; write a record for each reading"
    said = (
        "no field looks like a signal, a number that is measured; there are "
        f"[{spoken([one.path for one in form.fields], 20)}]"
    )
    if united := _with_unit(form):
        return f"{said}; {united}"
    return f"{said}. Name them: --signals pressure,temperature"


def _with_unit(form: Form) -> str:
    """What a field with units behind its numbers holds, and what to do; empty if there is none."""
    for one in form.fields:
        texts = [str(value).strip() for value in one.given]
        if texts and not one.is_number and all(_WITH_UNIT.fullmatch(text) for text in texts):
            return f"'{one.path}' holds {texts[0]!r}, a number and its unit; write the unit into the name of the column"
    return ""


def _own_zone(form: Form, time: Time) -> tuple[str, str] | None:
    """The zone whose name stands behind each time, as in 2026-01-31T12:00:00[Europe/Berlin]."""
    if len(time.paths) != 1 or time.paths == ("topic",):
        return None
    names = {(_ZONE.search(str(value)) or [""])[0].strip("[]") for value in form.get(time.paths[0]).given}
    return (names.pop(), "as the times say") if len(names) == 1 and names <= available_timezones() else None


def _require(form: Form, path: str | None) -> None:
    if path is not None and path not in [one.path for one in form.fields]:
        raise ConfigError(f"there is no field '{path}'; there are [{spoken([one.path for one in form.fields], 30)}]")


def _is_by_topic(form: Form) -> bool:
    """Whether each topic has the values of one signal."""
    topics = list(dict.fromkeys(form.topics))
    numbers = [one for one in form.fields if one.is_number and is_value_name(one.path)]
    others = [one for one in form.fields if one.is_number and not is_about_the_record(one.path)]
    alone = len(form.fields) == 1 or len(others) <= 2
    return (
        form.decoder in ("csv", "json") and bool(numbers) and alone and (names_signals(topics) or len(form.fields) == 1)
    )


def _is_open(form: Form, signals: Signals) -> bool:
    """Whether each signal is a field of its own that the decoder finds by its name: in no list, and no text."""
    steps = [one.path.replace("\\.", "").split(".") for one in signals.fields]
    is_plain = not any(step == "$" or step.isdigit() for path in steps for step in path)
    quoted = any(one.is_quoted for one in signals.fields)
    return form.decoder == "json" and signals.named_by is None and is_plain and not quoted


def _machine(form: Form, taken: set[str], sample: Sample, hints: Hints, *, topic_names: bool) -> Identity:
    if hints.machine is not None:
        one = form.get(hints.machine)
        return Identity("as you said", path=one.path, key=one.path, names=tuple(map(str, one.distinct)))
    first = conclude_signals(form, taken, topic_names=topic_names)
    named = {first.named_by} if first.named_by else set()
    return conclude_machine(form, taken | named, is_files=sample.is_files, topic_names=topic_names)


def _one_series_each(form: Form, signals: Signals, machine: Identity, taken: set[str]) -> tuple[Signals, Identity]:
    """Where each row names its signal and nothing else, that name is the key: each signal is a series of its own."""
    if signals.named_by in (None, "topic") or machine.path is not None or machine.key is not None:
        return signals, machine
    name = form.get(str(signals.named_by))
    if len(name.distinct) < 2 and not taken:
        return signals, machine
    reason = f"nothing else names one, so each '{name.path}' is a series of its own ({spoken(name.distinct, 3)})"
    made = Identity(reason, path=name.path, key=name.path, names=tuple(name.distinct))
    return replace(signals, named_by=None, reason=f"the value of each '{name.path}'"), made


def _cycles(form: Form, runs: tuple[str, str]) -> tuple[Time, Identity]:
    unit, count = (form.get(path) for path in runs)
    reason = "counts up for each machine; no date is told, so a cycle is read as a second since 1970"
    lateness = 3_600.0 + 2 * max(count.known)
    reason_machine = (
        f"'{unit.path}': a number that stands while '{count.path}' counts ({len(unit.distinct)} in the sample)"
    )
    time = Time((count.path,), reason, unit="s", is_elapsed=True, lateness_s=lateness)
    return time, Identity(reason_machine, path=unit.path, key=unit.path, names=tuple(unit.distinct))


def _files_as_machines(made: Conclusion, sample: Sample) -> Conclusion:
    """Files side by side in time are machines, if nothing in them names one; files after each other are one log."""
    topics = list(dict.fromkeys(made.form.topics))
    if not sample.is_files or made.machine.key is not None or len(topics) < 2 or made.time.paths == ("topic",):
        return made
    if len({topic.count("/") for topic in topics}) > 1 or not _overlap(made):
        return made
    levels = [topic.split("/") for topic in topics]
    place = max(i for i in range(len(levels[0])) if len({one[i] for one in levels}) > 1)
    template = "/".join("{machine}" if i == place else "+" for i in range(len(levels[0])))
    names = tuple(dict.fromkeys(one[place] for one in levels))
    reason = f"the name of the file: {len(names)} files whose times lie side by side ({spoken(names, 4)})"
    return replace(made, machine=Identity(reason, template=template, key="machine", names=names))


def _overlap(made: Conclusion) -> bool:
    if not made.time.paths or made.time.is_elapsed:
        return True
    spans: dict[str, tuple[int, int]] = {}
    for topic, us in zip(made.form.topics, _times(made), strict=True):
        if us is not None:
            low, high = spans.get(topic, (us, us))
            spans[topic] = min(low, us), max(high, us)
    ordered = sorted(spans.values())
    return any(low <= before for (_, before), (low, _) in pairwise(ordered))


def _is_newest_first(made: Conclusion) -> bool:
    known = [us for us in _times(made) if us is not None]
    steps = [b - a for a, b in pairwise(known) if a != b]
    return len(steps) > 2 and sum(step < 0 for step in steps) > 0.9 * len(steps)


def _times(made: Conclusion) -> list[int | None]:
    """The time of each row in microseconds, by its own clock."""
    if not made.time.paths or made.time.paths == ("topic",):
        return []
    columns = [made.form.get(path).values for path in made.time.paths]
    texts = [None if None in values else " ".join(map(str, values)) for values in zip(*columns, strict=True)]
    times, _ = parse_times(pa.array(texts, pa.string()), made.time.unit, "UTC", made.time.format)
    told: list[int | None] = times.cast(pa.int64()).to_pylist()
    return told


def _in_blocks(made: Conclusion) -> bool:
    """Whether a field names the machine, and each name stands in one run of rows."""
    if made.machine.path is None:
        return False
    values = [str(value) for value in made.form.get(made.machine.path).values]
    return len([name for name, _ in groupby(values)]) == len(set(values))


def _rate(made: Conclusion, sample: Sample) -> float | None:
    if made.time.paths == ("topic",):
        return float(max(len(list(run)) for _, run in groupby(made.form.topics)))
    return 1.0 if sample.is_files and not made.time.paths else None


def _has_long_lists(form: Form, sample: Sample) -> bool:
    lists = any(re.search(rb"\[\s*-?\d[^\[\]]{400,}\]", piece.payload) for piece in sample.pieces[:5])
    return lists and form.decoder == "json"


def _notes(form: Form, time: Time, sample: Sample) -> list[str]:
    notes = []
    if time.is_ambiguous:
        notes.append(
            f"day and month of the time cannot be told apart here; read as {time.format}. If not, change it in the file"
        )
    if time.paths == ("topic",):
        notes.append("how many samples a second a recording has is not told: each file is read as one second long")
    if united := _with_unit(form):
        notes.append(united)
    if _has_long_lists(form, sample):
        notes.append("a long list of numbers is passed over; for waveforms see docs/vibration.md")
    return notes
