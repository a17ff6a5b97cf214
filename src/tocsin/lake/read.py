"""Read what was kept: a table by name as Arrow, or SQL over all of them."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tocsin.errors import ConfigError, CorruptState, SinkError, UnknownName
from tocsin.lake.files import dataset
from tocsin.lake.log import Log
from tocsin.lake.maintenance import forget_missing
from tocsin.lake.remote import RemoteTable
from tocsin.lake.schema import arrow_schema, original_names
from tocsin.objects.store import is_remote
from tocsin.world import SystemDisk

FOLDER = Path("tocsin-data")
"""Where pipelines keep their tables unless told otherwise."""

_DEPTH_MAX = 6


def tables(folder: Path | str = FOLDER) -> Mapping[str, Path]:
    """The Delta tables below a folder, by name: the folder's own, or its path where two have the same."""
    root = Path(folder)
    places = []
    for place, folders, _ in os.walk(root):
        if "_delta_log" in folders:
            places.append(Path(place))
            folders.clear()
        elif len(Path(place).relative_to(root).parts) >= _DEPTH_MAX:
            folders.clear()
        else:
            folders[:] = [name for name in folders if not name.startswith((".", "_"))]
    names = [path.name for path in places]
    return {
        path.name if names.count(path.name) == 1 else path.relative_to(root).as_posix(): path for path in sorted(places)
    }


def read(table: str, folder: Path | str = FOLDER) -> pa.Table:
    """Returns a table by its name, or by its address (``s3://bucket/readings``), under its original column names.

    An address is reached with what the environment says (``AWS_ACCESS_KEY_ID`` ...). The table goes on to others as
    ``read("anomalies").to_pandas()`` or ``polars.from_arrow(read("anomalies"))``.
    """
    if is_remote(table):
        return RemoteTable(table, {}).read()
    log = _open(_known(table, folder))
    try:
        content = dataset(log).to_table()
    except (OSError, pa.ArrowException) as error:
        raise CorruptState(log.lacks() or _damaged(log, error)) from error
    return content.rename_columns(list(original_names(log.snapshot.fields).values()))


def repair(table: str, folder: Path | str = FOLDER) -> Mapping[str, int]:
    """Let a table go on without the data files that are gone; returns how many rows each of them had."""
    return forget_missing(Log(_known(table, folder).absolute(), SystemDisk(), "tocsin repair"))


def _known(table: str, folder: Path | str) -> Path:
    known = tables(folder)
    if table not in known:
        raise UnknownName("table", table, known)
    return known[table]


def _damaged(log: Log, error: Exception) -> str:
    return (
        f"table '{log.folder.name}' has a data file that is damaged: {error}; bring it back from a backup, or delete "
        f"it and go on without its rows: tocsin repair {log.folder.name} --folder {log.folder.parent}"
    )


def schema(table: str, folder: Path | str = FOLDER) -> pa.Schema:
    """Returns the columns of a table, under the names that its rows came with; its rows are not looked at."""
    fields = _open(_known(table, folder)).snapshot.fields
    kinds = arrow_schema(fields)
    return pa.schema([kinds.field(held).with_name(name) for held, name in original_names(fields).items()])


def query(
    sql: str,
    folder: Path | str = FOLDER,
    *,
    parameters: Mapping[str, object] | None = None,
    elsewhere: Mapping[str, str] | None = None,
    timeout_s: float = 60,
    memory: str = "1GB",
    threads: int = 2,
) -> pa.Table:
    """Returns what DuckDB answers; a table's name is its folder's, or that of ``elsewhere``, which gives addresses.
    The values of ``parameters`` stand for ``$name`` in the text.

    The query sees the tables and nothing else: no files, no network, no settings.
    """
    return _ask(sql, folder, elsewhere or {}, parameters or {}, timeout_s, memory, threads)[0]


def snapshot(
    sql: str, folder: Path | str = FOLDER, *, timeout_s: float = 600, rows_max: int | None = None
) -> tuple[pa.Table, Mapping[str, int]]:
    """Returns what DuckDB answers, as `query` does, and which Delta version of each table it was asked of.

    No more than ``rows_max`` rows are made of it, however many there were.
    """
    return _ask(sql, folder, {}, {}, timeout_s, "2GB", 2, rows_max)


def _ask(
    sql: str,
    folder: Path | str,
    elsewhere: Mapping[str, str],
    parameters: Mapping[str, Any],
    timeout_s: float,
    memory: str,
    threads: int,
    rows_max: int | None = None,
) -> tuple[pa.Table, Mapping[str, int]]:
    import duckdb

    known = tables(folder)
    # A large dataset costs time to list: only the tables that the text can mean are opened.
    wanted = [name for name in known if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sql, re.IGNORECASE)]
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": memory,
            "threads": threads,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        },
    )
    timer = threading.Timer(timeout_s, connection.interrupt)
    logs = []
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        for name in wanted:
            logs.append(log := _open(known[name]))
            _show(connection, name, dataset(log), original_names(log.snapshot.fields))
        for name, address in elsewhere.items():
            _show(connection, name, *RemoteTable(address, {}).dataset())
        timer.start()
        answer = connection.sql(sql, params=dict(parameters) if parameters else None)
        versions = {name: log.snapshot.version for name, log in zip(wanted, logs, strict=True)}
        if answer is not None and rows_max is not None:
            answer = answer.limit(rows_max)
        return pa.table({}) if answer is None else answer.to_arrow_table(), versions
    except duckdb.InterruptException:
        raise ConfigError(
            f"the query took longer than {timeout_s:g} s; ask for less, or in Python allow more by timeout_s"
        ) from None
    except duckdb.OutOfMemoryException as error:
        raise ConfigError(
            f"the query needs more than {memory} of memory; ask for less, or in Python allow more by memory"
        ) from error
    except duckdb.Error as error:
        if lacking := [sentence for log in logs if (sentence := log.lacks())]:
            raise CorruptState("; ".join(lacking)) from error
        hint = f"\nthere are these tables: {', '.join(known) or f'none in {folder}'}"
        raise ConfigError(f"{error}{hint if isinstance(error, duckdb.CatalogException) else ''}") from error
    finally:
        timer.cancel()
        connection.close()


def _show(connection: Any, name: str, rows: Any, originals: Mapping[str, str]) -> None:
    """Make a view of a dataset, with the columns under their original names."""
    held = quoted(f"rows of {name}")
    connection.register(f"rows of {name}", rows)
    columns = ", ".join(f"{quoted(column)} AS {quoted(original)}" for column, original in originals.items())
    connection.execute(f"CREATE VIEW {quoted(name)} AS SELECT {columns} FROM {held}")  # noqa: S608


def _open(path: Path) -> Log:
    try:
        log = Log(path.absolute(), SystemDisk())
    except (FileNotFoundError, SinkError):  # the log may have been cleaned between our look at it and our reading
        log = Log(path.absolute(), SystemDisk())
    if not log.exists:
        raise ConfigError(f"{path} has no table yet; its first entry is still to be written")
    return log


def quoted(name: str) -> str:
    """Returns a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
