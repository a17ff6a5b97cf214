"""Source `mqtt`: messages from an MQTT broker, acknowledged only once they are durable."""

from __future__ import annotations

import uuid
from typing import ClassVar

from pydantic import field_validator

from tocsin.acquire._mqtt import MqttReader, Subscription
from tocsin.acquire._session import derived
from tocsin.contracts import Source
from tocsin.ends import OneSplit
from tocsin.mqtt.topics import require_filter
from tocsin.settings import Many
from tocsin.world import World


class Mqtt(Subscription, Source):
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
    >>> source.topic, source.output_schema().names
    (('plant/+/telemetry',), ['payload', 'topic', 'position', 'received'])
    """

    REPLAYABLE: ClassVar[bool] = False
    PROMISE: ClassVar[str] = "exactly once at QoS 1, as long as the broker keeps the session"

    topic: Many[str]
    """What to subscribe to; one topic or several, ``+`` stands for one level, ``#`` for the rest."""
    retained: bool = False
    """Whether to take what the broker had retained before we came; it may be old."""

    @field_validator("topic")
    @classmethod
    def _topic(cls, topic: tuple[str, ...]) -> tuple[str, ...]:
        for one in topic:
            require_filter(one)
        return topic

    def session(self) -> str:
        """Returns the client id, as set or derived."""
        if self.client_id:
            return self.client_id
        return derived(self.url, *self.topic, self.user or "")

    def sampled(self) -> Mqtt:
        return self.model_copy(update={"client_id": f"look-{uuid.uuid4().hex[:16]}", "session_expiry_us": 0})

    def check(self, world: World) -> None:
        if self.tls is not None:
            self.tls.context(world.given)

    def open(self, world: World) -> OneSplit:
        return OneSplit(lambda offset: MqttReader(self, world, offset, self.topic, retained=self.retained))


__all__ = ["Mqtt"]
