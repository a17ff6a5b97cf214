"""Bad input, end to end: files, a broker, the runner and Delta tables; and the table of what proves each case.

The numbers are those of the catalogue of bad input.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_inputs import CASES, DECODERS, GOOD, Case
from bad_inputs_table import ELSEWHERE, PROVEN
from pydantic import ValidationError

import tocsin
from tocsin.acquire.mqtt import Mqtt
from tocsin.batch import QUARANTINED_BYTES, Batch
from tocsin.decode._base import raw
from tocsin.engine.checkpoint import SqliteStore
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.graph import Feed
from tocsin.errors import AlreadyRunning, ConfigError, CorruptState, StateMismatch
from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.mqtt.client import Client
from tocsin.pipeline.model import Pipeline
from tocsin.testing import read_from

TESTS = Path(__file__).parent
CASE_MS_MAX = 50


# The table


def test_every_number_is_proven_or_says_why_not() -> None:
    assert set(PROVEN) | set(ELSEWHERE) == set(range(1, 96))
    assert not set(PROVEN) & set(ELSEWHERE)
    assert all(PROVEN.values())
    assert len(PROVEN) >= 60


@cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("number", sorted(PROVEN))
def test_what_proves_a_number_exists(number: int) -> None:
    for reference in PROVEN[number]:
        path, name = reference.split("::")
        assert name in functions(TESTS / path), reference
        if name == "test_it_is_set_aside_with_its_reason_and_its_neighbours_stay":
            assert any(case.number == number for case in CASES), reference


# Runs


class Until(Feed):
    """Looks on, and stops the runner once something has come about."""

    def __init__(self, true: Callable[[Mapping[str, Any]], bool]) -> None:
        self.true = true
        self.runner: EmbeddedRunner | None = None

    def offer(self, stream: str, batch: Batch) -> None: ...

    def counters(self, snapshot: Mapping[str, Any]) -> None:
        if self.true(snapshot):
            assert self.runner is not None
            self.runner.stop()


def came(records: int) -> Callable[[Mapping[str, Any]], bool]:
    return lambda snapshot: sum(snapshot["rows_in"].values()) >= records


def events(snapshot: Mapping[str, Any]) -> Mapping[str, int]:
    return {entry["event"]: entry["count"] for entry in snapshot["events"]}


def run(folder: Path, true: Callable[[Mapping[str, Any]], bool] | None = None, **settings: Any) -> Mapping[str, Any]:
    """Run a pipeline to its end, or until something is true of what it has counted; gives that."""
    pipeline = Pipeline.model_validate({"name": "plant", "folder": folder, **settings})
    until = Until(true) if true is not None else None
    runner = EmbeddedRunner(pipeline.plan(), feed=until)
    if until is not None:
        until.runner = runner
    runner.run()
    if until is not None:
        until.runner = None
    counted = runner.snapshot()
    assert counted["trouble"] is None
    assert counted["recoveries"] == 0
    return counted


def read(folder: Path, table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tocsin.read(table, folder).to_pylist()
    return rows


def rejected(counted: Mapping[str, Any]) -> Counter[str]:
    return Counter({entry["reason"]: entry["rows"] for entry in counted["rejected"]})


def ndjson(folder: Path, rows: Sequence[Mapping[str, Any] | bytes], name: str = "in.ndjson") -> str:
    path = folder / name
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return str(path)


# Decoders: every case between good rows, through every way in


def payloads(cases: Sequence[Case], kind: str) -> list[bytes]:
    """The cases with a good neighbour before each and one at the end, numbered from 1000."""
    good = GOOD[kind]
    assert kind == "gzip" or b"1" in good
    found = []
    for i in range(len(cases) + 1):
        found.append(neighbour(kind, 1000 + i))
        if i < len(cases):
            found.append(cases[i].payload)
    return found


def neighbour(kind: str, n: int) -> bytes:
    import gzip

    record = b'{"machine": "m1", "n": %d, "value": 1.5}' % n
    return {
        "json": record,
        "gzip": gzip.compress(record),
        "csv": b"m1;%d;1.5;" % n,
        "xml": b"<a><row><machine>m1</machine><n>%d</n><value>1.5</value></row></a>" % n,
    }[kind]


def check(folder: Path, counted: Mapping[str, Any], cases: Sequence[Case], end: bytes | None = b"") -> None:
    """``end`` is what the source leaves at the end of a record; None where records are parts of documents."""
    readings = read(folder, "readings")
    numbers = [row["n"] for row in readings if 1000 <= row["n"] <= 1000 + len(cases)]
    assert sorted(numbers) == list(range(1000, 1001 + len(cases))), "no good row is lost or doubled"
    bad = [case for case in cases if case.reason is not None]
    assert len(readings) == len(numbers) + len(cases) - len(bad)
    quarantine = sorted(read(folder, "quarantine"), key=lambda row: row["position"])
    assert Counter(row["reason"] for row in quarantine) == Counter(case.reason for case in bad)
    assert rejected(counted) == Counter(case.reason for case in bad)
    assert {row["source"] for row in quarantine} == {"source"}
    if end is not None:
        for row, case in zip(quarantine, bad, strict=True):
            came = case.payload + end
            assert (row["reason"], row["payload"]) == (case.reason, came[:QUARANTINED_BYTES]), case.what
            if len(came) < 2**20:  # of what is longer the end was cut off before
                assert row["sha256"] == hashlib.sha256(came).hexdigest()


def described(kind: str) -> dict[str, Any]:
    decoder = DECODERS[kind]
    settings = decoder.model_dump(mode="json", exclude_defaults=True)
    return {
        "decode": {decoder.name(): settings},
        "key": "machine",
        "streams": {"readings": {"sinks": [{"delta": "readings"}]}},
    }


def is_a_line(case: Case) -> bool:
    """Whether a file of lines can hold it: blank lines are no records, and a line feed ends one."""
    return b"\n" not in case.payload and bool(case.payload.strip())


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_bad_lines_of_a_file(tmp_path: Path, kind: str) -> None:
    cases = [case for case in CASES if case.kind == kind and is_a_line(case)]
    assert len(cases) > 15
    path = tmp_path / f"in.{'ndjson' if kind == 'json' else 'csv'}"
    path.write_bytes(b"\n".join(payloads(cases, kind)) + b"\n")
    counted = run(tmp_path / "lake", source={"files": {"path": str(path), "header": False}}, **described(kind))
    check(tmp_path / "lake", counted, cases, end=b"\n")


def test_bad_documents_in_a_folder(tmp_path: Path) -> None:
    cases = [case for case in CASES if case.kind == "xml"]
    folder = tmp_path / "in"
    folder.mkdir()
    for i, payload in enumerate(payloads(cases, "xml")):
        (folder / f"{i:04}.xml").write_bytes(payload)
    counted = run(tmp_path / "lake", source={"files": str(folder)}, **described("xml"))
    # Of a document with a bad row only that row is set aside, and positions are within the document.
    check(tmp_path / "lake", counted, cases, end=None)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["json", "gzip", "csv"])
def test_bad_messages_of_a_broker(tmp_path: Path, kind: str) -> None:
    cases = [case for case in CASES if case.kind == kind and len(case.payload) < 500_000]
    with Broker(BrokerConfiguration()) as broker:
        source = {"mqtt": {"url": broker.url, "topic": "plant/#", "client_id": "engine"}}
        listen(broker.url)
        messages = [(f"plant/{i}", payload) for i, payload in enumerate(payloads(cases, kind))]
        publish(broker.url, messages)
        counted = run(tmp_path, came(len(messages)), source=source, **described(kind))
    check(tmp_path, counted, cases)
    topics = {row["sha256"]: row["topic"] for row in read(tmp_path, "quarantine")}
    assert all(topics.get(hashlib.sha256(payload).hexdigest(), topic) in dict(messages) for topic, payload in messages)


def listen(url: str) -> None:
    """Make the engine's session, so that the broker keeps what is published from now on."""
    reader = read_from(Mqtt(url=url, topic="plant/#", client_id="engine"))
    while not reader.client.connected:
        assert reader.poll(1, 0.05) is None
    reader.close()


def publish(url: str, messages: list[tuple[str, bytes]], **how: Any) -> None:
    client = Client(url)
    client.publish(messages, **how)
    client.close()


def test_a_bad_payload_costs_little() -> None:
    """And so does a good one: the clock of the process is asked, because other work goes on beside the tests."""
    for case in CASES:
        decoder = DECODERS[case.kind]
        batch = Batch(raw([case.payload]))
        decoder.step(decoder.initial(), batch)  # compiles

        def once() -> float:
            begin = time.process_time()
            decoder.step(decoder.initial(), batch)  # noqa: B023
            return 1e3 * (time.process_time() - begin)

        assert min(once() for _ in range(3)) < CASE_MS_MAX, case.what


# Keys


KEYED = {"machine": {"type": "text", "optional": True}, "n": "int"}


def test_keys_that_are_none(tmp_path: Path) -> None:
    """18, 25, 53, 70, 95."""
    rows: list[Mapping[str, Any]] = [
        {"machine": "Pumpe \u00fc", "n": 0},
        {"machine": None, "n": 1},
        {"machine": "", "n": 2},
        {"machine": "Pumpe u\u0308", "n": 3},  # the same name in its other form
        {"machine": "m\x01", "n": 4},
        {"machine": "x" * 300, "n": 5},
        {"machine": "x" * 128, "n": 6},
        {"n": 7},
        {"machine": "one too many", "n": 8},
        {"machine": "Pumpe \u00fc", "n": 9},
    ]
    counted = run(
        tmp_path / "lake",
        source={"files": ndjson(tmp_path, rows)},
        decode={"json": {"columns": KEYED}},
        key={"of": "machine", "keys_max": 2},
        streams={"readings": {"sinks": [{"delta": {"path": "readings", "partition_by": ["key"]}}]}},
    )
    readings = {row["n"]: row["key"] for row in read(tmp_path / "lake", "readings")}
    assert readings == {0: "Pumpe \u00fc", 3: "Pumpe \u00fc", 6: "x" * 128, 9: "Pumpe \u00fc"}
    assert rejected(counted) == {"missing_key": 3, "key_characters": 1, "key_length": 1, "key_limit": 1}
    found = Counter(row["reason"] for row in read(tmp_path / "lake", "quarantine"))
    assert found == rejected(counted)


def test_keys_that_would_leave_their_folder(tmp_path: Path) -> None:
    """69, 70, 75: as partitions they are escaped, and come back as they were."""
    names = ["../../x", "a/b", "..", ".", "%2e%2e", "C:\\x", "con", "#", "+", "$SYS", "a=b", "caf\u00e9", "'; drop"]
    rows = [{"machine": name, "n": i} for i, name in enumerate(names)]
    before = set(tmp_path.iterdir())
    run(
        tmp_path / "lake",
        source={"files": ndjson(tmp_path, rows)},
        decode={"json": {"columns": KEYED}},
        key="machine",
        streams={"readings": {"sinks": [{"delta": {"path": "readings", "partition_by": ["key"]}}]}},
    )
    assert {row["n"]: row["key"] for row in read(tmp_path / "lake", "readings")} == dict(enumerate(names))
    assert {p.name for p in set(tmp_path.iterdir()) - before} == {"in.ndjson", "lake"}
    assert {p.name for p in (tmp_path / "lake").iterdir()} == {"readings", ".state", "quarantine", "late_source"}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../x"},
        {"name": "C:\\x"},
        {"name": "con\0"},
        {"name": "x" * 64},
        {"streams": {"../x": {}}},
        {"decode": {"json": {"columns": {"a": "int", "A": "int"}}}},
        {"decode": {"json": {"columns": {"": "int"}}}},
        {"decode": {"pickle": {}}},
        {"streams": {"s": {"steps": [{"keep": "__import__('os').system('id') = 0"}]}}},
        {"streams": {"s": {"steps": [{"keep": "n.__class__ = 1"}]}}},
        {"streams": {"s": {"steps": [{"derive": {"x": "(select 1)"}}]}}},
        {"streams": {"s": {"steps": [{"keep": "read_csv('/etc/passwd') = 1"}]}}},
    ],
    ids=str,
)
def test_names_and_expressions_that_are_refused_before_data_flows(tmp_path: Path, change: Mapping[str, Any]) -> None:
    """26, 66, 69, 72."""
    good = {"decode": {"json": {"columns": KEYED}}, "key": "machine", "streams": {"s": {}}}
    settings = {"name": "plant", "folder": tmp_path, "source": {"files": ndjson(tmp_path, [])}, **good}
    Pipeline.model_validate(settings).plan()
    with pytest.raises((ValidationError, ConfigError)):
        Pipeline.model_validate({**settings, **change}).plan()


def test_a_table_cannot_lie_outside_of_the_lake(tmp_path: Path) -> None:
    """69."""
    rows = [{"machine": "m", "n": 1}]
    with pytest.raises(ConfigError, match="leaves the data folder"):
        run(
            tmp_path / "lake",
            source={"files": ndjson(tmp_path, rows)},
            decode={"json": {"columns": KEYED}},
            key="machine",
            streams={"s": {"sinks": [{"delta": "../outside"}]}},
        )
    assert not (tmp_path / "outside").exists()


# Time


def test_wrong_clocks_move_nothing(tmp_path: Path) -> None:
    """29 to 36, 38 to 40: what is wrong is set aside, and every window holds just what belongs to it."""
    begin = (datetime.now(UTC) - timedelta(minutes=10)).replace(microsecond=0)

    def at(seconds: float) -> str:
        return (begin + timedelta(seconds=seconds)).isoformat()

    good = [float(s) for s in range(0, 200, 2)]
    good[20], good[22] = good[22], good[20]  # 40: out of order by less than is allowed for
    rows: list[Any] = [{"machine": "m", "ts": at(s), "n": round(s)} for s in good]
    future = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    ancient = "2000-01-01T00:00:00Z"
    epoch_ms = {"machine": "m", "ts": at(0), "at": 1_767_225_600_123, "n": -1}
    bad: list[tuple[Mapping[str, Any], str]] = [
        ({"machine": "m", "ts": future, "n": -1}, "ts_future"),
        ({"machine": "m", "ts": "2199-12-31T00:00:00Z", "n": -1}, "ts_future"),
        ({"machine": "m", "ts": "9999-12-31T00:00:00Z", "n": -1}, "ts_range"),
        ({"machine": "m", "ts": ancient, "n": -1}, "ts_past"),
        ({"machine": "m", "ts": "1969-12-31T23:59:59Z", "n": -1}, "ts_range"),
        ({"machine": "m", "n": -1}, "ts_missing"),
        ({"machine": "m", "ts": "2026-01-01 00:00:00", "n": -1}, "ts_zone"),
        ({"machine": "m", "ts": "yesterday", "n": -1}, "ts_syntax"),
        (epoch_ms, "ts_range"),
        ({"machine": "m", "ts": at(0), "at": 10**18, "n": -1}, "ts_range"),
    ]
    for i, (row, _) in enumerate(bad):
        rows.insert(10 * (i + 1), row)
    rows.insert(
        70, {"machine": "m", "ts": at(2.5), "n": 777}
    )  # 39: the clock went back, or the row was long on its way
    columns = {**KEYED, "ts": {"type": "timestamp", "optional": True}}
    counted = run(
        tmp_path / "lake",
        source={"files": ndjson(tmp_path, rows)},
        decode={"json": {"columns": {**columns, "at": {"type": "timestamp", "unit": "s", "optional": True}}}},
        key="machine",
        time={"column": "ts", "lateness": "5s", "past": "1d"},
        streams={
            "readings": {"sinks": [{"delta": "readings"}]},
            "windows": {
                "from": "readings",
                "steps": [{"window": {"every": "20s", "compute": {"n": "count(*)", "sum": "sum(n)"}}}],
                "sinks": [{"delta": "windows"}],
            },
        },
    )
    lake = tmp_path / "lake"
    assert sorted(row["n"] for row in read(lake, "readings") if not row["late"]) == sorted(good)
    assert rejected(counted) == Counter(reason for _, reason in bad)
    assert Counter(row["reason"] for row in read(lake, "quarantine")) == rejected(counted)
    assert [row["n"] for row in read(lake, "readings") if row["late"]] == [777]
    assert counted["late"] == {"source": 1}
    expected: dict[datetime, list[float]] = {}
    for s in good:
        when = begin.timestamp() + s
        expected.setdefault(datetime.fromtimestamp(when - when % 20, UTC), []).append(s)
    found = {row["time"]: (row["n"], row["sum"]) for row in read(lake, "windows")}
    assert found == {start: (len(values), sum(values)) for start, values in expected.items()}


def test_a_leap_second_and_an_hour_that_happens_twice_have_a_time(tmp_path: Path) -> None:
    """35, 36."""
    rows = [
        {"machine": "m", "n": 0, "ts": "2016-12-31T23:59:60Z"},
        {"machine": "m", "n": 1, "ts": "2026-07-01T12:00:00"},
        {"machine": "m", "n": 2, "ts": "2026-10-25T02:30:00"},
    ]
    run(
        tmp_path / "lake",
        source={"files": ndjson(tmp_path, rows)},
        decode={"json": {"columns": {**KEYED, "ts": {"type": "timestamp", "zone": "Europe/Berlin"}}}},
        key="machine",
        time={"column": "ts", "slack": "10000d"},
        streams={"readings": {"sinks": [{"delta": "readings"}]}},
    )
    times = {row["n"]: row["time"] for row in read(tmp_path / "lake", "readings")}
    assert times[1] == datetime(2026, 7, 1, 10, tzinfo=UTC)
    assert times[2] == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert abs(times[0] - datetime(2017, 1, 1, tzinfo=UTC)) <= timedelta(seconds=1)


def test_what_is_sent_twice_counts_once(tmp_path: Path) -> None:
    """41, 42: single repetitions, and a gateway that was restored and sends all of it again."""
    day = [{"machine": f"m{i % 3}", "n": i, "ts": 1_767_225_600 + i} for i in range(300)]
    rows = [row for row in day for _ in range(1 + (row["n"] % 7 == 0))] + day
    run(
        tmp_path / "lake",
        source={"files": ndjson(tmp_path, rows)},
        decode={"json": {"columns": {**KEYED, "ts": {"type": "timestamp", "unit": "s"}}}},
        key="machine",
        time={"column": "ts", "lateness": "1d"},
        streams={"readings": {"steps": [{"dedupe": {"by": "n", "horizon": "1d"}}], "sinks": [{"delta": "readings"}]}},
    )
    assert sorted(row["n"] for row in read(tmp_path / "lake", "readings")) == list(range(300))


# Values


def test_numbers_that_are_none_poison_nothing(tmp_path: Path) -> None:
    """5, 94: NaN and infinities of a binary source are kept, and enter no figure and no detector."""
    values = [1.0, math.nan, 2.0, math.inf, 3.0, -math.inf, -0.0, 5e-324, None]
    times = pa.array([1_767_225_600_000_000 + i * 1_000_000 for i in range(len(values))], pa.timestamp("us", tz="UTC"))
    machine = pa.array(["m"] * len(values))
    pq.write_table(pa.table({"machine": machine, "time": times, "value": values}), tmp_path / "in.parquet")
    figures = {"n": "count(*)", "c": "count(value)", "sum": "sum(value)", "mean": "mean(value)", "std": "std(value)"}
    figures |= {"min": "min(value)", "max": "max(value)", "median": "median(value)"}
    run(
        tmp_path / "lake",
        source={"files": str(tmp_path / "in.parquet")},
        key="machine",
        time="time",
        streams={
            "readings": {"sinks": [{"delta": "readings"}]},
            "windows": {
                "from": "readings",
                "steps": [{"window": {"every": "20s", "compute": figures}}],
                "sinks": [{"delta": "windows"}],
            },
            "judged": {"from": "readings", "steps": [{"ewma": {"learn": 2}}], "sinks": [{"delta": "judged"}]},
        },
    )
    lake = tmp_path / "lake"
    assert len(read(lake, "readings")) == len(values)
    (window,) = read(lake, "windows")
    assert (window["n"], window["c"], window["sum"], window["mean"]) == (9, 5, 6.0, 1.2)
    assert (window["min"], window["max"], window["median"]) == (0.0, 3.0, 1.0)
    assert window["std"] == pytest.approx(1.30384048)
    judged = {row["time"]: row["score"] for row in read(lake, "judged")}
    assert [judged[t] is None for t in times.to_pylist()] == [True, True, True, True, False, True, False, False, True]


def test_a_column_of_nulls_and_files_of_nothing(tmp_path: Path) -> None:
    """93: types come from the pipeline."""
    columns = {**KEYED, "value": {"type": "float", "optional": True}}
    settings = {
        "source": {"files": str(tmp_path / "*.ndjson")},
        "decode": {"json": {"columns": columns}},
        "key": "machine",
        "streams": {"readings": {"sinks": [{"delta": "readings"}]}},
    }
    ndjson(tmp_path, [], "0.ndjson")
    ndjson(tmp_path, [{"machine": "m", "n": i, "value": None} for i in range(3)], "1.ndjson")
    run(tmp_path / "lake", **settings)
    table = tocsin.read("readings", tmp_path / "lake")
    assert table.schema.field("value").type == pa.float64()
    assert table["value"].null_count == len(table) == 3


def test_texts_stay_texts(tmp_path: Path) -> None:
    """19, 57, 73: in tables as they came; in CSV no spreadsheet runs them."""
    notes = ["=HYPERLINK(1)", "+1", "@x", "\x1b[31mred", "<script>alert(1)</script>", "a\0b", "\u202egnp", "-2+3"]
    rows = [{"machine": "m", "n": i, "note": note} for i, note in enumerate(notes)]
    files = {"files": {"path": "csv", "format": "csv"}}
    run(
        tmp_path / "lake",
        source={"files": ndjson(tmp_path, rows)},
        decode={"json": {"columns": {**KEYED, "note": "text"}}},
        key="machine",
        streams={"readings": {"sinks": [{"delta": "readings"}, files]}},
    )
    assert {row["n"]: row["note"] for row in read(tmp_path / "lake", "readings")} == dict(enumerate(notes))
    (path,) = (tmp_path / "lake" / "csv").glob("*.csv")
    text = path.read_text()
    for note in ("=HYPERLINK(1)", "+1", "@x", "-2+3"):
        assert f"'{note}" in text


def test_unknown_fields_and_types_that_change(tmp_path: Path) -> None:
    """23, 24: the schema never follows the data."""
    columns = {**KEYED, "value": "float"}
    rows: list[Mapping[str, Any]] = [{"machine": "m", "n": i, "value": i / 2} for i in range(5)]
    rows += [{"machine": "m", "n": 5, "value": 1.0, "firmware": {"version": "2"}}]
    rows += [{"machine": "m", "n": 8, "value": 1.0, "firmware": None, "rssi": -70}]
    rows += [{"machine": "m", "n": 6, "value": "high"}, {"machine": "m", "n": 7, "value": 3}]
    counted = run(
        tmp_path / "lake",
        source={"files": ndjson(tmp_path, rows)},
        decode={"json": {"columns": columns}},
        key="machine",
        streams={"readings": {"sinks": [{"delta": "readings"}]}},
    )
    table = tocsin.read("readings", tmp_path / "lake")
    assert table.column_names == ["key", "time", "n", "value"]
    assert sorted(table["n"].to_pylist()) == [0, 1, 2, 3, 4, 5, 7, 8]
    assert rejected(counted) == {"type": 1}
    assert events(counted) == {"skipped_files": 0, "damaged_files": 0, "unknown_fields": 2}


# MQTT's own


@pytest.mark.timeout(120)
def test_retained_messages_and_clears_are_no_data(tmp_path: Path) -> None:
    """11, 77, 78."""
    old, new = ({"n": n, "machine": "m"} for n in (1, 2))
    with Broker(BrokerConfiguration()) as broker:
        publish(broker.url, [("plant/old", json.dumps(old).encode())], retain=True)
        listen(broker.url)
        publish(broker.url, [("plant/gone", b"")], retain=True)
        publish(broker.url, [("plant/empty", b""), ("plant/new", json.dumps(new).encode())])
        source = {"mqtt": {"url": broker.url, "topic": "plant/#", "client_id": "engine"}}
        streams = {"readings": {"sinks": [{"delta": "readings"}]}}
        decode = {"json": {"columns": KEYED}}
        counted = run(tmp_path, came(2), source=source, decode=decode, key="machine", streams=streams)
    assert [row["n"] for row in read(tmp_path, "readings")] == [2]
    assert rejected(counted) == {"empty": 1}
    expected = {"session_lost": 0, "duplicates": 0, "retained_dropped": 1, "connects": 1, "unknown_fields": 0}
    assert events(counted) == expected


@pytest.mark.timeout(120)
def test_a_broker_that_forgot_our_session_is_told(tmp_path: Path) -> None:
    """79: what was published meanwhile is lost, and that is counted."""
    settings: dict[str, Any] = {
        "decode": {"json": {"columns": KEYED}},
        "key": "machine",
        "streams": {"readings": {"sinks": [{"delta": "readings"}]}},
    }
    with Broker(BrokerConfiguration()) as broker:
        source = {"mqtt": {"url": broker.url, "topic": "plant/#", "client_id": "engine"}}
        listen(broker.url)
        publish(broker.url, [("plant/m", b'{"machine": "m", "n": 1}')])
        counted = run(tmp_path, came(1), source=source, **settings)
        assert events(counted)["session_lost"] == 0
    with Broker(BrokerConfiguration(port=broker.port)):
        counted = run(tmp_path, lambda snapshot: events(snapshot)["session_lost"] > 0, source=source, **settings)
    assert events(counted)["session_lost"] == 1
    assert [row["n"] for row in read(tmp_path, "readings")] == [1]


# The state


def pipeline(tmp_path: Path, step: Mapping[str, Any], machines: int = 1) -> dict[str, Any]:
    rows = [{"machine": f"m{i % machines}", "n": i} for i in range(max(50, 2 * machines))]
    return {
        "source": {"files": ndjson(tmp_path, rows)},
        "decode": {"json": {"columns": KEYED}},
        "key": "machine",
        "streams": {"readings": {"steps": [step], "sinks": [{"delta": "readings"}]}},
    }


def test_a_flipped_bit_of_the_state_is_named(tmp_path: Path) -> None:
    """87: nothing is reset in silence."""
    settings = pipeline(tmp_path, {"ewma": {"of": "n"}}, 10_000)  # a small state is held by the checkpoint
    run(tmp_path / "lake", **settings)
    states = sorted((tmp_path / "lake" / ".state").glob("*.state"))
    assert states
    for path in states:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(CorruptState, match="does not match its checksum"):
        run(tmp_path / "lake", **settings)
    assert len(read(tmp_path / "lake", "readings")) == 20_000


def test_a_second_engine_and_another_pipeline_are_refused(tmp_path: Path) -> None:
    """90, 91."""
    settings = pipeline(tmp_path, {"ewma": {"of": "n"}})
    run(tmp_path / "lake", **settings)
    holder = SqliteStore(tmp_path / "lake" / ".state")
    with pytest.raises(AlreadyRunning, match="in use by process"):
        run(tmp_path / "lake", **settings)
    holder.close()
    with pytest.raises(StateMismatch, match=r"'readings\.0\.ewma' .*--forget readings\.0\.ewma"):
        run(tmp_path / "lake", **pipeline(tmp_path, {"ewma": {"of": "n", "learn": 20}}))
    run(tmp_path / "lake", **settings)
    assert len(read(tmp_path / "lake", "readings")) == 50
