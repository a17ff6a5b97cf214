"""Avro: records of a schema that a registry holds, or that is given."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import model_validator

from tocsin.batch import times_us
from tocsin.decode._base import Decoder, Records, raw
from tocsin.decode._builder import Builder, Decoded
from tocsin.decode._paths import at_path, steps_of
from tocsin.decode._reasons import Bad
from tocsin.decode._registry import HEADER_BYTES, Registry, number_of
from tocsin.decode._rejects import Rejects
from tocsin.decode._values import NAN, from_value, kind
from tocsin.errors import MissingExtra

_SAMPLE = {
    "type": "record",
    "name": "Reading",
    "fields": [
        {"name": "machine", "type": "string"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "value", "type": ["null", "double"]},
    ],
}


class Avro(Decoder):
    """One Avro record to one row, by the schema that it was written with.

    With ``registry`` a zero byte and the number of the schema stand in front of each record, as Confluent's serializers
    write them; schemas are asked for once. While the registry is away the source waits; a record whose number it does
    not know is set aside. Without a registry all records are of ``writer_schema``. Columns take fields by name, and
    nested ones by a path of dots. A field that a later schema adds is passed over until a column is declared; one that
    it removes is missing. Times and dates are timestamps, decimals are floats, bytes and fixed are text in Base64,
    enums are text. Schemas that refer to others in the registry are not read, nor are container files.
    Needs ``pip install 'tocsin[avro]'``.

    Examples
    --------
    >>> schema = {"type": "record", "name": "Reading", "fields": [{"name": "celsius", "type": "double"}]}
    >>> decoder = Avro(columns={"celsius": "float"}, writer_schema=schema)
    >>> records = raw([bytes.fromhex("0000000000803440"), b"?"])
    >>> feed(decoder, records)["celsius"].to_pylist()
    [20.5]
    >>> feed(decoder, records, port="rejected")["reason"].to_pylist()
    ['avro_value']

    Apache Software Foundation, "Apache Avro Specification" (1.12).
    """

    EXAMPLES: ClassVar[Any] = (
        {
            "columns": {
                "machine": "category",
                "ts": "timestamp",
                "value": {"type": "float", "optional": True},
            },
            "writer_schema": _SAMPLE,
        },
    )

    registry: Registry | None = None
    """Where the schemas are; relative certificate files start at the working folder."""
    writer_schema: Mapping[str, Any] | None = None
    """Schema of all records, where none is named in front of them."""

    @model_validator(mode="after")
    def _one_is_given(self) -> Avro:
        if (self.registry is None) == (self.writer_schema is None):
            raise ValueError("give either registry, or writer_schema for records without a number in front")
        return self

    def initial(self) -> dict[int, Any]:
        """The schemas that were asked for, by number: saves time, and changes nothing."""
        return {}

    def may_wait(self) -> bool:
        return self.registry is not None

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        _library()  # a missing library is told before data flows
        return super().output_schema(input)

    def decode(self, state: dict[int, Any], records: Records, rejects: Rejects) -> Decoded:
        builder = Builder(self.told, rejects)
        unknown: dict[int, Bad] = {}  # asked for again with the next batch
        for i, payload in enumerate(records.payloads.to_pylist()):
            row = records.row(i)
            try:
                schema, skip = self._schema(state, unknown, payload)
                record = _read(payload, schema, skip)
                builder.add(i, row, [self._value(record, *told) for told in self._told])
            except Bad as bad:
                rejects.add(row, bad)
        return Decoded(*builder.finish())

    def _schema(self, schemas: dict[int, Any], unknown: dict[int, Bad], payload: bytes) -> tuple[Any, int]:
        """A record's schema, and how many bytes stand in front of it."""
        if self.registry is None:
            return self._given, 0
        number = number_of(payload)
        if number in unknown:
            raise unknown[number]
        if number not in schemas:
            try:
                schemas[number] = _parsed(_json(number, self.registry.schema_of(number).text))
            except Bad as bad:
                unknown[number] = bad
                raise
        return schemas[number], HEADER_BYTES

    def _value(self, record: Any, name: str, column: Any, steps: tuple[str, ...]) -> Any:
        return from_value(name, column, _plain(at_path(record, steps)))

    @cached_property
    def _told(self) -> list[tuple[str, Any, tuple[str, ...]]]:
        return [(name, column, steps_of(column.path or name)) for name, column in self.told.items()]

    @cached_property
    def _given(self) -> Any:
        return _parsed(self.writer_schema)

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        library, schema, payloads = _library(), _parsed(_SAMPLE), []
        values = zip(rows.column("value").to_pylist(), times_us(rows).tolist(), strict=True)
        for i, (value, us) in enumerate(values):
            written = io.BytesIO()
            library.schemaless_writer(written, schema, {"machine": f"m{i % 3}", "ts": us, "value": value})
            payloads.append(b"?" if i % 10 == 3 else written.getvalue())
        return raw(payloads, "plant/t", 0)


def _library() -> Any:
    try:
        import fastavro
    except ImportError:
        raise MissingExtra("fastavro", "avro", "Avro") from None
    return fastavro


def _json(number: int, schema: str) -> Any:
    try:
        return json.loads(schema)
    except ValueError as error:
        raise Bad("avro_schema", f"schema {number} is not JSON: {error}") from error


def _parsed(schema: Any) -> Any:
    try:
        return _library().parse_schema(schema)
    except MissingExtra:
        raise
    except Exception as error:  # the library's own, and those of what it walks over
        raise Bad("avro_schema", f"{type(error).__name__}: {str(error)[:200]}") from error


def _read(payload: bytes, schema: Any, skip: int) -> Any:
    """A record's fields; `Bad` if the bytes are not what the schema says."""
    data = io.BytesIO(payload)
    data.seek(skip)
    try:
        record = _library().schemaless_reader(data, schema, None)
    except Exception as error:  # damaged bytes raise whatever the library's readers meet
        raise Bad("avro_value", f"{type(error).__name__}: {str(error)[:200]}") from error
    if left := len(payload) - data.tell():
        raise Bad("avro_value", f"{left} bytes follow the record")
    if not isinstance(record, dict):
        raise Bad("shape", f"a record is wanted, not {kind(record)}")
    return record


def _plain(value: Any) -> Any:
    """A value of Avro's types as one that a column takes."""
    if isinstance(value, float) and not math.isfinite(value):
        return NAN
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


__all__ = ["Avro"]
