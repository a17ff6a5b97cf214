"""CPU time to decode a record of benchmark J1 into Arrow columns, tocsin beside others, in one run.

taskset -c 1 python bench/decode.py --rows 200000
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import duckdb
import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.json as pj

sys.path.insert(0, str(Path(__file__).parent))
import j1_data

from tocsin.batch import RAW, Batch, as_times
from tocsin.decode.csv import Csv
from tocsin.decode.json import Json

COLUMNS = {"machine": "category", "sensor": "category", "ts": "timestamp", "value": "float"}
BATCH = 40_000


class Reading(msgspec.Struct):
    machine: str
    sensor: str
    ts: str
    value: float


def records(text: bytes) -> pa.RecordBatch:
    """Lines as the files source gives them: values over the block itself."""
    data = np.frombuffer(text + bytes(8), np.uint8)
    ends = np.concatenate([[0], np.flatnonzero(data == 10) + 1]).astype(np.int32)
    count = len(ends) - 1
    payloads = pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(ends), pa.py_buffer(data)])
    topic = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["j1"]))
    return pa.RecordBatch.from_arrays(
        [payloads, topic, pa.array(ends[:-1].astype(np.int64)), as_times(np.zeros(count, np.int64))], schema=RAW
    )


def best(work: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    pa.set_cpu_count(1)
    text = b"".join(j1_data.chunks(given.rows, 1_000, 1.0, 1))
    pieces = text.splitlines(keepends=True)
    blocks = [b"".join(pieces[i : i + BATCH]) for i in range(0, len(pieces), BATCH)]
    batches = [Batch(records(block)) for block in blocks]
    rows = [json.loads(line) for line in pieces[:BATCH]]
    csv_text = "".join(f"{r['machine']},{r['sensor']},{r['ts']},{r['value']}\n" for r in rows).encode()
    csv_batch = Batch(records(csv_text))

    decoder, csv = Json(columns=COLUMNS), Csv(columns=COLUMNS)
    begin = time.perf_counter()
    state, _ = decoder.step(decoder.initial(), Batch(batches[0].rows.slice(0, 10)))
    first_s = time.perf_counter() - begin

    def tocsin(of: list[Batch] = batches) -> None:
        for batch in of:
            decoder.step(state, batch)

    many = [Batch(b.rows.slice(i, 10_000)) for b in batches for i in range(0, len(b), 10_000)]
    single = Batch(batches[0].rows.slice(0, 1))
    plain = msgspec.json.Decoder(Reading)

    def with_msgspec() -> None:
        for block in blocks:
            found = [plain.decode(line) for line in block.splitlines()]
            pa.array([r.machine for r in found]), pa.array([r.value for r in found]), pa.array([r.ts for r in found])

    def with_json() -> None:
        for block in blocks[:1]:
            found = [json.loads(line) for line in block.splitlines()]
            (
                pa.array([r["machine"] for r in found]),
                pa.array([r["value"] for r in found]),
                pa.array([r["ts"] for r in found]),
            )

    def with_polars() -> None:
        for block in blocks:
            pl.read_ndjson(
                io.BytesIO(block),
                schema={"machine": pl.String, "sensor": pl.String, "ts": pl.String, "value": pl.Float64},
            )

    def with_pyarrow() -> None:
        options = pj.ReadOptions(use_threads=False)
        for block in blocks:
            pj.read_json(io.BytesIO(block), read_options=options)

    connection = duckdb.connect(config={"threads": 1})
    connection.register("lines", pa.table({"line": [line.decode() for line in pieces]}))
    duck = """SELECT from_json(line, '{"machine":"VARCHAR","sensor":"VARCHAR","ts":"TIMESTAMP","value":"DOUBLE"}') r
              FROM lines"""

    def with_duckdb() -> None:
        connection.sql(duck).to_arrow_table()

    count = len(pieces)
    jobs: dict[str, tuple[Callable[[], Any], int]] = {
        "tocsin": (tocsin, count),
        "tocsin_batches_of_10000": (lambda: tocsin(many), count),
        "tocsin_csv": (lambda: csv.step(csv.initial(), csv_batch), len(csv_batch)),
        "duckdb_from_json": (with_duckdb, count),
        "msgspec": (with_msgspec, count),
        "polars": (with_polars, count),
        "pyarrow": (with_pyarrow, count),
        "json": (with_json, len(batches[0])),
    }
    lines_of = {name: 1e9 * best(work, given.rounds) / n for name, (work, n) in jobs.items()}
    for name, ns in lines_of.items():
        print(f"{name:26} {ns:8.0f} ns/record")
    repeats = 2_000
    single_us = 1e6 * best(lambda: [decoder.step(state, single) for _ in range(repeats)], given.rounds) / repeats
    print(f"one record in a batch      {single_us:8.1f} us;  first call {first_s:.2f} s")
    figures = {name: round(ns) for name, ns in lines_of.items()}
    print(json.dumps({**figures, "single_us": round(single_us, 1), "first_call_s": round(first_s, 2), "rows": count}))


if __name__ == "__main__":
    main()
