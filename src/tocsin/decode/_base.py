"""What all decoders share: declared columns, columns from the topic, limits, and compressed payloads."""

from __future__ import annotations

import re
import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator

from tocsin.bases import require
from tocsin.batch import KEY_TYPE, RAW, REJECTED, REJECTED_SCHEMA, Batch, Ints, as_times, empty
from tocsin.contracts import Operator
from tocsin.decode._builder import Decoded
from tocsin.decode._columns import Columns
from tocsin.decode._layout import offsets
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects
from tocsin.errors import SchemaError
from tocsin.settings.quantities import Size
from tocsin.state import NO_STATE

DEPTH_MAX = 32
"""How deep a record may be nested."""
RATIO_MAX = 100
"""How many times its size a compressed payload may swell to."""


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
        return state, (Batch(rejects.quarantined(rows), batch.watermark_us, REJECTED), out)

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
        matches = [pattern.fullmatch(t or "") for t in topics.dictionary.to_pylist()]
        columns = []
        for name in pattern.groupindex:
            words = pa.array([m[name] if m else "" for m in matches], pa.string())
            codes = pc.index_in(words, words)  # two topics may give the same word
            columns.append(pa.DictionaryArray.from_arrays(codes.take(topics.indices), words))
        return columns


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
        unpacked = unpacker.decompress(payload, limit + 1)
    except zlib.error as error:
        raise Bad("compression", str(error)) from error
    if len(unpacked) > limit:
        raise Bad("too_large", f"more than {limit} bytes once unpacked")
    if not unpacker.eof:
        raise Bad("compression", "ends too early")
    if unpacker.unused_data:
        raise Bad("compression", f"{len(unpacker.unused_data)} bytes follow the end")
    if not unpacked:
        raise Bad("empty", "no bytes once unpacked")
    return unpacked


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
