"""Object stores: S3 and what speaks its protocol, Google Cloud Storage, Azure.

A put with the condition that there is no such object (``If-None-Match: *``) makes one of many writers the first:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html. The library is that of delta-rs, so
settings have the same names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, UnknownConfigurationKeyError
from obstore.store import from_url

from tocsin.errors import ConfigError
from tocsin.objects.store import CONNECT_S, TIMEOUT_S, Listed, Trouble, told

_OF_CLIENT = ("allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_url", "timeout", "user_agent")
_OF_DELTA = ("conditional_put", "s3_locking_provider", "s3_allow_unsafe_rename", "copy_if_not_exists")
"""Of the same ``storage``, but for tables only: a file is made by a conditional put and nothing else."""
_RETRIES = 3


class Cloud:
    """The objects below an address of an object store."""

    def __init__(self, address: str, storage: Mapping[str, str], trouble: Trouble) -> None:
        self._address, self._trouble = address.rstrip("/"), trouble
        settings, client, retries = _sorted(_of_environment() | dict(storage))
        patience: Any = {"max_retries": retries, "retry_timeout": timedelta(seconds=20)}
        try:
            self._store: Any = from_url(self._address, config=settings, client_options=client, retry_config=patience)
        except UnknownConfigurationKeyError as error:
            name = str(error).partition("'")[2].partition("'")[0]
            raise ConfigError(f"storage: {self._address} knows no setting '{name}'") from error
        except (BaseError, ValueError) as error:
            raise ConfigError(f"{self._address} is no address of an object store: {error}") from error

    def create(self, name: str, data: bytes) -> bool:
        with self._told(name):
            try:
                obstore.put(self._store, name, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def chunks(self, name: str) -> Iterator[bytes]:
        with self._told(name):
            for chunk in obstore.get(self._store, name).stream():
                yield bytes(chunk)

    def names(self, prefix: str, after: str = "") -> Iterator[str]:
        folder = prefix.rpartition("/")[0]
        # Nothing that begins with the prefix comes before it, nor is it the prefix itself: no name ends so.
        offset = max(prefix, after)
        with self._told(prefix):
            for some in obstore.list(self._store, folder or None, offset=offset or None):
                for one in some:
                    name = str(one["path"])
                    if not name.startswith(prefix) and name > prefix:
                        return
                    if name.startswith(prefix) and "/" not in name[len(prefix) :]:
                        yield name

    def objects(self, folder: str) -> Iterator[Listed]:
        with self._told(folder):
            is_folder = False
            for some in obstore.list(self._store, folder or None):
                for one in some:
                    is_folder = True
                    yield _listed(one)
            if folder and not is_folder:
                try:
                    yield _listed(obstore.head(self._store, folder))
                except FileNotFoundError:
                    return

    def delete(self, name: str) -> None:
        with self._told(name):
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError:
                return

    def close(self) -> None:
        """Connections end with the object."""

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Say what went wrong in a sentence of ours."""
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise told(self._address, error, self._trouble) from error
            raise
        except BaseError as error:
            raise told(self._address, error, self._trouble) from error


def _listed(one: Mapping[str, Any]) -> Listed:
    return Listed(str(one["path"]), str(one["e_tag"] or one["last_modified"].isoformat()), int(one["size"]))


def _of_environment() -> dict[str, str]:
    """Settings of the HTTP client, as AWS_ALLOW_HTTP: the library takes none of the environment beside given ones."""
    names = [f"{maker}_{name}" for maker in ("aws", "google", "azure") for name in _OF_CLIENT]
    return {name: os.environ[name.upper()] for name in names if name.upper() in os.environ}


def _sorted(storage: Mapping[str, str]) -> tuple[Any, Any, int]:
    """The settings of the store, of its HTTP client, and how often a request is made again."""
    client: dict[str, Any] = {"connect_timeout": f"{CONNECT_S}s", "timeout": f"{TIMEOUT_S}s"}
    settings: dict[str, str] = {}
    retries = _RETRIES
    for name, value in storage.items():
        plain = name.lower()
        short = plain.partition("_")[2] if plain.startswith(("aws_", "google_", "azure_")) else plain
        if short in _OF_CLIENT:
            client[short] = value.lower() == "true" if short.startswith("allow_") else value
        elif short == "max_retries":
            retries = int(value)
        elif short not in _OF_DELTA:
            settings[plain] = value
    return settings, client, retries
