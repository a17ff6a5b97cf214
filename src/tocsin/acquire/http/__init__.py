"""Source `http`: records that senders post, answered only once they are durable."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
from pydantic import Field, SecretStr, field_validator

from tocsin.acquire.http._reader import HttpReader
from tocsin.batch import RAW_WITH_METADATA
from tocsin.contracts import Source
from tocsin.ends import OneSplit
from tocsin.errors import ConfigError
from tocsin.settings import Settings
from tocsin.settings.addresses import is_local
from tocsin.settings.quantities import Duration, Size
from tocsin.settings.tls import server_context
from tocsin.world import World

_TOKEN_MIN = 16


class ServerTls(Settings):
    """How senders know us, and how we know them; TLS 1.2 or newer."""

    cert: str
    """File with the server's certificate and what it was issued by (PEM)."""
    key: str
    """File with the certificate's key (PEM)."""
    clients: str | None = None
    """File with the certificates that those of senders must be issued by (PEM); without it senders need none."""

    def context(self, folder: Path) -> ssl.SSLContext:
        """Returns the context of a server; relative files start at ``folder``."""
        clients = None if self.clients is None else folder / self.clients
        try:
            return server_context(folder / self.cert, folder / self.key, clients)
        except OSError as error:
            raise ConfigError(f"the TLS files cert={self.cert} key={self.key}: {error}") from error


class Http(Source):
    """Records that programs post: scripts and curl, Telegraf, Prometheus, OpenTelemetry collectors, Kafka REST clients.

    A request is answered with success only once its records are on disk here. One that is answered is kept exactly
    once; one whose answer was lost is sent again by its sender, and then kept twice unless it carries the same
    ``Idempotency-Key`` (the last 1,000 keys are known, after a crash as well). Where more waits than ``waiting_max``, a
    sender is asked to come back (429 with ``Retry-After``).

    | address | what is taken | topic | decode |
    | --- | --- | --- | --- |
    | ``POST /ingest/STREAM`` | lines; with ``Content-Type: application/json`` a document or an array of them, with ``text/csv`` lines below a header | the stream | json, csv or any |
    | ``POST /topics/TOPIC`` | Kafka REST v2, ``json`` and ``binary``; keys are kept | the topic | json or any |
    | ``POST /consumers/GROUP`` and below, ``GET /topics`` | Kafka REST v2 for those who consume what came, as far as ``kept_max`` reaches back | any | |
    | ``POST /write``, ``/api/v2/write`` | Influx line protocol, with its ``precision``; times become nanoseconds | db or bucket | influx |
    | ``POST /api/v1/write`` | Prometheus remote write 1.0; a sample becomes a line of Prometheus text | prometheus | prometheus |
    | ``POST /v1/metrics`` | OTLP metrics, protobuf or JSON; a point becomes a line of Prometheus text | otlp | prometheus |

    All may be packed with gzip. An answer names the lines that are not well-formed: they are set aside like any record
    that cannot be decoded, and the lines beside them are kept. A token is sent as ``Authorization: Bearer``, as
    ``Token`` (InfluxDB 2) or as the password of ``Basic``; beyond this computer it is required.

    Examples
    --------
    >>> source = Http(port=8086)
    >>> source.host, source.output_schema().names[-3:]
    ('127.0.0.1', ['key', 'sent', 'attributes'])

    References: RFC 9110; Confluent, "REST Proxy API v2"; InfluxData, "Line protocol"; Prometheus, "Remote-Write 1.0";
    OpenTelemetry, "OTLP 1.5" and "Prometheus and OpenMetrics Compatibility".
    """  # noqa: E501

    REPLAYABLE: ClassVar[bool] = False
    PROMISE: ClassVar[str] = "exactly once for a request with an Idempotency-Key, else as often as it is sent"

    port: int = Field(ge=1, le=65535)
    """The port to listen at."""
    host: str = "127.0.0.1"
    """The address to listen at; beyond this computer (``0.0.0.0``: everywhere) a token is required."""
    token: SecretStr | None = None
    """What senders must show, at least 16 characters; write it as ``${env:NAME}`` or ``${file:PATH}``."""
    tls: ServerTls | None = None
    """Certificates; without them HTTP is spoken, which anybody on the way can read."""
    body_max: Size = 16 << 20
    """The largest body that is taken, also once it is unpacked."""
    waiting_max: Size = 64 << 20
    """How much may wait to be made durable before senders are asked to come back."""
    kept_max: Size = 256 << 20
    """How much of what came stays on disk for those who consume it by Kafka REST, the newest; with 0 nobody can."""
    patience_us: Duration = 30_000_000
    """How long a sender waits for its answer before it is asked to come back (503)."""

    @field_validator("token")
    @classmethod
    def _token_is_long(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < _TOKEN_MIN:
            raise ValueError(f"a token of at least {_TOKEN_MIN} characters is needed, as `openssl rand -hex 16` makes")
        return token

    def output_schema(self) -> pa.Schema:
        return RAW_WITH_METADATA

    def retains(self) -> int:
        return self.kept_max

    def check(self, world: World) -> None:
        if self.token is None and not is_local(self.host):
            raise ConfigError(
                f"host {self.host} is reached from other computers: set a token, as token: ${{env:TOCSIN_HTTP_TOKEN}}"
            )
        if self.tls is not None:
            self.tls.context(world.given)

    def open(self, world: World) -> OneSplit:
        self.check(world)
        tls = None if self.tls is None else self.tls.context(world.given)
        return OneSplit(lambda offset: HttpReader(self, world, offset, tls))


__all__ = ["Http", "ServerTls"]
