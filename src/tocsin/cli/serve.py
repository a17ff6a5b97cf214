"""`tocsin serve`: the page of a pipeline that runs elsewhere, over the tables that it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from tocsin.pipeline.model import Pipeline
    from tocsin.serve.access import Address

P = ParamSpec("P")
R = TypeVar("R")


def page_options(command: Callable[P, R]) -> Callable[P, R]:
    """Returns a command that is told where its page listens, and by whom it may be asked."""
    for option in (
        click.option("--allowed-host", multiple=True, help="A further name by which browsers may ask for the page."),
        click.option(
            "--token",
            help="Of an admin, where there is no account; better set as TOCSIN_RUN_TOKEN, TOCSIN_SERVE_TOKEN.",
        ),
        click.option("--tls-key", type=click.Path(path_type=Path)),
        click.option(
            "--tls-cert", type=click.Path(path_type=Path), help="Needed where the page listens to other machines."
        ),
        click.option("--port", default=8321, show_default=True),
        click.option("--host", default="127.0.0.1", show_default=True, help="Where the page listens."),
    ):
        command = option(command)
    return command


def page_address(
    pipeline: Pipeline, state_folder: Path, host: str, port: int, tls_cert: Path | None, tls_key: Path | None,
    token: str | None, allowed_host: Sequence[str],
) -> Address:  # fmt: skip
    """Returns where the page of a pipeline is; `ConfigError` where it would be open to whoever comes."""
    from tocsin.serve.access import Address
    from tocsin.serve.accounts import Accounts
    from tocsin.serve.oidc import Provider

    oidc = pipeline.page.oidc
    return Address(
        host=host, port=port, tls_cert=tls_cert, tls_key=tls_key, token=token, allowed_hosts=tuple(allowed_host),
        has_accounts=Accounts(state_folder).are_there(),
        provider=None if oidc is None else Provider(**oidc.model_dump(), url=pipeline.page.url),
    )  # fmt: skip


def serve_tables(
    file: Path, settings: dict[str, str], host: str, port: int, tls_cert: Path | None, tls_key: Path | None,
    token: str | None, allowed_host: Sequence[str],
) -> None:  # fmt: skip
    """Serve the page over the tables of a pipeline, until Ctrl-C."""
    from tocsin.engine.wire import streams_of
    from tocsin.pipeline.yamlfile import load_with_plan
    from tocsin.serve.app import serve
    from tocsin.serve.naming import plant_of
    from tocsin.serve.outline import outline

    pipeline, plan = load_with_plan(file, settings)
    address = page_address(pipeline, plan.state_folder, host, port, tls_cert, tls_key, token, allowed_host)
    serve(
        plan.state_folder, plan.folder, address, title=plan.name, streams=streams_of(plan, pipeline.page.streams),
        plant=plant_of(plan), outline=outline(plan), follow=True,
        ready=lambda: click.echo(f"{plan.name}: the page is at {address.url}", err=True),
    )  # fmt: skip
