"""Prometheus' query API over the lake, for Grafana's Prometheus data source and whatever else speaks it.

Prometheus, "HTTP API" (v1).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

import tocsin
from tocsin.batch import Ints
from tocsin.errors import TocsinError
from tocsin.serve.api import page_of
from tocsin.serve.built import built
from tocsin.serve.promql.data import TooMuch, label_sets, metrics
from tocsin.serve.promql.evaluate import BadQuery, Question, could_be, evaluate, matcher, selected
from tocsin.serve.promql.series import Labels, Line

POINTS_MAX = 11_000
"""Most points of a line, as in Prometheus."""
_BODY_MAX = 64 * 2**10
_TEXT_FORMAT = "text/plain; version=0.0.4"
_DURATION = re.compile(r"(\d+)(ms|[smhdwy])")
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
Asked = Mapping[str, str]


async def query(request: Request) -> Response:
    """The value of an expression at one time."""

    def answer(folder: Path, asked: Asked, _: list[str]) -> Any:
        time_ms = _time_ms(asked["time"]) if "time" in asked else round(time.time() * 1000)
        grid = np.array([time_ms], np.int64)
        value = evaluate(folder, Question(_needed(asked, "query"), grid))
        if isinstance(value, np.ndarray):
            return {"resultType": "scalar", "result": [time_ms / 1000, _text(value[0])]}
        lines = [line for line in value if line.present[0]]
        return {
            "resultType": "vector",
            "result": [{"metric": line.labels, "value": [time_ms / 1000, _text(line.values[0])]} for line in lines],
        }

    return await _answered(request, answer)


async def query_range(request: Request) -> Response:
    """The values of an expression over a range of time."""

    def answer(folder: Path, asked: Asked, _: list[str]) -> Any:
        begin, end = _time_ms(_needed(asked, "start")), _time_ms(_needed(asked, "end"))
        step = _duration_ms(_needed(asked, "step"))
        if end < begin or step <= 0:
            raise BadQuery("end must not come before start, and step must be above zero")
        if (end - begin) / step > POINTS_MAX:
            raise BadQuery(f"more than {POINTS_MAX:,} points; ask with a greater step")
        grid = np.arange(begin, end + 1, step, dtype=np.int64)
        value = evaluate(folder, Question(_needed(asked, "query"), grid))
        if isinstance(value, np.ndarray):
            value = [Line({}, value, np.ones(len(grid), bool))]
        lines = [{"metric": line.labels, "values": _points(grid, line)} for line in value if line.present.any()]
        return {"resultType": "matrix", "result": lines}

    return await _answered(request, answer)


async def series(request: Request) -> Response:
    """The labels of all series that a selector covers."""
    return await _answered(request, lambda folder, asked, matches: _sets(folder, matches))


async def labels(request: Request) -> Response:
    """The names of all labels."""
    return await _answered(
        request, lambda folder, asked, matches: sorted({name for one in _sets(folder, matches) for name in one})
    )


async def label_values(request: Request) -> Response:
    """All values of a label."""
    name = request.path_params["name"]
    return await _answered(
        request,
        lambda folder, asked, matches: sorted({one[name] for one in _sets(folder, matches) if name in one}),
    )


async def metadata(request: Request) -> Response:
    """What each metric is."""

    def answer(folder: Path, asked: Asked, _: list[str]) -> Any:
        return {
            metric.name: [{"type": "gauge", "help": f"column {metric.column} of table {metric.table}", "unit": ""}]
            for metric in metrics(folder)
            if asked.get("metric", metric.name) == metric.name
        }

    return await _answered(request, answer)


async def federate(request: Request) -> Response:
    """What stands now of the series that the selectors cover, as another Prometheus scrapes it.

    Prometheus, "Federation" and "Text-based format" (0.0.4). Without a time of its own each value is of the scrape.
    """

    def answer(folder: Path, asked: Asked, matches: list[str]) -> str:
        grid = np.array([round(time.time() * 1000)], np.int64)
        values: dict[tuple[tuple[str, str], ...], str] = {}
        for text in matches:
            selected(text)
            for line in evaluate(folder, Question(text, grid)):
                if line.present[0]:
                    values[tuple(sorted(line.labels.items()))] = _text(line.values[0])
        lines = [f"{_series(dict(labels))} {value}\n" for labels, value in values.items()]
        return "".join(sorted(lines))

    return await _answered(request, answer, lambda text: PlainTextResponse(text, media_type=_TEXT_FORMAT))


async def build(request: Request) -> Response:
    """Which version of the API is spoken here; Grafana asks for it."""
    return await _answered(
        request,
        lambda folder, asked, matches: {
            "version": "3.0.0",
            "application": "tocsin",
            "revision": built().commit or tocsin.__version__,
        },
    )


def _as_json(data: Any) -> Response:
    return JSONResponse({"status": "success", "data": data}, headers={"cache-control": "no-store"})


async def _answered(
    request: Request,
    answer: Callable[[Path, Asked, list[str]], Any],
    written: Callable[[Any], Response] = _as_json,
) -> Response:
    """An answer in Prometheus' words, worked out in a thread of its own."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_MAX:
            return _failed(413, "bad_data", f"a question has at most {_BODY_MAX} bytes")
    pairs = [*request.query_params.multi_items(), *parse_qsl(body.decode("utf-8", "replace"))]
    asked = dict(pairs)
    matches = [value for name, value in pairs if name == "match[]"]
    folder = page_of(request).lake_folder
    if folder is None:
        return _failed(422, "execution", "this page has no tables; start it with the pipeline's data folder")
    try:
        data = await asyncio.to_thread(answer, folder, asked, matches)
    except BadQuery as error:
        return _failed(400, "bad_data", str(error))
    except (TooMuch, TocsinError) as error:
        return _failed(422, "execution", str(error))
    return written(data)


def _failed(status: int, kind: str, why: str) -> Response:
    return JSONResponse({"status": "error", "errorType": kind, "error": why}, status)


def _sets(folder: Path, matches: list[str]) -> list[Labels]:
    known = list(metrics(folder))
    if not matches:
        return label_sets(folder, known)
    chosen: dict[tuple[tuple[str, str], ...], Labels] = {}
    for text in matches:
        selector = selected(text)
        fits = matcher(selector)
        for one in label_sets(folder, [metric for metric in known if could_be(metric, selector)]):
            if fits(one):
                chosen[tuple(sorted(one.items()))] = one
    return list(chosen.values())


def _points(grid: Ints, line: Line) -> list[list[Any]]:
    return [[grid[i] / 1000, _text(line.values[i])] for i in np.flatnonzero(line.present).tolist()]


def _series(labels: Labels) -> str:
    """A series as text: the name, then the labels.

    Examples
    --------
    >>> print(_series({"__name__": "a", "key": 'the "old" one'}))
    a{key="the \\"old\\" one"}
    """
    rest = [
        name + '="' + value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") + '"'
        for name, value in labels.items()
        if name != "__name__"
    ]
    return f"{labels['__name__']}{{{','.join(rest)}}}"


def _text(value: float) -> str:
    if value != value:
        return "NaN"
    return repr(float(value)) if abs(value) != float("inf") else "+Inf" if value > 0 else "-Inf"


def _needed(asked: Asked, name: str) -> str:
    if not asked.get(name):
        raise BadQuery(f"{name} is missing")
    return asked[name]


def _time_ms(text: str) -> int:
    try:
        return round(float(text) * 1000)
    except ValueError:
        pass  # then it is RFC 3339
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise BadQuery(f"{text} is no time; write seconds since 1970, or 2026-01-01T00:00:00Z") from None
    return round(moment.timestamp() * 1000)


def _duration_ms(text: str) -> int:
    try:
        return round(float(text) * 1000)
    except ValueError:
        pass  # then it has a unit
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise BadQuery(f"{text} is no duration; write seconds, or 5m")
    return round(sum(int(number) * _UNITS_S[unit] for number, unit in parts) * 1000)


__all__ = ["build", "federate", "label_values", "labels", "metadata", "query", "query_range", "series"]
