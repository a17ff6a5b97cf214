"""A schema registry: what the number in front of a record stands for."""

from __future__ import annotations

import json
from typing import Any

from pydantic import SecretStr, field_validator

from tocsin.decode._reasons import Bad
from tocsin.errors import SourceError, Unavailable
from tocsin.settings import Settings
from tocsin.settings.addresses import http_server
from tocsin.settings.tls import Tls

TIMEOUT_S = 20.0
HEADER_BYTES = 5


class Registry(Settings):
    """The registry, and who we are there."""

    url: str
    """The registry, as ``https://registry.example:8081``; with its path where the interface stands below one."""
    user: str | None = None
    """User name, or the name of an API key."""
    password: SecretStr | None = None
    """Password, or the key's secret; write it as ``${env:NAME}`` or ``${file:PATH}``."""
    tls: Tls | None = None
    """Certificates; without them ``https`` trusts what the operating system trusts."""

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        return http_server(url, 8081)

    def schema_of(self, number: int) -> Any:
        """Returns the Avro schema of a number; `Bad` if there is none, `Unavailable` if the registry is away.

        Raises `SourceError` if it refuses to be read.
        """
        import httpx

        auth = None
        if self.user is not None:
            auth = (self.user, "" if self.password is None else self.password.get_secret_value())
        verify = True if self.tls is None else self.tls.context()
        try:
            answer = httpx.get(f"{self.url}/schemas/ids/{number}", auth=auth, verify=verify, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise Unavailable(f"the schema registry {self.url} does not answer ({why})") from error
        if answer.status_code == 429 or answer.status_code >= 500:
            raise Unavailable(f"the schema registry {self.url} is busy (status {answer.status_code})")
        if answer.status_code == 404:
            raise Bad("avro_schema", f"the registry knows no schema {number}")
        if not answer.is_success:
            remedy = "check user and password" if answer.status_code in (401, 403) else "check the url"
            raise SourceError(f"{self.url} refuses to be read (status {answer.status_code}); {remedy}")
        try:
            told = answer.json()
            kind, schema = told.get("schemaType", "AVRO"), told["schema"]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise SourceError(f"{self.url} gives no answer of a schema registry; check the url") from error
        if kind != "AVRO":
            raise Bad("avro_schema", f"schema {number} is {kind}, not Avro")
        try:
            return json.loads(schema)
        except (ValueError, TypeError) as error:
            raise Bad("avro_schema", f"schema {number} is not JSON: {error}") from error


def number_of(payload: bytes) -> int:
    """Returns the number of the schema that stands in front of a record; `Bad` if none does."""
    if len(payload) < HEADER_BYTES or payload[0] != 0:
        raise Bad("avro_header", "a zero byte and the number of a schema should stand in front")
    return int.from_bytes(payload[1:HEADER_BYTES], "big")
