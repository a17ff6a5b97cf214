"""What messages on times, values, steps and models advise is done here, and the value is read then."""

# ruff: noqa: E501 (what stands in a pipeline file, and what a message says, stays in one line)

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from advice import Remedy, followed, plan, remedies, steps
from held_schemas import Held
from models.trained import plant, training

from tocsin.batch import OUT, REJECTED, Batch
from tocsin.cli.import_influxdb import columns_of
from tocsin.decode._base import raw
from tocsin.decode.avro import Avro
from tocsin.decode.json import Json
from tocsin.decode.protobuf import Protobuf
from tocsin.edge.bundle import _sign, pack, unpack
from tocsin.engine.keyed import refusals
from tocsin.errors import ConfigError
from tocsin.estimate.model import EXAMPLE
from tocsin.infer.conclude import Hints, conclude
from tocsin.infer.sample import Piece, Sample
from tocsin.models import SAMPLES
from tocsin.models.explain import explain
from tocsin.models.policy import imitate
from tocsin.models.runtime import ModelSession
from tocsin.models.store import Store
from tocsin.models.train import _scaling
from tocsin.notify.detector_model._model import _resolved
from tocsin.pipeline.model import Page, Pipeline
from tocsin.values.time_forms import advice
from tocsin.values.times import parse_times


def time_of(settings: Mapping[str, str]) -> None:
    """Reads a text as a time by these settings, and says of it what the quarantine says."""
    given = {name: value for name, value in settings.items() if name != "text"}
    _, reasons = parse_times(pa.array([settings["text"]]), **given)
    if reason := reasons[0].as_py():
        raise ConfigError(advice(settings["text"], reason, given.get("format")))


LOCAL = {"text": "2026-01-31T12:00:00"}
DAY = {"text": "20260131", "zone": "UTC"}
COUNT = {"text": "1767268800"}
EITHER = {"text": "01.02.2026 12:00:00", "zone": "UTC"}
TIMES = remedies(
    time_of,
    (
        "values/time_forms",
        "set zone, as zone: Europe/Berlin or zone: UTC",
        LOCAL,
        {**LOCAL, "zone": "Europe/Berlin"},
        {**LOCAL, "zone": "UTC"},
    ),
    (
        "values/time_forms",
        'may be a date or a number of seconds: say which, as format: "%Y%m%d", or unit: s',
        DAY,
        {**DAY, "format": "%Y%m%d"},
        {**DAY, "unit": "s"},
    ),
    (
        "values/time_forms",
        "is a number: say its unit, as unit: ms (or s, us, ns, auto)",
        COUNT,
        *({**COUNT, "unit": unit} for unit in ("ms", "s", "us", "ns", "auto")),
    ),
    (
        "values/time_forms",
        'may mean the day or the month first: say which, as format: "{}"',
        EITHER,
        {**EITHER, "format": advice(EITHER["text"]).partition('format: "')[2].rstrip('"')},
        {**EITHER, "format": "%m.%d.%Y %H:%M:%S"},
    ),
    (
        "values/time_forms",
        'is of no form that is known: say how it is written, as format: "%d.%m.%Y %H:%M:%S"',
        {"text": "31|01|2026 12:00:00", "zone": "UTC"},
        {"text": "31|01|2026 12:00:00", "zone": "UTC", "format": "%d|%m|%Y %H:%M:%S"},
        {"text": "31.01.2026 12:00:00", "zone": "UTC", "format": "%d.%m.%Y %H:%M:%S"},
    ),
    (
        "values/times",
        "name one as Europe/Berlin or UTC",
        {**LOCAL, "zone": "Mars/Base"},
        {**LOCAL, "zone": "Europe/Berlin"},
        {**LOCAL, "zone": "UTC"},
    ),
)


def decoded(settings: Mapping[str, Any]) -> None:
    """Decodes a record with a time that is a number; what is set aside says why."""
    decoder = Json.model_validate({"columns": {"at": {"type": "timestamp", **settings}}})
    _, batches = decoder.step(decoder.initial(), Batch(raw([b'{"at": 1767268800}'])))
    for batch in batches:
        if batch.port == REJECTED and len(batch):
            raise ConfigError(batch.rows["detail"][0].as_py())


DECODED = remedies(
    decoded,
    (
        "decode/_values",
        "say its unit, as unit: ms (or s, us, ns, auto)",
        {},
        *({"unit": unit} for unit in ("ms", "s", "us", "ns", "auto")),
    ),
)


def loaded(changes: Mapping[str, Any]) -> None:
    """Two tables of a load; ``others`` are the settings of the second."""
    one = {"url": "postgresql://h/d", "table": "t", "load": "shop"}
    plan({"streams": {"s": {"sinks": [{"postgres": one}, {"postgres": {**one, "table": "u", **changes}}]}}})


def oidc_page(url: str) -> None:
    Page(url=url)


def stands(machines: Mapping[str, Any]) -> None:
    plan({"assets": {"machines": machines}})


def clustered(changes: Mapping[str, Any]) -> None:
    """Asks whether such a pipeline can be spread over a cluster, unless it is to run embedded."""
    tree = {
        "name": "p", "source": {"kafka": {"brokers": "b:9092", "topics": "a"}}, "key": "machine", "time": "at",
        "decode": {"json": {"columns": {"machine": "text", "at": "timestamp", "value": "float"}}},
        "streams": {"s": {"sinks": [{"delta": "t"}]}}, **{k: v for k, v in changes.items() if k != "embedded"},
    }  # fmt: skip
    made = Pipeline.model_validate(tree).plan()
    if not changes.get("embedded") and (said := refusals(made)):
        raise ConfigError("; ".join(said))


LOAD = {"url": "postgresql://h/d", "table": "t", "load": "shop"}
IN_A_LOAD = {"streams": {"s": {"sinks": [{"postgres": LOAD}]}}}
ALONE = {"streams": {"s": {"sinks": [{"postgres": {k: v for k, v in LOAD.items() if k != "load"}}]}}}
PIPELINES = [
    *remedies(
        loaded,
        ("pipeline/compile", "give them loads of their own", {"url": "postgresql://other/d"}, {"url": "postgresql://other/d", "load": "other"}),
    ),
    *remedies(
        oidc_page,
        ("pipeline/model", "write https:// and where browsers see the page, without ? and #", "https://page.example/?a=1", "https://page.example/"),
    ),
    *remedies(
        stands,
        ("pipeline/assets", "leave one of them out", {"a": {"l": {"m": None}}, "b": {"l": {"m": None}}}, {"a": {"l": {"m": None}}}, {"b": {"l": {"m": None}}}),
    ),
    *remedies(
        clustered,
        ("engine/keyed", "run it embedded, or leave out load", IN_A_LOAD, {**IN_A_LOAD, "embedded": True}, {"streams": {"s": {"sinks": [{"delta": "t"}]}}}),
    ),
    *remedies(
        steps,
        (
            "estimate/forecast",
            "take fewer, or a longer period",
            "forecast: {lags: 50, horizon: 1000}",
            "forecast: {lags: 4, horizon: 1000}",
            "forecast: {lags: 50, horizon: 10, every: 10m}",
        ),
        ("estimate/oee", "give either every or shifts", "downtime: {state: other}, oee", "downtime: {state: other}, oee: {every: 1h}", "downtime: {state: other}, oee: {shifts: [{name: early, begins: '06:00', ends: '14:00', days: mon-fri}]}"),
        (
            "estimate/classify",
            "name another with of",
            f"classify: {{model: trade, store: {SAMPLES}, version: 1, of: value}}",
            f"classify: {{model: trade, store: {SAMPLES}, version: 1, of: other}}",
        ),
    ),
    *remedies(
        lambda value: _resolved(value, {"Gone": "85"}, "limit"),
        ("notify/detector_model/_model", "write what it stands for in its place", {"value": {"Fn::If": ["a", 1, 2]}}, {"value": 1}),
    ),
]  # fmt: skip


def imported(given: tuple[list[str], list[tuple[str, str]]] | str) -> None:
    """Takes a measurement with these tags and fields over, or reads it by a pipeline as the message says."""
    if isinstance(given, str):
        plan(
            {
                "source": {"influxdb": {"url": "http://h", "database": "d", "measurement": "m"}},
                "decode": json.loads(given),
                "key": "k",
            }
        )
    else:
        columns_of(*given)


def own(**columns: tuple[str, str]) -> str:
    told = {name: {"path": path, "type": kind, "optional": True} for name, (path, kind) in columns.items()}
    return json.dumps({"json": {"columns": {"k": "text", "at": "timestamp", **told}}})


IMPORTED = remedies(
    imported,
    (
        "cli/import_influxdb",
        "is a tag and a field, which no table can tell apart; use source influxdb",
        (["machine"], [("machine", "float")]),
        own(machine=("machine", "text")),
    ),
    (
        "cli/import_influxdb",
        "write a pipeline with source influxdb, where two columns may have its path",
        ([], [("v", "float"), ("v", "string")]),
        own(v=("v", "float"), v_text=("v", "text")),
    ),
    (
        "cli/import_influxdb",
        "write a pipeline with source influxdb, where each column has a name and a path",
        ([], [("a.b", "float"), ("A_b", "float")]),
        own(first=("a.b", "float"), second=("A_b", "float")),
    ),
)  # fmt: skip


ODD = b"at,seen,force\n" + b"".join(b"31~01~2026 12:00:%02d,2026-01-31T12:00:%02dZ,1.5\n" % (n, n) for n in range(12))
ITS_FORM = {"column": "at", "format": "%d~%m~%Y %H:%M:%S", "zone": "UTC"}


def concluded(given: str | Mapping[str, str] | None) -> None:
    """Concludes what the fields of a file are, of which one is said to be the time, or its form."""
    if isinstance(given, Mapping):
        plan({"time": given, "decode": {"csv": {"columns": {"machine": "text", "at": "text", "force": "float"}}}})
        time_of({"text": "31~01~2026 12:00:00", **{k: v for k, v in given.items() if k != "column"}})
    else:
        conclude(Sample([Piece("a.csv", ODD)], is_files=True), Hints(time=given))


CONCLUDED = remedies(
    concluded,
    (
        "infer/time",
        "name another field, or none, and say in the file that --save writes how it is written, as time: {column: {}, format: ...}",
        "at",
        "seen",
        None,
        ITS_FORM,
    ),
)


@followed(CONCLUDED + TIMES + DECODED + PIPELINES + IMPORTED)
def test_what_a_value_advises(remedy: Remedy) -> None:
    remedy.follow()


KEY = bytes(range(32))


def taken(folder: Path, data: str) -> None:
    store = Store(EXAMPLE)
    unpack(pack(store, "pair", 1, KEY, 7) if data == "deployed" else data.encode(), KEY)


def signed(folder: Path, kind: str) -> None:
    from cryptography.hazmat.primitives import serialization as how
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    _sign(b"content", key.private_bytes(how.Encoding.PEM, how.PrivateFormat.PKCS8, how.NoEncryption()))


def loaded_model(folder: Path, version: int) -> None:
    content = b"rust" if version == 2 else Store(EXAMPLE).files("pair", 1)["model.onnx"]
    ModelSession(content, f"pair {version}")


def explained(_: Path, given: Mapping[str, Any]) -> None:
    count = given.get("count", 400)
    random = np.random.default_rng(1)
    torque = random.normal(size=count)
    times = [f"2026-01-{1 + n * 28 // count:02d}" for n in range(count)]
    table = pa.table(
        {"torque": torque, "noise": random.normal(size=count), "failed": torque > given.get("limit", 0.5), "at": times}
    )
    if "cast" in given:
        table = table.set_column(3, "at", table["at"].cast(pa.timestamp("us")))
    explain(table, "failed", time="at" if "timed" in given else None, drop=() if "timed" in given else ("at",))


def described(folder: Path, how: str) -> None:
    """A descriptor file that is not there, until the compiler of Protobuf has made it."""
    protoc = pytest.importorskip("grpc_tools.protoc")
    if how == "made":
        (folder / "FILE.proto").write_text('syntax = "proto3"; package a; message B { int32 a = 1; }')
        words = f"--include_imports --descriptor_set_out={folder}/plant.desc FILE.proto".split()
        assert protoc.main(["protoc", f"-I{folder}", *words]) == 0
    settings = {"columns": {"a": "int"}, "descriptor": str(folder / "plant.desc"), "message": "a.B"}
    assert Protobuf.model_validate(settings)._given is not None


class OneStep:
    """Games of one step each, of which the second action is worth more: a random game holds one action."""

    single_observation_space = SimpleNamespace(shape=(1,))
    single_action_space = SimpleNamespace(n=2)

    def __init__(self, count: int) -> None:
        self.num_envs = count

    def reset(self, *, seed: int) -> tuple[Any, Any]:
        return np.random.default_rng(seed).random((self.num_envs, 1)), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Any]:
        ends = np.ones(self.num_envs, bool)
        return np.zeros((self.num_envs, 1)), np.asarray(actions, float), ends, ends, {}


def imitated(_: Path, given: Mapping[str, Any]) -> None:
    imitate(OneStep, rounds=1, **given)


def scaled(_: Path, given: tuple[str, bool]) -> None:
    """Takes what a net of its own, or one for all, is to be taught of machines, of which one began late."""
    query, is_one_for_all = given
    table = plant()
    late = pc.and_(pc.equal(table["machine"], "m1"), pc.less(table["ts"], table["ts"][500]))
    table = table.filter(pc.invert(late))
    if query == "without":
        table = table.filter(pc.equal(table["machine"], "m0"))
    made = training(Path("models")).dataset.series(table, {"plant": 3})
    for owner in [None] if is_one_for_all else range(len(made.keys)):
        _scaling(made, owner)


MODELS = [
    *remedies(
        imitated,
        ("models/policy", "give more games, or keep more of them", {"games": 20, "kept": 0.05}, {"games": 20, "kept": 1.0}),
    ),
    *remedies(
        scaled,
        ("models/train", "leave it out of the query, or train one net for all", ("with", False), ("without", False), ("with", True)),
    ),
    *remedies(taken, ("edge/bundle", "this is no bundle of a model; make one: tocsin models deploy", "{}", "deployed")),
    *remedies(signed, ("edge/bundle", "a bundle is signed with an Ed25519 key: openssl genpkey -algorithm ed25519", "ec", "ed25519")),
    *remedies(loaded_model, ("models/runtime", "cannot be loaded as an ONNX model ({}); roll back, or train anew", 2, 1)),
    *remedies(
        explained,
        ("models/explain", "make it a timestamp first", {"timed": True}, {"timed": True, "cast": True}),
        ("models/explain", "give more rows, over a longer time", {"count": 20, "limit": 1.6}, {"count": 2_000, "limit": 1.6}),
    ),
    *remedies(described, ("decode/protobuf", "make it with: protoc --include_imports --descriptor_set_out={} FILE.proto", "absent", "made")),
]  # fmt: skip


@followed(MODELS)
def test_what_a_model_advises(remedy: Remedy, tmp_path: Path) -> None:
    remedy.follow(tmp_path)


def test_a_registry_that_refuses_is_mended_as_it_says() -> None:
    schema = {"schema": json.dumps({"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}]})}
    record = b"\0\0\0\0\1\x02"

    def read(url: str, **more: str) -> list[Any]:
        decoder = Avro.model_validate({"columns": {"a": "int"}, "registry": {"url": url, **more}})
        _, batches = decoder.step(decoder.initial(), Batch(raw([record])))
        return [one for batch in batches if batch.port == OUT for one in batch.rows["a"].to_pylist()]

    with Held() as held:
        held.answers = {
            "/schemas/ids/1": (200, schema),
            "/ui/schemas/ids/1": (200, "a page"),
            "/gone/schemas/ids/1": (410, ""),
        }
        held.status = 401
        with pytest.raises(Exception, match="check user and password"):
            read(held.url, user="u", password="wrong")
        held.status = None
        for place in ("ui", "gone"):
            with pytest.raises(Exception, match="check the url"):
                read(f"{held.url}/{place}")
        assert read(held.url, user="u", password="right") == [1]
