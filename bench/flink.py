"""Benchmark J1 on a real Flink cluster of this machine, beside the embedded engine: CPU time, kills, rescaling.

    python bench/flink.py --rows 20000000 --kills 20 --jobmanager-kills 3

Runs in Flink's environment (``pip install 'tocsin[flink]'``), over one file: embedded; on Flink without trouble, whose
CPU time counts (JobManager, TaskManager, Python workers and the client, from the submission on; ``start_cpu_s`` is what
1,000 rows cost); the same query in Flink SQL (``flink_sql.py``) on the same cluster, counted alike; on Flink with
processes killed by SIGKILL, each once another epoch has been published since the last; and on Flink stopped half way,
and gone on at another parallelism, twice. Every table must have the rows of the embedded run, none lost, none doubled.
Ends with one JSON line; what was not measured is not in it. A start costs some 20 CPU-s, as much as 15 million
readings: ``flink``, ``flink_sql`` and ``ratio`` count it, ``flink_more``, ``flink_sql_more`` and ``ratio_more`` are of
the readings beyond the first fifth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))
FILE = """
name: j1
folder: nowhere
source: {files: {path: "DATA"}}
decode: {json: {columns: {machine: category, ts: timestamp, value: float}}}
key: machine
time: {column: ts, lateness: 2s}
streams:
  anomalies:
    steps:
      - window: {every: 20s, collect: [time, value]}
      - zscore: {of: value}
      - explode
      - keep: abs(z) > 1.29
      - select: [value, z]
    sinks: [delta: anomalies]
"""
TABLE = "anomalies"
PARTS = {"few": 1_000, "fifth": None}
"""Beginnings of the file, by name: to tell what each reading costs from what a start costs."""
STUCK_S = 600.0
LIFE_S = 8.0
"""Of readings, for a job between two kills: until its first epoch is published."""


def tocsin(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tocsin.cli", *arguments]


def rows_of(folder: Path) -> pa.Table:
    """Rows in an order of their own, whatever order they were written in."""
    from tocsin import read

    columns = ("key", "time", "value", "z")
    table = read(TABLE, folder).select(columns)
    table = table.set_column(0, "key", table.column("key").cast(pa.string()))
    return table.sort_by([(name, "ascending") for name in columns]).combine_chunks()


def published(folder: Path) -> int:
    """Epochs that can be seen: the first entry of the table's log makes the table."""
    return max(len(list((folder / TABLE / "_delta_log").glob("*.json"))) - 1, 0)


class Cpu:
    """CPU time of process trees, of those processes too that end on the way; sampled five times a second."""

    def __init__(self, roots: list[int]) -> None:
        self._roots, self._seen, self._ended = roots, dict[tuple[int, float], float](), threading.Event()
        self._before = self._sample()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, root: int) -> None:
        self._roots.append(root)

    def spent_s(self) -> float:
        self._ended.set()
        self._thread.join()
        return sum(self._sample().values()) - sum(self._before.values())

    def _run(self) -> None:
        while not self._ended.wait(0.2):
            self._sample()

    def _sample(self) -> dict[tuple[int, float], float]:
        for root in list(self._roots):
            try:
                one = psutil.Process(root)
                processes = [one, *one.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for process in processes:
                try:
                    used = process.cpu_times()
                    self._seen[process.pid, process.create_time()] = used.user + used.system
                except psutil.NoSuchProcess:
                    continue
        return dict(self._seen)


class Bench:
    def __init__(self, folder: Path, rows: int, machines: int) -> None:
        from j1_data import chunks

        from tocsin.flink.cluster import Cluster

        self.folder, self.rows, self.machines = folder, rows, machines
        self.file = folder / "j1.yaml"
        with (folder / "in.ndjson").open("wb") as out:
            for chunk in chunks(rows, machines, 1.0, 1):
                out.write(chunk)
        for name, count in PARTS.items():
            with (folder / "in.ndjson").open("rb") as lines, (folder / f"{name}.ndjson").open("wb") as part:
                part.writelines(itertools.islice(lines, count or rows // 5))
        self.file.write_text(FILE.replace("DATA", str(folder / "in.ndjson")))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.cluster = Cluster(folder / "cluster", self.port)
        self.slots = 4

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            self.cluster.up(1, self.slots)
            yield
        finally:
            self.cluster.down()

    def paced(self, seconds: float) -> list[str]:
        """Settings by which the readings come over so many seconds, so that there is time to disturb the job."""
        speed = max(self.rows / self.machines / seconds, 1.0)
        return ["--set", f"source.files.replay={speed:.1f}x", "--set", "source.files.time_column=ts"]

    def start(self, name: str, parallelism: int, more: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        self.cluster.up(1, self.slots)  # the end of a job may have taken the TaskManager with it
        given = ["--set", f"source.files.path={self.data(name)}", "--set", f"folder={self.folder / name}", *more]
        where = ["--on", "flink", "--jobmanager", f"127.0.0.1:{self.port}", "--parallelism", str(parallelism)]
        return subprocess.Popen(tocsin("run", str(self.file), *given, *where))

    def data(self, name: str) -> Path:
        return self.folder / f"{name if name in PARTS else 'in'}.ndjson"

    def embedded(self) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(tocsin("run", str(self.file), "--set", f"folder={self.folder / 'embedded'}"), check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def flink(self, name: str, parallelism: int) -> tuple[float, float]:
        """CPU and wall time of a run without trouble."""
        pids = [one.pid for one in map(self.cluster.process, self.cluster.names()) if one is not None]
        cpu, began_s = Cpu(pids), time.monotonic()
        running = self.start(name, parallelism)
        cpu.add(running.pid)
        self.ended(running)
        return cpu.spent_s(), time.monotonic() - began_s

    def sql(self, name: str, parallelism: int) -> float:
        """CPU time of the same query in Flink SQL; it must find the same rows, but for some at the very limit."""
        from tocsin.flink.distribution import environment, flink_home

        self.cluster.up(1, self.slots)
        pids = [one.pid for one in map(self.cluster.process, self.cluster.names()) if one is not None]
        cpu, out = Cpu(pids), self.folder / f"sql-{name}"
        command = ["bash", str(flink_home() / "bin" / "flink"), "run", "-m", f"127.0.0.1:{self.port}"]
        command += ["--parallelism", str(parallelism), "-py", str(Path(__file__).parent / "flink_sql.py")]
        running = subprocess.Popen(
            [*command, str(self.data(name)), str(out)],
            env=environment(self.cluster.folder / "conf"), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        cpu.add(running.pid)
        self.ended(running)
        spent_s = cpu.spent_s()
        there = sum(one.read_bytes().count(b"\n") for one in out.rglob("*") if one.is_file())
        wanted = rows_of(self.folder / name).num_rows
        print(f"flink sql, {name}: {spent_s:.1f} CPU-s, {there} rows of {wanted}", file=sys.stderr)
        if abs(there - wanted) > 0.001 * wanted + 1:
            raise SystemExit(f"Flink SQL gives {there} rows, not {wanted}")
        return spent_s

    def pace(self, parallelism: int) -> dict[str, Any]:
        """Readings a CPU-second, all counted and without the start, here and in Flink SQL."""
        start_s, _ = self.flink("few", parallelism)
        part_s, _ = self.flink("fifth", parallelism)
        cpu_s, wall_s = self.flink("flink", parallelism)
        same, more = not self.wrong("flink").total(), self.rows - self.rows // 5
        print(f"flink: {start_s:.1f}, {part_s:.1f}, {cpu_s:.1f} CPU-s, {wall_s:.1f} s, same: {same}", file=sys.stderr)
        sql_part_s, sql_s = self.sql("fifth", parallelism), self.sql("flink", parallelism)
        return {
            "flink": round(self.rows / cpu_s), "flink_sql": round(self.rows / sql_s), "ratio": round(sql_s / cpu_s, 2),
            "flink_more": round(more / (cpu_s - part_s)), "flink_sql_more": round(more / (sql_s - sql_part_s)),
            "ratio_more": round((sql_s - sql_part_s) / (cpu_s - part_s), 2),
            "flink_wall": round(self.rows / wall_s), "start_cpu_s": round(start_s, 1), "same": same,
        }  # fmt: skip

    def killed(self, parallelism: int, victims: list[str]) -> tuple[int, float]:
        """Kill these, each once the table has grown since the last; returns how many were, and the time to go on."""
        folder = self.folder / "killed"
        running, kills, waits = self.start("killed", parallelism, self.paced(LIFE_S * (len(victims) + 1))), 0, []
        for victim in victims:
            grown, began_s = published(folder) + 1, time.monotonic()
            while running.poll() is None and published(folder) < grown:
                if time.monotonic() - began_s > STUCK_S:
                    raise SystemExit(f"nothing was published for {STUCK_S:g} s after kill {kills}")
                time.sleep(0.02)
            if kills:
                waits.append(time.monotonic() - began_s)
            if running.poll() is not None:
                print(f"the run ended after {kills} kills; give it more rows", file=sys.stderr)
                break
            self.cluster.kill(victim)
            kills += 1
            self.cluster.up(1, self.slots)
        self.ended(running)
        return kills, sum(waits) / max(len(waits), 1)

    def rescaled(self) -> bool:
        """Stop at parallelism 2, go on at 4, stop, and go on at 2 to the end."""
        folder = self.folder / "rescaled"
        for parallelism in (2, 4):
            grown = published(folder) + 3
            running = self.start("rescaled", parallelism, self.paced(4 * LIFE_S))
            while published(folder) < grown:
                if running.poll() is not None:
                    print("it ended before it could be stopped; give it more rows", file=sys.stderr)
                    return False
                time.sleep(0.02)
            running.send_signal(signal.SIGINT)
            self.ended(running)
        self.ended(self.start("rescaled", 2))
        return not self.wrong("rescaled").total()

    def ended(self, running: subprocess.Popen[bytes]) -> None:
        if running.wait() != 0:
            raise SystemExit(f"a run failed; see {self.folder}")

    def wrong(self, name: str) -> Counter[str]:
        wanted, given = rows_of(self.folder / "embedded"), rows_of(self.folder / name)
        assert wanted.num_rows
        if wanted.equals(given):
            return Counter(lost=0, doubled=0)
        all, here = (Counter(zip(*one.to_pydict().values(), strict=True)) for one in (wanted, given))
        return Counter(lost=(all - here).total(), doubled=(here - all).total())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--machines", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=20, help="of the TaskManager")
    parser.add_argument("--jobmanager-kills", type=int, default=3)
    parser.add_argument("--parallelism", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="Where to keep everything; else it is deleted at the end.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tocsin-flink-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, given.rows, given.machines)
        embedded_s = bench.embedded()
        print(f"embedded: {embedded_s:.1f} CPU-s", file=sys.stderr)
        with bench.running():
            result: dict[str, Any] = {"rows": given.rows, "embedded": round(given.rows / embedded_s)}
            result |= bench.pace(given.parallelism)
            print(json.dumps(result), file=sys.stderr)
            if given.kills + given.jobmanager_kills:
                every = max(given.kills // (given.jobmanager_kills + 1), 1)
                victims = ["taskmanager-0"] * given.kills
                for number in range(given.jobmanager_kills):
                    victims.insert((number + 1) * every + number, "jobmanager")
                kills, wait_s = bench.killed(given.parallelism, victims)
                result |= {"kills": kills, "back_s": round(wait_s, 1), **bench.wrong("killed")}
                print(f"killed: {result}", file=sys.stderr)
            result["rescaled"] = bench.rescaled()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
