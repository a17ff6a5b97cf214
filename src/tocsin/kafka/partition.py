"""A partition that is ours, and where it is read on: at the later of our checkpoint and where the group stands."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tocsin.contracts import Offset
from tocsin.errors import SourceError
from tocsin.kafka.records import WaitingRows

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Partition:
    """A partition that the group has given us."""

    topic: str
    number: int
    topic_id: str
    """Another one where the topic was deleted and made again."""
    group_next: int | None
    """Where the group stands, as it was when the partition became ours; None if nobody has read it."""
    edges: tuple[int, int]
    """The first record that is there, and the one after the last."""
    next: int | None = None
    """After what was handed over; None until it is read."""
    durable: int = 0
    """After what was acknowledged."""
    noted: int | None = None
    """What the group was told last."""
    ready_s: float = 0.0
    """When the next batch may be handed over."""
    open: bool = False
    revoked: bool = False
    expired: int = 0
    """How many records were gone before they were read."""
    waiting: WaitingRows = field(default_factory=WaitingRows)
    """What has come and was not handed over yet."""

    @property
    def name(self) -> str:
        return f"{self.topic}-{self.number}"

    def read_from(self, begin: int) -> None:
        self.next = self.durable = begin
        self.open = True


@dataclass(frozen=True, slots=True)
class Begins:
    """Where partitions are read on, and what happens where records are gone."""

    from_latest: bool
    skips_expired: bool

    def at(self, one: Partition, offset: Offset | None, *, new: bool) -> int:
        """Return the record to begin with; ``new``: if nobody has read the partition, it was made after our start.

        Raises
        ------
        SourceError
            Records are gone that should come next, and they are not to be skipped.
        """
        low, high = one.edges
        known = [one.group_next] if one.group_next is not None else []
        if offset is not None:
            if offset["topic"] == one.topic_id:
                known.append(int(offset["next"]))
            elif not known:
                self._expired(f"topic '{one.topic}' was deleted and made again since it was read")
                return low
        if not known:
            return high if self.from_latest and not new else low
        begin = max(known)
        if low <= begin <= high:
            return begin
        if begin < low:
            why = f"record {begin} is no longer there, {low} is the oldest: records were deleted before they were read"
        else:
            why = f"records up to {begin} were read before, but now it ends at {high}: the cluster has lost some"
        self._expired(f"{one.name}: {why}")
        one.expired += max(0, low - begin)
        return low

    def _expired(self, sentence: str) -> None:
        if not self.skips_expired:
            raise SourceError(f"{sentence}; set 'expired: skip' to go on with the oldest that is there")
        log.warning("%s; going on with the oldest that is there", sentence)


def topic_ids(reaching: Mapping[str, Any], topics: Collection[str], timeout_s: float) -> Mapping[str, str]:
    """Ask the cluster for the ids of topics; raises the client's ``KafkaException`` where it does not tell them."""
    from confluent_kafka import TopicCollection
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(dict(reaching))
    futures = admin.describe_topics(TopicCollection(sorted(topics)), request_timeout=timeout_s)
    return {topic: str(future.result(timeout_s).topic_id) for topic, future in futures.items()}
