"""Every sink through every check of its kit: a sink is checked because it exists."""

from __future__ import annotations

from typing import Any

import pytest
from hdfs_server import Hdfs
from kafka_server import Kafka
from kinesis_server import Kinesis
from postgres_server import Postgres
from redshift_server import Redshift
from servers import InfluxDb, ObjectStore
from sinks import (
    ELSEWHERE,
    SINKS,
    InfluxHarness,
    KafkaHarness,
    KinesisHarness,
    PostgresHarness,
    RedshiftHarness,
    RemoteDeltaHarness,
    RemoteFilesHarness,
)

from tocsin.contracts import Sink
from tocsin.pipeline.registry import find, names
from tocsin.testing import sink_checks
from tocsin.testing.sink_checks import SINK_CHECKS

MANY = (
    sink_checks.housekeeping_changes_no_rows,
    sink_checks.rows_are_staged_while_others_are_published,
    sink_checks.every_type_arrives_or_is_refused_by_name,
)
"""Checks of what does not depend on the place, with so many epochs that HDFS takes half a minute for them; the first
two are of what Redshift shares with PostgreSQL."""


def test_every_sink_has_a_harness() -> None:
    known = {name.partition("-")[0] for name in (*SINKS, *ELSEWHERE)}
    missing = [name for name in names("sink") if issubclass(find("sink", name), Sink) and name not in known]
    assert not missing, f"say in tests/ends/sinks.py how to look at the tables of {missing}"


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SINKS)
def test_sink(name: str, check: Any) -> None:
    check(SINKS[name]())


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
def test_postgres(postgres: Postgres, check: Any) -> None:
    check(PostgresHarness(postgres))


@pytest.mark.parametrize(
    "check", [check for check in SINK_CHECKS if check not in MANY[:2]], ids=lambda check: check.__name__
)
def test_redshift(redshift: Redshift, check: Any) -> None:
    check(RedshiftHarness(redshift))


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
def test_influxdb(influxdb: InfluxDb, check: Any) -> None:
    check(InfluxHarness(influxdb))


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
def test_delta_in_an_object_store(object_store: ObjectStore, check: Any) -> None:
    check(RemoteDeltaHarness(object_store))


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("format", "compress"), [("csv", "gz"), ("parquet", "none")])
def test_files_in_an_object_store(object_store: ObjectStore, format: str, compress: str, check: Any) -> None:
    check(RemoteFilesHarness(object_store, format, compress))


@pytest.mark.parametrize(
    "check", [check for check in SINK_CHECKS if check not in MANY], ids=lambda check: check.__name__
)
def test_files_in_hdfs(hdfs: Hdfs, check: Any) -> None:
    check(RemoteFilesHarness(hdfs, "ndjson"))


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
def test_kafka(kafka: Kafka, check: Any) -> None:
    check(KafkaHarness(kafka))


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
def test_kinesis(kinesis: Kinesis, check: Any) -> None:
    check(KinesisHarness(kinesis))
