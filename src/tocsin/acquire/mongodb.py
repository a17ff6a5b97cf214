"""Source `mongodb`: the documents of several collections, and those that are new or changed since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from tocsin.batch import RAW_WITH_METADATA, REST, Batch, as_times, tick
from tocsin.contracts import Offset, Reader, Source
from tocsin.ends import OneSplit
from tocsin.errors import ConfigError
from tocsin.mongodb.settings import ServerSettings
from tocsin.settings import Many
from tocsin.settings.quantities import Duration
from tocsin.world import World

if TYPE_CHECKING:
    from tocsin.mongodb.following import DocumentPage

_ATTRIBUTES = RAW_WITH_METADATA.field("attributes").type


class Mongodb(ServerSettings, Source):
    """Read collections of MongoDB, and in each further run, or all the time, the documents that are new or changed.

    All collections are read up to **one point in time**, taken from the server's clock once for each run: documents
    changed after it come with the next run. A run that is broken off goes on up to the same point. A replica set
    (MongoDB 5.0 or later) is read in one snapshot besides.

    With ``modified`` documents come again whenever that date has changed; without it only new ones come, by their
    ``_id``. What becomes visible late, with a date or an ObjectId of before, is found by reading the last ``overlap``
    again; a document that is there as it was does not come twice. So each version of a document that is seen comes
    exactly once. Documents that were deleted do not come; one without a date is passed over, told, and counted as
    ``undated``. Ids that are numbers have no overlap: each must be greater than all that can be seen.

    Each document is a JSON record, under the collection's name as topic: an ObjectId is text, a date text in UTC, a
    Decimal128 a number, binary data base64, and what is no number (NaN, infinite) null. The record's key is the
    ``_id``, ``sent`` the date of change. Windows stay open from run to run, until the next run goes on.

    References: https://www.mongodb.com/docs/manual/reference/read-concern-snapshot/, /docs/manual/changeStreams/.

    Examples
    --------
    >>> source = Mongodb(url="mongodb://db/shop", collections=["orders", "customers"], modified="changed")
    >>> source.bounded(), source.database
    (True, 'shop')
    """

    PROMISE: ClassVar[str] = "exactly once for each version of a document that is seen within overlap"

    collections: Many[str]
    """The collections to read, in this order."""
    modified: str | None = None
    """The field with the date of the last change; an index on it makes it quick. Without it only new documents come."""
    overlap: Duration = 60_000_000
    """How much is read again each time, to find what has become visible late."""
    fields: Many[str] = ()
    """The fields to read; all where none is named."""
    nested: bool = False
    """Whether a document stands in its record under its collection's name, so that columns of several collections are
    told apart by their paths, as ``orders.total``."""
    follow: bool = False
    """Whether to wait for more at the end."""
    every: Duration = 1_000_000
    """Time between two looks for new documents, with ``follow``."""
    watch: bool = False
    """Whether to follow by the change stream, which only a replica set has, once all has been read. Without
    ``modified`` a document that changes during that first reading may come twice."""

    @model_validator(mode="after")
    def _fits_together(self) -> Mongodb:
        if not self.collections or len(set(self.collections)) < len(self.collections):
            raise ConfigError("collections needs the name of a collection or more, each once")
        if self.watch and not self.follow:
            raise ConfigError("watch follows the change stream; it needs follow: true")
        if self.modified is not None and ("$" in self.modified or not self.modified):
            raise ConfigError(f"{self.modified!r} is not the name of a field; write it as modified: changed")
        return self

    def bounded(self) -> bool:
        return not self.follow

    def output_schema(self) -> pa.Schema:
        return RAW_WITH_METADATA

    def check(self, world: World) -> None:
        self.require(world.given)

    def open(self, world: World) -> OneSplit:
        self.require(world.given)
        return OneSplit(lambda offset: MongodbReader(self, world, offset))


class MongodbReader(Reader):
    """The collections being read. An offset says how far each has been, and up to which point in time all are."""

    def __init__(self, source: Mongodb, world: World, offset: Offset | None) -> None:
        from tocsin.mongodb.following import CollectionsFollower, place_at

        self._clock = world.clock
        self._place = place_at(source, offset)
        self._follower = CollectionsFollower(source, world.given, place_at(source, offset))
        self._rests = source.bounded()

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        from tocsin.mongodb.following import Begun, Done

        self._follower.start()
        until_s = self._clock.monotonic_s() + timeout_s
        while (event := self._follower.take(max(until_s - self._clock.monotonic_s(), 0.0))) is not None:
            if isinstance(event, Begun):
                self._place.until_ms, self._place.bounds = event.until_ms, event.bounds
                self._place.tokens = {**event.tokens, **self._place.tokens}
                self._place.is_done = False
            elif isinstance(event, Done):
                self._place.is_done = True
                if self._rests:
                    return tick(RAW_WITH_METADATA, REST), self._place.offset()
            else:
                return Batch(self._given(event)), self._place.offset()
        return None

    def counters(self) -> Mapping[str, int]:
        return {"undated": self._follower.undated, "deleted": self._follower.deleted}

    def close(self) -> None:
        self._follower.close()

    def _given(self, page: DocumentPage) -> pa.RecordBatch:
        """Return the rows of a page, which count as given from now on."""
        records, now_us = page.records, self._clock.now_us()
        progress = self._place.progress[records[0].collection]
        begin, count = progress.count, len(records)
        for record in records:
            progress.take(record.order, record.what)
        if page.token is not None:
            self._place.tokens[records[0].collection] = page.token
        topic = pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([records[0].collection]))
        sent = [None if record.sent_ms is None else record.sent_ms * 1_000 for record in records]
        columns = [
            pa.array([record.payload for record in records], pa.binary()),
            topic,
            pa.array(range(begin, begin + count), pa.int64()),
            as_times(np.full(count, now_us)),
            pa.array([record.key for record in records], pa.binary()),
            pa.array(sent, pa.int64()).view(RAW_WITH_METADATA.field("sent").type),
            pa.array([[]] * count, _ATTRIBUTES),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=RAW_WITH_METADATA)


__all__ = ["Mongodb", "MongodbReader"]
