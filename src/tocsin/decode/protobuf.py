"""Protobuf: messages of a schema that a registry holds, or of a descriptor file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import model_validator

from tocsin.batch import times_us
from tocsin.decode._base import Decoder, Records, raw
from tocsin.decode._builder import Builder, Decoded
from tocsin.decode._descriptors import (
    class_at,
    class_named,
    fetched,
    indexes_of,
    messages_of,
    plain,
    read_message,
    read_set,
    require_library,
)
from tocsin.decode._paths import elements_at, steps_of, value_at
from tocsin.decode._reasons import Bad
from tocsin.decode._registry import Registry, number_of
from tocsin.decode._rejects import Rejects
from tocsin.decode._values import from_value
from tocsin.errors import ConfigError

EXAMPLE = str(Path(__file__).parent / "reading.desc")
"""Descriptors of ``plant.Reading``: machine (1, string), at (2, Timestamp), value (3, optional double)."""


class Protobuf(Decoder):
    """One message of Protocol Buffers to one row, or to a row for each element of a repeated field.

    With ``registry`` a zero byte, the number of the schema and the message's place in it stand in front of each
    record, as Confluent's serializers write them; schemas are asked for once, with those that they import. While the
    registry is away the source waits; a record whose number it does not know is set aside. Without a registry all
    records are of one ``message`` of a ``descriptor`` file. Columns take fields by name, nested ones by a path of
    dots, elements of repeated fields by their number. A field that can be absent and is (``optional``, of a ``oneof``,
    a message) is missing; any other has its default. Enums are text, a Timestamp is a timestamp, a Duration seconds,
    bytes are text in Base64, the wrappers and Struct are what they hold. Fields that the schema does not know are
    passed over. Needs ``pip install 'tocsin[protobuf]'``.

    Examples
    --------
    >>> decoder = Protobuf(columns={"machine": "text", "value": "float"}, descriptor=EXAMPLE, message="plant.Reading")
    >>> records = raw([bytes.fromhex("0a0470756d70190000000000803440"), b"?"])
    >>> feed(decoder, records).select(["machine", "value"]).to_pylist()
    [{'machine': 'pump', 'value': 20.5}]
    >>> feed(decoder, records, port="rejected")["reason"].to_pylist()
    ['protobuf_value']

    Google, "Protocol Buffers: encoding"; Confluent, "Schema Registry: wire format".
    """

    EXAMPLES: ClassVar[Any] = (
        {
            "columns": {"machine": "category", "at": "timestamp", "value": {"type": "float", "optional": True}},
            "descriptor": EXAMPLE,
            "message": "plant.Reading",
        },
    )

    registry: Registry | None = None
    """Where the schemas are; relative certificate files start at the working folder."""
    descriptor: str | None = None
    """File of descriptors, as ``protoc --include_imports --descriptor_set_out=FILE`` writes it; a relative path starts
    at the working folder."""
    message: str | None = None
    """Full name of the message in that file, as ``plant.Reading``."""
    rows: str | None = None
    """Path of a repeated field or a map whose elements are the rows. Paths of columns then start at an element, or with
    ``$.`` at the message; ``@key`` is the element's number or key, ``@value`` the element itself."""

    @model_validator(mode="after")
    def _one_is_given(self) -> Protobuf:
        if self.registry is not None and (self.descriptor is not None or self.message is not None):
            raise ValueError("with a registry each record says what it is; remove descriptor and message")
        if self.registry is None and (self.descriptor is None or self.message is None):
            raise ValueError("give either registry, or descriptor and message for records without a number in front")
        return self

    def initial(self) -> dict[Any, Any]:
        """The schemas that were asked for, by number, and their classes: saves time, and changes nothing."""
        return {}

    def may_wait(self) -> bool:
        return self.registry is not None

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        require_library(compiles=self.registry is not None)  # what is missing is told before data flows
        if self.registry is None:
            _ = self._given
        return super().output_schema(input)

    def decode(self, state: dict[Any, Any], records: Records, rejects: Rejects) -> Decoded:
        builder = Builder(self.told, rejects)
        unknown: dict[int, Bad] = {}  # asked for again with the next batch
        for i, payload in enumerate(records.payloads.to_pylist()):  # 12 to 50 µs each
            row = records.row(i)
            try:
                cls, skip = self._class(state, unknown, payload)
                for values in self._rows(plain(read_message(cls, payload[skip:])), row, rejects):
                    builder.add(i, row, values)
            except Bad as bad:
                rejects.add(row, bad)
        return Decoded(*builder.finish())

    def _rows(self, record: Any, row: int, rejects: Rejects) -> Iterator[list[Any]]:
        """The columns' values of each row in a message; a bad row costs no other."""
        if self.rows is None:
            yield self._values(record, record)
            return
        for name, element in elements_at(record, self.rows):
            try:
                yield self._values(element, record, name)
            except Bad as bad:
                rejects.add(row, Bad(bad.reason, f"row {name}: {bad.detail}"))

    def _values(self, element: Any, record: Any, name: str | None = None) -> list[Any]:
        return [from_value(of, column, value_at(steps, element, record, name)) for of, column, steps in self._told]

    def _class(self, state: dict[Any, Any], unknown: dict[int, Bad], payload: bytes) -> tuple[Any, int]:
        """The class of a record's message, and how many bytes stand in front of it."""
        if self.registry is None:
            return self._given, 0
        number = number_of(payload, "PROTOBUF")
        places, skip = indexes_of(payload)
        if (cls := state.get((number, places))) is not None:
            return cls, skip
        if number in unknown:
            raise unknown[number]
        if number not in state:
            try:
                state[number] = fetched(self.registry, number)
            except Bad as bad:
                unknown[number] = bad
                raise
        pool, file = state[number]
        cls = state[(number, places)] = class_at(pool, file, places)
        return cls, skip

    @cached_property
    def _told(self) -> list[tuple[str, Any, tuple[str, ...]]]:
        return [(name, column, steps_of(column.path or name)) for name, column in self.told.items()]

    @cached_property
    def _given(self) -> Any:
        assert self.descriptor is not None
        assert self.message is not None
        made = f"make it with: protoc --include_imports --descriptor_set_out={self.descriptor} FILE.proto"
        try:
            pool, files = read_set(Path(self.descriptor).read_bytes())
        except OSError as error:
            raise ConfigError(f"descriptor: {self.descriptor} cannot be read ({error.strerror}); {made}") from error
        except Bad as bad:
            raise ConfigError(f"descriptor: {self.descriptor}: {bad.detail}; {made}") from None
        try:
            return class_named(pool, self.message)
        except KeyError:
            there = ", ".join(messages_of(pool, files))
            raise ConfigError(f"there is no message '{self.message}' in {self.descriptor}; there are {there}") from None

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        pool, _ = read_set(Path(EXAMPLE).read_bytes())
        make, payloads = class_named(pool, "plant.Reading"), []
        values = zip(rows.column("value").to_pylist(), times_us(rows).tolist(), strict=True)
        for i, (value, us) in enumerate(values):
            at = {"seconds": us // 1_000_000, "nanos": us % 1_000_000 * 1_000}
            payloads.append(b"?" if i % 10 == 3 else make(machine=f"m{i % 3}", at=at, value=value).SerializeToString())
        return raw(payloads, "plant/t", 0)


__all__ = ["Protobuf"]
