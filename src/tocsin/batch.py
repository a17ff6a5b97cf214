"""What flows: a batch of rows with the event-time watermark and the port they leave by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

START = -(2**63)
"""The watermark before anything is known."""
END = 2**63 - 1
"""The watermark after which nothing follows."""
REST = START + 1
"""In place of a source's watermark: nothing more comes in this run, but the next one goes on, and no window ends."""

OUT = "out"
LATE = "late"
REJECTED = "rejected"
NEW = "new"
"""The port by which signals are told that a machine has not had before."""
ACTIONS = "actions"
"""The port by which what operators do (acknowledge, shelve ...) reaches an alarm step."""

KEY_TYPE = pa.dictionary(pa.int32(), pa.string())
TIME_TYPE = pa.timestamp("us", tz="UTC")
KEY = pa.field("key", KEY_TYPE, nullable=False)
"""Which machine or series a row belongs to."""
STEP = "/"
"""Stands between the steps of a key's path: ``hall/press``."""
TIME = pa.field("time", TIME_TYPE, nullable=False)
"""When it happened, there."""

RAW = pa.schema(
    [
        pa.field("payload", pa.binary(), nullable=False),
        pa.field("topic", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("received", TIME_TYPE, nullable=False),
    ]
)
"""Undecoded records: the bytes; the topic or file they came by; where in it (byte or sequence); when they arrived."""
RAW_WITH_METADATA = pa.schema(
    [
        *RAW,
        pa.field("key", pa.binary()),
        pa.field("sent", TIME_TYPE),
        pa.field("attributes", pa.map_(pa.string(), pa.binary())),
    ]
)
"""Undecoded records of a source whose records carry more than a payload (Kafka's key, timestamp and headers): the key
they are partitioned by; when they were sent, by the clock of the sender or the broker; further values by name."""
HEADER = -1
"""The position of a file's first line where that is no reading, but names the columns of the lines after it."""

RECORD = "\0record"
"""Hidden column beside rows on their way through a source's chain: the number of the record that each came from, so
that the bytes of a row that is set aside there can be kept."""

REJECTED_SCHEMA = pa.schema(
    [
        KEY,
        TIME,
        pa.field("source", pa.string(), nullable=False),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)
"""Rows set aside: time is the arrival, key the device where it is known, else empty; see `rejected`."""
QUARANTINED_BYTES = 64 * 1024
"""How much of a payload that is set aside is kept; its sha256 is of all of it. Of several rows of one record that are
set aside for their key or their time, the first has the payload; the others have its sha256, and no bytes."""

ACTIONS_SCHEMA = pa.schema(
    [
        TIME,
        pa.field("alarm", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("by", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("until", TIME_TYPE),
        pa.field("assignee", pa.string(), nullable=False),
    ]
)
"""What operators do with alarms: when, to which alarm (its id), what, who, why, until when (shelving), and for whom."""

_WORDS: Mapping[str, Sequence[Callable[[pa.DataType], bool]]] = {
    "text": (pt.is_string, pt.is_large_string),
    "whole number": (pt.is_integer,),
    "number": (pt.is_floating, pt.is_decimal),
    "time": (pt.is_timestamp,),
    "day": (pt.is_date,),
    "duration": (pt.is_duration,),
    "yes or no": (pt.is_boolean,),
    "bytes": (pt.is_binary, pt.is_large_binary),
}

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Lane:
    """One of several things that a split is read from in turn, as its files: each has a time of its own.

    The watermark of the split is the least of all lanes that have begun and not ended.
    """

    name: str
    """The lane that the rows of the batch belong to."""
    begun: Mapping[str, int] = field(default_factory=dict)
    """Lanes that hold the watermark from before this batch on, each at the time of its first row (`START`: unknown)."""
    ended: tuple[str, ...] = ()
    """Lanes that no longer hold it after this batch."""
    only: bool = False
    """Whether lanes that are not in ``begun`` are forgotten: this is the first batch after a start."""


@dataclass(frozen=True, slots=True)
class Apart:
    """How far keys may be apart, where each has a time of its own: in microseconds."""

    lateness_us: int
    """No row of a key follows that is so much older than the key's newest one."""
    most_us: int
    """No row of any key follows that is so much older than the watermark."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows, and how far event time has come once they are seen.

    The watermark says: no row with an earlier ``time`` follows, except on the port ``late``; with ``apart`` this holds
    within its bounds only. It travels with the rows, so time is data. An empty batch whose watermark has moved is a
    tick; one at `END` is the end.
    """

    rows: pa.RecordBatch
    watermark_us: int = START
    port: str = OUT
    lane: Lane | None = None
    """Where a source reads several things in turn: the one that these rows are of."""
    apart: Apart | None = None
    """Where each key has a time of its own, and rows of one may be older than the watermark: how much."""

    @property
    def schema(self) -> pa.Schema:
        return self.rows.schema

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    # Written out: dataclasses.replace costs four times as much, and a small batch is changed a dozen times on its way.

    def with_rows(self, rows: pa.RecordBatch) -> Batch:
        return Batch(rows, self.watermark_us, self.port, self.lane, self.apart)

    def on_port(self, port: str) -> Batch:
        return Batch(self.rows, self.watermark_us, port, self.lane, self.apart)

    def until(self, watermark_us: int) -> Batch:
        return Batch(self.rows, watermark_us, self.port, self.lane, self.apart)


def in_words(type: pa.DataType) -> str:
    """Returns what a column holds, as people say it.

    Examples
    --------
    >>> [in_words(type) for type in (KEY_TYPE, TIME_TYPE, pa.float64(), pa.int64(), pa.list_(pa.float32()))]
    ['text', 'time', 'number', 'whole number', 'list of numbers']
    """
    if pt.is_dictionary(type):
        return in_words(type.value_type)
    if pt.is_list(type) or pt.is_large_list(type) or pt.is_fixed_size_list(type):
        inner = in_words(type.value_type)
        return f"list of {inner if inner in ('text', 'yes or no') else inner + 's'}"
    for word, suits in _WORDS.items():
        if any(one(type) for one in suits):
            return word
    return str(type)


def is_undecoded(schema: pa.Schema) -> bool:
    """Returns whether the rows of a source are undecoded records, with or without metadata."""
    return bool(schema.equals(RAW) or schema.equals(RAW_WITH_METADATA))


def empty(schema: pa.Schema) -> pa.RecordBatch:
    """No rows of a schema."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def tick(schema: pa.Schema, watermark_us: int) -> Batch:
    """An empty batch that only says how far time has come."""
    return Batch(empty(schema), watermark_us)


def with_records(rows: pa.RecordBatch, origin: Ints | None) -> pa.RecordBatch:
    """Returns rows with the column `RECORD`; None: each came from a record of its own."""
    count = rows.num_rows
    numbers = _numbers(1 << count.bit_length()).slice(0, count) if origin is None else pa.array(origin, pa.int64())
    return rows.append_column(RECORD, numbers)


@lru_cache(maxsize=4)
def _numbers(count: int) -> pa.Array:
    """The numbers from 0 on; to count anew for each batch costs 1 ns a row."""
    return pa.array(np.arange(count), pa.int64())


def rejected(
    keys: pa.Array, times: pa.Array, reasons: Sequence[str], details: Sequence[str], payloads: Sequence[bytes],
    topics: pa.Array | None = None, positions: pa.Array | None = None, digests: Sequence[str] | None = None,
) -> pa.RecordBatch:  # fmt: skip
    """Returns rows set aside as `REJECTED_SCHEMA`; ``keys`` is a column of keys, or of text.

    ``digests`` are the sha256 of the payloads, where a payload is left out because another row has it.
    """
    count = len(payloads)
    return pa.RecordBatch.from_arrays(
        [
            as_keys(keys),
            times,
            pa.repeat("", count),
            pa.repeat("", count) if topics is None else topics.cast(pa.string()),
            pa.repeat(pa.scalar(-1, pa.int64()), count) if positions is None else positions,
            pa.array(reasons, pa.string()),
            pa.array([detail.encode("utf-8", "replace").decode() for detail in details], pa.string()),
            pa.array([payload[:QUARANTINED_BYTES] for payload in payloads], pa.binary()),
            pa.array(digests or [hashlib.sha256(payload).hexdigest() for payload in payloads], pa.string()),
        ],
        schema=REJECTED_SCHEMA,
    )


def floats(column: pa.Array) -> Floats:
    """A numeric column as float64, shape (rows,); null becomes NaN."""
    if column.type != pa.float64():
        column = pc.cast(column, pa.float64(), safe=False)
    if column.null_count:
        column = column.fill_null(np.nan)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def as_numbers(values: Floats) -> pa.Array:
    """The reverse of `floats`: NaN becomes null."""
    if len(values) < 4096:  # what is faster depends on the length
        return pa.array(values, pa.float64(), from_pandas=True)
    column = pa.array(values, pa.float64())
    if not np.isnan(values).any():
        return column
    return pc.if_else(pc.is_nan(column), None, column)


def times_us(rows: pa.RecordBatch, column: str = "time") -> Ints:
    """The time column as int64 microseconds since 1970, shape (rows,)."""
    times = rows.column(column)
    # A view costs 3 µs, a cast 30.
    whole = times.view(pa.int64()) if times.type == TIME_TYPE else times.cast(TIME_TYPE).view(pa.int64())
    return np.asarray(whole.to_numpy(zero_copy_only=False))


def as_times(us: Ints) -> pa.Array:
    """The reverse of `times_us`."""
    return pa.array(us, pa.int64()).view(TIME_TYPE)


def as_keys(column: pa.Array) -> pa.Array:
    """A column of text as keys (dictionary of int32 to text)."""
    return column if column.type == KEY_TYPE else column.cast(pa.string()).dictionary_encode().cast(KEY_TYPE)


def short_id(*parts: object) -> str:
    """Returns 16 hex digits that name something by its parts, the same in every run."""
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:16]


def to_batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Returns rows as one record batch; times are given in microseconds."""
    if not rows:
        return _empty(schema)
    return pa.RecordBatch.from_arrays([_column([row[f.name] for row in rows], f) for f in schema], schema=schema)


@lru_cache(maxsize=8)
def _empty(schema: pa.Schema) -> pa.RecordBatch:
    """Most batches of events hold none: building their empty columns costs 100 µs, once."""
    return empty(schema)


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    if field.type == TIME_TYPE:
        return pa.array(values, pa.int64()).cast(TIME_TYPE)
    if field.type == KEY_TYPE:
        return pa.array(values, pa.string()).dictionary_encode().cast(KEY_TYPE)
    return pa.array(values, field.type)


def as_one(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Returns batches of one schema, at least one, as one; their keys may stand in dictionaries of their own."""
    some = [rows for rows in batches if rows.num_rows] or batches[:1]
    if len(some) == 1:
        return some[0]
    (rows,) = pa.Table.from_batches(some).unify_dictionaries().combine_chunks().to_batches()
    return rows


def ipc_stream(batches: Sequence[pa.RecordBatch]) -> bytes:
    """Returns batches of one schema, at least one, as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as stream:
        for rows in batches:
            stream.write_batch(rows)
    return bytes(sink.getvalue())
