"""The command line's part for alarms: list them, act on one, and how the alarm system is doing."""

from __future__ import annotations

import getpass
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from tocsin.cli.options import folder_option, form_option
from tocsin.domain.alarms import OPERATOR_ACTIONS, OperatorAction
from tocsin.errors import ConfigError, StateError

if TYPE_CHECKING:
    import pyarrow as pa

P = ParamSpec("P")
R = TypeVar("R")

SHOWN = (
    "id", "started", "key", "signal", "severity", "state", "mode", "label", "assignee", "message", "comment", "advice",
)  # fmt: skip
"""What a person wants to see of an alarm; the other formats have all columns."""
ALWAYS = ("id", "started", "key", "severity", "state", "message")
"""Of these, what is shown even if nothing stands there."""


@click.group()
def alarms() -> None:
    """See the alarms, and say what is done about one: acknowledge, shelve, suppress ..."""


@alarms.group()
def label() -> None:
    """Say whether an alarm was true or false; also of one that is over. Labels feed `tocsin backtest`."""


def _table(command: Callable[P, R]) -> Callable[P, R]:
    return click.option("--table", default="alarms", show_default=True, help="The table with the alarm rows.")(command)


@alarms.command("list")
@folder_option
@_table
@form_option
@click.option("--all", "everything", is_flag=True, help="Also those that are over.")
def list_(folder: Path, table: str, form: str, everything: bool) -> None:
    """The newest row of each alarm that is open or kept silent, latest first."""
    from tocsin.cli.tables import write
    from tocsin.serve.desk import list_alarms

    listed = list_alarms(folder, table=table, everything=everything)
    if form == "table":
        listed = listed.select([name for name in SHOWN if name in ALWAYS or _says(listed[name])])
    write(listed, form)


def _says(column: pa.ChunkedArray) -> bool:
    """Whether some alarm has something there: people need no columns in which nothing stands."""
    return any(value not in (None, "") for value in column.to_pylist())


@alarms.command()
@folder_option
@_table
@form_option
def kpis(folder: Path, table: str, form: str) -> None:
    """Alarms per ten minutes, chattering, stale, floods (ISA-18.2), over all rows of the table."""
    import pyarrow as pa

    from tocsin.cli.tables import write
    from tocsin.serve.desk import kpis as figures

    by_name = figures(folder, table=table)
    if form == "json":
        write(pa.Table.from_pylist([by_name]), form)
        return
    texts = [_text(value) for value in by_name.values()]
    write(pa.table({"figure": pa.array(by_name), "value": pa.array(texts)}), form)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "; ".join(_text(item) for item in value)
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _login() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return ""  # no such name here: `act` asks for one


def _add_command(action: OperatorAction) -> None:
    """Add the command that writes this action into the log that the running pipeline reads."""

    def command(
        alarm: str,
        folder: Path,
        table: str,
        by: str,
        reason: str = "",
        until: datetime | None = None,
        span: timedelta | None = None,
        person: str = "",
        text: str = "",
    ) -> None:
        if span is not None:
            if until is not None:
                raise ConfigError("say either --until or --for")
            until = datetime.now(UTC) + span
        _write_down(alarm, action.name, folder, table, by, reason or text, until, person)
        ending = f" until {until.isoformat(sep=' ', timespec='seconds')}" if until else person and f" to {person}"
        click.echo(f"{action.command} {alarm}{ending}, by {by}: the pipeline applies it with its next poll", err=True)

    command.__doc__ = f"{action.sentence}\n\nALARM is its id, or rule:key."
    built: Any = command
    given: list[Any] = [
        click.argument("alarm"),
        *([click.argument(action.asks)] if action.asks else []),
        folder_option,
        _table,
        click.option("--by", default=_login, show_default="your login name", help="Who does it."),
    ]
    if action.asks != "text":
        given.append(click.option("--reason", default="", help="Why; kept in the alarm's row."))
    if action.timed:
        given += [
            click.option(
                "--until",
                metavar="TIME",
                callback=_moment,
                help="A date and time; without a zone it is this computer's.",
            ),
            click.option("--for", "span", metavar="DURATION", callback=_span, help="How long, such as 1h or 30m."),
        ]
    for option in reversed(given):
        built = option(built)
    group, name = (label, action.labels) if action.labels else (alarms, action.command)
    group.command(name)(built)


def _write_down(
    alarm: str, action: str, folder: Path, table: str, by: str, reason: str, until: datetime | None, assignee: str
) -> None:
    from tocsin.serve.desk import act, check_known

    state_folder = folder / ".state"
    if not state_folder.is_dir():
        raise ConfigError(f"{folder} is no pipeline's folder: it has no .state; say which with --folder")
    name = check_known(folder, alarm, action, table=table)
    try:
        act(state_folder, name, action, by, reason, until, assignee=assignee)
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"{action} could not be written down in {state_folder}: {error}") from error


def _moment(ctx: click.Context, option: click.Parameter, text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no time; write it as 2026-01-31T18:00 or 2026-01-31T18:00Z") from error


def _span(ctx: click.Context, option: click.Parameter, text: str | None) -> timedelta | None:
    from tocsin.settings.quantities import duration_us

    try:
        return None if text is None else timedelta(microseconds=duration_us(text))
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error)) from error


for _action in OPERATOR_ACTIONS:
    _add_command(_action)
