"""`tocsin mcp`: what the tables hold, for an assistant that speaks the Model Context Protocol; it can only read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from tocsin.errors import ConfigError, MissingExtra, TocsinError, UnknownName

INSTRUCTIONS = (
    "Readings, verdicts and alarms of machines. Every answer names the tables that it rests on, with their versions "
    "(rests_on): say these, the key and the time with whatever you state, and state nothing that no answer holds. "
    "Times are in UTC."
)


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1)
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("tocsin-data"), show_default=True,
    help="The folder that the pipeline writes to.",
)  # fmt: skip
def mcp(files: tuple[Path, ...], folder: Path) -> None:
    """Answer an assistant (Model Context Protocol, over stdin and stdout) on what is in the lake; nothing is changed.

    FILES are pipelines that it may check and replay with other settings.
    """
    server(folder, files).run("stdio")


def server(folder: Path, files: Sequence[Path] = ()) -> Any:
    """Returns the server, an `mcp.server.MCPServer`; raises `MissingExtra` without the extra ``mcp``."""
    try:
        from mcp.server import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp.types import ToolAnnotations
    except ImportError:
        raise MissingExtra("mcp", "mcp", "tocsin mcp") from None
    import tocsin

    made = MCPServer("tocsin", instructions=INSTRUCTIONS, version=tocsin.__version__)

    def refusing(tool: Callable[..., Mapping[str, Any]]) -> Callable[..., Mapping[str, Any]]:
        """Turn what is expected to go wrong into one sentence for the assistant."""
        from functools import wraps

        @wraps(tool)
        def told(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
            try:
                return tool(*args, **kwargs)
            except (TocsinError, ValueError) as error:
                raise ToolError(str(error)) from error

        return told

    for tool in (*_of_lake(folder), *(_of_files(files) if files else ())):
        made.tool(annotations=ToolAnnotations(readOnlyHint=True, openWorldHint=False))(refusing(tool))
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
        """All that is known of an alarm, by id or rule:key: history, signals, what else rang, earlier cases."""
        return of.evidence(folder, alarm, timedelta(minutes=minutes))

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
