"""Every source through every check of its kit, over the real server where it has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hdfs_server import Hdfs
from kafka_server import Kafka
from kinesis_server import Kinesis
from modbus_server import ModbusServer
from mongo_server import Mongo
from opcua_server import OpcuaServer
from postgres_server import Postgres
from servers import InfluxDb, Mosquitto, ObjectStore
from sources import (
    BROKERS,
    ELSEWHERE,
    FIELD,
    LOCAL,
    FieldHarness,
    InfluxHarness,
    KafkaHarness,
    KinesisHarness,
    MongoHarness,
    MqttHarness,
    PostgresHarness,
    RemoteFilesHarness,
    Serving,
    SparkplugHarness,
    modbus,
    opcua,
)

from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.pipeline.registry import names
from tocsin.testing.source_checks import SOURCE_CHECKS


def test_every_source_has_a_harness() -> None:
    missing = set(names("source")) - {name.partition("-")[0] for name in (*LOCAL, *BROKERS, *FIELD, *ELSEWHERE)}
    assert not missing, f"say in tests/ends/sources.py how to send to {missing}"


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", LOCAL)
def test_source(name: str, check: Any) -> None:
    check(LOCAL[name]())


@pytest.fixture(params=BROKERS)
def harness(
    request: pytest.FixtureRequest, mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> Iterator[MqttHarness]:
    if request.param == "mqtt-mosquitto":
        server = mosquitto()
        with closing(MqttHarness(server)) as given:
            yield given
    else:
        server = Serving(lambda port: Broker(BrokerConfiguration(state=tmp_path / "broker", port=port)))
        with closing(MqttHarness(server)) as given:
            yield given
        server.stop()


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_mqtt(harness: MqttHarness, check: Any) -> None:
    check(harness)


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_sparkplug(mosquitto: Callable[..., Mosquitto], check: Any) -> None:
    with closing(SparkplugHarness(mosquitto())) as harness:
        check(harness)


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("follow", [False, True])
def test_influxdb(influxdb: InfluxDb, follow: bool, check: Any) -> None:
    with closing(InfluxHarness(influxdb, follow)) as harness:
        check(harness)


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("follow", [False, True])
def test_postgres(postgres: Postgres, follow: bool, check: Any) -> None:
    with closing(PostgresHarness(postgres, follow)) as harness:
        check(harness)


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("follow", "modified"), [(False, "at"), (True, "at"), (True, None)])
def test_mongodb(mongo: Mongo, follow: bool, modified: str | None, check: Any) -> None:
    with closing(MongoHarness(mongo, follow, modified)) as harness:
        check(harness)


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_modbus(check: Any) -> None:
    server = Serving(lambda port: ModbusServer({1: {"holding": [7]}}, port=port))
    with closing(FieldHarness(modbus, server)) as harness:
        check(harness)
    server.stop()


@pytest.fixture(scope="module")
def opcua_server() -> Iterator[Serving]:
    server = Serving(lambda port: OpcuaServer({"n": 0}, port, counts="n"))
    yield server
    server.stop()


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_opcua(opcua_server: Serving, check: Any) -> None:
    wrong = opcua(1, "temperature"), "temperature"
    with closing(FieldHarness(opcua, opcua_server, wrong)) as harness:
        check(harness)


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_kafka(kafka: Kafka, check: Any) -> None:
    with closing(KafkaHarness(kafka)) as harness:
        check(harness)


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_kinesis(kinesis: Kinesis, check: Any) -> None:
    with closing(KinesisHarness(kinesis)) as harness:
        check(harness)


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("follow", [False, True])
def test_files_in_an_object_store(object_store: ObjectStore, follow: bool, check: Any) -> None:
    with closing(RemoteFilesHarness(object_store, follow)) as harness:
        check(harness)


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_files_in_hdfs(hdfs: Hdfs, check: Any) -> None:
    with closing(RemoteFilesHarness(hdfs, follow=False)) as harness:
        check(harness)
