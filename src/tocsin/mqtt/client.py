"""An MQTT client without threads: whoever calls `Client.poll` does the work."""

from __future__ import annotations

import random
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

from tocsin.batch import Ints
from tocsin.errors import ConfigError, TocsinError
from tocsin.mqtt import codec, packets
from tocsin.mqtt.codec import Publishes
from tocsin.mqtt.packets import ProtocolError, Will
from tocsin.settings.addresses import is_server
from tocsin.settings.tls import Tls

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
"""How long the broker may take to close the connection, once a client that had left a will has taken its leave."""
BACKOFF_S = (0.2, 30.0)
"""The first wait before connecting again, and the longest; between them it doubles, and half of it is drawn."""

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Linux: confirm what was read at once. Mosquitto leaves Nagle's algorithm on: each PUBACK would wait up to 40 ms for
the TCP acknowledgement of the one before. The system forgets the option, so it is set after each read."""
_PENDING = -1
"""Instead of a reason code: the broker has not answered yet."""

REFUSALS = {
    1: "it does not speak this protocol version",
    2: "it refuses this client id",
    3: "it is not available now",
    4: "user or password are wrong",
    5: "this client is not authorised",
    0x84: "it does not speak this protocol version",
    0x85: "it refuses this client id",
    0x86: "user or password are wrong",
    0x87: "this client is not authorised",
    0x88: "it is not available now",
    0x8E: "another client with the same client_id took over",
    0x95: "the packet is too large",
    0x97: "the quota is exceeded",
}


class NotConnected(TocsinError):
    """The connection was refused, or was lost."""

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.final = final
        """Whether trying again without a change of settings is in vain (wrong password, wrong certificate)."""


def address(url: str) -> tuple[str, int, bool]:
    """Host, port and whether TLS is spoken.

    Examples
    --------
    >>> address("mqtts://broker.example")
    ('broker.example', 8883, True)
    """
    if "@" in url:  # first of all: what else is said of it must not say the password
        raise ConfigError("user and password do not belong in the url; give them as the settings user and password")
    parts = urlsplit(url if is_server(url, ("mqtt", "mqtts")) else "")
    if parts.hostname is None or parts.path.strip("/"):
        shown = "this" if set("?#") & set(url) else repr(url)
        raise ConfigError(f"{shown} is not an MQTT address; write mqtt://host:1883 or mqtts://host:8883")
    secure = parts.scheme == "mqtts"
    return parts.hostname, parts.port or (8883 if secure else 1883), secure


@dataclass
class Client:
    """One connection to a broker, made again (after a pause that grows) whenever it is lost.

    `poll` gives what was received, and keeps the connection alive: call it at least as often as ``keep_alive_s``.
    Received messages are acknowledged by `acknowledge` only. `publish` waits for the broker's acknowledgements.
    """

    url: str
    client_id: str = ""
    version: int = packets.V5
    filters: Sequence[str] = ()
    """What to subscribe to on each new connection."""
    stale_filters: Sequence[str] = ()
    """What a session that the broker has kept is no longer to be subscribed to."""
    qos: int = 1
    subscribe_options: int = 0
    """Further bits of the options of a subscription (MQTT 5)."""
    clean: bool = True
    session_expiry_s: int = 0
    keep_alive_s: int = 30
    receive_max: int = 1000
    packet_bytes_max: int = 1 << 20
    """A longer message loses its end; another packet so long is an error."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    timeout_s: float = CONNECT_TIMEOUT_S
    will: Callable[[], Will] | None = None
    """Makes, for each new connection, what the broker publishes when that connection is lost."""

    connects: int = field(default=0, init=False)
    """How often a connection was made: the number of the present one."""
    session_present: bool = field(default=False, init=False)
    """Whether the broker still had our session when the present connection was made."""
    acks_sent: int = field(default=0, init=False)
    """How many acknowledgements were sent on the present connection."""
    acks_confirmed: int = field(default=0, init=False)
    """How many of these the broker has certainly processed."""
    last_error: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._host, self._port, self._secure = address(self.url)
        self._socket: socket.socket | None = None
        self._next_try_s = 0.0
        self._pause_s = BACKOFF_S[0]
        self._packet_id = 0
        self._unacked: dict[int, int] = {}
        self._waiting = 0
        self._arrived: list[Publishes] = []
        self._sent_s = self._ping_s = 0.0
        self._pings: deque[int] = deque()
        self._granted = False
        self._send_max = 1000
        self._dialling: threading.Thread | None = None
        """Connecting takes as long as the network likes; `poll` does not wait for it."""
        self._refusal: BaseException | None = None
        self._handover = threading.Lock()
        self._dialled = self._closed = False

    # -------------------------------------------------------------------------------------------- connection

    @property
    def connected(self) -> bool:
        return self._socket is not None and self._dialling is None

    def connect(self) -> None:
        """Connect and subscribe now; `NotConnected` says why it does not go."""
        self.hang_up()
        try:
            self._open()
        except (OSError, ProtocolError) as error:
            self._drop(error)
            final = isinstance(error, ssl.SSLCertVerificationError)
            raise NotConnected(f"cannot connect to {self.url}: {error}", final=final) from error
        except NotConnected as error:
            self._drop(error)
            raise
        self._pause_s = BACKOFF_S[0]

    def _open(self) -> None:
        deadline = time.monotonic() + self.timeout_s
        raw = socket.create_connection((self._host, self._port), self.timeout_s)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._secure:
            context = self.tls or Tls().context()
            try:
                self._socket = context.wrap_socket(raw, server_hostname=self._host)
            except BaseException:
                raw.close()
                raise
        else:
            self._socket = raw
        self._socket.setblocking(False)
        self._inbox = codec.ReceiveBuffer(self.version, self.packet_bytes_max, cut=True)
        self._unacked.clear()
        self._arrived.clear()
        self._connack: packets.Connack | None = None
        self._pings.clear()
        self._ping_s, self.acks_sent, self.acks_confirmed = 0.0, 0, 0
        properties: packets.Properties = {}
        if self.version == packets.V5:
            properties["receive_maximum"] = self.receive_max
            if not self.clean:
                properties["session_expiry_interval"] = self.session_expiry_s
        self._send(
            packets.encode(
                packets.Connect(
                    self.client_id,
                    self.version,
                    self.clean,
                    self.keep_alive_s,
                    self.user,
                    None if self.password is None else self.password.encode(),
                    None if self.will is None else self.will(),
                    properties,
                ),
                self.version,
            )
        )
        while self._connack is None:
            self._receive(self._left(deadline, "CONNACK"))
            self._digest(1)
        answer = self._connack
        if answer.reason:
            text = REFUSALS.get(answer.reason, f"reason {answer.reason}")
            raise NotConnected(f"{self.url} refuses the connection: {text}", final=answer.reason not in (3, 0x88, 0x97))
        self.session_present = answer.session_present
        self._send_max = min(answer.properties.get("receive_maximum", 65535), 1000)
        self.keep_alive_s = answer.properties.get("server_keep_alive", self.keep_alive_s)
        self.connects += 1
        if self.stale_filters and self.session_present:
            taken_back = packets.Unsubscribe(self._next_id(), tuple(self.stale_filters))
            self._send(packets.encode(taken_back, self.version))
        if self.filters:
            self._subscribe(deadline)

    def _subscribe(self, deadline: float) -> None:
        options = self.qos | (self.subscribe_options if self.version == packets.V5 else 0)
        filters = tuple((pattern, options) for pattern in self.filters)
        self._granted = False
        self._send(packets.encode(packets.Subscribe(self._next_id(), filters), self.version))
        # With a session there are subscriptions already, and a broker may want what it sends first acknowledged
        # before it answers (rumqttd does).
        while not self._granted and not self.session_present:
            self._receive(self._left(deadline, "SUBACK"))
            self._digest(1024)

    def _check(self, granted: packets.Granted) -> None:
        for pattern, reason in zip(self.filters, granted.reasons, strict=False):
            if reason >= 0x80:
                raise NotConnected(f"{self.url} refuses the subscription to {pattern}: reason {reason}", final=True)
        self._granted = True

    def _left(self, deadline: float, what: str) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"the broker sent no {what} in time")
        return left

    def _drop(self, error: Exception) -> None:
        """The connection is gone: remember why, and when to try again."""
        self.last_error = str(error)
        self.hang_up()
        self._next_try_s = time.monotonic() + self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
        self._pause_s = min(2 * self._pause_s, BACKOFF_S[1])

    def close(self) -> None:
        """Disconnect; the session stays at the broker if it was asked to keep it."""
        with self._handover:
            self._closed = True
            if self._dialling is not None and not self._dialled:
                return  # whoever connects sees that nobody wants it any more
        if self._socket is None:
            return
        try:
            self._send(packets.encode(packets.Disconnect(), self.version))
            if self.will is not None:
                # A socket that is closed with something unread resets the connection, which may overtake the
                # DISCONNECT: so the broker is to close first, or it publishes the will.
                deadline = time.monotonic() + CLOSE_TIMEOUT_S
                while self._receive(max(0.0, deadline - time.monotonic())):
                    self._inbox.frames()
        except (OSError, ProtocolError) as error:
            self.last_error = str(error)  # gone: that is what was wanted
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection without a word; the broker keeps the session, and publishes the will."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # --------------------------------------------------------------------------------------------- receiving

    def poll(self, limit: int, timeout_s: float) -> Publishes | None:
        """At most ``limit`` messages that have come; None if there is none in time.

        Connects again when it is time to; `NotConnected` only if that is in vain.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if not self.connected and not self._again(deadline):
                return None
            if self._arrived:
                return self._arrived.pop(0)
            try:
                if not self._digest(limit) and not self._arrived:
                    left = deadline - time.monotonic()
                    if not self._receive(max(0.0, min(left, self.keep_alive_s / 2 or left))):
                        self._keep_alive()
                    self._digest(limit)
                    if left <= 0 and not self._arrived:
                        return None
            except (OSError, ProtocolError, NotConnected) as error:
                self._drop(error)
                if isinstance(error, NotConnected) and error.final:
                    raise

    def _again(self, deadline: float) -> bool:
        """Let a thread connect once it is time to. Returns whether there is a connection by the deadline."""
        if self._dialling is None:
            wait = self._next_try_s - time.monotonic()
            left = deadline - time.monotonic()
            if wait > 0:
                time.sleep(max(0.0, min(wait, left)))
            if wait > left:
                return False
            self._refusal, self._dialled, self._closed = None, False, False
            self._dialling = threading.Thread(target=self._dial, name=f"connect {self.url}", daemon=True)
            self._dialling.start()
        self._dialling.join(max(0.0, deadline - time.monotonic()))
        if self._dialling.is_alive():
            return False
        self._dialling = None
        if self._refusal is None:
            return True
        if not isinstance(self._refusal, NotConnected) or self._refusal.final:
            raise self._refusal
        return time.monotonic() < deadline and self._again(deadline)

    def _dial(self) -> None:
        try:
            self.connect()
        except BaseException as error:
            self._refusal = error
        with self._handover:
            self._dialled = True
            if self._closed:
                self.hang_up()

    def acknowledge(self, packet_ids: Ints, qos: Ints) -> bool:
        """Send PUBACKs for messages of the present connection. Returns False if it has been lost."""
        if not self.connected:
            return False
        data = codec.acks(packet_ids, qos)
        self.acks_sent += len(packet_ids)
        if len(self._pings) < 4:
            # TCP keeps order and a broker answers in order: its PINGRESP confirms the acknowledgements before it.
            self._note_ping()
            data += packets.PING
        try:
            self._send(data)
        except OSError as error:
            self._drop(error)
            return False
        return True

    def tend(self) -> None:
        """Keep the connection alive without reading from it."""
        if self.connected and time.monotonic() - self._sent_s > 0.7 * (self.keep_alive_s or 30):
            self._note_ping()
            try:
                self._send(packets.PING)
            except OSError as error:
                self._drop(error)

    def _keep_alive(self) -> None:
        """Nothing has come: ask the broker whether it is there, and give it up if it does not say so."""
        now = time.monotonic()
        if self._pings and now - self._ping_s > (self.keep_alive_s or 30):
            raise TimeoutError("the broker did not answer a ping in time")
        if self.keep_alive_s and not self._pings and now - self._sent_s > 0.7 * self.keep_alive_s:
            self._note_ping()
            self._send(packets.PING)

    def _note_ping(self) -> None:
        if not self._pings:
            self._ping_s = time.monotonic()
        self._pings.append(self.acks_sent)

    def _receive(self, timeout_s: float) -> bool:
        """Read once from the socket into the inbox; whether anything came in time."""
        connection = self._socket  # another thread may close the client meanwhile
        if connection is None:
            raise ConnectionResetError("the client was closed")
        end = time.monotonic() + timeout_s
        while True:
            try:
                count = connection.recv_into(self._inbox.room())
            except (BlockingIOError, ssl.SSLWantReadError):
                left = end - time.monotonic()
                if left <= 0 or not select.select((connection,), (), (), left)[0]:
                    return False
            except ssl.SSLWantWriteError:
                select.select((), (connection,), (), max(0.0, end - time.monotonic()))
            else:
                if count == 0:
                    raise ConnectionResetError("the broker closed the connection")
                self._inbox.filled(count)
                if _QUICKACK is not None:
                    connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
                return True

    def _digest(self, limit: int) -> int:
        """Take at most ``limit`` packets out of the inbox; returns how many."""
        frames = self._inbox.frames(limit)
        count = int(frames.shape[1])
        if not count:
            return 0
        kinds = frames[codec.HEAD] >> 4
        if (kinds == packets.PUBLISH).any():
            self._arrived.append(codec.publishes(self._inbox.data, frames))
        for i in np.flatnonzero(kinds != packets.PUBLISH).tolist():
            head, begin, end = (int(frames[row, i]) for row in (codec.HEAD, codec.BODY, codec.END))
            self._control(packets.decode(head, self._inbox.data[begin:end].tobytes(), self.version))
        return count

    def _control(self, packet: packets.Packet) -> None:
        if isinstance(packet, packets.Ack):
            if packet.kind == packets.PUBREL:
                self._send(packets.encode(packets.Ack(packets.PUBCOMP, packet.packet_id), self.version))
            elif self._unacked.get(packet.packet_id) == _PENDING:
                self._unacked[packet.packet_id] = packet.reason
                self._waiting -= 1
        elif isinstance(packet, packets.Ping):
            self._ping_s = time.monotonic()
            if not self._pings:
                raise ProtocolError("an answer to a ping that nobody sent", packets.PROTOCOL)
            self.acks_confirmed = self._pings.popleft()
        elif isinstance(packet, packets.Connack):
            self._connack = packet
        elif isinstance(packet, packets.Granted):
            if packet.kind == packets.SUBACK:
                self._check(packet)
        elif isinstance(packet, packets.Disconnect):
            text = REFUSALS.get(packet.reason, f"reason {packet.reason}")
            raise NotConnected(f"{self.url} ends the connection: {text}")
        else:
            raise ProtocolError(f"a broker does not send {type(packet).__name__}", packets.PROTOCOL)

    # ---------------------------------------------------------------------------------------------- sending

    def publish(
        self, messages: Sequence[tuple[str, bytes]], *, qos: int = 1, retain: bool = False, timeout_s: float = 30.0
    ) -> list[int]:
        """Send messages and wait until the broker has them all (QoS 1); returns its reason code for each.

        `NotConnected` if the connection is lost or the time is over: then some may have arrived, some not.
        """
        assert qos in (0, 1)
        if self._socket is None:
            self.connect()
        deadline = time.monotonic() + timeout_s
        reasons: list[int] = []
        step = self._send_max if qos else 1000
        try:
            for start in range(0, len(messages), step):
                some = messages[start : start + step]
                ids = [self._next_id() for _ in some] if qos else [0] * len(some)
                self._unacked = dict.fromkeys(ids, _PENDING) if qos else {}
                self._waiting = len(self._unacked)
                self._send(
                    b"".join(
                        packets.publish(
                            topic.encode(), body, version=self.version, qos=qos, packet_id=packet_id, retain=retain
                        )
                        for packet_id, (topic, body) in zip(ids, some, strict=True)
                    )
                )
                while self._waiting:
                    self._receive(self._left(deadline, "PUBACK"))
                    while self._digest(1024):
                        continue
                reasons += self._unacked.values() if qos else ids
        except (OSError, ProtocolError, NotConnected) as error:
            self._drop(error)
            raise NotConnected(f"publishing to {self.url} failed: {error}") from error
        finally:
            self._unacked, self._waiting = {}, 0
        return reasons

    def post(self, topic: str, body: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send a message on the present connection and wait for nothing. Returns False if it has been lost."""
        if not self.connected:
            return False
        packet_id = self._next_id() if qos else 0
        packet = packets.publish(
            topic.encode(), body, version=self.version, qos=qos, packet_id=packet_id, retain=retain
        )
        try:
            self._send(packet)
        except OSError as error:
            self._drop(error)
            return False
        return True

    def _next_id(self) -> int:
        self._packet_id = self._packet_id % 65535 + 1
        return self._packet_id

    def _send(self, data: bytes) -> None:
        assert self._socket is not None
        deadline = time.monotonic() + self.timeout_s
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"the broker takes nothing for {self.timeout_s:g} s") from None
                select.select((), (self._socket,), (), left)
            except ssl.SSLWantReadError:
                select.select((self._socket,), (), (), max(0.0, deadline - time.monotonic()))
        self._sent_s = time.monotonic()
