"""Sink `influxdb`: points in InfluxDB 1, 2 and 3, and in whatever else takes its line protocol."""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import httpx
import pyarrow as pa
from pydantic import field_validator, model_validator

from tocsin.batch import QUARANTINED_BYTES
from tocsin.contracts import Sink
from tocsin.ends import SpooledAndNoted
from tocsin.errors import SinkError, Unavailable
from tocsin.influxdb.settings import ServerSettings, said
from tocsin.output._lines import escaped_word, require_lines, to_lines
from tocsin.settings import Many
from tocsin.world import World

log = logging.getLogger(__name__)
LINES_MAX = 5_000
"""In one request, as InfluxData advises."""
QUARANTINE = "quarantine"
"""The measurement of lines that the server refuses, with its reason."""
_HOUR_US = 3_600_000_000
_DROPPED = re.compile(r" dropped=\d+")


class Influxdb(ServerSettings, Sink):
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

    PROMISE: ClassVar[str] = "each point once, by its series and time"
    FENCED: ClassVar[bool] = True

    measurement: str
    """The name of the table."""
    database: str = ""
    """The database (version 1), which must be there."""
    bucket: str = ""
    """The bucket (versions 2 and 3)."""
    org: str = ""
    """The organisation of the bucket."""
    tags: Many[str] = ("key",)
    """The columns that name the series."""

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
        told = _DROPPED.sub("", said(answer))
        if answer.status_code in (400, 413, 422):
            return told
        if answer.status_code == 429 or answer.status_code >= 500:
            wait = answer.headers.get("retry-after", "")
            raise Unavailable(f"{self._settings.url} is busy: {told}", float(wait) if wait.isdecimal() else 0.0)
        remedy = {401: "check user and password, or the token", 403: "give the user or token the right to write"}.get(
            answer.status_code, f"create '{self._settings.database or self._settings.bucket}' there"
        )
        raise SinkError(f"{self._settings.url} refuses to write ({answer.status_code}: {told}); {remedy}")

    def _path(self) -> httpx.URL:
        if self._settings.database:
            return httpx.URL("/write", params={"db": self._settings.database, "precision": "ns"})
        asked = {"org": self._settings.org, "bucket": self._settings.bucket, "precision": "ns"}
        return httpx.URL("/api/v2/write", params=asked)


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
