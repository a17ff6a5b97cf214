"""HDFS by its REST API, over HTTP.

Apache Hadoop, "WebHDFS REST API":
https://hadoop.apache.org/docs/stable/hadoop-project-dist/hadoop-hdfs/WebHDFS.html. A file is written under another
name and renamed: a rename is atomic, and refused where the new name is taken ("File System Specification", rename).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from tocsin.errors import ConfigError, Unavailable
from tocsin.objects.store import CONNECT_S, TIMEOUT_S, WEB_PORT, Listed, Trouble

_NOT_NOW = ("StandbyException", "RetriableException", "SafeModeException", "ServerNotActiveException")
_DURABLE = "CREATE,OVERWRITE,SYNC_BLOCK"
"""Data nodes write through to the disk when the file is closed."""


class WebHdfs:
    """The files below a folder of HDFS."""

    def __init__(self, address: str, storage: Mapping[str, str], trouble: Trouble) -> None:
        parts = urlsplit(address)
        unknown = set(storage) - {"user"}
        if unknown:
            raise ConfigError(f"storage: HDFS knows no setting '{min(unknown)}'; there is user")
        if not parts.hostname:
            raise ConfigError(f"{address} names no host; write hdfs://namenode:{WEB_PORT}/folder")
        self._address, self._trouble = address.rstrip("/"), trouble
        self._root = parts.path.rstrip("/")
        self._user = storage.get("user") or parts.username or os.environ.get("HADOOP_USER_NAME", "")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._base = f"http://{host}:{parts.port or WEB_PORT}/webhdfs/v1"
        self._client = httpx.Client(timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_S))
        self._folders: set[str] = set()
        """Those that are known to be there."""

    def create(self, name: str, data: bytes) -> bool:
        if self._status(name) is not None:
            return False
        folder, _, last = name.rpartition("/")
        if folder not in self._folders:
            self._ask("PUT", folder, "MKDIRS")
            self._folders.add(folder)
        # Of the content, so that two writers do not write to the same one; a crash may leave it.
        part = f"{folder}/_{last}.{hashlib.sha256(data).hexdigest()[:16]}.part".lstrip("/")
        there = self._ask("PUT", part, "CREATE", createflag=_DURABLE, overwrite="true", noredirect="true")
        with self._told():
            self._checked(self._client.put(there.json()["Location"], content=data))
        renamed = self._ask("PUT", part, "RENAME", destination=self._path(name)).json()["boolean"]
        if not renamed:
            self.delete(part)
            if self._status(name) is None:
                raise self._trouble(f"{self._address}: {part} could not be renamed to {name}")
        return bool(renamed)

    def chunks(self, name: str) -> Iterator[bytes]:
        with self._told():
            url, parameters = self._url(name), self._parameters("OPEN")
            with self._client.stream("GET", url, params=parameters, follow_redirects=True) as answer:
                if answer.is_error:
                    answer.read()
                self._checked(answer)
                yield from answer.iter_bytes()

    def names(self, prefix: str, after: str = "") -> Iterator[str]:
        folder, slash, _ = prefix.rpartition("/")
        start = after.rpartition("/")[2]
        while True:
            listed = self._listing(folder, start)
            if listed is None:
                return
            for one in listed[0]:
                start = one["pathSuffix"]
                name = f"{folder}{slash}{start}"
                if name.startswith(prefix) and one["type"] == "FILE":
                    yield name
            if not listed[1]:
                return

    def objects(self, folder: str) -> Iterator[Listed]:
        status = self._status(folder)
        if status is not None and status["type"] == "FILE":
            yield _listed(folder, status)
            return
        waiting = [folder]
        while waiting:
            at = waiting.pop()
            start, more = "", True
            while more:
                some, more = self._listing(at, start) or ([], False)
                for one in some:
                    start = one["pathSuffix"]
                    name = f"{at}/{start}".lstrip("/")
                    if one["type"] == "DIRECTORY":
                        waiting.append(name)
                    else:
                        yield _listed(name, one)

    def delete(self, name: str) -> None:
        self._ask("DELETE", name, "DELETE")

    def close(self) -> None:
        self._client.close()

    def _status(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(self._ask("GET", name, "GETFILESTATUS").json()["FileStatus"])
        except FileNotFoundError:
            return None

    def _listing(self, folder: str, after: str) -> tuple[list[dict[str, Any]], bool] | None:
        """Some of what is in a folder, in order, and whether there is more; None where there is no such folder."""
        try:
            answer = self._ask("GET", folder, "LISTSTATUS_BATCH", startAfter=after).json()["DirectoryListing"]
        except FileNotFoundError:
            return None
        return answer["partialListing"]["FileStatuses"]["FileStatus"], answer["remainingEntries"] > 0

    def _ask(self, method: str, name: str, operation: str, **more: str) -> httpx.Response:
        with self._told():
            url, parameters = self._url(name), self._parameters(operation) | more
            return self._checked(self._client.request(method, url, params=parameters))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/") or "/"

    def _url(self, name: str) -> str:
        return self._base + quote(self._path(name))

    def _parameters(self, operation: str) -> dict[str, str]:
        return {"op": operation, **({"user.name": self._user} if self._user else {})}

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say what went wrong in a sentence of ours."""
        try:
            yield
        except httpx.TransportError as error:
            raise Unavailable(f"{self._address}: {error or type(error).__name__}") from error

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        """The answer, unless it is a refusal."""
        if answer.is_success:
            return answer
        try:
            told = answer.json()["RemoteException"]
            kind, message = str(told["exception"]), str(told["message"]).partition("\n")[0][:300]
        except (ValueError, KeyError, TypeError):
            kind, message = "", answer.text.partition("\n")[0][:300]
        if kind == "FileNotFoundException":
            raise FileNotFoundError(message)
        if kind in _NOT_NOW or (answer.status_code >= 500 and not kind) or answer.status_code == 429:
            raise Unavailable(f"{self._address}: {kind or answer.status_code} {message}".rstrip())
        if "IPC port" in message:
            raise self._trouble(
                f"{self._address} names the port of Hadoop's own protocol; name that of its web interface ({WEB_PORT} "
                "unless it was changed)"
            )
        hint = "; set storage: {user: NAME}, or HADOOP_USER_NAME" if answer.status_code in (401, 403) else ""
        raise self._trouble(f"{self._address}: {kind or answer.status_code} {message}{hint}")


def _listed(name: str, status: Mapping[str, Any]) -> Listed:
    version = f"{status.get('fileId', 0)}-{status['modificationTime']}-{status['length']}"
    return Listed(name, version, int(status["length"]))
