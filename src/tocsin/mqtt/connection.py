"""The broker's side of one client's connection."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tocsin.errors import ConfigError
from tocsin.mqtt import codec, packets
from tocsin.mqtt.budget import MEMORY_MAX, OVERHEAD, Budget, Publication
from tocsin.mqtt.packets import ProtocolError
from tocsin.mqtt.sessions import (
    Acl,
    Retained,
    Session,
    Subscriptions,
    password_matches,
)  # fmt: skip
from tocsin.mqtt.topics import valid_filter, valid_name
from tocsin.settings.addresses import is_local
from tocsin.settings.tls import server_context

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
NAMES_BYTES = 64 * 256
"""So many bytes of topics are remembered with whether the client may write to them."""
CLOGGED_BYTES = 1 << 20
"""So much may wait in a connection's socket; more stays in its session's queue."""


@dataclass(frozen=True)
class BrokerConfiguration:
    """What a broker may be told."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: any free one."""
    ca: Path | None = None
    """With it every client must show a certificate that this CA has signed; its common name is the user's name."""
    cert: Path | None = None
    key: Path | None = None
    crl: Path | None = None
    """Which certificates the CA has revoked (PEM)."""
    users: Mapping[str, str] | None = None
    """Passwords by user name; None: no password is asked for."""
    acl: Acl | None = None
    packet_bytes_max: int = 1 << 20
    queue_max: int = 100_000
    """Messages that may wait in one session."""
    sessions_max: int = 10_000
    """Sessions, and connections, at a time."""
    retained_max: int = 100_000
    memory_max: int = MEMORY_MAX
    """Bytes of memory for all that clients give it to keep: messages that wait or are in flight, with topics and
    properties, what is retained, filters, names, and in a sixteenth of it wills. What is being sent or received comes
    on top: at most 2 MiB a connection."""
    receive_max: int = 1000
    session_expiry_s_max: int = 30 * 86_400
    state: Path | None = None
    """File that keeps sessions and retained messages from a stop in good order to the next start."""

    def __post_init__(self) -> None:
        if not is_local(self.host) and (self.cert is None or (self.ca is None and self.users is None)):
            raise ConfigError(
                f"the broker listens on {self.host}, beyond this computer, only with TLS (cert, key) and with client "
                "certificates (ca) or passwords (users); or listen on 127.0.0.1"
            )

    def context(self) -> ssl.SSLContext | None:
        if self.cert is None:
            return None
        try:
            return server_context(self.cert, self.key, self.ca, self.crl)
        except OSError as error:
            names = f"ca={self.ca} crl={self.crl} cert={self.cert} key={self.key}"
            raise ConfigError(f"the TLS files {names}: {error}") from error


class ConnectionHost(Protocol):
    """What a connection needs of its broker."""

    settings: BrokerConfiguration
    sessions: dict[str, Session]
    subscriptions: Subscriptions
    retained: Retained
    connections: set[ClientConnection]
    wills: Budget
    sent: int

    def route(self, message: Publication, sender: Session | None) -> bool: ...
    def forget(self, session: Session) -> None: ...
    def session_budget(self) -> Budget: ...
    def touch(self, connection: ClientConnection) -> None: ...
    def flush(self) -> None: ...
    def name(self) -> str: ...


class ClientConnection(asyncio.BufferedProtocol):
    """One client's."""

    def __init__(self, broker: ConnectionHost) -> None:
        self.broker = broker
        self.session: Session | None = None
        self.inbox = codec.ReceiveBuffer(packets.V311, broker.settings.packet_bytes_max)
        self.will: Publication | None = None
        self._room = Budget(2 * broker.settings.packet_bytes_max, broker.wills)
        """Of its will."""
        self.deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._patience_s = 0.0
        self._write_names: dict[bytes, bool] = {}
        self._size_max = 1 << 28
        self._full = False
        self._user = ""

    # ------------------------------------------------------------------------------------- asyncio's side

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        transport.set_write_buffer_limits(high=CLOGGED_BYTES)
        if len(self.broker.connections) >= self.broker.settings.sessions_max:
            transport.abort()
        self.broker.connections.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.inbox.room()

    def buffer_updated(self, nbytes: int) -> None:
        self.inbox.filled(nbytes)
        try:
            if self.session is None and self.inbox.first() != packets.CONNECT << 4:
                raise ProtocolError("the first packet is not CONNECT", packets.PROTOCOL)
            while not self._transport.is_closing():
                # The first packet says which version the rest is.
                frames = self.inbox.frames(1 if self.session is None else 1024)
                if not frames.shape[1]:
                    break
                self._take(frames.T.tolist())
        except ProtocolError as error:
            log.info("connection ended: %s", error)
            self.end(error.reason)
        if self._patience_s and not self._transport.is_closing():
            self.deadline_s = time.monotonic() + self._patience_s
        self.broker.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        broker, session = self.broker, self.session
        broker.connections.discard(self)
        if session is None:
            self._room.close()
            return
        if session.link is self:
            session.link = None
            session.ends_s = time.monotonic() + session.expiry_s
            if not session.expiry_s:
                broker.forget(session)
        will, self.will = self.will, None
        self._room.close()
        if will is not None:
            broker.route(will, session)
            broker.flush()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self.session is not None and self.session.link is self:
            self.session.flow()
            self.broker.flush()

    # ------------------------------------------------------------------------------------- Link

    def clogged(self) -> bool:
        return self._full or self._out_bytes > CLOGGED_BYTES

    def send(self, message: Publication, packet_id: int, dup: bool) -> None:
        data = packets.publish(
            message.topic,
            message.payload,
            version=self.inbox.version,
            qos=message.qos,
            packet_id=packet_id,
            retain=message.retain,
            dup=dup,
            properties=message.properties,
        )
        if len(data) > self._size_max:
            if message.qos and self.session is not None:
                self.session.release(packet_id)
            return  # the standard says so: a client never gets what it says it cannot take
        self.broker.sent += 1
        self._write(data)

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)
        self.broker.touch(self)

    def flush(self) -> None:
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()
        self._out_bytes = 0
        if self.session is not None and self.session.link is self and not self._full and self.session.waits():
            self.session.flow()

    def _answer(self, packet: packets.Packet) -> None:
        self._write(packets.encode(packet, self.inbox.version))

    def end(self, reason: int) -> None:
        """Close, saying why if the client can hear it; its will goes out."""
        if self.session is not None and self.inbox.version == packets.V5 and not self._transport.is_closing():
            self._answer(packets.Disconnect(reason))
        self.flush()
        self._transport.close()
        asyncio.get_running_loop().call_later(2.0, self._transport.abort)  # if the client reads no more

    # ------------------------------------------------------------------------------------- packets

    def _take(self, frames: list[list[int]]) -> None:
        data = memoryview(self.inbox.data)  # type: ignore[arg-type]  # an array is a buffer
        for head, topic, topic_end, packet_id, properties, body, end in frames:
            kind = head >> 4
            if self.session is None:
                packet = packets.decode(head, bytes(data[body:end]), packets.V5)
                if not isinstance(packet, packets.Connect):
                    raise ProtocolError("the first packet is not CONNECT", packets.PROTOCOL)
                self._connect(packet)
                if self.session is None:
                    return
            elif kind == packets.PUBLISH:
                message = Publication(
                    bytes(data[topic:topic_end]), bytes(data[body:end]), head >> 1 & 3, bool(head & 1)
                )
                if self.inbox.version == packets.V5 and body - properties > 1:
                    message = message._replace(properties=self._passed_on(bytes(data[properties:body])))
                self._publish(message, packet_id)
            elif kind == packets.PUBACK:
                self.session.acknowledged(packet_id)
            elif kind == packets.PINGREQ:
                self._write(packets.PONG)
            else:
                self._control(packets.decode(head, bytes(data[body:end]), self.inbox.version))
                if kind == packets.DISCONNECT:
                    return

    @staticmethod
    def _passed_on(properties: bytes) -> bytes:
        present = packets.read_properties(properties)
        if "topic_alias" in present or "subscription_identifier" in present:
            raise ProtocolError("this property is not allowed here", packets.PROTOCOL)
        return properties

    def _publish(self, message: Publication, packet_id: int) -> None:
        session = self.session
        assert session is not None
        reason = 0
        if message.qos == 2 and packet_id in session.received:
            pass  # it came again: it has been routed
        elif self._may_write(message.topic):
            if message.qos == 2:
                if len(session.received) >= self.broker.settings.receive_max:
                    raise ProtocolError("more QoS 2 messages than allowed are not released", 0x93)
                session.received.add(packet_id)
            if not self.broker.route(message, session):
                reason = 0x97
        else:
            reason = packets.NOT_AUTHORISED
        if message.qos:
            kind = packets.PUBACK if message.qos == 1 else packets.PUBREC
            if self.inbox.version == packets.V5 and reason:
                self._answer(packets.Ack(kind, packet_id, reason))
            else:
                self._write(bytes((kind << 4, 2, packet_id >> 8, packet_id & 255)))

    def _may_write(self, topic: bytes) -> bool:
        allowed = self._write_names.get(topic)
        if allowed is None:
            try:
                name = topic.decode()
            except UnicodeDecodeError as error:
                raise ProtocolError("a topic is not UTF-8") from error
            acl = self.broker.settings.acl
            assert self.session is not None
            allowed = not name.startswith("$SYS") and (
                acl is None or acl.may(self._user, self.session.client_id, "write", name)
            )
            if acl is not None and len(topic) < NAMES_BYTES // 64:
                if len(self._write_names) >= 64:
                    self._write_names.clear()
                self._write_names[topic] = allowed
        return allowed

    def _control(self, packet: packets.Packet) -> None:
        session = self.session
        assert session is not None
        if isinstance(packet, packets.Subscribe):
            self._subscribe(session, packet)
        elif isinstance(packet, packets.Unsubscribe):
            reasons = tuple(0 if self.broker.subscriptions.remove(session, name) else 0x11 for name in packet.filters)
            v5 = self.inbox.version == packets.V5
            self._answer(packets.Granted(packets.UNSUBACK, packet.packet_id, reasons if v5 else ()))
        elif isinstance(packet, packets.Ack) and packet.kind == packets.PUBREL:
            session.received.discard(packet.packet_id)
            self._answer(packets.Ack(packets.PUBCOMP, packet.packet_id))
        elif isinstance(packet, packets.Disconnect):
            if packet.reason != 0x04:  # disconnect with will
                self.will = None
            if "session_expiry_interval" in packet.properties:
                if not session.expiry_s and packet.properties["session_expiry_interval"]:
                    raise ProtocolError("a session that ends with the connection cannot be kept", packets.PROTOCOL)
                self._expire_after(session, packet.properties["session_expiry_interval"])
            self.flush()
            self._transport.close()
        else:
            raise ProtocolError(f"a client does not send {type(packet).__name__}", packets.PROTOCOL)

    def _expire_after(self, session: Session, seconds: int) -> None:
        session.expiry_s = float(min(seconds, self.broker.settings.session_expiry_s_max))

    def _refusal(self, packet: packets.Connect, old: Session | None) -> int:
        """Returns why the client may not connect, as a reason code of its version; 0 if it may."""
        broker, settings, v5 = self.broker, self.broker.settings, packet.version == packets.V5
        if settings.users is not None and not password_matches(settings.users, packet.user, packet.password):
            return 0x86 if v5 else 4
        if not packet.client_id and not packet.clean and not v5:
            return 2
        if packet.client_id not in broker.sessions and len(broker.sessions) >= settings.sessions_max:
            return 0x97 if v5 else 3
        if "authentication_method" in packet.properties:
            return 0x8C
        will = packet.will
        if will is not None and not (
            valid_name(will.topic)
            and (settings.acl is None or settings.acl.may(self._user, packet.client_id, "write", will.topic))
        ):
            return packets.NOT_AUTHORISED if v5 else 5
        if old is not None and old.user != self._user:
            return packets.NOT_AUTHORISED if v5 else 5  # a session belongs to the user who made it
        return 0

    def _connect(self, packet: packets.Connect) -> None:
        broker, settings = self.broker, self.broker.settings
        self.inbox.version = packet.version
        v5 = packet.version == packets.V5
        self._user = packet.user or ""
        if settings.ca is not None:
            self._user = _common_name(self._transport.get_extra_info("peercert"))
        old = broker.sessions.get(packet.client_id) if packet.client_id else None
        will, budget = _will_of(packet), broker.session_budget()
        reason = self._refusal(packet, old)
        # Who is known already may always come and take what waits: that makes room.
        name = 0 if old is not None else 2 * (len(packet.client_id) + len(self._user)) + 4 * OVERHEAD
        if not reason and not (budget.take(name) and (will is None or self._room.take(will.weight))):
            reason = 0x97 if v5 else 3
            budget.close()
        if reason:
            self._answer(packets.Connack(False, reason))
            self.flush()
            self._transport.close()
            return
        if old is not None and isinstance(old.link, ClientConnection):
            old.link.end(0x8E)
            old.link = None
        if old is not None and packet.clean:
            broker.forget(old)
            old = None
        client_id = packet.client_id or broker.name()
        session = old or Session(client_id, self._user, settings.queue_max, budget=budget)
        broker.sessions[client_id] = session
        expiry_s = packet.properties.get("session_expiry_interval", 0) if v5 else (0 if packet.clean else 2**32 - 1)
        self._expire_after(session, expiry_s)
        session.ends_s, session.link = None, self
        session.send_max = packet.properties.get("receive_maximum", 65535)
        self._size_max = packet.properties.get("maximum_packet_size", 1 << 28)
        self.session = session
        self._patience_s = 1.5 * packet.keep_alive_s
        self.deadline_s = float("inf")
        self.will = will
        properties: packets.Properties = {}
        if v5:
            properties = {
                "receive_maximum": settings.receive_max,
                "maximum_packet_size": settings.packet_bytes_max,
                "shared_subscription_available": 0,
                "subscription_identifier_available": 0,
            }
            if not packet.client_id:
                properties["assigned_client_identifier"] = client_id
            if expiry_s > session.expiry_s:
                properties["session_expiry_interval"] = int(session.expiry_s)
        self._answer(packets.Connack(old is not None, 0, properties))
        if old is not None:
            session.resume()

    def _subscribe(self, session: Session, packet: packets.Subscribe) -> None:
        broker, acl, v5 = self.broker, self.broker.settings.acl, self.inbox.version == packets.V5
        if "subscription_identifier" in packet.properties:
            raise ProtocolError("subscription identifiers are not available", 0xA1)
        reasons: list[int] = []
        retained: list[tuple[str, int]] = []
        for pattern, options in packet.filters:
            if not valid_filter(pattern):
                raise ProtocolError(f"{pattern!r} is not a topic filter", 0x8F)
            if pattern.startswith("$share/"):
                reasons.append(0x9E if v5 else 0x80)
            elif len(session.subscriptions) >= 1000 and pattern not in session.subscriptions:
                reasons.append(0x97 if v5 else 0x80)
            elif acl is not None and not acl.may_subscribe(session.user, session.client_id, pattern):
                reasons.append(packets.NOT_AUTHORISED if v5 else 0x80)
            else:
                qos = min(options & 3, 1)
                handling = options >> 4 & 3
                fresh = handling == 0 or (handling == 1 and pattern not in session.subscriptions)
                if not broker.subscriptions.add(session, pattern, options & ~3 | qos):
                    reasons.append(0x97 if v5 else 0x80)
                    continue
                if fresh:
                    retained.append((pattern, qos))
                reasons.append(qos)
        self._answer(packets.Granted(packets.SUBACK, packet.packet_id, tuple(reasons)))
        for pattern, qos in retained:
            for message in broker.retained.find(pattern):
                session.deliver(message._replace(qos=min(qos, message.qos)), may_wait=True)


def _will_of(packet: packets.Connect) -> Publication | None:
    if (will := packet.will) is None:
        return None
    passed_on = {name: value for name, value in will.properties.items() if name != "will_delay_interval"}
    return Publication(will.topic.encode(), will.payload, will.qos, will.retain, packets.properties(passed_on))


def _common_name(certificate: Mapping[str, Any] | None) -> str:
    pairs = (pair for group in (certificate or {}).get("subject", ()) for pair in group)
    return next((str(value) for name, value in pairs if name == "commonName"), "")
