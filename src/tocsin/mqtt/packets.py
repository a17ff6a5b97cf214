"""MQTT packets one by one, 3.1.1 and 5: those that are few (OASIS mqtt-v3.1.1-os, mqtt-v5.0-os).

`encode` and `decode` are each other's reverse; nothing but `ProtocolError` leaves `decode`, whatever the bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from tocsin.errors import TocsinError

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = 8, 9, 10, 11, 12, 13, 14
V311, V5 = 4, 5
PING, PONG = b"\xc0\x00", b"\xd0\x00"

MALFORMED, PROTOCOL, NOT_AUTHORISED, TOO_LARGE = 0x81, 0x82, 0x87, 0x95


class ProtocolError(TocsinError):
    """The other side sent what the standard forbids; the connection is of no further use."""

    def __init__(self, text: str, reason: int = MALFORMED) -> None:
        super().__init__(text)
        self.reason = reason


_BYTE, _U16, _U32, _VARINT, _TEXT, _BINARY, _PAIR = range(7)
_PROPERTIES: dict[int, tuple[str, int]] = {
    0x01: ("payload_format_indicator", _BYTE),
    0x02: ("message_expiry_interval", _U32),
    0x03: ("content_type", _TEXT),
    0x08: ("response_topic", _TEXT),
    0x09: ("correlation_data", _BINARY),
    0x0B: ("subscription_identifier", _VARINT),
    0x11: ("session_expiry_interval", _U32),
    0x12: ("assigned_client_identifier", _TEXT),
    0x13: ("server_keep_alive", _U16),
    0x15: ("authentication_method", _TEXT),
    0x16: ("authentication_data", _BINARY),
    0x17: ("request_problem_information", _BYTE),
    0x18: ("will_delay_interval", _U32),
    0x19: ("request_response_information", _BYTE),
    0x1A: ("response_information", _TEXT),
    0x1C: ("server_reference", _TEXT),
    0x1F: ("reason_string", _TEXT),
    0x21: ("receive_maximum", _U16),
    0x22: ("topic_alias_maximum", _U16),
    0x23: ("topic_alias", _U16),
    0x24: ("maximum_qos", _BYTE),
    0x25: ("retain_available", _BYTE),
    0x26: ("user_property", _PAIR),
    0x27: ("maximum_packet_size", _U32),
    0x28: ("wildcard_subscription_available", _BYTE),
    0x29: ("subscription_identifier_available", _BYTE),
    0x2A: ("shared_subscription_available", _BYTE),
}
_PROPERTY_IDS = {name: (number, kind) for number, (name, kind) in _PROPERTIES.items()}
Properties = dict[str, Any]
"""By the names of the standard; a value is int, str or bytes; ``user_property`` is a list of pairs of text."""


@dataclass(frozen=True, slots=True)
class Will:
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Connect:
    client_id: str
    version: int = V5
    clean: bool = False
    keep_alive_s: int = 30
    user: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Connack:
    session_present: bool
    reason: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ack:
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""

    kind: int
    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subscribe:
    packet_id: int
    filters: tuple[tuple[str, int], ...]
    """Filter and options (the two lowest bits are the QoS)."""
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    packet_id: int
    filters: tuple[str, ...]
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Granted:
    """SUBACK or UNSUBACK (which has no reasons in 3.1.1)."""

    kind: int
    packet_id: int
    reasons: tuple[int, ...]
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ping:
    kind: int = PINGREQ


@dataclass(frozen=True, slots=True)
class Disconnect:
    reason: int = 0
    properties: Properties = field(default_factory=dict)


Packet = Connect | Connack | Ack | Subscribe | Unsubscribe | Granted | Ping | Disconnect


def publish(
    topic: bytes,
    payload: bytes,
    *,
    version: int,
    qos: int = 0,
    packet_id: int = 0,
    retain: bool = False,
    dup: bool = False,
    properties: bytes = b"\0",
) -> bytes:
    """One PUBLISH packet; ``properties`` are encoded, with their length, and left out in 3.1.1."""
    head = PUBLISH << 4 | dup << 3 | qos << 1 | retain
    tail = (packet_id.to_bytes(2, "big") if qos else b"") + (properties if version == V5 else b"")
    length = 2 + len(topic) + len(tail) + len(payload)
    return b"".join((bytes((head,)), varint(length), len(topic).to_bytes(2, "big"), topic, tail, payload))


def encode(packet: Packet, version: int) -> bytes:
    """One control packet as bytes."""
    v5 = version == V5
    body: bytes
    if isinstance(packet, Connect):
        kind, body = CONNECT << 4, _connect_body(packet)
    elif isinstance(packet, Connack):
        kind = CONNACK << 4
        body = bytes((packet.session_present, packet.reason)) + (properties(packet.properties) if v5 else b"")
    elif isinstance(packet, Ack):
        kind = packet.kind << 4 | (2 if packet.kind == PUBREL else 0)
        body = packet.packet_id.to_bytes(2, "big")
        if v5 and (packet.reason or packet.properties):
            body += bytes((packet.reason,)) + properties(packet.properties)
    elif isinstance(packet, Subscribe):
        kind, body = SUBSCRIBE << 4 | 2, packet.packet_id.to_bytes(2, "big")
        body += properties(packet.properties) if v5 else b""
        body += b"".join(_text(pattern) + bytes((options,)) for pattern, options in packet.filters)
    elif isinstance(packet, Unsubscribe):
        kind, body = UNSUBSCRIBE << 4 | 2, packet.packet_id.to_bytes(2, "big")
        body += (properties(packet.properties) if v5 else b"") + b"".join(map(_text, packet.filters))
    elif isinstance(packet, Granted):
        kind, body = packet.kind << 4, packet.packet_id.to_bytes(2, "big")
        body += (properties(packet.properties) if v5 else b"") + bytes(packet.reasons)
    elif isinstance(packet, Ping):
        kind, body = packet.kind << 4, b""
    else:
        kind, body = DISCONNECT << 4, b""
        if v5 and (packet.reason or packet.properties):
            body = bytes((packet.reason,)) + properties(packet.properties)
    return bytes((kind,)) + varint(len(body)) + body


def _connect_body(packet: Connect) -> bytes:
    will = packet.will
    flags = packet.clean << 1 | (packet.user is not None) << 7 | (packet.password is not None) << 6
    v5 = packet.version == V5
    tail = _text(packet.client_id)
    if will is not None:
        flags |= 1 << 2 | will.qos << 3 | will.retain << 5
        tail += (properties(will.properties) if v5 else b"") + _text(will.topic) + _binary(will.payload)
    if packet.user is not None:
        tail += _text(packet.user)
    if packet.password is not None:
        tail += _binary(packet.password)
    middle = properties(packet.properties) if v5 else b""
    return _text("MQTT") + bytes((packet.version, flags)) + packet.keep_alive_s.to_bytes(2, "big") + middle + tail


def decode(head: int, body: bytes, version: int) -> Packet:
    """One control packet from its first byte and what follows the fixed header; else `ProtocolError`."""
    take = _Taker(body)
    kind, v5 = head >> 4, version == V5
    expected_flags = 2 if kind in (PUBREL, SUBSCRIBE, UNSUBSCRIBE) else 0
    if head & 15 != expected_flags:
        raise ProtocolError(f"flags {head & 15} in a packet of type {kind}")
    packet: Packet
    if kind == CONNECT:
        packet = _take_connect(take)
    elif kind == CONNACK:
        present = take.byte()
        if present > 1:
            raise ProtocolError("reserved flags in a CONNACK")
        packet = Connack(bool(present), take.byte(), take.properties() if v5 else {})
    elif PUBACK <= kind <= PUBCOMP:
        packet_id = take.packet_id()
        reason = take.byte() if v5 and take.more() else 0
        packet = Ack(kind, packet_id, reason, take.properties() if v5 and take.more() else {})
    elif kind == SUBSCRIBE:
        packet_id, properties = take.packet_id(), take.properties() if v5 else {}
        filters: list[tuple[str, int]] = []
        while take.more() or not filters:
            filters.append((take.text(), take.byte()))
            options = filters[-1][1]
            if options & 3 == 3 or options >> 6 or (options >> 4 & 3) == 3 or (not v5 and options > 2):
                raise ProtocolError("reserved bits in the options of a SUBSCRIBE")
        packet = Subscribe(packet_id, tuple(filters), properties)
    elif kind == UNSUBSCRIBE:
        packet_id, properties = take.packet_id(), take.properties() if v5 else {}
        names = [take.text()]
        while take.more():
            names.append(take.text())
        packet = Unsubscribe(packet_id, tuple(names), properties)
    elif kind in (SUBACK, UNSUBACK):
        packet_id, properties = take.packet_id(), take.properties() if v5 else {}
        packet = Granted(kind, packet_id, tuple(take.rest()), properties)
    elif kind in (PINGREQ, PINGRESP):
        packet = Ping(kind)
    elif kind == DISCONNECT:
        reason = take.byte() if v5 and take.more() else 0
        packet = Disconnect(reason, take.properties() if v5 and take.more() else {})
    else:
        raise ProtocolError(f"a packet of type {kind} has no place here", PROTOCOL)
    if take.more():
        raise ProtocolError(f"bytes are left over in a packet of type {kind}")
    return packet


def _take_connect(take: _Taker) -> Connect:
    if take.text() != "MQTT":
        raise ProtocolError("this is not MQTT")
    version, flags = take.byte(), take.byte()
    if version not in (V311, V5):
        raise ProtocolError(f"protocol version {version} is not spoken here", 0x84)
    if flags & 1 or (flags >> 3 & 3) == 3 or (not flags & 4 and flags & 0x38):
        raise ProtocolError("reserved flags in a CONNECT")
    keep_alive_s = take.u16()
    properties = take.properties() if version == V5 else {}
    client_id = take.text()
    will = None
    if flags & 4:
        will_properties = take.properties() if version == V5 else {}
        will = Will(take.text(), take.binary(), flags >> 3 & 3, bool(flags & 32), will_properties)
    user = take.text() if flags & 0x80 else None
    password = take.binary() if flags & 0x40 else None
    return Connect(client_id, version, bool(flags & 2), keep_alive_s, user, password, will, properties)


class _Taker:
    """Takes values off the front of a packet's body."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def more(self) -> bool:
        return self._at < len(self._data)

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise ProtocolError("a packet is shorter than what it says it holds")
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def packet_id(self) -> int:
        packet_id = self.u16()
        if not packet_id:
            raise ProtocolError("a packet id is 0")
        return packet_id

    def binary(self) -> bytes:
        return self.take(self.u16())

    def text(self) -> str:
        try:
            text = self.binary().decode()
        except UnicodeDecodeError as error:
            raise ProtocolError("a text is not UTF-8") from error
        if "\0" in text:
            raise ProtocolError("a text holds the character NUL")
        return text

    def varint(self) -> int:
        value = 0
        for k in range(4):
            digit = self.byte()
            value |= (digit & 127) << 7 * k
            if digit < 128:
                return value
        raise ProtocolError("a length takes more than four bytes")

    def properties(self) -> Properties:
        take = _Taker(self.take(self.varint()))
        properties: Properties = {}
        while take.more():
            number = take.varint()
            if number not in _PROPERTIES:
                raise ProtocolError(f"there is no property {number}")
            name, kind = _PROPERTIES[number]
            value: Any
            if kind == _BYTE:
                value = take.byte()
            elif kind == _U16:
                value = take.u16()
            elif kind == _U32:
                value = int.from_bytes(take.take(4), "big")
            elif kind == _VARINT:
                value = take.varint()
            elif kind == _TEXT:
                value = take.text()
            elif kind == _BINARY:
                value = take.binary()
            else:
                properties.setdefault(name, []).append((take.text(), take.text()))
                continue
            if name in properties and name != "subscription_identifier":
                raise ProtocolError(f"property {name} comes twice", PROTOCOL)
            properties[name] = value
        return properties


def read_properties(data: bytes) -> Properties:
    """Properties that begin with their length, as a PUBLISH carries them."""
    take = _Taker(data)
    return take.properties()


def properties(values: Properties) -> bytes:
    """Properties as bytes, with their length in front."""
    out = b""
    for name, value in values.items():
        number, kind = _PROPERTY_IDS[name]
        if kind == _PAIR:
            for left, right in value:
                out += bytes((number,)) + _text(left) + _text(right)
            continue
        out += bytes((number,))
        if kind == _BYTE:
            out += bytes((value,))
        elif kind == _U16:
            out += struct.pack(">H", value)
        elif kind == _U32:
            out += struct.pack(">I", value)
        elif kind == _VARINT:
            out += varint(value)
        else:
            out += _text(value) if kind == _TEXT else _binary(value)
    return varint(len(out)) + out


def varint(value: int) -> bytes:
    """A variable byte integer; at most 268,435,455."""
    if value < 128:
        return bytes((value,))
    if value >= 1 << 28:
        raise ProtocolError(f"{value} bytes are more than a packet can hold", TOO_LARGE)
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(value: str) -> bytes:
    return _binary(value.encode())


def _binary(value: bytes) -> bytes:
    if len(value) > 65535:
        raise ProtocolError(f"a text of {len(value)} bytes does not fit in a packet", TOO_LARGE)
    return len(value).to_bytes(2, "big") + value
