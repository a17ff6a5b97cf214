"""A small MQTT 3.1.1 client for devices: a message at a time, no compiled code, the standard library only.

The pipeline's own client (`client`) takes a million messages a second and a hundred megabytes of libraries; this one a
thousand and none. QoS 1 both ways: what comes is acknowledged once it was handed over, what is sent until it is
acknowledged.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tocsin.errors import ConfigError, TocsinError
from tocsin.mqtt import packets

PACKET_BYTES_MAX = 64 * 1024 * 1024
"""The longest message that is taken: a bundle with a model."""


class Lost(TocsinError):
    """There is no connection, or it was lost; try again after a while."""


@dataclass
class Plain:
    """One connection; `connect` makes it, and whatever raises `Lost` has ended it."""

    url: str
    client_id: str
    filters: Sequence[str] = ()
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    keep_alive_s: int = 30
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or "@" in self.url:
            raise ConfigError(f"{self.url!r} is not an MQTT address; write mqtt://host:1883 or mqtts://host:8883")
        self._secure = parts.scheme == "mqtts"
        self._address = (parts.hostname, parts.port or (8883 if self._secure else 1883))
        self._socket: socket.socket | None = None
        self._inbox = bytearray()
        self._arrived: deque[tuple[str, bytes, int]] = deque()
        self._answers: deque[packets.Packet] = deque()
        self._packet_id = 0
        self._heard_s = self._sent_s = 0.0

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def connect(self) -> None:
        """Connect and subscribe, with a session that the broker keeps; `Lost` says why it does not go."""
        self.close()
        self._inbox.clear()
        self._arrived.clear()
        self._answers.clear()
        try:
            self._socket = socket.create_connection(self._address, self.timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._secure:
                context = self.tls or ssl.create_default_context()
                self._socket = context.wrap_socket(self._socket, server_hostname=self._address[0])
            secret = None if self.password is None else self.password.encode()
            self._send(packets.Connect(self.client_id, packets.V311, False, self.keep_alive_s, self.user, secret))
            answer = self._answer()
            if not isinstance(answer, packets.Connack) or answer.reason:
                raise self._end(f"{self.url} refuses the connection: {answer}")
            if self.filters:
                self._send(packets.Subscribe(self._next_id(), tuple((pattern, 1) for pattern in self.filters)))
                granted = self._answer()
                if not isinstance(granted, packets.Granted) or max(granted.reasons, default=0x80) >= 0x80:
                    raise self._end(f"{self.url} refuses the subscription to {', '.join(self.filters)}")
        except OSError as error:
            raise self._end(f"cannot connect to {self.url}: {error}") from error

    def close(self) -> None:
        """Hang up; the broker keeps what comes for us meanwhile."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def poll(self, timeout_s: float) -> tuple[str, bytes] | None:
        """Returns the next message, topic and payload; None if there is none in time. It counts as taken."""
        deadline = time.monotonic() + timeout_s
        while not self._arrived:
            left = deadline - time.monotonic()
            if not self._read(max(0.0, left)) and left <= 0:
                self._keep_alive()
                return None
        topic, payload, packet_id = self._arrived.popleft()
        if packet_id:
            self._send(packets.Ack(packets.PUBACK, packet_id))
        return topic, payload

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Send a message and wait until the broker has it."""
        number = self._next_id()
        data = packets.publish(topic.encode(), payload, version=packets.V311, qos=1, packet_id=number, retain=retain)
        self._write(data)
        while True:
            answer = self._answer()
            if isinstance(answer, packets.Ack) and answer.packet_id == number:
                return

    def _answer(self) -> packets.Packet:
        deadline = time.monotonic() + self.timeout_s
        while not self._answers:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._end(f"{self.url} did not answer in {self.timeout_s:g} s")
            self._read(left)
        return self._answers.popleft()

    def _read(self, timeout_s: float) -> bool:
        """Take what has come off the socket; whether anything had."""
        connection = self._open()
        pending = isinstance(connection, ssl.SSLSocket) and connection.pending()
        if not pending and not select.select((connection,), (), (), timeout_s)[0]:
            return False
        try:
            data = connection.recv(65_536)
        except OSError as error:
            raise self._end(f"the connection to {self.url} was lost: {error}") from error
        if not data:
            raise self._end(f"{self.url} closed the connection")
        self._heard_s = time.monotonic()
        self._inbox += data
        while self._take():
            continue
        return True

    def _take(self) -> bool:
        """Take one packet out of the inbox; whether it was whole."""
        length, at = 0, 1
        while True:
            if at >= len(self._inbox):
                return False
            length |= (self._inbox[at] & 0x7F) << (7 * (at - 1))
            at += 1
            if self._inbox[at - 1] < 0x80:
                break
            if at > 4:
                raise self._end(f"{self.url} sends what is no MQTT")
        if length > PACKET_BYTES_MAX:
            raise self._end(f"{self.url} sends a packet of {length:,} bytes, more than {PACKET_BYTES_MAX:,}")
        if len(self._inbox) < at + length:
            return False
        head, body = self._inbox[0], bytes(self._inbox[at : at + length])
        del self._inbox[: at + length]
        try:
            if head >> 4 == packets.PUBLISH:
                self._arrived.append(_message(head, body))
            else:
                packet = packets.decode(head, body, packets.V311)
                if not isinstance(packet, packets.Ping):
                    self._answers.append(packet)
        except (packets.ProtocolError, UnicodeDecodeError, IndexError) as error:
            raise self._end(f"{self.url} sends what is no MQTT: {error}") from error
        return True

    def _keep_alive(self) -> None:
        now = time.monotonic()
        if now - self._heard_s > 1.5 * self.keep_alive_s:
            raise self._end(f"{self.url} is silent")
        if now - max(self._sent_s, self._heard_s) > 0.5 * self.keep_alive_s or now - self._sent_s > self.keep_alive_s:
            self._write(packets.PING)

    def _send(self, packet: packets.Packet) -> None:
        self._write(packets.encode(packet, packets.V311))

    def _write(self, data: bytes) -> None:
        connection = self._open()
        try:
            connection.sendall(data)
        except OSError as error:
            raise self._end(f"the connection to {self.url} was lost: {error}") from error
        self._sent_s = time.monotonic()

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise Lost(f"there is no connection to {self.url}")
        return self._socket

    def _end(self, sentence: str) -> Lost:
        self.close()
        return Lost(sentence)

    def _next_id(self) -> int:
        self._packet_id = self._packet_id % 65_535 + 1
        return self._packet_id


def _message(head: int, body: bytes) -> tuple[str, bytes, int]:
    """Topic, payload and packet id (0 at QoS 0) of a PUBLISH."""
    end = 2 + int.from_bytes(body[:2], "big")
    topic = body[2:end].decode()
    if not head & 0x06:
        return topic, body[end:], 0
    return topic, body[end + 2 :], int.from_bytes(body[end : end + 2], "big")
