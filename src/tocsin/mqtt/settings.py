"""What source and channel `mqtt` have in common: how to reach the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr, field_validator

from tocsin.mqtt import packets
from tocsin.mqtt.client import Client, address
from tocsin.settings import Settings
from tocsin.settings.tls import Tls


class BrokerSettings(Settings):
    """How to reach a broker, and who we are there."""

    url: str
    """The broker: ``mqtt://host:1883``, or ``mqtts://host:8883`` with TLS."""
    version: Literal["3.1.1", "5"] = "5"
    """Version of the protocol."""
    client_id: str = ""
    """Our name at the broker; by default one is made, or given by the broker."""
    user: str | None = None
    """User name, where the broker asks for one."""
    password: SecretStr | None = None
    """Password; write it as ``${env:NAME}`` or ``${file:PATH}``."""
    tls: Tls | None = None
    """Certificates; without them ``mqtts`` trusts what the operating system trusts."""

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        address(url)
        return url

    def session(self) -> str:
        """Returns the client id to connect with; empty where the broker gives one."""
        return self.client_id

    def client(self, given: Path, **more: Any) -> Client:
        """Returns a client with these settings and more; relative certificate files start at ``given``."""
        return Client(
            url=self.url,
            client_id=self.session(),
            version=packets.V5 if self.version == "5" else packets.V311,
            user=self.user,
            password=None if self.password is None else self.password.get_secret_value(),
            tls=self.tls.context(given) if self.tls is not None else None,
            **more,
        )
