"""What all decoders share: declared columns, columns from the topic, limits, and compressed payloads."""

from __future__ import annotations

import codecs
import re
import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator, model_validator

from tocsin.bases import require
from tocsin.batch import KEY_TYPE, RAW, REJECTED, REJECTED_SCHEMA, Batch, Ints, as_times, empty
from tocsin.contracts import Operator
from tocsin.decode._builder import Decoded
from tocsin.decode._columns import WORDS, Column, Columns, NullWords, null_is_a_name
from tocsin.decode._layout import offsets
from tocsin.decode._metadata import Metadata, lacks_metadata, metadata_columns, metadata_fields
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects
from tocsin.errors import SchemaError
from tocsin.settings.quantities import Size
from tocsin.state import NO_STATE

DEPTH_MAX = 32
"""How deep a record may be nested."""
RATIO_MAX = 100
"""How many times its size a compressed payload may swell to."""


@dataclass(frozen=True, slots=True)
class Records:
    """What a decoder is given: payloads, their rows in the batch (None: all of them), and the batch."""

    payloads: pa.Array
    numbers: Ints | None
    batch: pa.RecordBatch

    def row(self, i: int) -> int:
        return i if self.numbers is None else int(self.numbers[i])


Traced = tuple[Any, Sequence[Batch], Ints | None]
"""State, batches, and the record that each row on port ``out`` comes from."""


class RecordDecoder(Operator):
    """From undecoded records (`RAW`) to rows, of each of which it is known which record it came from."""

    @abstractmethod
    def traced(self, state: Any, batch: Batch) -> Traced:
        """Returns what `step` does, and the record of each row on port ``out``, shape (rows,); None: one each."""

    def step(self, state: Any, batch: Batch) -> tuple[Any, Sequence[Batch]]:
        return self.traced(state, batch)[:2]

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {REJECTED: REJECTED_SCHEMA}


class Decoder(RecordDecoder):
    """From undecoded records (`RAW`) to typed rows: the declared columns, those from the topic, and ``received``."""

    columns: Columns
    """Name and type (int, float, text, category, bool, timestamp) of each column, or its type with further settings."""
    topic: str | None = None
    """Template of the topic, as ``plant/{machine}/+``; what stands at a name in braces becomes a column, and
    ``{name...}`` stands for one level or more, with the ``/`` between them."""
    metadata: Metadata = {}
    """Columns from what a record carries beside its payload, as ``{machine: key, at: sent, unit: attributes.unit}``:
    the record's ``key``, when it was ``sent``, and its ``attributes`` (headers) by name. Kafka's records carry all."""
    payload_max: Size = 256 * 1024
    """Larger payloads are set aside unread."""
    null: NullWords = ()
    """Words that stand for a missing value in every column, as ``[-, "#N/A"]``. In columns of numbers and times that
    are ``optional`` these are always missing: NaN, infinity, null, N/A, #N/A, NA and a lone ``-``."""
    encoding: str = "utf-8"
    """How text is written, as ``cp1252`` or ``shift_jis``; UTF-16 is seen in files, and elsewhere by its mark."""
    compression: Literal["gzip"] | None = None
    """Whether payloads are compressed (gzip or zlib); they may swell to payload_max, and a hundredfold."""

    @field_validator("topic")
    @classmethod
    def _topic_is_a_template(cls, topic: str | None) -> str | None:
        if topic is not None:
            _topic_pattern(topic)
        return topic

    _null = model_validator(mode="before")(null_is_a_name)

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, encoding: str) -> str:
        try:
            return codecs.lookup(encoding).name
        except LookupError:
            raise ValueError(
                f"there is no encoding '{encoding}'; try utf-8, cp1252, latin-1, utf-16 or shift_jis"
            ) from None

    @abstractmethod
    def decode(self, state: Any, records: Records, rejects: Rejects) -> Decoded:
        """Returns the columns of the records, none of which is empty."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for name in RAW.names:
            require(input, name, self.name())
        if column := lacks_metadata(self.metadata, input):
            raise SchemaError(
                f"metadata: {column}: records of this source carry nothing beside their payload; remove it"
            )
        return self.decoded_schema

    @cached_property
    def decoded_schema(self) -> pa.Schema:
        fields = [pa.field(name, c.arrow, nullable=c.optional) for name, c in self.columns.items()]
        if self.topic is not None:
            fields += [pa.field(name, KEY_TYPE, nullable=False) for name in _topic_pattern(self.topic).groupindex]
        fields += metadata_fields(self.metadata)
        fields.append(RAW.field("received"))
        names = [f.name for f in fields]
        if twice := [n for n in names if names.count(n) > 1]:
            raise SchemaError(f"{self.name()} would make two columns '{twice[0]}'; rename one")
        return pa.schema(fields)

    @cached_property
    def told(self) -> Mapping[str, Column]:
        """The columns, each with all its words for null."""
        if not self.null:
            return self.columns
        return {n: c.model_copy(update={"null": (*self.null, *c.null)}) for n, c in self.columns.items()}

    @cached_property
    def _has_null_words(self) -> bool:
        return any(column.null and column.type in WORDS for column in self.told.values())

    @cached_property
    def is_read_one_by_one(self) -> bool:
        """Whether some column is written in a way that the compiled scanner does not know."""
        return any(column.format is not None or column.null_numbers for column in self.told.values())

    @classmethod
    def may_run_ahead(cls) -> bool:
        """Returns whether what is remembered saves time only, so that records may be decoded before their turn."""
        return cls.dump is Decoder.dump

    def may_wait(self) -> bool:
        """Returns whether it asks another server, and raises `Unavailable` while that is away."""
        return False

    def dump(self, state: Any) -> pa.Table:
        return NO_STATE

    def load(self, table: pa.Table) -> Any:
        return self.initial()

    def initial(self) -> Any:
        return None

    def traced(self, state: Any, batch: Batch) -> Traced:
        schema = self.decoded_schema
        if not len(batch):
            return state, (batch.with_rows(empty(schema)),), None
        rows, rejects = batch.rows, Rejects()
        metadata, wrong = metadata_columns(self.metadata, rows, rejects)
        payloads, numbers = self._admitted(rows, rejects, wrong)
        if self.encoding != "utf-8":
            payloads, numbers = self._as_utf8(payloads, numbers, rejects)
        decoded = self.decode(state, Records(payloads, numbers, rows), rejects)
        origin = decoded.origin
        if numbers is not None:
            origin = numbers if origin is None else numbers[origin]
        if self._has_null_words:
            decoded = self._without_null_words(Decoded(decoded.arrays, origin), rejects)
            origin = decoded.origin
        sources = [*self._topic_columns(rows.column("topic")), *metadata, rows.column("received")]
        if origin is not None:
            at = pa.array(origin)
            sources = [column.take(at) for column in sources]
        out = Batch(pa.RecordBatch.from_arrays([*decoded.arrays, *sources], schema=schema), batch.watermark_us)
        if not rejects.rows:
            return state, (out,), origin
        return state, (Batch(rejects.quarantined(rows), batch.watermark_us, REJECTED), out), origin

    def _admitted(
        self, rows: pa.RecordBatch, rejects: Rejects, refused: npt.NDArray[np.bool_]
    ) -> tuple[pa.Array, Ints | None]:
        """The payloads worth decoding, unpacked, of records that are not refused yet; and their rows, unless all."""
        payloads, topics = rows.column("payload"), rows.column("topic")
        ends = offsets(payloads)
        sizes = ends[1:] - ends[:-1]
        wrong = ((sizes == 0) | (sizes > self.payload_max)) & ~refused
        if self.topic is None and self.compression is None and not np.count_nonzero(wrong | refused):
            return payloads, None
        for i in np.flatnonzero(wrong).tolist():
            reason = "too_large" if sizes[i] else "empty"
            rejects.add(i, Bad(reason, f"{sizes[i]} bytes, at most {self.payload_max} are taken"))
        wrong |= refused
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

    def _as_utf8(self, payloads: pa.Array, numbers: Ints | None, rejects: Rejects) -> tuple[pa.Array, Ints]:
        """The payloads in UTF-8, of those that are in the encoding they should be; and their rows."""
        texts, kept = [], []
        for i, payload in enumerate(payloads.to_pylist()):  # some 0.5 us each
            row = i if numbers is None else int(numbers[i])
            try:
                # A file in UTF-16 comes in UTF-8, in which alone its lines can be told apart: without a byte of zero.
                is_utf8 = self.encoding.startswith("utf-16") and b"\0" not in payload
                texts.append(payload.decode("utf-8" if is_utf8 else self.encoding).encode())
                kept.append(row)
            except UnicodeError as error:
                rejects.add(row, Bad("encoding", f"not {self.encoding}: {error}"))
        return pa.array(texts, pa.binary()), np.array(kept, np.int64)

    def _without_null_words(self, decoded: Decoded, rejects: Rejects) -> Decoded:
        """Text that is a word for null as null, or its row set aside where it is required."""
        arrays, count = list(decoded.arrays), len(decoded.arrays[0])
        origin = np.arange(count) if decoded.origin is None else decoded.origin
        good = np.ones(count, bool)
        for c, (name, column) in enumerate(self.told.items()):
            if not column.null or column.type not in WORDS:
                continue
            array, words = arrays[c], pa.array(column.null)
            coded = array if column.type == "category" else array.dictionary_encode()
            missing = pc.is_in(coded.dictionary, words).take(coded.indices).fill_null(False)
            at = np.flatnonzero(missing.to_numpy(zero_copy_only=False))
            if len(at) and column.optional:
                coded = pa.DictionaryArray.from_arrays(pc.if_else(missing, None, coded.indices), coded.dictionary)
                arrays[c] = coded if column.type == "category" else coded.dictionary_decode()
            for i in at.tolist() if not column.optional else ():
                if good[i]:
                    rejects.add(int(origin[i]), Bad("missing_field", f"{name} is required, and {array[i].as_py()!r}"))
                good[i] = False
        if good.all():
            return Decoded(arrays, decoded.origin)
        keep = pa.array(good)
        return Decoded([array.filter(keep) for array in arrays], origin[good])

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
    """A template as a pattern: ``{name}`` and ``+`` stand for one level, ``{name...}`` for several, ``#`` for any."""
    levels, seen = [], set()
    for level in template.split("/"):
        if name := re.fullmatch(r"\{([A-Za-z_]\w*)(\.\.\.)?\}", level):
            if name[1] in seen:
                raise ValueError(f"topic template {template!r} names '{name[1]}' twice")
            seen.add(name[1])
            levels.append(f"(?P<{name[1]}>[^/]+)" if name[2] is None else f"(?P<{name[1]}>.+)")
        elif level == "+":
            levels.append("[^/]*")
        elif level == "#":
            levels.append(".*")
        elif set(level) & set("{}+#"):
            raise ValueError(f"topic template {template!r}: a level is a word, {{name}}, {{name...}}, + or #")
        else:
            levels.append(re.escape(level))
    return re.compile("/".join(levels), re.DOTALL)
