"""Source kinesis against the stand-in: shards that split and merge, and what a gate before it answers in its place."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from kinesis_server import BUSY, EXPIRED, REGION, Gate
from kinesis_server import Kinesis as Server
from servers import free_port

from tocsin.acquire.kinesis import Kinesis
from tocsin.batch import END
from tocsin.contracts import Offset, Reader
from tocsin.engine.source_task import Opened, Rows, SourceTask
from tocsin.errors import ConfigError, MissingExtra, SourceError, Unavailable
from tocsin.kinesis import shard as shards
from tocsin.testing import world
from tocsin.world import World

PATIENCE_S = 60.0


def source(server: Server, stream: str, **more: Any) -> Kinesis:
    return Kinesis.model_validate({"stream": stream, "region": REGION, "endpoint": server.url, "every": "20ms", **more})


def until(true: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, what
        time.sleep(0.01)


class Reading:
    """The source as the engine reads it, step by step, from a checkpoint that may be empty."""

    def __init__(self, source: Kinesis, place: World, before: Reading | None = None) -> None:
        self.offsets: dict[str, Offset] = dict(before.offsets) if before else {}
        self.ended: set[str] = set(before.ended) if before else set()
        self.events: list[tuple[str, str]] = []
        self.payloads: list[str] = []
        self.task = SourceTask("source", source, place, json.loads(json.dumps(self.offsets)), self.ended)

    def read(self, rows: int) -> Reading:
        """Go on until so many rows have come in all."""
        until(lambda: self._takes(rows), f"{len(self.payloads)} of {rows} rows came")
        return self

    def _takes(self, rows: int) -> bool:
        event = self.task.take()
        if isinstance(event, Opened):
            self.events.append(("opened", event.split))
        elif isinstance(event, Rows):
            self.events += [("rows", event.split)] if len(event.batch) else []
            self.offsets[event.split] = event.offset
            self.payloads += [payload.decode() for payload in event.batch.rows["payload"].to_pylist()]
            if event.batch.watermark_us == END:
                self.ended.add(event.split)
                self.events.append(("ended", event.split))
        return len(self.payloads) >= rows

    def close(self) -> None:
        self.task.close(clean=True)


@contextmanager
def reading(source: Kinesis, place: World | None = None, before: Reading | None = None) -> Iterator[Reading]:
    one = Reading(source, place or world(), before)
    try:
        yield one
    finally:
        one.close()


@contextmanager
def readers(source: Kinesis, offset: Offset | None = None, place: World | None = None) -> Iterator[Sequence[Reader]]:
    """A reader of each shard that is there now."""
    connection = source.open(place or world())
    until(lambda: bool(connection.splits()), "there are no shards")
    some = [connection.read(split, offset) for split in connection.splits()]
    try:
        yield some
    finally:
        for one in some:
            one.close()
        connection.close()


def polled(reader: Reader, rows: int) -> list[Mapping[str, Any]]:
    """So many rows of a shard."""
    got: list[Mapping[str, Any]] = []

    def enough() -> bool:
        one = reader.poll(1_000, 0.05)
        got.extend(one[0].rows.to_pylist() if one is not None else ())
        return len(got) >= rows

    until(enough, f"fewer than {rows} rows came")
    return got


def numbers(first: int, count: int) -> list[bytes]:
    return [b"%d" % i for i in range(first, first + count)]


def test_a_record_brings_its_key_and_when_it_came(kinesis: Server) -> None:
    stream = kinesis.stream()
    kinesis.send(stream, [b'{"v": 1}'], key="pump-1")
    (record,) = kinesis.records(stream)
    with readers(source(kinesis, stream)) as (reader,):
        (row,) = polled(reader, 1)
    assert (row["payload"], row["topic"], row["position"], row["key"]) == (b'{"v": 1}', stream, 0, b"pump-1")
    assert row["sent"] == record["ApproximateArrivalTimestamp"]


def test_shards_that_split_and_merge_are_followed_in_order(kinesis: Server) -> None:
    stream = kinesis.stream(2)
    with reading(source(kinesis, stream)) as one:
        for part, change in enumerate((kinesis.split, kinesis.merge, kinesis.split)):
            for key in ("a", "b", "c", "d"):
                kinesis.send(stream, [f"{key} {i}".encode() for i in range(10 * part, 10 * part + 10)], key)
            if part == 1:
                one.read(80)  # some of it while the shards change, some of it before
            change(stream)
        one.read(120)
        for key in ("a", "b", "c", "d"):
            kinesis.send(stream, [f"{key} {i}".encode() for i in range(30, 40)], key)
        one.read(160)
        until(lambda: one._takes(161) or len(one.ended) == 4, "a closed shard did not end")
    assert len(one.payloads) == 160
    for key in ("a", "b", "c", "d"):
        assert [p for p in one.payloads if p[0] == key] == [f"{key} {i}" for i in range(40)]
    names = [f"{stream}/{shard['ShardId']}" for shard in kinesis.shards(stream)]
    assert {name for what, name in one.events if what == "opened"} == set(names)
    came = [name for what, name in one.events if what == "rows"]
    for shard in kinesis.shards(stream):
        name = f"{stream}/{shard['ShardId']}"
        for parent in (shard.get("ParentShardId"), shard.get("AdjacentParentShardId")):
            if parent is not None and name in came:
                assert one.events.index(("ended", f"{stream}/{parent}")) < one.events.index(("rows", name))


def test_a_child_is_opened_before_its_parents_end_is_handed_on(kinesis: Server) -> None:
    """It holds the watermark: time must not run ahead to the end of all splits."""
    stream = kinesis.stream()
    with reading(source(kinesis, stream)) as one:
        kinesis.send(stream, numbers(0, 5))
        one.read(5)
        kinesis.split(stream)
        until(lambda: one._takes(6) or ("ended", f"{stream}/shardId-000000000000") in one.events, "it did not end")
        opened = [name for what, name in one.events if what == "opened"]
        assert len(opened) == 3
        assert one.events[-1] == ("ended", f"{stream}/shardId-000000000000")


def test_a_checkpoint_goes_on_where_it_was_shards_that_ended_included(kinesis: Server) -> None:
    stream = kinesis.stream()
    kinesis.send(stream, numbers(0, 10))
    with reading(source(kinesis, stream)) as first:
        first.read(10)
    kinesis.split(stream)
    kinesis.send(stream, numbers(10, 10))
    with reading(source(kinesis, stream), before=first) as second:
        second.read(10)
        until(lambda: second._takes(11) or bool(second.ended), "the parent did not end")
    kinesis.send(stream, numbers(20, 10))
    with reading(source(kinesis, stream), before=second) as third:
        third.read(10)
    assert [int(p) for one in (first, second, third) for p in one.payloads] == list(range(30))
    assert f"{stream}/shardId-000000000000" not in [name for what, name in third.events if what == "opened"]


def test_an_expired_iterator_is_asked_for_anew(kinesis: Server, gate: Gate) -> None:
    stream = kinesis.stream()
    kinesis.send(stream, numbers(0, 10))
    expire = iter((False, True, False, True, True))
    gate.rule = lambda action, request: EXPIRED if action == "GetRecords" and next(expire, False) else None
    with readers(source(kinesis, stream, endpoint=gate.url)) as (reader,):
        got = polled(reader, 10)
        until(lambda: not polled(reader, 0) and reader.counters()["iterators_expired"] == 3, "the gate expires nothing")
        kinesis.send(stream, numbers(10, 10))
        got += polled(reader, 10)
    assert [int(row["payload"]) for row in got] == list(range(20))


def test_a_throttled_shard_holds_up_no_other(kinesis: Server, gate: Gate) -> None:
    stream = kinesis.stream(2)
    for key in ("a", "b", "c", "d"):
        kinesis.send(stream, [key.encode()] * 5, key)
    shut = True

    def rule(action: str, request: Mapping[str, Any]) -> tuple[int, str] | None:
        return BUSY if shut and request.get("ShardId") == "shardId-000000000000" else None

    gate.rule = rule
    with readers(source(kinesis, stream, endpoint=gate.url)) as (first, second):
        there = polled(second, 5)
        until(lambda: first.counters()["throttled"] >= 3, "the gate refuses nothing")
        assert first.poll(1_000, 0.0) is None
        more = [row["payload"] for row in polled(second, 15 - len(there))] if len(there) < 10 else []
        assert second.counters()["throttled"] == 0
        shut = False
        got = [row["payload"] for row in there] + more
        got += [row["payload"] for row in polled(first, 20 - len(got))]
    assert sorted(got) == sorted([b"a", b"b", b"c", b"d"] * 5)


def test_throttling_loses_and_doubles_nothing(kinesis: Server, gate: Gate) -> None:
    stream = kinesis.stream()
    kinesis.send(stream, numbers(0, 30))
    turns = iter(range(10_000))
    gate.rule = lambda action, request: BUSY if action.startswith("Get") and next(turns) % 3 else None
    with reading(source(kinesis, stream, endpoint=gate.url)) as one:
        one.read(30)
        kinesis.send(stream, numbers(30, 30))
        one.read(60)
    assert [int(p) for p in one.payloads] == list(range(60))
    assert gate.counted[BUSY[1]] > 2


def test_a_shard_is_read_five_times_in_a_second_at_most(kinesis: Server, gate: Gate) -> None:
    stream = kinesis.stream()

    def asked() -> list[float]:
        return [at for at, action, _ in gate.asked if action == "GetRecords"]

    with readers(Kinesis(stream=stream, region=REGION, endpoint=gate.url)) as (reader,):
        for i in range(12):  # a shard that always has something is read as often as it may be
            kinesis.send(stream, [b"%d" % i])
            polled(reader, 1)
        at = asked()
    pauses = [after - before for before, after in pairwise(at)]
    assert median(pauses) > 0.15, "one that arrives late makes one pause short, not most of them"


def test_a_silent_shard_is_asked_less_and_less(kinesis: Server, gate: Gate) -> None:
    stream = kinesis.stream()
    with readers(source(kinesis, stream, endpoint=gate.url)) as (reader,):
        until(lambda: not polled(reader, 0) and gate.counted["GetRecords"] >= 8, "nothing is asked")
        at = [at for at, action, _ in gate.asked if action == "GetRecords"]
    assert at[7] - at[0] > 0.02 * (1 + 3 + 7 + 15 + 31), "the pauses did not double"


def test_latest_begins_when_it_is_first_opened_and_not_again(kinesis: Server) -> None:
    stream, place = kinesis.stream(), world()
    kinesis.send(stream, [b"old"])

    def date() -> str:
        answer = kinesis.client.list_shards(StreamName=stream)
        return str(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    came = date()
    until(lambda: date() != came, "the clock stands still")
    newest = source(kinesis, stream, start="latest")
    with readers(newest, place=place):
        pass
    kinesis.send(stream, [b"while it was away"])
    kinesis.split(stream)
    kinesis.send(stream, [b"to a new shard"])
    with reading(newest, place) as one:
        one.read(2)
    assert one.payloads == ["while it was away", "to a new shard"]


def test_it_begins_at_a_time(kinesis: Server) -> None:
    stream = kinesis.stream()
    kinesis.send(stream, [b"early"])
    (early,) = kinesis.records(stream)
    until(lambda: datetime.now(UTC) - early["ApproximateArrivalTimestamp"] > timedelta(milliseconds=50), "")
    kinesis.send(stream, [b"late"])
    late = kinesis.records(stream)[-1]["ApproximateArrivalTimestamp"]
    with readers(source(kinesis, stream, start=late.isoformat())) as (reader,):
        assert [row["payload"] for row in polled(reader, 1)] == [b"late"]


def test_what_the_stream_has_dropped_is_told_and_counted(kinesis: Server, caplog: pytest.LogCaptureFixture) -> None:
    stream = kinesis.stream()
    kinesis.send(stream, numbers(0, 4))
    first = kinesis.records(stream)[0]["SequenceNumber"]
    read_us = int((time.time() - 30 * 3600) * 1e6)
    with readers(source(kinesis, stream), {"sequence": first, "position": 1, "until_us": read_us}) as (reader,):
        got = polled(reader, 3)
        lost_s = reader.counters()["seconds_lost"]
    assert [(int(row["payload"]), row["position"]) for row in got] == [(1, 1), (2, 2), (3, 3)]
    assert 6 * 3600 - 5 <= lost_s <= 6 * 3600 + PATIENCE_S
    assert [r.message for r in caplog.records if "keeps records for 24 h" in r.message], caplog.text


def test_a_position_that_the_stream_does_not_know_gives_way_to_the_oldest(
    kinesis: Server, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    stream = kinesis.stream()
    kinesis.send(stream, numbers(0, 3))

    def rule(action: str, request: Mapping[str, Any]) -> tuple[int, str] | None:
        unknown = request.get("ShardIteratorType") == "AFTER_SEQUENCE_NUMBER"
        return (400, "InvalidArgumentException") if unknown else None

    gate.rule = rule
    offset = {"sequence": "495", "position": 7, "until_us": int(time.time() * 1e6)}
    with readers(source(kinesis, stream, endpoint=gate.url), offset) as (reader,):
        got = polled(reader, 3)
        assert reader.counters()["positions_lost"] == 1
    assert [(int(row["payload"]), row["position"]) for row in got] == [(0, 7), (1, 8), (2, 9)]
    assert "going on with the oldest record" in caplog.text


def test_a_silent_shard_notes_how_far_it_was_read(kinesis: Server) -> None:
    """Otherwise a shard that nothing comes to for days looks as if its records had been dropped."""
    stream = kinesis.stream()
    with readers(source(kinesis, stream)) as (reader,):
        until(lambda: (reader.poll(1, 0.05) or (None, {}))[1].get("until_us", 0) > 0, "nothing is noted")


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((400, "AccessDeniedException"), "give the user or role the right"),
        ((400, "ExpiredTokenException"), "have expired"),
        ((400, "UnrecognizedClientException"), "AWS_ACCESS_KEY_ID"),
        ((400, "ResourceNotFoundException"), "correct stream, region and endpoint"),
        ((400, "KMSDisabledException"), "correct the key in AWS KMS"),
    ],
)
def test_what_does_not_pass_is_said_with_its_remedy(
    kinesis: Server, gate: Gate, refusal: tuple[int, str], said: str
) -> None:
    stream = kinesis.stream()
    gate.rule = lambda action, request: refusal
    with pytest.raises(SourceError, match=said) as told, reading(source(kinesis, stream, endpoint=gate.url)) as one:
        one.read(1)
    assert stream in str(told.value)
    assert not isinstance(told.value, Unavailable)
    gate.rule = lambda action, request: None  # as when that is done
    kinesis.send(stream, numbers(0, 1))
    with reading(source(kinesis, stream, endpoint=gate.url)) as one:
        one.read(1)


def test_a_right_that_is_missing_for_the_shard_is_said(kinesis: Server, gate: Gate) -> None:
    stream = kinesis.stream()
    gate.rule = lambda action, request: (400, "AccessDeniedException") if action == "GetShardIterator" else None
    with pytest.raises(SourceError, match="right"), reading(source(kinesis, stream, endpoint=gate.url)) as one:
        one.read(1)


def test_a_stream_that_is_deleted_is_said(kinesis: Server) -> None:
    stream = kinesis.stream()
    kinesis.send(stream, numbers(0, 3))
    with reading(source(kinesis, stream)) as one:
        one.read(3)
        kinesis.client.delete_stream(StreamName=stream)
        with pytest.raises(SourceError, match=f"stream '{stream}'.* is not there"):
            one.read(4)


def test_a_stream_that_is_away_is_waited_for(kinesis: Server, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers with 500 for long is away: the source says why, and reads on once it is back."""
    monkeypatch.setattr(shards, "AWAY_S", 0.3)
    stream = kinesis.stream()
    kinesis.send(stream, numbers(0, 3))
    with reading(source(kinesis, stream, endpoint=gate.url)) as one:
        one.read(3)
        gate.rule = lambda action, request: (500, "InternalFailure")
        until(lambda: not one._takes(4) and bool(one.task.snapshot()["reason"]), "no reason is given")
        assert "cannot answer now" in one.task.snapshot()["reason"]
        gate.rule = lambda action, request: None
        kinesis.send(stream, numbers(3, 3))
        one.read(6)
    assert [int(p) for p in one.payloads] == list(range(6))


def test_without_credentials_it_says_where_to_put_them(
    kinesis: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    stream = kinesis.stream()
    with pytest.raises(SourceError, match="set AWS_ACCESS_KEY_ID"), reading(source(kinesis, stream)) as one:
        one.read(1)
    kinesis.send(stream, numbers(0, 1))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with reading(source(kinesis, stream)) as one:
        one.read(1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=r"write it into ~/.aws/config, or correct the setting profile"):
        source(kinesis, stream, profile="plant").check(world())
    (tmp_path / "config").write_text("[profile plant]\naws_access_key_id = test\naws_secret_access_key = test\n")
    with reading(source(kinesis, stream, profile="plant")) as one:
        one.read(1)


def test_check_names_what_cannot_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="set region"):
        Kinesis(stream="plant").check(world())
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tocsin\[kinesis\]'"):
        Kinesis(stream="plant", region=REGION).check(world())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stream": "plant/1"}, "not the name of a stream"),
        ({"endpoint": "localhost:4567"}, "write https://host"),
        ({"endpoint": "https://user:secret@host"}, "write https://host"),
        ({"start": "yesterday"}, "earliest"),
    ],
)
def test_settings_that_are_wrong_are_refused(settings: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as told:
        Kinesis.model_validate({"stream": "plant", "region": REGION, **settings})
    assert told


def test_an_absent_server_is_waited_for(kinesis: Server) -> None:
    nowhere = Kinesis(stream="plant", region=REGION, endpoint=f"http://127.0.0.1:{free_port()}")
    connection = nowhere.open(world())

    def is_away() -> bool:
        try:
            connection.splits()
        except Unavailable as error:
            return "does not answer" in str(error)
        return False

    until(is_away, "it does not say that nobody answers")
    connection.close()
