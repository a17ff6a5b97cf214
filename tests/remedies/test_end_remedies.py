"""What the messages of sources and sinks advise is done here, and the pipeline is right then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from advice import Remedy, followed, part, remedies

from tocsin.batch import TIME_TYPE
from tocsin.errors import SourceError
from tocsin.lake.schema import delta_type
from tocsin.objects.store import open_store
from tocsin.postgres.types import sql_type
from tocsin.redshift.types import sql_type as redshift_type

SOURCES = remedies(
    part("source"),
    (
        "acquire/_registers",
        "leave out type and bit",
        "modbus: {host: h, units: {p: 1}, registers: {on: {table: coil, address: 1, type: uint16}}}",
        "modbus: {host: h, units: {p: 1}, registers: {on: {table: coil, address: 1}}}",
    ),
    (
        "acquire/modbus",
        "name at least one machine with its unit, 0 to 255, as {press-1: 1}",
        "modbus: {host: h, units: {}, registers: {a: {address: 1}}}",
        "modbus: {host: h, units: {press-1: 1}, registers: {a: {address: 1}}}",
    ),
    (
        "acquire/modbus",
        "name at least one register, and none of them key or time",
        "modbus: {host: h, units: {p: 1}, registers: {key: {address: 1}}}",
        "modbus: {host: h, units: {p: 1}, registers: {a: {address: 1}}}",
    ),
    (
        "acquire/opcua",
        "write opc.tcp://host:4840; user and password are settings of their own",
        "opcua: {url: 'opc.tcp://me:secret@host:4840', nodes: {p: {a: ns=2;i=1}}}",
        "opcua: {url: 'opc.tcp://host:4840', user: me, password: secret, nodes: {p: {a: ns=2;i=1}}}",
    ),
    (
        "acquire/opcua",
        "name at least one machine, and at least one signal of each, with its node",
        "opcua: {url: 'opc.tcp://host:4840', nodes: {p: {}}}",
        "opcua: {url: 'opc.tcp://host:4840', nodes: {p: {a: ns=2;i=1}}}",
    ),
    (
        "acquire/simulate",
        "make '{}' a motor, or leave it out of machines",
        "simulate: {machines: {a: motor, b: pump}, waveforms: {}}",
        "simulate: {machines: {a: motor, b: motor}, waveforms: {}}",
        "simulate: {machines: {a: motor}, waveforms: {}}",
    ),
)

UNDECODED = remedies(
    part("source"),
    (
        "acquire/kafka",
        "use letters, digits, '.', '_' and '-'",
        "kafka: {brokers: 'b:9092', topics: a/b}",
        "kafka: {brokers: 'b:9092', topics: a.b_c-1}",
    ),
    (
        "acquire/files",
        "fetch the objects first",
        "files: {path: 's3://bucket/*.csv', replay: 1, time_column: at}",
        "files: {path: '*.csv', replay: 1, time_column: at}",
    ),
    (
        "acquire/mongodb",
        "write it as modified: changed",
        "mongodb: {url: 'mongodb://h/d', collections: a, modified: $x}",
        "mongodb: {url: 'mongodb://h/d', collections: a, modified: changed}",
    ),
    (
        "acquire/postgres",
        "set either table or query: what to read",
        "postgres: {url: 'postgresql://h/d', cursor: id}",
        "postgres: {url: 'postgresql://h/d', cursor: id, table: t}",
        "postgres: {url: 'postgresql://h/d', cursor: id, query: select * from t}",
    ),
    (
        "kafka/settings",
        "set both, or neither",
        "kafka: {brokers: 'b:9092', topics: a, user: me}",
        "kafka: {brokers: 'b:9092', topics: a, user: me, password: secret}",
        "kafka: {brokers: 'b:9092', topics: a}",
    ),
    (
        "kafka/settings",
        "set tls, or use SCRAM-SHA-512",
        "kafka: {brokers: 'b:9092', topics: a, user: me, password: secret, mechanism: PLAIN}",
        "kafka: {brokers: 'b:9092', topics: a, user: me, password: secret, mechanism: PLAIN, tls: {}}",
        "kafka: {brokers: 'b:9092', topics: a, user: me, password: secret, mechanism: SCRAM-SHA-512}",
    ),
    (
        "kafka/settings",
        "write host:9092",
        "kafka: {brokers: 'kafka://b', topics: a}",
        "kafka: {brokers: 'host:9092', topics: a}",
    ),
    (
        "kinesis/settings",
        "use letters, digits, '.', '_' and '-'",
        "kinesis: {stream: a/b, region: eu-central-1}",
        "kinesis: {stream: a.b_c-1, region: eu-central-1}",
    ),
    (
        "mongodb/settings",
        "give them as the settings user and password",
        "mongodb: {url: 'mongodb://me:secret@h/d', collections: a}",
        "mongodb: {url: 'mongodb://h/d', user: me, password: secret, collections: a}",
    ),
    (
        "mqtt/client",
        "give them as the settings user and password",
        "mqtt: {url: 'mqtt://me:secret@h', topic: a/#}",
        "mqtt: {url: 'mqtt://h', user: me, password: secret, topic: a/#}",
    ),
    (
        "postgres/settings",
        "give them as the settings user and password",
        "postgres: {url: 'postgresql://me:secret@h/d', cursor: id, table: t}",
        "postgres: {url: 'postgresql://h/d', user: me, password: secret, cursor: id, table: t}",
    ),
    (
        "settings/addresses",
        "give them as the settings user and password",
        "influxdb: {url: 'http://me:secret@h', database: d, measurement: m}",
        "influxdb: {url: 'http://h', user: me, password: secret, database: d, measurement: m}",
    ),
)

SINKS = remedies(
    part("sink"),
    (
        "output/influxdb",
        "name either a database (InfluxDB 1) or a bucket (InfluxDB 2 and 3)",
        "influxdb: {url: 'http://h', measurement: m}",
        "influxdb: {url: 'http://h', measurement: m, database: d}",
        "influxdb: {url: 'http://h', measurement: m, bucket: b, org: o}",
    ),
    (
        "output/kinesis",
        "leave it out with select, or set row_id to another name",
        "kinesis: {stream: s, region: eu-central-1, row_id: value}",
        "kinesis: {stream: s, region: eu-central-1, row_id: id}",
        "kinesis: {stream: s, region: eu-central-1, row_id: value, columns: [key, time]}",
    ),
    (
        "output/redshift",
        "write s3://bucket/folder",
        "redshift: {url: 'postgresql://h/d', table: t, role: default, staging: here}",
        "redshift: {url: 'postgresql://h/d', table: t, role: default, staging: 's3://bucket/folder'}",
    ),
    (
        "output/redshift",
        "write arn:aws:iam::123456789012:role/NAME, or default",
        "redshift: {url: 'postgresql://h/d', table: t, role: me, staging: 's3://bucket/folder'}",
        "redshift: {url: 'postgresql://h/d', table: t, role: 'arn:aws:iam::123456789012:role/NAME', staging: 's3://bucket/folder'}",
        "redshift: {url: 'postgresql://h/d', table: t, role: default, staging: 's3://bucket/folder'}",
    ),
    (
        "output/kafka",
        "write it as plant.{key}.state",
        "kafka: {brokers: 'b:9092', topic: plant/state}",
        "kafka: {brokers: 'b:9092', topic: 'plant.{key}.state'}",
    ),
    (
        "output/mqtt",
        "write it as plant/{key}/state",
        "mqtt: {url: 'mqtt://h', topic: plant/#}",
        "mqtt: {url: 'mqtt://h', topic: 'plant/{key}/state'}",
    ),
    (
        "postgres/writing",
        "rename it: 1 to {} bytes, and none of the names that the server has for itself",
        "postgres: {url: 'postgresql://h/d', table: " + "t" * 64 + "}",
        "postgres: {url: 'postgresql://h/d', table: t}",
    ),
)

CHECKED = [
    *remedies(
        part("source", checked=True),
        (
            "acquire/http",
            "set a token, as token: ${env:TOCSIN_HTTP_TOKEN}",
            "http: {host: 0.0.0.0, port: 8080}",
            "http: {host: 0.0.0.0, port: 8080, token: '${env:TOCSIN_HTTP_TOKEN}'}",
        ),
        (
            "kinesis/settings",
            "set region, as eu-central-1, or AWS_DEFAULT_REGION",
            "kinesis: {stream: a}",
            "kinesis: {stream: a, region: eu-central-1}",
        ),
        (
            "mongodb/settings",
            "set both user and password, or neither",
            "mongodb: {url: 'mongodb://h/d', user: me, collections: a}",
            "mongodb: {url: 'mongodb://h/d', user: me, password: secret, collections: a}",
            "mongodb: {url: 'mongodb://h/d', collections: a}",
        ),
        (
            "mongodb/settings",
            "write certificate and key into one file, and name it as tls.cert",
            "mongodb: {url: 'mongodb://h/d', collections: a, tls: {cert: me.pem, key: me.key}}",
            "mongodb: {url: 'mongodb://h/d', collections: a, tls: {cert: CERTIFICATES/both.pem}}",
        ),
    ),
    *remedies(
        part("sink", checked=True),
        (
            "output/notify",
            "write it as https://, or set allow_private",
            "notify: {to: 'json://h/a'}",
            "notify: {to: 'https://h/a'}",
            "notify: {to: 'json://h/a', allow_private: true}",
        ),
        (
            "output/notify",
            "write console, https:// and the address of a webhook, or a whole URL of Apprise (mailto://, slack:// ...)",
            "notify: {to: somewhere}",
            "notify: {to: console}",
            "notify: {to: 'https://h/a'}",
            "notify: {to: 'mailto://me:secret@example.com'}",
        ),
    ),
    *remedies(
        part("sink", checked=True),
        ("world", "write it without '..', or absolute", "delta: ../t", "delta: t", "delta: /tmp/t"),
    ),
]

REDSHIFT = "redshift: {url: 'postgresql://h/d', table: t, role: default, staging: 's3://bucket/folder'}"
WIDE = pa.schema([("key", pa.string()), ("time", TIME_TYPE), ("value", pa.float64()), ("many", pa.list_(pa.float64()))])
LACKING = pa.schema([("key", pa.string()), ("value", pa.null())])
BY_COLUMNS = [
    *remedies(
        lambda schema: part("sink", schema=schema)("influxdb: {url: 'http://h', measurement: m, database: d}"),
        (
            "output/_lines",
            "cast it to text or a number, explode it, or leave it out with select",
            WIDE,
            WIDE.set(3, pa.field("many", pa.string())),  # cast
            WIDE.set(3, pa.field("many", pa.float64())),  # exploded
            WIDE.remove(3),  # left out
        ),
    ),
    *remedies(
        lambda schema: part("sink", schema=schema)("postgres: {url: 'postgresql://h/d', table: t, retention: 1d}"),
        ("postgres/writing", "keep it, or unset retention", LACKING, LACKING.append(pa.field("time", TIME_TYPE))),
    ),
    *remedies(
        lambda schema: part("sink", schema=schema)("postgres: {url: 'postgresql://h/d', table: t, upsert: value}"),
        ("postgres/writing", "cast it first", LACKING, LACKING.set(1, pa.field("value", pa.float64()))),
    ),
    *remedies(
        lambda names: part(
            "sink", schema=pa.schema([*LACKING, *((name, pa.float64()) for name in names), ("time", TIME_TYPE)])
        )(REDSHIFT),
        ("postgres/writing", "rename one of them", ("speed", "Speed"), ("speed", "pace")),
    ),
    *remedies(
        lambda address: open_store(address, {}, SourceError).close(),
        ("objects/webhdfs", "write hdfs://namenode:{}/folder", "hdfs:///folder", "hdfs://namenode:9870/folder"),
    ),
    *remedies(
        lambda kind: sql_type(kind, "value", "PostgreSQL"),
        ("postgres/types", "cast it first", pa.month_day_nano_interval(), pa.string()),
    ),
    *remedies(
        lambda kind: redshift_type(kind, "value"),
        ("redshift/types", "cast it first", pa.duration("us"), pa.int64()),
    ),
    *remedies(
        lambda kind: delta_type(kind, "value"),
        ("lake/schema", "cast it first", pa.month_day_nano_interval(), pa.int64()),
    ),
]


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise's matter
@followed(SOURCES + UNDECODED + SINKS + CHECKED + BY_COLUMNS)
def test_what_an_end_advises(
    remedy: Remedy, monkeypatch: pytest.MonkeyPatch, certificates: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOCSIN_HTTP_TOKEN", "0123456789abcdef0123456789abcdef")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    if any("CERTIFICATES" in one for one in remedy.right if isinstance(one, str)):
        both = tmp_path / "both.pem"
        both.write_bytes(b"".join((certificates / name).read_bytes() for name in ("tocsin.pem", "tocsin.key")))
        remedy = replace(remedy, right=tuple(one.replace("CERTIFICATES", str(tmp_path)) for one in remedy.right))
    remedy.follow()
