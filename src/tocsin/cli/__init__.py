"""The command line. Data goes to stdout, all else to stderr; 0 is success, 1 failure, 2 a mistake of the user."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from tocsin import __version__
from tocsin.cli.access import access, audit
from tocsin.cli.alarms import alarms
from tocsin.cli.backup import backup, restore
from tocsin.cli.certs import certs
from tocsin.cli.edge import deploy, edge
from tocsin.cli.explain import explain
from tocsin.cli.flink import flink, run_on_flink
from tocsin.cli.flink import refuse as refuse_on_flink
from tocsin.cli.import_influxdb import influxdb
from tocsin.cli.jobs import jobs
from tocsin.cli.logs import Format, Level, configure
from tocsin.cli.mcp import mcp
from tocsin.cli.models import models, train
from tocsin.cli.options import folder_option, form_option, set_option, settings_of
from tocsin.cli.replay import replay
from tocsin.cli.serve import page_address, page_options, serve_tables
from tocsin.cli.watching import init, watch
from tocsin.errors import ConfigError, TocsinError

if TYPE_CHECKING:
    import pyarrow as pa

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


main.add_command(access)
main.add_command(alarms)
main.add_command(audit)
main.add_command(backup)
main.add_command(certs)
main.add_command(restore)
main.add_command(jobs)
models.add_command(deploy)
main.add_command(models)
main.add_command(edge)
main.add_command(mcp)
main.add_command(replay)
main.add_command(explain)
main.add_command(flink)
main.add_command(train)
main.add_command(watch)
main.add_command(init)


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
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@set_option
@click.option(
    "--on",
    "runner",
    type=click.Choice(["flink"]),
    help="Refuse what cannot run there, where keys are spread over machines.",
)
@click.option("--expand", is_flag=True, help="Print the file with the streams that its block watch: stands for.")
def check(files: tuple[Path, ...], settings: tuple[str, ...], runner: str | None, expand: bool) -> None:
    """Check a pipeline whole before any data flows: every setting, every column after every step.

    Where it has run before, also tells what a start would keep of its state, and what it would forget.

    Also takes anomaly jobs and detector models (JSON).
    """
    for file in files:
        if file.suffix == ".json":
            click.echo(_check_json(file))
            continue
        from tocsin.engine.recovery import Effects, check_ends, check_tables
        from tocsin.pipeline.yamlfile import expanded, load_with_plan

        _, plan = load_with_plan(file, settings_of(settings))
        check_ends(plan, Effects())
        check_tables(plan, Effects())
        if runner is not None:
            refuse_on_flink(plan)
        if expand:
            click.echo(expanded(file), nl=False)
            click.echo(f"{file}: right", err=True)
            continue
        for origin in plan.sources:
            click.echo(f"{origin.id}: {_columns(origin.schemas['out'])}")
        for step in plan.steps:
            click.echo(f"{step.id}: {_columns(step.schemas['out'])}")
        click.echo(f"{file}: right", err=True)
        for sentence in _beside_workers(plan):
            click.echo(f"{file}: {sentence}", err=True)
        for sentence in _beside_its_state(plan):
            click.echo(f"{file}: {sentence}", err=True)


def _beside_workers(plan: Plan) -> Iterator[str]:
    """What several workers share, and which steps take each batch whole."""
    from tocsin.engine.shards import why_whole

    if plan.workers > 1:
        whole = {step.id: why for step in plan.steps if (why := why_whole(step.operator))}
        by_key = [step.id for step in plan.steps if step.id not in whole]
        yield f"{plan.workers} workers: up to {plan.workers} batches are in the steps at once, one in each step"
        if by_key:
            yield f"{', '.join(by_key)}: where costly, the rows of a batch are shared out by key"
        yield from (f"{id}: takes each batch whole: {why}" for id, why in whole.items())


def _beside_its_state(plan: Plan) -> Iterator[str]:
    """What a start would keep of the state that there is, and what it would forget."""
    from tocsin.engine.fitting import fit_beforehand

    fitted = fit_beforehand(plan)
    if fitted is None:
        return
    if fitted.kept:
        yield f"a start goes on with what {', '.join(sorted(fitted.kept))} remembered in {plan.state_folder}"
    yield from fitted.sentences()
    if (mismatch := fitted.mismatch(plan.state_folder)) is not None:
        yield mismatch


def _check_json(file: Path) -> str:
    import json

    try:
        tree = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read as JSON ({error})") from error
    if isinstance(tree, dict) and {"analysis_config", "job_id", "job", "job_config", "jobs"} & tree.keys():
        from tocsin.detect.job import load_job

        load_job(file)
        return f"{file}: a right anomaly job"
    from tocsin.notify.detector_model import load_model

    load_model(file)
    return f"{file}: a right detector model"


def _columns(schema: pa.Schema) -> str:
    from tocsin.batch import in_words

    return ", ".join(f"{field.name}: {in_words(field.type)}" for field in schema)


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
    for place, table in preview_plan(plan, sample, wait):
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


@main.command()
@click.argument("job", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="CSV, NDJSON or Parquet, by its suffix."
)
@click.option("--time", metavar="COL", help="The column with the time; else one of a usual name.")
@click.option("--value", metavar="COL", help="The column to judge; else 'value'.")
@click.option("--key", metavar="COL", help="The column that tells series apart; else all rows are one series.")
@click.option("--decimal", type=click.Choice([",", "."]), help="What stands before decimals; else it is guessed.")
@click.option("--format", metavar="FORMAT", help="How times are written, as '%d.%m.%Y %H:%M:%S'.")
@click.option("--zone", default="UTC", show_default=True, metavar="ZONE", help="Of times that name none.")
@click.option("--encoding", metavar="NAME", help="As cp1252; else UTF-8, or UTF-16 by its mark.")
@click.option("--skip", multiple=True, type=click.IntRange(1), metavar="LINE", help="A line of the file to leave out.")
def score(
    job: Path, data: Path, out: Path, time: str | None, value: str | None, key: str | None,
    decimal: str | None, format: str | None, zone: str, encoding: str | None, skip: tuple[int, ...],
) -> None:  # fmt: skip
    """Run a detector (YAML, or its bare name) or an anomaly job (JSON) over a file, as a stream."""
    from tocsin.cli.data_file import Writing
    from tocsin.cli.score import score as score_file

    writing = Writing(decimal, encoding, skip, format, zone)
    click.echo(f"{score_file(job, data, out, time, value, key, writing)} rows in {out}", err=True)


@main.command()
@click.argument("job", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write the report with its charts here, as HTML.")
@click.option("--since", metavar="TIME", help="Readings before this only teach; else those of the first half.")
@click.option("--time", metavar="COL", help="The column with the time; else one of a usual name.")
@click.option("--value", metavar="COL", help="The column to forecast, if the step does not say.")
@click.option("--key", metavar="COL", help="The column that tells series apart; else all rows are one series.")
@folder_option
@click.option("--table", default="alarms", show_default=True, help="The table with the labelled alarms.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def backtest(
    job: Path,
    data: Path,
    out: Path | None,
    since: str | None,
    time: str | None,
    value: str | None,
    key: str | None,
    folder: Path,
    table: str,
    form: str,
) -> None:
    """How good a forecast (YAML steps that end with forecast or model, or its bare name) would have been over a file.

    Beside it stand the last reading and, with a season, the reading one season before, on the same readings; beside a
    trained model also ridge, which needs no training. A model is judged by what comes after its training only. Steps
    that end with alarm are judged by the labels in the table of alarms, and a better limit is proposed in words. Steps
    that end with failure_probability are judged by the file's column that the model foretells, beside plain methods.
    """
    from tocsin.cli.backtest import backtest as run_backtest
    from tocsin.cli.backtest_alarms import backtest_alarms
    from tocsin.cli.backtest_failure import backtest_failure
    from tocsin.cli.score import ends_with
    from tocsin.cli.tables import show, write
    from tocsin.estimate.failure_probability import FailureProbability
    from tocsin.notify.alarm import Alarm

    if ends_with(job, Alarm):
        if out is not None:
            raise ConfigError(
                f"-o {out}: there is a report of forecasts only; --format json gives the figures of alarms"
            )
        judged, sentences = backtest_alarms(job, data, folder, table, since, time, value, key)
        write(judged, form)
        for sentence in sentences:
            click.echo(sentence, err=True)
        return
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"-o {out}: there is no folder {out.absolute().parent}; make it first")
    made = (
        backtest_failure(job, data, since, time, key)
        if ends_with(job, FailureProbability)
        else run_backtest(job, data, since, time, value, key)
    )
    for title, figures in made.tables():
        if form == "table":
            show(figures, title)
        else:
            write(figures, form)
    click.echo(made.verdict(), err=True)
    if out is not None:
        from tocsin.cli.backtest_page import page

        out.write_text(page(made, data.name), encoding="utf-8")
        click.echo(f"report in {out}", err=True)


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
