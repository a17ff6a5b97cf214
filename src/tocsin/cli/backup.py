"""The command line's part for backups of a pipeline's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tocsin.cli.options import folder_option

if TYPE_CHECKING:
    from tocsin.engine.backup import Manifest


@click.command()
@click.argument("to", type=click.Path(path_type=Path))
@folder_option
def backup(to: Path, folder: Path) -> None:
    """Copy a pipeline's folder to TO: tables, state and audit of the same epoch, also while it runs.

    TO appears when all of it is there and durable. What lies elsewhere (buckets, databases, brokers) is not copied.
    """
    from tocsin.engine.backup import backup as back_up

    click.echo(f"{to}: {_told(back_up(folder, to))}", err=True)


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("tocsin-data"), show_default=True,
    help="Where the pipeline's folder is to be; nothing may be there.",
)  # fmt: skip
def restore(source: Path, folder: Path) -> None:
    """Put a backup back; every file is held against its checksum. The pipeline then goes on from its epoch."""
    from tocsin.engine.backup import restore as put_back

    click.echo(f"{folder}: {_told(put_back(source, folder))}", err=True)


def _told(made: Manifest) -> str:
    return f"epoch {made.epoch}, {len(made.files):,} files, {made.bytes / 1e6:,.1f} MB"
