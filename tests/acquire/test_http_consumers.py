"""What was posted is consumed by the calls of Confluent's REST proxy v2: in order, once, on from what was committed."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import free_port

from tocsin.acquire.http import Http, _groups
from tocsin.engine.source_task import Opened, Rows, SourceTask
from tocsin.errors import CorruptState
from tocsin.testing import read_from, world

PATIENCE_S = 20.0
JSON = "application/vnd.kafka.json.v2+json"
BINARY = "application/vnd.kafka.binary.v2+json"
V2 = "application/vnd.kafka.v2+json"


class Proxy:
    """The source as the runner reads it: through its log, with a checkpoint after every batch unless it holds still."""

    def __init__(self, folder: Path, offsets: dict[str, Any] | None = None, segment_bytes: int = 8 << 20, **more: Any):
        self.source = Http(port=free_port(), **more)
        self.folder, self.offsets = folder, offsets or {}
        self.task = SourceTask("in", self.source, world(folder), self.offsets, (), segment_bytes)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.source.port}", timeout=PATIENCE_S)
        self.counted: dict[str, int] = {}
        self._news, self._stop, listens = threading.Event(), threading.Event(), threading.Event()
        self.task.start(self._news)
        self._thread = threading.Thread(target=self._run, args=(listens,), daemon=True)
        self._thread.start()
        assert listens.wait(PATIENCE_S)

    def _run(self, listens: threading.Event) -> None:
        while not self._stop.is_set():
            self._news.wait(0.1)
            self._news.clear()
            while (event := self.task.take()) is not None:
                if isinstance(event, Opened):
                    listens.set()
                if isinstance(event, Rows):
                    self.offsets = {event.split: event.offset}
                    self.task.acknowledge(self.offsets)
            self.counted = dict(self.task.counters())

    def close(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        self.task.close(clean=True)
        self.client.close()

    def post(self, topic: str, *values: Any, key: Any = None) -> list[int]:
        body = {"records": [{"key": key, "value": value} for value in values]}
        answer = self.client.post(f"/topics/{topic}", content=json.dumps(body), headers={"content-type": JSON})
        assert answer.status_code == 200, answer.text
        return [one["offset"] for one in answer.json()["offsets"]]

    def consumer(self, group: str, *topics: str, **settings: Any) -> Consumer:
        return Consumer(self, group, topics, {"format": "json", "auto.offset.reset": "earliest", **settings})


class Consumer:
    """A client of the proxy, as its documentation has it."""

    def __init__(self, proxy: Proxy, group: str, topics: tuple[str, ...], settings: dict[str, Any]) -> None:
        created = proxy.client.post(f"/consumers/{group}", json=settings, headers={"content-type": V2})
        assert created.status_code == 200, created.text
        self.client, self.id, self.uri = proxy.client, created.json()["instance_id"], created.json()["base_uri"]
        if topics:
            answer = self.client.post(f"{self.uri}/subscription", json={"topics": topics}, headers={"content-type": V2})
            assert answer.status_code == 204, answer.text

    def fetch(self, accept: str = JSON, **asked: Any) -> httpx.Response:
        return self.client.get(f"{self.uri}/records", params={"timeout": 100, **asked}, headers={"accept": accept})

    def records(self, **asked: Any) -> list[dict[str, Any]]:
        answer = self.fetch(**asked)
        assert answer.status_code == 200, answer.text
        records: list[dict[str, Any]] = answer.json()
        return records

    def values(self, **asked: Any) -> list[Any]:
        return [record["value"] for record in self.records(**asked)]

    def commit(self, **offsets: int) -> None:
        body = {"offsets": [{"topic": topic, "partition": 0, "offset": at} for topic, at in offsets.items()]}
        answer = self.client.post(f"{self.uri}/offsets", json=body if offsets else None, headers={"content-type": V2})
        assert answer.status_code == 200, answer.text

    def committed(self, *topics: str) -> dict[str, int]:
        body = {"partitions": [{"topic": topic, "partition": 0} for topic in topics]}
        answer = self.client.request("GET", f"{self.uri}/offsets", json=body)
        assert answer.status_code == 200, answer.text
        return {one["topic"]: one["offset"] for one in answer.json()["offsets"]}


@contextmanager
def running(folder: Path, offsets: dict[str, Any] | None = None, **more: Any) -> Iterator[Proxy]:
    proxy = Proxy(folder, offsets, **more)
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running(tmp_path_factory.mktemp("proxy")) as one:
        yield one


def error(answer: httpx.Response) -> tuple[int, int]:
    return answer.status_code, answer.json()["error_code"]


def test_records_come_as_they_were_posted_each_once(proxy: Proxy) -> None:
    offsets = proxy.post("as.posted", {"Ax_J1": 1.50}, [None, "ü"], key="robot-1") + proxy.post("as.posted", "x")
    proxy.post("another", 1)
    consumer = proxy.consumer("once", "as.posted")
    answer = consumer.fetch()
    assert answer.headers["content-type"] == JSON
    assert answer.json() == [
        {"topic": "as.posted", "key": "robot-1", "value": {"Ax_J1": 1.5}, "partition": 0, "offset": offsets[0]},
        {"topic": "as.posted", "key": "robot-1", "value": [None, "ü"], "partition": 0, "offset": offsets[1]},
        {"topic": "as.posted", "key": None, "value": "x", "partition": 0, "offset": offsets[2]},
    ]
    assert consumer.records() == []
    offsets = proxy.post("as.posted", 4)
    assert [(one["value"], one["offset"]) for one in consumer.records()] == [(4, offsets[0])]


def test_who_waits_is_answered_as_soon_as_something_comes(proxy: Proxy) -> None:
    consumer = proxy.consumer("waits", "later", **{"auto.offset.reset": "latest"})
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(consumer.values, timeout=20_000)
        proxy.post("elsewhere", 0)
        proxy.post("later", 1)
        assert waiting.result(PATIENCE_S) == [1]


def test_topics(proxy: Proxy) -> None:
    first, second = proxy.post("listed", 1), proxy.post("listed", 2)
    assert "listed" in proxy.client.get("/topics").json()
    answer = proxy.client.get("/topics/listed")
    assert (answer.json()["name"], [one["partition"] for one in answer.json()["partitions"]]) == ("listed", [0])
    ends = proxy.client.get("/topics/listed/partitions/0/offsets").json()
    assert (ends["beginning_offset"], ends["end_offset"]) == (0, second[0] + 1)
    assert error(proxy.client.get("/topics/nobody.posts.there")) == (404, 40401)
    assert error(proxy.client.get("/topics/listed/partitions/1/offsets")) == (404, 40402)
    assert first[0] < second[0]


def test_binary_gives_any_bytes_and_json_names_what_is_none(proxy: Proxy) -> None:
    proxy.client.post("/ingest/lines", content=b'{"a": 1}\nplain, \xff\n2')
    consumer = proxy.consumer("binary", "lines", format="binary")
    values = [base64.b64decode(one["value"]) for one in consumer.fetch(BINARY).json()]
    assert values == [b'{"a": 1}', b"plain, \xff", b"2"]
    reader = proxy.consumer("json", "lines")
    (good,) = reader.records()
    assert good["value"] == {"a": 1}
    assert [error(reader.fetch()) for _ in range(2)] == [(422, 42203), (422, 42203)]  # it is not skipped in silence
    assert f"offset {good['offset'] + 1} of topic lines" in reader.fetch().json()["message"]
    behind = {"offsets": [{"topic": "lines", "partition": 0, "offset": good["offset"] + 2}]}
    assert reader.client.post(f"{reader.uri}/positions", json=behind).status_code == 204
    assert reader.values() == [2]
    for place, expected in (("beginning", [{"a": 1}]), ("end", [])):
        body = {"partitions": [{"topic": "lines", "partition": 0}]}
        assert reader.client.post(f"{reader.uri}/positions/{place}", json=body).status_code == 204
        assert reader.values() == expected


def test_an_answer_holds_no_more_than_was_asked_for_but_one_record_at_least(proxy: Proxy) -> None:
    proxy.post("long", *("x" * 1_000 for _ in range(5)))
    consumer = proxy.consumer("bytes", "long")
    assert [len(consumer.records(max_bytes=most)) for most in (1, 2_500, 1_000_000)] == [1, 2, 2]


def test_a_group_goes_on_from_what_was_committed(proxy: Proxy) -> None:
    offsets = proxy.post("committed", 0, 1, 2, 3)
    manual = {"auto.commit.enable": "false", "name": "me"}
    first = proxy.consumer("manual", "committed", **manual)
    assert first.committed("committed") == {}
    assert first.values() == [0, 1, 2, 3]
    first.commit(committed=offsets[1])  # of the last record that is done
    assert first.committed("committed", "unread") == {"committed": offsets[1] + 1}
    assert first.client.delete(first.uri).status_code == 204
    again = proxy.consumer("manual", "committed", **manual)
    assert again.values() == [2, 3]
    again.commit()  # all that was fetched
    again.client.delete(again.uri)
    assert proxy.consumer("manual", "committed", **manual).values() == []
    assert proxy.consumer("other", "committed").values() == [0, 1, 2, 3]


def test_a_commit_that_the_disk_does_not_take_is_not_one(proxy: Proxy) -> None:
    proxy.post("full", 0)
    consumer = proxy.consumer("full", "full", **{"auto.commit.enable": False})
    assert consumer.values() == [0]
    in_the_way = world(proxy.folder).scratch / "groups.part"
    in_the_way.mkdir()
    answer = consumer.client.post(f"{consumer.uri}/offsets")
    assert (answer.status_code, "groups.part" in answer.json()["message"]) == (503, True), answer.text
    assert consumer.committed("full") == {}
    in_the_way.rmdir()
    consumer.commit()
    assert consumer.committed("full") != {}


def test_what_was_fetched_is_committed_when_the_consumer_comes_back(proxy: Proxy) -> None:
    proxy.post("automatic", 0, 1, 2)
    first = proxy.consumer("automatic", "automatic")
    assert first.values(max_bytes=1) == [0]
    second = proxy.consumer("automatic", "automatic")
    assert second.values() == []  # the partition is the first one's
    assert first.values(max_bytes=1) == [1]
    assert first.committed("automatic") != {}
    assert first.client.delete(f"{first.uri}/subscription").status_code == 204
    assert second.values() == [2]
    assert first.values() == []


def test_an_instance_of_which_nothing_is_heard_is_gone(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.post("left", 0, 1)
    silent = proxy.consumer("left", "left", **{"auto.commit.enable": False})
    assert silent.values() == [0, 1]
    heir = proxy.consumer("left", "left")
    assert heir.values() == []
    monkeypatch.setattr(_groups, "EXPIRES_S", -1)
    assert error(silent.fetch()) == (404, 40403)
    monkeypatch.undo()
    assert proxy.consumer("left", "left").values() == [0, 1]


def test_mistakes_are_told_in_the_codes_of_the_proxy(proxy: Proxy) -> None:
    create = "/consumers/mistakes"
    proxy.consumer("mistakes", name="taken")
    body: Any
    expected: Any
    for body, expected in (
        ({"name": "taken"}, (409, 40902)),
        ({"format": "avro"}, (422, 42204)),
        ({"auto.offset.reset": "none"}, (422, 42204)),
        ({"name": "x" * 250}, (422, 42204)),
        ({"name": 5}, (422, 42201)),
    ):
        assert error(proxy.client.post(create, json=body)) == expected, body
    nobody = f"{create}/instances/nobody"
    assert error(proxy.client.get(f"{nobody}/records")) == (404, 40403)
    assert error(proxy.client.delete(nobody)) == (404, 40403)
    consumer = proxy.consumer("mistakes")
    assert error(consumer.fetch(BINARY)) == (406, 40601)
    assert error(consumer.fetch(timeout="soon"))[0] == 422
    assert consumer.values() == []  # it has subscribed to nothing
    for call, body, expected in (
        ("subscription", {"topic_pattern": ".*"}, 422),
        ("subscription", {"topics": [f"t{i}" for i in range(101)]}, 422),
        ("positions", {"offsets": [{"topic": "t", "partition": 0, "offset": 1}]}, 40903),
        ("offsets", {"offsets": [{"topic": "t", "partition": 1, "offset": 1}]}, 40402),
        ("assignments", {"partitions": []}, 501),
    ):
        answer = consumer.client.post(f"{consumer.uri}/{call}", json=body)
        assert expected in error(answer), answer.text
    assert error(consumer.client.get(f"{consumer.uri}/offsets")) == (404, 40402)


def test_topics_are_subscribed_to_by_name_as_the_answer_says(proxy: Proxy) -> None:
    consumer = proxy.consumer("by-name")
    refused = consumer.client.post(f"{consumer.uri}/subscription", json={"topic_pattern": "by.*"})
    assert 'send {"topics": [...]}; there are no patterns' in refused.json()["message"]
    assert consumer.client.post(f"{consumer.uri}/subscription", json={"topics": ["by.name"]}).status_code == 204


def test_consumers_that_are_done_make_room_for_others(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    done = proxy.consumer("many")
    monkeypatch.setattr(_groups, "INSTANCES_MAX", 1)
    refused = proxy.client.post("/consumers/many", json={"format": "json"}, headers={"content-type": V2})
    assert "delete those that are done" in refused.json()["message"]
    monkeypatch.undo()
    assert done.client.delete(done.uri).status_code == 204
    proxy.consumer("many")


def test_consuming_needs_the_token_too(tmp_path: Path) -> None:
    token = "0123456789abcdef"
    with running(tmp_path, token=token) as proxy:
        for path in ("/topics", "/consumers/g/instances/i/records"):
            assert proxy.client.get(path).status_code == 401
        assert proxy.client.post("/consumers/g", json={}).status_code == 401
        proxy.client.headers["authorization"] = f"Bearer {token}"
        proxy.post("t", 1)
        assert proxy.consumer("g", "t").values() == [1]


def test_nothing_is_consumed_where_nothing_is_kept(tmp_path: Path) -> None:
    with running(tmp_path, kept_max=0) as proxy:
        answer = proxy.client.post("/consumers/g", json={})
        assert (answer.status_code, "kept_max" in answer.json()["message"]) == (501, True)


def test_committed_offsets_outlive_the_source_and_the_log_begins_where_it_is_full(tmp_path: Path) -> None:
    """Small segments: the oldest records go; whoever has not read them goes on with the oldest that there is."""
    small: dict[str, Any] = {"segment_bytes": 4_000, "kept_max": "8kB"}
    with running(tmp_path, **small) as proxy:
        for number in range(24):
            proxy.post("t", f"{number:01000d}")
        reader = proxy.consumer("reader", "t", **{"auto.commit.enable": False})
        records = reader.records()
        while fetched := reader.records():
            records += fetched
        numbers = [int(record["value"]) for record in records]
        begin = proxy.client.get("/topics/t/partitions/0/offsets").json()["beginning_offset"]
        assert numbers == list(range(begin, 24))
        assert 5 <= len(numbers) < 24
        assert proxy.counted["consumers_behind"] == 0
        reader.commit(t=records[len(records) // 2]["offset"])
        late = proxy.consumer("late", "t", **{"auto.commit.enable": False})
        late.commit(t=0)
        offsets = proxy.offsets
    with running(tmp_path, offsets, **small) as proxy:
        assert "t" in proxy.client.get("/topics").json()
        again = proxy.consumer("reader", "t")
        assert int(again.values()[0]) == numbers[len(numbers) // 2] + 1
        assert int(proxy.consumer("late", "t", **{"auto.offset.reset": "latest"}).values()[0]) == begin
        assert proxy.task.counters()["consumers_behind"] == 1
        assert proxy.post("t", "next") == [24]


def test_nothing_is_shown_before_it_is_on_disk(tmp_path: Path) -> None:
    with running(tmp_path) as proxy:
        settle = threading.Event()
        (one,) = proxy.task._open.values()
        log = one.reader._log  # type: ignore[union-attr]
        sync = log.sync

        def held() -> None:
            settle.wait(PATIENCE_S)
            sync()

        log.sync = held  # type: ignore[method-assign]
        consumer = proxy.consumer("g", "t")
        with ThreadPoolExecutor() as pool:
            posted = pool.submit(proxy.post, "t", 1)
            try:
                while proxy.client.get("/topics").json() != ["t"]:
                    assert not posted.done()
                assert consumer.values() == []
                assert not posted.done()
            finally:
                settle.set()
            assert posted.result(PATIENCE_S) == [0]
        assert consumer.values() == [1]


def test_a_log_that_began_anew_or_came_from_a_backup_hides_nothing(tmp_path: Path) -> None:
    scratch = world(tmp_path).scratch
    scratch.mkdir(parents=True)
    (scratch / "groups.json").write_text(json.dumps({"g": {"used_us": 0, "offsets": {"t": 500}}}))
    with running(tmp_path) as proxy:
        proxy.post("t", 1, 2)
        assert proxy.consumer("g", "t").values() == [1, 2]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    scratch = world(tmp_path).scratch
    scratch.mkdir(parents=True)
    (scratch / "groups.json").write_text('{"g": {"used')
    from dataclasses import replace

    class Nothing:
        def segments(self) -> list[int]:
            return []

    given = replace(world(tmp_path), journal=lambda split: Nothing())  # type: ignore[arg-type,return-value]
    with pytest.raises(CorruptState, match=r"groups\.json is damaged .*; delete it"):
        read_from(Http(port=free_port()), in_world=given)
    (scratch / "groups.json").unlink()
    read_from(Http(port=free_port()), in_world=given).close()
