"""What an epoch costs in a Delta table, and whether it stays so; and how fast rows are written, beside delta-rs.

    python bench/delta.py --commits 10000

Ends with one JSON line. CPU time of this process; fsyncs are counted and not done, since the disk is not what is
measured here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import deltalake
import numpy as np
import pyarrow as pa

from tocsin.batch import KEY_TYPE, as_times
from tocsin.output.delta import Delta
from tocsin.testing import world
from tocsin.world import SystemDisk


class CountingDisk(SystemDisk):
    syncs = 0

    def sync(self, path: Path) -> None:
        self.syncs += 1

    def sync_folder(self, path: Path) -> None:
        self.syncs += 1


def rows(count: int) -> pa.RecordBatch:
    at = np.arange(count)
    keys = pa.array([f"m{i:04d}" for i in range(1000)]).take(pa.array(at % 1000))
    value = np.random.default_rng(1).normal(20, 3, count).round(3)
    return pa.record_batch(
        {"key": keys.dictionary_encode().cast(KEY_TYPE), "time": as_times(at * 1_000), "value": value}
    )


def epochs(folder: Path, commits: int, batch: pa.RecordBatch) -> dict[str, float]:
    disk = CountingDisk()
    writer = Delta(path="epochs").open(world(folder, "bench", disk), batch.schema)
    spent = np.zeros((commits, 3))
    for epoch in range(1, commits + 1):
        at = [time.process_time()]
        token = writer.stage(epoch, [batch])
        at.append(time.process_time())
        writer.publish(epoch, [token])
        at.append(time.process_time())
        writer.housekeep()
        at.append(time.process_time())
        spent[epoch - 1] = np.diff(at) * 1e3
    tenth = commits // 10
    begin = time.process_time()
    Delta(path="epochs").open(world(folder, "bench", disk), batch.schema)
    return {
        "first_tenth_ms": spent[:tenth].sum() / tenth,
        "last_tenth_ms": spent[-tenth:].sum() / tenth,
        "commit_first_ms": spent[:tenth, 1].mean(),
        "commit_last_ms": spent[-tenth:, 1].mean(),
        "fsyncs_an_epoch": disk.syncs / commits,
        "live_files": len(writer.log.snapshot.files),
        "open_ms": (time.process_time() - begin) * 1e3,
    }


def throughput(folder: Path, batch: pa.RecordBatch) -> dict[str, float]:
    writer = Delta(path="ours").open(world(folder, "bench", CountingDisk()), batch.schema)
    table = pa.Table.from_batches([batch])
    plain = table.set_column(0, "key", table["key"].cast(pa.string()))
    zstd = deltalake.WriterProperties(compression="ZSTD")
    best: dict[str, float] = {}
    for turn in range(1, 6):
        begin = time.process_time()
        writer.publish(turn, [writer.stage(turn, [batch])])
        ours = time.process_time() - begin
        begin = time.process_time()
        deltalake.write_deltalake(folder / "theirs", plain, mode="append", writer_properties=zstd)
        theirs = time.process_time() - begin
        best = {"ours": min(ours, best.get("ours", 1e9)), "theirs": min(theirs, best.get("theirs", 1e9))}
    megabytes = batch.nbytes / 1e6
    return {
        "write_mb_s": megabytes / best["ours"],
        "write_rows_s": batch.num_rows / best["ours"],
        "ratio_to_delta_rs": best["theirs"] / best["ours"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000, help="rows an epoch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = epochs(Path(name), options.commits, rows(options.rows)) | throughput(Path(name), rows(1_000_000))
    print(json.dumps({"commits": options.commits} | {k: round(v, 3) for k, v in figures.items()}))


if __name__ == "__main__":
    main()
