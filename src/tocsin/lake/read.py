"""Read what was kept: a table by name as Arrow, or SQL over all of them."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from tocsin.errors import ConfigError, CorruptState, SinkError, UnknownName
from tocsin.lake.files import dataset
from tocsin.lake.log import Log
from tocsin.lake.maintenance import forget_missing
from tocsin.lake.schema import original_names
from tocsin.world import SystemDisk

FOLDER = Path("tocsin-data")
"""Where pipelines keep their tables unless told otherwise."""

_DEPTH_MAX = 6


def tables(folder: Path | str = FOLDER) -> Mapping[str, Path]:
    """The Delta tables below a folder, by name: the folder's own, or its path where two have the same."""
    root = Path(folder)
    found = []
    for place, folders, _ in os.walk(root):
        if "_delta_log" in folders:
            found.append(Path(place))
            folders.clear()
        elif len(Path(place).relative_to(root).parts) >= _DEPTH_MAX:
            folders.clear()
        else:
            folders[:] = [name for name in folders if not name.startswith((".", "_"))]
    names = [path.name for path in found]
    return {
        path.name if names.count(path.name) == 1 else path.relative_to(root).as_posix(): path for path in sorted(found)
    }


def read(table: str, folder: Path | str = FOLDER) -> pa.Table:
    """A table by its name, under the column names that its rows came with.

    It goes on to others as ``read("anomalies").to_pandas()`` or ``polars.from_arrow(read("anomalies"))``.
    """
    log = _open(_known(table, folder))
    try:
        found = dataset(log).to_table()
    except (OSError, pa.ArrowException) as error:
        raise CorruptState(log.lacks() or _damaged(log, error)) from error
    return found.rename_columns(list(original_names(log.snapshot.fields).values()))


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


def query(
    sql: str, folder: Path | str = FOLDER, *, timeout_s: float = 60, memory: str = "1GB", threads: int = 2
) -> pa.Table:
    """Ask all tables of a folder with DuckDB's SQL; a table's name is its folder's.

    The query sees the tables and nothing else: no files, no network, no settings.
    """
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
        for number, name in enumerate(wanted):
            logs.append(log := _open(known[name]))
            connection.register(f"__{number}", dataset(log))
            originals = original_names(log.snapshot.fields)
            columns = ", ".join(f"{_quoted(held)} AS {_quoted(name)}" for held, name in originals.items())
            connection.execute(f"CREATE VIEW {_quoted(name)} AS SELECT {columns} FROM __{number}")  # noqa: S608
        timer.start()
        answer = connection.sql(sql)
        return pa.table({}) if answer is None else answer.to_arrow_table()
    except duckdb.InterruptException:
        raise ConfigError(f"the query took longer than {timeout_s:g} s; ask for less, or allow more time") from None
    except duckdb.OutOfMemoryException as error:
        raise ConfigError(f"the query needs more than {memory} of memory; ask for less, or allow more") from error
    except duckdb.Error as error:
        if lacking := [sentence for log in logs if (sentence := log.lacks())]:
            raise CorruptState("; ".join(lacking)) from error
        hint = f"\nthere are these tables: {', '.join(known) or f'none in {folder}'}"
        raise ConfigError(f"{error}{hint if isinstance(error, duckdb.CatalogException) else ''}") from error
    finally:
        timer.cancel()
        connection.close()


def _open(path: Path) -> Log:
    try:
        log = Log(path.absolute(), SystemDisk())
    except (FileNotFoundError, SinkError):  # the log may have been cleaned between our look at it and our reading
        log = Log(path.absolute(), SystemDisk())
    if not log.exists:
        raise ConfigError(f"{path} has no table yet; its first entry is still to be written")
    return log


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
