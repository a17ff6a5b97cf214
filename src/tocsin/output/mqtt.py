"""Channel `mqtt`: publishes each row as a JSON object."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import msgspec
import pyarrow as pa
from pydantic import field_validator

from tocsin.contracts import Channel, Message
from tocsin.errors import DeliveryError, SchemaError
from tocsin.mqtt.client import NotConnected
from tocsin.mqtt.settings import BrokerSettings
from tocsin.mqtt.topics import FORBIDDEN_IN_IDS, valid_name
from tocsin.settings.quantities import Duration
from tocsin.settings.topic_template import require_template, template_columns
from tocsin.world import World

log = logging.getLogger(__name__)

ROWS_A_MESSAGE = 1000
_Entry = tuple[str, str, msgspec.Raw]
"""Topic, why it must not be sent (empty if it may), payload."""


class Mqtt(BrokerSettings, Channel):
    """Publishes each row as a JSON object to a topic made from its columns, at least once (QoS 1).

    Use it to hand results back to machines and other systems. A column that stands in the topic must not hold
    ``+ # / NUL``, nor be empty: such a row is not sent, but counted and logged. A receiver that must not see a row
    twice compares ``key`` and ``time``.

    References: OASIS MQTT 3.1.1 (2014) and 5.0 (2019).

    Examples
    --------
    >>> channel = Mqtt(url="mqtt://localhost", topic="plant/{key}/state", columns=["state"])
    >>> rows = pa.record_batch({"key": ["pump", "a/b"], "state": ["run", "stop"]})
    >>> channel.messages(rows)[0].body
    b'[["plant/pump/state","",{"state":"run"}],["","\\'a/b\\' in column \\'key\\'",{"state":"stop"}]]'
    """

    PROMISE: ClassVar[str] = "at least once at QoS 1"

    topic: str
    """Where to publish; ``{column}`` stands for the row's value, which may be a whole topic only if it stands alone."""
    payload: str | None = None
    """The column whose text is sent as it is; by default a JSON object is made of the columns."""
    columns: tuple[str, ...] | None = None
    """What the payload holds; by default all columns."""
    qos: Literal[0, 1] = 1
    """0: at most once; 1: at least once."""
    retain: bool = False
    """Whether the broker keeps the last message of each topic for those who come later."""
    timeout_us: Duration = 30_000_000
    """How long the broker may take to acknowledge a thousand rows."""

    @field_validator("topic")
    @classmethod
    def _topic(cls, topic: str) -> str:
        return require_template(topic, valid_name, "is not a topic to publish to; write it as plant/{key}/state")

    def accepts(self, schema: pa.Schema) -> None:
        for name in (
            *(self.columns or ()),
            *template_columns(self.topic),
            *([] if self.payload is None else [self.payload]),
        ):
            if name not in schema.names:
                raise SchemaError(f"mqtt needs column '{name}'; what reaches it is [{', '.join(schema.names)}]")

    def check(self, world: World) -> None:
        if self.tls is not None:
            self.tls.context(world.given)

    def messages(self, rows: pa.RecordBatch) -> Sequence[Message]:
        self.accepts(rows.schema)
        wanted = list(rows.schema.names if self.columns is None else self.columns)
        named = template_columns(self.topic)
        messages = []
        for start in range(0, rows.num_rows, ROWS_A_MESSAGE):
            some = rows.slice(start, ROWS_A_MESSAGE).to_pylist()  # a row costs 3 to 10 µs: Python objects, then JSON
            entries = [(*self._topic_of(row, named), self._payload_of(row, wanted)) for row in some]
            # The id names whole rows, with key and time, even if little of them is sent.
            digest = hashlib.sha256(msgspec.json.encode((self.url, self.topic, wanted, some))).hexdigest()[:32]
            messages.append(Message(digest, msgspec.json.encode(entries)))
        return messages

    def _payload_of(self, row: dict[str, Any], wanted: Sequence[str]) -> Any:
        if self.payload is None:
            return {name: row[name] for name in wanted}
        return "" if row[self.payload] is None else str(row[self.payload])

    def _topic_of(self, row: dict[str, Any], named: Sequence[str]) -> tuple[str, str]:
        if named and self.topic == f"{{{named[0]}}}":
            topic = str(row[named[0]] or "")
            return (topic, "") if valid_name(topic) else ("", f"{topic[:100]!r} in column '{named[0]}'")
        values = {}
        for name in named:
            value = "" if row[name] is None else str(row[name])
            if not value or not FORBIDDEN_IN_IDS.isdisjoint(value):
                return "", f"{value!r} in column '{name}'"
            values[name] = value
        topic = self.topic.format_map(values)
        return (topic, "") if valid_name(topic) else ("", f"a topic of {len(topic)} characters")

    def open(self, world: World) -> MqttDelivery:
        return MqttDelivery(self, world)


class MqttDelivery:
    """The open channel; connects at the first delivery."""

    def __init__(self, channel: Mqtt, world: World) -> None:
        self._channel = channel
        self.refused = 0
        """How many rows were not sent, because of their topic or because the broker does not allow it."""
        self.client = channel.client(world.given)

    def deliver(self, messages: Sequence[Message]) -> None:
        for number, message in enumerate(messages):
            publishes = []
            for topic, reason, payload in msgspec.json.decode(message.body, type=list[_Entry]):
                if reason:
                    self._refuse(reason)
                else:
                    text = None if self._channel.payload is None else msgspec.json.decode(payload, type=str)
                    publishes.append((topic, bytes(payload) if text is None else text.encode()))
            try:
                self._publish(publishes)
            except DeliveryError as error:
                raise DeliveryError(str(error), [done.id for done in messages[:number]]) from error

    def _publish(self, publishes: Sequence[tuple[str, bytes]]) -> None:
        channel = self._channel
        try:
            reasons = self.client.publish(
                publishes, qos=channel.qos, retain=channel.retain, timeout_s=channel.timeout_us / 1e6
            )
        except NotConnected as error:
            raise DeliveryError(str(error)) from error
        for (topic, _), reason in zip(publishes, reasons, strict=True):
            if reason in (0x80, 0x83, 0x88, 0x97):  # it may go later; what is allowed does not change by itself
                raise DeliveryError(f"{channel.url} did not take a message for {topic}: reason {reason}")
            if reason >= 0x80:
                self._refuse(f"{channel.url} does not take messages for {topic}: reason {reason}")

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        if self.refused & (self.refused - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a flood of rows is no flood of lines
            log.warning("mqtt: a row was not sent: %s (%d so far)", reason, self.refused)

    def counters(self) -> dict[str, int]:
        return {"refused": self.refused}

    def close(self) -> None:
        self.client.close()


__all__ = ["Mqtt", "MqttDelivery"]
