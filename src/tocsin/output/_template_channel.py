"""Template of a channel: copy it to a file named as the channel. One line saying what it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import httpx
import msgspec
import pyarrow as pa

from tocsin.contracts import Channel, Message
from tocsin.errors import ConfigError, DeliveryError, SchemaError
from tocsin.world import World

TIMEOUT_S = 5.0


class Template(Channel):
    """Post the text of each row to a web address, at least once. What the other side gets, and when to use it.

    Examples
    --------
    >>> [message.body for message in Template(url="http://127.0.0.1/").messages(rows({"text": ["hot"]}))]
    [b'hot']
    """

    url: str
    """The address; every setting has one sentence under it."""
    column: str = "text"
    """The column to send."""

    def accepts(self, schema: pa.Schema) -> None:
        """Optional: refuse, naming the column, rows of which no message can be made."""
        if self.column not in schema.names:
            raise SchemaError(f"template needs column '{self.column}'; there is [{', '.join(schema.names)}]")

    def check(self, world: World) -> None:
        """Optional: what cannot work is named before anything is opened."""
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url: {self.url!r} is no web address; write it as https://host/path")

    def messages(self, rows: pa.RecordBatch) -> Sequence[Message]:
        """Required: pure. The same rows always give the same ids, so that a message is told from its copy."""
        self.accepts(rows.schema)
        messages = []
        for row in rows.to_pylist():
            digest = hashlib.sha256(msgspec.json.encode((self.url, row))).hexdigest()
            messages.append(Message(digest, str(row[self.column]).encode()))
        return messages

    def open(self, world: World) -> TemplateDelivery:
        """Required: get ready; the other side may be away."""
        return TemplateDelivery(self.url)


class TemplateDelivery:
    """The open channel."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = httpx.Client(timeout=TIMEOUT_S)

    def deliver(self, messages: Sequence[Message]) -> None:
        """Required: in order. What `DeliveryError` names is done; the rest stays in the outbox."""
        done: list[str] = []
        for message in messages:
            try:
                self._client.post(
                    self._url, content=message.body, headers={"Idempotency-Key": message.id}
                ).raise_for_status()
            except httpx.HTTPError as error:
                raise DeliveryError(f"{self._url}: {error}", done) from error
            done.append(message.id)

    def counters(self) -> Mapping[str, int]:
        """Required: what it counts, by name."""
        return {}

    def close(self) -> None:
        """Required: may be called twice."""
        self._client.close()
