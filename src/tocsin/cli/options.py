"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from tocsin.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")


def folder_option(command: Callable[P, R]) -> Callable[P, R]:
    """Returns a command that is told by ``--folder`` where the tables and the state are."""
    return click.option(
        "--folder", type=click.Path(path_type=Path), default=Path("tocsin-data"), show_default=True,
        help="The folder that the pipeline writes to.",
    )(command)  # fmt: skip


def form_option(command: Callable[P, R]) -> Callable[P, R]:
    """Returns a command that is told by ``--format`` how to print a table."""
    return click.option(
        "--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
    )(command)


def set_option(command: Callable[P, R]) -> Callable[P, R]:
    """Returns a command whose pipeline may be told other settings than those of its file."""
    return click.option(
        "--set", "settings", multiple=True, metavar="A.B=VALUE", envvar="TOCSIN_SET", show_envvar=True,
        help="Override a setting of the file, such as folder=/data.",
    )(command)  # fmt: skip


def settings_of(pairs: Sequence[str]) -> dict[str, str]:
    """Returns what was given by ``--set``, by place."""
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--set {pair}: write it as place=value, such as --set checkpoint=5s")
    return dict(pair.split("=", 1) for pair in pairs)
