"""A schema registry: what the number in front of a record stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote

from pydantic import SecretStr, field_validator

from tocsin.decode._reasons import Bad
from tocsin.errors import SourceError, Unavailable
from tocsin.settings import Settings
from tocsin.settings.addresses import http_server
from tocsin.settings.tls import Tls

TIMEOUT_S = 20.0
HEADER_BYTES = 5


class Reference(NamedTuple):
    """Where in the registry a schema is that another one imports, under this name."""

    name: str
    subject: str
    version: int


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A schema as the registry gives it."""

    text: str
    """Of Avro in JSON, of Protobuf a ``.proto`` file, or its descriptor in Base64."""
    references: Sequence[Reference]


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

    def schema_of(self, number: int, kind: str = "AVRO") -> RegisteredSchema:
        """Returns the schema of a number, of kind AVRO or PROTOBUF; `Bad` if there is none of this kind.

        Raises `Unavailable` if the registry is away, `SourceError` if it refuses to be read.
        """
        return self._asked(f"/schemas/ids/{number}", f"schema {number}", kind)

    def referred(self, reference: Reference, kind: str) -> RegisteredSchema:
        """Returns a schema that another one refers to; raises what `schema_of` does."""
        path = f"/subjects/{quote(reference.subject, safe='')}/versions/{reference.version}"
        return self._asked(path, f"{reference.name} ({reference.subject}, version {reference.version})", kind)

    def _asked(self, path: str, what: str, kind: str) -> RegisteredSchema:
        import httpx

        reason = f"{kind.lower()}_schema"
        auth = None
        if self.user is not None:
            auth = (self.user, "" if self.password is None else self.password.get_secret_value())
        verify = True if self.tls is None else self.tls.context()
        try:
            answer = httpx.get(f"{self.url}{path}", auth=auth, verify=verify, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            raise Unavailable(f"{self.url}: {error or type(error).__name__}") from error
        if answer.status_code == 429 or answer.status_code >= 500:
            raise Unavailable(f"{self.url} is busy (status {answer.status_code})")
        if answer.status_code == 404:
            raise Bad(reason, f"the registry knows no {what}")
        if not answer.is_success:
            remedy = "check user and password" if answer.status_code in (401, 403) else "check the url"
            raise SourceError(f"{self.url} refuses to be read (status {answer.status_code}); {remedy}")
        try:
            told = answer.json()
            own, text = told.get("schemaType") or "AVRO", str(told["schema"])
            references = [Reference(*(one[key] for key in Reference._fields)) for one in told.get("references") or ()]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise SourceError(f"{self.url} gives no answer of a schema registry; check the url") from error
        if own != kind:
            raise Bad(reason, f"{what} is {own.capitalize()}, not {kind.capitalize()}")
        return RegisteredSchema(text, references)


def number_of(payload: bytes, kind: str = "AVRO") -> int:
    """Returns the number of the schema that stands in front of a record; `Bad` if none does."""
    if len(payload) < HEADER_BYTES or payload[0] != 0:
        raise Bad(f"{kind.lower()}_header", "a zero byte and the number of a schema should stand in front")
    return int.from_bytes(payload[1:HEADER_BYTES], "big")
