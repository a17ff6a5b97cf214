"""A measurement followed by time, in a thread of its own: whoever polls never waits for the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tocsin.ends import Follower
from tocsin.errors import SourceError, Unavailable
from tocsin.influxdb.settings import said

POINTS = 10_000
"""So many points are asked for at once; more where more have one time."""
POINTS_MAX = 5_000_000
"""So many points of one time are taken."""
AHEAD = 2
_LEAST_NS = -(2**63) + 2
"""The earliest time that a point can have."""


@dataclass(frozen=True, slots=True)
class PointPage:
    """Points in the order of their times; all that there are of each of these times."""

    times_ns: list[int]
    payloads: list[bytes]
    """Tags and fields of each, as a JSON object."""


@dataclass(frozen=True, slots=True)
class HistoryEnd:
    """There is no more, and nothing is waited for."""


class Measurement:
    """Asks for the points after a time, page by page."""

    def __init__(self, client: httpx.Client, database: str, measurement: str, delay_us: int) -> None:
        self._client, self._database = client, database
        self._from, self._until = f"from {_quoted(measurement)}", f"now() - {delay_us}u"
        self._limit = POINTS

    def page(self, after_ns: int | None) -> tuple[PointPage, bool]:
        """Returns the next points, and whether more may follow.

        A page ends between two times: of points that have the same time none is left behind.
        """
        while True:
            after = _LEAST_NS if after_ns is None else after_ns
            where = f"where time > {after} and time < {self._until}"
            series = self._ask(f"select * {self._from} {where} order by time limit {self._limit}")
            rows: list[list[Any]] = series.get("values", [])
            at = series["columns"].index("time") if rows else 0
            is_full = len(rows) >= self._limit or bool(series.get("partial"))
            if not is_full:
                return _page(series.get("columns", []), rows, at), False
            last = rows[-1][at]
            whole = [row for row in rows if row[at] != last]
            if whole:
                self._limit = POINTS
                return _page(series["columns"], whole, at), True
            if self._limit >= POINTS_MAX or len(rows) < self._limit:
                raise SourceError(
                    f"more than {len(rows)} points have the time {last} ns, and no more are given at once"
                )
            self._limit *= 4

    def tags(self) -> list[str]:
        """Returns the names of the tags that points have."""
        return [row[0] for row in self._ask(f"show tag keys {self._from}").get("values", [])]

    def fields(self) -> list[tuple[str, str]]:
        """Returns the names of the fields and their types (float, integer, unsigned, string, boolean).

        A field has several where its type has changed; none are there where the measurement is not.
        """
        return [(row[0], row[1]) for row in self._ask(f"show field keys {self._from}").get("values", [])]

    def _ask(self, query: str) -> dict[str, Any]:
        """The answer's only series; empty where there is none."""
        url = self._client.base_url
        try:
            answer = self._client.get("/query", params={"db": self._database, "epoch": "ns", "q": query})
        except httpx.HTTPError as error:
            raise Unavailable(f"{url}: {error or type(error).__name__}") from error
        if answer.status_code == 429 or answer.status_code >= 500:
            raise Unavailable(f"{url} is busy: {said(answer)}")
        if not answer.is_success:
            remedy = {401: "check user and password, or the token", 403: "give the right to read"}
            told = remedy.get(answer.status_code, "check url and database")
            raise SourceError(f"{url} refuses to be read ({answer.status_code}: {said(answer)}); {told}")
        try:
            result = answer.json()["results"][0]
            if "error" in result:
                raise SourceError(f"{url}: {result['error']}")
            return dict(result.get("series", [{}])[0])
        except (ValueError, LookupError, TypeError) as error:
            raise SourceError(f"{url} gives no answer of InfluxDB: {answer.text[:100]!r}") from error


def _page(columns: list[str], rows: list[list[Any]], at: int) -> PointPage:
    """Rows as records: a tag or field that a point does not have is left out."""
    payloads = []
    for row in rows:  # some 5 µs each
        point = {name: value for name, value in zip(columns, row, strict=True) if value is not None and name != "time"}
        payloads.append(json.dumps(point, ensure_ascii=False).encode())
    return PointPage([row[at] for row in rows], payloads)


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class MeasurementFollower(Follower[PointPage | HistoryEnd]):
    """Fetches pages of points."""

    def __init__(
        self, connect: Callable[[], tuple[httpx.Client, Measurement]], after_ns: int | None, every_s: float | None
    ) -> None:
        super().__init__("influxdb source", AHEAD)
        self._connect, self._after_ns, self._every_s = connect, after_ns, every_s

    def close(self, patience_s: float = 0.2) -> None:
        """End the thread; one that waits for an answer ends with it."""
        super().close(patience_s)

    def fetch(self) -> None:
        client, measurement = self._connect()
        with client:
            self._follow(measurement)

    def _follow(self, measurement: Measurement) -> None:
        while not self.stopping.is_set():
            page, has_more = measurement.page(self._after_ns)
            if page.times_ns:
                self._after_ns = page.times_ns[-1]
                self.put(page)
            if has_more:
                continue
            if self._every_s is None:
                self.put(HistoryEnd())
                return
            self.stopping.wait(self._every_s)


__all__ = ["HistoryEnd", "Measurement", "MeasurementFollower", "PointPage"]
