"""What stands in a body: its records, and which of them are not well-formed."""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tocsin.values.line_protocol import LINE

FAULTS_MAX = 100
"""So many malformed lines are named in an answer; all are counted."""
_PRECISIONS_NS: Mapping[str, int] = {
    "": 1, "n": 1, "ns": 1, "u": 1_000, "us": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3_600 * 10**9,
}  # fmt: skip
_BARE = re.compile(rb"(?<=[:,\[\s])[+-]?(?:nan|inf(?:inity)?)(?=[,\]}\s])", re.IGNORECASE)
"""What many devices write for a number that there is none; the decoder takes it."""


class Malformed(Exception):
    """A request that cannot be answered as it is; ``code`` is that of the Kafka REST API, where it has one for this."""

    def __init__(self, why: str, status: int = 400, code: int | None = None) -> None:
        super().__init__(why)
        self.status, self.code = status, code


@dataclass(slots=True)
class Content:
    """The records of a body."""

    payloads: Sequence[bytes]
    keys: Sequence[bytes | None] | None = None
    has_header: bool = False
    faults: list[tuple[int, str]] = field(default_factory=list)
    """Which records are not well-formed (1: the first line), and why. They are records all the same."""

    def answer(self) -> dict[str, Any]:
        """Returns what the sender is told, as JSON."""
        told: dict[str, Any] = {"accepted": len(self.payloads) - self.has_header - len(self.faults)}
        if self.faults:
            told["malformed"] = len(self.faults)
            told["lines"] = [{"line": line, "reason": why} for line, why in self.faults[:FAULTS_MAX]]
        return told


def unpacked(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """Returns a body as it was before it was packed.

    Raises
    ------
    Malformed
        It is not what its encoding says, or larger than ``bytes_max`` once it is unpacked.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise Malformed(f"Content-Encoding {encoding} is not known here; send gzip", 415)
    unpacker = zlib.decompressobj(wbits=47)
    try:
        plain = unpacker.decompress(body, bytes_max + 1)
    except zlib.error as error:
        raise Malformed(f"the body is not {encoding}: {error}") from error
    if len(plain) > bytes_max:
        raise Malformed(f"more than {bytes_max} bytes once unpacked; send less at once", 413)
    if not unpacker.eof:
        raise Malformed(f"the {encoding} body ends too early")
    return plain


def lines(body: bytes, content_type: str) -> Content:
    """Returns the records of what was posted to a stream, by its content type."""
    if content_type == "application/json":
        return _documents(body)
    split = [line for line in _lines(body) if line.strip()]
    if content_type == "text/csv":
        return Content(split, has_header=True)
    if content_type in ("application/x-ndjson", "application/jsonl", "application/json-seq"):
        return Content(split, faults=[(i, why) for i, line in enumerate(split, 1) if (why := _json_fault(line))])
    return Content(split)


def influx(body: bytes, precision: str) -> Content:
    """Returns lines of the Influx line protocol, with their times in nanoseconds."""
    if precision not in _PRECISIONS_NS:
        raise Malformed(f"precision {precision} is not known; it is one of ns, us, ms, s, m, h")
    factor = _PRECISIONS_NS[precision]
    payloads, faults = [], []
    for number, line in enumerate(_lines(body), 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        match = LINE.fullmatch(line.decode("utf-8", "replace"))
        if match is None:
            faults.append((number, "not measurement,tag=text field=value time"))
        elif factor > 1 and match["time"] is not None:
            begin = line.rstrip(b" ").rindex(b" ") + 1
            line = line[:begin] + str(int(match["time"][:20]) * factor).encode()
        payloads.append(line)
    return Content(payloads, faults=faults)


def kafka(body: bytes, is_binary: bool) -> Content:
    """Returns the values of records of the Kafka REST API v2, and their keys."""
    try:
        records = msgspec.json.decode(body, type=_KafkaRecords).records
        if not is_binary:
            return Content([bytes(record.value) for record in records], [_key(record.key) for record in records])
        texts = [(_text(record.value), _text(record.key)) for record in records]
        return Content(
            [base64.b64decode(value or "", validate=True) for value, _ in texts],
            [None if key is None else base64.b64decode(key, validate=True) for _, key in texts],
        )
    except (msgspec.DecodeError, binascii.Error, UnicodeDecodeError) as error:
        raise Malformed(f"not records of the Kafka REST API v2: {error}", 422) from error


class _KafkaRecord(msgspec.Struct):
    value: msgspec.Raw
    key: msgspec.Raw = msgspec.Raw(b"null")


class _KafkaRecords(msgspec.Struct):
    records: list[_KafkaRecord]


def _key(raw: msgspec.Raw) -> bytes | None:
    """A key in JSON: text without its quotes, null as none, anything else as it is written."""
    value = msgspec.json.decode(raw)
    return value.encode() if isinstance(value, str) else None if value is None else bytes(raw)


def _text(raw: msgspec.Raw) -> str | None:
    return msgspec.json.decode(raw, type=str | None)


def _documents(body: bytes) -> Content:
    """A document, or the documents of an array."""
    try:
        if body.lstrip()[:1] == b"[":
            return Content([bytes(one) for one in msgspec.json.decode(body, type=list[msgspec.Raw])])
    except msgspec.DecodeError:
        pass  # said below, with the words of the check
    fault = _json_fault(body)
    return Content([body] if body.strip() else [], faults=[(1, fault)] if fault and body.strip() else [])


def _json_fault(line: bytes) -> str:
    """Why a line is not JSON, or nothing."""
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except msgspec.DecodeError:
        try:
            json.loads(_BARE.sub(b"null", line))
        except ValueError as error:
            return f"not JSON: {error}"
    return ""


def _lines(body: bytes) -> list[bytes]:
    return [line.removesuffix(b"\r") for line in body.split(b"\n")]
