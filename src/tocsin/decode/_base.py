"""What all decoders share: declared columns, columns from the topic, limits, and rows set aside with their reason."""

from __future__ import annotations

import hashlib
import re
import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, field_validator

from tocsin.bases import require
from tocsin.batch import KEY_TYPE, OUT, RAW, REJECTED, REJECTED_SCHEMA, TIME_TYPE, Batch, Ints, as_times, empty
from tocsin.contracts import Operator
from tocsin.decode._reasons import Bad
from tocsin.decode._scan import offsets
from tocsin.errors import SchemaError
from tocsin.settings import Settings
from tocsin.settings.quantities import Size
from tocsin.state import NO_STATE
from tocsin.values.times import parse_times

DEPTH_MAX = 32
RATIO_MAX = 100
QUARANTINED_BYTES = 64 * 1024
"""How much of a rejected payload is kept; its sha256 is of all of it."""
INT_END = 2**63

TYPES: Mapping[str, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "category": KEY_TYPE,
    "bool": pa.bool_(),
    "timestamp": TIME_TYPE,
}


class Column(Settings):
    """One column: its type, and where in a record it stands."""

    type: Literal["int", "float", "text", "category", "bool", "timestamp"]
    """``category`` is text of few different values, such as names; ``timestamp`` is RFC 3339 or an epoch number."""
    path: str | None = None
    """Where it stands, if not under its own name: ``a.b.c`` for nested fields, ``values.0`` for a place in an array."""
    optional: bool = False
    """Whether it may be missing; then it is null."""
    unit: Literal["s", "ms", "us", "ns", "auto"] | None = None
    """Unit of epoch numbers, for a timestamp."""
    zone: str | None = None
    """Zone of local times, as ``Europe/Berlin``, for a timestamp."""

    @property
    def arrow(self) -> pa.DataType:
        return TYPES[self.type]


def _columns(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    named: dict[str, Any] = {}
    for name, spec in value.items():
        slug = re.sub(r"\W+", "_", str(name)).strip("_")
        settings = {"type": spec} if isinstance(spec, str) else spec
        if slug != name and isinstance(settings, Mapping):
            settings = {"path": str(name), **settings}
        if not slug or slug.casefold() in {other.casefold() for other in named}:
            raise ValueError(f"column '{name}' is called '{slug}', which is taken or empty; name it and give its path")
        named[slug] = settings
    return named


Columns = Annotated[Mapping[str, Column], BeforeValidator(_columns, json_schema_input_type=dict[str, str | Column])]


@dataclass(slots=True)
class Rejects:
    """Rows set aside so far in a batch."""

    rows: list[int] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    parts: list[bytes | None] = field(default_factory=list)
    """The bytes of the one bad row, where they are known, else the whole payload counts."""

    def add(self, row: int, bad: Bad, part: bytes | None = None) -> None:
        self.rows.append(row)
        self.bad.append(bad)
        self.parts.append(part)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Columns as declared, and the record that each of their rows comes from (None: row i from record i)."""

    arrays: Sequence[pa.Array]
    origin: Ints | None


class Decoder(Operator):
    """From undecoded records (`RAW`) to typed rows: the declared columns, those from the topic, and ``received``."""

    columns: Columns
    """Name and type (int, float, text, category, bool, timestamp) of each column, or its type with further settings."""
    topic: str | None = None
    """Template of the topic, as ``plant/{machine}/+``; what stands at a name in braces becomes a column."""
    payload_max: Size = 256 * 1024
    """Larger payloads are set aside unread."""
    compression: Literal["gzip"] | None = None
    """Whether payloads are compressed (gzip or zlib); they may swell to payload_max, and a hundredfold."""

    @field_validator("topic")
    @classmethod
    def _topic_is_a_template(cls, topic: str | None) -> str | None:
        if topic is not None:
            _topic_pattern(topic)
        return topic

    @abstractmethod
    def decode(self, state: Any, payloads: pa.Array, numbers: Ints | None, rejects: Rejects) -> Decoded:
        """Decode payloads, none of them empty; ``numbers`` are their rows in the batch (None: 0, 1, 2 ...)."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for name in RAW.names:
            require(input, name, self.name())
        return self.decoded_schema

    @cached_property
    def decoded_schema(self) -> pa.Schema:
        fields = [pa.field(name, c.arrow, nullable=c.optional) for name, c in self.columns.items()]
        if self.topic is not None:
            fields += [pa.field(name, KEY_TYPE, nullable=False) for name in _topic_pattern(self.topic).groupindex]
        fields.append(RAW.field("received"))
        names = [f.name for f in fields]
        if twice := [n for n in names if names.count(n) > 1]:
            raise SchemaError(f"{self.name()} would make two columns '{twice[0]}'; rename one")
        return pa.schema(fields)

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {REJECTED: REJECTED_SCHEMA}

    def dump(self, state: Any) -> pa.Table:
        return NO_STATE

    def load(self, table: pa.Table) -> Any:
        return self.initial()

    def initial(self) -> Any:
        return None

    def step(self, state: Any, batch: Batch) -> tuple[Any, Sequence[Batch]]:
        schema = self.decoded_schema
        if not len(batch):
            return state, (batch.with_rows(empty(schema)),)
        rows, rejects = batch.rows, Rejects()
        payloads, numbers = self._admitted(rows, rejects)
        decoded = self.decode(state, payloads, numbers, rejects)
        origin = decoded.origin
        if numbers is not None:
            origin = numbers if origin is None else numbers[origin]
        sources = [*self._topic_columns(rows.column("topic")), rows.column("received")]
        if origin is not None:
            at = pa.array(origin)
            sources = [column.take(at) for column in sources]
        out = Batch(pa.RecordBatch.from_arrays([*decoded.arrays, *sources], schema=schema), batch.watermark_us)
        if not rejects.rows:
            return state, (out,)
        return state, (Batch(rejected(rows, rejects), batch.watermark_us, REJECTED), out)

    def _admitted(self, rows: pa.RecordBatch, rejects: Rejects) -> tuple[pa.Array, Ints | None]:
        """The payloads worth decoding, unpacked; and their rows, unless they are all."""
        payloads, topics = rows.column("payload"), rows.column("topic")
        ends = offsets(payloads)
        sizes = ends[1:] - ends[:-1]
        wrong = (sizes == 0) | (sizes > self.payload_max)
        if self.topic is None and self.compression is None and not np.count_nonzero(wrong):
            return payloads, None
        for i in np.flatnonzero(wrong).tolist():
            reason = "too_large" if sizes[i] else "empty"
            rejects.add(i, Bad(reason, f"{sizes[i]} bytes, at most {self.payload_max} are taken"))
        if self.topic is not None:
            pattern = _topic_pattern(self.topic)
            fits = np.array([bool(t and pattern.fullmatch(t)) for t in topics.dictionary.to_pylist()], bool)
            strange = ~fits[topics.indices.to_numpy(zero_copy_only=False)] & ~wrong
            for i in np.flatnonzero(strange).tolist():
                rejects.add(i, Bad("topic", f"does not fit {self.topic}"))
            wrong |= strange
        numbers = None
        if wrong.any():
            numbers = np.flatnonzero(~wrong)
            payloads = payloads.take(pa.array(numbers))
        if self.compression is None:
            return payloads, numbers
        unpacked, kept = [], []
        for i, payload in enumerate(payloads.to_pylist()):  # zlib costs more than the loop
            row = i if numbers is None else int(numbers[i])
            try:
                unpacked.append(_unpacked(payload, self.payload_max))
                kept.append(row)
            except Bad as bad:
                rejects.add(row, bad)
        return pa.array(unpacked, pa.binary()), np.array(kept, np.int64)

    def _topic_columns(self, topics: pa.Array) -> list[pa.Array]:
        if self.topic is None:
            return []
        pattern = _topic_pattern(self.topic)
        found = [pattern.fullmatch(t or "") for t in topics.dictionary.to_pylist()]
        columns = []
        for name in pattern.groupindex:
            words = pa.array([m[name] if m else "" for m in found], pa.string())
            codes = pc.index_in(words, words)  # two topics may give the same word
            columns.append(pa.DictionaryArray.from_arrays(codes.take(topics.indices), words))
        return columns


class Builder:
    """Rows made one by one, for records that no compiled loop could take; times are read all at once at the end."""

    def __init__(self, columns: Mapping[str, Column], rejects: Rejects) -> None:
        self._columns = columns
        self._rejects = rejects
        self._values: list[list[Any]] = []
        self._origin: list[int] = []
        self._batch_rows: list[int] = []
        self._parts: list[bytes | None] = []

    def add(self, origin: int, batch_row: int, values: list[Any], part: bytes | None = None) -> None:
        self._values.append(values)
        self._origin.append(origin)
        self._batch_rows.append(batch_row)
        self._parts.append(part)

    def __len__(self) -> int:
        return len(self._values)

    def finish(self) -> tuple[list[pa.Array], Ints]:
        """The columns, and the record that each row comes from."""
        stamps: dict[str, pa.Array] = {}
        good = np.ones(len(self._values), bool)
        for c, (name, column) in enumerate(self._columns.items()):
            if column.type != "timestamp":
                continue
            raw = [values[c] for values in self._values]
            stamps[name], reasons = parse_times(pa.array(raw, pa.string()), column.unit, column.zone)
            refused = np.array([v is not None for v in raw], bool)
            refused &= stamps[name].is_null().to_numpy(zero_copy_only=False)
            for i in np.flatnonzero(refused & good).tolist():
                bad = Bad(reasons[i].as_py(), f"{name}: {str(raw[i])[:100]!r}")
                self._rejects.add(self._batch_rows[i], bad, self._parts[i])
            good &= ~refused
        keep = pa.array(good)
        arrays = []
        for c, (name, column) in enumerate(self._columns.items()):
            array = stamps.get(name)
            if array is None:
                made = pa.array(
                    [v[c] for v in self._values], pa.string() if column.type == "category" else column.arrow
                )
                array = made.dictionary_encode() if column.type == "category" else made
            arrays.append(array if good.all() else array.filter(keep))
        return arrays, np.array(self._origin, np.int64)[good]


def from_text(name: str, column: Column, text: str, decimal: str = ".") -> Any:
    """The value of a text field as its column's type (a timestamp stays text); `Bad` if it is none."""
    if not text:
        if column.optional:
            return None
        raise Bad("missing_field", f"{name} is required, and empty")
    match column.type:
        case "int":
            if not _INT.fullmatch(text):
                raise Bad("type", f"{name}: {text[:100]!r} is no int")
            if len(text) > 400 or not -INT_END <= (number := int(text)) < INT_END:
                raise Bad("number_range", f"{name}: {text[:100]} does not fit 64 bits")
            return number
        case "float":
            plain = text if decimal == "." else text.replace(".", "x").replace(decimal, ".")
            if not _FLOAT.fullmatch(plain):
                raise Bad("type", f"{name}: {text[:100]!r} is no number")
            return finite(name, float(plain))
        case "bool":
            if text.lower() not in _BOOLS:
                raise Bad("type", f"{name}: {text[:100]!r} is neither true nor false")
            return _BOOLS[text.lower()]
        case "category":
            return without_null(name, text)
    return text


_INT = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


def finite(name: str, number: float) -> float:
    """The number, -0.0 as 0.0; `Bad` if it overflowed."""
    if number in (np.inf, -np.inf):
        raise Bad("number_range", f"{name} does not fit a 64-bit float")
    return number + 0.0


def without_null(name: str, text: str) -> str:
    if "\0" in text:
        raise Bad("encoding", f"{name}: a null character in a name")
    return text


def utf8(payload: bytes) -> str:
    """The text of a payload, without its byte order mark."""
    try:
        text = payload.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        raise Bad("encoding", f"not UTF-8 at byte {error.start}") from error
    if "\0" in text[:4]:
        raise Bad("encoding", "UTF-16 or UTF-32, or binary")
    return text


def merged(fast: Sequence[pa.Array], matched: Ints, builder: Builder) -> Decoded:
    """Rows that a scanner took, and those taken one by one, in the order of their records."""
    slow, origin = builder.finish()
    if not len(origin):
        return Decoded(fast, matched)
    both = np.concatenate([matched, origin])
    order = np.argsort(both, kind="stable")
    at = pa.array(order)
    return Decoded([pa.concat_arrays([a, b]).take(at) for a, b in zip(fast, slow, strict=True)], both[order])


def rejected(rows: pa.RecordBatch, rejects: Rejects) -> pa.RecordBatch:
    """The rows set aside, in the order in which they came."""
    order = np.argsort(np.array(rejects.rows), kind="stable")
    at = pa.array(np.array(rejects.rows, np.int64)[order])
    came = rows.take(at)
    whole = came.column("payload").to_pylist()
    bad = [rejects.bad[i] for i in order]
    parts = [rejects.parts[i] for i in order]
    payloads = [p if part is None else part for p, part in zip(whole, parts, strict=True)]
    count = len(bad)
    return pa.RecordBatch.from_arrays(
        [
            pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([""])),
            came.column("received"),
            pa.array([""] * count),
            came.column("topic").cast(pa.string()),
            came.column("position"),
            pa.array([b.reason for b in bad]),
            pa.array([b.detail.encode("utf-8", "replace").decode() for b in bad]),
            pa.array([p[:QUARANTINED_BYTES] for p in payloads], pa.binary()),
            pa.array([hashlib.sha256(p).hexdigest() for p in payloads]),
        ],
        schema=REJECTED_SCHEMA,
    )


def raw(payloads: list[bytes], topic: str = "", received_us: int = 0) -> pa.RecordBatch:
    """Undecoded records from their bytes, for examples and tests."""
    count = len(payloads)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(payloads, pa.binary()),
            pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([topic])),
            pa.array(range(count), pa.int64()),
            as_times(np.full(count, received_us)),
        ],
        schema=RAW,
    )


def _unpacked(payload: bytes, bytes_max: int) -> bytes:
    limit = min(bytes_max, RATIO_MAX * len(payload))
    unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
    try:
        found = unpacker.decompress(payload, limit + 1)
    except zlib.error as error:
        raise Bad("compression", str(error)) from error
    if len(found) > limit:
        raise Bad("too_large", f"more than {limit} bytes once unpacked")
    if not unpacker.eof:
        raise Bad("compression", "ends too early")
    if unpacker.unused_data:
        raise Bad("compression", f"{len(unpacker.unused_data)} bytes follow the end")
    if not found:
        raise Bad("empty", "no bytes once unpacked")
    return found


def _topic_pattern(template: str) -> re.Pattern[str]:
    """A template as a pattern: ``{name}`` and ``+`` stand for one level, ``#`` for the rest."""
    levels, seen = [], set()
    for level in template.split("/"):
        if name := re.fullmatch(r"\{([A-Za-z_]\w*)\}", level):
            if name[1] in seen:
                raise ValueError(f"topic template {template!r} names '{name[1]}' twice")
            seen.add(name[1])
            levels.append(f"(?P<{name[1]}>[^/]+)")
        elif level == "+":
            levels.append("[^/]*")
        elif level == "#":
            levels.append(".*")
        elif set(level) & set("{}+#"):
            raise ValueError(f"topic template {template!r}: a level is a word, {{name}}, + or #")
        else:
            levels.append(re.escape(level))
    return re.compile("/".join(levels), re.DOTALL)


__all__ = ["OUT", "Builder", "Column", "Columns", "Decoded", "Decoder", "Rejects"]
