"""Consumer groups of the Kafka REST API v2: who reads which topic from where, and what was committed."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tocsin.acquire.http._bodies import Malformed
from tocsin.acquire.http._records import Records, read_json
from tocsin.world import Clock, Disk, replace

log = logging.getLogger(__name__)
EXPIRES_S = 300
"""An instance of which nothing is heard for so long is gone (``consumer.instance.timeout.ms`` of Confluent's proxy)."""
INSTANCES_MAX = 1_000
GROUPS_MAX = 1_000
TOPICS_MAX = 100
"""So many topics may be subscribed to at once."""
OFFSETS_KEPT_US = 7 * 86_400_000_000
"""What a group without instances has committed is known for so long (``offsets.retention.minutes`` of Kafka)."""


@dataclass(slots=True)
class Instance:
    """A consumer: a member of a group while it is heard of."""

    group: str
    id: str
    format: str
    from_earliest: bool
    """Where to begin a topic of which the group has committed nothing."""
    commits_itself: bool
    timeout_s: float
    used_s: float
    topics: tuple[str, ...] = ()
    positions: dict[str, int] = field(default_factory=dict)
    """The next position of each topic that is its own to read."""
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Around a fetch and what moves its positions: one request at a time."""


class Groups:
    """All groups of a source. Called by the server's own thread, but for `commit`, which waits for the disk.

    A topic has one partition, which belongs to the oldest instance of a group that has subscribed to it; when that
    goes, the next oldest reads on from what was committed. Committed offsets outlive the process, instances do not: a
    consumer makes itself a new one, as it does when Confluent's proxy is restarted.
    """

    def __init__(self, records: Records, disk: Disk, clock: Clock, path: Path) -> None:
        self._records, self._disk, self._clock, self._path = records, disk, clock, path
        self._instances: dict[tuple[str, str], Instance] = {}
        self._lock = threading.Lock()
        stored: Mapping[str, Any] = read_json(disk, path, {})
        # A log that was started anew, or restored from a backup, gives positions again that were committed before.
        self._committed: dict[str, dict[str, Any]] = {
            group: {**one, "offsets": {topic: min(at, records.end) for topic, at in one["offsets"].items()}}
            for group, one in stored.items()
            if records.end > 0
        }
        self.counters: Counter[str] = Counter(fetched=0, consumers_behind=0)

    def create(self, group: str, name: str | None, format: str, settings: Mapping[str, Any]) -> Instance:
        """Make an instance of a group; ``settings`` are those of `Instance` that are left."""
        self._expire()
        id = name or f"tocsin-{uuid.uuid4()}"
        if (group, id) in self._instances:
            raise Malformed(f"the group '{group}' has a consumer '{id}' already", 409, 40902)
        if len(self._instances) >= INSTANCES_MAX:
            raise Malformed(f"there are {INSTANCES_MAX} consumers already; delete those that are done", 503, 50301)
        instance = Instance(group, id, format, used_s=self._clock.monotonic_s(), **settings)
        self._instances[group, id] = instance
        return instance

    def find(self, group: str, id: str) -> Instance:
        """Returns an instance, which is heard of by this."""
        self._expire()
        instance = self._instances.get((group, id))
        if instance is None:
            raise Malformed("Consumer instance not found.", 404, 40403)
        instance.used_s = self._clock.monotonic_s()
        return instance

    def remove(self, instance: Instance) -> None:
        self._instances.pop((instance.group, instance.id), None)

    def subscribe(self, instance: Instance, topics: Sequence[str], begin: int) -> None:
        if len(topics) > TOPICS_MAX:
            raise Malformed(f"{len(topics)} topics; at most {TOPICS_MAX} may be subscribed to at once", 422)
        instance.topics = tuple(dict.fromkeys(topics))
        self.assign(instance, begin)

    def assign(self, instance: Instance, begin: int) -> Mapping[str, int]:
        """Returns the topics that are the instance's own to read now, and from which position on.

        ``begin`` is the position of the oldest record that is kept.
        """
        self._expire()
        own = [topic for topic in instance.topics if self._owner(instance.group, topic) is instance]
        for topic in instance.positions.keys() - set(own):
            del instance.positions[topic]
        for topic in own:
            position = instance.positions.get(topic)
            if position is None:
                first = begin if instance.from_earliest else self._records.end
                position = min(self.committed(instance.group).get(topic, first), self._records.end)
            if position < begin:
                # To the oldest that there is, also where it begins at the newest else: nothing that is kept is skipped.
                log.warning(
                    "consumer group '%s' has read topic '%s' up to %d; what lay before %d is no longer kept",
                    instance.group, topic, position, begin,
                )  # fmt: skip
                self.counters["consumers_behind"] += 1
                position = begin
            instance.positions[topic] = position
        return dict(instance.positions)

    def advance(self, instance: Instance, reached: int, count: int) -> None:
        """The instance is given everything before this position."""
        instance.used_s = self._clock.monotonic_s()
        for topic, position in instance.positions.items():
            instance.positions[topic] = max(position, reached)
        self.counters["fetched"] += count

    def committed(self, group: str) -> Mapping[str, int]:
        """Returns where a group reads on, by topic."""
        offsets: Mapping[str, int] = self._committed.get(group, {}).get("offsets", {})
        return offsets

    def commit(self, group: str, offsets: Mapping[str, int]) -> None:
        """Make durable where a group reads on; any thread may call it."""
        with self._lock:
            if all(self.committed(group).get(topic) == at for topic, at in offsets.items()):
                return
            now_us = self._clock.now_us()
            live = {name for name, _ in tuple(self._instances)}
            kept = {
                name: one
                for name, one in self._committed.items()
                if name in live or one["used_us"] > now_us - OFFSETS_KEPT_US
            }
            if group not in kept and len(kept) >= GROUPS_MAX:
                raise Malformed(f"{GROUPS_MAX} groups have committed in the last days, which is the most", 503, 50301)
            kept[group] = {"used_us": now_us, "offsets": {**self.committed(group), **offsets}}
            replace(self._disk, self._path, json.dumps(kept).encode())
            self._committed = kept

    def _owner(self, group: str, topic: str) -> Instance | None:
        members = (one for (name, _), one in self._instances.items() if name == group)
        return next((one for one in members if topic in one.topics), None)

    def _expire(self) -> None:
        since_s = self._clock.monotonic_s() - EXPIRES_S
        for key, one in tuple(self._instances.items()):
            if one.used_s < since_s and not one.reading.locked():
                del self._instances[key]
