"""The command line. Data goes to stdout, all else to stderr; 0 is success, 1 failure, 2 a mistake of the user."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from tocsin import __version__
from tocsin.cli.access import access, audit
from tocsin.cli.alarms import alarms
from tocsin.cli.backup import backup, restore
from tocsin.cli.certs import certs
from tocsin.cli.checking import check
from tocsin.cli.edge import deploy, edge
from tocsin.cli.explain import explain
from tocsin.cli.flink import flink, run_on_flink
from tocsin.cli.import_influxdb import influxdb
from tocsin.cli.jobs import jobs
from tocsin.cli.logs import Format, Level, configure
from tocsin.cli.mcp import mcp
from tocsin.cli.models import models, train
from tocsin.cli.options import folder_option, form_option, set_option, settings_of
from tocsin.cli.replay import replay
from tocsin.cli.scoring import backtest, score
from tocsin.cli.serve import page_address, page_options, serve_tables
from tocsin.cli.watching import init, watch
from tocsin.errors import ConfigError, TocsinError

if TYPE_CHECKING:
    from tocsin.pipeline.model import Pipeline
    from tocsin.pipeline.plan import Plan

P = ParamSpec("P")
R = TypeVar("R")


class _Commands(click.Group):
    """Expected trouble ends in one sentence, not in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TocsinError as error:
            click.echo(f"tocsin: {error}", err=True)
            ctx.exit(2 if isinstance(error, ConfigError) else 1)
        except BrokenPipeError:
            # The reader of our output has gone (`| head`): nothing is left to say.
            sys.stderr.close()
            ctx.exit(0)
        except OSError as error:
            click.echo(f"tocsin: {error.filename or 'the system'}: {error.strerror or error}", err=True)
            ctx.exit(1)


def _version(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    """Tell the version, and the commit that it was built from."""
    if asked:
        from tocsin.serve.built import built

        click.echo(f"tocsin, version {__version__} ({built()})")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "TOCSIN"})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Say which it is.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="json: an object each line.")
def main(log_level: Level, log_format: Format) -> None:
    """tocsin listens to machines while they run: what is abnormal, what has stopped, what will fail."""
    configure(log_level, log_format)


models.add_command(deploy)
for _command in (
    access, alarms, audit, backtest, backup, certs, check, edge, explain, flink, init, jobs, mcp, models, replay,
    restore, score, train, watch,
):  # fmt: skip
    main.add_command(_command)


def _file(command: Callable[P, R]) -> Callable[P, R]:
    return click.argument("file", type=click.Path(path_type=Path))(command)


@main.command()
@click.option("--port", default=8321, show_default=True, help="Where the page is.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("tocsin-data"), show_default=True)
def demo(port: int, folder: Path) -> None:
    """Watch this computer and a small simulated plant, live, on a page in the browser."""
    from tocsin.cli.demo import run_demo

    run_demo(folder, port)


@main.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@set_option
@folder_option
def doctor(file: Path | None, settings: tuple[str, ...], folder: Path) -> None:
    """Say what will make trouble here: clock, disk, syncs, permissions, certificates, peers; and what to do about it.

    With a pipeline file also what it names: nothing is opened or changed. Exits with 1 where something makes trouble.
    """
    from tocsin.cli.doctor import report
    from tocsin.pipeline.yamlfile import load_with_plan

    plan = load_with_plan(file, settings_of(settings))[1] if file is not None else None
    if not report(plan, folder if plan is None else plan.folder):
        raise SystemExit(1)


@main.command()
@_file
@set_option
@click.option("--forget", multiple=True, metavar="STEP", help="Let a step start anew, or a source be read anew.")
@click.option("--forget-changed", is_flag=True, help="Let all steps start anew whose state no longer fits.")
@click.option("--page/--no-page", default=False, help="Serve the live page beside the pipeline.")
@page_options
@click.option("--on", "runner", type=click.Choice(["flink"]), help="Run it on a cluster of Apache Flink, not here.")
@click.option(
    "--jobmanager", default="localhost:8081", show_default=True, help="With --on flink: where the cluster is."
)
@click.option("--parallelism", type=click.IntRange(1), help="With --on flink: over how many slots keys are spread.")
def run(
    file: Path,
    settings: tuple[str, ...],
    forget: tuple[str, ...],
    forget_changed: bool,
    page: bool,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    token: str | None,
    allowed_host: tuple[str, ...],
    runner: str | None,
    jobmanager: str,
    parallelism: int | None,
) -> None:
    """Run a pipeline to the end of its sources, or until Ctrl-C; started again it goes on exactly where it was.

    What a step has learned is kept while its limits, rules and texts change. Where another change means that it must
    start anew, this stops and says which; everything else goes on in any case. On SIGHUP it goes on with the file as it
    is then; a file that is wrong changes nothing.
    """
    from tocsin.engine.fitting import CHANGED

    if runner is not None:
        if page:
            raise ConfigError(f"--page is not for --on flink; serve it beside the job: tocsin serve {file}")
        run_on_flink(file, settings_of(settings), jobmanager, parallelism, CHANGED if forget_changed else forget)
        return
    from tocsin.cli.launch import launch
    from tocsin.cli.reload import Reload
    from tocsin.pipeline.yamlfile import load_with_plan

    load = partial(load_with_plan, file, settings_of(settings))
    reload = Reload(load)
    taken: tuple[Pipeline, Plan] | None = load()
    anew = CHANGED if forget_changed else forget
    with reload.on_signal():
        while taken is not None:
            pipeline, plan = taken
            address = None
            if page:
                address = page_address(pipeline, plan.state_folder, host, port, tls_cert, tls_key, token, allowed_host)
            launch(plan, pipeline.page.streams, address, anew, reload)
            taken, anew = reload.taken(), ()


@main.command()
@_file
@set_option
@page_options
def serve(
    file: Path,
    settings: tuple[str, ...],
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    token: str | None,
    allowed_host: tuple[str, ...],
) -> None:
    """Serve the live page of a pipeline that runs elsewhere, as on a cluster, over the tables that it writes."""
    serve_tables(file, settings_of(settings), host, port, tls_cert, tls_key, token, allowed_host)


@main.command()
@_file
@set_option
@click.option("--rows", default=5, show_default=True, help="Rows to show after each step.")
@click.option("--sample", default=1_000, show_default=True, help="Records to take from each source.")
@click.option("--wait", default=10.0, show_default=True, help="Seconds to wait for a live source.")
def preview(file: Path, settings: tuple[str, ...], rows: int, sample: int, wait: float) -> None:
    """Show a sample of the rows after each step; nothing is written or acknowledged."""
    from tocsin.cli.tables import show
    from tocsin.engine.preview import preview as preview_plan
    from tocsin.pipeline.yamlfile import load_with_plan

    _, plan = load_with_plan(file, settings_of(settings))
    places = {f"{origin.id}.{origin.source.name()}" for origin in plan.sources}
    for place, table in preview_plan(plan, sample, wait):
        if place in places and not len(table):
            click.echo(f"{place}: no row came within {wait:g} s (--wait)", err=True)
        show(table.slice(0, rows), f"{place}: {table.num_rows} rows")


@main.command()
@click.argument("name", required=False)
@click.option("--markdown", is_flag=True, help="The whole reference (docs/reference.md).")
def components(name: str | None, markdown: bool) -> None:
    """List the parts that there are, or show one with its settings and an example."""
    from tocsin.pipeline import reference

    if markdown:
        click.echo(reference.markdown(), nl=False)
    else:
        click.echo(reference.page(name) if name else reference.overview())


@main.command()
@click.argument("sql")
@folder_option
@click.option("--table", "elsewhere", multiple=True, metavar="NAME=ADDRESS", help="A table at s3://bucket/table ...")
@form_option
def query(sql: str, folder: Path, elsewhere: tuple[str, ...], form: str) -> None:
    """Ask the tables with SQL: tocsin query "select key, count(*) from readings group by key"."""
    from tocsin.cli.tables import write
    from tocsin.lake.read import query as ask

    if strange := [one for one in elsewhere if not one.partition("=")[2]]:
        raise ConfigError(f"--table {strange[0]}: write a name and an address, as readings=s3://bucket/readings")
    write(ask(sql, folder, elsewhere={one.partition("=")[0]: one.partition("=")[2] for one in elsewhere}), form)


@main.command()
@click.argument("table")
@folder_option
def repair(table: str, folder: Path) -> None:
    """Let a table go on without data files that were deleted: what it lists and does not have, it lists no longer."""
    from tocsin.lake.read import repair as repair_table

    rows = repair_table(table, folder)
    for path, count in rows.items():
        click.echo(f"{path}: gone, with {count:,} rows", err=True)
    click.echo(f"{table}: {f'goes on without {len(rows)} files' if rows else 'no file is gone'}", err=True)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seconds", default=3600, show_default=True, help="How many files to write, one a second.")
@click.option("--fast", is_flag=True, help="All at once, instead of one a second.")
@click.option("--seed", default=1, show_default=True)
def simulate(folder: Path, seconds: int, fast: bool, seed: int) -> None:
    """Write the XML files of a SCARA robot; ten minutes on, and every hour, something blocks it for a minute."""
    from tocsin.acquire.simulate import Fault, write_scara_xml

    blocked = [
        Fault.model_validate({"name": "blocked_valve", "machine": "scara", "start": f"{at}s", "duration": "60s"})
        for at in range(600, seconds, 3600)
    ]
    count = write_scara_xml(folder, seconds, seed, rate=0.0 if fast else 1.0, faults=tuple(blocked))
    click.echo(f"{count} files in {folder}", err=True)


@main.group("import")
def import_() -> None:
    """Bring what other systems have: detector models of AWS IoT Events, the history that an InfluxDB holds."""


import_.add_command(influxdb)


@import_.command("iot-events")
@_file
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path(), show_default="here", help="Where to write the files."
)
def iot_events(file: Path, folder: Path) -> None:
    """Detector models (JSON, or CloudFormation as JSON or YAML): each as plain JSON, with a pipeline that runs it."""
    from tocsin.notify.detector_model import import_model

    files = import_model(file)
    if there := [name for name in files if (folder / name).exists()]:
        raise ConfigError(f"{folder / there[0]} is there already; move it away, or write elsewhere with --folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        click.echo(folder / name)


@main.command()
def schema() -> None:
    """Print the JSON Schema of a pipeline file, for editors."""
    import json

    from tocsin.pipeline.reference import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
