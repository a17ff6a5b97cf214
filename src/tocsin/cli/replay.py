"""`tocsin replay`: which alarms a changed pipeline would have raised, beside those that there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tocsin.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from tocsin.domain.labels import Occurrence

BOTH, ONLY_THEN, ONLY_NOW = "both", "only then", "only now"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="A.B=VALUE", help="Override a setting of the file.")
@click.option("--from", "begin", metavar="TIME", help="Compare from here on; what was before only teaches.")
@click.option("--to", "end", metavar="TIME", help="Until here; else until the last reading.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def replay(file: Path, settings: tuple[str, ...], begin: str | None, end: str | None, form: str) -> None:
    """Run a changed pipeline file over the readings in its lake, and compare its alarms with those that there were.

    Nothing is written or delivered. Readings are those of tables that hold what a source gave, as a stream without
    steps keeps it.
    """
    from tocsin.cli.tables import show, write

    if wrong := [pair for pair in settings if "=" not in pair]:
        raise ConfigError(f"--set {wrong[0]}: write it as place=value, such as --set folder=/data")
    made = compare(file, dict(pair.split("=", 1) for pair in settings), begin, end)
    tables = [
        ("alarms, compared", _table(made.lines, ("which", "raised", "key", "rule", "severity", "label", "message"))),
        ("alarms a day", _table(made.by_day, ("day", "then", "now"))),
    ]
    for title, table in tables:
        if form == "table":
            show(table, title)
        else:
            write(table, form)
    click.echo(f"{made.readings:,} readings; {made.sentence}", err=True)


@dataclass(frozen=True)
class Comparison:
    """What a changed pipeline would have rung, beside what there was."""

    lines: Sequence[dict[str, Any]]
    """An alarm each: ``which`` (both, only then, only now), when, of what, and how it was labelled."""
    by_day: Sequence[dict[str, Any]]
    readings: int
    sentence: str


def compare(file: Path, settings: Mapping[str, str], begin: str | None, end: str | None) -> Comparison:
    """Returns what a pipeline file, with other settings, makes of the readings in its lake."""
    from tocsin.domain.labels import DAY_US, occurrences
    from tocsin.engine.replay import replay as replay_plan
    from tocsin.pipeline.yamlfile import load_with_plan

    _, plan = load_with_plan(file, settings)
    begin_us, end_us = _time("--from", begin), _time("--to", end)
    if begin_us is not None and end_us is not None and begin_us >= end_us:
        raise ConfigError(f"--from {begin} comes before --to {end}, or nothing is left to compare")
    made = replay_plan(plan, end_us)
    begin_us = made.first_us if begin_us is None else begin_us
    end_us = made.last_us + 1 if end_us is None else end_us
    then, now = (
        [one for one in alarms if one.rang and begin_us <= one.raised < end_us]
        for alarms in (_rung_then(plan.folder, made.tables), occurrences(made.alarms))
    )
    lines = list(_compared(then, now))
    days = max((end_us - begin_us) / DAY_US, 1e-9)
    return Comparison(lines, list(_by_day(then, now)), made.rows, _in_words(lines, then, now, days))


def _rung_then(folder: Path, paths: Sequence[str]) -> list[Occurrence]:
    from tocsin.domain.labels import occurrences
    from tocsin.lake.read import tables
    from tocsin.serve.desk import rows

    wanted = {(folder / path).resolve() for path in paths}
    return [
        one for name, at in tables(folder).items() if at.resolve() in wanted for one in occurrences(rows(folder, name))
    ]


def _compared(then: Sequence[Occurrence], now: Sequence[Occurrence]) -> Iterator[dict[str, Any]]:
    """Gives a line for each alarm that there was and each that would have been, in order; one where they overlap."""
    lines = [(one, BOTH if any(one.overlaps(other) for other in now) else ONLY_THEN) for one in then]
    lines += [(one, ONLY_NOW) for one in now if not any(one.overlaps(other) for other in then)]
    for one, which in sorted(lines, key=lambda line: (line[0].raised, line[0].key, line[0].rule)):
        yield {
            "which": which, "raised": _moment(one.raised), "key": one.key, "rule": one.rule, "severity": one.severity,
            "label": one.label, "message": one.message,
        }  # fmt: skip


def _by_day(then: Sequence[Occurrence], now: Sequence[Occurrence]) -> Iterator[dict[str, Any]]:
    counts = [Counter(f"{_moment(one.raised):%Y-%m-%d}" for one in side) for side in (then, now)]
    for day in sorted({*counts[0], *counts[1]}):
        yield {"day": day, "then": counts[0][day], "now": counts[1][day]}


def _in_words(
    lines: Sequence[dict[str, Any]], then: Sequence[Occurrence], now: Sequence[Occurrence], days: float
) -> str:
    which = Counter(line["which"] for line in lines)
    gone = Counter(line["label"] for line in lines if line["which"] == ONLY_THEN)
    text = (
        f"then {len(then)} alarms ({len(then) / days:.3g} a day), now {len(now)} ({len(now) / days:.3g} a day): "
        f"{which[BOTH]} of then ring again, {which[ONLY_THEN]} only then, {which[ONLY_NOW]} only now"
    )
    if gone["true"] or gone["false"]:
        text += f"; of those only then {gone['false']} are labelled false and {gone['true']} true"
    return text


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    return pa.table({name: [row[name] for row in rows] for name in columns})


def _moment(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1e6, UTC)


def _time(option: str, text: str | None) -> int | None:
    import pyarrow as pa

    from tocsin.values.times import parse_times

    if text is None:
        return None
    parsed, _ = parse_times(pa.array([text]), "auto", "UTC")
    if parsed.null_count:
        raise ConfigError(f"{option} {text}: write it as 2026-01-31 or 2026-01-31T06:00:00Z")
    return int(parsed.cast(pa.int64())[0].as_py())
