"""How far a sink's transactions reach: the offset of a group of its own, and a note on its own disk."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from tocsin.settings.topic_template import template_columns
from tocsin.world import World, replace

if TYPE_CHECKING:
    from confluent_kafka import Consumer

ASK_S = 5.0
"""How long one question to the cluster may take."""
STABLE_S = 2.0
"""How long the last transaction may take to come to its end."""
RETRY_MS = 5
"""How soon the library asks again while a transaction is just ending; its own 100 ms would hold every epoch up."""


class Position:
    """The epoch of the last transaction that counts.

    It is kept as an offset of each topic's partition 0, by a group that has no members, and written in the transaction
    itself. The methods raise the client's ``KafkaException``.
    """

    def __init__(self, client: Mapping[str, Any], name: str, world: World, topic: str) -> None:
        self._client, self._name, self._disk, self._topic = dict(client), name, world.disk, topic
        self.path: Path = world.scratch / "position.json"

    @cached_property
    def group(self) -> Consumer:
        """The group. (The library's `AdminClient`, which could be asked for all of its offsets, crashes where a broker
        has just started: librdkafka 2.16.0.)
        """
        from confluent_kafka import Consumer

        own = {"group.id": self._name, "isolation.level": "read_committed", "enable.auto.commit": False}
        return Consumer(self._client | own | {"retry.backoff.ms": RETRY_MS})

    def begin(self, topics: Collection[str]) -> None:
        """Let the cluster know of us before the first transaction: whom it does not know, it has forgotten then."""
        from confluent_kafka import TopicPartition

        if topics:
            self.group.commit(offsets=[TopicPartition(topic, 0, 0) for topic in topics], asynchronous=False)

    def asked(self) -> int | None:
        """Return the last epoch that the cluster knows of; None if it knows of none."""
        return max(self.of(self.topics()).values(), default=None)

    def of(self, topics: Collection[str], timeout_s: float = STABLE_S) -> dict[str, int]:
        """Return the last epoch that has written to each of these topics."""
        from confluent_kafka import KafkaException, TopicPartition

        known = self.group.committed([TopicPartition(topic, 0) for topic in topics], timeout_s) if topics else []
        for at in known:
            if at.error is not None:
                raise KafkaException(at.error)
        return {at.topic: at.offset for at in known if at.offset >= 0}

    def topics(self) -> list[str]:
        """Return the topics that there are of those that may be written to."""
        if not template_columns(self._topic):
            return [self._topic]
        pattern = re.compile("".join(_patterns(self._topic)))
        return [topic for topic in self.group.list_topics(timeout=ASK_S).topics if pattern.fullmatch(topic)]

    def note(self) -> dict[str, Any]:
        """Return what is noted on our disk: ``published`` and, while a transaction lasts, ``trying``."""
        try:
            return dict(json.loads(self._disk.read(self.path)))
        except FileNotFoundError:
            return {}

    def keep(self, *, published: int | None, trying: int | None = None) -> None:
        """Note it, durably."""
        replace(self._disk, self.path, json.dumps({"published": published, "trying": trying}).encode())

    def leave_behind(self) -> None:
        """Use another client from now on: a thread may still wait in this one."""
        self.__dict__.pop("group", None)

    def close(self) -> None:
        if (group := self.__dict__.pop("group", None)) is not None:
            group.close()


def _patterns(topic: str) -> Iterator[str]:
    """A topic with columns in it, as a regular expression, in parts."""
    for text, name, _, _ in Formatter().parse(topic):
        yield re.escape(text)
        if name is not None:
            yield ".+"


__all__ = ["Position"]
