"""Benchmark J1, end to end: windows of 20 s by machine, z-scores in them, what lies beyond 1.29, from NDJSON to Delta.

    python bench/j1.py --rows 5000000            # tocsin, DuckDB and a plain loop over the same file, one core each
    python bench/j1.py --rows 5000000 --cores 2  # two cores each; tocsin also on one of them, with one worker
    python bench/j1.py --rows 5000000 --variants # also 1 machine at 1 kHz, 100,000 machines, and ten times the rows

Each runs in a process of its own, pinned to its cores; start-up and compilation (from the cache) count. tocsin takes a
checkpoint every second, with all its fsyncs; DuckDB writes one Parquet file at the end and could not go on after a
crash. All must find the same rows. Ends by printing one JSON line; rates are readings a second of CPU time (``cpu``)
and of wall time. Then where the nanoseconds go, from a run of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
WINDOW_S = 20
LIMIT = 1.29
COLUMNS = {"machine": "category", "ts": "timestamp", "value": "float"}
"""What the result needs; DuckDB leaves the fourth field out by itself."""


def pipeline(file: Path, folder: Path, workers: int = 1) -> Any:
    from tocsin.pipeline.model import Pipeline

    return Pipeline.model_validate(
        {
            "name": "j1",
            "source": {"files": {"path": str(file)}},
            "decode": {"json": {"columns": COLUMNS}},
            "key": "machine",
            "time": {"column": "ts", "lateness": "2s"},
            "streams": {
                "anomalies": {
                    "steps": [
                        {"window": {"every": f"{WINDOW_S}s", "collect": ["time", "value"]}},
                        {"zscore": {"of": "value"}},
                        "explode",
                        {"keep": f"abs(z) > {LIMIT}"},
                        {"select": ["value", "z"]},
                    ],
                    "sinks": [{"delta": "anomalies"}],
                }
            },
            "folder": str(folder),
            "workers": workers,
        }
    )


def with_tocsin(file: Path, folder: Path, cores: int) -> int:
    from tocsin.engine.embedded import EmbeddedRunner

    # A core is left to the decoding: the steps of J1 are light, and more of them at once would only take turns.
    runner = EmbeddedRunner(pipeline(file, folder, max(1, cores - 1)).plan())
    runner.run()
    return found_in(folder / "anomalies")


def found_in(table: Path) -> int:
    """Rows in a Delta table, by its log."""
    count = 0
    for entry in sorted((table / "_delta_log").glob("*.json")):
        for line in entry.read_text().splitlines():
            if add := json.loads(line).get("add"):
                count += json.loads(add["stats"])["numRecords"] if add.get("dataChange", True) else 0
    return count


def with_duckdb(file: Path, folder: Path, cores: int) -> int:
    import duckdb

    with duckdb.connect(config={"threads": cores}) as db:
        db.execute(f"SET temp_directory = '{folder}'")
        db.execute(
            f"""CREATE TEMP TABLE readings AS
            SELECT machine, ts, value, epoch_us(ts) // {WINDOW_S * 1_000_000} AS number
            FROM read_json('{file}', format = 'newline_delimited', columns =
                {{machine: 'VARCHAR', sensor: 'VARCHAR', ts: 'TIMESTAMP', value: 'DOUBLE'}})"""
        )
        db.execute(
            f"""COPY (SELECT machine, ts, value, (value - mean) / deviation AS z FROM readings JOIN (
                SELECT machine, number, avg(value) AS mean, stddev_pop(value) AS deviation
                FROM readings GROUP BY machine, number) USING (machine, number)
            WHERE deviation > 0 AND abs((value - mean) / deviation) > {LIMIT})
            TO '{folder / "anomalies.parquet"}' (FORMAT parquet)"""
        )
        row = db.execute(f"SELECT count(*) FROM '{folder / 'anomalies.parquet'}'").fetchone()
        assert row is not None
        return int(row[0])


def with_loop(file: Path, folder: Path, cores: int) -> int:
    """What one writes by hand: msgspec, dicts, lists."""
    import msgspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    class Reading(msgspec.Struct):
        machine: str
        ts: datetime
        value: float

    decode = msgspec.json.Decoder(Reading).decode
    open_windows: dict[int, dict[str, list[tuple[datetime, float]]]] = {}
    left: list[tuple[str, datetime, float, float]] = []
    newest = 0.0

    def close(number: int) -> None:
        for machine, inside in open_windows.pop(number).items():
            mean = sum(v for _, v in inside) / len(inside)
            deviation = (sum((v - mean) ** 2 for _, v in inside) / len(inside)) ** 0.5
            for at, value in inside:
                if deviation > 0 and abs(z := (value - mean) / deviation) > LIMIT:
                    left.append((machine, at, value, z))

    with open(file, "rb") as lines:
        for line in lines:
            r = decode(line)
            second = r.ts.timestamp()
            open_windows.setdefault(int(second // WINDOW_S), {}).setdefault(r.machine, []).append((r.ts, r.value))
            if second > newest:
                newest = second
                if (done := int((newest - 2) // WINDOW_S) - 1) in open_windows:
                    close(done)
    for number in sorted(open_windows):
        close(number)
    machine, at, value, z = zip(*left, strict=True)
    table = pa.table({"machine": machine, "ts": pa.array(at), "value": value, "z": z})
    pq.write_table(table, folder / "anomalies.parquet")
    return len(left)


JOBS: dict[str, Callable[[Path, Path, int], int]] = {"tocsin": with_tocsin, "duckdb": with_duckdb, "loop": with_loop}


class Absent:
    """The test environment has packages that pyarrow and numba import where they are: 0.5 s at start."""

    @staticmethod
    def find_spec(name: str, *rest: Any) -> None:
        if name in ("pandas", "scipy", "cffi"):
            raise ModuleNotFoundError(f"no {name} after a plain install", name=name)


def as_after_plain_install() -> None:
    sys.meta_path.insert(0, Absent)  # type: ignore[arg-type]


def child(job: str, file: Path, folder: Path) -> None:
    as_after_plain_install()
    import pyarrow as pa

    cores = len(os.sched_getaffinity(0))
    pa.set_cpu_count(cores)
    found = JOBS[job](file, folder, cores)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"found": found, "cpu_s": used.ru_utime + used.ru_stime, "rss_mb": used.ru_maxrss / 1024}))


def stages(file: Path, folder: Path) -> None:
    """Where the CPU time goes: each part's methods, timed from outside."""
    as_after_plain_install()
    import pyarrow as pa

    from tocsin.acquire.files import FilesReader
    from tocsin.decode._base import Decoder
    from tocsin.engine.embedded import EmbeddedRunner
    from tocsin.engine.sink_task import SinkTask

    pa.set_cpu_count(1)
    plan = pipeline(file, folder).plan()
    spent: dict[str, float] = defaultdict(float)

    def timed(owner: Any, method: str, name: str) -> None:
        inner = getattr(owner, method)

        def run(*args: Any, **kwargs: Any) -> Any:
            begin = time.thread_time()
            try:
                return inner(*args, **kwargs)
            finally:
                spent[name] += time.thread_time() - begin

        setattr(owner, method, run)

    origin = plan.sources[0]
    timed(FilesReader, "poll", "read")
    for operator in (*origin.chain, *(step.operator for step in plan.steps)):
        timed(type(operator), "traced" if isinstance(operator, Decoder) else "step", operator.name())
    timed(SinkTask, "stage", "stage Parquet")
    timed(EmbeddedRunner, "_commit_point", "commit point")
    timed(SinkTask, "step", "publish to Delta")
    begin = time.process_time()
    EmbeddedRunner(plan).run()
    spent["all"] = time.process_time() - begin
    spent["between"] = spent["all"] - sum(s for name, s in spent.items() if name != "all")
    print(json.dumps(spent))


def measured(*arguments: str, cores: Collection[int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as folder:
        command = [sys.executable, __file__, *arguments, "--folder", folder]
        # An installed package has its bytecode beside it.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        begin = time.perf_counter()
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip
        found = {**json.loads(done.stdout.splitlines()[-1]), "wall_s": time.perf_counter() - begin}
        print(Path(arguments[-1]).stem, arguments[1], {k: round(v, 2) for k, v in found.items()}, flush=True)
        return found


def data(rows: int, machines: int, hz: float, folder: Path) -> Path:
    import j1_data

    file = folder / f"{rows}-{machines}-{hz:g}.ndjson"
    if not file.exists():
        if shutil.disk_usage(folder).free < 110 * rows + 2**31:
            raise SystemExit(f"not enough room in {folder} for {rows} rows")
        j1_data.write(file.with_suffix(".part"), rows, machines, hz)
        file.with_suffix(".part").rename(file)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "tocsin-j1")
    parser.add_argument("--job", choices=[*JOBS, "stages"])
    parser.add_argument("--only", nargs="*", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--file", type=Path)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.job == "stages":
        return stages(given.file, given.folder)
    if given.job:
        return child(given.job, given.file, given.folder)
    mine = sorted(os.sched_getaffinity(0), reverse=True)
    if not 1 <= given.cores <= len(mine):
        raise SystemExit(f"there are {len(mine)} cores")
    cores, one = mine[: given.cores], mine[:1]
    given.data.mkdir(exist_ok=True)
    file = data(given.rows, 1_000, 1.0, given.data)
    some, few = (str(data(rows, 1_000, 1.0, given.data)) for rows in (300_000, 1_000))
    # Compile, the kernels of windows that end included: a first run would otherwise be measured with it.
    measured("--job", "tocsin", "--file", some, cores=one)
    start = measured("--job", "tocsin", "--file", few, cores=one)
    figures: dict[str, Any] = {"rows": given.rows, "cores": given.cores, "start_s": round(start["cpu_s"], 2)}
    runs = {job: measured("--job", job, "--file", str(file), cores=cores) for job in given.only}
    for job, run in runs.items():
        figures[job] = round(given.rows / run["wall_s"])
        figures[f"{job}_cpu"] = round(given.rows / run["cpu_s"])
        figures[f"{job}_mb"] = round(run["rss_mb"])
    assert len({run["found"] for run in runs.values()}) == 1, {job: run["found"] for job, run in runs.items()}
    if {"tocsin", "duckdb"} <= set(runs):
        figures["ratio"] = round(figures["tocsin"] / figures["duckdb"], 2)
        figures["ratio_cpu"] = round(figures["tocsin_cpu"] / figures["duckdb_cpu"], 2)
    if given.cores > 1:
        alone = measured("--job", "tocsin", "--file", str(file), cores=one)
        figures["one_core"] = round(given.rows / alone["wall_s"])
        figures["speedup"] = round(alone["wall_s"] / runs["tocsin"]["wall_s"], 2)
        figures["speedup_without_start"] = round(
            (alone["wall_s"] - start["wall_s"]) / (runs["tocsin"]["wall_s"] - start["wall_s"]), 2
        )
    if {"loop", "duckdb"} <= set(runs):
        figures["ratio_loop"] = round(figures["loop"] / figures["duckdb"], 2)
    if given.variants:
        for name, rows, machines, hz in (
            ("one_machine", given.rows, 1, 1_000.0),
            ("100k_machines", given.rows, 100_000, 1.0),
            ("ten_times", 10 * given.rows, 1_000, 1.0),
        ):
            run = measured("--job", "tocsin", "--file", str(data(rows, machines, hz, given.data)), cores=one)
            figures[name], figures[f"{name}_mb"] = round(rows / run["wall_s"]), round(run["rss_mb"])
            figures[f"{name}_cpu"] = round(rows / run["cpu_s"])
    spent = measured("--job", "stages", "--file", str(file), cores=one)
    print("\nwhere the CPU time goes     ns a reading")
    for name, seconds in spent.items():
        if name != "wall_s":
            print(f"{name:26} {seconds / given.rows * 1e9:8.1f}")
    print(json.dumps(figures))
    return None


if __name__ == "__main__":
    main()
