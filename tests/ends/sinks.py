"""Each sink of the project with a look at its table from outside, for the kit of sinks."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError
from hdfs_server import Hdfs
from kafka_server import Kafka as KafkaServer
from kinesis_server import REGION
from kinesis_server import Kinesis as KinesisServer
from postgres_server import TRUSTED
from postgres_server import Postgres as Server
from redshift_server import ROLE
from redshift_server import Redshift as RedshiftServer
from servers import InfluxDb, ObjectStore

from tocsin.contracts import Sink
from tocsin.output._template import Template, TemplateWriter
from tocsin.output.delta import Delta
from tocsin.output.files import Files
from tocsin.output.influxdb import Influxdb
from tocsin.output.kafka import Kafka
from tocsin.output.kinesis import Kinesis
from tocsin.output.postgres import Postgres
from tocsin.output.redshift import Redshift
from tocsin.world import World

Row = Mapping[str, Any]


class DeltaHarness:
    """A Delta table, its log read by hand."""

    simulated = True

    def sink(self) -> Delta:
        return Delta(path="t")

    def leaving(self) -> Delta:
        return Delta(path="../t")

    def visible(self, world: World) -> Sequence[Row]:
        folder = world.folder / "t"
        live: dict[str, None] = {}
        for name in world.disk.names(folder / "_delta_log"):
            if not name.endswith(".json"):
                continue
            for line in world.disk.read(folder / "_delta_log" / name).splitlines():
                action = json.loads(line)
                if "add" in action:
                    live[action["add"]["path"]] = None
                if "remove" in action:
                    live.pop(action["remove"]["path"], None)
        files = [pq.ParquetFile(pa.BufferReader(world.disk.read(folder / path))).read() for path in live]
        return [row for table in files for row in table.to_pylist()]


class FilesHarness:
    """A folder of files."""

    simulated = True

    def __init__(self, format: str, compress: str = "none") -> None:
        self._settings = {"format": format, "compress": compress}

    def sink(self) -> Files:
        return Files.model_validate({"path": "t", **self._settings})

    def leaving(self) -> Files:
        return Files.model_validate({"path": "../t", **self._settings})

    def visible(self, world: World) -> Sequence[Row]:
        folder = world.folder / "t"
        parts = [name for name in world.disk.names(folder) if name.startswith("part-")]
        return [row for name in parts for row in rows_of(name, world.disk.read(folder / name))]


def rows_of(name: str, data: bytes) -> Sequence[Row]:
    """The rows of a file."""
    if name.endswith(".gz"):
        return rows_of(name.removesuffix(".gz"), gzip.decompress(data))
    if name.endswith(".parquet"):
        return list(pq.ParquetFile(pa.BufferReader(data)).read().to_pylist())
    if name.endswith(".ndjson"):
        return [json.loads(line) for line in data.splitlines()]
    lines = [line.split(",") for line in data.decode().splitlines()]
    names = [cell.strip('"') for cell in lines[0]] if lines else []
    return [dict(zip(names, cells, strict=False)) for cells in lines[1:]]


class LedgerHarness:
    """The template, whose table is a database; or a writer that is broken on purpose."""

    simulated = False

    def __init__(self, writer: type[TemplateWriter] = TemplateWriter) -> None:
        self._writer = writer

    def sink(self) -> Sink:
        return _Written(path="t.db", writer=self._writer.__name__)

    def leaving(self) -> Sink:
        return Template(path="../t.db")

    def visible(self, world: World) -> Sequence[Row]:
        with closing(sqlite3.connect(world.folder / "t.db")) as db:
            db.execute("create table if not exists rows (row text)")
            return [json.loads(row) for (row,) in db.execute("select row from rows")]


class InfluxHarness:
    """A measurement of a real InfluxDB."""

    simulated = False

    def __init__(self, server: InfluxDb) -> None:
        self._server = server
        self._measurement = f"kit {next(_NUMBERS)}"

    def sink(self) -> Influxdb:
        settings = {"url": self._server.url, "database": "plant", "user": "tocsin", "password": self._server.PASSWORD}
        return Influxdb.model_validate({"measurement": self._measurement, **settings})

    def leaving(self) -> None:
        return None

    def visible(self, world: World) -> Sequence[Row]:
        return self._server.ask(f'SELECT * FROM "{self._measurement}"')


class RemoteDeltaHarness:
    """A Delta table in an object store, read by delta-rs."""

    simulated = False

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._table = f"s3://plant/kit{next(_NUMBERS)}"

    def sink(self) -> Delta:
        return Delta.model_validate({"path": self._table, "storage": self._store.options})

    def leaving(self) -> None:
        return None

    def visible(self, world: World) -> Sequence[Row]:
        try:
            table = DeltaTable(self._table, storage_options=self._store.options)
        except TableNotFoundError:
            return []
        return list(table.to_pyarrow_table().to_pylist())


class RemoteFilesHarness:
    """Files in an object store, or in HDFS, read by another library."""

    simulated = False

    def __init__(self, place: ObjectStore | Hdfs, format: str, compress: str = "none") -> None:
        self._place, self._settings = place, {"format": format, "compress": compress}
        self._folder = f"files{next(_NUMBERS)}"

    def sink(self) -> Files:
        address = f"{'s3://plant' if isinstance(self._place, ObjectStore) else self._place.url}/{self._folder}"
        return Files.model_validate({"path": address, "storage": self._place.options, **self._settings})

    def leaving(self) -> None:
        return None

    def visible(self, world: World) -> Sequence[Row]:
        files = {name: data for name, data in self._place.objects(self._folder).items() if not name.startswith("_")}
        return [row for name, data in files.items() for row in rows_of(name, data)]


class KafkaHarness:
    """A topic, read as a reader of committed records sees it."""

    simulated = False

    def __init__(self, server: KafkaServer) -> None:
        self._server, self._topic = server, server.topic(2)

    def sink(self) -> Kafka:
        return Kafka(brokers=self._server.address, topic=self._topic)

    def leaving(self) -> None:
        return None

    def visible(self, world: World) -> Sequence[Row]:
        return [json.loads(record.value()) for record in self._server.records(self._topic)]


class KinesisHarness:
    """A stream of two shards."""

    simulated = False

    def __init__(self, server: KinesisServer) -> None:
        self._server, self._stream = server, server.stream(2)

    def sink(self) -> Kinesis:
        return Kinesis(stream=self._stream, region=REGION, endpoint=self._server.url)

    def leaving(self) -> None:
        return None

    def visible(self, world: World) -> Sequence[Row]:
        return [json.loads(record["Data"]) for record in self._server.records(self._stream)]


_NUMBERS = count()


class _Written(Template):
    """The template with another writer."""

    writer: str = "TemplateWriter"
    """The class that writes."""

    def open(self, world: World, schema: pa.Schema) -> TemplateWriter:
        writers = {cls.__name__: cls for cls in (TemplateWriter, *TemplateWriter.__subclasses__())}
        return writers[self.writer](self, world, schema)


class PostgresHarness:
    """A table of a real server, its rows read by the server as JSON."""

    simulated = False

    def __init__(self, server: Server) -> None:
        self._server, self._schema = server, server.schema()

    def sink(self) -> Postgres:
        return Postgres(url=self._server.url, user=TRUSTED, table=f"{self._schema}.t")

    def leaving(self) -> None:
        return None

    def visible(self, world: World) -> Sequence[Row]:
        if self._server.execute("select to_regclass(%s) is null", f"{self._schema}.t")[0][0]:
            return []
        return [row for (row,) in self._server.execute(f"select to_jsonb(t) from {self._schema}.t t")]


class RedshiftHarness:
    """A table of the stand-in for Redshift, its rows read past it."""

    simulated = False

    def __init__(self, redshift: RedshiftServer) -> None:
        self._redshift, self._schema = redshift, redshift.server.schema()

    def sink(self) -> Redshift:
        return Redshift.model_validate({
            "url": self._redshift.url, "user": TRUSTED, "table": f"{self._schema}.t", "role": ROLE,
            "staging": f"s3://plant/{self._schema}", "storage": self._redshift.store.options,
        })  # fmt: skip

    def leaving(self) -> None:
        return None

    def visible(self, world: World) -> Sequence[Row]:
        server = self._redshift.server
        if server.execute("select to_regclass(%s) is null", f"{self._schema}.t")[0][0]:
            return []
        return [row for (row,) in server.execute(f"select to_jsonb(t) from {self._schema}.t t")]


SINKS = {
    "delta": DeltaHarness,
    "files-ndjson": lambda: FilesHarness("ndjson"),
    "files-csv": lambda: FilesHarness("csv"),
    "files-parquet": lambda: FilesHarness("parquet"),
    "template": LedgerHarness,
}
"""By name; what stands before the dash is the part's."""
ELSEWHERE = ("influxdb", "kafka", "kinesis", "postgres", "redshift")
"""Sinks on a server, which a fixture starts."""
