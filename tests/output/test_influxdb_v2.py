"""Points by the interface of InfluxDB 2, in VictoriaMetrics: a server of its own that takes them, as no InfluxDB 2 can
be had here. It keeps numbers only, asks for no token and refuses no type; what becomes of those is tested elsewhere."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from servers import Needs, free_port, listens

from tocsin.output.influxdb import Influxdb
from tocsin.testing import BEGIN_US, rows, world


@pytest.fixture(scope="module")
def victoria(needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    port = free_port()
    settings = [f"-storageDataPath={tmp_path_factory.mktemp('victoria')}", f"-httpListenAddr=127.0.0.1:{port}"]
    more = ["-search.latencyOffset=0s", "-memory.allowedBytes=64MB", "-retentionPeriod=100y"]
    process = subprocess.Popen(
        [needs("victoria-metrics"), *settings, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    listens(process, port, "victoria-metrics", 30)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)


def kept(url: str, metric: str, count: int) -> list[Mapping[str, Any]]:
    """Wait until so many samples of a metric can be seen; returns its series."""
    until_s = time.monotonic() + 20
    while True:
        answer = httpx.get(f"{url}/api/v1/export", params={"match[]": f'{{__name__="{metric}"}}'}, timeout=20)
        series = [json.loads(line) for line in answer.text.splitlines()]
        if sum(len(one["values"]) for one in series) >= count:
            return series
        assert time.monotonic() < until_s, series
        time.sleep(0.05)


def test_rows_arrive_by_bucket_org_and_token(victoria: str) -> None:
    sink = Influxdb(url=victoria, bucket="hall", org="plant", token="secret", measurement="oven")
    batch = rows({"key": ["press 1", "press 2", "press 1"], "celsius": [20.5, 21.0, None], "n": [1, 2, 3]})
    writer = sink.open(world(), batch.schema)
    writer.publish(1, [writer.stage(1, [batch])])
    writer.publish(1, [])
    assert writer.published() == 1
    writer.close()
    series = {one["metric"]["key"]: one for one in kept(victoria, "oven_celsius", 2)}
    assert {key: one["values"] for key, one in series.items()} == {"press 1": [20.5], "press 2": [21]}
    assert series["press 1"]["timestamps"] == [BEGIN_US // 1000]
    assert sum(len(one["values"]) for one in kept(victoria, "oven_n", 3)) == 3
