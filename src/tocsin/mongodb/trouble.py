"""What a MongoDB refuses, and whether waiting helps."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tocsin.errors import SourceError, Unavailable

if TYPE_CHECKING:
    from pymongo.errors import PyMongoError

# Codes: https://www.mongodb.com/docs/manual/reference/error-codes/
_CREDENTIALS = (18, 8000, 11, 334)
_RIGHTS = (13,)
_HISTORY_LOST = (286, 280, 260)
_NO_CHANGES = (40573, 59, 115, 238)
"""No such command or stage: the server is no replica set, or another one that speaks like MongoDB."""
_NOT_NOW: tuple[int, ...] = (6, 7, 50, 63, 89, 91, 133, 150, 189, 202, 234, 239, 246, 262, 9001)
_NOT_NOW += (10107, 11600, 11602, 13388, 13435, 13436)
"""Hosts that cannot be reached, elections, shutting down, time-outs, a snapshot that is too old."""
_OF_TLS = re.compile(r"certificate|ssl: wrong|tlsv1|handshake failure", re.IGNORECASE)


def trouble(address: str, error: PyMongoError, user: str | None) -> SourceError:
    """Return the sentence for an error: `Unavailable` for what passes by waiting, else `SourceError`."""
    from pymongo.errors import ConnectionFailure, OperationFailure

    said = _said(error)
    if isinstance(error, OperationFailure):
        return _refused(address, error.code or 0, said, user)
    if isinstance(error, ConnectionFailure) and not _OF_TLS.search(said):
        return Unavailable(f"{address} is away ({said})")
    return SourceError(f"{address} cannot be read: {said}")


def _refused(address: str, code: int, said: str, user: str | None) -> SourceError:
    if code in _NOT_NOW:
        return Unavailable(f"{address} cannot answer now ({said})")
    if code in _CREDENTIALS:
        who = "nobody without a user" if user is None else f"user '{user}'"
        return SourceError(f"{address} lets {who} not in ({said}); correct user, password and auth_source")
    if code in _RIGHTS:
        return SourceError(f"{address} does not let us read ({said}); give the user the role read on the database")
    if code in _HISTORY_LOST:
        return SourceError(
            f"{address} no longer has the changes since the last run ({said}); make its oplog larger, and start again "
            "with another pipeline name or folder"
        )
    if code in _NO_CHANGES and ("hangeStream" in said or "change stream" in said):
        return SourceError(f"{address} has no change stream, which only a replica set has ({said}); remove watch")
    return SourceError(f"{address} refuses: {said}")


def _said(error: PyMongoError) -> str:
    """Return what went wrong, in one line, without the description of all servers and the whole answer."""
    text = str(error).partition(", full error:")[0].partition(", Timeout:")[0]
    return " ".join(text.split()).removesuffix(".")
