"""`tocsin check`: a file, whole, before any data flows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tocsin.cli.flink import refuse as refuse_on_flink
from tocsin.cli.options import set_option, settings_of
from tocsin.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from tocsin.pipeline.plan import Plan


@click.command()
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
