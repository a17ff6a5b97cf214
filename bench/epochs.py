"""What an epoch costs, with all its fsyncs, and whether it stays so; ends with one JSON line.

    python bench/epochs.py --epochs 10000 [--rows 100]

Three Delta tables, a state of 1,000 keys and the outbox in each epoch; then the time a recovery takes.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tocsin.bases import Keyed
from tocsin.batch import KEY, OUT, TIME, Batch, as_times
from tocsin.contracts import Channel, Message, Source
from tocsin.ends import OneSplit
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.recovery import Attempt, Effects, start
from tocsin.output.delta import Delta
from tocsin.pipeline.plan import Plan, SinkNode, SourceNode, Step
from tocsin.state import Columns, Field
from tocsin.world import World

ROWS = pa.schema([KEY, TIME, pa.field("value", pa.float64())])
KEYS = 1_000


class Readings(Source):
    """The same number of rows at each poll."""

    rows: int

    def output_schema(self) -> pa.Schema:
        return ROWS

    def open(self, world: World) -> OneSplit:
        return OneSplit(lambda offset: ReadingsReader(self.rows, offset or 0))


class ReadingsReader:
    def __init__(self, rows: int, at: int) -> None:
        self.rows, self.at = rows, at
        self.names = pa.array([f"machine-{i:04d}" for i in range(KEYS)])

    def poll(self, rows_max: int, timeout_s: float) -> Any:
        numbers = np.arange(self.at, self.at + self.rows)
        keys = pa.DictionaryArray.from_arrays(pa.array(numbers % KEYS, pa.int32()), self.names)
        self.at += self.rows
        columns = [keys, as_times(numbers * 1_000), pa.array(numbers * 0.5)]
        return Batch(pa.RecordBatch.from_arrays(columns, schema=ROWS), int(numbers[-1]) * 1_000), self.at

    def acknowledge(self, offset: Any) -> None:
        pass

    def counters(self) -> dict[str, int]:
        return {}

    def progress(self) -> None:
        return None

    def close(self) -> None:
        pass


class Sums(Keyed):
    """A step with twenty numbers a key."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        return input

    def fields(self) -> Mapping[str, Field]:
        return {f"sum{i}": Field() for i in range(20)}

    def update(self, state: Columns, rows: pa.RecordBatch, slots: Any) -> pa.RecordBatch:
        np.add.at(state["sum0"], slots, rows.column("value").to_numpy())
        return rows


class Bell(Channel):
    """One message an epoch, delivered to nobody."""

    URGENT: ClassVar[bool] = False

    def messages(self, rows: pa.RecordBatch) -> Sequence[Message]:
        return [Message(str(rows.column("value")[0]), b"ring")]

    def open(self, world: World) -> Any:
        return self

    def counters(self) -> dict[str, int]:
        return {}

    def deliver(self, messages: Sequence[Message]) -> None:
        pass

    def close(self) -> None:
        pass


class Timed(EmbeddedRunner):
    """Writes down what each epoch cost."""

    def measure(self, epochs: int) -> None:
        self.left, self.wall_ms, self.cpu_ms = epochs, [], []

    def _epoch(self, attempt: Attempt) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        super()._epoch(attempt)
        self.wall_ms.append(1e3 * (time.perf_counter() - wall))
        self.cpu_ms.append(1e3 * (time.process_time() - cpu))
        self.left -= 1
        if len(self.wall_ms) % 100 == 0:
            print(f"\r{len(self.wall_ms)} epochs, {self.wall_ms[-1]:.1f} ms", end="", file=sys.stderr)
        if not self.left:
            self.stop()


def plan(folder: Path, rows: int) -> Plan:
    out = (("sums", OUT),)
    tables = [SinkNode(name, out, Delta(path=name), ROWS) for name in ("one", "two", "three")]
    return Plan(
        name="epochs",
        sources=(SourceNode("in", Readings(rows=rows), (), {OUT: ROWS}, 10**9),),
        steps=(Step("sums", Sums(), (("in", OUT),), ROWS, {OUT: ROWS}),),
        sinks=(*tables, SinkNode("bell", out, Bell(), ROWS)),
        streams={},
        folder=folder,
        state_folder=folder / ".state",
        checkpoint_us=0,
        memory_bytes=1 << 30,
        lag_bytes=1 << 40,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=100)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        compiled = plan(Path(folder).absolute(), settings.rows)
        runner = Timed(compiled)
        runner.measure(settings.epochs)
        runner.run()
        print(file=sys.stderr)
        began = time.perf_counter()
        attempt = start(compiled, Effects(), runner.counters)
        recovery_s = time.perf_counter() - began
        attempt.close()
    tenth = max(1, settings.epochs // 10)
    figures = {
        "epochs": settings.epochs,
        "p50_ms": np.median(runner.wall_ms),
        "p99_ms": np.percentile(runner.wall_ms, 99),
        "cpu_p50_ms": np.median(runner.cpu_ms),
        "cpu_mean_ms": np.mean(runner.cpu_ms),
        "first_tenth_p50_ms": np.median(runner.wall_ms[:tenth]),
        "last_tenth_p50_ms": np.median(runner.wall_ms[-tenth:]),
        "first_tenth_cpu_p50_ms": np.median(runner.cpu_ms[:tenth]),
        "last_tenth_cpu_p50_ms": np.median(runner.cpu_ms[-tenth:]),
        "recovery_s": recovery_s,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps({name: round(float(value), 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
