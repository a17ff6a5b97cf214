"""`tocsin mcp`: what the tables hold, for an assistant that speaks the Model Context Protocol; it can only read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from tocsin.cli.options import folder_option
from tocsin.domain.roles import ENGINEER, VIEWER, reaches
from tocsin.errors import ConfigError, MissingExtra, TocsinError, UnknownName

INSTRUCTIONS = (
    "Readings, verdicts and alarms of machines. Every answer names the tables that it rests on, with their versions "
    "(rests_on): say these, the key and the time with whatever you state, and state nothing that no answer holds. "
    "Times are in UTC."
)
TOOL_ROLES: Mapping[str, str] = {
    "machines": VIEWER,
    "alarms": VIEWER,
    "evidence": VIEWER,
    "series": VIEWER,
    "sql": ENGINEER,
    "check": ENGINEER,
    "replay": ENGINEER,
}
"""What each tool needs over HTTP; a tool that does not stand here is none."""


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1)
@folder_option
@click.option("--http", is_flag=True, help="Over HTTP, to who has a token of `tocsin access token`.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens, with --http.")
@click.option("--port", default=8322, show_default=True)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Needed where it listens to other machines.")
@click.option("--tls-key", type=click.Path(path_type=Path))
@click.option("--allowed-host", multiple=True, help="A further name by which it may be asked.")
def mcp(
    files: tuple[Path, ...],
    folder: Path,
    http: bool,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    allowed_host: tuple[str, ...],
) -> None:
    """Answer an assistant (Model Context Protocol, over stdin and stdout) on what is in the lake; nothing is changed.

    FILES are pipelines that it may check and replay with other settings. Over HTTP a viewer's token has machines,
    alarms, evidence and series; an engineer's also sql, check and replay.
    """
    if not http:
        server(folder, files).run("stdio")
        return
    from tocsin.cli.mcp_http import serve
    from tocsin.serve.access import Address
    from tocsin.serve.accounts import Accounts

    state_folder = folder / ".state"
    address = Address(
        host=host, port=port, tls_cert=tls_cert, tls_key=tls_key, allowed_hosts=allowed_host,
        has_accounts=Accounts(state_folder).are_there(),
    )  # fmt: skip
    serve(
        state_folder,
        lambda role, told: server(folder, files, role, told),
        address,
        lambda url: click.echo(f"tocsin mcp: {url}", err=True),
    )


def server(
    folder: Path,
    files: Sequence[Path] = (),
    role: str = ENGINEER,
    told: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> Any:
    """Returns the server, an `mcp.server.MCPServer`, with what a role may ask.

    Each call of a tool that needs more than a viewer is ``told`` before it is done. Raises `MissingExtra` without the
    extra ``mcp``.
    """
    try:
        from mcp.server import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp.types import ToolAnnotations
    except ImportError:
        raise MissingExtra("mcp", "mcp", "tocsin mcp") from None
    import tocsin

    made = MCPServer("tocsin", instructions=INSTRUCTIONS, version=tocsin.__version__)

    def refusing(tool: Callable[..., Mapping[str, Any]], needs: str) -> Callable[..., Mapping[str, Any]]:
        """Turn what is expected to go wrong into one sentence for the assistant."""
        from functools import wraps

        @wraps(tool)
        def asked(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
            try:
                if told is not None and needs != VIEWER:
                    told(tool.__name__, kwargs)
                return tool(*args, **kwargs)
            except (TocsinError, ValueError) as error:
                raise ToolError(str(error)) from error

        return asked

    for tool in (*_of_lake(folder), *(_of_files(files) if files else ())):
        needs = TOOL_ROLES[tool.__name__]
        if reaches(role, needs):
            made.tool(annotations=ToolAnnotations(readOnlyHint=True, openWorldHint=False))(refusing(tool, needs))
    return made


def _of_lake(folder: Path) -> Sequence[Callable[..., Mapping[str, Any]]]:
    from tocsin.serve import evidence as of

    def machines() -> dict[str, Any]:
        """Which machines there are: their tables, signals, first and newest reading, and how many alarms are open."""
        return of.machines(folder)

    def alarms(machine: str = "", everything: bool = False, limit: int = 50) -> dict[str, Any]:
        """The newest row of each alarm that is open, latest first; with everything=true also those that are over."""
        return of.alarms(folder, machine, everything=everything, rows_max=limit)

    def evidence(alarm: str, minutes: int = 60) -> dict[str, Any]:
        """All that is known of an alarm, by id or rule:key: history, signals, what else rang, repairs, cases before."""
        return of.evidence(folder, folder / ".state", alarm, timedelta(minutes=minutes))

    def series(machine: str, begin: str, end: str, points: int = 200) -> dict[str, Any]:
        """Signals of a machine from begin to end (2026-01-31T06:00:00Z), as mean, least and most of equal parts."""
        return of.series(folder, machine, of.moment(begin), of.moment(end), points)

    def sql(query: str, limit: int = 100) -> dict[str, Any]:
        """What a query (DuckDB's SQL) over the tables gives, at most 1,000 rows; it sees the tables only."""
        return of.ask(folder, query, limit)

    return machines, alarms, evidence, series, sql


def _of_files(files: Sequence[Path]) -> Sequence[Callable[..., Mapping[str, Any]]]:
    known = {file.name: file for file in files}

    def _named(file: str) -> Path:
        if file not in known:
            raise UnknownName("pipeline file", file, known)
        return known[file]

    def check(file: str, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Whether a pipeline is right with other settings ({"streams.hot.steps.0.alarm.high": "80"}); its streams."""
        from tocsin.pipeline.yamlfile import load_with_plan

        path = _named(file)
        try:
            _, plan = load_with_plan(path, settings or {})
        except ConfigError as error:
            return {"is_right": False, "mistake": str(error)}
        streams = {name: [f"{id}.{port}" for id, port in ports] for name, ports in plan.streams.items()}
        return {"is_right": True, "streams": streams, "sinks": [end.id for end in plan.sinks]}

    def replay(file: str, begin: str = "", end: str = "", settings: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Which alarms a pipeline with other settings would have rung over what is kept, beside those that rang."""
        from tocsin.cli.replay import compare

        made = compare(_named(file), settings or {}, begin or None, end or None)
        lines = [{name: str(value) for name, value in line.items()} for line in made.lines]
        return {"readings": made.readings, "sum": made.sentence, "alarms": lines}

    return check, replay
