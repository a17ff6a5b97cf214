"""How to reach an InfluxDB, who we are there, and what it says of an error."""

from __future__ import annotations

from pathlib import Path

import httpx
from pydantic import SecretStr, field_validator

from tocsin.settings import Settings
from tocsin.settings.addresses import http_server
from tocsin.settings.tls import Tls

TIMEOUT_S = 20.0


class ServerSettings(Settings):
    """The server, and who we are there."""

    url: str
    """The server, as ``https://influx.example:8086``."""
    token: SecretStr | None = None
    """Token (versions 2 and 3); write it as ``${env:NAME}`` or ``${file:PATH}``."""
    user: str | None = None
    """User name (version 1)."""
    password: SecretStr | None = None
    """Password (version 1); write it as ``${env:NAME}`` or ``${file:PATH}``."""
    tls: Tls | None = None
    """Certificates; without them ``https`` trusts what the operating system trusts."""

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        return http_server(url, 8086)

    def client(self, given: Path) -> httpx.Client:
        """Returns a client of the server; relative certificate files start at ``given``."""
        headers, auth = {}, None
        if self.token is not None:
            headers["authorization"] = f"Token {self.token.get_secret_value()}"
        elif self.user is not None:
            auth = (self.user, "" if self.password is None else self.password.get_secret_value())
        verify = True if self.tls is None else self.tls.context(given)
        return httpx.Client(base_url=self.url, headers=headers, auth=auth, verify=verify, timeout=TIMEOUT_S)


def said(answer: httpx.Response) -> str:
    """Returns what the server says of an error, in one line."""
    try:
        told = answer.json()
        text = str(told.get("error") or told.get("message") or told)
    except ValueError:
        text = answer.text
    return " ".join(text.split())[:300]


__all__ = ["TIMEOUT_S", "ServerSettings", "said"]
