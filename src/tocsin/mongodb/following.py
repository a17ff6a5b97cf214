"""Several collections read up to one point in time, and followed, in a thread: whoever polls never waits."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bson import json_util
from pymongo.errors import InvalidOperation, PyMongoError

from tocsin.ends import Follower
from tocsin.mongodb.collection import Collection, Record
from tocsin.mongodb.progress import Order, Progress, as_date, from_json, to_json
from tocsin.mongodb.trouble import trouble

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo import MongoClient
    from pymongo.change_stream import ChangeStream
    from pymongo.client_session import ClientSession

log = logging.getLogger(__name__)

AHEAD = 2
STREAM_WAIT_MS = 100
"""How long the server waits for a change of one collection before it says that there is none."""
SNAPSHOT_WIRE_VERSION = 13
"""Of MongoDB 5.0, which reads several collections in one snapshot."""


class Asked(Protocol):
    """What is to be read: the settings of the source."""

    @property
    def address(self) -> str: ...
    @property
    def database(self) -> str: ...
    @property
    def user(self) -> str | None: ...
    @property
    def collections(self) -> Sequence[str]: ...
    @property
    def modified(self) -> str | None: ...
    @property
    def overlap(self) -> int: ...
    @property
    def fields(self) -> Sequence[str]: ...
    @property
    def nested(self) -> bool: ...
    @property
    def follow(self) -> bool: ...
    @property
    def watch(self) -> bool: ...
    @property
    def every(self) -> int: ...
    def client(self, given: Path) -> MongoClient[RawBSONDocument]: ...


@dataclass(slots=True)
class ChangePlace:
    """How far all collections have been read; each offset is one."""

    progress: dict[str, Progress]
    until_ms: int | None = None
    """The point in time that is read up to; a load that was broken off goes on up to the same."""
    bounds: Mapping[str, Order | None] = field(default_factory=dict)
    """By collection: the ``_id`` that is read up to, where there is no date."""
    is_done: bool = True
    """Whether all has been read up to there."""
    tokens: dict[str, str] = field(default_factory=dict)
    """By collection: of the last change that was given."""

    def is_followed(self) -> bool:
        """Return whether all has been read once, and the change streams know the rest."""
        return self.until_ms is not None and self.is_done and self.progress.keys() <= self.tokens.keys()

    def offset(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "collections": {name: one.offset() for name, one in self.progress.items()},
            "until_ms": self.until_ms,
            "bounds": {name: to_json(order) for name, order in self.bounds.items()},
            "done": self.is_done,
            "tokens": dict(self.tokens),
        }


def place_at(asked: Asked, offset: Mapping[str, Any] | None) -> ChangePlace:
    """Return the place that an offset tells; a collection that it does not know is read from its beginning."""
    known = {} if offset is None else offset["collections"]
    overlap_ms = asked.overlap // 1_000
    place = ChangePlace({name: Progress(overlap_ms, known.get(name)) for name in asked.collections})
    if offset is not None:
        place.until_ms, place.is_done = offset["until_ms"], offset["done"]
        place.tokens = {name: token for name, token in offset["tokens"].items() if name in place.progress}
        place.bounds = {name: from_json(written) for name, written in offset["bounds"].items()}
    return place


@dataclass(frozen=True, slots=True)
class Begun:
    """All collections are read up to this from now on."""

    until_ms: int
    bounds: Mapping[str, Order | None]
    tokens: Mapping[str, str]
    """From where the change streams go on, whatever comes by them."""


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """Documents of one collection, in order; with the token after them where they came by the change stream."""

    records: Sequence[Record]
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """All that was begun has been given."""


Event = Begun | DocumentPage | Done


class CollectionsFollower(Follower[Event]):
    """Fetches pages of documents."""

    def __init__(self, asked: Asked, given: Path, place: ChangePlace) -> None:
        super().__init__("mongodb source", AHEAD)
        self._asked, self._given, self._place = asked, given, place
        self._client: MongoClient[RawBSONDocument] | None = None
        self.undated = 0
        """How many documents had no date in the field that says what is new, when it was looked last."""
        self.deleted = 0
        """How many documents were deleted, where the change stream tells."""

    def close(self, patience_s: float = 2.0) -> None:
        """End the thread, and what it has asked the server for."""
        self.stopping.set()
        if self._client is not None:
            self._client.close()
        super().close(patience_s)

    def fetch(self) -> None:
        asked = self._asked
        try:
            with asked.client(self._given) as self._client:
                self._follow(self._client)
        except PyMongoError as error:
            if not (self.stopping.is_set() and isinstance(error, InvalidOperation)):
                raise trouble(asked.address, error, asked.user) from error

    def _follow(self, client: MongoClient[RawBSONDocument]) -> None:
        asked = self._asked
        self._require_collections(client)
        database = client[asked.database]
        collections = {
            name: Collection(database[name], asked.modified, asked.fields, nested=asked.nested)
            for name in asked.collections
        }
        self.undated = sum(one.tell_undated() for one in collections.values())
        streams = {name: self._stream(client, name) for name in collections} if asked.watch else {}
        for name, stream in streams.items():
            if stream.resume_token is not None:
                self._place.tokens.setdefault(name, json_util.dumps(stream.resume_token))
        if not self._place.is_followed():
            self._load(client, collections)
        while not self.stopping.is_set() and streams:
            for name, stream in streams.items():
                self._changes(stream, name, collections[name])
        while asked.follow and not self.stopping.wait(asked.every / 1e6):
            self._load(client, collections)

    def _require_collections(self, client: MongoClient[RawBSONDocument]) -> None:
        there = client[self._asked.database].list_collection_names()
        missing = [name for name in self._asked.collections if name not in there]
        if missing:
            log.warning("%s has no collection '%s' yet", self._asked.address, missing[0])

    def _load(self, client: MongoClient[RawBSONDocument], collections: Mapping[str, Collection]) -> None:
        """Read all collections up to one point in time: the server's now, or that of a load that was broken off."""
        place, hello = self._place, client.admin.command("hello")
        is_replicated = "setName" in hello or hello.get("msg") == "isdbgrid"
        takes_snapshots = is_replicated and hello["maxWireVersion"] >= SNAPSHOT_WIRE_VERSION and not self._asked.follow
        if takes_snapshots:
            with client.start_session(snapshot=True) as session:
                self._read(place, hello, collections, session)
        else:
            self._read(place, hello, collections, None)

    def _read(
        self, place: ChangePlace, hello: Mapping[str, Any], collections: Mapping[str, Collection],
        session: ClientSession | None,
    ) -> None:  # fmt: skip
        if place.is_done or place.until_ms is None:
            now = hello["localTime"]
            place.until_ms = int(now.replace(tzinfo=now.tzinfo or UTC).timestamp() * 1_000)
            place.bounds = {name: one.bound(session) for name, one in collections.items()}
            place.is_done = False
        self.put(Begun(place.until_ms, place.bounds, dict(place.tokens)))
        until = as_date(place.until_ms)
        for name, collection in collections.items():
            for records in collection.pages(place.progress[name], until, place.bounds.get(name), session):
                self.put(DocumentPage(records))
                if self.stopping.is_set():
                    return
        place.is_done = True
        self.put(Done())

    def _stream(self, client: MongoClient[RawBSONDocument], name: str) -> ChangeStream[RawBSONDocument]:
        """Return a change stream, from the last change on or from now: what happens while all is read is in it."""
        token = self._place.tokens.get(name)
        return client[self._asked.database][name].watch(
            full_document="updateLookup",
            resume_after=None if token is None else json_util.loads(token),
            max_await_time_ms=STREAM_WAIT_MS,
        )

    def _changes(self, stream: ChangeStream[RawBSONDocument], name: str, collection: Collection) -> None:
        """Hand on what a change stream has now."""
        while not self.stopping.is_set() and (change := stream.try_next()) is not None:
            document = change.get("fullDocument")
            self.deleted += change["operationType"] == "delete"
            record = None if document is None else collection.record(document)
            progress = self._place.progress[name]
            if record is not None and not progress.is_known(record.what):
                self.put(DocumentPage([record], json_util.dumps(stream.resume_token)))
                progress.take(record.order, record.what)


__all__ = ["Begun", "ChangePlace", "CollectionsFollower", "DocumentPage", "Done", "place_at"]
