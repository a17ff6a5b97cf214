"""The command line's part for models: which there are, which is followed, and how two versions differ."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from tocsin.cli.options import form_option
from tocsin.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")


@click.group()
def models() -> None:
    """See the trained models, and say which version is followed: promote, roll back."""


def _store(command: Callable[P, R]) -> Callable[P, R]:
    return click.option(
        "--store", "folder", type=click.Path(path_type=Path), default=Path("models"), show_default=True,
        help="The folder that models are kept in.",
    )(command)  # fmt: skip


@models.command("list")
@_store
@form_option
def list_(folder: Path, form: str) -> None:
    """All versions of all models, how good each is beside its baseline, and which is the champion."""
    import pyarrow as pa

    from tocsin.cli.tables import write
    from tocsin.models.store import Store

    store = Store(folder)
    rows: list[dict[str, Any]] = []
    for name in store.names():
        champion = store.champion(name)
        for version in store.versions(name):
            manifest = store.show(name, version)
            best = manifest.best_baseline
            rows.append(
                {
                    "model": name,
                    "version": version,
                    "champion": "*" if version == champion else "",
                    "kind": manifest.kind,
                    "judged_by": manifest.judged_by,
                    "figure": manifest.metrics.get(manifest.judged_by),
                    "baseline": best and best[1],
                    "better": "yes" if manifest.is_better else "NO",
                    "created": manifest.created,
                }
            )
    if not rows:
        click.echo(f"there are no models in {folder.absolute()}; make one: tocsin train FILE", err=True)
        return
    write(pa.Table.from_pylist(rows), form)


@models.command()
@_store
@click.argument("name")
@click.argument("version", type=int, required=False)
def show(folder: Path, name: str, version: int | None) -> None:
    """The manifest of a version (the champion, or else the newest), after its files were checked."""
    from tocsin.models.store import Store

    store = Store(folder)
    manifest = store.show(name, version if version is not None else store.champion(name))
    store.files(name, manifest.version)
    click.echo(manifest.to_json(), nl=False)
    click.echo(manifest.verdict(), err=True)


@models.command()
@_store
@click.argument("name")
@click.argument("version", type=int)
@click.option("--force", is_flag=True, help="Also where it does not beat its baseline.")
def promote(folder: Path, name: str, version: int, force: bool) -> None:
    """Make a version the champion: whoever infers follows it from the next batch on."""
    from tocsin.models.store import Store

    Store(folder).promote(name, version, force=force)
    click.echo(f"{name} {version} is the champion", err=True)


@models.command()
@_store
@click.argument("name")
def rollback(folder: Path, name: str) -> None:
    """Go back to the champion before this one."""
    from tocsin.models.store import Store

    click.echo(f"{name} {Store(folder).rollback(name)} is the champion again", err=True)


@models.command()
@_store
@click.argument("name")
@click.argument("one", type=int)
@click.argument("other", type=int)
def diff(folder: Path, name: str, one: int, other: int) -> None:
    """What differs between two versions: data, settings, figures, files."""
    from tocsin.models.store import Store

    for place, (left, right) in Store(folder).diff(name, one, other).items():
        click.echo(f"{place}: {json.dumps(left)} -> {json.dumps(right)}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="A.B=VALUE", help="Override a setting, as model.units=64.")
@click.option("--promote", is_flag=True, help="Follow it at once, if it beats its baseline.")
def train(file: Path, settings: tuple[str, ...], promote: bool) -> None:
    """Train a model from a file (its kind, data set, settings), prove it, and keep it as a new version.

    Interrupted, it goes on where it was when it is started again.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from tocsin.models.store import Store
    from tocsin.models.training import read_training

    if strange := [pair for pair in settings if "=" not in pair]:
        raise ConfigError(f"--set {strange[0]}: write it as place=value, such as --set model.units=64")
    training = read_training(file, dict(pair.split("=", 1) for pair in settings))
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[loss]}")
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(training.name, total=1.0, loss="")
        manifest = training.run(lambda share, loss: bar.update(task, completed=share, loss=_said(loss)))
        bar.update(task, completed=1.0)
    click.echo(json.dumps({"model": manifest.name, "version": manifest.version, **manifest.metrics}))
    click.echo(manifest.verdict(), err=True)
    if promote:
        Store(training.store).promote(manifest.name, manifest.version)
        click.echo(f"{manifest.name} {manifest.version} is the champion", err=True)
    else:
        click.echo(
            f"follow it: tocsin models promote {manifest.name} {manifest.version} --store {training.store}", err=True
        )


def _said(loss: float) -> str:
    return "" if math.isnan(loss) else f"loss {loss:.5f}"
