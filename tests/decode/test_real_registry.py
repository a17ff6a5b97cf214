"""Avro from a real Kafka with the schemas of a real registry, where one is there."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import fastavro
import pytest
from apicurio_server import PATH, PROGRAM, Apicurio, new_java
from cut_network import CutNetwork
from kafka_server import Kafka
from running_engine import running_engine
from servers import Needs

import tocsin
from tocsin.errors import TocsinError
from tocsin.pipeline.model import Pipeline

PATIENCE_S = 120.0
FIELDS = [{"name": "m", "type": "string"}, {"name": "n", "type": "int"}]
OLD = {"type": "record", "name": "R", "fields": FIELDS}
NEW = {**OLD, "fields": [*FIELDS, {"name": "heat", "type": ["null", "double"], "default": None}]}
LATER = {**OLD, "fields": [*FIELDS, {"name": "later", "type": ["null", "string"], "default": None}]}


@pytest.fixture(scope="module")
def apicurio(needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    if not PROGRAM.is_file():
        pytest.skip(f"Apicurio is not in {PROGRAM.parent}; docs/formats.md says how it gets there")
    registry = Apicurio(new_java(needs), tmp_path_factory.mktemp("apicurio"))
    try:
        yield registry.start()
    finally:
        registry.stop()


def written(number: int, schema: Any, value: dict[str, Any]) -> bytes:
    """A record as Confluent's serializers write it."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return b"\0" + number.to_bytes(4, "big") + out.getvalue()


@contextmanager
def running(settings: dict[str, Any]) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Runs a pipeline; the block is given what reads a table of it."""
    with running_engine(Pipeline.model_validate(settings).plan()) as (_, failed):

        def rows(table: str) -> list[dict[str, Any]]:
            assert not failed, failed[0]
            try:
                return list(tocsin.read(table, settings["folder"]).to_pylist())
            except TocsinError:  # not made yet
                return []

        yield rows


def until(true: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def test_versions_of_a_schema_in_apicurio_and_a_registry_that_goes_away(
    apicurio: Apicurio, kafka: Kafka, tmp_path: Path
) -> None:
    topic, between = kafka.topic(), CutNetwork(apicurio.port)
    old, new = (apicurio.register(f"{topic}-value", schema) for schema in (OLD, NEW))
    later = apicurio.register(f"{topic}-value", LATER)
    columns = {"m": "category", "n": "int", "heat": {"type": "float", "optional": True}}
    settings = {
        "name": "presses",
        "folder": str(tmp_path),
        "source": {"kafka": {"brokers": kafka.address, "topics": topic, "group": topic}},
        "key": "m",
        "decode": {"avro": {"registry": {"url": f"http://127.0.0.1:{between.port}/{PATH}"}, "columns": columns}},
        "checkpoint": "100ms",
        "streams": {"rows": {"sinks": [{"delta": {"path": "rows", "gather": "0s"}}]}},
    }
    first = [written(old, OLD, {"m": "pump", "n": 0}), written(new, NEW, {"m": "press", "n": 1, "heat": 81.5})]
    kafka.send(topic, [*first, written(99_999, OLD, {"m": "pump", "n": 7})], partition=0)
    with closing(between), running(settings) as rows:
        until(lambda: len(rows("rows") + rows("quarantine")) == 3, lambda: (rows("rows"), rows("quarantine")))
        with between.away():
            more = [written(new, NEW, {"m": "press", "n": 2, "heat": None})]  # of a schema that is known
            kafka.send(topic, [*more, written(later, LATER, {"m": "pump", "n": 3, "later": "x"})], partition=0)
            until(lambda: between.refused > 0, lambda: "the registry was not asked")
        until(lambda: len(rows("rows")) == 4, lambda: (rows("rows"), rows("quarantine")))
        assert [row["reason"] for row in rows("quarantine")] == ["avro_schema"]
        assert sorted((row["n"], row["key"], row["heat"]) for row in rows("rows")) == [
            (0, "pump", None),
            (1, "press", 81.5),
            (2, "press", None),
            (3, "pump", None),
        ]
