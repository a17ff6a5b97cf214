"""What senders post arrives as records, each protocol in its own words; a success means that it is durable."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from listening_source import PATIENCE_S, Listening, listening
from pydantic import ValidationError
from servers import free_port

from tocsin.acquire.http import Http, _inbox
from tocsin.batch import HEADER, OUT, RAW, Batch, to_batch
from tocsin.decode.influx import Influx
from tocsin.decode.prometheus import Prometheus
from tocsin.errors import ConfigError, Unavailable
from tocsin.testing import world


@pytest.fixture
def server() -> Iterator[Listening]:
    with listening() as one:
        yield one


# what is promised


def test_no_answer_before_it_is_durable(server: Listening) -> None:
    server.acknowledges = False
    with ThreadPoolExecutor() as pool:
        first = pool.submit(server.post, "/ingest/a", b"1\n2\n")
        second = pool.submit(server.post, "/ingest/b", b"3\n")
        until = time.monotonic() + PATIENCE_S
        while len(server.rows) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert sorted(server.payloads()) == [b"1", b"2", b"3"]
        assert not first.done()
        assert not second.done()
        server.reader.acknowledge({"position": 2 if server.rows[0]["payload"] == b"1" else 1, "keys": []})
        early, late = (first, second) if server.rows[0]["payload"] == b"1" else (second, first)
        assert early.result(PATIENCE_S).status_code == 200
        assert not late.done()
        server.reader.acknowledge(server.offset)
        assert late.result(PATIENCE_S).json() == {"accepted": 1 if late is second else 2}


def test_who_was_never_answered_is_asked_to_come_back() -> None:
    with listening(patience_us="2s") as server:
        server.acknowledges = False
        answer = server.post("/ingest/a", b"1")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(server.post, "/ingest/a", b"2")
            until = time.monotonic() + PATIENCE_S
            while len(server.rows) < 2 and time.monotonic() < until:
                time.sleep(0.01)
            server.close()
            assert waiting.result(PATIENCE_S).status_code == 503


def test_a_post_sent_again_under_its_key_is_kept_once(server: Listening) -> None:
    key = {"idempotency-key": "batch-7"}
    answers = [server.post("/ingest/a", b"1\n2", headers=key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert server.post("/ingest/a", b"3", headers={"idempotency-key": "batch-8"}).status_code == 200
    assert server.payloads() == [b"1", b"2", b"3"]
    with listening(json.loads(json.dumps(server.offset))) as again:
        assert again.post("/ingest/a", b"1\n2", headers=key).status_code == 200
        assert again.post("/ingest/a", b"4").status_code == 200
        assert [(row["payload"], row["position"]) for row in again.rows] == [(b"4", 3)]


def test_sent_again_while_the_first_is_not_durable_yet_it_waits_with_it(server: Listening) -> None:
    server.acknowledges = False
    with ThreadPoolExecutor() as pool:
        posts: list[Future[httpx.Response]] = []
        for count in range(1, 4):
            posts.append(pool.submit(server.post, "/ingest/a", b"1", headers={"idempotency-key": "k"}))
            until = time.monotonic() + PATIENCE_S
            while server.reader.counters()["requests"] < count and time.monotonic() < until:
                time.sleep(0.01)
        assert not any(post.done() for post in posts)
        assert server.payloads() == [b"1"]
        server.reader.acknowledge(server.offset)
        assert [post.result(PATIENCE_S).status_code for post in posts] == [200, 200, 200]
        assert server.payloads() == [b"1"]


def test_only_the_newest_keys_are_known(server: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inbox, "KEYS_KEPT", 2)
    for key in ("a", "b", "c", "c", "a"):
        server.post("/ingest/s", key.encode(), headers={"idempotency-key": key})
    assert server.payloads() == [b"a", b"b", b"c", b"a"]
    assert len(server.offset["keys"]) == 2


def test_when_too_much_waits_senders_are_asked_to_come_back() -> None:
    with listening(waiting_max="10kB") as server:
        server.acknowledges = False
        with ThreadPoolExecutor() as pool:
            first = pool.submit(server.post, "/ingest/a", b"x" * 9_000)
            until = time.monotonic() + PATIENCE_S
            while not server.rows and time.monotonic() < until:
                time.sleep(0.01)
            busy = server.post("/ingest/a", b"y" * 9_000)
            assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")
            server.reader.acknowledge(server.offset)
            assert first.result(PATIENCE_S).status_code == 200
            server.acknowledges = True
            assert server.post("/ingest/a", b"y" * 9_000).status_code == 200
        assert server.reader.counters()["busy"] == 1


def test_a_port_that_is_taken_is_named(server: Listening) -> None:
    with pytest.raises(Unavailable, match=f"cannot listen at 127.0.0.1:{server.source.port}"):
        server.source.open(world()).read(server.source.open(world()).splits()[0], None)


# bodies


def test_lines_are_records(server: Listening) -> None:
    assert server.post("/ingest/plant", b'{"a": 1}\r\n\n{"a": 2}').json() == {"accepted": 2}
    assert [(row["payload"], row["topic"], row["position"]) for row in server.rows] == [
        (b'{"a": 1}', "plant", 0),
        (b'{"a": 2}', "plant", 1),
    ]


def test_csv_has_a_header(server: Listening) -> None:
    answer = server.post("/ingest/plant", b"a,b\n1,2\n", headers={"content-type": "text/csv; charset=utf-8"})
    assert answer.json() == {"accepted": 1}
    assert [row["position"] for row in server.rows] == [HEADER, 1]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{\n "a": 1\n}', [b'{\n "a": 1\n}']),
        (b'[{"a": 1}, {"a":2.50}]', [b'{"a": 1}', b'{"a":2.50}']),
        (b"[]", []),
        (b" ", []),
    ],
)
def test_a_json_document_or_an_array_of_them(server: Listening, body: bytes, expected: list[bytes]) -> None:
    answer = server.post("/ingest/plant", body, headers={"content-type": "application/json"})
    assert answer.json() == {"accepted": len(expected)}
    assert server.payloads() == expected


def test_the_answer_names_the_lines_that_are_not_well_formed_and_all_are_kept(server: Listening) -> None:
    body = b'{"a": 1}\n{"a": \n{"a": nan}\nplain'
    answer = server.post("/ingest/plant", body, headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["accepted"], told["malformed"]) == (2, 2)
    assert [one["line"] for one in told["lines"]] == [2, 4]
    assert server.payloads() == body.split(b"\n")  # the decoder quarantines them, with their bytes
    nothing = server.post("/ingest/plant", b"{", headers={"content-type": "application/x-ndjson"})
    assert (nothing.status_code, nothing.json()["accepted"]) == (400, 0)


def test_packed_bodies_are_unpacked_within_the_limit() -> None:
    with listening(body_max="1kB") as server:
        gzipped = {"content-encoding": "gzip"}
        assert server.post("/ingest/a", gzip.compress(b"1\n2"), headers=gzipped).json() == {"accepted": 2}
        for body, headers, status, word in (
            (gzip.compress(b"x" * 2_000), gzipped, 413, "unpacked"),
            (b"x" * 2_000, {}, 413, "send less"),
            (gzip.compress(b"1")[:-4], gzipped, 400, "too early"),
            (b"no gzip at all", gzipped, 400, "not gzip"),
            (b"1", {"content-encoding": "br"}, 415, "send gzip"),
        ):
            answer = server.post("/ingest/a", body, headers=headers)
            assert (answer.status_code, word in answer.json()["error"]) == (status, True), answer.text
        assert server.payloads() == [b"1", b"2"]


# who may post


def test_without_a_token_only_programs_on_this_computer_may_post(server: Listening) -> None:
    assert server.post("/ingest/a", b"1", headers={"origin": "https://elsewhere.example"}).status_code == 403
    assert server.post("/ingest/a", b"1", headers={"host": "elsewhere.example"}).status_code == 403
    assert server.payloads() == []
    with pytest.raises(ConfigError, match="set a token"):
        Http(port=1, host="0.0.0.0").check(world())
    Http(port=1, host="0.0.0.0", token="0123456789abcdef").check(world())
    with pytest.raises(ValidationError, match="at least 16 characters"):
        Http(port=1, token="short")


def test_the_token_in_each_way_in_which_programs_send_it() -> None:
    token = "0123456789abcdef"
    with listening(token=token) as server:
        headers = [{"authorization": f"Bearer {token}"}, {"authorization": f"Token {token}"}]
        answers = [server.post("/ingest/a", b"1", headers=one) for one in headers]
        answers.append(server.post("/ingest/a", b"1", auth=("telegraf", token)))
        answers.append(server.post(f"/write?u=x&p={token}", b"m v=1"))
        assert [answer.status_code for answer in answers] == [200, 200, 200, 204]
        wrong = [
            server.post("/ingest/a", b"2"),
            server.post("/ingest/a", b"2", headers={"authorization": "Bearer no"}),
            server.post("/ingest/a", b"2", headers={"authorization": "Basic !"}),
        ]
        assert [answer.status_code for answer in wrong] == [401, 401, 401]
        assert b"2" not in server.payloads()
        assert token not in repr(server.source)


def test_tls_certificates_that_are_not_there_are_named() -> None:
    source = Http(port=1, tls={"cert": "no.pem", "key": "no.key"})
    with pytest.raises(ConfigError, match=r"cert=no.pem"):
        source.check(world())


# Kafka REST


def test_kafka_rest_v2(server: Listening) -> None:
    body = {"records": [{"key": "robot-1", "value": {"Ax_J1": 1.50}}, {"key": None, "value": "x"}, {"value": [1]}]}
    answer = server.post(
        "/topics/scara", json.dumps(body).encode(), headers={"content-type": "application/vnd.kafka.json.v2+json"}
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/vnd.kafka.v2+json")
    assert [(one["partition"], one["offset"], one["error_code"]) for one in answer.json()["offsets"]] == [
        (0, 0, None),
        (0, 1, None),
        (0, 2, None),
    ]
    assert [(row["topic"], row["key"], row["payload"]) for row in server.rows] == [
        ("scara", b"robot-1", b'{"Ax_J1": 1.5}'),
        ("scara", None, b'"x"'),
        ("scara", None, b"[1]"),
    ]


def test_kafka_rest_v2_in_binary_and_what_it_refuses(server: Listening) -> None:
    kind = {"content-type": "application/vnd.kafka.binary.v2+json"}
    body = b'{"records": [{"key": "a2V5", "value": "UmVhZGluZw=="}, {"value": null}]}'
    assert server.post("/topics/t", body, headers=kind).status_code == 200
    assert [(row["key"], row["payload"]) for row in server.rows] == [(b"key", b"Reading"), (None, b"")]
    for wrong in (b'{"records": [{"value": "no base64!"}]}', b'{"record": []}', b"{"):
        answer = server.post("/topics/t", wrong, headers=kind)
        assert (answer.status_code, answer.json()["error_code"]) == (422, 42201)
    avro = {"content-type": "application/vnd.kafka.avro.v2+json"}
    assert server.post("/topics/t", body, headers=avro).status_code == 415


# metrics


def readings(decoder: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that the decoder makes of what came."""
    raw = to_batch([{**row, "received": 0} for row in rows], RAW)
    _, batches = decoder.step(decoder.initial(), Batch(raw))
    return [row for batch in batches if batch.port == OUT for row in batch.rows.drop_columns(["received"]).to_pylist()]


TIME = {"path": "@time", "type": "timestamp"}
SAMPLES = Prometheus(
    columns={
        "name": {"path": "@name", "type": "text"},
        "value": {"path": "@value", "type": "float", "optional": True},
        "time": TIME,
    }
)


def test_influx_lines_from_its_own_client(server: Listening) -> None:
    from influxdb_client import InfluxDBClient, Point, WritePrecision
    from influxdb_client.client.write_api import SYNCHRONOUS

    with InfluxDBClient(url=server.url, token="any", org="plant", timeout=10_000) as client:
        write = client.write_api(write_options=SYNCHRONOUS)
        point = Point("oven").tag("machine", "press 1").field("celsius", 20.5).time(1767268800123, WritePrecision.MS)
        write.write(bucket="hall", record=[point], write_precision=WritePrecision.MS)
    decoder = Influx(columns={"time": TIME, "machine": "category", "celsius": "float"})
    (row,) = readings(decoder, server.rows)
    assert (row["machine"], row["celsius"], row["time"].isoformat()) == (
        "press 1",
        20.5,
        "2026-01-01T12:00:00.123000+00:00",
    )
    assert server.rows[0]["topic"] == "hall"


def test_influx_as_telegraf_writes_it(server: Listening) -> None:
    assert server.post("/query", b"q=CREATE+DATABASE+%22plant%22").json() == {"results": [{"statement_id": 0}]}
    assert server.post("/query?q=SELECT+1").status_code == 400
    assert httpx.get(f"{server.url}/ping").status_code == 204
    lines = b"# comment\nm v=1 1767268800\nbad line here x\n\nm v=2\n"
    answer = server.post("/write?db=plant&precision=s", lines)
    assert answer.status_code == 400
    assert "partial write: line 3" in answer.json()["error"]
    assert answer.json()["error"].endswith("dropped=1")
    assert server.payloads() == [b"m v=1 1767268800000000000", b"bad line here x", b"m v=2"]
    assert {row["topic"] for row in server.rows} == {"plant"}
    assert server.post("/write?precision=days", b"m v=1").status_code == 400


def test_otlp_from_the_sdk(server: Listening) -> None:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    exporter = OTLPMetricExporter(endpoint=f"{server.url}/v1/metrics")
    provider = MeterProvider(
        [PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)],
        resource=Resource({"service.name": "press 7"}),
        shutdown_on_exit=False,
    )
    meter = provider.get_meter("plant")
    meter.create_counter("parts.made").add(3, {"shift": 'early "A"'})
    meter.create_histogram("cycle.seconds").record(0.4)
    assert provider.force_flush()
    provider.shutdown()
    rows = readings(SAMPLES, server.rows)
    by_name = {row["name"]: row["value"] for row in rows}
    assert by_name["parts_made"] == 3.0
    assert (by_name["cycle_seconds_sum"], by_name["cycle_seconds_count"]) == (0.4, 1.0)
    assert any(b'service_name="press 7"' in row["payload"] for row in server.rows)
    assert all(row["time"] is not None for row in rows)


def test_otlp_in_json_and_what_it_refuses(server: Listening) -> None:
    point = {
        "asInt": "7",
        "timeUnixNano": "1767268800123000000",
        "attributes": [{"key": "a", "value": {"intValue": 1}}],
    }
    metric = {"name": "n.x", "gauge": {"dataPoints": [point]}}
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}
    kind = {"content-type": "application/json"}
    answer = server.post("/v1/metrics", json.dumps(body).encode(), headers=kind)
    assert (answer.status_code, answer.json()) == (200, {})
    assert server.payloads() == [b'n_x{a="1"} 7.0 1767268800123']
    assert server.post("/v1/metrics", b"{", headers=kind).status_code == 400
    assert (
        server.post("/v1/metrics", b"\xff\xff", headers={"content-type": "application/x-protobuf"}).status_code == 400
    )


def remote_write(*series: tuple[dict[str, str], list[tuple[float, int]]]) -> bytes:
    """A remote-write request, as Prometheus sends it."""
    from tocsin.acquire.http._metrics import _write_request

    request = _write_request()()
    for labels, samples in series:
        one = request.timeseries.add()
        for name, value in labels.items():
            one.labels.add(name=name, value=value)
        for value, time_ms in samples:
            one.samples.add(value=value, timestamp=time_ms)
    return bytes(pa.compress(request.SerializeToString(), codec="snappy", asbytes=True))


def test_remote_write(server: Listening) -> None:
    (stale,) = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))
    body = remote_write(({"__name__": "up", "job": 'a"b\n'}, [(1.0, 5), (stale, 6), (float("nan"), 7)]))
    assert server.post("/api/v1/write", body, headers={"content-encoding": "snappy"}).status_code == 204
    assert server.payloads() == [b'up{job="a\\"b\\n"} 1.0 5', b'up{job="a\\"b\\n"} nan 7']
    assert server.reader.counters()["series_ended"] == 1
    assert [row["value"] for row in readings(SAMPLES, server.rows)] == [1.0, None]
    for wrong in (b"no snappy", b"", b"\xff" * 20):
        answer = server.post("/api/v1/write", wrong)
        assert answer.status_code in (204, 400, 413), answer.text
    assert len(server.rows) == 2


def test_remote_write_that_would_swell_is_refused() -> None:
    with listening(body_max="10kB") as server:
        body = remote_write(({"__name__": "up", "long": "x" * 100_000}, [(1.0, 5)]))
        assert server.post("/api/v1/write", body).status_code == 413


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus: apt-get install prometheus")
def test_remote_write_from_prometheus_itself(server: Listening, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: self, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
        f"remote_write: [{{url: '{server.url}/api/v1/write', queue_config: {{batch_send_deadline: 200ms}}}}]\n"
    )
    arguments = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    process = subprocess.Popen(
        ["prometheus", *arguments, f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and not any(b"go_goroutines" in payload for payload in server.payloads()):
            assert process.poll() is None, "prometheus ended"
            time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(10)
    names = {row["name"] for row in readings(SAMPLES, list(server.rows))}
    assert {"up", "go_goroutines"} <= names


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_from_curl(server: Listening, tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_text('{"a": 1}\n{"a": 2}\n')
    done = subprocess.run(
        ["curl", "-sS", "--data-binary", f"@{tmp_path}/in.ndjson", f"{server.url}/ingest/hall"],
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert json.loads(done.stdout) == {"accepted": 2}
    assert server.payloads() == [b'{"a": 1}', b'{"a": 2}']
