"""The shards of a stream as splits: which there are, asked for beside whoever reads them."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tocsin.contracts import Offset, Split
from tocsin.errors import SourceError, Unavailable
from tocsin.kinesis.settings import StreamSettings
from tocsin.kinesis.shard import ShardReader
from tocsin.kinesis.trouble import Kind, trouble
from tocsin.world import World, replace

CONNECTIONS = 64
"""So many shards are asked at the same time over connections that are kept."""
LOOK_S = 60.0
"""Between two looks for shards; a shard that ends is a reason to look at once."""
LOOK_AGAIN_S = (0.5, 10.0)
"""Least and greatest time before the next look after one that did not succeed, or that saw no shards yet."""
_HOUR_US = 3_600_000_000
_HTTP_DATE = "%a, %d %b %Y %H:%M:%S GMT"
"""Of RFC 9110, section 5.6.7."""


class StreamConnection:
    """A `contracts.Connection` to a stream: one thread looks for shards, and each shard has one that reads it."""

    def __init__(self, settings: StreamSettings, world: World, *, start: str | datetime, every_us: int) -> None:
        self.settings, self.world = settings, world
        self.client = settings.client(CONNECTIONS)
        self.every_s = every_us / 1e6
        """Least time between two reads of a shard."""
        self.keeps_us = 24 * _HOUR_US
        """How long the stream keeps its records."""
        self.begin: Mapping[str, Any] = {}
        """Where a shard begins of which nothing has been read, as arguments of `GetShardIterator`."""
        self._start = start
        self._splits: Sequence[Split] = ()
        self._trouble: SourceError | None = None
        self._looking = threading.Lock()
        self._stopping = threading.Event()
        threading.Thread(target=self._run, name=f"kinesis {settings.stream}", daemon=True).start()

    def splits(self) -> Sequence[Split]:
        splits, reason = self._splits, self._trouble
        if reason is not None and not (splits and isinstance(reason, Unavailable)):
            raise reason
        return splits

    def read(self, split: Split, offset: Offset | None) -> ShardReader:
        return ShardReader(self, split.name.rpartition("/")[2], offset)

    def close(self) -> None:
        self._stopping.set()
        self.client.close()

    def look(self) -> frozenset[str]:
        """Ask which shards there are, and how long records are kept; return the names of the shards."""
        with self._looking:
            stream = self.settings.stream
            summary = self.client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
            self.keeps_us = int(summary["RetentionPeriodHours"]) * _HOUR_US
            answer = self.client.list_shards(StreamName=stream)
            shards = list(answer["Shards"])
            if not self.begin:
                self.begin = self._begin_at(answer["ResponseMetadata"]["HTTPHeaders"].get("date"))
            while (more := answer.get("NextToken")) is not None:
                answer = self.client.list_shards(NextToken=more)
                shards += answer["Shards"]
            self._splits = tuple(_split(stream, shard) for shard in shards)
            return frozenset(shard["ShardId"] for shard in shards)

    def _begin_at(self, date: str | None) -> Mapping[str, Any]:
        if self._start == "earliest":
            return {"ShardIteratorType": "TRIM_HORIZON"}
        at = self._first_opened(date) if isinstance(self._start, str) else self._start
        return {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": at}

    def _first_opened(self, date: str | None) -> datetime:
        """When this source was opened for the first time, by the stream's own clock, to the second.

        Noted on disk: shards that are made later begin there, too, and so does one of which nothing has come yet when
        the pipeline starts again. (AWS's ``LATEST`` would leave out what came meanwhile.)
        """
        disk, path = self.world.disk, self.world.scratch / "latest.json"
        try:
            noted = json.loads(disk.read(path))
        except FileNotFoundError:
            noted = {}
        if noted.get("stream") == self.settings.stream:
            return datetime.fromisoformat(noted["at"])
        now = datetime.fromtimestamp(self.world.clock.now_us() / 1e6, UTC)
        at = now if date is None else datetime.strptime(date, _HTTP_DATE).replace(tzinfo=UTC)
        disk.make_folder(path.parent)
        replace(disk, path, json.dumps({"stream": self.settings.stream, "at": at.isoformat()}).encode())
        return at

    def _run(self) -> None:
        wait_s = LOOK_AGAIN_S[0]
        while not self._stopping.is_set():
            try:
                self.look()
                self._trouble = None
                wait_s = LOOK_S if self._splits else LOOK_AGAIN_S[0]
            except Exception as error:
                if not self._stopping.is_set():
                    self._trouble = self._told(error)
                wait_s = min(2 * wait_s, LOOK_AGAIN_S[1])
            self._stopping.wait(wait_s)

    def _told(self, error: Exception) -> SourceError | None:
        """What to say when shards are asked for; None where it is too early to say anything."""
        meant = trouble(self.settings, error)
        if meant is None:
            return SourceError(f"{self.settings.address}: {error!r}")
        if meant.kind is Kind.BUSY:
            return None
        return Unavailable(meant.sentence) if meant.kind is Kind.AWAY else SourceError(meant.sentence)


def _split(stream: str, shard: Mapping[str, Any]) -> Split:
    """A shard. The stream is in its name, since every stream numbers its shards from 0."""
    parents = [shard[name] for name in ("ParentShardId", "AdjacentParentShardId") if shard.get(name)]
    return Split(f"{stream}/{shard['ShardId']}", tuple(f"{stream}/{parent}" for parent in parents))
