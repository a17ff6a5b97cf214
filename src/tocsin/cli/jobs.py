"""The command line's part for what is done to a schedule: loads, and housekeeping."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="A.B=VALUE", help="Override a setting of the file.")
@click.option("--run", "name", metavar="JOB", help="Do one job now, with its retries, and end.")
@click.option("--status", is_flag=True, help="Say when each job is due, and how it ended last.")
def jobs(file: Path, settings: tuple[str, ...], name: str | None, status: bool) -> None:
    """Do the jobs of a pipeline file at their times, until Ctrl-C: tocsin jobs plant.yaml

    Each job is a process of its own, one after the other; it may work beside a pipeline that runs. After a failure it
    is tried again, as its settings say; a time that has passed meanwhile is left out.
    """
    from tocsin.cli.schedule import Schedule

    schedule = Schedule(file, settings)
    if status:
        from tocsin.cli.tables import show

        show(schedule.table())
    elif name is not None:
        schedule.do(name)
    else:
        schedule.keep()
