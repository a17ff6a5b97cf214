"""How far a collection has been read, and which documents of the overlap have been given."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

SEEN_MAX = 50_000
"""So many documents of the overlap are remembered; where there are more, it is read on without an overlap."""
PRUNE_EVERY = 4_096
_SEEN = struct.Struct("<qQ")

Order = Sequence[Any]
"""By what documents are ordered: the date of change and the ``_id``, or the ``_id`` alone."""


def digest(raw: bytes) -> int:
    """Return what a document is known by again: changed in anything, it is another one."""
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "little")


class Progress:
    """How far one collection has been read.

    What is visible late, with a date or an ``_id`` of a little before the newest, is found by reading the last
    ``overlap_ms`` again; documents of it that were given before are known by their `digest`.
    """

    def __init__(self, overlap_ms: int, offset: Mapping[str, Any] | None = None) -> None:
        self._overlap_ms = overlap_ms
        self.after: Order | None = None
        """The order of the newest document that was given."""
        self.edge: Order | None = None
        """Nothing up to here is looked at again, whatever the overlap."""
        self.newest_ms: int | None = None
        self.count = 0
        """How many documents were given, in all runs."""
        self._seen: dict[int, int] = {}
        """By digest: the time of each."""
        if offset is not None:
            self.after, self.edge = (from_json(offset[name]) for name in ("after", "edge"))
            self.newest_ms, self.count = offset["newest_ms"], int(offset["count"])
            self._seen = {what: ms for ms, what in _SEEN.iter_unpack(base64.b64decode(offset["seen"]))}

    def offset(self) -> dict[str, Any]:
        """Return it as JSON."""
        seen = b"".join(_SEEN.pack(ms, what) for what, ms in self._seen.items())
        return {
            "after": to_json(self.after),
            "edge": to_json(self.edge),
            "newest_ms": self.newest_ms,
            "count": self.count,
            "seen": base64.b64encode(seen).decode(),
        }

    def is_known(self, what: int) -> bool:
        """Return whether a document of this digest was given."""
        return what in self._seen

    def take(self, order: Order, what: int) -> None:
        """A document is given. The same calls always lead to the same progress, wherever it was saved in between."""
        ms = time_of(order)
        self.count += 1
        if ms is None:  # its order tells no time, so there is no overlap
            self.after = self.edge = order
            return
        if self.newest_ms is None or ms >= self.newest_ms:
            self.after, self.newest_ms = order, ms
        self._seen[what] = ms
        if self.count % PRUNE_EVERY == 0:
            self._prune()

    def again_from_ms(self) -> int | None:
        """Return from when on the collection is read again; None: from its beginning, or from the edge."""
        return None if self.newest_ms is None else self.newest_ms - self._overlap_ms

    def _prune(self) -> None:
        from_ms = self.again_from_ms() or 0
        self._seen = {what: ms for what, ms in self._seen.items() if ms >= from_ms}
        if len(self._seen) > SEEN_MAX:
            self._seen, self.edge = {}, self.after


def time_of(order: Order) -> int | None:
    """Return the time that an order tells, in milliseconds; None where it tells none (an ``_id`` that is a number)."""
    from bson import ObjectId

    first = order[0]
    if isinstance(first, datetime):
        return (first.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
    return int.from_bytes(first.binary[:4], "big") * 1_000 if isinstance(first, ObjectId) else None


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def as_date(ms: int) -> datetime:
    """Return a time as the driver takes it."""
    return (_EPOCH + timedelta(milliseconds=ms)).replace(tzinfo=None)


def to_json(order: Order | None) -> Any:
    """Return an order as JSON, which keeps the types of BSON."""
    from bson import json_util

    if order is None:
        return None
    return json.loads(json_util.dumps(list(order), json_options=json_util.CANONICAL_JSON_OPTIONS))


def from_json(written: Any) -> Order | None:
    """Return what `to_json` has written."""
    from bson import json_util

    if written is None:
        return None
    options = json_util.JSONOptions(json_mode=json_util.JSONMode.CANONICAL, tz_aware=False)
    order = json_util.loads(json.dumps(written), json_options=options)
    assert isinstance(order, list)
    return order
