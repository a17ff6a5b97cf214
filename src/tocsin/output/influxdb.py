"""Sink `influxdb`: points in InfluxDB 1, 2 and 3, and in whatever else takes its line protocol."""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
from pydantic import SecretStr, field_validator, model_validator

from tocsin.batch import QUARANTINED_BYTES
from tocsin.contracts import Sink
from tocsin.ends import SpooledAndNoted
from tocsin.errors import SinkError, Unavailable
from tocsin.output._lines import escaped_word, require_lines, to_lines
from tocsin.settings import Many
from tocsin.settings.addresses import is_server
from tocsin.settings.tls import Tls
from tocsin.world import World

log = logging.getLogger(__name__)
LINES_MAX = 5_000
"""In one request, as InfluxData advises."""
TIMEOUT_S = 20.0
QUARANTINE = "quarantine"
"""The measurement of lines that the server refuses, with its reason."""
_HOUR_US = 3_600_000_000
_DROPPED = re.compile(r" dropped=\d+")


class Influxdb(Sink):
    """Keep rows as points: the key and ``tags`` name the series, other columns are fields.

    A point is told by its measurement, tags and time, and writing it again changes nothing: after a crash what was on
    its way is written once more, and **each point is there once**. So two rows with the same key, tags and time are one
    point, with the fields of both; name a column that tells them apart among the tags. A line that the server refuses
    (a field that has another type there, a time beyond what it retains) goes to the measurement ``quarantine`` with the
    server's reason, and the others are kept. Null, NaN and infinity are left out; times of other columns become whole
    microseconds.

    Examples
    --------
    >>> sink = Influxdb(url="http://127.0.0.1:8086", database="plant", measurement="oven")
    >>> sink.tags
    ('key',)

    InfluxData, "Line protocol" and "/write" (version 1), "/api/v2/write" (version 2).
    """

    url: str
    """The server, as ``https://influx.example:8086``."""
    measurement: str
    """The name of the table."""
    database: str = ""
    """The database (version 1), which must be there."""
    bucket: str = ""
    """The bucket (versions 2 and 3)."""
    org: str = ""
    """The organisation of the bucket."""
    token: SecretStr | None = None
    """Token (versions 2 and 3); write it as ``${env:NAME}`` or ``${file:PATH}``."""
    user: str | None = None
    """User name (version 1)."""
    password: SecretStr | None = None
    """Password (version 1); write it as ``${env:NAME}`` or ``${file:PATH}``."""
    tags: Many[str] = ("key",)
    """The columns that name the series."""
    tls: Tls | None = None
    """Certificates; without them ``https`` trusts what the operating system trusts."""

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        if "@" in url:
            raise ValueError("user and password do not belong in the url; give them as the settings user and password")
        if not is_server(url, ("http", "https")):
            raise ValueError("this is not the address of a server; write http://host:8086 or https://host:8086")
        return url.rstrip("/")

    @field_validator("measurement")
    @classmethod
    def _measurement(cls, measurement: str) -> str:
        if not measurement or "\n" in measurement or measurement == QUARANTINE:
            raise ValueError(f"a measurement is a name in one line, and not '{QUARANTINE}'")
        return measurement

    @model_validator(mode="after")
    def _one_place(self) -> Influxdb:
        if bool(self.database) == bool(self.bucket):
            raise ValueError("name either a database (InfluxDB 1) or a bucket (InfluxDB 2 and 3)")
        return self

    def accepts(self, schema: pa.Schema) -> None:
        require_lines(schema, self.tags, self.name())

    def check(self, world: World) -> None:
        if self.tls is not None:
            self.tls.context(world.given)

    def place(self) -> Mapping[str, Any]:
        return {"url": self.url, "into": self.database or self.bucket, "measurement": self.measurement}

    def open(self, world: World, schema: pa.Schema) -> InfluxdbWriter:
        return InfluxdbWriter(self, world, schema)

    def client(self, given: Path) -> httpx.Client:
        """Returns a client of the server; relative certificate files start at ``given``."""
        headers, auth = {}, None
        if self.token is not None:
            headers["authorization"] = f"Token {self.token.get_secret_value()}"
        elif self.user is not None:
            auth = (self.user, "" if self.password is None else self.password.get_secret_value())
        verify = True if self.tls is None else self.tls.context(given)
        return httpx.Client(base_url=self.url, headers=headers, auth=auth, verify=verify, timeout=TIMEOUT_S)


class InfluxdbWriter(SpooledAndNoted):
    """The measurement. How far it reaches is noted here, on disk: the points say by themselves which they are."""

    def __init__(self, settings: Influxdb, world: World, schema: pa.Schema) -> None:
        super().__init__(world, schema)
        self._settings = settings
        self._client = settings.client(world.given)
        self._counted = {"lines_refused": 0, "rows_without_value": 0}
        self._told = ""

    def write(self, epoch: int, rows: pa.Table) -> None:
        lines = to_lines(rows, self._settings.measurement, self._settings.tags)
        for begin in range(0, len(lines), LINES_MAX):
            self._write(lines[begin : begin + LINES_MAX])
        self._counted["rows_without_value"] += rows.num_rows - len(lines)

    def counters(self) -> Mapping[str, int]:
        return dict(self._counted)

    def close(self) -> None:
        self._client.close()

    def _write(self, lines: Sequence[str]) -> None:
        """Write these lines; those that the server refuses are found by halves, and set aside."""
        refusal = self._refusal(lines)
        if refusal is None:
            return
        if len(lines) > 1:
            middle = len(lines) // 2
            self._write(lines[:middle])
            self._write(lines[middle:])
            return
        self._counted["lines_refused"] += 1
        if refusal != self._told:
            self._told = refusal
            log.warning("%s refuses a line, which is set aside in '%s': %s", self._settings.url, QUARANTINE, refusal)
        aside = _quarantined(self._settings.measurement, lines[0], refusal, self.world.clock.now_us())
        if (again := self._refusal([aside])) is not None:
            raise SinkError(f"{self._settings.url} refuses a line, and the line that says so: {again}")

    def _refusal(self, lines: Sequence[str]) -> str | None:
        """Why some of these lines are refused, or None if all are kept."""
        try:
            answer = self._client.post(
                self._path(),
                content=gzip.compress("\n".join(lines).encode(), 1),
                headers={"content-encoding": "gzip", "content-type": "text/plain; charset=utf-8"},
            )
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._settings.url}: {error or type(error).__name__}") from error
        if answer.is_success:
            return None
        said = _said(answer)
        if answer.status_code in (400, 413, 422):
            return said
        if answer.status_code == 429 or answer.status_code >= 500:
            wait = answer.headers.get("retry-after", "")
            raise Unavailable(f"{self._settings.url} is busy: {said}", float(wait) if wait.isdecimal() else 0.0)
        remedy = {401: "check user and password, or the token", 403: "give the user or token the right to write"}.get(
            answer.status_code, f"create '{self._settings.database or self._settings.bucket}' there"
        )
        raise SinkError(f"{self._settings.url} refuses to write ({answer.status_code}: {said}); {remedy}")

    def _path(self) -> httpx.URL:
        if self._settings.database:
            return httpx.URL("/write", params={"db": self._settings.database, "precision": "ns"})
        asked = {"org": self._settings.org, "bucket": self._settings.bucket, "precision": "ns"}
        return httpx.URL("/api/v2/write", params=asked)


def _said(answer: httpx.Response) -> str:
    """What the server says of an error, in one line."""
    try:
        told = answer.json()
        text = str(told.get("error") or told.get("message") or told)
    except ValueError:
        text = answer.text
    return _DROPPED.sub("", " ".join(text.split()))[:300]


def _quarantined(measurement: str, line: str, reason: str, now_us: int) -> str:
    """A line that is refused, as a field of one that is not; at the full hour, so that it stands there once."""
    digest = hashlib.sha256(line.encode()).hexdigest()[:16]
    fields = f"reason={_text(reason)},line={_text(line[:QUARANTINED_BYTES])}"
    series = f"{QUARANTINE},table={escaped_word(measurement)},sha256={digest}"
    return f"{series} {fields} {now_us // _HOUR_US * _HOUR_US * 1000}"


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


__all__ = ["Influxdb"]
