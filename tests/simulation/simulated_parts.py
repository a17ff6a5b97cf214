"""Small parts for tests of the runner: a source of numbers, three steps, a table and a channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.batch import END, KEY, OUT, RAW, REJECTED, REJECTED_SCHEMA, START, TIME, Batch, as_keys, empty, times_us
from tocsin.contracts import (
    Channel,
    Connection,
    Delivery,
    Message,
    Offset,
    Operator,
    Sink,
    Source,
    Split,
    Token,
    Writer,
)
from tocsin.pipeline.plan import Plan, SinkNode, SourceNode, Step
from tocsin.state import NO_STATE
from tocsin.world import World

ROWS = pa.schema([KEY, TIME, pa.field("value", pa.int64())])
SUMS = pa.schema([KEY, TIME, pa.field("sum", pa.int64()), pa.field("seen", pa.int64())])


def raw(payloads: Sequence[bytes], position: int = 0) -> pa.RecordBatch:
    n = len(payloads)
    topics = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array(["t"]))
    received = pa.array([0] * n, pa.int64()).cast(TIME.type)
    return pa.RecordBatch.from_arrays(
        [pa.array(payloads, pa.binary()), topics, pa.array(range(position, position + n), pa.int64()), received],
        schema=RAW,
    )


class Lines(Source):
    """A list of payloads in each partition, then the end."""

    lines: dict[str, tuple[bytes, ...]]
    cut: int = 3

    def bounded(self) -> bool:
        return True

    def open(self, world: World) -> Connection:
        return LinesConnection(self)


class LinesConnection:
    def __init__(self, source: Lines) -> None:
        self.source = source

    def splits(self) -> Sequence[Split]:
        return tuple(Split(name) for name in self.source.lines)

    def read(self, split: Split, offset: Offset | None) -> LinesReader:
        return LinesReader(self.source.lines[split.name], offset or 0, self.source.cut)

    def close(self) -> None:
        pass


class LinesReader:
    def __init__(self, lines: Sequence[bytes], at: int, cut: int) -> None:
        self.lines, self.at, self.cut = lines, at, cut

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        begin, self.at = self.at, min(self.at + self.cut, len(self.lines))
        if begin == self.at:
            return Batch(empty(RAW), END), self.at
        return Batch(raw(self.lines[begin : self.at], begin)), self.at

    def acknowledge(self, offset: Offset) -> None:
        pass

    def counters(self) -> Mapping[str, int]:
        return {}

    def progress(self) -> None:
        return None

    def close(self) -> None:
        pass


class Parse(Operator):
    """Payloads ``key,time,value`` to rows; what is not three fields is rejected."""

    lateness_us: int = 5

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        return ROWS

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {REJECTED: REJECTED_SCHEMA}

    def initial(self) -> list[int]:
        return [START]

    def step(self, state: list[int], batch: Batch) -> tuple[list[int], Sequence[Batch]]:
        keys, times, values, bad = [], [], [], []
        for payload, position in zip(
            batch.rows["payload"].to_pylist(), batch.rows["position"].to_pylist(), strict=True
        ):
            fields = payload.split(b",")
            if len(fields) == 3:
                keys.append(fields[0].decode())
                times.append(int(fields[1]))
                values.append(int(fields[2]))
            else:
                bad.append((payload, position))
        out = [Batch(rejected(bad), port=REJECTED)] if bad else []
        state[0] = max([state[0], batch.watermark_us, *(time - self.lateness_us for time in times)])
        rows = [as_keys(pa.array(keys, pa.string())), pa.array(times, pa.int64()).cast(TIME.type), pa.array(values)]
        rows[2] = rows[2].cast(pa.int64())
        return state, [*out, Batch(pa.RecordBatch.from_arrays(rows, schema=ROWS), state[0])]

    def dump(self, state: list[int]) -> pa.Table:
        return pa.table({"key": ["time"], "latest": [state[0]]})

    def load(self, table: pa.Table) -> list[int]:
        return [table["latest"][0].as_py()]


def rejected(bad: Sequence[tuple[bytes, int]]) -> pa.RecordBatch:
    n = len(bad)
    text = pa.array([""] * n)
    return pa.RecordBatch.from_arrays(
        [
            as_keys(text),
            pa.array([0] * n, pa.int64()).cast(TIME.type),
            text,
            text,
            pa.array([position for _, position in bad], pa.int64()),
            pa.array(["json_syntax"] * n),
            text,
            pa.array([payload for payload, _ in bad], pa.binary()),
            text,
        ],
        schema=REJECTED_SCHEMA,
    )


class Sum(Operator):
    """Adds the running sum of each key: depends on every row before, in order, so that one lost or doubled shows."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        return SUMS

    def initial(self) -> dict[str, list[int]]:
        return {}

    def step(self, state: dict[str, list[int]], batch: Batch) -> tuple[dict[str, list[int]], Sequence[Batch]]:
        sums, seen = [], []
        for key, value in zip(batch.rows["key"].to_pylist(), batch.rows["value"].to_pylist(), strict=True):
            mine = state.setdefault(key, [0, 0])
            mine[0] = (31 * mine[0] + value) % 1_000_003
            mine[1] += 1
            sums.append(mine[0])
            seen.append(mine[1])
        rows = [batch.rows["key"], batch.rows["time"], pa.array(sums, pa.int64()), pa.array(seen, pa.int64())]
        return state, [batch.with_rows(pa.RecordBatch.from_arrays(rows, schema=SUMS))]

    def dump(self, state: dict[str, list[int]]) -> pa.Table:
        keys = sorted(state)
        return pa.table(
            {
                "key": pa.array(keys, pa.string()),
                "sum": pa.array([state[k][0] for k in keys], pa.int64()),
                "seen": pa.array([state[k][1] for k in keys], pa.int64()),
            }
        )

    def load(self, table: pa.Table) -> dict[str, list[int]]:
        return {row["key"]: [row["sum"], row["seen"]] for row in table.to_pylist()}


class Every(Operator):
    """Counts rows in tumbling windows of event time; a window is emitted when the watermark has passed it."""

    size_us: int = 10

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        return ROWS

    def initial(self) -> dict[str, Any]:
        return {"open": {}, "until": START}

    def step(self, state: dict[str, Any], batch: Batch) -> tuple[dict[str, Any], Sequence[Batch]]:
        windows = state["open"]
        for key, time in zip(batch.rows["key"].to_pylist(), times_us(batch.rows).tolist(), strict=True):
            start = time // self.size_us * self.size_us
            windows[start, key] = windows.get((start, key), 0) + 1
        state["until"] = max(state["until"], batch.watermark_us)
        done = sorted(w for w in windows if w[0] + self.size_us <= state["until"])
        rows = pa.RecordBatch.from_arrays(
            [
                as_keys(pa.array([key for _, key in done], pa.string())),
                pa.array([start for start, _ in done], pa.int64()).cast(TIME.type),
                pa.array([windows.pop(w) for w in done], pa.int64()),
            ],
            schema=ROWS,
        )
        until = state["until"]
        held = until if until in (START, END) else min([until, *(w[0] for w in windows)])
        return state, [Batch(rows, held)]

    def dump(self, state: dict[str, Any]) -> pa.Table:
        if not state["open"]:
            return NO_STATE
        windows = sorted(state["open"].items(), key=lambda item: (item[0][1], item[0][0]))
        columns = [
            ["", *(key for (_, key), _ in windows)],
            [state["until"], *(start for (start, _), _ in windows)],
            [0, *(count for _, count in windows)],
        ]
        return pa.table(dict(zip(("key", "start", "count"), columns, strict=True)))

    def load(self, table: pa.Table) -> dict[str, Any]:
        first, *rows = table.to_pylist()
        return {"open": {(r["start"], r["key"]): r["count"] for r in rows}, "until": first["start"]}


class Odd(Operator):
    """Keeps rows with an odd value: what becomes an alert."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        return input

    def initial(self) -> None:
        return None

    def step(self, state: None, batch: Batch) -> tuple[None, Sequence[Batch]]:
        odd = pc.equal(pc.bit_wise_and(batch.rows["value"], 1), 1)
        return None, [batch.with_rows(batch.rows.filter(odd))]

    def dump(self, state: None) -> pa.Table:
        return NO_STATE

    def load(self, table: pa.Table) -> None:
        return None


class Bell(Channel):
    """Delivers into a list."""

    URGENT: ClassVar[bool] = True
    rung: Any = None

    def messages(self, rows: pa.RecordBatch) -> Sequence[Message]:
        found = zip(rows["key"].to_pylist(), times_us(rows).tolist(), rows["value"].to_pylist(), strict=True)
        return [Message(f"{key}/{time}/{value}", b"ring") for key, time, value in found]

    def open(self, world: World) -> Delivery:
        return BellDelivery(self.rung)


class BellDelivery:
    def __init__(self, rung: Any) -> None:
        self.rung = rung

    def deliver(self, messages: Sequence[Message]) -> None:
        self.rung.extend(message.id for message in messages)

    def counters(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        pass


class Kept(Sink):
    """A table in memory, for runs without faults."""

    table: Any

    def place(self) -> Mapping[str, Any]:
        return {}

    def open(self, world: World, schema: pa.Schema) -> Writer:
        return KeptWriter(self.table)


class KeptWriter:
    """``table`` is a dict: epoch to rows."""

    def __init__(self, table: dict[int, list[dict[str, Any]]]) -> None:
        self.table = table
        self.staged: list[dict[str, Any]] = []

    def stage(self, epoch: int, rows: Sequence[pa.RecordBatch]) -> Token:
        return {"rows": [_plain(row) for batch in rows for row in batch.to_pylist()]}

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        if epoch > (self.published() or 0):
            self.table[epoch] = [row for token in tokens for row in token["rows"]]

    def published(self) -> int | None:
        return max(self.table, default=None)

    def discard(self, keep: Sequence[Token]) -> None:
        pass

    def housekeep(self) -> None:
        pass

    def counters(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        pass


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if name in ("time", "payload") else value for name, value in row.items()}


def plan(
    folder: Path,
    source: Source,
    sink: Any,
    channel: Channel,
    *,
    checkpoint_us: int = 1_000,
    memory_bytes: int = 1 << 20,
) -> Plan:
    """source -> parse -> (rows, sums, windows -> odd -> alerts), rejected; three tables and a channel."""
    parse, total, every, odd = Parse(), Sum(), Every(), Odd()
    sides = {OUT: ROWS, REJECTED: REJECTED_SCHEMA}
    return Plan(
        name="simulated",
        sources=(SourceNode("in", source, (parse,), sides, 10**12),),
        steps=(
            Step("sum", total, (("in", OUT),), ROWS, {OUT: SUMS}),
            Step("every", every, (("in", OUT),), ROWS, {OUT: ROWS}),
            Step("odd", odd, (("every", OUT),), ROWS, {OUT: ROWS}),
        ),
        sinks=(
            SinkNode("sums", (("sum", OUT),), sink("sums"), SUMS),
            SinkNode("windows", (("every", OUT),), sink("windows"), ROWS),
            SinkNode("quarantine", (("in", REJECTED),), sink("quarantine"), REJECTED_SCHEMA),
            SinkNode("bell", (("odd", OUT),), channel, ROWS),
        ),
        streams={"sums": (("sum", OUT),), "windows": (("every", OUT),)},
        folder=folder / "lake",
        state_folder=folder / "state",
        checkpoint_us=checkpoint_us,
        memory_bytes=memory_bytes,
        lag_bytes=1 << 30,
    )


def payloads(seed: int, rows: int, keys: Sequence[str]) -> tuple[bytes, ...]:
    """Rows up to 4 us out of order, one in ten of them no row at all."""
    random = np.random.default_rng(seed)
    lines = []
    for time in range(rows):
        if random.random() < 0.1:
            lines.append(b"bad %d-%d" % (seed, time))
        else:
            lines.append(f"{random.choice(keys)},{time * 2 + random.integers(5)},{random.integers(100)}".encode())
    return tuple(lines)
