"""What the server refuses, and whether it is a row, the moment or the settings that it refuses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tocsin.errors import SinkError, SourceError, Unavailable

if TYPE_CHECKING:
    import psycopg

# The classes of PostgreSQL's error codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
_OF_A_ROW = ("21", "22", "23", "54", "P0")
"""Cardinality, data, integrity constraints, limits (a key too long for an index), what a trigger raises."""
_REDSHIFT_NOT_NOW = re.compile("serializable isolation violation|SlowDown|Status 503", re.IGNORECASE)
"""Redshift has one code, XX000, for whatever PostgreSQL does not know."""
_NOT_NOW = ("08", "25006", "40", "53", "55P03", "57")
"""Connection, a server that only reads (a failover), deadlock, resources, a lock held by others, shutting down."""
# Why a connection was refused is only told as text.
_NOT_EVER = re.compile(
    r"password|authentication|no pg_hba\.conf entry|(database|role) .* does not exist|permission denied|certificate"
    r"|does not support SSL|not permitted to log in",
    re.IGNORECASE,
)


def is_of_a_row(error: psycopg.Error) -> bool:
    """Return whether the server refuses what a row holds: without that row it may take the others."""
    return error.sqlstate is not None and error.sqlstate.startswith(_OF_A_ROW)


def trouble(
    url: str, error: psycopg.Error, refusal: type[SourceError] | type[SinkError]
) -> SourceError | SinkError:  # fmt: skip
    """Return the sentence for an error: `Unavailable` for what passes by waiting, else ``refusal``."""
    import psycopg

    said = reason(error)
    if error.sqlstate is None:
        of_connection = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        waits = of_connection and not _NOT_EVER.search(said)
    else:
        waits = error.sqlstate.startswith(_NOT_NOW)
        waits = waits or bool(_REDSHIFT_NOT_NOW.search(f"{said} {error.diag.message_detail}"))
    return Unavailable(f"{url} is away ({said})") if waits else refusal(f"{url} refuses: {said}")


def reason(error: psycopg.Error) -> str:
    """Return what the server said, in one line."""
    parts = [error.diag.message_primary or str(error) or type(error).__name__, error.diag.message_hint]
    return " ".join("; ".join(part for part in parts if part).split()).removesuffix(".")
