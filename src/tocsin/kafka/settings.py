"""What source and sink `kafka` have in common: how to reach the cluster, and who we are there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr, field_validator, model_validator

from tocsin.errors import ConfigError, MissingExtra
from tocsin.settings import Many, Settings
from tocsin.settings.tls import Tls
from tocsin.world import World

TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
"""What Kafka allows as the name of a topic, but for ``.`` and ``..``."""
_BROKER = re.compile(r"[^\s,/:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
_RECONNECT_MS = 2_000
"""Greatest time between two attempts to connect; the library's own is 10 s."""


class ClusterSettings(Settings):
    """How to reach a cluster, and who we are there."""

    brokers: Many[str]
    """Some of the cluster's brokers, as ``host:9092``; they tell the others."""
    user: str | None = None
    """User name, where the cluster asks for one (SASL)."""
    password: SecretStr | None = None
    """Password; write it as ``${env:NAME}`` or ``${file:PATH}``."""
    mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    """How the password is proven; ``PLAIN`` sends it as it is, so only together with ``tls``."""
    tls: Tls | None = None
    """Certificates; ``tls: {}`` is TLS that trusts what the operating system trusts. Without it nothing is secret."""

    @field_validator("brokers")
    @classmethod
    def _brokers(cls, brokers: tuple[str, ...]) -> tuple[str, ...]:
        for broker in brokers or ("",):
            if not _BROKER.fullmatch(broker):
                # What looks as if it held a password is not shown.
                shown = "this" if re.search("[@=#?]", broker) else repr(broker)
                raise ConfigError(f"{shown} is not the address of a broker; write host:9092")
        return brokers

    @model_validator(mode="after")
    def _credentials(self) -> ClusterSettings:
        if (self.user is None) != (self.password is None):
            raise ConfigError("user and password belong together: set both, or neither")
        if self.user is not None and self.mechanism == "PLAIN" and self.tls is None:
            raise ConfigError("mechanism PLAIN sends the password as it is; set tls, or use SCRAM-SHA-512")
        return self

    def require(self, world: World) -> None:
        """Raise `ConfigError` for a library that is not installed, or certificates that cannot be read."""
        try:
            import confluent_kafka  # noqa: F401 (to see whether it is there)
        except ImportError:
            raise MissingExtra("confluent-kafka", "kafka", "kafka") from None
        if self.tls is not None:
            self.tls.context(world.given)

    def client(self, given: Path) -> Mapping[str, Any]:
        """Return the library's settings for this cluster; relative certificate files start at ``given``."""
        settings: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.brokers),
            "client.id": "tocsin",
            "log_level": 0,
            "reconnect.backoff.max.ms": _RECONNECT_MS,
            "socket.keepalive.enable": True,
        }
        if self.user is not None and self.password is not None:
            settings["sasl.mechanism"] = self.mechanism
            settings["sasl.username"] = self.user
            settings["sasl.password"] = self.password.get_secret_value()
        if self.tls is not None:
            files = {"ca": self.tls.ca, "certificate": self.tls.cert, "key": self.tls.key}
            settings |= {f"ssl.{name}.location": str(given / file) for name, file in files.items() if file is not None}
        protocol = "SSL" if self.tls is not None else "PLAINTEXT"
        settings["security.protocol"] = protocol if self.user is None else f"SASL_{protocol}"
        return settings

    @property
    def cluster(self) -> str:
        """The brokers, as they are named in a sentence."""
        return ", ".join(self.brokers)
