"""The documents of one collection that are new, page by page, in the order of their dates or their ids."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import InvalidBSON
from pymongo import ASCENDING, DESCENDING

from tocsin.errors import SourceError
from tocsin.mongodb.documents import as_json, as_text
from tocsin.mongodb.progress import Order, Progress, as_date, digest, time_of

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection as ServerCollection

log = logging.getLogger(__name__)

PAGE_DOCUMENTS = 1_000
"""So many documents are asked for at once."""
_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
_TYPES = {"ObjectId": "objectId", "str": "string", "datetime": "date", "bool": "bool", "dict": "object"}
_TYPES |= dict.fromkeys(("int", "float", "Int64", "Decimal128"), "number")
_TYPES |= dict.fromkeys(("bytes", "Binary", "UUID"), "binData")
"""By the driver's type: the name of all types of BSON that are compared with each other."""


@dataclass(frozen=True, slots=True)
class Record:
    """A document as it is handed over."""

    collection: str
    payload: bytes
    key: bytes
    """Its ``_id`` as text."""
    sent_ms: int | None
    """When it was changed, or its ``_id`` made."""
    order: Order
    what: int
    """Its digest."""


class Collection:
    """One collection, asked for what is new."""

    def __init__(
        self, server: ServerCollection[RawBSONDocument], modified: str | None, fields: Sequence[str], *, nested: bool
    ) -> None:  # fmt: skip
        self.server, self._modified, self._nested, self._fields = server, modified, nested, set(fields)
        asked = {*fields, "_id", *([modified] if modified is not None else [])}
        self._projection = dict.fromkeys(sorted(asked), 1) if fields else None
        self._sort = [(name, ASCENDING) for name in ([modified] if modified else []) + ["_id"]]

    def bound(self, session: ClientSession | None) -> Order | None:
        """Return the order of the last document by its ``_id``; None where there is none, or dates say what is new.

        Raises
        ------
        SourceError
            There are ids of several types, of which only one would be read.
        """
        if self._modified is not None:
            return None
        last = self.server.find_one({}, {"_id": 1}, sort=[("_id", DESCENDING)], session=session)
        if last is None:
            return None
        id = _decoded(last)["_id"]
        type = _TYPES.get(id.__class__.__name__)
        if type is None or self.server.find_one({"_id": {"$not": {"$type": type}}}, {"_id": 1}, session=session):
            raise SourceError(
                f"the ids of collection '{self.server.name}' are of several types, and have no order together; set "
                "modified to the field with the date of change"
            )
        return [id]

    def tell_undated(self) -> int:
        """Return how many documents have no date in the field that says what is new; they are told and passed over."""
        if self._modified is None:
            return 0
        count = self.server.count_documents({self._modified: {"$not": {"$type": "date"}}})
        if count:
            name = self.server.name
            log.warning("%s: %d documents have no date in '%s': they are passed over", name, count, self._modified)
        return count

    def pages(
        self, progress: Progress, until: datetime, bound: Order | None, session: ClientSession | None
    ) -> Iterator[list[Record]]:
        """Give what is new up to ``until``, or to ``bound`` where ids say what is new; each page holds something."""
        if self._modified is None and bound is None:
            return
        at, is_full = self._floor(progress), True
        while is_full:
            where = {"$and": [*at, self._ceiling(until, bound)]}
            raws = list(
                self.server.find(where, self._projection, sort=self._sort, limit=PAGE_DOCUMENTS, session=session)
            )
            is_full = len(raws) == PAGE_DOCUMENTS
            records = [self.record(raw) for raw in raws]
            if records:
                at = [self._after(records[-1].order)]
            new = [record for record in records if not progress.is_known(record.what)]
            for record in new:
                progress.take(record.order, record.what)
            if new:
                yield new

    def record(self, raw: RawBSONDocument) -> Record:
        """Return a document as a record; one that cannot be decoded as its bytes, which a decoder sets aside."""
        whole = bytes(raw.raw)
        what = digest(whole)
        document = _decoded(raw)
        id = document.get("_id")
        order: Order = [id] if self._modified is None else [document.get(self._modified), id]
        if self._fields:
            document = {name: value for name, value in document.items() if name in self._fields}
        try:
            payload = as_json({self.server.name: document} if self._nested else document)
        except (ValueError, TypeError, RecursionError):
            payload = whole
        return Record(self.server.name, payload, as_text(id).encode("utf-8", "replace"), time_of(order), order, what)

    def _floor(self, progress: Progress) -> list[Mapping[str, Any]]:
        """Return from where on it is read again."""
        from bson import ObjectId

        ms = progress.again_from_ms()
        parts: list[Mapping[str, Any]] = []
        if ms is not None and self._modified is not None:
            parts.append({self._modified: {"$gte": as_date(ms)}})
        elif ms is not None:
            parts.append({"_id": {"$gte": ObjectId(max(ms // 1_000, 0).to_bytes(4, "big") + bytes(8))}})
        if progress.edge is not None:
            parts.append(self._after(progress.edge))
        return parts

    def _after(self, order: Order) -> Mapping[str, Any]:
        if self._modified is None:
            return {"_id": {"$gt": order[0]}}
        date, id = order
        return {"$or": [{self._modified: {"$gt": date}}, {self._modified: date, "_id": {"$gt": id}}]}

    def _ceiling(self, until: datetime, bound: Order | None) -> Mapping[str, Any]:
        if self._modified is None:
            assert bound is not None
            return {"_id": {"$lte": bound[0]}}
        # What is no date is below or above all dates, and must not come in by a comparison of another kind.
        return {self._modified: {"$lte": until, "$gte": datetime.min}}


def _decoded(raw: RawBSONDocument) -> dict[str, Any]:
    try:
        return bson.decode(raw.raw, _OPTIONS)
    except InvalidBSON:
        return {}
