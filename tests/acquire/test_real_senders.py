"""What plants have running already writes to source `http`: Telegraf, and a collector of OpenTelemetry."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from cut_network import CutNetwork
from listening_source import Listening, listening
from servers import CACHE, free_port, listens

PATIENCE_S = 60.0
LINES = 20


def built(name: str, version: str) -> str:
    """Where a program is that takes minutes to build; without it the test is skipped."""
    folder = CACHE / f"{name}-{version}"
    path = shutil.which(name, path=f"{folder}{os.pathsep}{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{name} is neither on the PATH nor in {folder}; docs/http.md says how it is built")
    return path


@pytest.fixture
def server() -> Iterator[Listening]:
    with listening() as one:
        yield one


def until(happens: Callable[[], bool], program: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        assert program.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        program = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield program
    finally:
        program.kill()
        program.wait(20)


TELEGRAF = """
[agent]
  interval = "200ms"
  flush_interval = "200ms"
  omit_hostname = true
[[inputs.tail]]
  files = ["{lines}"]
  initial_read_offset = "beginning"
  watch_method = "poll"
  data_format = "influx"
[[outputs.influxdb]]
  urls = ["{url}"]
  database = "one"
  skip_database_creation = true
[[outputs.influxdb_v2]]
  urls = ["{url}"]
  token = "any"
  organization = "any"
  bucket = "two"
"""


def test_telegraf_loses_nothing_while_the_network_is_cut(server: Listening, tmp_path: Path) -> None:
    telegraf = built("telegraf", "1.37.2")
    lines, log, settings = tmp_path / "in.influx", tmp_path / "log", tmp_path / "telegraf.conf"

    def write(numbers: range) -> None:
        with lines.open("a") as file:
            file.writelines(f"press,hall=a\\ 1 n={n}i,hot=80.5 {1767268800000000000 + n}\n" for n in numbers)

    def came() -> Counter[tuple[str, int]]:
        texts = [(row["topic"], row["payload"].decode()) for row in list(server.rows)]
        return Counter((topic, int(re.findall(r"n=(\d+)i", text)[0])) for topic, text in texts)

    write(range(LINES))
    with closing(CutNetwork(server.source.port)) as between:
        settings.write_text(TELEGRAF.format(lines=lines, url=f"http://127.0.0.1:{between.port}"))
        with running([telegraf, "--config", str(settings)], log) as program:
            until(lambda: len(came()) == 2 * LINES, program, log)
            with between.away():
                write(range(LINES, 2 * LINES))
                until(lambda: "Failed to write" in log.read_text() or "connection" in log.read_text(), program, log)
            until(lambda: len(came()) == 4 * LINES, program, log)
    assert came().keys() == {(topic, n) for topic in ("one", "two") for n in range(2 * LINES)}
    (third,) = {row["payload"] for row in server.rows if b"n=3i" in row["payload"]}
    series, fields, time_ns = re.split(rb"(?<!\\) ", third.strip())
    assert series == b"press,hall=a\\ 1,path=" + str(lines).encode(), "its own tag is `path`"
    assert set(fields.split(b",")) == {b"n=3i", b"hot=80.5"}
    assert int(time_ns) == 1767268800000000003


COLLECTOR = """
receivers: {{otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}}}
exporters:
  otlphttp:
    metrics_endpoint: {url}/v1/metrics
    retry_on_failure: {{initial_interval: 200ms}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{metrics: {{receivers: [otlp], exporters: [otlphttp]}}}}
"""


def test_a_collector_hands_on_what_an_application_measures(server: Listening, tmp_path: Path) -> None:
    collector = built("otelcol", "0.165.0")
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    port, log, settings = free_port(), tmp_path / "log", tmp_path / "collector.yaml"

    def came(name: bytes) -> bool:
        return any(row["payload"].startswith(name) for row in list(server.rows))

    with closing(CutNetwork(server.source.port)) as between:
        settings.write_text(COLLECTOR.format(port=port, url=f"http://127.0.0.1:{between.port}"))
        with running([collector, f"--config=file:{settings}"], log) as program:
            listens(program, port, "otelcol", PATIENCE_S)
            exporter = OTLPMetricExporter(endpoint=f"http://127.0.0.1:{port}/v1/metrics")
            reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
            provider = MeterProvider([reader], resource=Resource({"service.name": "press 7"}), shutdown_on_exit=False)
            meter = provider.get_meter("plant")
            meter.create_counter("parts.made").add(3, {"shift": "early"})
            assert provider.force_flush()
            until(lambda: came(b"parts_made"), program, log)
            with between.away():
                meter.create_gauge("oil.heat").set(81.5)
                assert provider.force_flush()
                until(lambda: "retry" in log.read_text(), program, log)
            until(lambda: came(b"oil_heat"), program, log)
            provider.shutdown()
    (made,) = {row["payload"].rpartition(b" ")[0] for row in server.rows if row["payload"].startswith(b"parts_made")}
    assert re.fullmatch(rb'parts_made\{.*service_name="press 7".*\} 3\.0', made)
    assert b'shift="early"' in made
