"""The commands `tocsin watch` and `tocsin init`; what they do is imported when they are called."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click


@click.command()
@click.argument("source")
@click.argument("more", nargs=-1)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write; else tocsin-data/NAME.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the pipeline file that this stands for.")
@click.option("--machine", metavar="FIELD", help="The field that names the machine, if another than concluded.")
@click.option("--time", metavar="FIELD", help="The field with the time, likewise.")
@click.option("--zone", metavar="ZONE", help="The zone of times that name none, as Europe/Berlin.")
@click.option("--signals", metavar="A,B", help="The fields to judge, likewise.")
@click.option("--listen", default=5.0, show_default=True, help="Seconds to listen to a live source.")
@click.option("--page/--no-page", default=True, show_default=True, help="Serve the live page beside it.")
@click.option("--port", default=8321, show_default=True, help="Where the page is.")
def watch(
    source: str,
    more: tuple[str, ...],
    folder: Path | None,
    save: Path | None,
    machine: str | None,
    time: str | None,
    zone: str | None,
    signals: str | None,
    listen: float,
    page: bool,
    port: int,
) -> None:
    """Watch a source without a file: conclude its format, time, machines and signals, say why, and run.

    SOURCE is mqtt://broker/plant/#, kafka://broker/topic, postgresql://host/database/table, sqlite://plant.db/table,
    host, a file, a pattern or a folder. Over files it ends by itself, and says what it saw.
    """
    from tocsin.cli import compiling
    from tocsin.cli.launch import launch
    from tocsin.cli.sources import named_by
    from tocsin.cli.watch import SAVED, asked, checked, learnt, look, saved_lines, show, told_alarms, write_file
    from tocsin.infer.conclude import Hints

    named = named_by(source, more)
    folder = folder or Path("tocsin-data") / named.name
    hints = Hints(machine, time, tuple(signals.split(",")) if signals else (), zone)
    with compiling.told("tocsin watch"):
        seen = look(named, folder, hints, listen, asked if sys.stdin.isatty() else None)
        click.echo(f"tocsin watch: {named.name}", err=True)
        show(seen.lines)
        if save is not None:
            write_file(seen.text, save)
        pipeline, plan, sentence = checked(seen.text, folder, seen.sample)
    runs = f"health, alarms at a score of 75; tables in {folder}"
    show([*([("checked", sentence)] if sentence else []), ("runs", runs), *saved_lines(seen.text, save)])
    address = None
    if page:
        from tocsin.serve.access import Address

        address = Address(port=port)
    launch(plan, pipeline.page.streams, address)
    if named.is_files:
        click.echo(told_alarms(folder, plan.name, learnt(plan)))
        click.echo(f"  look at it on the page: tocsin serve {shlex.quote(str(folder / SAVED))}", err=True)


@click.command()
@click.argument("source", required=False)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write; else tocsin-data/NAME.")
def init(source: str | None, folder: Path | None) -> None:
    """Write a pipeline file in a dialogue: what is concluded of a source can be corrected before."""
    from tocsin.cli.watch import checked, dialogue, saved_lines, show, write_file

    seen, file, folder = dialogue(source, folder)
    write_file(seen.text, file)
    _, _, sentence = checked(seen.text, folder, seen.sample)
    show([("checked", sentence), *saved_lines(seen.text, file)])
    click.echo(f"tocsin run {file} --page", err=True)
