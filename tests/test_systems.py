"""The examples as their users run them: real brokers, real files, the command line in a process of its own."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import paho.mqtt.client as paho
import psycopg
import pytest
from postgres_server import Postgres
from servers import Mosquitto

import tocsin
from tocsin.acquire.simulate import Fault, write_scara_xml
from tocsin.mqtt.broker import Broker, BrokerConfiguration

pytestmark = pytest.mark.timeout(180)
EXAMPLES = Path(__file__).parent.parent / "examples"
WAIT_S = 90


@contextmanager
def running(name: str, **variables: object) -> Iterator[subprocess.Popen[str]]:
    """``tocsin run`` on an example; ends it as Ctrl-C does, which must be clean."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tocsin.cli", "run", str(EXAMPLES / name)],
        env=os.environ | {key: str(value) for key, value in variables.items()},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


@contextmanager
def killed(name: str, **variables: object) -> Iterator[None]:
    """The same, ended by ``kill -9``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tocsin.cli", "run", str(EXAMPLES / name)],
        env=os.environ | {key: str(value) for key, value in variables.items()},
    )
    try:
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.1)


def rows(table: str, folder: Path) -> int:
    has_begun = any((folder / table / "_delta_log").glob("*.json"))
    return tocsin.read(table, folder).num_rows if has_begun else 0


def test_scara(tmp_path: Path) -> None:
    """XML files -> pivot -> topic -> consumer -> archive, and an alarm where the total leaves its bounds."""
    xml, folder = tmp_path / "xml", tmp_path / "lake"
    blocked = Fault(name="blocked_valve", machine="scara", start="200s", duration="60s")
    write_scara_xml(xml, 400, start=datetime(2026, 1, 5, tzinfo=UTC), faults=(blocked,))
    (xml / "scara_00000100.xml").write_bytes((xml / "scara_00000100.xml").read_bytes()[:-300])  # torn by a device
    with Broker(BrokerConfiguration()) as broker:
        variables = {"TOCSIN_MQTT_URL": broker.url, "TOCSIN_SCARA_FOLDER": xml, "TOCSIN_FOLDER": folder}
        with running("scara.yaml", **variables):
            # The last time stamp waits for the next one; the torn file may hold some of its elements.
            wait_until(lambda: rows("archive", folder) >= 398)
        with running("scara.yaml", **variables):
            write_scara_xml(xml / "later", 3, start=datetime(2026, 1, 5, 1, tzinfo=UTC))
            for path in sorted((xml / "later").iterdir()):
                path.rename(xml / f"t{path.name}")
            wait_until(lambda: rows("archive", folder) >= 401)
    archive = tocsin.read("archive", folder).sort_by("time")
    tags = [name for name in archive.column_names if name not in ("key", "time", "late", "Total")]
    assert len(tags) == 29
    assert archive["key"].unique().to_pylist() == ["scararobot"]
    assert len(archive["time"].unique()) == len(archive), "no time stamp twice"
    for row in archive.to_pylist():
        assert row["Total"] == pytest.approx(sum(row[tag] or 0.0 for tag in tags))
    outside = [row["time"] for row in archive.to_pylist() if not -200 <= row["Total"] <= 450]
    assert outside, "the fault must show"
    raised = [row for row in tocsin.read("alarms", folder).to_pylist() if row["event"] == "raised"]
    assert raised[0]["time"] == outside[0]
    assert {row["time"] for row in raised} <= set(outside)
    assert rows("quarantine", folder) > 0
    with (folder / "csv" / "part-000001.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(archive)


def device(name: str, broker: str, port: int, certificates: Path) -> paho.Client:
    """A device that is not ours: paho with the device's certificate."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name)
    client.tls_set(str(certificates / "ca.pem"), str(certificates / f"{name}.pem"), str(certificates / f"{name}.key"))
    client.connect(broker, port)
    client.loop_start()
    return client


@pytest.fixture(params=["mosquitto", "own"])
def secure_broker(
    request: pytest.FixtureRequest, mosquitto: Callable[..., Mosquitto], certificates: Path
) -> Iterator[str]:
    """A broker that asks for certificates and keeps devices to their own topics, by the example's ACL file."""
    acl = EXAMPLES / "mosquitto" / "acl"
    pem = {"ca": certificates / "ca.pem", "cert": certificates / "server.pem", "key": certificates / "server.key"}
    if request.param == "mosquitto":
        lines = f"""cafile {pem["ca"]}\ncertfile {pem["cert"]}\nkeyfile {pem["key"]}\nrequire_certificate true
use_identity_as_username true\nallow_anonymous false\nacl_file {acl}"""
        yield mosquitto(lines).url
    else:
        from tocsin.mqtt.sessions import Acl

        with Broker(BrokerConfiguration(**pem, acl=Acl.read(acl))) as broker:
            yield broker.url


def told(folder: Path) -> list[int]:
    """The distances that arrived, but for the probes at the start."""
    return [distance for distance in tocsin.read("readings", folder)["distance"].to_pylist() if distance >= 0]


def test_humidity(secure_broker: str, certificates: Path, tmp_path: Path) -> None:
    """Mutual TLS and a policy by device -> integers -> 20 s windows -> z-scores -> outliers in files."""
    folder, port = tmp_path / "lake", int(secure_broker.rpartition(":")[2])
    variables = {"TOCSIN_MQTT_URL": secure_broker, "TOCSIN_CERTS": certificates, "TOCSIN_FOLDER": folder}
    with running("humidity.yaml", **variables):
        one, two = (device(name, "127.0.0.1", port, certificates) for name in ("pump-1", "pump-2"))

        def listening() -> bool:
            one.publish("plant/pump-1/telemetry", "-1;0;48", qos=1).wait_for_publish(10)
            return rows("readings", folder) > 0

        wait_until(listening)
        sent: list[paho.MQTTMessageInfo] = []
        begin = time.monotonic()
        while time.monotonic() - begin < 23:  # longer than a window
            i = len(sent)
            for name, client in (("pump-1", one), ("pump-2", two)):
                humidity = 90 if i % 20 == 10 else 48 + i % 3
                payload = f"{i};21;{humidity}" if i % 15 else "not;a;number"
                sent.append(client.publish(f"plant/{name}/telemetry", payload, qos=1))
            two.publish("plant/pump-1/telemetry", "666;666;666", qos=1)  # another device's topic: denied
            time.sleep(0.1)
        for info in sent:
            info.wait_for_publish(10)
        good = sum(1 for i in range(0, len(sent), 2) for _ in range(2) if i % 15)
        wait_until(lambda: len(told(folder)) == good)
        wait_until(lambda: rows("quarantine", folder) == len(sent) - good)
        wait_until(lambda: any((folder / "outliers").glob("*.csv")))
        for client in (one, two):
            client.disconnect()
            client.loop_stop()
    readings = tocsin.read("readings", folder)
    assert 666 not in readings["distance"].to_pylist()
    assert set(readings["key"].to_pylist()) == {"pump-1", "pump-2"}
    assert {str(readings.schema.field(name).type) for name in ("distance", "temperature", "humidity")} == {"int64"}
    lines = [line for path in (folder / "outliers").glob("*.csv") for line in path.read_text().splitlines()]
    outliers = list(csv.DictReader(lines))
    assert outliers
    assert all(abs(float(row["z"])) > 1.29 for row in outliers)
    # Not above 2: a window that the clock has cut to a few readings may find its one 50 far out.
    assert {row["humidity"] for row in outliers if float(row["z"]) > 3} == {"90"}


def test_humidity_preview_shows_each_step(certificates: Path, tmp_path: Path) -> None:
    with Broker(
        BrokerConfiguration(
            ca=certificates / "ca.pem", cert=certificates / "server.pem", key=certificates / "server.key"
        )
    ) as b:
        variables = {"TOCSIN_MQTT_URL": b.url, "TOCSIN_CERTS": str(certificates), "TOCSIN_FOLDER": str(tmp_path)}
        preview = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tocsin.cli",
                "preview",
                str(EXAMPLES / "humidity.yaml"),
                "--sample",
                "10",
                "--wait",
                "60",
            ],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            text=True,
        )
        client = device("pump-1", "127.0.0.1", b.port, certificates)
        while preview.poll() is None:
            for humidity in (48, 49, 48, 49, 90):
                client.publish("plant/pump-1/telemetry", f"1;2;{humidity}", qos=1).wait_for_publish(10)
        client.disconnect()
        client.loop_stop()
        shown, _ = preview.communicate()
    assert preview.returncode == 0
    places = ["source.mqtt", "source.0.csv", "source.1.rekey", "source.2.event_time"]
    places += ["windows.0.window", "windows.1.zscore", "windows.2.explode", "outliers.0.keep"]
    at = [shown.index(place) for place in places]
    assert at == sorted(at)
    assert not (tmp_path / "readings").exists()


def test_postgres(postgres: Postgres, tmp_path: Path) -> None:
    """Table -> readings and minutes, in the same database; killed, and with the server killed, each row counts once."""
    variables = postgres.variables() | {"TOCSIN_FOLDER": tmp_path}
    insert = """
        insert into plant.events (machine, at, celsius)
        select 'm' || mod(n, 3), timestamptz '2026-01-01 00:00Z' + n * interval '1 second', n
        from generate_series(%s, %s - 1) n
    """

    def has(count: int) -> bool:
        try:
            return bool(postgres.execute("select count(*) from plant.readings") == [(count,)])
        except psycopg.errors.UndefinedTable:
            return False

    with killed("postgres.yaml", **variables):
        postgres.execute(insert, 0, 600)
        wait_until(lambda: has(600))
        postgres.execute(insert, 600, 1200)
    with running("postgres.yaml", **variables):
        wait_until(lambda: has(1200))
        postgres.stop(signal.SIGQUIT)
        postgres.start()
        postgres.execute(insert, 1200, 1800)
        wait_until(lambda: has(1800))
    assert postgres.execute("select count(distinct celsius) from plant.readings") == [(1800,)]
    minutes = postgres.execute("select key, time, celsius_mean, readings from plant.minutes order by time, key")
    assert len(minutes) == 29 * 3, "the last minute may still get readings"
    assert {row[3] for row in minutes} == {20}
    assert minutes[0] == ("m0", datetime(2026, 1, 1, tzinfo=UTC), 28.5, 20)
    assert postgres.execute("select * from plant.tocsin_rejected") == []
