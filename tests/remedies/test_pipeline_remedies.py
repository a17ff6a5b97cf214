"""What the messages of decoders, and those on the pipeline as a whole, advise is done here, and it is right then."""

from __future__ import annotations

from typing import Any

import pytest
from advice import BASE, Remedy, decode, followed, part, plan, remedies, yaml

from tocsin.domain.calendars import Period
from tocsin.engine.keyed import refusals
from tocsin.pipeline.model import Pipeline

DECODERS = remedies(
    decode,
    ("decode/_base", "remove it", "json: {columns: {a: int}, metadata: {k: key}}", "json: {columns: {a: int}}"),
    (
        "decode/_base",
        "rename one",
        "json: {columns: {a: int, received: int}}",
        "json: {columns: {a: int, came: {type: int, path: received}}}",
    ),
    (
        "decode/_base",
        "try utf-8, cp1252, latin-1, utf-16 or shift_jis",
        "json: {columns: {a: int}, encoding: ebcdic!}",
        *(
            f"json: {{columns: {{a: int}}, encoding: {one}}}"
            for one in ("utf-8", "cp1252", "latin-1", "utf-16", "shift_jis")
        ),
    ),
    (
        "decode/_columns",
        "name it and give its path",
        "json: {columns: {a b: int, a_b: int}}",
        "json: {columns: {a_b: int, other: {type: int, path: a b}}}",
    ),
    (
        "decode/_signals",
        "call it otherwise",
        "json: {columns: {at: timestamp}, signals: 'a.{signal}'}",
        "json: {columns: {at: timestamp}, signals: 'a.{what}'}",
    ),
    (
        "decode/_signals",
        "write names, patterns of names such as debug.{name}, or about_the_record",
        "json: {columns: {at: timestamp}, signals: auto, signals_exclude: 'a.{'}",
        "json: {columns: {at: timestamp}, signals: auto, signals_exclude: [a, b]}",
        "json: {columns: {at: timestamp}, signals: auto, signals_exclude: 'debug.{name}'}",
        "json: {columns: {at: timestamp}, signals: auto, signals_exclude: about_the_record}",
    ),
    (
        "decode/_signals",
        "write names, patterns of names such as debug.{name}, or about_the_record",
        "json: {columns: {at: timestamp}, signals: auto, signals_exclude: auto}",
        "json: {columns: {at: timestamp}, signals: auto, signals_exclude: about_the_record}",
    ),
    (
        "decode/_signals",
        "write auto, a name, or a pattern of names such as Ax_J{n}.{what}",
        "json: {columns: {at: timestamp}, signals: 'a.{'}",
        "json: {columns: {at: timestamp}, signals: auto}",
        "json: {columns: {at: timestamp}, signals: a}",
        "json: {columns: {at: timestamp}, signals: 'Ax_J{n}.{what}'}",
    ),
    (
        "decode/avro",
        "give either registry, or writer_schema for records without a number in front",
        "avro: {columns: {a: int}}",
        "avro: {columns: {a: int}, registry: {url: 'http://h:8081'}}",
        "avro: {columns: {a: int}, writer_schema: {type: record, name: r, fields: [{name: a, type: int}]}}",
    ),
    (
        "decode/protobuf",
        "remove descriptor and message",
        "protobuf: {columns: {a: int}, registry: {url: 'http://h:8081'}, message: a.B}",
        "protobuf: {columns: {a: int}, registry: {url: 'http://h:8081'}}",
    ),
)

METADATA = remedies(
    part("decoder"),
    (
        "decode/_metadata",
        "use letters, digits and _",
        "json: {columns: {a: int}, metadata: {a b: key}}",
        "json: {columns: {a: int}, metadata: {a_b1: key}}",
    ),
    (
        "decode/_metadata",
        "say key, sent, or attributes. and a name",
        "json: {columns: {a: int}, metadata: {k: topic}}",
        *(f"json: {{columns: {{a: int}}, metadata: {{k: {one}}}}}" for one in ("key", "sent", "attributes.line")),
    ),
    (
        "decode/protobuf",
        "give either registry, or descriptor and message for records without a number in front",
        "protobuf: {columns: {a: int}}",
        "protobuf: {columns: {a: int}, registry: {url: 'http://h:8081'}}",
        "protobuf: {columns: {a: int}, descriptor: d, message: a.B}",
    ),
)

FILES = yaml(BASE)
OTHER = {"source": {"files": "b.ndjson"}, "decode": FILES["decode"], "key": "machine", "time": "at"}
OTHER_COLUMNS = {**OTHER, "decode": {"json": {"columns": {"machine": "text", "at": "timestamp", "heat": "float"}}}}
ONE = {name: FILES[name] for name in ("source", "decode", "key", "time")}
SIGNALS = {"watch": {}, "decode": {"json": {"columns": {"machine": "text", "at": "timestamp"}, "signals": "auto"}}}
ALONE: dict[str, Any] = dict.fromkeys(("source", "decode", "key", "time"))
STREAM = {"s": {"sinks": [{"delta": "t"}]}}
MOTOR = {"source": {"simulate": {"machines": {"m": "motor"}}}, "key": None, "time": None}
PIPELINES = remedies(
    plan,
    (
        "pipeline/compile",
        "add decode, such as decode: json",
        {"decode": None},
        {"decode": {"json": {"columns": {"machine": "text", "at": "timestamp"}}}},
    ),
    ("pipeline/compile", "remove decode", MOTOR, {**MOTOR, "decode": None}),
    ("pipeline/compile", "rename one", {"streams": {"source": STREAM["s"]}}, {"streams": {"other": STREAM["s"]}}),
    (
        "pipeline/compile",
        "say which, one or more of {}",
        {**ALONE, "sources": {"a": ONE, "b": OTHER}},
        *(
            {**ALONE, "sources": {"a": ONE, "b": OTHER}, "streams": {"s": {"from": names, **STREAM["s"]}}}
            for names in (["a"], ["a", "b"])
        ),
    ),
    (
        "pipeline/compile",
        "select and cast the columns that they share",
        {**ALONE, "sources": {"a": ONE, "b": OTHER_COLUMNS}, "streams": {"s": {"from": ["a", "b"], **STREAM["s"]}}},
        {
            **ALONE,
            "sources": {"a": ONE, "b": OTHER_COLUMNS},
            "streams": {
                "a1": {"from": ["a"], "steps": [{"select": ["key", "time"]}]},
                "b1": {"from": ["b"], "steps": [{"select": ["key", "time"]}]},
                "s": {"from": ["a1", "b1"], **STREAM["s"]},
            },
        },
    ),
    (
        "pipeline/compile",
        "call this one otherwise",
        {"assets": {"machines": {"plant": {"hall": {"m1": None}}}}, "streams": {"s": {"sinks": [{"delta": "assets"}]}}},
        {"streams": {"s": {"sinks": [{"delta": "ours"}]}}},
    ),
    (
        "pipeline/model",
        "write minute, hour, day, month and weekday, as 30 2 * * *",
        {"jobs": {"n": {"cron": "nightly", "do": "load"}}},
        {"jobs": {"n": {"cron": "30 2 * * *", "do": "load"}}},
    ),
    (
        "pipeline/model",
        "write it as Europe/Berlin",
        {"jobs": {"n": {"cron": "30 2 * * *", "do": "load", "zone": "Mars/Base"}}},
        {"jobs": {"n": {"cron": "30 2 * * *", "do": "load", "zone": "Europe/Berlin"}}},
    ),
    (
        "pipeline/model",
        "write https://...",
        *(
            {
                "page": {
                    "url": "https://page.example",
                    "oidc": {"issuer": f"{scheme}://login.example", "client_id": "c", "roles": {"a": "viewer"}},
                }
            }
            for scheme in ("http", "https")
        ),
    ),
    (
        "pipeline/model",
        "write either source (one) or sources (several, by name)",
        {"sources": {"a": ONE}},
        {},
        {**ALONE, "sources": {"a": ONE}},
    ),
    (
        "pipeline/watch",
        "call your own otherwise",
        {**SIGNALS, "streams": {"alarms": STREAM["s"]}},
        {**SIGNALS, "streams": {"mine": STREAM["s"]}},
    ),
    (
        "pipeline/yamlfile",
        "set it, or write ${{}:-default}",
        {"folder": "${TOCSIN_NOWHERE}"},
        {"folder": "${TOCSIN_NOWHERE:-lake}"},
        {"folder": "${TOCSIN_SOMEWHERE}"},
    ),
    (
        "contracts",
        "take keys_apart out of time:, and let lateness be as long as machines may be apart",
        {
            "time": {"column": "at", "keys_apart": "1h"},
            "streams": {"s": {"steps": [{"downtime": {"state": "other"}}], **STREAM["s"]}},
        },
        {
            "time": {"column": "at", "lateness": "1h"},
            "streams": {"s": {"steps": [{"downtime": {"state": "other"}}], **STREAM["s"]}},
        },
    ),
)


@followed(DECODERS + METADATA + PIPELINES)
def test_what_a_pipeline_advises(remedy: Remedy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_SOMEWHERE", "lake")
    remedy.follow()


PERIODS = remedies(
    lambda settings: Period.model_validate({"name": "early", "begins": "06:00", "ends": "14:00", **settings}),
    ("domain/calendars", "write mon-fri or sat,sun", {"days": "sunny"}, {"days": "mon-fri"}, {"days": "sat,sun"}),
    (
        "domain/calendars",
        "write it like Europe/Berlin",
        {"days": "mon-fri", "zone": "Mars/Base"},
        {"days": "mon-fri", "zone": "Europe/Berlin"},
    ),
)


def spread(changes: str) -> None:
    """Asks whether keys of such a pipeline may be spread over workers, which is told without a cluster."""
    tree = {**FILES, **yaml(changes)}
    if said := refusals(Pipeline.model_validate({k: v for k, v in tree.items() if v is not None}).plan()):
        raise ValueError("; ".join(said))


KAFKA = "source: {kafka: {brokers: 'b:9092', topics: a}}"
SPREAD = remedies(
    spread,
    ("engine/keyed", "let it pass through Kafka", "source: {mqtt: {url: 'mqtt://h', topic: a}}", KAFKA),
    (
        "engine/keyed",
        "write to delta there",
        f"{{{KAFKA}, streams: {{s: {{sinks: [files: t]}}}}}}",
        f"{{{KAFKA}, streams: {{s: {{sinks: [delta: t]}}}}}}",
    ),
    (
        "engine/keyed",
        "let key: of the source begin with what they have in common (hall{}press), or run it embedded",
        f"{{{KAFKA}, streams: {{s: {{steps: [{{rekey: '{{site}}/{{key}}'}}], sinks: [delta: t]}}}}}}",
        f"{{{KAFKA}, key: '{{site}}/{{machine}}', streams: {{s: {{sinks: [delta: t]}}}}}}",
    ),
)


@followed(PERIODS + SPREAD)
def test_what_calendars_and_spreading_advise(remedy: Remedy) -> None:
    remedy.follow()
