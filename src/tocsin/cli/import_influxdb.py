"""The command `tocsin import influxdb`: a measurement's history into a table, to its end."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tocsin.errors import ConfigError

if TYPE_CHECKING:
    from tocsin.acquire.influxdb import Influxdb
    from tocsin.pipeline.model import Pipeline

TYPES: Mapping[str, str] = {
    "float": "float", "integer": "int", "unsigned": "int", "boolean": "bool", "string": "text",
}  # fmt: skip
"""The types of a column, by those of InfluxDB."""
PASSWORD, TOKEN = "TOCSIN_INFLUX_PASSWORD", "TOCSIN_INFLUX_TOKEN"


@click.command()
@click.argument("url")
@click.argument("measurement")
@click.option("--database", required=True, metavar="NAME", help="The database (version 1), or the bucket.")
@click.option("--user", metavar="NAME", help=f"The user (version 1), whose password is in {PASSWORD}.")
@click.option("--key", multiple=True, metavar="TAG", help="A tag that names the machine; else all tags do, in a row.")
@click.option("--table", metavar="NAME", help="The table; else it is called like the measurement.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("tocsin-data"), show_default=True)
def influxdb(
    url: str, measurement: str, database: str, user: str | None, key: tuple[str, ...], table: str | None, folder: Path
) -> None:
    """Bring the history of a measurement of InfluxDB into a table: every point once, in the order of time, to the end.

    Tags and fields become columns, as the server tells them. Broken off or called again, it goes on after the last
    point that it has. Password and token come from the environment (TOCSIN_INFLUX_PASSWORD, TOCSIN_INFLUX_TOKEN).
    """
    from pydantic_core import PydanticCustomError

    from tocsin.acquire.influxdb import Influxdb
    from tocsin.cli.launch import launch
    from tocsin.pipeline.parts import build, sentences

    secrets = {"password": os.environ.get(PASSWORD) if user else None, "token": os.environ.get(TOKEN)}
    settings = {"url": url, "database": database, "measurement": measurement, "user": user, **secrets}
    try:
        source = build("source", {"influxdb": {name: value for name, value in settings.items() if value is not None}})
    except PydanticCustomError as error:
        raise ConfigError("; ".join(sentences(error))) from error
    assert isinstance(source, Influxdb)
    launch(history(source, key, table or measurement, folder).plan())


def history(source: Influxdb, key: Sequence[str], table: str, folder: Path) -> Pipeline:
    """Returns the pipeline that reads a measurement into ``folder/NAME/NAME``; asks the server for its columns."""
    from tocsin.influxdb.following import Measurement
    from tocsin.pipeline.model import Pipeline

    with closing(source.client(Path())) as client:
        told = Measurement(client, source.database, source.measurement, source.delay)
        tags, fields = told.tags(), told.fields()
    if not fields:
        raise ConfigError(
            f"database '{source.database}' has no measurement '{source.measurement}' that may be read; "
            "`show measurements` lists those that there are"
        )
    if strange := [tag for tag in key if tag not in tags]:
        raise ConfigError(
            f"--key {strange[0]} is no tag of '{source.measurement}'; there are {', '.join(tags) or 'none'}"
        )
    columns = columns_of(tags, fields)
    names = {column["path"]: name for name, column in columns.items()}
    name = re.sub(r"[^a-z0-9]+", "_", table.lower()).strip("_")[:40] or "points"
    at = "at" if "at" not in columns else "point_time"
    return Pipeline.model_validate(
        {
            "name": f"import_{name}",
            "folder": folder / name,
            "sources": {
                f"influxdb_{_digest(source)}": {
                    "source": source,
                    "decode": {"json": {"columns": columns, "metadata": {at: "sent"}}},
                    "key": _key([names[tag] for tag in key or tags], source.measurement),
                    "time": {"column": at, "lateness": "0s"},
                }
            },
            "streams": {"history": {"sinks": [{"delta": name}]}},
        }
    )


def columns_of(tags: Sequence[str], fields: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Returns the columns of a measurement, by names that a column can have; a point may lack any of them."""
    types = dict.fromkeys(tags, "category")
    for field, told in fields:
        if field in tags:
            raise ConfigError(f"'{field}' is a tag and a field, which no table can tell apart; use source influxdb")
        wanted, before = TYPES[told], types.get(field)
        if before not in (None, wanted) and {before, wanted} != {"int", "float"}:
            raise ConfigError(
                f"field '{field}' is {before} at one time and {wanted} at another; write a pipeline with source "
                "influxdb, where two columns may have its path"
            )
        types[field] = "float" if before not in (None, wanted) else wanted
    columns: dict[str, dict[str, Any]] = {}
    for path, type in types.items():
        name = re.sub(r"\W+", "_", path).strip("_") or "column"
        if same := [one["path"] for other, one in columns.items() if other.casefold() == name.casefold()]:
            raise ConfigError(
                f"'{same[0]}' and '{path}' would both be column '{name}'; write a pipeline with source influxdb, where "
                "each column has a name and a path"
            )
        columns[name] = {"type": type, "path": path, "optional": True}
    return columns


def _digest(source: Influxdb) -> str:
    """Of what is read: another measurement for the same table has a position of its own."""
    return hashlib.sha256(f"{source.database}\n{source.measurement}".encode()).hexdigest()[:12]


def _key(columns: Sequence[str], measurement: str) -> Any:
    """What names the machine: a tag, several in a row, or the measurement itself."""
    if not columns:
        return {"constant": measurement}
    return columns[0] if len(columns) == 1 else "/".join(f"{{{column}}}" for column in columns)
