"""Places for objects, by their addresses, and what the ends of a pipeline may do there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from tocsin.errors import ConfigError, MissingExtra, TocsinError, Unavailable

CLOUDS = ("s3", "s3a", "gs", "az", "abfs", "abfss")
SCHEMES = (*CLOUDS, "hdfs")
TIMEOUT_S, CONNECT_S = 60, 5
"""How long a request, and connecting for it, may take."""
WEB_PORT = 9870
"""Of the web interface of HDFS, which WebHDFS is a part of, unless an address says another."""
_AWAY = re.compile(
    r"error sending|connect|timed? ?out|dns|refused|reset|unreachable|\b(5\d\d|429) [a-z]|SlowDown|ServiceUnavailable",
    re.I,
)
_DENIED = re.compile(r"\b40[13] [a-z]|AccessDenied|InvalidAccessKey|SignatureDoesNotMatch|Forbidden|credential", re.I)
_HOST = re.compile(r"[\w.@:\[\]-]+")
_DECORATION = re.compile(r"\x1b\[[0-9;]*m|↳|Debug source:.*", re.S)

Trouble = Callable[[str], TocsinError]
"""`SourceError` or `SinkError`, whichever end asks."""


@dataclass(frozen=True, slots=True, order=True)
class Listed:
    """An object that is there."""

    name: str
    """Below the address."""
    version: str
    """Another one once the object has been replaced."""
    size: int


class Store(Protocol):
    """The objects below an address. Names are relative to it, with ``/`` between their parts.

    Every call raises `Unavailable` while the other side is away, and the error of its end where it refuses.
    """

    def create(self, name: str, data: bytes) -> bool:
        """Make an object, whole or not at all. Returns False, and changes nothing, where there is one of the name."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yields the bytes of an object; `FileNotFoundError` where there is none."""

    def names(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yields the names that begin with ``prefix`` and come after another one, in order; none of deeper folders."""

    def objects(self, folder: str) -> Iterator[Listed]:
        """Yields all objects below a folder (the whole place by an empty name), or the one of that name."""

    def delete(self, name: str) -> None:
        """Delete an object; no error where there is none."""

    def close(self) -> None: ...


def is_remote(path: str) -> bool:
    """Returns whether a path is the address of a place elsewhere.

    Examples
    --------
    >>> is_remote("s3://plant/readings"), is_remote("readings")
    (True, False)
    """
    scheme, mark, rest = path.partition("://")
    if mark and scheme not in SCHEMES:
        raise ConfigError(f"{scheme}:// is no place to keep anything; there are {', '.join(SCHEMES)}, and folders")
    if mark and not _HOST.fullmatch(rest.partition("/")[0]):
        raise ConfigError(f"after {scheme}:// comes a bucket, container or host, then a / and the folder, nothing else")
    return bool(mark)


def open_store(address: str, storage: Mapping[str, str], trouble: Trouble) -> Store:
    """Returns the place at an address; nothing is asked of the other side yet.

    Raises
    ------
    MissingExtra
        The library for it is not installed.
    ConfigError
        The address, or a name in ``storage``, is none.
    """
    if address.startswith("hdfs://"):
        from tocsin.objects.webhdfs import WebHdfs

        return WebHdfs(address, storage, trouble)
    try:
        from tocsin.objects.cloud import Cloud

        return Cloud(address, storage, trouble)
    except ImportError:
        raise MissingExtra("obstore", "remote", f"the place {address}") from None


def told(address: str, error: BaseException, trouble: Trouble) -> TocsinError:
    """Returns what a library said as an error of ours, in a sentence: refused, away, or anything else.

    Examples
    --------
    >>> from tocsin.errors import SinkError
    >>> for said in ("GET in 11.401µs: builder error", "in 2.1ms: status code: 403 Forbidden", "503 Slow Down"):
    ...     error = told("s3://b", OSError(said), SinkError)
    ...     print(type(error).__name__, "credentials" in str(error))
    SinkError False
    SinkError True
    Unavailable False
    """
    said = plain(error)
    if _DENIED.search(said):
        return trouble(f"{address} may not be used ({said}); check the credentials")
    if "builder error" in said:
        said += "; an endpoint with http:// needs aws_allow_http: true"
    if "RPC listener disconnected" in said:
        said += (
            "; if it stays so: a table in HDFS is reached at the port of Hadoop's own protocol (8020), not of its web"
        )
    return Unavailable(f"{address}: {said}") if _AWAY.search(said) else trouble(f"{address}: {said}")


def plain(error: BaseException) -> str:
    """Returns what a library said in one line."""
    return " ".join(_DECORATION.sub(" ", str(error)).split())[:400]
