"""Source `mqtt`: messages from an MQTT broker, acknowledged only once they are durable."""

from __future__ import annotations

import base64
import hashlib
import logging
import time
import uuid
from collections import deque
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, SecretStr, field_validator

from tocsin.batch import RAW, Batch, Ints, as_times
from tocsin.contracts import Offset, Source
from tocsin.errors import SourceError
from tocsin.mqtt import packets
from tocsin.mqtt.client import Client, NotConnected, Tls, address
from tocsin.mqtt.codec import Publishes
from tocsin.mqtt.topics import require_filter
from tocsin.settings.quantities import Duration, Size

log = logging.getLogger(__name__)

_NO_RETAINED, _RETAIN_AS_PUBLISHED = 2 << 4, 1 << 3
_SEEN = np.dtype([("packet_id", "<u2"), ("hash", "<u4")])
_LOW = np.uint64(0xFFFFFFFF)
"""Half of a hash is enough: packet id and DUP flag must agree too."""
_UNKNOWN, _DURABLE = -2, -1
_CONNECT_TIMEOUT_S = 5.0
"""So long an attempt to connect may hold up whoever polls."""
_PACE_S, _PACE_ENTRY_S = 0.002, 1e-6
"""Least time between two batches, and more for each message in the window, which every offset carries whole: under
load a batch is worth its cost, and the first after a pause does not wait."""


class Mqtt(Source):
    """Messages from an MQTT broker (3.1.1 or 5), at QoS 1 without loss and without doubles.

    A message is acknowledged only when it is durable here; until then the broker keeps it in our session. What the
    broker sends again after a crash or a lost connection is recognised (DUP flag, packet id, hash of topic and
    payload) and dropped. Use it for devices that publish by themselves; at QoS 0 whatever a slow moment loses is lost.
    The session belongs to ``client_id``: two pipelines must not share one. The broker has to keep sessions over its
    own restart (Mosquitto: ``persistence true``, and ``max_queued_messages`` as large as the longest pause).

    References: OASIS MQTT 3.1.1 (2014) and 5.0 (2019).

    Examples
    --------
    >>> source = Mqtt(url="mqtt://localhost", topic="plant/+/telemetry")
    >>> source.topics(), source.output_schema().names
    (('plant/+/telemetry',), ['payload', 'topic', 'position', 'received'])
    """

    REPLAYABLE: ClassVar[bool] = False

    url: str
    """The broker: ``mqtt://host:1883``, or ``mqtts://host:8883`` with TLS."""
    topic: str | tuple[str, ...]
    """What to subscribe to; one topic or several, ``+`` stands for one level, ``#`` for the rest."""
    client_id: str = ""
    """Name of our session at the broker; by default derived from url, topic and user, so that it stays the same."""
    version: Literal["3.1.1", "5"] = "5"
    """Version of the protocol."""
    qos: Literal[0, 1] = 1
    """0: at most once; 1: the broker keeps each message until it is durable here."""
    user: str | None = None
    """User name, where the broker asks for one."""
    password: SecretStr | None = None
    """Password; write it as ``${env:NAME}`` or ``${file:PATH}``."""
    tls: Tls | None = None
    """Certificates; without them ``mqtts`` trusts what the operating system trusts."""
    retained: bool = False
    """Whether to take what the broker had retained before we came; it may be old."""
    packet_bytes_max: Size = 1 << 20
    """A longer message loses its end, which the decoder then rejects as too large."""
    receive_max: int = Field(default=2000, ge=1, le=65535)
    """How many messages may wait for their acknowledgement, at most 65535."""
    keep_alive_us: Duration = 30_000_000
    """A silent connection is tested after this time."""
    session_expiry_us: Duration = 7 * 86_400_000_000
    """How long the broker keeps our session while we are away (MQTT 5; in 3.1.1 it decides itself); 0: not at all."""

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        address(url)
        return url

    @field_validator("topic", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _topic(cls, topic: Any) -> Any:
        for one in (topic,) if isinstance(topic, str) else topic:
            require_filter(one)
        return topic if isinstance(topic, str) else tuple(topic)

    def topics(self) -> tuple[str, ...]:
        """The topics as a tuple."""
        return (self.topic,) if isinstance(self.topic, str) else self.topic

    def session(self) -> str:
        """The client id, as set or derived."""
        if self.client_id:
            return self.client_id
        name = "\n".join((self.url, *self.topics(), self.user or ""))
        return f"tocsin-{hashlib.sha256(name.encode()).hexdigest()[:15]}"  # 22 characters: all brokers take 23

    def sampled(self) -> Mqtt:
        return self.model_copy(update={"client_id": f"look-{uuid.uuid4().hex[:16]}", "session_expiry_us": 0})

    def open(self, partition: str, offset: Offset | None) -> MqttReader:
        return MqttReader(self, offset)


class MqttReader:
    """The open session. Connects at the first poll, and again whenever the connection is lost."""

    def __init__(self, source: Mqtt, offset: Offset | None) -> None:
        self._source = source
        self.client = Client(
            url=source.url,
            client_id=source.session(),
            version=packets.V5 if source.version == "5" else packets.V311,
            filters=source.topics(),
            qos=source.qos,
            subscribe_options=0 if source.retained else _NO_RETAINED | _RETAIN_AS_PUBLISHED,
            clean=source.session_expiry_us == 0,
            session_expiry_s=min(source.session_expiry_us // 1_000_000, 2**32 - 1),
            keep_alive_s=min(source.keep_alive_us // 1_000_000, 65535),
            receive_max=source.receive_max,
            packet_bytes_max=source.packet_bytes_max,
            user=source.user,
            password=None if source.password is None else source.password.get_secret_value(),
            tls=source.tls.context() if source.tls is not None else None,
            timeout_s=_CONNECT_TIMEOUT_S,
        )
        self.session_lost = 0
        """How often the broker had forgotten our session: what was published meanwhile is lost."""
        self.duplicates = 0
        """How many messages came again and were dropped."""
        self.retained_dropped = 0
        """How many retained messages, old ones or clearing ones, were dropped."""
        self._had_session = offset is not None
        self._connection = 0
        self._told = ""
        self._next_s = 0.0
        self._position = 0
        self._committed = 0
        self._window = Window(source.receive_max)
        if offset is not None:
            self._position = self._committed = int(offset["position"])
            self._window.restore(offset["seen"])

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        begin = time.monotonic()
        deadline = begin + timeout_s
        if begin < self._next_s:
            time.sleep(min(self._next_s - begin, timeout_s))
        while True:
            room = self._source.receive_max - self._window.waiting
            if room <= 0:
                # As many as may wait for a commit do wait: read no more before it, but keep the connection alive.
                self.client.tend()
                time.sleep(min(max(0.0, deadline - time.monotonic()), 0.01))
                return None
            try:
                found = self.client.poll(max(1, min(rows_max, room)), max(0.0, deadline - time.monotonic()))
            except NotConnected as error:
                raise SourceError(str(error)) from error
            if self.client.connects != self._connection:
                self._new_connection()
            self._window.confirm(self.client.acks_confirmed)
            if found is not None and (batch := self._batch(found)) is not None:
                self._next_s = time.monotonic() + _PACE_S + _PACE_ENTRY_S * self._window.size
                return batch
            if not self.client.connected and self.client.last_error != self._told:
                self._told = self.client.last_error
                log.warning("%s; trying again", self._told)
            if time.monotonic() >= deadline:
                return None

    def commit(self, offset: Offset) -> None:
        self._committed = max(self._committed, int(offset["position"]))
        packet_ids, qos = self._window.durable(self._committed)
        self._acknowledge(packet_ids, qos)

    def close(self) -> None:
        self.client.close()

    def events(self) -> dict[str, int]:
        """Counters, by name."""
        return {
            "session_lost": self.session_lost,
            "duplicates": self.duplicates,
            "retained_dropped": self.retained_dropped,
            "reconnects": max(0, self.client.connects - 1),
        }

    def _new_connection(self) -> None:
        self._connection = self.client.connects
        self._window.disconnect()
        if not self.client.session_present:
            if self._had_session and self._source.qos and self._source.session_expiry_us:
                self.session_lost += 1
                if self.session_lost == 1:
                    log.warning("%s lost our session: what was published meanwhile is lost", self._source.url)
            self._window.forget()
        self._had_session = True

    def _batch(self, found: Publishes) -> tuple[Batch, Offset] | None:
        found = self._without_retained(found)
        if found.dup.any():
            found = self._without_duplicates(found)
        count = len(found)
        if not count:
            return None
        positions = np.arange(self._position, self._position + count)
        self._position += count
        in_flight = found.qos > 0
        if in_flight.all():
            self._window.add(found.packet_ids, found.qos, found.hashes, positions)
        elif in_flight.any():
            some = found.keep(in_flight)
            self._window.add(some.packet_ids, some.qos, some.hashes, positions[in_flight])
        received = as_times(np.full(count, time.time_ns() // 1_000))
        rows = pa.RecordBatch.from_arrays([found.payloads, found.topics, pa.array(positions), received], schema=RAW)
        return Batch(rows), {"position": self._position, "seen": self._window.dump()}

    def _without_retained(self, found: Publishes) -> Publishes:
        """Drop retained messages: old ones, unless they are wanted, and empty ones, which only clear."""
        if not found.retain.any():
            return found
        clears = found.retain & (pc.binary_length(found.payloads).to_numpy() == 0)
        # In MQTT 5 we ask for none of the old ones, and see on new ones how they were published.
        old = found.retain & (not self._source.retained and self.client.version == packets.V311)
        drop = clears | old
        self.retained_dropped += int(drop.sum())
        self._acknowledge(found.packet_ids[drop & (found.qos > 0)], found.qos[drop & (found.qos > 0)])
        return found.keep(~drop)

    def _without_duplicates(self, found: Publishes) -> Publishes:
        known = self._window.known(found.packet_ids, found.hashes) & found.dup & (found.qos > 0)
        if not known.any():
            return found
        self.duplicates += int(known.sum())
        self._window.again(found.packet_ids[known], found.qos[known])
        packet_ids, qos = self._window.durable(self._committed)
        self._acknowledge(packet_ids, qos)
        return found.keep(~known)

    def _acknowledge(self, packet_ids: Ints, qos: Ints) -> None:
        if not len(packet_ids):
            return
        if self.client.acknowledge(packet_ids, qos):
            self._window.sent(packet_ids, self.client.acks_sent)
        else:
            self._window.unsent(packet_ids)


class Window:
    """The messages that the broker may send again: those not acknowledged, or not certainly.

    A packet id names one message until its acknowledgement has reached the broker. So for each id the last message is
    enough: its position here, and the hash of topic and payload. The broker's own limit of messages in flight is not
    trusted: Mosquitto 2.0.11 exceeds it many times over after a lost connection.
    """

    def __init__(self, settled_after: int) -> None:
        self._settled_after = settled_after
        self._position: Ints = np.full(65536, _UNKNOWN, np.int64)
        self._hash: npt.NDArray[np.uint32] = np.zeros(65536, np.uint32)
        self._open = _Queue()
        """Came on this connection, not acknowledged."""
        self._sent: deque[tuple[int, Ints, Ints]] = deque()
        """Acknowledged on this connection, not confirmed: number of the last acknowledgement, ids, positions."""
        self._new = 0
        self._unsure = _Queue()
        """Came on an earlier connection; the broker may or may not have seen our acknowledgement."""

    @property
    def waiting(self) -> int:
        """How many wait for their acknowledgement."""
        return len(self._open.packet_ids)

    @property
    def size(self) -> int:
        """How many it holds, about."""
        held = len(self._unsure.packet_ids) + sum(len(entry[1]) for entry in self._sent)
        return self.waiting + held

    def add(self, packet_ids: Ints, qos: Ints, hashes: npt.NDArray[np.uint64], positions: Ints) -> None:
        """New messages. A message that had the same id is forgotten: the broker has seen its acknowledgement."""
        self._position[packet_ids] = positions
        self._hash[packet_ids] = hashes & _LOW
        self._open.append(packet_ids, qos, positions)
        self._new += len(packet_ids)
        if self._new > self._settled_after:
            # A broker sends again at once, before what is new: after so many new ones no old one will come.
            self._unsure = _Queue()

    def known(self, packet_ids: Ints, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of these messages have been here before."""
        return np.asarray((self._position[packet_ids] != _UNKNOWN) & (self._hash[packet_ids] == hashes & _LOW))

    def again(self, packet_ids: Ints, qos: Ints) -> None:
        """Known messages have come again: they want their acknowledgement, unless it is on its way."""
        positions = self._position[packet_ids]
        fresh = ~np.isin(positions, np.concatenate([self._open.positions, *(entry[2] for entry in self._sent)]))
        fresh |= positions == _DURABLE
        self._open.append(packet_ids[fresh], qos[fresh], positions[fresh])
        self._open.sort()
        self._unsure.keep(~np.isin(self._unsure.packet_ids, packet_ids))

    def durable(self, until: int) -> tuple[Ints, Ints]:
        """Take out what came on this connection with a position before ``until``: ids and QoS."""
        packet_ids, qos, _ = self._open.take(int(np.searchsorted(self._open.positions, until)))
        return packet_ids, qos

    def sent(self, packet_ids: Ints, number: int) -> None:
        """These acknowledgements were sent; the last one was this connection's ``number``-th."""
        self._sent.append((number, packet_ids, self._position[packet_ids]))

    def unsent(self, packet_ids: Ints) -> None:
        """These acknowledgements could not be sent: the messages will come again."""
        self._unsure.append(packet_ids, np.ones_like(packet_ids), self._position[packet_ids])

    def confirm(self, number: int) -> None:
        """The broker has processed so many acknowledgements of this connection."""
        while self._sent and self._sent[0][0] <= number:
            _, packet_ids, positions = self._sent.popleft()
            same = self._position[packet_ids] == positions
            self._position[packet_ids[same]] = _UNKNOWN

    def disconnect(self) -> None:
        """The connection is gone: ids must not be acknowledged before they come again."""
        packet_ids, positions = self._held()
        self._unsure = _Queue()
        self._unsure.append(packet_ids, np.ones_like(packet_ids), positions)
        self._sent.clear()
        self._open = _Queue()
        self._new = 0

    def forget(self) -> None:
        """The broker has forgotten the session: ids mean nothing any more."""
        self._position.fill(_UNKNOWN)
        self._open, self._unsure = _Queue(), _Queue()
        self._sent.clear()

    def _held(self) -> tuple[Ints, Ints]:
        """Ids and positions of all that may come again: no more than there are ids."""
        ids = np.concatenate([self._unsure.packet_ids, *(entry[1] for entry in self._sent), self._open.packet_ids])
        positions = np.concatenate([self._unsure.positions, *(entry[2] for entry in self._sent), self._open.positions])
        valid = (self._position[ids] == positions) & (positions != _UNKNOWN)
        return ids[valid], positions[valid]

    def dump(self) -> str:
        """Ids and hashes as text; all of them are durable once what `poll` gave with it is."""
        ids, _ = self._held()
        table = np.empty(len(ids), _SEEN)
        table["packet_id"], table["hash"] = ids, self._hash[ids]
        return base64.b64encode(table.tobytes()).decode()

    def restore(self, text: str) -> None:
        """The reverse of `dump`, after a restart."""
        table = np.frombuffer(base64.b64decode(text), _SEEN)
        ids = table["packet_id"].astype(np.int64)
        self._position[ids] = _DURABLE
        self._hash[ids] = table["hash"]
        self._unsure.append(ids, np.ones_like(ids), np.full(len(ids), _DURABLE))


class _Queue:
    """Three columns, in order of position."""

    def __init__(self) -> None:
        self.packet_ids: Ints = np.empty(0, np.int64)
        self.qos: Ints = np.empty(0, np.int64)
        self.positions: Ints = np.empty(0, np.int64)

    def append(self, packet_ids: Ints, qos: Ints, positions: Ints) -> None:
        self.packet_ids = np.concatenate([self.packet_ids, packet_ids])
        self.qos = np.concatenate([self.qos, qos])
        self.positions = np.concatenate([self.positions, positions])

    def sort(self) -> None:
        self.keep(np.argsort(self.positions, kind="stable"))

    def keep(self, order: npt.NDArray[Any]) -> None:
        """Only these rows (a mask), or all in this order (their numbers)."""
        self.packet_ids, self.qos, self.positions = (a[order] for a in (self.packet_ids, self.qos, self.positions))

    def take(self, count: int) -> tuple[Ints, Ints, Ints]:
        """Remove and return the first ``count`` rows."""
        taken = self.packet_ids[:count], self.qos[:count], self.positions[:count]
        self.packet_ids, self.qos, self.positions = (
            self.packet_ids[count:], self.qos[count:], self.positions[count:],
        )  # fmt: skip
        return taken


__all__ = ["Mqtt", "MqttReader", "Window"]
