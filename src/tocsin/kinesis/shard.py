"""One shard: a thread that reads ahead by one answer, and whoever polls takes from it without waiting for AWS."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tocsin.batch import END, START, Batch
from tocsin.contracts import Offset, Reader
from tocsin.errors import SourceError, Unavailable
from tocsin.kinesis.records import arrived_us, to_rows
from tocsin.kinesis.trouble import Kind, Trouble, trouble

if TYPE_CHECKING:
    from tocsin.kinesis.stream import StreamConnection

log = logging.getLogger(__name__)

RECORDS_MAX = 10_000
"""In one answer, as AWS allows."""
IDLE_S = 1.0
"""A shard that gives nothing is asked less and less often, but at least after this time."""
BACKOFF_S = (0.2, 10.0)
"""Least and greatest time before a shard that is throttled, or that does not answer, is asked again."""
AWAY_S = 10.0
"""A stream that does not answer for less is waited for where we are; then the source says so."""
NOTED_US = 60_000_000
"""A shard that stays silent says so often that nothing came, for the checkpoint: see `Fetched.until_us`."""


class Fetched(NamedTuple):
    """What one read of the shard gave."""

    records: Sequence[Mapping[str, Any]]
    until_us: int | None
    """All that came to the shard before this time has been read, as far as is known."""
    children: frozenset[str] | None = None
    """The shards that come after this one, which has ended; None while it has not."""


class ShardReader(Reader):
    """A `contracts.Reader` of one shard. The position in it is the sequence number of the last record."""

    def __init__(self, connection: StreamConnection, shard: str, offset: Offset | None) -> None:
        offset = offset or {"sequence": None, "position": 0, "until_us": None}
        self._connection, self._shard = connection, shard
        self._settings, self._clock = connection.settings, connection.world.clock
        # what has been handed to whoever polls
        self._sequence: str | None = offset["sequence"]
        self._position = int(offset["position"])
        self._counted = dict.fromkeys(("throttled", "iterators_expired", "seconds_lost", "positions_lost"), 0)
        # what the thread has read
        self._fetched_sequence = self._sequence
        self._fetched_until_us: int | None = offset["until_us"]
        self._iterator: str | None = None
        self._ending: Fetched | None = None
        self._noted_us = 0
        self._backoff_s = 0.0
        self._idle_s = 0.0
        self._away_since_s: float | None = None
        self._behind = False
        # between the two
        self._changed = threading.Condition()
        self._waiting: Fetched | None = None
        self._taken = 0
        """Records of `_waiting` that have been handed over."""
        self._trouble: Exception | None = None
        self._stopping = False
        threading.Thread(target=self._run, name=f"kinesis {shard}", daemon=True).start()

    # the side of whoever polls

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._trouble is not None, timeout_s)
            if self._waiting is None:
                if self._trouble is not None:
                    raise self._trouble
                return None
            fetched = self._waiting
            some = fetched.records[self._taken : self._taken + max(1, rows_max)]
            self._taken += len(some)
            whole = self._taken == len(fetched.records)
            if whole:
                self._waiting, self._taken = None, 0
                self._changed.notify_all()
        rows = to_rows(self._settings.stream, some, self._position, self._clock.now_us())
        self._position += len(some)
        if some:
            self._sequence = some[-1]["SequenceNumber"]
        until_us = fetched.until_us if whole else arrived_us(some[-1])
        offset = {"sequence": self._sequence, "position": self._position, "until_us": until_us}
        ended = whole and fetched.children is not None
        return Batch(rows, END if ended else START), offset

    def acknowledge(self, offset: Offset) -> None:
        """Nobody is told: the position stands in the checkpoint alone."""

    def counters(self) -> dict[str, int]:
        return dict(self._counted)

    def close(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    # the thread's side

    def _run(self) -> None:
        while True:
            began_s = self._clock.monotonic_s()
            try:
                wait_s = self._step()
                self._backoff_s, self._away_since_s = 0.0, None
            except Exception as error:
                if self._stopping:
                    return
                wait_s = self._after(error)
            if not self._rest(began_s + wait_s):
                return

    def _rest(self, until_s: float) -> bool:
        """Wait for the time of the next read, and for room; returns whether there is one."""
        with self._changed:
            while not self._stopping and self._trouble is None:
                left_s = until_s - self._clock.monotonic_s()
                if left_s <= 0 and self._waiting is None:
                    return True
                self._changed.wait(left_s if left_s > 0 else None)
            return False

    def _step(self) -> float:
        """Read once and hand over what came; returns the time until the next read."""
        if self._ending is None:
            fetched = self._fetch()
            if fetched.children is None:
                return self._hand_over(fetched)
            self._ending = fetched
        if self._ending.children is not None and self._ending.children <= self._connection.look():
            # Those that come after it are known by now: whoever hears of the end opens them before it lets time go on.
            self._hand_over(self._ending)
            self._stopping = True
        return self._connection.every_s

    def _hand_over(self, fetched: Fetched) -> float:
        now_us = self._clock.now_us()
        due = fetched.until_us is not None and now_us - self._noted_us > NOTED_US
        if fetched.records or fetched.children is not None or due:
            self._noted_us = now_us
            with self._changed:
                self._waiting = fetched
                self._changed.notify_all()
        every_s = self._connection.every_s
        self._idle_s = every_s if fetched.records else min(2 * self._idle_s + every_s, max(IDLE_S, every_s))
        return self._idle_s

    def _fetch(self) -> Fetched:
        self._count_what_is_gone()
        if self._iterator is None:
            self._iterator = self._opened()
        now_us = self._clock.now_us()
        answer = self._connection.client.get_records(ShardIterator=self._iterator, Limit=RECORDS_MAX)
        self._iterator = answer.get("NextShardIterator")
        records = answer["Records"]
        if records:
            self._fetched_sequence = records[-1]["SequenceNumber"]
            self._fetched_until_us = arrived_us(records[-1]) or self._fetched_until_us
        if answer.get("MillisBehindLatest") == 0:
            self._fetched_until_us = max(now_us, self._fetched_until_us or now_us)
            self._behind = False
        children = None
        if self._iterator is None:
            children = frozenset(child["ShardId"] for child in answer.get("ChildShards", ()))
        return Fetched(records, self._fetched_until_us, children)

    def _opened(self) -> str:
        """An iterator after what was read last."""
        place = self._connection.begin
        if self._fetched_sequence is not None:
            place = {
                "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
                "StartingSequenceNumber": self._fetched_sequence,
            }
        client, stream = self._connection.client, self._settings.stream
        try:
            answer = client.get_shard_iterator(StreamName=stream, ShardId=self._shard, **place)
        except Exception as error:
            meant = trouble(self._settings, error)
            if self._fetched_sequence is None or meant is None or meant.kind is not Kind.UNKNOWN_POSITION:
                raise
            self._counted["positions_lost"] += 1
            log.warning(
                "%s no longer knows our position in %s: it was made anew, or keeps its records for too short a time; "
                "going on with the oldest record (%s)",
                self._settings.address, self._shard, meant.sentence,
            )  # fmt: skip
            self._fetched_sequence = None
            oldest = {"ShardIteratorType": "TRIM_HORIZON"}
            answer = client.get_shard_iterator(StreamName=stream, ShardId=self._shard, **oldest)
        return str(answer["ShardIterator"])

    def _count_what_is_gone(self) -> None:
        """Count the time whose records the stream had dropped before they were read."""
        oldest_us = self._clock.now_us() - self._connection.keeps_us
        until_us = self._fetched_until_us
        if until_us is None or oldest_us - until_us < 1_000_000:
            return
        lost_s = (oldest_us - until_us) // 1_000_000
        self._counted["seconds_lost"] += lost_s
        self._fetched_until_us = oldest_us
        if not self._behind:
            self._behind = True
            log.warning(
                "%s keeps records for %d h, and %s was last read to its end before that: what came to it in %d s is "
                "gone; going on with the oldest record; raise the stream's retention period if pauses may be so long",
                self._settings.address, self._connection.keeps_us // 3_600_000_000, self._shard, lost_s,
            )  # fmt: skip

    # trouble

    def _after(self, error: Exception) -> float:
        """What an error means for this shard alone; returns the time until the next read."""
        meant = trouble(self._settings, error)
        if meant is None:
            self._give_up(error)
            return 0.0
        if meant.kind is Kind.EXPIRED:
            self._counted["iterators_expired"] += 1
            self._iterator = None
            return self._connection.every_s
        if meant.kind is Kind.BUSY:
            self._counted["throttled"] += 1
        elif meant.kind is Kind.AWAY:
            self._wait_for(meant)
        elif not self._is_gone(meant):
            self._give_up(SourceError(meant.sentence))
        self._backoff_s = min(max(2 * self._backoff_s, BACKOFF_S[0]), BACKOFF_S[1])
        return max(self._backoff_s, self._connection.every_s)

    def _wait_for(self, meant: Trouble) -> None:
        now_s = self._clock.monotonic_s()
        if self._away_since_s is None:
            self._away_since_s = now_s
        elif now_s - self._away_since_s > AWAY_S:
            self._give_up(Unavailable(meant.sentence))

    def _is_gone(self, meant: Trouble) -> bool:
        """Whether the stream is there, but the shard no longer: its records are past their time, it is not listed."""
        if meant.code != "ResourceNotFoundException":
            return False
        try:
            return self._shard not in self._connection.look()
        except Exception:
            return False

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            self._trouble = error
            self._changed.notify_all()
