"""A small table that is written whole: what a pipeline says of its plant."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tocsin.errors import ConfigError
from tocsin.lake import maintenance
from tocsin.lake.files import dataset, write
from tocsin.lake.log import Action, Log
from tocsin.lake.schema import new_fields, schema_string
from tocsin.world import Clock, Disk

RETENTION_US = 4 * 3_600_000_000
"""So long rows that were replaced are kept for readers of an older version."""


def replace(folder: Path, rows: pa.Table, disk: Disk, clock: Clock) -> bool:
    """Let a Delta table have these rows and no others, in one entry of its log; returns whether anything has changed.

    Readers see the rows before or the rows after. `ConfigError` if the table is somebody else's: it has other columns.
    """
    log = Log(folder, disk, "tocsin assets", clock)
    fields = new_fields(rows.schema)
    if not log.exists:
        log.create(schema_string(fields), ())
    elif log.snapshot.fields != fields:
        raise ConfigError(
            f"{folder} is where assets: are kept ({', '.join(rows.schema.names)}), but holds a table of other columns; "
            "move it away, or take another folder:"
        )
    if dataset(log).to_table().select(rows.schema.names).equals(rows):
        return False
    removed = {"deletionTimestamp": log.now_ms(), "dataChange": True}
    actions: list[Action] = [{"remove": {"path": path, **removed}} for path in log.snapshot.files]
    if rows.num_rows:
        actions.append({"add": write(log, rows, "part", {})})
        disk.sync_folder(folder)
    changed = log.commit(actions, lambda _: False, "OVERWRITE")
    maintenance.vacuum(log, RETENTION_US)
    return changed
