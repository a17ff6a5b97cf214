"""Sink kinesis against the stand-in: order, retries, limits, and what a reader needs to drop what comes twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from kinesis_server import BUSY, REGION, Gate
from kinesis_server import Kinesis as Server
from servers import free_port

from tocsin.condition.dedupe import Dedupe
from tocsin.errors import SchemaError, SinkError, Unavailable
from tocsin.kinesis.acknowledged import Acknowledged
from tocsin.output import kinesis as sink
from tocsin.output.kinesis import Kinesis
from tocsin.testing import feed, rows, world
from tocsin.world import World


def sink_of(stream: str, url: str, **more: Any) -> Kinesis:
    return Kinesis.model_validate({"stream": stream, "region": REGION, "endpoint": url, **more})


def readings(keys: Sequence[Any], first: int = 0) -> pa.RecordBatch:
    values = [float(first + i) for i in range(len(keys))]
    return rows({"key": pa.array(keys, pa.string()), "time": values, "value": values})


def write(settings: Kinesis, batch: pa.RecordBatch, place: World | None = None, epoch: int = 1) -> Mapping[str, int]:
    """Publish an epoch; returns what the writer has counted."""
    with closing(settings.open(place or world(), batch.schema)) as writer:
        writer.publish(epoch, [writer.stage(epoch, [batch])])
        return writer.counters()


def arrived(server: Server, stream: str) -> list[dict[str, Any]]:
    return [json.loads(record["Data"]) for record in server.records(stream)]


def test_a_row_is_json_under_its_key(kinesis: Server) -> None:
    stream = kinesis.stream()
    write(sink_of(stream, kinesis.url, columns=["value"]), readings(["pump-1"]))
    (record,) = kinesis.records(stream)
    told = json.loads(record["Data"])
    assert record["PartitionKey"] == "pump-1"
    assert told.pop("row_id").endswith("-1-0")
    assert told == {"value": 0.0}


def test_rows_of_a_key_stay_in_order_whatever_is_refused(kinesis: Server, gate: Gate) -> None:
    stream = kinesis.stream(2)
    turns = iter(range(100_000))
    gate.drop = lambda record: next(turns) % 3 != 0
    counted = write(sink_of(stream, gate.url), readings([f"pump-{i % 7}" for i in range(140)]))
    told = arrived(kinesis, stream)
    assert Counter(row["value"] for row in told) == Counter(float(i) for i in range(140)), "lost, or sent twice"
    for key in range(7):
        values = [row["value"] for row in told if row["key"] == f"pump-{key}"]
        assert values == sorted(values)
    assert counted["records_refused"] == gate.counted["entries refused"] > 140


def test_only_what_was_refused_is_sent_again(kinesis: Server, gate: Gate) -> None:
    stream = kinesis.stream()
    dropped = {"pump-3", "pump-5"}

    def drop(record: Mapping[str, Any]) -> bool:
        wanted = record["PartitionKey"] in dropped
        dropped.discard(record["PartitionKey"])
        return wanted

    gate.drop = drop
    write(sink_of(stream, gate.url), readings([f"pump-{i}" for i in range(10)]))
    asked = [[r["PartitionKey"] for r in request["Records"]] for _, action, request in gate.asked]
    assert asked == [[f"pump-{i}" for i in range(10)], ["pump-3", "pump-5"]]


def test_a_request_keeps_to_a_number_of_records_and_of_bytes(
    kinesis: Server, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    many, large = kinesis.stream(), kinesis.stream()
    write(sink_of(many, gate.url), readings([f"pump-{i}" for i in range(1_100)]))
    assert [len(request["Records"]) for _, _, request in gate.asked] == [500, 500, 100]
    gate.asked.clear()
    assert sink.REQUEST_BYTES == 5 * 2**20
    monkeypatch.setattr(sink, "REQUEST_BYTES", 50_000)  # the stand-in takes 11 s for 5 MiB
    text = pa.array(["x" * 9_000] * 8)
    batch = readings([f"pump-{i}" for i in range(8)]).append_column("text", text)
    write(sink_of(large, gate.url), batch)
    assert [len(request["Records"]) for _, _, request in gate.asked] == [5, 3]
    assert len(arrived(kinesis, large)) == 8


def test_a_request_holds_one_row_of_a_key_unless_order_does_not_matter(kinesis: Server, gate: Gate) -> None:
    stream = kinesis.stream()
    batch = readings(["a", "a", "b", "a"])
    write(sink_of(stream, gate.url), batch)
    write(sink_of(stream, gate.url, ordered=False), batch)
    asked = [[r["PartitionKey"] for r in request["Records"]] for _, _, request in gate.asked]
    assert asked == [["a", "b"], ["a"], ["a"], ["a", "a", "b", "a"]]


def test_a_stream_that_stays_busy_is_away_and_comes_back(
    kinesis: Server, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "BACKOFF_S", (0.001, 0.001))
    stream, batch, place = kinesis.stream(), readings(["a", "b"]), world()
    gate.rule = lambda action, request: BUSY
    with closing(sink_of(stream, gate.url).open(place, batch.schema)) as writer:
        token = writer.stage(1, [batch])
        with pytest.raises(Unavailable, match="is busy"):
            writer.publish(1, [token])
        assert gate.counted[BUSY[1]] == sink.TRIES
        assert writer.published() is None
        gate.rule = lambda action, request: None
        writer.publish(1, [token])
    assert [row["value"] for row in arrived(kinesis, stream)] == [0.0, 1.0]


def test_what_comes_twice_has_the_same_id_and_is_dropped_by_dedupe(kinesis: Server, gate: Gate) -> None:
    stream, place, batch = kinesis.stream(), world(), readings(["a", "b", "a"])
    settings = sink_of(stream, gate.url)
    gate.loses = lambda action: len(gate.asked) == 2
    with closing(settings.open(place, batch.schema)) as writer:
        tokens = [writer.stage(epoch, [batch]) for epoch in (4, 6)]
        with pytest.raises(Unavailable):
            writer.publish(6, tokens)  # a and b are answered, the second a is not
    with closing(settings.open(place, batch.schema)) as again:
        assert again.published() is None
        again.publish(6, tokens)
        assert again.published() == 6
    told = arrived(kinesis, stream)
    assert len(told) == 7
    assert len({row["row_id"] for row in told}) == 6
    table = rows(
        {name: pa.array([row[name] for row in told]) for name in ("key", "row_id", "value")} | {"time": [0.0] * 7}
    )
    assert len(feed(Dedupe(by=("row_id",)), table)) == 6


def test_what_was_answered_before_an_outage_or_a_crash_is_not_sent_again(kinesis: Server, gate: Gate) -> None:
    stream, place, batch = kinesis.stream(), world(), readings(["a", "b", "a", "b", "a"])
    settings = sink_of(stream, gate.url)
    with closing(settings.open(place, batch.schema)) as writer:
        token = writer.stage(1, [batch])
        gate.drop = lambda record: record["PartitionKey"] == "b"
        gate.rule = lambda action, request: (500, "InternalFailure") if len(gate.asked) > 1 else None
        with pytest.raises(Unavailable):
            writer.publish(1, [token])
    gate.asked.clear()
    gate.drop, gate.rule = lambda record: False, lambda action, request: None
    with closing(settings.open(place, batch.schema)) as again:
        again.discard([token])  # as a start does
        again.publish(1, [token])
        assert not [name for name in place.disk.names(place.scratch) if name not in ("position", "writer")]
    asked = [[r["PartitionKey"] for r in request["Records"]] for _, _, request in gate.asked]
    assert asked == [["b", "a"], ["b", "a"]]
    told = arrived(kinesis, stream)
    assert Counter(row["value"] for row in told) == Counter(float(i) for i in range(5))
    assert {row["row_id"].rpartition("-")[2]: row["value"] for row in told} == {str(i): float(i) for i in range(5)}


@pytest.mark.parametrize("damage", ["torn", "zeros", "garbage", "another epoch's"])
def test_a_note_that_a_power_cut_has_damaged_hides_no_row(damage: str) -> None:
    place, path = world(), world().folder / "note"
    place.disk.make_folder(path.parent)
    Acknowledged(place.disk, path, 10).add([3, 4])
    whole = place.disk.read(path)
    frame = {
        "torn": whole[:-1],
        "zeros": b"\0" * len(whole),
        "garbage": bytes(range(len(whole))),
        "another epoch's": _framed([5]),
    }[damage]
    place.disk.append(path, frame)
    assert np.flatnonzero(Acknowledged(place.disk, path, 10).rows).tolist() == [3, 4]
    Acknowledged(place.disk, path, 10).add([7])
    assert np.flatnonzero(Acknowledged(place.disk, path, 10).rows).tolist() == [3, 4, 7]


def _framed(numbers: Sequence[int]) -> bytes:
    place, path = world(), world().folder / "other"
    place.disk.make_folder(path.parent)
    Acknowledged(place.disk, path, 100).add(numbers)
    return place.disk.read(path)


def test_a_pipeline_that_begins_anew_uses_no_id_again(kinesis: Server) -> None:
    stream = kinesis.stream()
    for _ in range(2):
        write(sink_of(stream, kinesis.url), readings(["a"]))
    assert len({row["row_id"] for row in arrived(kinesis, stream)}) == 2


def test_a_row_that_is_too_large_is_sent_as_its_beginning(kinesis: Server) -> None:
    stream = kinesis.stream()
    batch = readings(["a", "a", "a"]).append_column("text", pa.array(["x", "y" * (1 << 20), "z"]))
    counted = write(sink_of(stream, kinesis.url), batch)
    first, aside, last = arrived(kinesis, stream)
    assert (first["text"], last["text"]) == ("x", "z")
    assert counted["rows_too_large"] == 1
    assert "a record at most 1048576" in aside["quarantine"]
    assert aside["row_id"].endswith("-1-1")
    assert "yyy" in aside["beginning"]


def test_keys_that_aws_does_not_take_are_written_otherwise(kinesis: Server) -> None:
    stream = kinesis.stream()
    batch = readings([None, "", "ü" * 300])
    batch = batch.set_column(0, "machine", batch["key"]).append_column("key", pa.array(["k"] * 3))
    write(sink_of(stream, kinesis.url, key="machine"), batch)
    empty, null, long = sorted(record["PartitionKey"] for record in kinesis.records(stream))
    assert (empty, null) == ("-", "-")
    assert len(long) == 64


def test_columns_that_are_not_there_or_in_the_way_are_named() -> None:
    schema = readings(["a"]).schema
    with pytest.raises(SchemaError, match="'machine'"):
        Kinesis(stream="plant", key="machine").accepts(schema)
    with pytest.raises(SchemaError, match="'speed'"):
        Kinesis(stream="plant", columns=("speed",)).accepts(schema)
    with pytest.raises(SchemaError, match="set row_id to another name"):
        Kinesis(stream="plant").accepts(schema.append(pa.field("row_id", pa.string())))
    Kinesis(stream="plant", row_id="").accepts(schema.append(pa.field("row_id", pa.string())))


def test_what_refuses_and_who_is_away_are_told_apart(kinesis: Server, gate: Gate) -> None:
    with pytest.raises(SinkError, match=r"stream 'nowhere'.* is not there") as told:
        write(sink_of("nowhere", kinesis.url), readings(["a"]))
    assert not isinstance(told.value, Unavailable)
    with pytest.raises(Unavailable, match="does not answer"):
        write(sink_of("plant", f"http://127.0.0.1:{free_port()}"), readings(["a"]))
