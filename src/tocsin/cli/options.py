"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

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
