"""A subscription to an MQTT broker: its settings and its reader, which acknowledges what is durable here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tocsin.acquire._redelivery import RedeliveryWindow
from tocsin.acquire._session import SavedSession, derived
from tocsin.batch import RAW, Batch, Ints, as_times
from tocsin.contracts import Offset, Reader
from tocsin.errors import SourceError
from tocsin.mqtt import packets
from tocsin.mqtt.client import BACKOFF_S, NotConnected
from tocsin.mqtt.codec import Publishes
from tocsin.mqtt.packets import Will
from tocsin.mqtt.settings import BrokerSettings
from tocsin.settings.quantities import Duration, Size
from tocsin.world import World

log = logging.getLogger(__name__)

_NO_RETAINED, _RETAIN_AS_PUBLISHED = 2 << 4, 1 << 3
_CONNECT_TIMEOUT_S = 5.0
"""How long an attempt to connect may take; whoever polls does not wait for it."""
_PACE_S, _PACE_ENTRY_S = 0.002, 1e-6
"""Least time between two batches, and more for each message in the window, which every offset carries whole: under
load a batch is worth its cost, and the first after a pause does not wait."""


class Subscription(BrokerSettings):
    """How messages are asked for and kept by the broker until they are durable here."""

    client_id: str = ""
    """Name of our session at the broker; by default one is made of url, user and the pipeline's name, and stays."""
    qos: Literal[0, 1] = 1
    """0: at most once; 1: the broker keeps each message until it is durable here."""
    packet_bytes_max: Size = 1 << 20
    """A longer message loses its end, which the decoder then rejects as too large."""
    receive_max: int = Field(default=2000, ge=1, le=65535)
    """How many messages may wait for their acknowledgement, at most 65535."""
    keep_alive_us: Duration = 30_000_000
    """A silent connection is tested after this time."""
    session_expiry_us: Duration = 7 * 86_400_000_000
    """How long the broker keeps our session while we are away (MQTT 5; in 3.1.1 it decides itself); 0: not at all."""


class MqttReader(Reader):
    """The open session. Connects at the first poll, and again whenever the connection is lost."""

    def __init__(
        self,
        source: Subscription,
        world: World,
        offset: Offset | None,
        filters: Sequence[str],
        *,
        retained: bool = False,
        will: Callable[[], Will] | None = None,
    ) -> None:
        stale: Sequence[str] = ()
        if source.session_expiry_us:
            # A name that was derived by a version that did not keep it goes on.
            made = source.session() if offset is not None else derived(source.url, source.user or "", world.name)
            owner = {"url": source.url, "user": source.user or ""}
            session = SavedSession(world, owner, filters, source.client_id, made)
            source, stale = source.model_copy(update={"client_id": session.client_id}), session.stale
        self._source, self._clock, self._retained = source, world.clock, retained
        self.client = source.client(
            world.given,
            filters=filters,
            stale_filters=stale,
            qos=source.qos,
            subscribe_options=0 if retained else _NO_RETAINED | _RETAIN_AS_PUBLISHED,
            clean=source.session_expiry_us == 0,
            session_expiry_s=min(source.session_expiry_us // 1_000_000, 2**32 - 1),
            keep_alive_s=min(source.keep_alive_us // 1_000_000, 65535),
            receive_max=source.receive_max,
            packet_bytes_max=source.packet_bytes_max,
            timeout_s=_CONNECT_TIMEOUT_S,
            will=will,
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
        self._window = RedeliveryWindow(source.receive_max)
        if offset is not None:
            self._position = self._committed = int(offset["position"])
            self._window.restore(offset["seen"])

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        begin = self._clock.monotonic_s()
        deadline = begin + timeout_s
        if begin < self._next_s:
            self._clock.sleep(min(self._next_s - begin, timeout_s))
        while True:
            room = self._source.receive_max - self._window.waiting
            if room <= 0:
                # As many as may wait for a commit do wait: read no more before it, but keep the connection alive.
                self.client.tend()
                self._clock.sleep(min(max(0.0, deadline - self._clock.monotonic_s()), 0.01))
                return None
            try:
                messages = self.client.poll(max(1, min(rows_max, room)), max(0.0, deadline - self._clock.monotonic_s()))
            except NotConnected as error:
                raise SourceError(str(error)) from error
            if self.client.connects != self._connection:
                self._new_connection()
            self._window.confirm(self.client.acks_confirmed)
            if messages is not None and (batch := self._batch(messages)) is not None:
                self._next_s = self._clock.monotonic_s() + _PACE_S + _PACE_ENTRY_S * self._window.size
                return batch
            if not self.client.connected and self.client.last_error != self._told:
                self._told = self.client.last_error
                log.warning(
                    "broker %s: %s; trying again, with pauses of up to %g s",
                    self._source.url, self._told, BACKOFF_S[1],
                )  # fmt: skip
            if self._clock.monotonic_s() >= deadline:
                return None

    def acknowledge(self, offset: Offset) -> None:
        self._committed = max(self._committed, int(offset["position"]))
        packet_ids, qos = self._window.durable(self._committed)
        self._acknowledge(packet_ids, qos)

    def close(self) -> None:
        self.client.close()

    def counters(self) -> dict[str, int]:
        return {
            "connects": self.client.connects,
            "session_lost": self.session_lost,
            "duplicates": self.duplicates,
            "retained_dropped": self.retained_dropped,
        }

    def away(self) -> str | None:
        if self.client.connected or not self.client.last_error:
            return None
        return f"broker {self._source.url}: {self.client.last_error}"

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

    def _batch(self, messages: Publishes) -> tuple[Batch, Offset] | None:
        messages = self._without_retained(messages)
        if messages.dup.any():
            messages = self._without_duplicates(messages)
        messages = self._passed(messages)
        count = len(messages)
        if not count:
            return None
        positions = np.arange(self._position, self._position + count)
        self._position += count
        in_flight = messages.qos > 0
        if in_flight.all():
            self._window.add(messages.packet_ids, messages.qos, messages.hashes, positions)
        elif in_flight.any():
            some = messages.keep(in_flight)
            self._window.add(some.packet_ids, some.qos, some.hashes, positions[in_flight])
        received = as_times(np.full(count, self._clock.now_us()))
        rows = pa.RecordBatch.from_arrays(
            [messages.payloads, messages.topics, pa.array(positions), received], schema=RAW
        )
        return Batch(rows), {"position": self._position, "seen": self._window.dump()}

    def _passed(self, messages: Publishes) -> Publishes:
        """The messages that become records: those that are new here, unless a source says otherwise."""
        return messages

    def _without_retained(self, messages: Publishes) -> Publishes:
        """Drop retained messages: old ones, unless they are wanted, and empty ones, which only clear."""
        if not messages.retain.any():
            return messages
        clears = messages.retain & (pc.binary_length(messages.payloads).to_numpy() == 0)
        # In MQTT 5 we ask for none of the old ones, and see on new ones how they were published.
        old = messages.retain & (not self._retained and self.client.version == packets.V311)
        drop = clears | old
        self.retained_dropped += int(drop.sum())
        self._acknowledge(messages.packet_ids[drop & (messages.qos > 0)], messages.qos[drop & (messages.qos > 0)])
        return messages.keep(~drop)

    def _without_duplicates(self, messages: Publishes) -> Publishes:
        known = self._window.known(messages.packet_ids, messages.hashes) & messages.dup & (messages.qos > 0)
        if not known.any():
            return messages
        self.duplicates += int(known.sum())
        self._window.again(messages.packet_ids[known], messages.qos[known])
        packet_ids, qos = self._window.durable(self._committed)
        self._acknowledge(packet_ids, qos)
        return messages.keep(~known)

    def _acknowledge(self, packet_ids: Ints, qos: Ints) -> None:
        if not len(packet_ids):
            return
        if self.client.acknowledge(packet_ids, qos):
            self._window.sent(packet_ids, self.client.acks_sent)
        else:
            self._window.unsent(packet_ids)


__all__ = ["MqttReader", "Subscription"]
