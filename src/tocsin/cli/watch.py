"""`tocsin watch`: from a source to judged signals and alarms without a file; `tocsin init`: the same as a dialogue."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import click
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.cli.sources import PASSWORD, Named, estimated_rows, read_sample
from tocsin.detect.health import Health
from tocsin.errors import ConfigError
from tocsin.infer.conclude import Conclusion, Hints, conclude
from tocsin.infer.sample import Form, Sample
from tocsin.infer.writing import host_file, pipeline_file, sparkplug_file
from tocsin.pipeline.model import Pipeline
from tocsin.pipeline.plan import Plan
from tocsin.pipeline.yamlfile import load_with_plan
from tocsin.sparkplug.payload import NAMESPACE
from tocsin.values.times import parse_times

WIDTH = 10
"""Of the words before the conclusions."""
QUARTER_S = 900
"""Offsets of zones are multiples of it."""
SAVED, STATE = "watch.yaml", ".state"
"""The file in the data folder, where none is asked for; and where its state is."""


@dataclass(frozen=True)
class Look:
    """What was concluded of a source, and the pipeline file that it makes."""

    text: str
    lines: Sequence[tuple[str, str]]
    sample: Sample | None = None
    made: Conclusion | None = None


def look(
    named: Named, folder: Path, hints: Hints | None = None, listen_s: float = 5.0,
    ask: Callable[[str, str], str] | None = None,
) -> Look:  # fmt: skip
    """Return what is concluded of a source; ``ask`` is asked what only a person can know, with what is taken else."""
    if named.scheme == "host":
        lines = [("source", "this computer, measured each second; each signal is a series of its own")]
        return Look(host_file("host", str(folder), lines), lines)
    if named.is_sparkplug:
        lines = [("source", f"{_shown(named)}: Sparkplug B, whose births say what each metric is; each is a series")]
        return Look(sparkplug_file(named.name, named.source(), str(folder), lines), lines)
    hints = hints or Hints()
    if hints.zone is not None and not _is_zone(hints.zone):
        raise ConfigError(f"there is no zone '{hints.zone}'; write it as Europe/Berlin")
    typed = named.typed()
    if typed is not None:
        sample = Sample([], is_files=named.is_files)
    else:
        if not named.is_files:
            click.echo(f"listening to {_shown(named)} for {listen_s:g} s ...", err=True)
        sample = named.sample(listen_s)
        if sample.pieces and all(piece.topic.startswith(f"{NAMESPACE}/") for piece in sample.pieces):
            raise ConfigError(
                f"{_shown(named)}: what comes is Sparkplug B; write {NAMESPACE}/# behind the broker in the address"
            )
    now_us = time.time_ns() // 1_000
    made = conclude(sample, hints, form=typed, now_us=now_us)
    if made.time.is_local and not made.zone_reason:
        zone, reason = _zone(made, sample, ask)
        made = conclude(sample, replace(hints, zone=None), (zone, reason), made.form, now_us)
    lines = [("source", _seen(named, sample, typed)), *made.lines()]
    text = pipeline_file(
        made, named.name, named.source(made.form), folder=str(folder), readings=_readings(named, made, sample),
        told=[(what, said) for what, said in lines],
    )  # fmt: skip
    return Look(text, lines, sample, made)


def _shown(named: Named) -> str:
    """The address without a password."""
    return re.sub(r"(://[^:@/]+):[^@/]*@", r"\1:***@", named.address)


def _seen(named: Named, sample: Sample, typed: Form | None) -> str:
    if typed is not None:
        return f"{_shown(named)}: {typed.reasons[0]}"
    if sample.is_files:
        count = len(named.paths())
        return f"{named.address}: {count} file{'s' if count != 1 else ''}, the beginning of {len(sample.pieces)} read"
    topics = len({piece.topic for piece in sample.pieces})
    return f"{_shown(named)}: {len(sample.pieces)} messages under {topics} topic{'s' if topics != 1 else ''}"


def _readings(named: Named, made: Conclusion, sample: Sample) -> int | None:
    """About how many readings there are of each machine, None if they have no end."""
    if not named.is_files or not sample.pieces:
        return None
    if made.is_in_blocks:
        return len(made.form.topics) // max(1, len(made.machine.names))
    series = max(1, len(made.machine.names)) * max(1, len(made.signals.names) if made.signals.named_by else 1)
    return estimated_rows(named, made.form, sample) // series


# --------------------------------------------------------------------------------------------------------------- zones


def _zone(made: Conclusion, sample: Sample, ask: Callable[[str, str], str] | None) -> tuple[str, str]:
    """The zone of times that name none, and why: by the clock where readings are live, else as a person says."""
    here, why = local_zone()
    if not sample.is_files and (live := _zone_by_clock(made, here)) is not None:
        return live
    if ask is None:
        return here, f"{why}; the times name none"
    while True:
        said = ask("In which time zone are the times written?", here)
        if _is_zone(said):
            return said, "as you said"
        close = [zone for zone in sorted(available_timezones()) if said.lower() in zone.lower()][:5]
        click.echo(
            f"there is no zone '{said}'; {'there is ' + ', '.join(close) if close else 'as Europe/Berlin'}", err=True
        )


def _is_zone(name: str) -> bool:
    try:
        return bool(ZoneInfo(name).key)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False


def _zone_by_clock(made: Conclusion, here: str) -> tuple[str, str] | None:
    """The zone in which the newest reading is of now, None if it is of no hour that a zone has."""
    (path, *more) = made.time.paths
    if more:
        return None
    values = pa.array([None if v is None else str(v) for v in made.form.get(path).values], pa.string())
    newest = pc.max(parse_times(values, None, "UTC", made.time.format)[0].cast(pa.int64())).as_py()
    now = datetime.now(UTC)
    ahead_s = (newest or 0) / 1e6 - now.timestamp()
    quarters = round(ahead_s / QUARTER_S)
    if newest is None or abs(ahead_s - quarters * QUARTER_S) > 120 or not -12 * 4 <= quarters <= 14 * 4:
        return None
    if quarters == 0:
        return "UTC", "the newest reading is of now by UTC"
    own = now.astimezone(ZoneInfo(here)).utcoffset()
    if own is not None and own.total_seconds() == quarters * QUARTER_S:
        return here, "the newest reading is of now by this computer's clock"
    if quarters % 4 == 0:
        return f"Etc/GMT{-quarters // 4:+d}", "the newest reading is of now by that clock; summer time is not known"
    return None


def local_zone() -> tuple[str, str]:
    """Return the zone of this computer, UTC where it does not say, and which of both it is."""
    name = os.environ.get("TZ", "").lstrip(":")
    link = Path("/etc/localtime")
    for told in (name, str(link.resolve()).partition("zoneinfo/")[2] if link.exists() else ""):
        try:
            if told:
                return ZoneInfo(told).key, "that of this computer"
        except (ZoneInfoNotFoundError, ValueError, OSError):
            continue
    return "UTC", "this computer names no zone"


# ---------------------------------------------------------------------------------------------------------------- runs


def checked(text: str, folder: Path, sample: Sample | None) -> tuple[Pipeline, Plan, str]:
    """Return pipeline and plan of a file that was made, and a sentence on how much of the sample it reads.

    The file stands in the data folder, so that a second look goes on with what the first has learnt.
    """
    file = folder / SAVED
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    if (folder / STATE).exists() and _source(before) != _source(text):
        raise ConfigError(
            f"{folder} holds what was read from another source ({_source(before) or 'of a pipeline file'}); "
            "choose another folder with --folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror}); choose another folder with --folder"
        ) from error
    pipeline, plan = load_with_plan(file)
    if sample is None or not (sample.pieces or sample.is_files):
        return pipeline, plan, ""
    read, seen, reasons = read_sample(plan, sample)
    if not read:
        raise ConfigError(
            f"none of {seen} rows of the sample can be read ({_reasons(reasons)}); the file that was tried is {file}: "
            "mend it there, and run it with tocsin run"
        )
    return pipeline, plan, f"{read} of {seen} rows of the sample are read{f' ({_reasons(reasons)})' if reasons else ''}"


def _source(text: str) -> str:
    """The source that a file which was written here reads."""
    return text.partition("\nsource:")[2].partition("\n  ")[2].partition("\n")[0].strip()


def _reasons(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(4))


def show(lines: Sequence[tuple[str, str]]) -> None:
    """Print what was concluded, a line each."""
    width = max(40, shutil.get_terminal_size((160, 24)).columns) if sys.stderr.isatty() else 400
    for what, said in lines:
        text = f"  {what:<{WIDTH}}{said}"
        click.echo(text if len(text) <= width else f"{text[: width - 4]} ...", err=True)


def write_file(text: str, file: Path) -> None:
    """Write the pipeline file; `ConfigError` if there is one already."""
    if file.exists():
        raise ConfigError(f"{file} is there already; move it away, or save under another name")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"{file}: there is no folder {file.absolute().parent}; make it first")
    file.write_text(text, encoding="utf-8")


def saved_lines(text: str, file: Path | None) -> list[tuple[str, str]]:
    """Return where the file was saved, if it was, and what it needs to run."""
    if file is None:
        return []
    return [("saved", f"{file}{f'; set {PASSWORD} before you run it' if PASSWORD in text else ''}")]


def learnt(plan: Plan) -> int:
    """Return how many readings of a machine the plan learns before it judges one."""
    return next(step.operator.learn for step in plan.steps if isinstance(step.operator, Health))


def told_alarms(folder: Path, name: str, learn: int) -> str:
    """Return what a run over files has told: which machines, since when, and why; or that it could not judge them.

    ``learn`` is how many readings of a machine are learnt before one is judged.
    """
    from tocsin.lake.read import query

    rows: list[dict[str, Any]] = []
    if (folder / "alarms").is_dir():
        rows = query("select key, time, message, evidence from alarms where ring order by time", folder).to_pylist()
    if not rows:
        return f"{name}: {_nothing_rang(folder, learn)}"
    counted = Counter(row["key"] for row in rows)
    lines = [f"{name}: {_many(len(rows), 'alarm')} at {_many(len(counted), 'machine')}; the first of each:"]
    for key in list(counted)[:10]:
        first = next(row for row in rows if row["key"] == key)
        lines.append(f"  {key:<24} {first['time']:%Y-%m-%d %H:%M:%S} (UTC)  {_why(first)}")
    if len(counted) > 10:
        lines.append(f"  ... and {len(counted) - 10} more machines")
    return "\n".join(lines)


def _nothing_rang(folder: Path, learn: int) -> str:
    from tocsin.lake.read import query

    has_names = "signal" in query("select * from readings limit 0", folder).column_names
    counted = (
        "select count(*) as n from readings group by key, signal"
        if has_names
        else "select count(*) as n from readings group by key"
    )
    counts = query(counted, folder)["n"].to_pylist()
    short = sum(count <= learn for count in counts)
    if short == len(counts):
        return (
            f"nothing was judged: {learn} readings of a machine are learnt first, and there are "
            f"{max(counts, default=0)} at most"
        )
    said = "nothing rang: no machine left what it was like at the beginning"
    if short:
        verb = "was" if short == 1 else "were"
        said += f"; {short:,} of {len(counts):,} {verb} not judged, since {learn} readings are learnt first"
    return said


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count:,} {what}s"


def _why(row: Mapping[str, Any]) -> str:
    import json

    evidence = row["evidence"]
    told = json.loads(evidence) if isinstance(evidence, str) else dict(evidence or {})
    return str(told.get("why") or row["message"])


def asked(question: str, default: str) -> str:
    """Ask a person at the terminal."""
    return str(click.prompt(question, default=default, err=True))


# ---------------------------------------------------------------------------------------------------------------- init


def dialogue(source: str | None, folder: Path | None) -> tuple[Look, Path, Path]:
    """Ask for a source, let each conclusion be corrected; return what was agreed on, the file to write, the folder."""
    address = source or asked(
        "Where do the readings come from? (file, folder, mqtt://broker/plant/#, kafka://..., host)", "host"
    )
    named = Named(address)
    folder = folder or Path("tocsin-data") / named.name
    seen, hints = look(named, folder, ask=asked), Hints()
    while seen.made is not None:
        show(seen.lines)
        if click.confirm("Is that right?", default=True, err=True):
            break
        hints = _corrected(seen.made, hints)
        try:
            seen = look(named, folder, hints, ask=asked)
        except ConfigError as error:
            click.echo(str(error), err=True)
    return seen, Path(asked("Write the pipeline to", f"{named.name}.yaml")), folder


def _corrected(made: Conclusion, hints: Hints) -> Hints:
    paths = [one.path for one in made.form.fields]
    click.echo(f"  fields    {', '.join(paths[:40])}", err=True)
    none = "(none)"
    machine = asked("Field that names the machine", made.machine.path or none)
    stamp = asked("Field with the time", made.time.paths[0] if made.time.paths else none)
    signals = asked("Fields that are signals, with commas", ",".join(one.path for one in made.signals.fields))
    zone = asked("Time zone", made.zone or none) if made.time.is_local else none
    named = tuple(word.strip() for word in signals.split(",") if word.strip())
    return replace(
        hints,
        machine=None if machine == none else machine,
        time=None if stamp in (none, "topic") else stamp,
        signals=() if named == tuple(one.path for one in made.signals.fields) else named,
        zone=None if zone == none else zone,
    )
