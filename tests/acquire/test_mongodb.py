"""Source `mongodb`, over a server: the types of BSON, one point in time, the overlap, what is refused."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from bson import Binary, Decimal128, Int64, MaxKey, ObjectId, Regex, Timestamp
from mongo_server import Mongo, mongo_jars
from pymongo import monitoring
from servers import Needs

from tocsin.acquire.mongodb import Mongodb
from tocsin.batch import REST
from tocsin.contracts import Offset, Reader
from tocsin.errors import ConfigError, SourceError, Unavailable
from tocsin.mongodb import collection, progress
from tocsin.mongodb.documents import as_json
from tocsin.testing import read_from

PATIENCE_S = 20
stand_in_only = pytest.mark.skipif("TOCSIN_FERRETDB" in os.environ, reason="FerretDB has no change streams")


@dataclass
class Plant:
    """A database of its own."""

    server: Mongo
    name: str

    def source(self, **settings: Any) -> Mongodb:
        at = {"url": f"{self.server.host}/{self.name}", "every": "10ms", "collections": "events"}
        return Mongodb.model_validate(at | settings)

    def insert(self, *documents: Mapping[str, Any], into: str = "events") -> None:
        self.server.insert(self.name, into, documents)

    def now(self) -> datetime:
        now: datetime = self.server.client.admin.command("hello")["localTime"]
        return now

    def collection(self, name: str = "events") -> Any:
        return self.server.client[self.name][name]


@pytest.fixture
def plant(mongo: Mongo) -> Plant:
    return Plant(mongo, mongo.database())


Row = Mapping[str, Any]


def rows(reader: Reader, count: int | None = None) -> tuple[list[Row], Offset]:
    """So many rows, or all until it rests, with the document of each; and the position after them."""
    got: list[Row] = []
    offset, until_s = None, time.monotonic() + PATIENCE_S
    while count is None or len(got) < count:
        assert time.monotonic() < until_s, f"only {got} came"
        polled = reader.poll(1_000, 0.1)
        if polled is None:
            continue
        batch, offset = polled
        got += [row | {"document": json.loads(row["payload"])} for row in batch.rows.to_pylist()]
        if batch.watermark_us == REST:
            break
    return got, offset


def load(source: Mongodb, offset: Offset = None) -> tuple[list[Any], Offset]:
    """The field ``n`` of all documents of one run, and where the next one goes on."""
    with closing(read_from(source, offset)) as reader:
        got, offset = rows(reader)
    return [row["document"]["n"] for row in got], json.loads(json.dumps(offset))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ObjectId("65a1b2c3d4e5f60718293a4b"), '"65a1b2c3d4e5f60718293a4b"'),
        (Decimal128("12.50"), "12.50"),
        (Decimal128("1E+3"), "1000.0"),
        (Decimal128("NaN"), "null"),
        (float("nan"), "null"),
        (float("-inf"), "null"),
        (-0.5, "-0.5"),
        (Int64(2**60), str(2**60)),
        (True, "true"),
        (datetime(2026, 1, 2, 3, 4, 5, 678_000), '"2026-01-02T03:04:05.678Z"'),
        (datetime(1, 1, 1), '"0001-01-01T00:00:00.000Z"'),
        (Timestamp(1_767_323_045, 1), '"2026-01-02T03:04:05.000Z"'),
        (Binary(b"\x00\xff"), '"AP8="'),
        (Binary(UUID(int=7).bytes, 4), '"00000000-0000-0000-0000-000000000007"'),
        (Regex("^a.c$"), '"^a.c$"'),
        (MaxKey(), "null"),
        ({"a": [1, None, {"b": ObjectId("65a1b2c3d4e5f60718293a4b")}]}, '{"a":[1,null,{"b":"65a1b2c3d4e5f60718293a4b"}]}'),  # noqa: E501
    ],
    ids=repr,
)  # fmt: skip
def test_each_type_of_bson_has_one_form(value: Any, text: str) -> None:
    assert as_json({"v": value}).decode() == f'{{"v":{text}}}'


@stand_in_only
def test_what_the_server_keeps_comes_as_json(plant: Plant) -> None:
    plant.insert({"_id": ObjectId("65a1b2c3d4e5f60718293a4b"), "price": Decimal128("12.50"), "gap": float("nan")})
    with closing(read_from(plant.source())) as reader:
        ((row,), _) = rows(reader)
    assert row["document"] == {"_id": "65a1b2c3d4e5f60718293a4b", "price": 12.5, "gap": None}
    assert (row["key"], row["topic"], row["position"]) == (b"65a1b2c3d4e5f60718293a4b", "events", 0)
    assert row["sent"].replace(tzinfo=None) == ObjectId("65a1b2c3d4e5f60718293a4b").generation_time.replace(tzinfo=None)


def test_the_next_run_brings_what_is_new_or_changed(plant: Plant) -> None:
    begun = plant.now() - timedelta(seconds=5)
    plant.insert(*({"_id": i, "n": i, "at": begun} for i in range(3)))
    source = plant.source(modified="at")
    first, offset = load(source)
    plant.insert({"_id": 3, "n": 3, "at": plant.now()})
    plant.collection().update_one({"_id": 1}, {"$set": {"n": 11, "at": plant.now()}})
    second, offset = load(source, offset)
    third, _ = load(source, offset)
    assert (first, sorted(second), third) == ([0, 1, 2], [3, 11], [])


def test_all_collections_are_read_up_to_one_point_in_time(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "PAGE_DOCUMENTS", 10)
    early = plant.now() - timedelta(minutes=5)
    for name in ("orders", "customers"):
        plant.insert(*({"n": i, "at": early + timedelta(seconds=i)} for i in range(200)), into=name)
    source = plant.source(collections=["orders", "customers"], modified="at")
    with closing(read_from(source)) as reader:
        begun, offset = rows(reader, 10)
        plant.insert({"n": -1, "at": plant.now() + timedelta(milliseconds=1)}, into="customers")
        rest, done = rows(reader)
    names = [row["topic"] for row in (*begun, *rest)]
    assert names == ["orders"] * 200 + ["customers"] * 200, "what was changed after the point in time is not of it"
    time.sleep(0.05)  # the server's clock goes on past the document above
    # Broken off after ten documents: up to the same point in time, although there is more by now.
    again, after = load(source, json.loads(json.dumps(offset)))
    assert len(again) == 390
    assert -1 not in again
    assert after["until_ms"] == done["until_ms"]
    assert load(source, after)[0] == [-1]


def test_what_becomes_visible_late_is_found(plant: Plant) -> None:
    late = plant.now() - timedelta(seconds=30)
    plant.insert(*({"n": i, "at": late + timedelta(seconds=i)} for i in range(10)))
    source = plant.source(modified="at", overlap="20s")
    first, offset = load(source)
    plant.insert({"n": 77, "at": late + timedelta(seconds=3)}, {"n": 88, "at": late - timedelta(seconds=60)})
    second, _ = load(source, offset)
    assert (first, second) == (list(range(10)), [77]), "88 is older than the overlap"


def test_ids_of_before_are_found_within_the_overlap(plant: Plant) -> None:
    ids = [ObjectId() for _ in range(4)]
    plant.insert(*({"_id": ids[i], "n": i} for i in (0, 1, 3)))
    source = plant.source()
    first, offset = load(source)
    plant.insert({"_id": ids[2], "n": 2})
    assert (first, load(source, offset)[0]) == ([0, 1, 3], [2])


def test_where_too_many_are_in_the_overlap_it_is_read_on_without(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SEEN_MAX", 5)
    monkeypatch.setattr(progress, "PRUNE_EVERY", 4)
    monkeypatch.setattr(collection, "PAGE_DOCUMENTS", 3)
    at = plant.now() - timedelta(seconds=5)
    plant.insert(*({"_id": i, "n": i, "at": at} for i in range(20)))
    source = plant.source(modified="at")
    first, offset = load(source)
    assert first == list(range(20))
    assert len(offset["collections"]["events"]["seen"]) < 200
    plant.insert({"_id": 20, "n": 20, "at": at})
    assert load(source, offset)[0] == [20]


def test_a_number_as_id_has_no_overlap(plant: Plant) -> None:
    plant.insert({"_id": 5, "n": 5}, {"_id": 7, "n": 7})
    first, offset = load(plant.source())
    plant.insert({"_id": 6, "n": 6}, {"_id": 8, "n": 8})
    assert (first, load(plant.source(), offset)[0]) == ([5, 7], [8])


def test_ids_of_several_types_are_refused(plant: Plant) -> None:
    plant.insert({"_id": 5, "n": 5}, {"_id": "x", "n": 7})
    with pytest.raises(SourceError, match=r"several types, .*; set modified to the field with the date of change"):
        load(plant.source())
    plant.insert({"_id": 5, "n": 5, "changed": plant.now()}, {"_id": "x", "n": 7, "changed": plant.now()}, into="dated")
    assert sorted(load(plant.source(collections="dated", modified="changed"))[0]) == [5, 7]


def test_documents_without_a_date_are_told(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    plant.insert({"n": 1, "at": plant.now() - timedelta(seconds=1)}, {"n": 2}, {"n": 3, "at": "yesterday"})
    caplog.set_level(logging.WARNING)
    with closing(read_from(plant.source(modified="at"))) as reader:
        got, _ = rows(reader)
        assert reader.counters()["undated"] == 2
    assert [row["document"]["n"] for row in got] == [1]
    assert "2 documents have no date in 'at'" in caplog.text


def test_documents_stand_under_the_name_of_their_collection(plant: Plant) -> None:
    plant.insert({"_id": 1, "n": 5, "more": "x"})
    with closing(read_from(plant.source(nested=True, fields="n"))) as reader:
        ((row,), _) = rows(reader)
    assert row["document"] == {"events": {"n": 5}}


def test_a_collection_that_is_not_there_is_empty(plant: Plant) -> None:
    assert load(plant.source())[0] == []


@stand_in_only
def test_the_change_stream_brings_each_version(plant: Plant) -> None:
    plant.insert({"_id": 1, "n": 1, "at": plant.now() - timedelta(seconds=1)})
    source = plant.source(follow=True, watch=True, modified="at")
    with closing(read_from(source)) as reader:
        assert [row["document"]["n"] for row in rows(reader, 1)[0]] == [1]
        plant.insert({"_id": 2, "n": 2, "at": plant.now()})
        plant.collection().update_one({"_id": 1}, {"$set": {"n": 10}})
        plant.collection().delete_one({"_id": 2})
        got, offset = rows(reader, 1)
        got += rows(reader, 2 - len(got))[0] if len(got) < 2 else []
        until_s = time.monotonic() + PATIENCE_S
        while not reader.counters()["deleted"] and time.monotonic() < until_s:
            reader.poll(10, 0.05)
        assert reader.counters()["deleted"] == 1
    assert 10 in [row["document"]["n"] for row in got]
    plant.insert({"_id": 3, "n": 3, "at": plant.now()})
    with closing(read_from(source, json.loads(json.dumps(offset)))) as reader:
        again = rows(reader, 1)[0]
        while 3 not in [row["document"]["n"] for row in again]:
            again += rows(reader, 1)[0]


class Finds(monitoring.CommandListener):
    """Notes what the driver asks for."""

    def __init__(self) -> None:
        self.levels: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name == "find":
            self.levels.append(event.command["readConcern"]["level"])

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...
    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


@pytest.fixture
def replica(needs: Needs, tmp_path: Path) -> Iterator[Mongo]:
    server = Mongo(needs("java"), mongo_jars(needs), tmp_path, is_replica=True).start()
    yield server
    server.stop()


@stand_in_only
def test_a_replica_set_is_read_in_one_snapshot(replica: Mongo, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, finds = Plant(replica, "plant"), Finds()
    plant.insert({"n": 1, "at": plant.now() - timedelta(seconds=1)})
    monkeypatch.setattr(monitoring, "_LISTENERS", monitoring._LISTENERS._replace(command_listeners=[finds]))
    assert load(plant.source(modified="at"))[0] == [1]
    assert finds.levels == ["snapshot"]


@stand_in_only
def test_credentials_that_are_refused_are_named(plant: Plant) -> None:
    source = plant.source(user="tocsin", password="wrong")
    with pytest.raises(SourceError, match=r"lets user 'tocsin' not in.*correct user, password") as told:
        load(source)
    assert not isinstance(told.value, Unavailable)
    assert "wrong" not in str(told.value)


def test_a_server_that_is_away_is_waited_for(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.mongodb.settings._TIMES", {"serverSelectionTimeoutMS": 200})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"mongodb://127.0.0.1:{free.getsockname()[1]}/plant"
        with pytest.raises(Unavailable, match="is away"):
            load(plant.source(url=url))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"url": "mongodb://me:secret@db/plant"}, "do not belong in the url"),
        ({"url": "mongodb://db"}, "mongodb://host:27017/database"),
        ({"url": "http://db/plant"}, "not the address"),
        ({"collections": []}, "the name of a collection"),
        ({"watch": True}, "follow: true"),
        ({"modified": "$at"}, "not the name of a field"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: Mapping[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Mongodb.model_validate({"url": "mongodb://db/plant", "collections": ["events"], **settings})


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"user": "me"}, "both user and password"),
        ({"tls": {"cert": "me.pem", "key": "me.key"}}, "one file"),
        ({"url": "mongodb://db/plant?w=-5"}, "mongodb://db/plant"),
    ],
)
def test_what_only_shows_when_it_connects_is_refused(settings: Mapping[str, Any], word: str) -> None:
    source = Mongodb.model_validate({"url": "mongodb://db/plant", "collections": ["events"], **settings})
    with pytest.raises(ConfigError, match=word):
        source.client(Path())
