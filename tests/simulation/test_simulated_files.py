"""The sink `files` on the simulated disk: crashes, power cuts and I/O errors at every step."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simulation
from simulated_world import SimulatedDisk

from tocsin.output.files import Files


def parquet_rows(disk: SimulatedDisk, folder: Path) -> Iterator[dict[str, Any]]:
    for data in visible(disk, folder):
        yield from pq.read_table(pa.BufferReader(data)).to_pylist()


def ndjson_rows(disk: SimulatedDisk, folder: Path) -> Iterator[dict[str, Any]]:
    for data in visible(disk, folder):
        for line in gzip.decompress(data).splitlines():
            row = json.loads(line)
            if "payload" in row:
                row["payload"] = base64.b64decode(row["payload"])
            yield row | {k: datetime.fromisoformat(v) for k, v in row.items() if k in ("time", "window_end") and v}


def visible(disk: SimulatedDisk, folder: Path) -> Iterator[bytes]:
    for name, inode in sorted(disk.folders[folder].items()):
        if not name.startswith("."):
            yield inode.data


@pytest.mark.parametrize("form", ["parquet", "ndjson"])
def test_schedules_change_nothing(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def sink(path: str, gather: int) -> Files:
        return Files.model_validate(
            {"path": path, "format": form, "rotate": 200, "compress": "gz" if form == "ndjson" else "none"}
        )

    monkeypatch.setattr(simulation, "Delta", sink)
    monkeypatch.setattr(simulation, "_delta_rows", parquet_rows if form == "parquet" else ndjson_rows)
    # 1137 and 1222 found that a rename may lose both names in a power cut.
    for seed in (*range(1000, 1050), 1137, 1222):
        simulation.simulate(seed, tables="delta")
