"""What the engine tells the page: the one schema of the wire between them, which both ends check.

A frame is four bytes of length, one byte of kind, and the body. `ROWS` is an Arrow IPC stream whose schema carries the
`StreamColumns` as JSON, and how many series take turns; `COUNTERS` is `Counted` as JSON, `LAST_ROWS` is `LastRows`. The
page sends one thing, `LOOK`: the ids of the parts whose last rows somebody looks at.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Collection
from typing import Literal

import msgspec
import pyarrow as pa
import pyarrow.types as pt

from tocsin.bases import judged
from tocsin.contracts import Sink
from tocsin.domain.alarm_rows import KNOWN_BY
from tocsin.pipeline.plan import Plan, Port

HEADER = struct.Struct(">IB")
ROWS = 1
COUNTERS = 2
LAST_ROWS = 3
LOOK = 4
FRAME_BYTES_MAX = 64 * 2**20
COLUMNS_MAX = 64
"""Columns of numbers of one stream that are shown."""
BAND = ("expected", "lower", "upper", "score")
"""A detector's verdict."""
FORECAST = {"expected": "yhat", "lower": "yhat_lower", "upper": "yhat_upper"}
"""The same of a step that forecasts: what it calls it."""

FORETOLD = ("y", "yhat", "yhat_lower", "yhat_upper")
"""A forecast, with the reading that came."""
LIFE = ("rul", "rul_lower", "rul_upper", "rul_confidence")
"""A remaining life, in readings."""

_STREAM = b"stream"
_IN_TURN = b"in_turn"
_NOT_VALUES = {
    *BAND,
    *LIFE[1:],
    "window_end",
    "received",
    "position",
    "key",
    "time",
    "late",
    "spectrum_step",
    "envelope_step",
}
_NOT_VALUES_OF_FORECAST = {*FORECAST.values(), "ahead", "ahead_lower", "ahead_upper", "until_ready", "version"}
_OF_AN_EPISODE = frozenset({"state", "since", "depth", "why"})
"""What `health` says of each row beside its verdict; ``depth`` is a number, and no reading."""
_MACHINE = ("machine", "device", "asset")


class StreamColumns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the rows of a stream mean: which column is what."""

    name: str
    """The stream's name in the pipeline."""
    kind: Literal["readings", "alarms"]
    """Alarm rows: the newest of each alarm counts. Else readings."""
    machine: str = "key"
    """The column that says which machine a row is of; the key stands in where it is null."""
    signal: str = ""
    """The column that names the signal; empty if each column of `values` is a signal."""
    values: tuple[str, ...] = ()
    """The columns with readings."""
    judged: str = ""
    """Which of them the verdict is about; empty if there is none, or it is not known."""
    band: tuple[tuple[str, str], ...] = ()
    """Which of `BAND` there are, each with the column that it stands in."""
    blamed: str = ""
    """The column that names the signal that a score is about, where the verdict is about several columns."""
    foretold: tuple[str, ...] = ()
    """The columns of a forecast, as `FORETOLD`; empty if there is none."""
    life: tuple[str, ...] = ()
    """The columns of a remaining life, as `LIFE`; empty if there is none."""
    state: str = ""
    """The column in which the machine says what it is doing; empty if there is none."""
    tables: tuple[str, ...] = ()
    """The tables that keep its rows or, where none does, the rows that it is made of; empty if that is not known."""

    @property
    def score_of_several(self) -> str | None:
        """The column with the score where each row says itself which of several columns it is about."""
        return dict(self.band).get("score") if self.blamed and not self.judged else None

    def columns(self) -> frozenset[str]:
        """Returns the columns that are shown; of alarms none is named: all plain ones are."""
        if self.kind == "alarms":
            return frozenset()
        shown = {"key", "time", self.machine, self.signal, self.blamed, self.state, *dict(self.band).values()}
        return frozenset({*shown, *self.values, *self.foretold, *self.life} - {""})


class Rejected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows set aside at one place for one reason."""

    source: str
    reason: str
    rows: int
    detail: str = ""
    """Of the first of them: what was wrong with it, often with a remedy."""


class PartCounted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What has left a source or a step."""

    rows: int
    """By port ``out``."""
    lag_s: float | None = None
    """How far its watermark is behind the clock; null before the first row and after the last."""


class Noticed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often a source or channel has noticed something."""

    source: str
    event: str
    count: int


class SinkLag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a sink lags behind."""

    lag_epochs: int
    """How many epochs wait for it."""
    lag_bytes: int = 0
    """How much of the disk they take."""
    reason: str | None = None
    """Why nothing is published right now, in words for people; null if nothing is wrong."""


class SourceSilence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how long a source has given nothing."""

    silent_s: float | None
    """Since its last rows; null before it has been opened."""
    splits: int = 0
    """How many of its splits are open."""
    reason: str | None = None
    """Why nothing comes right now, in words for people; null if it is not the source's doing."""
    backpressure: float | None = None
    """In which share of the last seconds it was not read, since what it had given before was not taken yet (0 to 1)."""


class Inferences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What trained models have cost a step since the engine started, or went back to its last checkpoint."""

    count: int
    """Calls of a model, each for many rows."""
    seconds: float
    """All of them together."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a channel has delivered; what was left waiting when the run ended, and why."""

    delivered: int = 0
    waiting: int = 0
    reason: str | None = None


class Counted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the engine has counted since it started (`engine.counters.Counters.snapshot`)."""

    rows_in: dict[str, int] = {}
    """By source."""
    rows_out: dict[str, int] = {}
    """By stream."""
    rows_into: dict[str, int] = {}
    """By sink or channel."""
    rung: dict[str, int] = {}
    """By step that makes alarms: how often one of them rang."""
    late: dict[str, int] = {}
    """By source or step."""
    rejected: tuple[Rejected, ...] = ()
    events: tuple[Noticed, ...] = ()
    parts: dict[str, PartCounted] = {}
    """By source or step."""
    lag_s: dict[str, float | None] = {}
    """By stream: how far its watermark is behind the clock; null before the first row and after the last."""
    epochs: int = 0
    epoch_ms: float = 0.0
    """How long the last epoch took to become durable."""
    epoch_ms_max: float = 0.0
    waiting_bytes: int = 0
    """What waits for the next checkpoint."""
    recoveries: int = 0
    config_taken: bool = True
    """False once the pipeline's file was to be read again, and was wrong."""
    trouble: str | None = None
    """Why nothing flows right now; null if all is well."""
    sinks: dict[str, SinkLag] = {}
    """By id."""
    sources: dict[str, SourceSilence] = {}
    """By id."""
    channels: dict[str, Outgoing] = {}
    """By id."""
    inferences: dict[str, Inferences] = {}
    """By step that has asked a trained model."""


Cell = float | int | str | bool | None


class RowColumn(msgspec.Struct, frozen=True):
    """A column of rows that somebody looks at."""

    name: str
    kind: str
    """``number``, ``time`` or ``text``."""


class LastRows(msgspec.Struct, frozen=True):
    """The newest rows that left a part by a port, the newest first."""

    part: str
    port: str
    columns: list[RowColumn]
    rows: list[list[Cell]]


def describe(name: str, schema: pa.Schema) -> StreamColumns:
    """Returns what the rows of a schema mean.

    Examples
    --------
    >>> from tocsin.bases import VERDICT, judging
    >>> temperatures = [pa.field(name, pa.float64()) for name in ("t_in", "t_out")]
    >>> key, time = pa.field("key", pa.string()), pa.field("time", pa.timestamp("us", "UTC"))
    >>> stream = describe("judged", pa.schema([key, time, *temperatures, *judging(VERDICT, "t_out")]))
    >>> stream.values, stream.judged
    (('t_in', 't_out'), 't_out')
    """
    names = set(schema.names)
    if names >= KNOWN_BY:
        return StreamColumns(name=name, kind="alarms")
    texts = {field.name for field in schema if _text(field.type)}
    machine = next((column for column in _MACHINE if column in texts), "key")
    numbers = [field.name for field in schema if _number(field.type)]
    long = "signal" in texts and "value" in numbers
    band = {name: name for name in BAND if name in numbers}
    forecast = "expected" not in band and set(FORECAST.values()) <= set(numbers)
    about = judged(schema, "expected") or judged(schema) or "value"
    hidden = _NOT_VALUES | ({"depth"} if names >= _OF_AN_EPISODE else set())
    if forecast:
        band |= FORECAST
        about = judged(schema, "yhat") or "y"
        about = about if about in numbers else "y"
        hidden |= _NOT_VALUES_OF_FORECAST | ({"y"} - {about})
    values = ("value",) if long else tuple(n for n in numbers if n not in hidden)[:COLUMNS_MAX]
    return StreamColumns(
        name=name,
        kind="readings",
        machine=machine,
        signal="signal" if long else "",
        values=values,
        judged=about if about in values else "",
        band=tuple(band.items()),
        blamed="signal" if "signal" in texts and not long and "score" in numbers else "",
        foretold=FORETOLD if set(FORETOLD) <= set(numbers) else (),
        life=LIFE if set(LIFE) <= set(numbers) else (),
        state="state" if "state" in texts else "",
    )


def streams_of(plan: Plan, names: Collection[str] = ()) -> tuple[StreamColumns, ...]:
    """Returns the streams of a plan that the page shows: all, unless some are named."""
    schemas = {(origin.id, port): schema for origin in plan.sources for port, schema in origin.schemas.items()}
    schemas |= {(step.id, port): schema for step in plan.steps for port, schema in step.schemas.items()}
    return tuple(
        msgspec.structs.replace(describe(name, schemas[ports[0]]), tables=_tables(plan, ports))
        for name, ports in plan.streams.items()
        if not names or name in names
    )


def _tables(plan: Plan, ports: Collection[Port]) -> tuple[str, ...]:
    """Returns the tables that keep what comes out there or, where none does, what goes in before it."""
    inputs = {step.id: step.inputs for step in plan.steps}
    kept: dict[Port, list[str]] = {}
    for target in plan.sinks:
        if isinstance(target.part, Sink) and target.part.name() == "delta":
            for port in target.inputs:
                kept.setdefault(port, []).append(str(target.part.place()["path"]))
    told: list[str] = []
    seen, waiting = set(ports), deque(ports)
    while waiting:
        port = waiting.popleft()
        told += kept.get(port, ())
        before = [] if port in kept else [one for one in inputs.get(port[0], ()) if one not in seen]
        seen.update(before)
        waiting.extend(before)
    return tuple(dict.fromkeys(told))


def frame(kind: int, body: bytes) -> bytes:
    """Returns a body with its header."""
    return HEADER.pack(len(body), kind) + body


def encode_rows(stream: StreamColumns, rows: pa.Table, in_turn: int = 0) -> bytes:
    """Returns rows as an Arrow IPC stream that carries what they mean.

    ``in_turn``: where more keys and signals have come than have a row here, how many; they take turns.
    """
    sink = pa.BufferOutputStream()
    carried = {_STREAM: msgspec.json.encode(stream), _IN_TURN: msgspec.json.encode(in_turn)}
    with pa.ipc.new_stream(sink, rows.schema.with_metadata(carried)) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def decode_rows(body: bytes) -> tuple[StreamColumns, pa.Table, int]:
    """Returns what `encode_rows` was given; ValueError if the rows do not have the columns that are named."""
    with pa.ipc.open_stream(body) as reader:
        stream = msgspec.json.decode(reader.schema.metadata[_STREAM], type=StreamColumns)
        checked(stream, reader.schema)
        in_turn = msgspec.json.decode(reader.schema.metadata[_IN_TURN], type=int)
        return stream, reader.read_all(), in_turn


def checked(stream: StreamColumns, schema: pa.Schema) -> None:
    """Raise ValueError, with the name of the column, if rows of this schema are not what the stream says."""
    if missing := (stream.columns() | {"key", "time"}) - set(schema.names):
        raise ValueError(f"stream '{stream.name}' lacks column '{min(missing)}'")
    if stream.kind == "alarms" and (missing := KNOWN_BY - set(schema.names)):
        raise ValueError(f"stream '{stream.name}' of alarms lacks column '{min(missing)}'")
    for name in (*stream.values, *dict(stream.band).values()):
        if not _number(schema.field(name).type):
            raise ValueError(f"column '{name}' of stream '{stream.name}' holds no numbers")


def encode_counted(counted: Counted) -> bytes:
    """Returns counters as JSON."""
    return msgspec.json.encode(counted)


def decode_counted(body: bytes) -> Counted:
    """Returns the reverse of `encode_counted`."""
    return msgspec.json.decode(body, type=Counted)


def encode_last_rows(rows: LastRows) -> bytes:
    """Returns rows that somebody looks at as JSON."""
    return msgspec.json.encode(rows)


def decode_last_rows(body: bytes) -> LastRows:
    """Returns the reverse of `encode_last_rows`."""
    return msgspec.json.decode(body, type=LastRows)


def encode_looked_at(parts: Collection[str]) -> bytes:
    """Returns the ids of the parts that somebody looks at as JSON."""
    return msgspec.json.encode(sorted(parts))


def decode_looked_at(body: bytes) -> list[str]:
    """Returns the reverse of `encode_looked_at`."""
    return msgspec.json.decode(body, type=list[str])


def _number(type: pa.DataType) -> bool:
    return bool(pt.is_integer(type) or pt.is_floating(type) or pt.is_boolean(type))


def _text(type: pa.DataType) -> bool:
    return bool(pt.is_string(type.value_type if pt.is_dictionary(type) else type))
