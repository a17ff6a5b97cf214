"""PromQL over the lake gives what a real Prometheus gives for the same samples; Grafana's questions are answered."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import uvicorn
from servers import free_port

from tocsin.engine.wire import Counted, Inferences, Rejected, SinkLag, SourceSilence
from tocsin.output.delta import Delta
from tocsin.serve.access import AccessKeys
from tocsin.serve.api import PageContext
from tocsin.serve.app import build
from tocsin.serve.hub import Hub
from tocsin.serve.live import Live
from tocsin.testing import rows
from tocsin.world import SystemClock, SystemDisk, World

COUNT, EVERY_MS = 240, 15_000


def samples(begin_ms: int) -> pa.RecordBatch:
    """An hour of three machines: a gauge, a counter that starts again, and a machine that is silent for a while."""
    rng = np.random.default_rng(7)
    keys, times, values, counts = [], [], [], []
    for machine, phase in (("press-1", 137), ("press-2", 4_211), ("fan", 8_303)):
        total = 0.0
        for i in range(COUNT):
            total = 0.0 if i in (90, 171) else total + float(rng.integers(0, 5))
            if machine == "fan" and 100 <= i < 150:
                continue
            keys.append(machine)
            times.append(begin_ms + phase + i * EVERY_MS)
            values.append(round(20 + 5 * math.sin(i / 9) + float(rng.normal()), 3))
            counts.append(total)
    order = np.argsort(times, kind="stable")
    batch = rows({"key": keys, "value": values, "parts": counts})
    at = pa.array(times, pa.int64()).cast(pa.timestamp("ms", "UTC")).cast(pa.timestamp("us", "UTC"))
    return batch.set_column(1, batch.schema.field("time"), at).take(pa.array(order))


@pytest.fixture(scope="module")
def begin_ms() -> int:
    return (int(time.time()) - 4_000) * 1000


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, begin_ms: int) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    place = World(SystemClock(), SystemDisk(), folder, folder / ".state", "test/readings")
    batch = samples(begin_ms)
    writer = Delta(path="readings").open(place, batch.schema)
    writer.publish(1, [writer.stage(1, [batch])])
    return folder


class Ours:
    """The page's API, without a network."""

    def __init__(self, lake: Path | None, token: str | None = None) -> None:
        page = PageContext("test", Path("state"), Live(), Hub(), AccessKeys(token))
        self._app = build(replace(page, lake_folder=lake), hosts=("127.0.0.1",))

    def get(self, path: str) -> str:
        async def got() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, client=("127.0.0.1", 50_000))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.get(path)

        return asyncio.run(got()).text

    def ask(self, path: str, method: str = "GET", headers: Any = None, **params: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, client=("127.0.0.1", 50_000))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                given = {"params": params} if method == "GET" else {"data": params}
                return await client.request(method, f"/api/v1/{path}", headers=headers, **given)

        return asyncio.run(asked())


@pytest.fixture(scope="module")
def ours(lake: Path) -> Ours:
    return Ours(lake)


@contextmanager
def prometheus(folder: Path, config: str, *arguments: str) -> Iterator[str]:
    """A real Prometheus."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    port = free_port()
    (folder / "prometheus.yml").write_text(config)
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            *arguments,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                if httpx.get(f"{url}/-/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, begin_ms: int) -> Iterator[str]:
    """A real Prometheus that was written the same samples."""
    from tocsin.acquire.http._metrics import _write_request

    folder = tmp_path_factory.mktemp("prometheus")
    with prometheus(folder, "global: {}\n", "--web.enable-remote-write-receiver") as url:
        request = _write_request()()
        table = pa.Table.from_batches([samples(begin_ms)])
        for column in ("value", "parts"):
            for machine in ("press-1", "press-2", "fan"):
                one = request.timeseries.add()
                one.labels.add(name="__name__", value=f"readings_{column}")
                one.labels.add(name="key", value=machine)
                for row in table.to_pylist():
                    if row["key"] == machine:
                        one.samples.add(value=row[column], timestamp=round(row["time"].timestamp() * 1000))
        body = pa.compress(request.SerializeToString(), codec="snappy", asbytes=True)
        headers = {"content-encoding": "snappy", "content-type": "application/x-protobuf"}
        httpx.post(f"{url}/api/v1/write", content=body, headers=headers, timeout=30).raise_for_status()
        yield url


EXPRESSIONS = [
    "readings_value",
    'readings_value{key="fan"}',
    'readings_value{key=~"press-.*", key!="press-2"}',
    '{__name__=~"readings_(value|parts)", key="press-1"}',
    "readings_value offset 5m",
    "-readings_value",
    "readings_value * 2 + 1",
    "1 - readings_value / 100",
    "readings_value ^ 2 % 7",
    "readings_value > 20",
    "readings_value > bool 20",
    "readings_value + on (key) readings_parts",
    "readings_value > ignoring () readings_parts",
    "sum(readings_value)",
    "sum by (key) (readings_value)",
    "avg without (key) (readings_value)",
    "min(readings_value)",
    "max(readings_value)",
    "count(readings_value)",
    "stddev(readings_value)",
    "group(readings_value)",
    "topk(2, readings_value)",
    "bottomk(1, readings_value)",
    "rate(readings_parts[5m])",
    "increase(readings_parts[10m])",
    "irate(readings_parts[5m])",
    "delta(readings_value[5m])",
    "changes(readings_parts[10m])",
    "resets(readings_parts[30m])",
    "avg_over_time(readings_value[5m])",
    "sum_over_time(readings_value[5m])",
    "min_over_time(readings_value[5m])",
    "max_over_time(readings_value[5m] offset 3m)",
    "count_over_time(readings_value[5m])",
    "last_over_time(readings_value[2m])",
    "stddev_over_time(readings_value[5m])",
    "abs(readings_value - 20)",
    "round(readings_value, 0.5)",
    "clamp(readings_value, 18, 22)",
    "floor(sqrt(readings_value))",
    'readings_value and readings_value{key="fan"}',
    'readings_value unless readings_value{key="fan"}',
    'readings_value{key="fan"} or readings_parts',
    'absent(readings_value{key="fan"})',
    "sum(rate(readings_parts[5m])) by (key) > 0.1",
    "vector(3) + 1",
    "time() - 5",
    "1 + 1",
]


def lines(answer: httpx.Response) -> dict[tuple[tuple[str, str], ...], dict[float, float]]:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert data["resultType"] == "matrix"
    return {
        tuple(sorted(one["metric"].items())): {float(at): float(value) for at, value in one["values"]}
        for one in data["result"]
    }


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_as_prometheus_has_it(ours: Ours, theirs: str, begin_ms: int, expression: str) -> None:
    asked = {"query": expression, "start": begin_ms / 1000 + 700, "end": begin_ms / 1000 + 3_900, "step": "47"}
    expected = lines(httpx.get(f"{theirs}/api/v1/query_range", params=asked, timeout=30))
    got = lines(ours.ask("query_range", **asked))
    assert expected, "a question without an answer shows nothing"
    assert got.keys() == expected.keys()
    for labels, points in expected.items():
        assert got[labels].keys() == points.keys(), labels
        assert list(got[labels].values()) == pytest.approx(list(points.values()), rel=1e-9, abs=1e-9), labels


def test_at_one_time(ours: Ours, theirs: str, begin_ms: int) -> None:
    for expression in ("sum by (key) (readings_value)", "1 + 1", "readings_parts"):
        asked = {"query": expression, "time": begin_ms / 1000 + 1_234}
        expected = httpx.get(f"{theirs}/api/v1/query", params=asked, timeout=30).json()["data"]
        for method in ("GET", "POST"):  # Grafana posts
            got = ours.ask("query", method, **asked).json()["data"]
            assert got["resultType"] == expected["resultType"]
            if expected["resultType"] == "vector":
                by_labels = [
                    {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in data["result"]}
                    for data in (expected, got)
                ]
                assert by_labels[0] == pytest.approx(by_labels[1])
            else:
                assert float(got["result"][1]) == float(expected["result"][1])


def test_what_an_editor_of_questions_asks_for(ours: Ours) -> None:
    def data(path: str, **params: Any) -> Any:
        answer = ours.ask(path, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    assert data("labels") == ["__name__", "key"]
    assert data("label/__name__/values") == ["readings_parts", "readings_value"]
    assert data("label/key/values") == ["fan", "press-1", "press-2"]
    assert data("label/key/values", **{"match[]": 'readings_value{key=~"press.*"}'}) == ["press-1", "press-2"]
    assert data("series", **{"match[]": 'readings_value{key="fan"}'}) == [{"__name__": "readings_value", "key": "fan"}]
    assert data("metadata", metric="readings_value")["readings_value"][0]["type"] == "gauge"
    assert data("status/buildinfo")["application"] == "tocsin"


@pytest.mark.parametrize(
    ("path", "asked", "word"),
    [
        ("query", {"query": "sum("}, "parse error"),
        ("query", {}, "query is missing"),
        ("query", {"query": "histogram_quantile(0.9, readings_value)"}, "not known here"),
        ("query", {"query": "rate(readings_value)"}, "parse error"),
        ("query", {"query": "readings_value", "time": "yesterday"}, "no time"),
        ("query", {"query": "readings_value[5m:1m]"}, "not known here"),
        ("query_range", {"query": "1", "start": "0", "end": "1e9", "step": "1"}, "points"),
        ("query_range", {"query": "1", "start": "5", "end": "1", "step": "1"}, "before start"),
        ("query_range", {"query": "1", "start": "1", "end": "5", "step": "soon"}, "no duration"),
        ("series", {"match[]": "sum(readings_value)"}, "no selector"),
        ("query", {"query": "readings_value + on(key) group_left readings_value"}, "group_left"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(ours: Ours, path: str, asked: dict[str, str], word: str) -> None:
    answer = ours.ask(path, **asked)
    told = answer.json()
    assert (answer.status_code, told["status"], told["errorType"]) == (400, "error", "bad_data"), told
    assert word in told["error"]


def test_who_is_not_signed_in_may_not_ask(lake: Path) -> None:
    locked = Ours(lake, "a-token-of-some-length")
    assert locked.ask("query", query="1").status_code == 401
    assert locked.ask("query", query="1", headers={"authorization": "Bearer a-token-of-some-length"}).status_code == 200
    assert Ours(None).ask("query", query="1").status_code == 422


DASHBOARDS = Path(__file__).parent.parent.parent / "examples" / "grafana"


def shown(dashboard: str) -> Iterator[tuple[str, str]]:
    """The panels' titles, and what they ask."""
    for panel in json.loads((DASHBOARDS / dashboard).read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_every_panel_of_readings_shows_something(ours: Ours, begin_ms: int) -> None:
    for title, expression in shown("readings.json"):
        asked = {"query": expression.replace("$machine", ".*"), "step": "60"}
        answer = ours.ask("query_range", start=begin_ms / 1000 + 60, end=begin_ms / 1000 + 3_600, **asked)
        assert lines(answer), title


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, which comes with prometheus")
def test_promtool_finds_nothing_wrong_with_our_metrics() -> None:
    text = Ours(None).get("/metrics")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@contextmanager
def served(page: PageContext) -> Iterator[int]:
    """The page on a port of its own."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(build(page, hosts=("127.0.0.1",)), port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(20)


def test_every_panel_of_the_engine_shows_something_in_a_real_prometheus(tmp_path: Path) -> None:
    live, begin_s = Live(), time.monotonic()

    def tell() -> None:
        n = 1 + int((time.monotonic() - begin_s) * 100)
        live.count(
            Counted(
                rows_in={"plant": n}, rows_out={"judged": n}, late={"judged": n}, lag_s={"judged": 0.5},
                rejected=(Rejected("plant", "ts", n),), sinks={"lake": SinkLag(1, lag_bytes=4_096)},
                sources={"plant": SourceSilence(0.1, backpressure=0.25)}, epochs=n, epoch_ms=12,
                inferences={"judged.model": Inferences(n, n / 1000)},
            )
        )  # fmt: skip

    tell()
    page = PageContext("test", tmp_path, live, Hub(), AccessKeys(None))
    with served(page) as port, prometheus(tmp_path, SCRAPED.format(port=port)) as url:
        left, until = dict.fromkeys(shown("engine.json")), time.monotonic() + 60
        while left and time.monotonic() < until:
            tell()
            for panel in list(left):
                expression = panel[1].replace("$pipeline", ".*").replace("$__rate_interval", "10s")
                told = httpx.get(f"{url}/api/v1/query", params={"query": expression}).json()
                assert told["status"] == "success", (panel, told)
                if told["data"]["result"]:
                    del left[panel]
            time.sleep(0.1)
    assert not left


SCRAPED = """
scrape_configs:
  - job_name: tocsin
    scrape_interval: 250ms
    scrape_timeout: 250ms
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def test_a_real_prometheus_federates_from_it(tmp_path: Path) -> None:
    odd = 'the "old"\\ one\n'
    batch = rows({"key": ["fan", odd, "pump"], "time": [datetime.now(UTC)] * 3, "value": [1.5, -2.0, None]})
    place = World(SystemClock(), SystemDisk(), tmp_path, tmp_path / ".state", "test/readings")
    writer = Delta(path="readings").open(place, batch.schema)
    writer.publish(1, [writer.stage(1, [batch])])
    page = PageContext("test", tmp_path, Live(), Hub(), AccessKeys(None))
    with (
        served(replace(page, lake_folder=tmp_path)) as port,
        prometheus(tmp_path, FEDERATION.format(port=port)) as url,
    ):
        until = time.monotonic() + 60
        told: list[Any] = []
        while not told and time.monotonic() < until:
            told = httpx.get(f"{url}/api/v1/query", params={"query": "readings_value"}).json()["data"]["result"]
            time.sleep(0.1)
    assert {one["metric"]["key"]: float(one["value"][1]) for one in told} == {"fan": 1.5, odd: -2.0}


FEDERATION = """
scrape_configs:
  - job_name: tocsin
    honor_labels: true
    metrics_path: /federate
    params: {{"match[]": [readings_value]}}
    scrape_interval: 1s
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
"""As docs/grafana.md has it."""
