"""Sparkplug B topics and payloads: Protobuf messages by their field numbers, and the value of a metric by its type.

The messages are described here, not generated, and only as far as they are read: names are bytes, since not everybody
sends UTF-8, and what is not read (DataSet, Template, PropertySetList) stays undecoded.

Eclipse Foundation, "Sparkplug Specification 3.0.0" (2022), chapters 4 and 6.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np

from tocsin.errors import MissingExtra

NAMESPACE = "spBv1.0"
NODE_KINDS, DEVICE_KINDS = ("NBIRTH", "NDATA", "NDEATH"), ("DBIRTH", "DDATA", "DDEATH")
OTHERS = frozenset(("NCMD", "DCMD", "STATE"))
"""What is said to nodes and by host applications; it holds no readings."""
TYPES = (
    "Unknown", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float", "Double", "Boolean",
    "String", "DateTime", "Text", "UUID", "DataSet", "Bytes", "File", "Template", "PropertySet", "PropertySetList",
    "Int8Array", "Int16Array", "Int32Array", "Int64Array", "UInt8Array", "UInt16Array", "UInt32Array", "UInt64Array",
    "FloatArray", "DoubleArray", "BooleanArray", "StringArray", "DateTimeArray",
)  # fmt: skip
"""By their numbers."""
_BITS = {"Int8": 8, "Int16": 16, "Int32": 32, "Int64": 64, "UInt8": 8, "UInt16": 16, "UInt32": 32, "UInt64": 64}
_ARRAYS = {
    "Int8Array": "<i1", "Int16Array": "<i2", "Int32Array": "<i4", "Int64Array": "<i8", "UInt8Array": "<u1",
    "UInt16Array": "<u2", "UInt32Array": "<u4", "UInt64Array": "<u8", "FloatArray": "<f4", "DoubleArray": "<f8",
}  # fmt: skip
_UNTYPED = {
    "int_value": 7,
    "long_value": 8,
    "float_value": 9,
    "double_value": 10,
    "boolean_value": 11,
    "string_value": 12,
}
"""The type of a metric that says none, and whose birth says none, by the field that holds its value."""
_EXACT = 2**53
"""Up to here a float64 holds every whole number."""
_COMPRESSED = b"SPBV1.0_COMPRESSED"


class Unreadable(Exception):
    """A payload, or one metric of it, that must be set aside: with a reason of `tocsin.decode`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Topic:
    """What the levels of a topic say."""

    kind: str
    group: str
    node: str
    device: str = ""
    """Empty where the message is of the node itself."""

    @property
    def edge(self) -> str:
        """The edge node, among all groups."""
        return f"{self.group}/{self.node}"

    @property
    def machine(self) -> str:
        return f"{self.edge}/{self.device}" if self.device else self.edge


def read_topic(text: str) -> Topic | None:
    """Returns what a topic says; None if it is none of Sparkplug B's births, deaths and data.

    Examples
    --------
    >>> read_topic("spBv1.0/plant/DDATA/gateway/press-1").machine
    'plant/gateway/press-1'
    """
    levels = text.split("/")
    if len(levels) not in (4, 5) or levels[0] != NAMESPACE or not all(levels):
        return None
    if levels[2] not in (NODE_KINDS if len(levels) == 4 else DEVICE_KINDS):
        return None
    return Topic(levels[2], levels[1], *levels[3:])


@cache
def payload_class() -> Any:
    """The class of a payload; `MissingExtra` where the library is not installed."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise MissingExtra("protobuf", "sparkplug", "Sparkplug B") from None
    kinds = descriptor_pb2.FieldDescriptorProto
    u32, u64, text = kinds.TYPE_UINT32, kinds.TYPE_UINT64, kinds.TYPE_BYTES
    truth, single, double = kinds.TYPE_BOOL, kinds.TYPE_FLOAT, kinds.TYPE_DOUBLE
    plain = [("int_value", u32), ("long_value", u64), ("float_value", single), ("double_value", double)]
    plain += [("boolean_value", truth), ("string_value", text)]
    further = [("bytes_value", text), ("dataset_value", text), ("template_value", text), ("extension_value", text)]
    described: dict[str, list[tuple[str, int, Any]]] = {
        "PropertyValue": [("type", 1, u32), ("is_null", 2, truth), *_numbered(3, plain)],
        "PropertySet": [("*keys", 1, text), ("*values", 2, ".tocsin.PropertyValue")],
        "Metric": [
            ("name", 1, text), ("alias", 2, u64), ("timestamp", 3, u64), ("datatype", 4, u32),
            ("is_historical", 5, truth), ("is_null", 7, truth), ("properties", 9, ".tocsin.PropertySet"),
            *_numbered(10, [*plain, *further]),
        ],
        "Payload": [
            ("timestamp", 1, u64), ("*metrics", 2, ".tocsin.Metric"), ("seq", 3, u64), ("uuid", 4, text),
            ("body", 5, text),
        ],
    }  # fmt: skip
    file = descriptor_pb2.FileDescriptorProto(name="tocsin/sparkplug.proto", package="tocsin", syntax="proto2")
    for name, fields in described.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            of_type = {"type_name": kind, "type": kinds.TYPE_MESSAGE} if isinstance(kind, str) else {"type": kind}
            label = kinds.LABEL_REPEATED if field_name[0] == "*" else kinds.LABEL_OPTIONAL
            message.field.add(name=field_name.lstrip("*"), number=number, label=label, **of_type)
        values = [field for field in message.field if field.name.endswith("_value")]
        if values:
            message.oneof_decl.add(name="value")
        for field in values:
            field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tocsin.Payload"))


def _numbered(first: int, fields: Sequence[tuple[str, Any]]) -> list[tuple[str, int, Any]]:
    return [(name, number, kind) for number, (name, kind) in enumerate(fields, first)]


def parse(data: bytes, bytes_max: int) -> Any:
    """Returns a payload, unpacked where it is compressed; `Unreadable` if it is none."""
    from google.protobuf.message import DecodeError

    try:
        payload = payload_class().FromString(data)
        if payload.uuid == _COMPRESSED:
            payload = payload_class().FromString(_unpacked(payload.body, bytes_max))
    except DecodeError as error:
        raise Unreadable("sparkplug_payload", f"not a Sparkplug B payload: {error}") from None
    return payload


def _unpacked(body: bytes, bytes_max: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
    try:
        unpacked = unpacker.decompress(body, bytes_max + 1)
    except zlib.error as error:
        raise Unreadable("compression", str(error)) from None
    if len(unpacked) > bytes_max or not unpacker.eof:
        raise Unreadable("compression", f"ends too early, or is more than {bytes_max} bytes once unpacked")
    return unpacked


def name_of(metric: Any) -> str:
    """Returns the name that a metric carries, empty for none; `Unreadable` if it is not UTF-8."""
    return _text(metric.name, "name")


def rebirth(now_ms: int) -> bytes:
    """Returns the command that asks an edge node for all its births."""
    metric = {"name": b"Node Control/Rebirth", "timestamp": now_ms, "datatype": 11, "boolean_value": True}
    command: bytes = payload_class()(timestamp=now_ms, metrics=[metric]).SerializeToString()
    return command


def type_of(metric: Any, born: int | None) -> int:
    """Returns the number of a metric's type: its own, or that of its birth, or the plainest that fits."""
    own: int = metric.datatype
    if own or born:
        return own or int(born or 0)
    return _UNTYPED.get(metric.WhichOneof("value"), 0)


def type_name(number: int) -> str:
    return TYPES[number] if number < len(TYPES) else f"type {number}"


def quality_of(metric: Any) -> str:
    """Returns good, uncertain, bad or stale, by the property ``Quality``; good where a metric has none.

    Sparkplug names 0 (bad), 192 (good) and 500 (stale); others below 256 are read as OPC's, by their two highest bits.
    """
    if not metric.HasField("properties"):
        return "good"
    for key, value in zip(metric.properties.keys, metric.properties.values, strict=False):
        if key == b"Quality":
            code = value.int_value or value.long_value
            if code == 500:
                return "stale"
            return ("bad", "uncertain", "bad", "good")[code >> 6] if code < 256 else "bad"
    return "good"


def value_of(metric: Any, number: int) -> tuple[float | None, str | None]:
    """Returns a metric's value as number or as text; both are None where it has none, and for NaN and infinity.

    Integers are sent as unsigned ones and get their sign back; one that a float64 cannot hold is text as well, exactly.
    Truth is 0 or 1. A DateTime is text in ISO 8601, Bytes and File are Base64, and arrays are JSON.
    """
    field = metric.WhichOneof("value")
    if metric.is_null or field is None:
        return None, None
    kind, value = type_name(number), getattr(metric, field)
    if field in ("dataset_value", "template_value", "extension_value") or number >= len(TYPES):
        raise Unreadable("sparkplug_type", f"{kind} is not read")
    try:
        return _value(kind, field, value)
    except (ValueError, OverflowError) as error:
        raise Unreadable("sparkplug_value", f"no {kind}: {error}") from None


def _value(kind: str, field: str, value: Any) -> tuple[float | None, str | None]:
    if kind in _BITS:
        return _integer(kind, _whole(field, value))
    if kind in ("Float", "Double"):
        if field not in ("float_value", "double_value"):
            raise ValueError(f"it is sent as {field}")
        return (value, None) if value - value == 0 else (None, None)
    if kind == "Boolean":
        if field != "boolean_value":
            raise ValueError(f"it is sent as {field}")
        return float(value), None
    if kind in ("String", "Text", "UUID"):
        if field != "string_value":
            raise ValueError(f"it is sent as {field}")
        return None, _text(value, "text")
    if kind == "DateTime":
        return None, _iso(_signed(_whole(field, value), 64))
    if field != "bytes_value":
        raise ValueError(f"it is sent as {field}")
    if kind in ("Bytes", "File"):
        return None, base64.b64encode(value).decode()
    if kind.endswith("Array"):
        return None, json.dumps(_array(kind, value), ensure_ascii=False)
    raise Unreadable("sparkplug_type", f"{kind} is not read")


def _whole(field: str, value: Any) -> int:
    if field not in ("int_value", "long_value"):
        raise ValueError(f"it is sent as {field}")
    return int(value)


def _integer(kind: str, sent: int) -> tuple[float, str | None]:
    """A negative one is sent as its two's complement, of its own width or of the field's."""
    bits = _BITS[kind]
    half = 1 << bits - 1
    is_signed = kind[0] == "I"
    if sent >> bits and not (is_signed and any((1 << wide) - half <= sent < 1 << wide for wide in (32, 64))):
        raise ValueError(f"{sent} does not fit {bits} bits")
    number = _signed(sent & (1 << bits) - 1, bits) if is_signed else sent
    return float(number), None if abs(number) <= _EXACT else str(number)


def _signed(number: int, bits: int) -> int:
    return number - (1 << bits) if number >> bits - 1 else number


def _iso(ms: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _array(kind: str, data: bytes) -> list[Any]:
    if kind in _ARRAYS:
        values = np.frombuffer(data, _ARRAYS[kind]).tolist()
        return [None if value != value or value in (np.inf, -np.inf) else value for value in values]
    if kind == "DateTimeArray":
        return [_iso(ms) for ms in np.frombuffer(data, "<i8").tolist()]
    if kind == "StringArray":
        return [_text(word, "text") for word in data.split(b"\0")[:-1]]
    count = int.from_bytes(data[:4], "little")
    bits = np.unpackbits(np.frombuffer(data[4:], np.uint8))
    if len(data) < 4 or count > len(bits):
        raise ValueError(f"{len(bits)} of {count} truth values")
    return [bool(bit) for bit in bits[:count].tolist()]


def _text(data: bytes, what: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Unreadable("encoding", f"a {what} that is not UTF-8: {data[:50]!r}") from None
    if "\0" in text and what == "name":
        raise Unreadable("encoding", "a null character in a name")
    return text


__all__ = [
    "DEVICE_KINDS", "NAMESPACE", "NODE_KINDS", "OTHERS", "Topic", "Unreadable", "name_of", "parse", "payload_class",
    "quality_of", "read_topic", "rebirth", "type_name", "type_of", "value_of",
]  # fmt: skip
