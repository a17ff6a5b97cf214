"""The command line's part for accounts, tokens and the audit."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from tocsin.cli.options import folder_option, form_option
from tocsin.domain.roles import ROLES
from tocsin.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from tocsin.serve.accounts import Accounts

P = ParamSpec("P")
R = TypeVar("R")
_DAYS_MAX = 3650


def _role(command: Callable[P, R]) -> Callable[P, R]:
    return click.option("--role", type=click.Choice(ROLES), required=True, help="Each may what those before it may.")(
        command
    )


@click.group()
def access() -> None:
    """Say who may use the page and its API: accounts with a password, tokens for programs, each with a role."""


@access.command()
@click.argument("name")
@_role
@folder_option
def add(name: str, role: str, folder: Path) -> None:
    """Make an account. The password is asked for, or is the first line of stdin where that is no terminal."""
    accounts = _accounts(folder)
    accounts.add(name, role, _password())
    click.echo(f"{name} may sign in as {role} to the pipeline that writes to {folder}", err=True)


@access.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), help="The new role.")
@click.option("--password", is_flag=True, help="Give it a new password, asked for as with add.")
@folder_option
def change(name: str, role: str | None, password: bool, folder: Path) -> None:
    """Give an account another role, or a new password, which ends its sessions."""
    if role is None and not password:
        raise ConfigError("say what to change: --role ROLE, --password, or both")
    accounts = _accounts(folder)
    accounts.change(name, role, _password() if password else None)
    click.echo(f"{name} is changed", err=True)


@access.command()
@click.argument("name")
@_role
@click.option("--days", type=click.IntRange(1, _DAYS_MAX), default=90, show_default=True, help="When it expires.")
@folder_option
def token(name: str, role: str, days: int, folder: Path) -> None:
    """Make a token for a program, and print it: it is shown only now."""
    expires_us = time.time_ns() // 1000 + days * 86_400_000_000
    click.echo(_accounts(folder).add_token(name, role, expires_us))
    click.echo(
        f"{name}: {role} for {days} days; send it as 'Authorization: Bearer ...'; it counts in {folder}", err=True
    )


@access.command()
@click.argument("name")
@folder_option
def remove(name: str, folder: Path) -> None:
    """Remove an account or a token; what it has opened ends at once."""
    accounts = _accounts(folder)
    accounts.remove(name)
    click.echo(f"{name} is removed", err=True)
    if not accounts.are_there():
        click.echo(
            "nobody is left: a page on 127.0.0.1 without --token is open to whoever is on this computer", err=True
        )


@access.command("list")
@form_option
@folder_option
def list_(form: str, folder: Path) -> None:
    """The accounts and tokens, with their roles."""
    import pyarrow as pa

    from tocsin.cli.tables import write

    columns = list(zip(*_accounts(folder).listed(), strict=True)) or [(), (), (), (), ()]
    names = ("name", "kind", "role", "made", "expires")
    kinds = (pa.string(), pa.string(), pa.string(), *(pa.timestamp("us", "UTC"),) * 2)
    listed = {
        n: pa.array(c, pa.int64() if k not in (pa.string(),) else k).cast(k)
        for n, c, k in zip(names, columns, kinds, strict=True)
    }
    write(pa.table(listed), form)


@click.group()
def audit() -> None:
    """Who has done what; and whether anybody has tampered with the record of it."""


@audit.command("list")
@click.option("--rows", type=click.IntRange(1), default=100, show_default=True, help="How many, the newest first.")
@form_option
@folder_option
def list_audit(rows: int, form: str, folder: Path) -> None:
    """The newest rows of the audit."""
    from tocsin.cli.tables import write
    from tocsin.engine.audit import newest

    write(_table(newest(_state(folder), rows)), form)


@audit.command()
@click.option("--noted", default="", metavar="NUMBER:HASH", help="A head noted earlier, which must still be there.")
@folder_option
def verify(noted: str, folder: Path) -> None:
    """Check the chain of hashes; names the first row that was changed, removed or inserted, and exits with 1.

    Prints its head, NUMBER:HASH. Who can write the folder can make the whole chain anew; a head that is noted elsewhere
    shows that, too.
    """
    from tocsin.engine.audit import verify as verified

    verdict = verified(_state(folder), noted)
    if verdict.fault:
        click.echo(f"{verdict.fault}; the {verdict.rows:,} rows before are as they were written", err=True)
        raise SystemExit(1)
    click.echo(verdict.head)
    click.echo(f"all {verdict.rows:,} rows are as they were written; note the head elsewhere", err=True)


def _table(rows: object) -> pa.Table:
    import pyarrow as pa

    from tocsin.engine.audit import AuditRow

    assert isinstance(rows, list)
    names = ("number", "who", "role", "through", "what", "subject", "details", "hash")
    columns = {name: pa.array([getattr(row, name) for row in rows]) for name in names}
    times = pa.array([row.time_us for row in rows if isinstance(row, AuditRow)], pa.int64())
    return pa.table(columns).add_column(1, "time", times.cast(pa.timestamp("us", "UTC")))


def _state(folder: Path) -> Path:
    return folder / ".state"


def _accounts(folder: Path) -> Accounts:
    from tocsin.serve.accounts import Accounts

    if not folder.parent.is_dir():
        raise ConfigError(f"there is no folder {folder.parent}; say which with --folder")
    return Accounts(_state(folder))


def _password() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")
