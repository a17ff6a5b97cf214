"""The command line's part for Apache Flink: a small cluster to try, and a pipeline run on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tocsin.cli.options import set_option, settings_of
from tocsin.errors import ConfigError

if TYPE_CHECKING:
    from tocsin.pipeline.plan import Plan


@click.group()
def flink() -> None:
    """A small Apache Flink cluster on this machine, for trying; needs pip install 'tocsin[flink]' and a JDK."""


def _place(command: Callable[..., Any]) -> Callable[..., Any]:
    folder = click.option(
        "--folder", type=click.Path(path_type=Path), default=Path("flink-cluster"), show_default=True,
        help="Its configuration, logs and process ids.",
    )  # fmt: skip
    port = click.option("--port", default=8081, show_default=True, help="Where the JobManager listens.")
    return folder(port(command))


@flink.command()
@_place
@click.option("--taskmanagers", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--slots", type=click.IntRange(1, 64), default=2, show_default=True, help="Of each TaskManager.")
def up(folder: Path, port: int, taskmanagers: int, slots: int) -> None:
    """Start a JobManager and TaskManagers, each some 400 MB; or those of them that do not run any more."""
    from tocsin.flink.cluster import Cluster

    Cluster(folder, port).up(taskmanagers, slots)
    click.echo(f"Flink at 127.0.0.1:{port}, with {taskmanagers * slots} slots; its logs are in {folder}/log", err=True)


@flink.command()
@_place
def down(folder: Path, port: int) -> None:
    """End the cluster; what its jobs had reached by their last checkpoints stays."""
    from tocsin.flink.cluster import Cluster

    ended = Cluster(folder, port).down()
    click.echo(f"ended: {', '.join(ended) or 'nothing, none was running'}", err=True)


@flink.command()
@_place
def status(folder: Path, port: int) -> None:
    """Say which processes run, how many slots are free, and what the jobs do; 1 where the cluster does not answer."""
    from tocsin.flink.cluster import Cluster

    cluster = Cluster(folder, port)
    for name in cluster.names():
        process = cluster.process(name)
        click.echo(f"{name}: {'has ended' if process is None else f'process {process.pid}'}")
    told = cluster.rest.overview()
    click.echo(f"slots: {told['slots-available']} of {told['slots-total']} free")
    for job in cluster.rest.jobs():
        click.echo(f"{job['name']}: {job['state']}, job {job['jid']}")


@flink.command()
@click.argument("file", type=click.Path(path_type=Path))
@set_option
def deliver(file: Path, settings: tuple[str, ...]) -> None:
    """Deliver the messages of a pipeline's job, until Ctrl-C; `tocsin run --on flink` does so while it waits.

    For a job that was submitted in another way: one process, anywhere where the pipeline's folder is seen.
    """
    from tocsin.engine.embedded import EmbeddedRunner
    from tocsin.flink.delivering import delivery
    from tocsin.pipeline.yamlfile import load_with_plan

    plan = delivery(load_with_plan(file, settings_of(settings))[1], follow=True)
    if not plan.sinks:
        raise ConfigError(f"{file} has no channel, so there is nothing to deliver")
    EmbeddedRunner(plan).run()


def refuse(plan: Plan) -> None:
    """Raises `ConfigError` that names what in a plan cannot run there."""
    from tocsin.engine.keyed import refusals

    if said := refusals(plan):
        raise ConfigError("\n".join(f"on flink: {one}" for one in said))


def run_on_flink(
    file: Path,
    settings: Mapping[str, str],
    jobmanager: str,
    parallelism: int | None,
    forget: Collection[str] | str = (),
) -> None:
    """Run a pipeline on a cluster to the end of its sources, or until Ctrl-C."""
    from tocsin.engine.recovery import Effects, check_ends, check_tables
    from tocsin.flink.runner import FlinkRunner
    from tocsin.pipeline.yamlfile import load_with_plan

    host, _, port = jobmanager.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--jobmanager {jobmanager}: write the address of its web interface, as localhost:8081")
    plan = load_with_plan(file, settings)[1]
    check_ends(plan, Effects())
    check_tables(plan, Effects())
    refuse(plan)
    FlinkRunner(file, settings, plan, jobmanager, parallelism, forget).run()
