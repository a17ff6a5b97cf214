"""Messages that say how something is to be written: that is taken out of the message, written so, and accepted then."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from tocsin.acquire.mongodb import Mongodb
from tocsin.acquire.postgres import Postgres as PostgresSource
from tocsin.cli.alarms import _moment
from tocsin.condition._clock import HOUR_US, LocalWindows
from tocsin.condition.dedupe import Dedupe
from tocsin.condition.event_time import EventTime
from tocsin.condition.explode import Explode
from tocsin.condition.rekey import Rekey
from tocsin.condition.window import Window
from tocsin.decode.json import Json
from tocsin.detect.categorize import Categorize
from tocsin.detect.job._definition import seconds
from tocsin.detect.zscore import Zscore
from tocsin.domain.calendars import Period
from tocsin.errors import TocsinError
from tocsin.kinesis.settings import StreamSettings
from tocsin.mqtt import client, topics
from tocsin.mqtt.plain import Plain
from tocsin.output.delta import Delta
from tocsin.output.kafka import Kafka
from tocsin.output.kinesis import Kinesis
from tocsin.output.mqtt import Mqtt
from tocsin.output.notify import Notify
from tocsin.output.postgres import Postgres as PostgresSink
from tocsin.pipeline.model import ScheduledJob
from tocsin.postgres import settings as postgres
from tocsin.serve import prometheus
from tocsin.settings.addresses import http_server
from tocsin.settings.quantities import Duration, Size
from tocsin.testing import rows
from tocsin.values.computing import as_time
from tocsin.values.time_forms import format_pattern


def _moment_of(text: str) -> Any:
    return _moment(click.Context(click.Command("until")), click.Option(["--until"]), text)


def _period(**settings: Any) -> Any:
    return Period.model_validate({"name": "early", "days": "mon-sun", "begins": "06:00", "ends": "14:00", **settings})


CASES: list[tuple[Callable[[Any], object], Any, str]] = [
    (TypeAdapter(Duration).validate_python, "soon", r"write it as (.+)"),
    (TypeAdapter(Size).validate_python, "much", r"write it as (.+)"),
    (seconds, "soon", r"write it as (.+)"),
    (lambda zone: LocalWindows(zone, 24 * HOUR_US, 0), "Mars/Base", r"name one as (.+)"),
    (lambda zone: EventTime(column="at", zone=zone), "Mars/Base", r"write it as (\S+)"),
    (lambda zone: ScheduledJob(cron="30 2 * * *", do="load", zone=zone), "Mars/Base", r"write it as (\S+)"),
    (lambda cron: ScheduledJob(cron=cron, do="load"), "nightly", r"weekday, as (\S+ \S+ \S+ \S+ \S+)"),
    (lambda call: Window.model_validate({"every": "1m", "compute": [call]}), "mean", r"write it as (.+)"),
    (
        lambda of: Rekey(of=of).output_schema(rows({"site": ["a"], "machine": ["b"], "{site": ["c"]}).schema),
        "{site",
        r"in braces: (\S+)",
    ),
    (lambda encoding: Json(columns={"x": "float"}, encoding=encoding), "ebcdic!", r"; try (.+)"),
    (lambda zone: _period(zone=zone), "Mars/Base", r"write it like (\S+)"),
    (lambda days: _period(days=days), "sunny", r"; write (mon-fri or sat,sun)"),
    (client.address, "broker:1883", r"; write (.+)"),
    (lambda url: Plain(url, "me"), "broker:1883", r"; write (.+)"),
    (topics.require_filter, "plant/a+/x", r"rest: (\S+)"),
    (postgres.address, "db.example", r"; write (\S+)"),
    (lambda url: Mongodb(url=url, collections=("a",)), "db.example", r"; write ([^\s\[]+)"),
    (lambda name: PostgresSource(url="postgresql://h/d", cursor=("id",), table=name), "a.b.c", r"table, as ([\w.]+)"),
    (lambda name: PostgresSink(url="postgresql://h/d", table=name), "a.b.c", r"table, as ([\w.]+)"),
    (lambda address: http_server(address, 8086), "influx", r"; write (.+)"),
    (lambda endpoint: StreamSettings(stream="s", endpoint=endpoint), "kinesis", r"; write (https://\S+ or [^\s\[]+)"),
    (prometheus._time_ms, "noon", r", or (\S+)"),
    (prometheus._duration_ms, "soon", r", or (\S+)"),
    (lambda text: as_time(pa.scalar(text)), "noon", r"write it as (\S+)"),
    (_moment_of, "noon", r"write it as (.+)"),
    (format_pattern, "%H:%M", r"day, as (\S+)"),
]


@pytest.mark.parametrize(("given", "wrong", "advice"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_advised_is_taken(given: Callable[[Any], object], wrong: str, advice: str) -> None:
    with pytest.raises(Exception) as told:  # noqa: PT011 (each has a class of its own; what it says is looked at)
        given(wrong)
    match = re.search(advice, str(told.value).partition("\n    For further")[0].replace("\n", " "))
    assert match is not None, str(told.value)
    advised = [one.strip() for one in re.split(r", | or ", re.sub(r"\s*\[type=.*", "", match[1]))]
    assert all(one and one != wrong for one in advised)
    for one in advised:
        given(re.sub(r"\bport\b", "8443", one))


SCHEMA = rows({"value": [1.0], "site": ["north"], "list": pa.array([[1.0]])}).schema
LISTED: list[Callable[[str], object]] = [
    lambda name: Zscore(of=name).output_schema(SCHEMA),
    lambda name: Categorize(of=name).output_schema(SCHEMA),
    lambda name: Rekey(of=name).output_schema(SCHEMA),
    lambda name: Explode(columns=(name,)).output_schema(SCHEMA),
    lambda name: Dedupe(by=(name,)).output_schema(SCHEMA),
    lambda name: Delta(path="t", partition_by=(name,)).accepts(SCHEMA),
    lambda name: Kafka(brokers="b:9092", topic="t", columns=(name,)).accepts(SCHEMA),
    lambda name: Kinesis(stream="s", region="eu-central-1", columns=(name,)).accepts(SCHEMA),
    lambda name: Mqtt(url="mqtt://h:1883", topic="t", columns=(name,)).accepts(SCHEMA),
    lambda name: Notify(to=("console",), text=f"{{{name}}}").accepts(SCHEMA),
]


@pytest.mark.parametrize("given", LISTED, ids=range(len(LISTED)))
def test_one_of_the_columns_that_are_listed_will_do(given: Callable[[str], object]) -> None:
    with pytest.raises(TocsinError, match="nowhere") as told:
        given("nowhere")
    match = re.search(r"(?:what reaches it is|there are) \[(.+?)\]", str(told.value))
    assert match is not None, str(told.value)
    listed = match[1].split(", ")
    assert listed == SCHEMA.names
    assert any(_is_taken(given, name) for name in listed)


def _is_taken(given: Callable[[str], object], name: str) -> bool:
    try:
        given(name)
    except TocsinError:
        return False
    return True
