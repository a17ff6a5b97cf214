"""Kinesis between the devices and the tables: the examples as their users run them, and a pipeline that is killed."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from kinesis_server import CREDENTIALS, REGION, Kinesis
from servers import InfluxDb, Mosquitto, ObjectStore
from test_systems import EXAMPLES, device, rows, running, wait_until

import tocsin

pytestmark = pytest.mark.timeout(300)
LINES, KILLS = 400, 3


def places(kinesis: Kinesis, stream: str, folder: Path) -> Mapping[str, str]:
    """How an example finds the stream and its folder."""
    own = {"TOCSIN_KINESIS_STREAM": stream, "TOCSIN_FOLDER": str(folder)}
    return {**CREDENTIALS, "AWS_ENDPOINT_URL_KINESIS": kinesis.url, "AWS_DEFAULT_REGION": REGION, **own}


def test_two_city_sensors(
    kinesis: Kinesis, influxdb: InfluxDb, mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    """Sensors -> Mosquitto -> Kinesis -> only the wanted fields -> InfluxDB."""
    broker, stream = mosquitto(), kinesis.stream()
    influx = {"TOCSIN_INFLUXDB_URL": influxdb.url, "TOCSIN_INFLUXDB_DATABASE": "plant"}
    influx["TOCSIN_INFLUXDB_PASSWORD"] = influxdb.PASSWORD
    variables = {**places(kinesis, stream, tmp_path), **influx, "TOCSIN_MQTT_URL": broker.url}
    command = [sys.executable, str(EXAMPLES / "sensors.py"), broker.url, "--every", "0.5"]
    with running("sensors.yaml", **variables):
        sensors = subprocess.Popen(command)
        try:
            wait_until(lambda: len(influxdb.ask("SELECT * FROM weather")) >= 12)
        finally:
            sensors.kill()
            sensors.wait(10)
    points = influxdb.ask("SELECT * FROM weather")
    assert {point["key"] for point in points} == {"Bremen", "Lisbon"}
    for point in points:
        assert set(point) == {"time", "key", "temperature", "humidity"}, "only the wanted fields"
        assert point["time"] % 1_000_000_000 == 0, "the sensors' clock tells whole seconds"
    sent = {(r["key"], r["temperature"]) for r in (json.loads(one["Data"]) for one in kinesis.records(stream))}
    assert {(point["key"], point["temperature"]) for point in points} <= sent


def test_humidity_by_way_of_a_stream(
    kinesis: Kinesis,
    object_store: ObjectStore,
    mosquitto: Callable[..., Mosquitto],
    certificates: Path,
    tmp_path: Path,
) -> None:
    """Mutual TLS -> Kinesis -> integers -> 20 s windows -> z-scores -> outliers in S3; a preview from the stream."""
    pem = f"cafile {certificates}/ca.pem\ncertfile {certificates}/server.pem\nkeyfile {certificates}/server.key"
    acl = EXAMPLES / "mosquitto" / "acl"
    broker = mosquitto(f"{pem}\nrequire_certificate true\nuse_identity_as_username true\nacl_file {acl}")
    folder, stream = tmp_path / "lake", kinesis.stream()
    variables = {**places(kinesis, stream, folder), "TOCSIN_MQTT_URL": broker.url, "TOCSIN_CERTS": str(certificates)}
    variables |= {name.upper(): value for name, value in object_store.options.items()}
    variables |= {"TOCSIN_OUTLIERS": "s3://plant/outliers"}
    sent = 0

    def outliers() -> list[bytes]:
        return [data for name, data in object_store.objects("outliers").items() if name.endswith(".csv")]

    with running("humidity_stream.yaml", **variables):
        pump = device("pump-1", "127.0.0.1", broker.port, certificates)

        def publish(number: int) -> None:
            text = f"{number};21;{90 if number % 20 == 10 else 48 + number % 3}" if number % 15 else "not;a;number"
            pump.publish("plant/pump-1/telemetry", text, qos=1).wait_for_publish(30)

        def arrives() -> bool:
            nonlocal sent
            publish(sent)
            sent += 1
            time.sleep(0.05)
            return bool(outliers())

        wait_until(lambda: arrives() and rows("readings", folder) > 0)
        wait_until(lambda: rows("quarantine", folder) > 0)
        pump.disconnect()
        pump.loop_stop()
    readings = tocsin.read("readings", folder)
    assert {str(readings.schema.field(name).type) for name in ("distance", "temperature", "humidity")} == {"int64"}
    numbers = Counter(readings["distance"].to_pylist())
    assert set(numbers.values()) == {1}
    assert not [number for number in numbers if number % 15 == 0]
    kept = [row for data in outliers() for row in csv.DictReader(io.StringIO(data.decode()))]
    assert kept
    assert all(abs(float(row["z"])) > 1.29 for row in kept)
    command = [sys.executable, "-m", "tocsin.cli", "preview"]
    shown = subprocess.run(
        [*command, str(EXAMPLES / "humidity_stream.yaml"), "--sample", "20", "--wait", "10"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shown.returncode == 0, shown.stderr
    steps = ["stream.kinesis", "stream.0.json", "readings.1.cast", "windows.1.zscore", "outliers.0.keep"]
    at = [shown.stdout.index(step) for step in steps]
    assert at == sorted(at)


PIPELINE = """
name: killed
folder: {folder}
sources:
  lines:
    source: {{files: {{path: {lines}, follow: true}}}}
    decode: {{json: {{columns: {{machine: text, number: int}}}}}}
    key: machine
  stream:
    source: {{kinesis: {{stream: {stream}, region: {region}, every: 20ms}}}}
    decode: {{json: {{columns: {{key: text, number: int, row_id: text}}}}}}
    key: key
streams:
  sent:
    from: lines
    sinks: [kinesis: {{stream: {stream}, region: {region}}}]
  kept:
    from: stream
    steps: [dedupe: row_id]
    sinks: [delta: kept]
"""


def test_nothing_is_lost_when_it_is_killed_and_the_server_restarts(kinesis: Kinesis, tmp_path: Path) -> None:
    """Lines -> Kinesis -> a table; killed while lines come, and once the stream is away: each line is there once."""
    stream, folder, lines = kinesis.stream(2), tmp_path / "lake", tmp_path / "lines.ndjson"
    (tmp_path / "killed.yaml").write_text(PIPELINE.format(folder=folder, lines=lines, stream=stream, region=REGION))
    variables = os.environ | places(kinesis, stream, folder)
    lines.touch()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tocsin.cli", "run", str(tmp_path / "killed.yaml")], env=variables
        )

    process, written = start(), 0
    try:
        for kill in range(KILLS + 1):
            with lines.open("a") as file:
                for number in range(written, written + LINES // (KILLS + 1)):
                    file.write(json.dumps({"machine": f"m{number % 20}", "number": number}) + "\n")
            before, written = written, written + LINES // (KILLS + 1)
            if kill == 1:
                kinesis.split(stream)
            wait_until(lambda before=before: rows("kept", folder) > before)  # some of them, or all
            if kill < KILLS:
                process.kill()
                process.wait(10)
            if kill == 1:
                kinesis.stop()
                kinesis.start()
            if kill < KILLS:
                process = start()
        wait_until(lambda: rows("kept", folder) >= LINES)
    finally:
        process.kill()
        process.wait(10)
    assert Counter(tocsin.read("kept", folder)["number"].to_pylist()) == Counter(range(LINES))
    told = [json.loads(record["Data"]) for record in kinesis.records(stream)]
    assert {row["number"] for row in told} == set(range(LINES))
    assert len({row["row_id"] for row in told}) == LINES
