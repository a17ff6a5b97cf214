"""What source and sink `kinesis` have in common: how to reach the stream."""

from __future__ import annotations

import re
from typing import Any

from pydantic import field_validator

from tocsin.errors import ConfigError, MissingExtra
from tocsin.settings import Settings
from tocsin.settings.addresses import is_server

_STREAM = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_CONNECT_S, _READ_S = 5.0, 15.0


class StreamSettings(Settings):
    """How to reach a stream. Credentials are found as AWS's own tools find them, and never stand in a pipeline file."""

    stream: str
    """The name of the stream, which must be there."""
    region: str | None = None
    """The region, as ``eu-central-1``; by default that of AWS's own settings (``AWS_DEFAULT_REGION``, the profile)."""
    profile: str | None = None
    """A profile of AWS's own settings (``~/.aws/config``) to take region and credentials from."""
    endpoint: str | None = None
    """Another address than the region's own, as ``https://host``: of a private network, or of a stand-in."""

    @field_validator("stream")
    @classmethod
    def _stream(cls, stream: str) -> str:
        if not _STREAM.fullmatch(stream):
            raise ValueError("this is not the name of a stream; use letters, digits, '.', '_' and '-'")
        return stream

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        if not is_server(endpoint, ("http", "https")):
            raise ValueError("this is not the address of a server; write https://host or https://host:port")
        return endpoint

    def require(self) -> None:
        """Raise `ConfigError` for a library that is not installed, a profile that is not there, or no region."""
        try:
            import boto3  # noqa: F401
        except ImportError as error:
            raise MissingExtra("boto3", "kinesis", "kinesis") from error
        self._session()

    def client(self, connections: int) -> Any:
        """Return a client of boto3, which many threads may use; it tries nothing twice by itself."""
        from botocore.config import Config

        config = Config(
            connect_timeout=_CONNECT_S,
            read_timeout=_READ_S,
            retries={"total_max_attempts": 1},
            max_pool_connections=connections,
        )
        return self._session().client("kinesis", endpoint_url=self.endpoint, config=config)

    def _session(self) -> Any:
        import boto3
        from botocore.exceptions import ProfileNotFound

        try:
            session = boto3.Session(profile_name=self.profile, region_name=self.region)
        except ProfileNotFound as error:
            raise ConfigError(f"{error}; write it into ~/.aws/config, or correct the setting profile") from error
        if session.region_name is None:
            raise ConfigError("kinesis needs a region; set region, as eu-central-1, or AWS_DEFAULT_REGION")
        return session

    @property
    def address(self) -> str:
        """The stream and where it is, as a sentence names them."""
        where = self.endpoint or self.region or "its region"
        return f"stream '{self.stream}' ({where})"
